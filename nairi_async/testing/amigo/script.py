"""Scripts of a simulated Amigo service: the steps of one turn, in order."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from attrs import field, frozen
from attrs.validators import ge, gt, instance_of, optional

from nairi_async.testing.script import ScriptStep, duration_field, text_field


@frozen
class Speak(ScriptStep):
    """Text of the agent, as `new-message` events: one for each word, or `pieces` of about equal length.

    All `Speak` steps of a turn form one message; `apart` starts another message, with its own id.
    """

    text: str = text_field()
    """The text."""
    after: float = duration_field()
    pieces: int | None = field(default=None, kw_only=True, validator=optional([instance_of(int), gt(0)]))
    """Number of events; one for each word unless given."""
    every: float = duration_field()
    """Seconds between two pieces."""
    apart: bool = field(default=False, kw_only=True)
    """Whether it starts another message of the turn."""

    def split(self) -> list[str]:
        """Split the text into pieces; one is empty only if the text is."""
        if self.pieces is None:
            return re.findall(r"\S+\s*|\s+", self.text) or [""]
        size = max(1, -(-len(self.text) // self.pieces))
        return [self.text[at : at + size] for at in range(0, len(self.text), size)] or [""]


@frozen
class Think(ScriptStep):
    """An inner thought: not an event, but a message of the list, and a reflection of the turn."""

    text: str = text_field()
    """The thought."""
    after: float = duration_field()


@frozen
class Action(ScriptStep):
    """A `current-agent-action` event, with the type of the action and its other fields."""

    type: str = text_field()
    """The action's type, known or not."""
    fields: Mapping[str, object] = field(factory=dict)
    """The rest of the action's object."""
    after: float = duration_field()


@frozen
class Line(ScriptStep):
    """A line of the stream with exactly this content: an event, or any text or bytes."""

    content: Mapping[str, object] | str | bytes
    """The event or the content of the line; a newline is added."""
    after: float = duration_field()


@frozen
class Complete(ScriptStep):
    """The turn is saved, and `interaction-complete` is sent; without this step it completes after its last step."""

    ends: bool = field(default=False, kw_only=True)
    """Whether the conversation ends itself: `conversation_completed` is true."""
    text: str | None = field(default=None, kw_only=True, validator=optional(instance_of(str)))
    """The full message that the event carries; all that was spoken unless given."""
    after: float = duration_field()


@frozen
class Error(ScriptStep):
    """An `error` event that ends the stream: before `Complete` the turn is void, after it only unprocessed."""

    code: int = field(default=500, validator=[instance_of(int), ge(0)])
    """Its `http_error_code`."""
    description: str = field(default="The interaction failed", validator=instance_of(str))
    """Its `error_description`."""
    after: float = duration_field()


@frozen
class Cut(ScriptStep):
    """The connection breaks, while the turn continues; with `clean` the body ends as if it were complete."""

    clean: bool = field(default=False, kw_only=True)
    """Whether the body ends properly."""
    after: float = duration_field()


@frozen
class Hang(ScriptStep):
    """The stream falls silent, and the connection stays open. The turn is void once the client disconnects.

    With one `VirtualClock` on both sides the client disconnects after its `idle_timeout` in virtual time.
    """

    after: float = duration_field()


Steps: TypeAlias = str | Sequence[ScriptStep | str]
Script: TypeAlias = Steps | Callable[[str, int], Steps]

_KINDS = (Speak, Think, Action, Line, Complete, Error, Cut, Hang)


def steps_of(script: Script, message: str, turn_number: int) -> tuple[ScriptStep, ...]:
    """Return the steps of one turn, with its completion.

    Raises:
        TypeError: something in the script is not a step.
        ValueError: no turn can have the steps in this order.
    """
    given = script(message, turn_number) if callable(script) else script
    listed = (given,) if isinstance(given, str) else given
    steps = tuple(Speak(step) if isinstance(step, str) else step for step in listed)
    unknown = [step for step in steps if not isinstance(step, _KINDS)]
    if unknown:
        msg = f"not steps of a script for Amigo: {unknown!r}"
        raise TypeError(msg)
    kinds = [type(step) for step in steps]
    if any(kinds.count(once) > 1 for once in (Complete, Error, Cut, Hang)):
        msg = "a turn completes, fails, is cut and hangs at most once"
        raise ValueError(msg)
    if any(last in kinds[:-1] for last in (Error, Hang)):
        msg = "nothing comes after an Error or a Hang"
        raise ValueError(msg)
    if {Speak, Think, Action} & set(kinds[kinds.index(Complete) :] if Complete in kinds else ()):
        msg = "after Complete come only a Line, a Cut, an Error or a Hang"
        raise ValueError(msg)
    return steps if {Complete, Error, Hang} & set(kinds) else (*steps, Complete())


def default_script(message: str, _turn_number: int) -> Steps:
    """Greet a user who says nothing; otherwise reply with a quotation of the message, within half a second."""
    if not message:
        return (Speak("Hello! How can I help?", after=0.1, every=0.1),)
    decision = Action("navigate-state-machine-decision-state-decision-started", after=0.1)
    return (decision, Speak(f'You said: "{message}"', after=0.1, pieces=4, every=0.1))
