"""What the service talks about, as frozen values (design section 3).

Field names are the service's own (api: Message object, list of agents, attachments). Unknown fields of an answer are
ignored, an unknown status or role keeps its raw string, and an absent optional field is `None`. Times are aware.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from anyio import to_thread
from attrs import field, frozen

from nairi_async.errors import AttachmentExistsError, InvalidArgumentError, NairiError
from nairi_async.files import safe_name, write_new

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from pathlib import Path
    from typing import Self

TERMINAL_STATUSES: Final = frozenset({"completed", "failed"})
"""The message statuses after which nothing more happens to a message (api: message reference)."""

_Number = TypeVar("_Number", int, Decimal)


class Unset(Enum):
    """The type of `UNSET`: an enum, so that there is one such value also after `pickle` and `copy`."""

    UNSET = "UNSET"
    """A field that a change leaves alone."""

    def __repr__(self) -> str:
        return self.name


UNSET: Final = Unset.UNSET
"""What leaves a field alone where `None` and an empty text would set it."""


@frozen
class Turn:
    """One user message and what the agent does about it."""

    job_id: str
    """The conversation; the service calls it a job."""
    message_id: str
    """The user message that began the turn; its status is the turn's status."""
    agent_id: str | None = field(default=None, eq=False, kw_only=True)
    """The agent that the turn was given to, where the call that made it knew; not part of its identity."""


@frozen(kw_only=True)
class Usage:
    """What a turn cost, as far as the agent reported it."""

    cost_usd: Decimal | None = None
    """US dollars, exactly as printed by the service."""
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
        """The exact sum; a figure that nobody reported stays `None`, and so does the sum over nothing."""
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

    The service documents `progress_type` and `text_delta`; the other fields were read from the daemon that sends
    them, and any of them may be missing. The set of types is open.
    """

    progress_type: str
    """`text`, `tool_use`, `tool_heartbeat`, `step`, `subagent`, `thinking`, or a word yet unknown."""
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
    """What the agent says that the tool call is for."""
    tool_status: str | None = None
    """`running`, `completed`, `error`, or a word of another kind of agent."""
    tool_use_id: str | None = None
    """Joins the start of a tool call and its end."""
    parent_tool_use_id: str | None = None
    """The tool call that began the subagent which this event is from."""
    raw: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)
    """The envelope as it came, unknown keys included; empty where the content was not a JSON object."""


@frozen(kw_only=True)
class Message:
    """One entry of a conversation.

    Where the service left a field out or sent something unexpected, the message is still delivered with what it has:
    text fields are then empty, times are `None`.
    """

    id: str
    """Identity of the message."""
    job_id: str
    """The conversation that it belongs to."""
    role: str
    """`user`, `assistant`, `system`, `progress`, or a word yet unknown."""
    status: str
    """`queued`, `pending`, `completed`, `failed`, or a word yet unknown, which is never terminal."""
    content: str
    """The text; for `progress` the JSON envelope, which `progress` holds typed."""
    created_at: datetime | None = None
    """When it was made, by the service's clock."""
    updated_at: datetime | None = None
    """When it last changed, by the service's clock."""
    attachment_ids: tuple[str, ...] = ()
    """Files sent with a prompt, or made by the agent."""
    usage: Usage | None = None
    """Cost and tokens of the turn, on `assistant` messages of agents that report them."""
    progress: Progress | None = None
    """The typed envelope of a `progress` message."""

    @property
    def is_terminal(self) -> bool:
        """Whether nothing more happens to it; on a user message: whether its turn has ended."""
        return self.status in TERMINAL_STATUSES


class _Reachable:
    """What a reply needs to fetch its files.

    A slot and no attrs field: it is no part of the value, so that equality, hash, repr, `asdict`, pickle and copy do
    not know it, and a reply that came from a pickle has none.
    """

    __slots__ = ("_fetch",)
    _fetch: Callable[[Sequence[str]], Awaitable[list[Attachment]]]

    def reached_by(self, fetch: Callable[[Sequence[str]], Awaitable[list[Attachment]]]) -> Self:
        """The same reply, able to fetch its files."""
        object.__setattr__(self, "_fetch", fetch)
        return self


