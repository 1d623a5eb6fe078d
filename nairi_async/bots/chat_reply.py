"""The reply to a chat, ready to be sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nairi_async._core.records import frozen
from nairi_async.bots.capabilities import HasAttachments
from nairi_async.dialogue import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nairi_async._nairi.attachment import Attachment


@frozen
class ChatReply:
    """A reply to send in the chat."""

    pieces: tuple[str, ...]
    """The text in pieces that the platform accepts, to be sent in order; none if the agent said nothing."""
    answer: Answer
    """The service's own reply: with Nairi a `Reply`."""

    @property
    def text(self) -> str:
        """The whole text."""
        return self.answer.text

    async def attachments(self) -> Sequence[Attachment]:
        """Download the files that the agent made; none if the service has no files."""
        return await self.answer.attachments() if isinstance(self.answer, HasAttachments) else ()
