"""One listing announces for all: the feed of an agent, read by whichever watcher is first (design section 7).

While a listing is on trial it is read beside the watchers' own looks. Once trusted, watchers wait for it instead: one
of them, in its own task, reads the listing at intervals and wakes those whose conversation has moved; when that one
leaves or is cancelled, another takes over. There is no task behind it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import math
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode
from weakref import WeakValueDictionary

from attrs import define

from nairi_async._core.address import path
from nairi_async._core.request import Request
from nairi_async._core.retry import is_refusal, is_transient
from nairi_async._nairi.polling.feed_trust import PAGE, FeedTrust, Listing, Query, TrustState, WatchedJob
from nairi_async._nairi.wire import decode_conversations
from nairi_async.errors import AuthenticationError, NairiError, RequestTimeoutError, SessionClosedError
from nairi_async.hooks import FeedChanged, News

if TYPE_CHECKING:
    from nairi_async._core.executor import RequestExecutor
    from nairi_async._nairi.polling.cadence import Polling
    from nairi_async._nairi.polling.statistics import PollCounters
    from nairi_async.models import ConversationSummary

log = logging.getLogger("nairi_async.polling")

# Conversations of an agent below which their own looks cost no more than the trial would.
_WORTHWHILE: Final = 12
# The same once it is trusted: a reading stands for as many looks.
_FEW: Final = 4
# Half the width of the jitter of readings.
_JITTER: Final = 0.1
# Pages read at a time; what is left over is read the next time.
_MOST_PAGES: Final = 50
# Readings that fail one after the other before the listing is given up.
_PATIENCE: Final = 3


class ChangeFeed:
    """The listing of one agent."""

    def __init__(self, executor: RequestExecutor, polling: Polling, counters: PollCounters, agent_id: str) -> None:
        self._executor = executor
        self._counters = counters
        self._clock = executor.clock
        self._agent_id = agent_id
        self.interval = 2.0 * polling.delay
        """Seconds between two readings."""
        # Later than this, an announcement would cost more delay than the caller wants.
        self._grace = self.interval
        self._listing = Listing()
        self._jobs: WeakValueDictionary[str, WatchedJob] = WeakValueDictionary()
        self.ends = FeedTrust()
        """Whether it announces the ends of turns."""
        self.messages = FeedTrust()
        """Whether it announces each message."""
        self._next = -math.inf
        self._failures = 0
        self._rest: Query | None = None
        self._reading = False
        self._waiters: dict[WatchedJob, list[_Waiter]] = {}
        self._deadlines: list[tuple[float, int, _Waiter]] = []
        self._order = itertools.count()
        self._leader: _Waiter | None = None
        self._lead_until = -math.inf

    @property
    def is_off(self) -> bool:
        """Whether it is of no use to anybody."""
        return self.ends.state is TrustState.OFF and self.messages.state is TrustState.OFF

    def replaces_looks(self, trust: FeedTrust) -> bool:
        """Whether watchers should wait for it instead of looking by themselves."""
        return trust.state is TrustState.TRUSTED and len(self._jobs) >= _FEW

    def register(self, job_id: str) -> WatchedJob:
        """A conversation that is watched from now on, as long as the caller holds what is returned."""
        if not self._jobs:
            self._listing, self._rest = Listing(), None
        job = self._jobs.get(job_id)
        if job is None:
            job = self._jobs[job_id] = WatchedJob(job_id)
        return job

    async def try_out(self) -> None:
        """Read the listing beside the watchers' own looks, if it is on trial and its time has come."""
        is_on_trial = TrustState.ON_TRIAL in (self.ends.state, self.messages.state)
        is_idle = self._leader is None and not self._reading and self._clock.monotonic() >= self._next
        if is_on_trial and is_idle and len(self._jobs) >= _WORTHWHILE:
            await self._read()

    async def wait(self, job: WatchedJob, trust: FeedTrust, since: float, until: float, *, own: bool) -> bool:
        """Wait for an announcement that was made after `since`; false at `until`, or when the trust is lost.

        `own` if the watcher sent the conversation's last prompt, whose own change is no news to it.
        """
        waiter = _Waiter(until)
        self._waiters.setdefault(job, []).append(waiter)
        heapq.heappush(self._deadlines, (until, next(self._order), waiter))
        try:
            while self.replaces_looks(trust) and self._clock.monotonic() < until:
                if job.has_news(since, own=own):
                    return True
                if self._leader is None:
                    await self._lead(waiter)
                elif until <= self._lead_until:
                    # Nothing can be announced before.
                    await self._clock.sleep(until - self._clock.monotonic())
                else:
                    waiter.woken = asyncio.get_running_loop().create_future()
                    await waiter.woken
            return job.has_news(since, own=own)
        finally:
            waiter.has_left = True
            self._leave(job, waiter)

    async def _lead(self, waiter: _Waiter) -> None:
        """Wait for the next reading on behalf of all, and make it."""
        self._leader = waiter
        try:
            now = self._clock.monotonic()
            earliest = self._deadlines[0][0] if self._deadlines else math.inf
            self._lead_until = min(max(self._next, now), waiter.until, max(earliest, now))
            await self._clock.sleep(self._lead_until - now)
            self._wake_the_late()
            if self._clock.monotonic() >= self._next and not self._reading:
                await self._read()
        finally:
            self._leader = None

    def _leave(self, job: WatchedJob, waiter: _Waiter) -> None:
        waiters = self._waiters[job]
        waiters.remove(waiter)
        if not waiters:
            del self._waiters[job]
        if self._leader is None:
            # Somebody must look after the others.
            successor = next((other for others in self._waiters.values() for other in others if other.is_asleep), None)
            if successor is not None:
                successor.wake()

    async def _read(self) -> None:
        """Read what has changed since the last time, and tell those whom it concerns."""
        self._reading = True
        started_at = self._clock.monotonic()
        # Not in step with the service's seconds, nor with other sessions.
        self._next = started_at + self.interval * (1.0 + _JITTER * (2.0 * self._executor.random() - 1.0))
        pages = 0
        try:
            query: Query | None = self._rest or self._listing.begin()
            self._rest = None
            while query is not None and pages < _MOST_PAGES:
                rows = await self._executor.call(
                    self._request(query),
                    decode_conversations,
                    unreadable_is_transient=True,
                    deadline=started_at + max(self.interval, self._executor.request_timeout),
                )
                pages += 1
                changed, query = self._listing.feed(rows)
                # A page tells of what was still unchanged when the reading began, or when the page was asked for.
                self._announce(changed, self._clock.monotonic())
            self._failures = 0
            # Begun anew, a reading that is longer than this would never come to its end.
            self._rest = query
        except (NairiError, ValueError) as error:
            self._fail(error)
        else:
            if query is None:
                for trust in (self.ends, self.messages):
                    before = trust.state
                    trust.read(started_at, self._grace)
                    self._tell_change(trust, before)
        finally:
            self._reading = False
            self._counters.polls += pages
            for trust in (self.ends, self.messages):
                trust.spent(pages, 0.0)
            if len(self._jobs) < _FEW:
                self._wake_all()
            self._wake_the_late()

    def _announce(self, changed: dict[str, ConversationSummary], at: float) -> None:
        for job_id, row in changed.items():
            job = self._jobs.get(job_id)
            if job is not None:
                job.announce(row, at, self._executor.server_clock.at)
                for waiter in self._waiters.get(job, ()):
                    waiter.wake()

    def _fail(self, error: Exception) -> None:
        if isinstance(error, AuthenticationError | SessionClosedError) or _is_held_back(error):
            return  # The watchers will hear of it by themselves, or it is the session's own restraint.
        self._failures += 1
        is_passing = isinstance(error, NairiError) and is_transient(error, idempotent=True, unreadable=True)
        if not is_passing or self._failures >= _PATIENCE:
            reason = f"it cannot be read: {error}"
            self.ends.switch_off(reason)
            self.messages.switch_off(reason)
            self._tell("anything", reason)

    def _tell_change(self, trust: FeedTrust, before: TrustState) -> None:
        if trust.state is not before:
            news: News = "ends of turns" if trust is self.ends else "messages"
            self._tell(news, trust.reason if trust.state is TrustState.OFF else None)

    def _tell(self, news: News, reason: str | None) -> None:
        """Tell that the listing is used from now on, or, with a reason, that it is not any more."""
        changed = FeedChanged(agent_id=self._agent_id, news=news, is_used=reason is None, reason=reason or "")
        self._executor.hooks.emit(log, changed, logging.WARNING if reason else logging.INFO)
        if reason:
            self._wake_all()

    def found(self, trust: FeedTrust, job: WatchedJob, alive: float, found: float) -> None:
        """A look has found by itself what should have been announced."""
        before = trust.state
        if before is TrustState.ON_TRIAL and len(self._jobs) < _WORTHWHILE:
            return  # It is not read now, so it can neither prove true nor fail.
        trust.found(job, alive, found)
        self._tell_change(trust, before)

    def _wake_the_late(self) -> None:
        now = self._clock.monotonic()
        while self._deadlines and (self._deadlines[0][0] <= now or self._deadlines[0][2].has_left):
            heapq.heappop(self._deadlines)[2].wake()

    def _wake_all(self) -> None:
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.wake()

    def _request(self, query: Query) -> Request:
        parameters = {"limit": str(PAGE)}
        if query.updated_after is None:
            parameters["sort"] = "updated_at_desc"
        else:
            after = query.updated_after.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            parameters |= {"sort": "updated_at_asc", "updated_after": after}
        if query.offset:
            parameters["offset"] = str(query.offset)
        location = path("agents", self._agent_id, "conversations")
        return Request(method="GET", path=location, query=urlencode(parameters), observe_date=True)


