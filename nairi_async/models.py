"""Nairi's conversations as frozen values.

Field names are the service's own (https://nairi.ai/docs/api). Unknown fields of a response are ignored, an unknown
status or role keeps its raw string, and an absent optional field is `None`. Times are aware.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeVar

from attrs import field, frozen

if TYPE_CHECKING:
    from collections.abc import Iterable

TERMINAL_STATUSES: Final = frozenset({"completed", "failed"})
"""The message statuses that are final: https://nairi.ai/docs/api/conversations/overview."""

_Number = TypeVar("_Number", int, Decimal)


@frozen
class Turn:
    """One user message and the work of the agent on it."""

    job_id: str
    """The conversation; the service calls it a job."""
    message_id: str
    """The user message that began the turn; its status is the turn's."""
    agent_id: str | None = field(default=None, eq=False, kw_only=True)
    """The agent of the turn, if the call that made it knew; not part of its identity."""


@frozen(kw_only=True)
class Usage:
    """What a turn cost, as far as the agent reports it."""

    cost_usd: Decimal | None = None
    """US dollars, exactly as the service wrote them."""
    input_tokens: int | None = None
    """Tokens read."""
    output_tokens: int | None = None
    """Tokens written."""
    cache_read_tokens: int | None = None
    """Tokens read from the prompt cache."""
    cache_write_tokens: int | None = None
    """Tokens written to the prompt cache."""
    model: str | None = None
    """Model identifier, such as `claude-opus-4-7`; `None` in a sum over different models."""

    @classmethod
    def total(cls, usages: Iterable[Usage | None]) -> Usage | None:
        """Return the exact sum. A figure that no turn reports stays `None`, and so does the sum of nothing."""
        reported = [usage for usage in usages if usage is not None]
        if not reported:
            return None
        models = {usage.model for usage in reported}
        return cls(
            cost_usd=_sum(usage.cost_usd for usage in reported),
            input_tokens=_sum(usage.input_tokens for usage in reported),
            output_tokens=_sum(usage.output_tokens for usage in reported),
            cache_read_tokens=_sum(usage.cache_read_tokens for usage in reported),
            cache_write_tokens=_sum(usage.cache_write_tokens for usage in reported),
            model=models.pop() if len(models) == 1 else None,
        )


def _sum(figures: Iterable[_Number | None]) -> _Number | None:
    total: _Number | None = None
    for figure in figures:
        if figure is not None:
            total = figure if total is None else total + figure
    return total


@frozen(kw_only=True)
class Progress:
    """What the agent is doing: the envelope in the content of a progress message.

    The service documents `progress_type` and `text_delta`. The other fields are those that its daemon sends, and any of
    them may be missing. The set of types is open.
    """

    progress_type: str
    """`text`, `tool_use`, `tool_heartbeat`, `step`, `subagent`, `thinking`, or an unknown word."""
    text_delta: str | None = None
    """A whole block of text, not a token; the final reply repeats it."""
    summary: str | None = None
    """One line for people."""
    tool_name: str | None = None
    """Name of the tool."""
    tool_input: str | None = None
    """Short form of the tool's input: a path, a command, a pattern."""
    tool_output: str | None = None
    """The tool's result as text."""
    tool_description: str | None = None
    """The purpose of the tool call, as the agent states it."""
    tool_status: str | None = None
    """`running`, `completed`, `error`, or a word of another kind of agent."""
    tool_use_id: str | None = None
    """Connects the start of a tool call with its end."""
    parent_tool_use_id: str | None = None
    """The tool call that started the subagent of this event."""
    raw: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)
    """The envelope as received, including unknown keys; empty if the content was not a JSON object."""


@frozen(kw_only=True)
class Message:
    """One entry of a conversation.

    If the service omits a field or sends something unexpected, the message is still delivered with the rest: such text
    fields are empty, times are `None`.
    """

    id: str
    """Identity of the message."""
    job_id: str
    """The conversation that it belongs to."""
    role: str
    """`user`, `assistant`, `system`, `progress`, or an unknown word."""
    status: str
    """`queued`, `pending`, `completed`, `failed`, or an unknown word, which is never terminal."""
    content: str
    """The text; of a `progress` message the JSON envelope, which the field `progress` holds typed."""
    created_at: datetime | None = None
    """When it was created, by the service's clock."""
    updated_at: datetime | None = None
    """When it last changed, by the service's clock."""
    attachment_ids: tuple[str, ...] = ()
    """Files that were sent with a prompt, or made by the agent."""
    usage: Usage | None = None
    """Cost and tokens of the turn, on the `assistant` messages of agents that report them."""
    progress: Progress | None = None
    """The typed envelope of a `progress` message."""

    @property
    def is_terminal(self) -> bool:
        """Whether its status is final; of a user message: whether its turn has ended."""
        return self.status in TERMINAL_STATUSES


@frozen(kw_only=True)
class ConversationSummary:
    """One row of an agent's list of conversations."""

    id: str
    """The job id."""
    status: str
    """`active`, `completed`, `error`, `abandoned`, or an unknown word. Not the status of a turn."""
    updated_at: datetime | None = None
    """When the job last changed; the service does not document which changes count."""


@frozen(kw_only=True)
class Agent:
    """An agent of the organisation."""

    id: str
    """Its permanent id, `cci_…`."""
    name: str
    """Display name."""
    agent_id: str
    """Its slug. Every call takes either this or `id`."""
    instances_count: int | None = None
    """Number of containers."""
    description: str | None = None
    """Its purpose."""
    is_self_hosted: bool | None = None
    """Whether it runs on the organisation's own machines."""
    system_prompt: str | None = None
    """Its own system prompt; `None` for the platform's default."""
    created_at: datetime | None = None
    """When it was created."""
    updated_at: datetime | None = None
    """When it last changed."""
