"""Waits until a watcher's next poll is due, by its schedule or an announcement, and polls. Survives cancellation."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, Any, Final, TypeVar

from attrs import evolve

from nairi_async._core.checks import DEFAULT_TIMEOUT
from nairi_async._core.retry import is_transient
from nairi_async._core.time_scales import to_unix
from nairi_async._nairi.polling.replica_lag import through_replica_lag
from nairi_async._nairi.polling.schedule import Schedule
from nairi_async._nairi.polling.subscription import Subscription
from nairi_async._nairi.polling.watch_target import FoundEnd
from nairi_async.errors import NairiError

if TYPE_CHECKING:
    from datetime import datetime

    from nairi_async._nairi.polling.cadence import Kind
    from nairi_async._nairi.polling.context import PollingContext, TurnOrigin
    from nairi_async._nairi.polling.shared_reads import SharedRead, Snapshot
    from nairi_async._nairi.polling.watch_target import WatchTarget
    from nairi_async.models import Message, Turn, Usage

log = logging.getLogger("nairi_async.polling")
_T = TypeVar("_T")

# Seconds that the last poll may take after the end of the whole wait.
_GRACE: Final = 2.0
# Seconds to the next poll from which on it is not worth memory to make that poll cheaper.
_REST: Final = 5.0
# Seconds that the service's times may be rounded by.
_ROUNDING: Final = 0.5
# Stated delays within which it must be known when a queued turn began, to learn from its length; and the longest
# interval, in stated delays, of a queued turn with none before it, until a share of the time queued is longer.
_LONG_QUEUED: Final = 8.0


class Poller:
    """Decides when one watcher polls next, and waits until then.

    `timeout` is seconds for the whole wait. It counts from the first `pause`, so a watcher that is made now and used
    later loses none of it.
    """

    __slots__ = (
        "_came_at",
        "_context",
        "_deadline",
        "_is_exhausted",
        "_kind",
        "_origin",
        "_patience",
        "_polls",
        "_queued_at",
        "_queued_since",
        "_schedule",
        "_started_at",
        "_subscription",
        "_timeout",
        "_updated_at",
        "target",
    )

    def __init__(
        self, context: PollingContext, target: WatchTarget, timeout: float, kind: Kind, origin: TurnOrigin | None
    ) -> None:
        self._context = context
        self.target = target
        """What is watched, and how far the watch has come."""
        self._timeout = timeout
        self._kind: Kind = kind
        self._origin = origin
        self._schedule: Schedule | None = None
        self._subscription: Subscription | None = None
        self._started_at = -math.inf
        self._deadline = math.inf
        # When the service says that the prompt came.
        self._came_at: datetime | None = None
        # And when it last changed: at the end of its turn, once that is over.
        self._updated_at: datetime | None = None
        # Whether a poll after the deadline has shown that the turn is still running.
        self._is_exhausted = False
        self._polls = 0
        # Seconds between two polls while no news is likely; `None` while there may be some at any time.
        self._patience: float | None = None
        # When the turn was last seen queued, and when first.
        self._queued_at: float | None = None
        self._queued_since = -math.inf

    @property
    def started_at(self) -> float:
        """When the wait began; what was read before is too old to begin with."""
        self._begin()
        return self._started_at

    @property
    def remaining(self) -> float:
        """Seconds that are left of the whole wait."""
        self._begin()
        return max(0.0, self._deadline - self._context.clock.monotonic())

    @property
    def patience(self) -> float:
        """Seconds from the last poll to the next while no news is likely; zero otherwise."""
        return self._patience or 0.0

    @property
    def rests(self) -> bool:
        """Whether the next poll is not due for a while, or a listing is awaited."""
        schedule, subscription = self._begin()
        is_awaiting = schedule.may_await_announcement and subscription.replaces_polls
        return is_awaiting or schedule.next_poll_at > self._context.clock.monotonic() + _REST

    @property
    def is_end_likely(self) -> bool:
        """Whether a listing announced the poll that is due, or turns of the agent have often ended by now."""
        subscription = self._begin()[1]
        return subscription.was_announced or subscription.early_at <= self._context.clock.monotonic()

    async def pause(self) -> None:
        """Wait until the next poll is due. When the whole wait is over, a last poll is due at once.

        Raises:
            WatchTimeoutError: the whole wait is over, and the last poll showed that the turn is still running.
        """
        # All in one frame: thousands wait here, and each frame is memory for every one of them.
        schedule, subscription = self._begin()
        if self._is_exhausted and self._is_over:
            raise self.target.timeout_error()
        context = self._context
        clock, counters, closing = context.clock, context.counters, context.executor.closing
        task = closing.fall_asleep()
        subscription.was_announced = is_due = is_cancelled = may_try_out = False
        subscription.begin_wait()
        counters.open_watches += 1
        try:
            if self._patience is not None and not schedule.is_fixed:
                until = min(self._deadline, schedule.polled_at + self._patience)
                self._emit_plan(until, is_announced=True)
                subscription.was_announced = await subscription.wait(schedule.polled_at, until, is_patient=True)
                wait = 0.0 if subscription.was_announced else self._wait_after_call(schedule, subscription, until)
            elif schedule.may_await_announcement and subscription.replaces_polls:
                until = -math.inf
                while (at := min(self._deadline, subscription.check_at(schedule.polled_at, until, context))) > until:
                    until = at
                    self._emit_plan(until, is_announced=True)
                    subscription.was_announced = await subscription.wait(schedule.polled_at, until)
                schedule.record_announced_wait(subscription.no_news_at)
                wait = 0.0 if subscription.was_announced else self._wait_without_listing(schedule, until)
            else:
                wait, may_try_out = self._wait_until(schedule.next_poll_at), not schedule.is_fixed
            if wait > 0:
                await clock.sleep(wait)
            if may_try_out:
                await subscription.try_out()
            if (limiter := context.executor.limiter).is_crowded:
                await limiter.stand_in_line()
                if clock.monotonic() >= self._deadline + _GRACE:
                    raise self.target.timeout_error()
            is_due = True
        except asyncio.CancelledError:
            is_cancelled = True
            raise
        finally:
            counters.open_watches -= 1
            subscription.end_wait(is_due=is_due)
            closing.awake(task, is_cancelled=is_cancelled)

    async def read(self, shared: SharedRead[_T], at: float, *, may_lag: bool = True) -> Snapshot[_T]:
        """Return a read that was requested at `at` or later.

        `may_lag` says that a 404 may come from a replica that does not know the turn yet, if it is new.

        Raises:
            WatchTimeoutError: the whole wait is over, and the service cannot be read.
            NairiError: the read failed.
        """
        context = self._context
        context.counters.open_watches += 1

        async def read_once() -> Snapshot[_T]:
            self._polls += 1
            # The last read comes at the deadline, or later where the watcher was busy.
            deadline = max(self._deadline, context.clock.monotonic())
            return await shared.since(at, deadline=deadline, grace=_GRACE)

        try:
            if not may_lag:
                return await read_once()
            return await through_replica_lag(context, self.target.job_id, read_once, deadline=self._deadline)
        except NairiError as error:
            if self._is_over and is_transient(error, idempotent=True, unreadable=True):
                raise self.target.timeout_error() from error
            raise
        finally:
            context.counters.open_watches -= 1

    def observe_prompt(self, prompt: Message) -> None:
        """Record the status of the user message that a read has shown."""
        before, status = self.target.status, prompt.status
        was_queued = before == "queued"
        if status == "queued" and not was_queued and before is not None:
            self._begin()[1].feed.queue.lags = True
        self.target.status = status
        self._came_at, self._updated_at = prompt.created_at, prompt.updated_at
        self._context.observe_status(self.target.job_id, prompt.id, status)
        if (status == "queued" or was_queued) and self._timeout == DEFAULT_TIMEOUT:
            # The default is generous for a turn that runs. How long one is queued depends on how many are before it.
            self._deadline = self._context.clock.monotonic() + self._timeout

    def observe_poll(self, read: Snapshot[Any], *, news: bool, idle_since: float | None = None) -> None:
        """Record a poll that has not found the end, and plan the next one.

        With `idle_since`, no turn is open since then.
        """
        schedule, subscription = self._begin()
        context, at, jitter = self._context, read.started_at, self._context.random()
        self._is_exhausted = at >= self._deadline
        place = subscription.observe_status(self.target.status or "", self._came_at, at) if idle_since is None else None
        if place is None:
            self._leave_queue(at)
        self._account(at, news=news)
        follow_up = subscription.plan_follow_up(schedule.polled_at, at)
        self._patience = None
        if idle_since is not None:
            self._patience = subscription.idle_patience(at - idle_since, context.polling, jitter)
            schedule.record_rest(at, self._patience, jitter=jitter, received_at=read.received_at)
        elif place is not None and not news:
            self._rest_in_queue(read, place, jitter, math.inf if follow_up is None else follow_up)
        else:
            schedule.record_poll(at, news=news, jitter=jitter, received_at=read.received_at)
            if follow_up is not None:
                schedule.hasten(read.received_at + follow_up)

    def observe_end(self, read: Snapshot[Any]) -> FoundEnd:
        """Record that a poll has found the end of the turn, and return what can be reported of it."""
        schedule, subscription = self._begin()
        found_at = read.started_at
        self._leave_queue(found_at)
        ended_at, delay = self._service_time(schedule, found_at), schedule.expected_delay(found_at)
        if ended_at is not None:
            delay = max(0.0, sum(self._context.executor.server_clock.at(found_at)) / 2.0 - ended_at)
        self._account(found_at, news=True, delay=delay)
        schedule.observe_news(found_at, delay)
        length, seconds = self._length(found_at, delay), read.received_at - found_at
        subscription.observe_end(found_at, found_at - delay, ended_at, length, seconds)
        self._patience = None
        # What there is left to read is read, even if the time is over.
        self._deadline = max(self._deadline, read.received_at + self._context.polling.settle + _GRACE)
        return FoundEnd(found_at, delay)

    def emit_end(self, end: FoundEnd, turn: Turn, status: str, usage: Usage | None) -> None:
        """Report to the hooks how the turn ended, unless another watcher has."""
        if not (context := self._context).record_end(turn) or not context.executor.hooks.listens(log):
            return
        from nairi_async.hooks import TurnEnded  # noqa: PLC0415 - see `event_hooks`

        ended = TurnEnded(
            turn=turn if turn.agent_id is not None else evolve(turn, agent_id=self.target.agent_id),
            status=status,
            seconds=end.found_at - (self._started_at if self._origin is None else self._origin.sent_at),
            ended_at=to_unix(context.clock, end.found_at),
            discovery_delay=end.discovery_delay,
            polls=self._polls,
            usage=usage,
        )
        context.executor.hooks.emit(log, ended)

    def poll_at(self, at: float) -> None:
        """Override the cadence: poll next at `at`."""
        self._begin()[0].poll_at(at)

    @property
    def _is_over(self) -> bool:
        return self._context.clock.monotonic() >= self._deadline

    def _begin(self) -> tuple[Schedule, Subscription]:
        if self._schedule is not None and self._subscription is not None:
            return self._schedule, self._subscription
        context, origin, agent_id = self._context, self._origin, self.target.agent_id
        now = self._started_at = context.clock.monotonic()
        self._deadline = now + self._timeout
        started_at = origin.sent_at if origin is not None else now
        schedule = self._schedule = Schedule(
            context.cadence, agent_id, self._kind, started_at, is_start_known=origin is not None
        )
        feed = context.feeds.of(agent_id)
        subscription = self._subscription = Subscription(feed, self.target.job_id, self._kind, origin)
        if origin is not None and origin.answered_at is not None:
            # There is nothing to see at the very beginning. A turn that was found later may have ended long ago.
            schedule.record_poll(origin.sent_at, news=False, jitter=context.random())
        return schedule, subscription

    def _service_time(self, schedule: Schedule, found_at: float) -> float | None:
        """Return the Unix time that the service gives the end, where it falls between the last two polls."""
        updated_at = self._updated_at
        server_time = self._context.executor.server_clock.at
        earliest, latest = server_time(schedule.polled_at)[0], server_time(found_at)[1]
        if updated_at is None or not -math.inf < earliest <= latest < math.inf:
            return None
        # Some services cut their times to whole seconds.
        ended_at = updated_at.timestamp() + (0.0 if updated_at.microsecond else 0.5)
        return ended_at if earliest - _ROUNDING <= ended_at <= latest + _ROUNDING else None

    def _length(self, found_at: float, delay: float) -> float:
        """Return the seconds from the prompt to the end: as the service says, or else `delay` before it was found."""
        waited = found_at - self._origin.sent_at if self._origin is not None else math.inf
        lengths = self._begin()[1].feed.lengths
        if self._came_at is not None and self._updated_at is not None and self._updated_at >= self._came_at:
            lengths.are_given = lengths.are_given or self._updated_at > self._came_at
            if lengths.are_given:
                return min((self._updated_at - self._came_at).total_seconds(), waited)
        return max(0.0, waited - delay)

    def _rest_in_queue(self, read: Snapshot[Any], place: int, jitter: float, longest: float) -> None:
        """Plan the next poll of a turn that is queued: seldom behind others, else as soon as a new turn is polled.

        `longest` is the longest rest in seconds, where the queue was shown although a change was announced.
        """
        schedule, subscription = self._begin()
        at, polling = read.started_at, self._context.polling
        if self._queued_at is None:
            self._queued_since = at
        self._queued_at = at
        if place:
            self._patience = subscription.queue_patience(place, self._queued_since, at, polling, jitter)
        interval = self._patience
        # Others of this session may have run until lately.
        alone = at - max(self._queued_since, subscription.feed.queue.freed_at)
        if interval is None:
            # It may begin at any time, and is polled as a turn that has begun; seldom where that takes long.
            first = schedule.first_poll_at(0.0, jitter)
            interval = max(first, min(2.0 * polling.delay, alone))
            if polling.fraction * alone > _LONG_QUEUED * polling.delay:
                interval = min(polling.maximum, polling.fraction * alone)
        # Also the first of the queue can be called.
        self._patience = schedule.record_rest(at, min(longest, interval), jitter=jitter, received_at=read.received_at)

    def _wait_after_call(self, schedule: Schedule, subscription: Subscription, until: float) -> float:
        """Return the seconds to the next poll of a turn that is called because one before it has ended.

        It runs now, presumably, and its end is not yet near. It is polled no later than without the call.
        """
        freed_at = subscription.feed.queue.freed_at
        if self._queued_at is None or freed_at <= schedule.polled_at:
            return 0.0
        return self._wait_until(min(until, schedule.first_poll_at(freed_at, self._context.random())))

    def _leave_queue(self, at: float) -> None:
        """Count the wait from when the turn began to run, where it was queued until now."""
        schedule, subscription = self._begin()
        if self._queued_at is not None:
            queued_at, self._queued_at = self._queued_at, None
            freed_at = subscription.feed.queue.freed_at
            is_known = queued_at < freed_at <= at or at - queued_at <= _LONG_QUEUED * self._context.polling.delay
            began_at = freed_at if queued_at < freed_at <= at else (queued_at + at) / 2.0
            schedule.restart(began_at, is_start_known=is_known)

    def _wait_without_listing(self, schedule: Schedule, until: float) -> float:
        """Return the seconds to the next poll after a wait for the listing ended without an announcement."""
        now = self._context.clock.monotonic()
        if now >= until:
            return 0.0
        # The listing no longer replaces polls, for all watchers at once: they spread their polls over an interval.
        spread = max(schedule.interval, 2.0 * self._context.polling.delay)
        return self._wait_until(now + self._context.random() * min(spread, until - now))

    def _wait_until(self, at: float) -> float:
        """Return the seconds to a poll that is planned for `at`, and report the plan."""
        self._emit_plan(at, is_announced=False)
        return min(at, self._deadline) - self._context.clock.monotonic()

    def _emit_plan(self, at: float, *, is_announced: bool) -> None:
        hooks = self._context.executor.hooks
        if hooks.listens(log):
            from nairi_async.hooks import PollPlanned  # noqa: PLC0415 - see `event_hooks`

            target, wait = self.target, max(0.0, at - self._context.clock.monotonic())
            planned = PollPlanned(job_id=target.job_id, agent_id=target.agent_id, wait=wait, is_announced=is_announced)
            hooks.emit(log, planned)

    def _account(self, started_at: float, *, news: bool, delay: float | None = None) -> None:
        """Count what a poll has found, and let the listing be judged by it; `delay` is how old its news is."""
        schedule, subscription = self._begin()
        if not schedule.has_polled or started_at <= schedule.polled_at:
            return
        if news:
            self._context.counters.discovered(schedule.expected_delay(started_at) if delay is None else delay)
        subscription.account(schedule, started_at, news=news, was_patient=self._patience is not None)
