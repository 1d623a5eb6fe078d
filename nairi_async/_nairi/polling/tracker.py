"""Follows one conversation until its turn ends."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Final

from nairi_async._nairi.polling.conversation_reader import ConversationReader
from nairi_async._nairi.polling.poller import Poller
from nairi_async._nairi.polling.timeline import Timeline
from nairi_async._nairi.polling.turn_messages import (
    FIRST_PATIENCE,
    LONGEST_LAG,
    check_conversation,
    turn_failed,
    turn_messages,
)
from nairi_async._nairi.results import Reply
from nairi_async.models import Turn, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nairi_async._nairi.polling.context import PollingContext
    from nairi_async._nairi.polling.shared_reads import Snapshot
    from nairi_async._nairi.polling.watch_target import FoundEnd, WatchTarget
    from nairi_async.errors import TurnFailedError
    from nairi_async.models import Message

log = logging.getLogger("nairi_async.polling")

# Settling times in which a conversation that shows no prompt at all may still show one.
_UNSEEN: Final = 10.0


class Tracker:
    """Decides from what reads bring what is new, and when the watch is over.

    Between reads it holds nothing but its own state; a `step` that was cancelled or failed is simply taken again.
    """

    __slots__ = (
        "_context",
        "_created_at",
        "_end",
        "_ended_at",
        "_follow",
        "_has_given_up",
        "_has_lagged",
        "_idle_since",
        "_last_read",
        "_messages",
        "_poller",
        "_prompts",
        "_reader",
        "_target",
        "_timeline",
        "is_finished",
    )  # fmt: skip

    def __init__(
        self,
        context: PollingContext,
        target: WatchTarget,
        *,
        after: str | None,
        follow: bool,
        progress: bool,
        timeout: float,
    ) -> None:
        self.is_finished: bool = False
        """Whether everything that the watch promises was returned."""
        self._context = context
        self._target = target
        self._follow = follow
        turn = target.turn
        origin = context.origin(turn) if after is None else None
        self._poller = Poller(context, target, timeout, "progress" if progress else "first", origin)
        prompts = context.known_prompts(target.job_id)
        # A watch that follows outlives its turn, so it watches the conversation and only begins at the turn.
        self._timeline = Timeline(
            turn=turn.message_id if turn is not None and not follow else None,
            after=after if after is not None or turn is None or not follow else turn.message_id,
            progress=progress,
            latest=prompts.newest if turn is None or follow else None,
            prompts=prompts,
        )
        self._reader = ConversationReader(context, self._poller, target.job_id, progress=progress, cursor=after)
        self._prompts = 0
        self._created_at = context.clock.monotonic()
        self._end: FoundEnd | None = None
        self._ended_at: float | None = None
        # Whether reads after the end were older than it; `None` once a read has shown it after all.
        self._has_lagged: bool | None = False
        # Whether half a minute of such reads has ended in an error.
        self._has_given_up = False
        self._idle_since: float | None = None
        # Of a single turn alone: of a conversation that is followed for days they would pile up.
        self._messages: list[Message] = []
        self._last_read: Sequence[Message] = ()

    @property
    def turn(self) -> Turn | None:
        """The watched turn; `None` for a whole conversation."""
        return self._target.turn

    @property
    def job_id(self) -> str:
        """The conversation."""
        return self._target.job_id

    @property
    def status(self) -> str | None:
        """The last status seen of the turn's user message."""
        return self._timeline.status

    @property
    def remaining(self) -> float:
        """Seconds that are left of the whole wait."""
        return self._poller.remaining

    async def step(self, cursor: str | None) -> Sequence[Message]:
        """Wait for the next poll, make it, and return what is new; `cursor` is for the error of a timeout."""
        self._target.cursor = cursor
        await self._poller.pause()
        if self._has_given_up:
            # Iterating again reads for as long again.
            self._ended_at, self._has_given_up = self._context.clock.monotonic(), False
        message_id = self._reader.message_to_read(self._timeline, self._context.clock.monotonic())
        if message_id is None:
            messages = await self._read_conversation()
        else:
            messages = await self._read_message(message_id)
        return messages

    def is_further(self, message: Message, cursor: str) -> bool:
        """Return whether a message stands behind the message that `cursor` names."""
        return self._timeline.is_further(message, cursor)

    def failure(self) -> TurnFailedError | None:
        """Return the error to end with, if the watched turn failed."""
        return turn_failed(self._target.turn, self._messages) if self._timeline.has_failed else None

    def reply(self) -> Reply | None:
        """Return the reply of the watched turn from what was read; `None` before its end, and if it failed.

        It holds the whole turn, also where the watch began behind a cursor.
        """
        turn, prompt = self._target.turn, self._timeline.user
        if not self.is_finished or self._timeline.has_failed or turn is None or prompt is None:
            return None
        prompts = self._context.known_prompts(turn.job_id)
        found = turn_messages(turn, prompt, self._last_read, self._messages, prompts=prompts)
        return Reply.of(turn, found.messages)

    @property
    def _is_single(self) -> bool:
        return self._target.turn is not None and not self._follow

    async def _read_message(self, message_id: str) -> Sequence[Message]:
        read = await self._reader.read_message(message_id)
        check_conversation(read.value, self._target.job_id)
        self._timeline.observe_message(read.value)
        self._observe_status()
        if self._timeline.has_ended:
            self._end = self._poller.observe_end(read)
            self._record_end(read.received_at, due_at=read.received_at)
        else:
            self._poller.observe_poll(read, news=False)
        return ()

    async def _read_conversation(self) -> Sequence[Message]:
        # At the end, a read that is not older than the end.
        read = await self._reader.read_conversation(-math.inf if self._ended_at is None else self._ended_at)
        messages = self._timeline.observe(read.value)
        self._observe_status()
        if self._timeline.missing is None:
            self._reader.leave_progress_out()
        log.debug("conversation %s: %d bytes, %d new", self._target.job_id, read.weight, len(messages))
        return self._judge_end(read, messages)

    def _observe_status(self) -> None:
        if (user := self._timeline.user) is not None:
            self._poller.observe_prompt(user)

    def _judge_end(self, read: Snapshot[tuple[Message, ...]], messages: list[Message]) -> Sequence[Message]:
        """Decide whether the watch is over: with a read that began after the end was seen and had settled."""
        polling = self._context.polling
        is_unseen = self._timeline.prompts == 0 and read.started_at < self._created_at + _UNSEEN * polling.settle
        is_another = self._timeline.prompts > self._prompts
        self._prompts = self._timeline.prompts
        if not self._timeline.has_ended or is_unseen:
            self._ended_at = self._idle_since = None
            self._poller.observe_poll(read, news=bool(messages))
        elif self._ended_at is None or (is_another and not self._is_single):
            # A turn that began and ended between two polls settles as any other.
            self._end = self._poller.observe_end(read)
            self._record_end(read.received_at, due_at=read.received_at + polling.settle)
        elif read.started_at < self._ended_at + polling.settle:
            self._poller.poll_at(self._ended_at + polling.settle)
        elif (again := self._read_again_at(read, self._ended_at, has_news=bool(messages))) is not None:
            self._poller.poll_at(again)
            self._has_lagged = None if self._has_lagged is None else True
        elif self._has_lagged and not self._timeline.lags(read.value):
            # The first read that shows the end: the rest may be listed later, as in a list that does not lag.
            self._has_lagged, self._ended_at = None, read.started_at
            self._poller.poll_at(read.started_at + polling.settle)
        else:
            self._check_shown(read)
            messages += self._timeline.finish()
            self._finish(read, messages)
        if self._is_single:
            self._messages += (message for message in messages if message.role != "progress")
        return messages

    def _read_again_at(self, read: Snapshot[tuple[Message, ...]], ended_at: float, *, has_news: bool) -> float | None:
        """Return when to read again where a read is older than the end; `None` if it is not, or after half a minute."""
        if not self._timeline.lags(read.value):
            return None
        at = read.started_at
        until = min(ended_at + LONGEST_LAG, at + self._poller.remaining)
        if at >= until:
            return at if has_news else None
        return min(until, at + max(FIRST_PATIENCE, at - ended_at))

    def _check_shown(self, read: Snapshot[tuple[Message, ...]]) -> None:
        """Check that a read has shown the end, or a reply; a watch that follows would see it later."""
        turn, prompt = self._target.turn, self._timeline.user
        was_shown = self._has_lagged is None or not self._timeline.lags(read.value)
        if self._follow or self._timeline.has_failed or was_shown:
            return
        if turn is not None and prompt is not None:
            prompts = self._context.known_prompts(turn.job_id)
            if turn_messages(turn, prompt, read.value, self._messages, prompts=prompts).has_outcome:
                return
        self._has_given_up = True
        raise self._target.unlisted_error()

    def _finish(self, read: Snapshot[tuple[Message, ...]], messages: Sequence[Message]) -> None:
        """Report the end, and plan the next poll of a watch that follows."""
        self.is_finished = not self._follow
        self._last_read = read.value if self._is_single else ()
        self._emit_end(messages)
        if messages or self._idle_since is None:
            self._idle_since = read.started_at
        self._poller.observe_poll(read, news=bool(messages), idle_since=self._idle_since)
        if self._reader.next_at > read.started_at + self._poller.patience:
            # Nothing runs, so no small read shows more: a heavy conversation is left alone for a while.
            self._poller.poll_at(self._reader.next_at)

    def _emit_end(self, messages: Sequence[Message]) -> None:
        user, end, self._end = self._timeline.user, self._end, None
        if user is not None and end is not None:
            usage = Usage.total(message.usage for message in (*self._messages, *messages)) if self._is_single else None
            turn = self._target.turn if self._is_single else None
            self._poller.emit_end(end, turn or Turn(self._target.job_id, user.id), user.status, usage)

    def _record_end(self, received_at: float, *, due_at: float) -> None:
        """Remember that a read received then has shown the end; the whole is read at `due_at`."""
        self._ended_at, self._has_lagged = received_at, False
        self._reader.next_at = received_at
        self._poller.poll_at(due_at)
