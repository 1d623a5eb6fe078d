"""What some services' dialogues can do beyond the protocol of `nairi_async.dialogue`, recognised by their methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Container, Iterable
    from datetime import datetime

    from nairi_async._nairi.attachment import Attachment
    from nairi_async.dialogue import Answer
    from nairi_async.models import Turn
    from nairi_async.typing import Duration, Source


@runtime_checkable
class HasAttachments(Protocol):
    """An answer with files."""

    async def attachments(self) -> list[Attachment]:
        """Download the files."""
        ...


@runtime_checkable
class NamesMessages(Protocol):
    """An answer of a service that names the messages of a turn, by which `RecallsReplies` recognises it."""

    @property
    def user_message_id(self) -> str | None:
        """The prompt; `None` where the service did not name it."""
        ...

    @property
    def message_id(self) -> str | None:
        """The agent's message."""
        ...


@runtime_checkable
class KnowsWhetherRunning(Protocol):
    """A dialogue that says whether a prompt may be running; one that follows `Dialogue` to the letter does."""

    @property
    def may_be_running(self) -> bool:
        """Whether a turn that was asked through this object may be running."""
        ...


@runtime_checkable
class AnnouncesId(Protocol):
    """A dialogue whose id can be awaited; one that follows `Dialogue` to the letter does."""

    async def wait_for_id(self) -> str:
        """Wait until the service has named the conversation, and return its id."""
        ...


@runtime_checkable
class RecallsReplies(Protocol):
    """A dialogue whose last reply can be read by another process."""

    async def last_reply(self, *, after: str | None = None, timeout: Duration | None = ...) -> Answer | None:
        """Return the reply to the last prompt; `None` if there is none after that message."""
        ...


@runtime_checkable
class CanComplete(Protocol):
    """A dialogue that its agent may end."""

    @property
    def is_completed(self) -> bool:
        """Whether nothing more can be said in it."""
        ...

    async def settle(self, *, timeout: float = ...) -> object:
        """Find out whether the last turn was saved, and whether the dialogue is over."""
        ...


@runtime_checkable
class FindsStarts(Protocol):
    """A session that can look for a conversation whose first prompt was sent by a process that has ended."""

    async def find_start(
        self,
        agent_id: str,
        prompt: str,
        *,
        sent_after: datetime,
        sent_before: datetime | None = None,
        attachment_ids: Iterable[str] = (),
        exclude: Container[str] = (),
        copies: int = 1,
    ) -> Turn | None:
        """Return the turn of that prompt, one of so many identical ones; `None` if it provably does not run."""
        ...


@runtime_checkable
class Uploads(Protocol):
    """A session that uploads files ahead of the prompt that uses them."""

    async def upload(self, source: Source) -> str:
        """Upload a file, and return its id."""
        ...
