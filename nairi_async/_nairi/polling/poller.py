"""When one watcher looks next: by the cadence, or because a listing announced news. Survives cancellation."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Final, TypeVar

from attrs import define, evolve

from nairi_async._core.retry import is_transient
from nairi_async._nairi.polling.cadence import Schedule
from nairi_async.errors import NairiError, WatchTimeoutError
from nairi_async.hooks import PollPlanned, TurnEnded

if TYPE_CHECKING:
    from nairi_async._nairi.polling.cadence import Kind
    from nairi_async._nairi.polling.change_feed import ChangeFeed
    from nairi_async._nairi.polling.context import PollingContext, TurnOrigin
    from nairi_async._nairi.polling.feed_trust import FeedTrust, WatchedJob
    from nairi_async._nairi.polling.shared_reads import SharedRead, Snapshot
    from nairi_async.models import Turn, Usage

log = logging.getLogger("nairi_async.polling")

_T = TypeVar("_T")

# A trusted listing is checked by a look at each conversation after this many times `Polling.maximum`.
_VERIFYING: Final = 5.0


@define
class WatchTarget:
    """What a watcher watches, and how far it has come: what the error of a wait that is over tells."""

    job_id: str
    turn: Turn | None
    agent_id: str | None
    status: str | None = None
    cursor: str | None = None

    def timed_out(self) -> WatchTimeoutError:
        """The error of a wait that is over."""
        what = f"turn {self.turn.message_id}" if self.turn is not None else f"conversation {self.job_id}"
        told = f"{what} has not ended within the timeout; its last status was {self.status or 'never read'}"
        return WatchTimeoutError(told, self.turn, self.status, self.cursor)


class Poller:
    """Keeps the appointments of one watcher.

    `timeout` is seconds for the whole wait, counted from the first `pause`: a watcher made now and used later loses
    none of it.
    """

    __slots__ = (
        "_clock",
        "_context",
        "_deadline",
        "_due",
        "_end",
        "_feed",
        "_interval",
        "_is_fixed",
        "_is_lagging",
        "_job",
        "_kind",
        "_origin",
        "_polled_at",
        "_polls",
        "_schedule",
        "_started_at",
        "_target",
        "_timeout",
        "was_announced",
    )  # fmt: skip

    def __init__(
        self, context: PollingContext, subject: WatchTarget, timeout: float, kind: Kind, origin: TurnOrigin | None
    ) -> None:
        self._context = context
        self._clock = context.clock
        self._target = subject
        self._timeout = timeout
        self._kind: Kind = kind
        self._origin = origin
        self._schedule: Schedule | None = None
        self._feed: ChangeFeed | None = None
        self._job: WatchedJob | None = None
        self._polled_at = -math.inf
        self._interval = math.inf
        self._due = -math.inf
        self._is_fixed = False
        self._is_lagging = False
        self._started_at = -math.inf
        self._deadline = math.inf
        self._polls = 0
        # When the end was found, and how late, until it is told.
        self._end: tuple[float, float] | None = None
        self.was_announced = False
        """Whether the look that is due was announced by a listing, so that news is likely."""

    async def pause(self) -> None:
        """Wait until the next look is due, or raise `WatchTimeoutError` when the whole wait is over before that."""
        # All in one frame: thousands wait here, and each frame is memory for every one of them.
        self._begin()
        self.was_announced = False
        feed = None if self._is_fixed else self._feed
        counters = self._context.counters
        counters.open_watches += 1
        try:
            if feed is not None and self._leaves_it_to(feed):
                await self._wait_for_announcement(feed)
            else:
                wait = self._wait_before(self._due)
                if wait > 0:
                    await self._clock.sleep(wait)
                if feed is not None:
                    await feed.try_out()
        finally:
            counters.open_watches -= 1
        if self._is_over:
            raise self._target.timed_out()

    async def read(self, shared: SharedRead[_T], moment: float) -> Snapshot[_T]:
        """A read asked for at `moment` or later, cut short by the end of the whole wait."""
        counters = self._context.counters
        self._polls += 1
        counters.open_watches += 1
        try:
            return await shared.since(moment, deadline=self._deadline)
        except NairiError as error:
            if self._is_over and is_transient(error, idempotent=True, unreadable=True):
                raise self._target.timed_out() from error
            raise
        finally:
            counters.open_watches -= 1

    def polled(self, started_at: float, received_at: float, *, news: bool, explained: bool = True) -> None:
        """A look that began and came at these moments; the next is due when the cadence says.

        Counted from the beginning of the read, watchers that share reads fall into step; but where the read was held
        back, not at once after it. `explained` is false where a look that was announced has seen no change at all.
        """
        schedule = self._begin()
        self._account(started_at, news=news)
        self._interval = schedule.feed(started_at, news=news, jitter=self._context.random())
        self._due, self._is_fixed = max(started_at + self._interval, received_at + self._interval / 2.0), False
        # The listing may be ahead of what it announces: then the next look is this watcher's own.
        self._is_lagging = self.was_announced and not news and not explained
        self._polled_at = started_at

    def ended(self, started_at: float) -> None:
        """A look that began at this moment has found the end of what is waited for; `tell_end` says so."""
        schedule = self._begin()
        self._end = (started_at, schedule.expected_delay(started_at))
        self._account(started_at, news=True)
        schedule.end(started_at)

    def tell_end(self, turn: Turn, status: str, usage: Usage | None) -> None:
        """Tell how the turn has ended whose end was found, and what it brought: once, whoever else waited for it."""
        end, self._end = self._end, None
        if end is None or not self._context.has_newly_ended(turn):
            return
        hooks = self._context.executor.hooks
        if hooks.listens(log):
            moment, delay = end
            ended = TurnEnded(
                turn=turn if turn.agent_id is not None else evolve(turn, agent_id=self._target.agent_id),
                status=status,
                seconds=moment - (self._origin.moment if self._origin is not None else self._started_at),
                ended_at=self._clock.time() - (self._clock.monotonic() - moment),
                discovery_delay=delay,
                polls=self._polls,
                usage=usage,
            )
            hooks.emit(log, ended)

    def due_at(self, moment: float) -> None:
        """The next read is due at this moment, whatever the cadence says."""
        self._due, self._is_fixed = moment, True

    @property
    def started_at(self) -> float:
        """When the wait began; what was read before is too old to begin with."""
        self._begin()
        return self._started_at

    @property
    def _is_over(self) -> bool:
        return self._clock.monotonic() >= self._deadline

    @property
    def _trust(self) -> FeedTrust | None:
        if self._feed is None:
            return None
        return self._feed.ends if self._kind == "turn" else self._feed.messages

    def _begin(self) -> Schedule:
        if self._schedule is not None:
            return self._schedule
        now = self._started_at = self._clock.monotonic()
        self._deadline = now + self._timeout
        origin, agent_id = self._origin, self._target.agent_id
        started_at = origin.moment if origin is not None else now
        self._schedule = Schedule(self._context.cadence, agent_id, self._kind, started_at, known=origin is not None)
        if self._kind != "progress":
            self._feed = self._context.feeds.of(agent_id)
        if self._feed is not None:
            self._job = self._feed.register(self._target.job_id)
            if origin is not None and origin.answered is not None:
                self._job.prompted = (origin.moment, origin.answered)
        if origin is not None:
            # There is nothing to see at the very beginning.
            self.polled(origin.moment, origin.moment, news=False)
        return self._schedule

    def _leaves_it_to(self, feed: ChangeFeed) -> bool:
        """Whether an announcement is waited for instead of looking."""
        return (
            self._polled_at > -math.inf
            and not self._is_lagging
            and self._trust is not None
            and feed.replaces_looks(self._trust)
        )

    async def _wait_for_announcement(self, feed: ChangeFeed) -> None:
        trust, job = self._trust, self._job
        assert trust is not None  # noqa: S101 - whoever has a feed has these
        assert job is not None  # noqa: S101 - as above
        until = min(self._deadline, self._polled_at + _VERIFYING * self._context.polling.maximum)
        self._tell_plan(until, is_announced=True)
        self.was_announced = await feed.wait(job, trust, self._polled_at, until, own=self._origin is not None)
        if self._schedule is not None:
            self._schedule.waited_for_announcement(job.moved_at - feed.interval if self.was_announced else None)
        now = self._clock.monotonic()
        if not self.was_announced and now < until:
            # The listing stands for looks no more, for all at once: back to looking, spread over an interval.
            wait = self._wait_before(now + self._context.random() * min(self._interval, until - now))
            if wait > 0:
                await self._clock.sleep(wait)

    def _wait_before(self, moment: float) -> float:
        """Seconds to wait for a look that is planned for a moment."""
        self._tell_plan(moment, is_announced=False)
        return min(moment, self._deadline) - self._clock.monotonic()

    def _tell_plan(self, moment: float, *, is_announced: bool) -> None:
        hooks = self._context.executor.hooks
        if hooks.listens(log):
            planned = PollPlanned(
                job_id=self._target.job_id,
                agent_id=self._target.agent_id,
                wait=max(0.0, moment - self._clock.monotonic()),
                is_announced=is_announced,
            )
            hooks.emit(log, planned)

    def _account(self, started_at: float, *, news: bool) -> None:
        """Tell the meter and the listing what this look has brought."""
        if started_at <= self._polled_at or self._polled_at == -math.inf:
            return
        feed, trust, job = self._feed, self._trust, self._job
        if news:
            schedule = self._begin()
            self._context.counters.discovered(schedule.expected_delay(started_at))
        if feed is None or trust is None or job is None:
            return
        if news and not self.was_announced:
            feed.found(trust, job, self._polled_at, started_at)
        is_moved = job.moved_at > self._polled_at and not job.is_doubtful and not job.is_only_prompt
        waited = started_at - self._polled_at
        # Looks in quick succession at the beginning are no more than one reading would be.
        saved = waited / self._interval if self.was_announced else min(1.0, waited / feed.interval)
        trust.spent(1.0 if is_moved else 0.0, saved)