def _is_held_back(error: Exception) -> bool:
    """Whether a rate limit, and nothing about the listing, kept it from being read."""
    if isinstance(error, RequestTimeoutError):
        return not error.sent
    return isinstance(error, NairiError) and is_refusal(error)


@define(eq=False)
class _Waiter:
    """A watcher that waits for an announcement."""

    until: float
    woken: asyncio.Future[None] | None = None
    has_left: bool = False

    @property
    def is_asleep(self) -> bool:
        return self.woken is not None and not self.woken.done()

    def wake(self) -> None:
        if self.woken is not None and not self.woken.done():
            self.woken.set_result(None)


class ChangeFeeds:
    """The feeds of a session's agents, each as long as somebody watches one of its conversations."""

    def __init__(self, executor: RequestExecutor, polling: Polling, counters: PollCounters) -> None:
        self._executor = executor
        self._counters = counters
        self._polling = polling
        self._feeds: dict[str, ChangeFeed] = {}

    def of(self, agent_id: str | None) -> ChangeFeed | None:
        """The feed of an agent; `None` where the agent is not known, or its listing is of no use."""
        if agent_id is None:
            return None
        feed = self._feeds.get(agent_id)
        if feed is None:
            feed = self._feeds[agent_id] = ChangeFeed(self._executor, self._polling, self._counters, agent_id)
        return None if feed.is_off else feed
