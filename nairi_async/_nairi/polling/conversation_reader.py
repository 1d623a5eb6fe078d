"""What a watch reads next: its whole conversation, no more often than its size allows, or one message by itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nairi_async._nairi.polling.settings import timeline_spacing

if TYPE_CHECKING:
    from nairi_async._nairi.polling.context import PollingContext
    from nairi_async._nairi.polling.poller import Poller
    from nairi_async._nairi.polling.shared_reads import SharedRead, Snapshot
    from nairi_async._nairi.polling.timeline import Timeline
    from nairi_async.models import Message


class ConversationReader:
    """The reads of one watch; each is newer than the one before."""

    __slots__ = (
        "_conversation",
        "_conversation_read_at",
        "_cursor",
        "_job_id",
        "_message",
        "_message_read_at",
        "_poller",
        "_polling",
        "_progress",
        "_reads",
        "next_at",
    )

    def __init__(
        self, context: PollingContext, poller: Poller, job_id: str, *, progress: bool, cursor: str | None
    ) -> None:
        self._reads = context.reads
        self._polling = context.polling
        self._poller = poller
        self._job_id = job_id
        self._progress = progress
        self._cursor = cursor
        # Until the cursor was found, progress is read too: the cursor may stand on it.
        self._conversation = self._reads.timeline(job_id, progress=progress or cursor is not None)
        self._message: tuple[str, SharedRead[Message]] | None = None
        self._conversation_read_at = -math.inf
        self._message_read_at = -math.inf
        self.next_at = -math.inf
        """When the whole conversation may be read again."""

    def message_to_read(self, timeline: Timeline, now: float) -> str | None:
        """Return the id of the message to read by itself, where that is enough or is all that helps."""
        if self._conversation_read_at > -math.inf and (missing := timeline.missing) is not None:
            return missing
        return timeline.open_user if now < self.next_at else None

    async def read_message(self, message_id: str) -> Snapshot[Message]:
        """Read one message."""
        if self._message is None or self._message[0] != message_id:
            self._message = (message_id, self._reads.message(message_id))
        newer = max(math.nextafter(self._message_read_at, math.inf), self._conversation_read_at)
        read = await self._poller.read(self._message[1], newer, may_lag=message_id != self._cursor)
        self._message_read_at = read.started_at
        return read

    async def read_conversation(self, not_before: float) -> Snapshot[tuple[Message, ...]]:
        """Read the whole conversation as it was at `not_before` or later."""
        newer = max(math.nextafter(self._conversation_read_at, math.inf), self._poller.started_at, not_before)
        read = await self._poller.read(self._conversation, newer)
        self._conversation_read_at = read.started_at
        self.next_at = read.started_at + timeline_spacing(self._polling, read.weight)
        return read

    def leave_progress_out(self) -> None:
        """Read without progress from now on, unless it is wanted: it was read only to find the cursor."""
        self._conversation = self._reads.timeline(self._job_id, progress=self._progress)
