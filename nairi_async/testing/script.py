"""Scripts: what a simulated agent does with a prompt.

A script is a text, a sequence of steps (a plain string is a `Say`), or a callable that takes the prompt and the number
of the turn in its conversation, from 1, and returns one of them. Steps run in order, each `after` seconds after the
one before. A script without `Done` or `Fail` is done right after its last step; `Done(after=math.inf)` never ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from attrs import Attribute, field, frozen
from attrs.validators import ge, instance_of, lt, optional

USAGE_FIELDS = frozenset(
    {"cost_usd", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "model"}
)

_Usage: TypeAlias = Mapping[str, object] | None

HEARTBEATS = range(10, 3600, 10)
"""Seconds from the start of a tool to each of its heartbeats; the daemon ends a turn after an hour."""


def duration_field() -> float:
    """Declare a keyword-only duration in seconds, zero by default."""
    return field(default=0.0, kw_only=True, validator=ge(0))


def text_field() -> str:
    """Declare a text."""
    return field(validator=instance_of(str))


def _tuple(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(values)


def _only_usage(_instance: object, _attribute: Attribute[_Usage], value: _Usage) -> None:
    unknown = set(value or ()) - USAGE_FIELDS
    if unknown:
        msg = f"usage holds {sorted(unknown)}; known are {sorted(USAGE_FIELDS)}"
        raise ValueError(msg)


class ScriptStep:
    """Base of all steps of a script."""

    __slots__ = ()
    after: float
    """Seconds after the step before."""


@frozen
class Say(ScriptStep):
    """An `assistant` message.

    For `unfinished_for` seconds it is `pending`, under its final id, with a growing part of its text; with `finishes`
    off it stays so, even after the end of the turn.
    `usage` holds any of `cost_usd`, the four token counts and `model`.
    """

    text: str = text_field()
    """Its text."""
    after: float = duration_field()
    unfinished_for: float = field(default=0.0, kw_only=True, validator=[ge(0.0), lt(math.inf)])
    """Seconds for which it is `pending`."""
    finishes: bool = field(default=True, kw_only=True)
    """Whether it is complete after that."""
    attachment_ids: tuple[str, ...] = field(default=(), kw_only=True, converter=_tuple)
    """Ids of files attached to it, from `Simulator.attachment`."""
    usage: _Usage = field(default=None, kw_only=True, validator=_only_usage)
    """What it cost."""

    def __attrs_post_init__(self) -> None:
        if not (self.finishes or self.unfinished_for):
            msg = "a message that never finishes is unfinished for more than 0 seconds"
            raise ValueError(msg)


@frozen
class Notice(ScriptStep):
    """A `system` message, such as `Agent opened a pull request: …`."""

    text: str = text_field()
    """Its text."""
    after: float = duration_field()


@frozen
class Text(ScriptStep):
    """A `progress` message with a whole block of the agent's text."""

    text: str = text_field()
    """The text."""
    after: float = duration_field()

    @property
    def envelope(self) -> dict[str, object]:
        """The JSON that is the content of the message."""
        return {"progress_type": "text", "text_delta": self.text}


@frozen
class Thinking(ScriptStep):
    """A `progress` message with a block of the agent's reasoning."""

    text: str = text_field()
    """The reasoning."""
    after: float = duration_field()

    @property
    def envelope(self) -> dict[str, object]:
        """The JSON that is the content of the message."""
        return {"progress_type": "thinking", "text_delta": self.text}


@frozen
class Step(ScriptStep):
    """A `progress` message that sums up in one line what the agent does."""

    summary: str = text_field()
    """The line."""
    after: float = duration_field()

    @property
    def envelope(self) -> dict[str, object]:
        """The JSON that is the content of the message."""
        return {"progress_type": "step", "summary": self.summary}


@frozen
class Subagent(ScriptStep):
    """A `progress` message about a subagent that starts, proceeds or ends."""

    summary: str = text_field()
    """What it does, in one line."""
    after: float = duration_field()

    @property
    def envelope(self) -> dict[str, object]:
        """The JSON that is the content of the message."""
        return {"progress_type": "subagent", "summary": self.summary}


@frozen
class Tool(ScriptStep):
    """A tool that runs for `seconds`: two `progress` messages, `running` and then `status`, with one `tool_use_id`.

    A tool that takes more than ten seconds also sends a heartbeat every ten, unless `heartbeat` is off. Give a
    `tool_use_id` to use it as the `parent_tool_use_id` of other tools; otherwise one is generated.
    """

    name: str = text_field()
    """Its name, such as `Bash`."""
    input: str = field(default="", kw_only=True)
    """Summary of its input."""
    output: str = field(default="", kw_only=True)
    """Summary of its result."""
    seconds: float = duration_field()
    """How long it runs."""
    after: float = duration_field()
    status: str = field(default="completed", kw_only=True)
    """Its status at the end."""
    heartbeat: bool = field(default=True, kw_only=True)
    """Whether it sends a heartbeat every ten seconds."""
    tool_use_id: str | None = field(default=None, kw_only=True, validator=optional(instance_of(str)))
    """Its id; generated unless given."""
    parent_tool_use_id: str | None = field(default=None, kw_only=True, validator=optional(instance_of(str)))
    """The id of the tool call whose subagent made this one."""
    description: str | None = field(default=None, kw_only=True, validator=optional(instance_of(str)))
    """What the call is for, as the agent says: `tool_description`, which the service has for `Bash`."""


@frozen
class Progress(ScriptStep):
    """A `progress` message with exactly this content: an envelope, or a text that need not be JSON."""

    envelope: Mapping[str, object] | str
    """The content: JSON, or the text itself."""
    after: float = duration_field()


@frozen
class Done(ScriptStep):
    """The turn is `completed`. Steps after it still appear: late notices, or a reply after the status."""

    after: float = duration_field()


@frozen
class Fail(ScriptStep):
    """The turn is `failed`, with the `system` message `nairid encountered error: <text>`."""

    text: str = text_field()
    """Why it failed."""
    after: float = duration_field()


Steps: TypeAlias = str | Sequence[ScriptStep | str]
Script: TypeAlias = Steps | Callable[[str, int], Steps]


def steps_of(script: Script, prompt: str, turn_number: int) -> tuple[ScriptStep, ...]:
    """Return the steps of one turn, with its end.

    Raises:
        TypeError: something in the script is not a step.
        ValueError: the turn would end twice.
    """
    given = script(prompt, turn_number) if callable(script) else script
    listed = (given,) if isinstance(given, str) else given
    steps = tuple(Say(step) if isinstance(step, str) else step for step in listed)
    unknown = [step for step in steps if not isinstance(step, ScriptStep)]
    if unknown:
        msg = f"not steps of a script: {unknown!r}"
        raise TypeError(msg)
    ends = sum(isinstance(step, Done | Fail) for step in steps)
    if ends > 1:
        msg = "a turn ends once: give at most one Done or Fail"
        raise ValueError(msg)
    return steps if ends else (*steps, Done())


def default_script(prompt: str, _turn_number: int) -> Steps:
    """Report some progress, and reply with a quotation of the prompt after half a second."""
    return (
        Step("Reading the request", after=0.1),
        Tool("Bash", input="ls", output="README.md", seconds=0.1, after=0.1),
        Text("Here is what I found.", after=0.1),
        Say(f'You asked: "{prompt}"', after=0.1),
    )
