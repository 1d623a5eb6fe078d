"""Following one conversation, read by read, to the end of a turn: what a watch does between two messages."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Final

from nairi_async._nairi.polling.cadence import timeline_spacing
from nairi_async._nairi.polling.poller import Poller
from nairi_async._nairi.polling.timeline import Timeline
from nairi_async.errors import TurnFailedError
from nairi_async.models import Turn, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nairi_async._nairi.polling.context import PollingContext
    from nairi_async._nairi.polling.poller import WatchTarget
    from nairi_async._nairi.polling.shared_reads import SharedRead, Snapshot
    from nairi_async.models import Message

log = logging.getLogger("nairi_async.polling")

# Settling times for which a conversation that shows no prompt at all is given the chance to show one.
_UNSEEN: Final = 10.0


class Tracker:
    """Reads a conversation and says what is new.

    Between reads it holds nothing but its own state; a `step` that was cancelled or failed is simply taken again.
    """

    def __init__(
        self,
        context: PollingContext,
        subject: WatchTarget,
        *,
        after: str | None,
        follow: bool,
        progress: bool,
        timeout: float,
    ) -> None:
        self.is_finished = False
        """Whether everything that the watch promises was returned."""
        self._clock = context.clock
        self._reads = context.reads
        self._polling = context.polling
        self._target = subject
        self._follow = follow
        self._is_single = subject.turn is not None and not follow
        turn = subject.turn
        origin = context.origin(turn) if after is None else None
        self._poller = Poller(context, subject, timeout, "progress" if progress else "first", origin)
        # A watch that follows goes on behind its turn, so it looks at the conversation and only begins at the turn.
        self._timeline = Timeline(
            turn=turn.message_id if turn is not None and not follow else None,
            after=after if after is not None or turn is None or not follow else turn.message_id,
            progress=progress,
            latest=context.latest_prompt(subject.job_id) if turn is None or follow else None,
        )
        self._progress = progress
        self._prompts = 0
        self._started_at = context.clock.monotonic()
        # Until a cursor was found, progress is read too: it may stand there.
        self._whole = self._reads.timeline(subject.job_id, progress=progress or after is not None)
        self._single: tuple[str, SharedRead[Message]] | None = None
        self._last_whole = -math.inf
        self._last_single = -math.inf
        self._next_whole = -math.inf
        self._ended_at: float | None = None
        # Kept for the error of a failed turn alone: a conversation followed for days would only pile them up.
        self._said: list[Message] = []

    @property
    def turn(self) -> Turn | None:
        """The watched turn; `None` for a whole conversation."""
        return self._target.turn

    @property
    def status(self) -> str | None:
        """The last status seen of the turn's user message."""
        return self._timeline.status

    async def step(self, cursor: str | None) -> Sequence[Message]:
        """Wait for the next read, make it, and return what is new; `cursor` is for the error."""
        self._target.cursor = cursor
        await self._poller.pause()
        wanted = self._wanted_alone()
        messages = await (self._read_whole() if wanted is None else self._read_single(wanted))
        self._target.status = self._timeline.status
        return messages

    def failure(self) -> TurnFailedError | None:
        """The error to end with, if the watched turn failed."""
        return turn_failed(self._target.turn, self._said) if self._timeline.has_failed else None

    def _wanted_alone(self) -> str | None:
        """The message to read by itself, where that is enough or is all that helps."""
        if self._last_whole > -math.inf and (missing := self._timeline.missing) is not None:
            return missing
        if self._clock.monotonic() < self._next_whole:
            return self._timeline.open_user
        return None

    async def _read_single(self, message_id: str) -> Sequence[Message]:
        if self._single is None or self._single[0] != message_id:
            self._single = (message_id, self._reads.message(message_id))
        newer = max(math.nextafter(self._last_single, math.inf), self._last_whole)
        snapshot = await self._poller.read(self._single[1], newer)
        self._last_single = snapshot.started_at
        self._timeline.observe_message(snapshot.value)
        if self._timeline.has_ended:
            self._poller.ended(snapshot.started_at)
            self._note_end(snapshot.received_at)
        else:
            self._poller.polled(snapshot.started_at, snapshot.received_at, news=False)
        return ()

    async def _read_whole(self) -> Sequence[Message]:
        # Newer than the last one used, not older than this watch, and at the end not older than the end.
        newer = max(math.nextafter(self._last_whole, math.inf), self._poller.started_at)
        if self._ended_at is not None:
            newer = max(newer, self._ended_at)
        snapshot = await self._poller.read(self._whole, newer)
        self._last_whole = snapshot.started_at
        self._next_whole = snapshot.started_at + timeline_spacing(self._polling, snapshot.weight)
        messages = self._timeline.observe(snapshot.value)
        if self._timeline.missing is None:
            self._whole = self._reads.timeline(self._target.job_id, progress=self._progress)
        log.debug("conversation %s: %d bytes, %d new", self._target.job_id, snapshot.weight, len(messages))
        return self._judge_end(snapshot, messages)

    def _judge_end(self, snapshot: Snapshot[tuple[Message, ...]], messages: list[Message]) -> Sequence[Message]:
        """The last read is one that began after the end was seen and the settling time was over."""
        is_unseen = (
            self._timeline.prompts == 0 and snapshot.started_at < self._started_at + _UNSEEN * self._polling.settle
        )
        is_another = self._timeline.prompts > self._prompts
        self._prompts = self._timeline.prompts
        if not self._timeline.has_ended or is_unseen:
            self._ended_at = None
            self._poller.polled(snapshot.started_at, snapshot.received_at, news=bool(messages))
        elif self._ended_at is None or (is_another and not self._is_single):
            # A turn that began and ended between two looks is settled as any other.
            self._poller.ended(snapshot.started_at)
            self._note_end(snapshot.received_at)
            self._poller.due_at(self._ended_at_settled())
        elif snapshot.started_at < self._ended_at_settled():
            self._poller.due_at(self._ended_at_settled())
        else:
            messages += self._timeline.finish()
            self.is_finished = not self._follow
            self._tell_end(messages)
            self._poller.polled(snapshot.started_at, snapshot.received_at, news=bool(messages))
            if self._follow and self._next_whole > snapshot.started_at:
                # Nothing runs, so nothing small tells more: a heavy conversation is left alone for a while.
                self._poller.due_at(max(self._next_whole, snapshot.started_at + self._polling.delay))
        if self._is_single:
            self._said += (message for message in messages if message.role != "progress")
        return messages

    def _tell_end(self, messages: Sequence[Message]) -> None:
        user = self._timeline.user
        if user is not None:
            usage = Usage.total(message.usage for message in (*self._said, *messages)) if self._is_single else None
            turn = self._target.turn if self._is_single else None
            self._poller.tell_end(turn or Turn(self._target.job_id, user.id), user.status, usage)

    def _note_end(self, moment: float) -> None:
        """The end was seen by a read that came at this moment; a read of the whole conversation is due at once."""
        self._ended_at = moment
        self._next_whole = moment
        self._poller.due_at(moment)

    def _ended_at_settled(self) -> float:
        assert self._ended_at is not None  # noqa: S101 - asked for only once the end was seen
        return self._ended_at + self._polling.settle


def turn_failed(turn: Turn | None, messages: Sequence[Message]) -> TurnFailedError:
    """The error of a failed turn: the service explains it in the last system message (api: message statuses)."""
    told = [message.content for message in messages if message.role == "system" and message.content.strip()]
    text = told[-1] if told else "the turn failed, and the service does not say why"
    return TurnFailedError(text, turn, tuple(messages))