@frozen(kw_only=True)
class Reply(_Reachable):
    """What came of one turn."""

    turn: Turn
    """The turn that it answers."""
    text: str
    """All assistant text of the turn, blocks parted by a blank line; empty if the agent said nothing."""
    messages: tuple[Message, ...]
    """The turn's non-progress messages after the user message, oldest first, notices included."""
    usage: Usage | None = None
    """The sum over the turn's messages; `None` if the agent reported nothing."""
    attachment_ids: tuple[str, ...] = ()
    """Files that the agent made, each once, in order."""

    @classmethod
    def of(cls, turn: Turn, messages: Iterable[Message]) -> Reply:
        """Fold the messages that followed a turn's user message."""
        kept = tuple(messages)
        spoken = [message.content for message in kept if message.role == "assistant" and message.content.strip()]
        files = dict.fromkeys(file for message in kept if message.role != "user" for file in message.attachment_ids)
        return cls(
            turn=turn,
            text="\n\n".join(spoken),
            messages=kept,
            usage=Usage.total(message.usage for message in kept),
            attachment_ids=tuple(files),
        )

    async def attachments(self) -> list[Attachment]:
        """All files of the reply, in the order of `attachment_ids`, over the session that made it.

        Raises:
            InvalidArgumentError: the reply came from a pickle or was made by hand; use `nairi.attachments(reply)`.
            NairiError: as for `NairiSession.download`; the first failure, after which nothing more is fetched.
        """
        try:
            fetch = self._fetch
        except AttributeError as error:
            advice = "this reply has no session any more; use `await nairi.attachments(reply)`"
            raise InvalidArgumentError(advice) from error
        return await fetch(self.attachment_ids)


@frozen(kw_only=True)
class Outcome:
    """How one prompt of many ended: with a reply or with an error, never with an exception raised."""

    index: int
    """Position of the prompt in the input, from 0."""
    prompt: str
    """The prompt."""
    turn: Turn | None = None
    """The turn, if one was started."""
    reply: Reply | None = None
    """The reply, unless it failed."""
    error: NairiError | None = None
    """Why there is no reply."""


@frozen(kw_only=True)
class ConversationSummary:
    """One row of an agent's list of conversations."""

    id: str
    """The job id."""
    status: str
    """`active`, `completed`, `error`, `abandoned`, or a word yet unknown. Not the status of a turn."""
    updated_at: datetime | None = None
    """When the job last changed; which events count is not documented."""


@frozen(kw_only=True)
class Attachment:
    """A file stored by the service."""

    id: str
    """Identity of the file."""
    filename: str
    """The name as uploaded; the service does not clean it, so it is not safe as a path."""
    data: bytes = field(repr=False)
    """The bytes."""

    async def save(self, directory: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the file into a directory, which is made if it is missing; returns where it is.

        It keeps its name as far as a name can be kept that comes from elsewhere: directories and drives are taken off,
        characters that mean something to a system become `_`, an empty name becomes the id. Other programs see the
        whole file or none, and a link of that name is replaced, not followed.

        Args:
            directory: Where to write.
            overwrite: Replace a file of that name.

        Raises:
            AttachmentExistsError: there is something of that name, and `overwrite` is off.
            OSError: the disk or the system refuses.
        """
        name = safe_name(self.filename, self.id)
        write = partial(write_new, directory, name, self.data, overwrite=overwrite)
        try:
            return await to_thread.run_sync(write)
        except FileExistsError as error:
            raise AttachmentExistsError(f"{name!r} exists already; overwrite=True replaces it") from error


@frozen(kw_only=True)
class Agent:
    """An agent of the organisation."""

    id: str
    """Its unchanging id, `cci_…`."""
    name: str
    """Display name."""
    agent_id: str
    """Its slug; every call takes either this or `id`."""
    instances_count: int | None = None
    """Number of containers."""
    description: str | None = None
    """What it is for."""
    is_self_hosted: bool | None = None
    """Whether it runs on the organisation's own machines."""
    system_prompt: str | None = None
    """Its own system prompt; `None` stands for the platform's default."""
    created_at: datetime | None = None
    """When it was made."""
    updated_at: datetime | None = None
    """When it last changed."""
