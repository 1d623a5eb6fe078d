"""One listing announces changes for all watchers of an agent: read by one of them, and replacing polls once trusted.

While a listing is on trial it is read next to the watchers' own polls. Once it is trusted, watchers wait for it
instead: one of them leads, reads it at intervals in its own task, and wakes those whose conversation has changed. When
the leader leaves or is cancelled, another one takes over.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Final
from weakref import WeakSet, WeakValueDictionary

from nairi_async._core.rate_limits import RateLimiter
from nairi_async._core.retry import is_refusal, is_transient
from nairi_async._nairi.polling.feed_trust import PANEL, FeedTrust, TrustState, WatchedJob
from nairi_async._nairi.polling.listing_reader import ListingReader
from nairi_async._nairi.polling.waiters import Waiters
from nairi_async.errors import (
    AuthenticationError,
    NairiError,
    RequestTimeoutError,
    SessionClosedError,
    StatusError,
)
from nairi_async.hooks import FeedChanged, News

if TYPE_CHECKING:
    from nairi_async._core.executor import RequestExecutor
    from nairi_async._nairi.polling.cadence import Kind
    from nairi_async._nairi.polling.settings import Polling
    from nairi_async._nairi.polling.statistics import PollCounters
    from nairi_async._nairi.polling.waiters import Waiter
    from nairi_async.models import ConversationSummary

log = logging.getLogger("nairi_async.polling")

# Watched conversations of an agent below which their own polls cost no more than the trial would.
_WORTHWHILE: Final = 12
# The same once the listing is trusted: a reading replaces as many polls.
_FEW: Final = 4
# Consecutive readings that fail before that is logged.
_MOST_FAILURES: Final = 3
# Share of an interval after which a reading that is overdue is asked for again.
_RECHECK: Final = 0.1
# Seconds for which a listing that could not be read is left alone; they double each time.
_FIRST_SUSPENSION: Final = 4.0
_LONGEST_SUSPENSION: Final = 300.0
# Connections of a session from which on one may be the listing's own.
_MANY_CONNECTIONS: Final = 10


class ChangeFeed:
    """The announcements of one agent's listing."""

    def __init__(
        self,
        executor: RequestExecutor,
        lane: RequestExecutor,
        polling: Polling,
        counters: PollCounters,
        agent_id: str,
    ) -> None:
        self._executor = executor
        self._clock = executor.clock
        self._agent_id = agent_id
        self.interval: float = 2.0 * polling.delay
        """Seconds between two readings. An announcement later than that would cost more delay than is acceptable."""
        self.ends: FeedTrust = FeedTrust()
        """Whether it announces the ends of turns."""
        self.messages: FeedTrust = FeedTrust()
        """Whether it announces each message."""
        self._reader = ListingReader(executor, lane, counters, agent_id, self.interval)
        self._failures = 0
        # Until then the listing is not read, because it could not be; watchers poll by themselves.
        self._suspended_until = -math.inf
        self._jobs: WeakValueDictionary[str, WatchedJob] = WeakValueDictionary()
        self._panel: WeakSet[WatchedJob] = WeakSet()
        self._waiters = Waiters()
        self._lead_until = -math.inf
        self._announced_at = -math.inf

    @property
    def announced_at(self) -> float:
        """When the last page was received; long ago before the first."""
        return self._announced_at

    def trust_for(self, kind: Kind) -> FeedTrust:
        """Return the trust that counts for those who wait for this kind of news."""
        return self.ends if kind == "turn" else self.messages

    def replaces_polls(self, trust: FeedTrust, job: WatchedJob) -> bool:
        """Return whether a watcher should wait for it instead of polling by itself.

        On its first trial it replaces the polls of most of many conversations; a panel of them tests it.
        """
        if self._is_suspended:
            return False
        if trust.state is TrustState.TRUSTED:
            return len(self._jobs) >= _FEW
        is_first_trial = trust.state is TrustState.ON_TRIAL and not trust.reason
        return is_first_trial and not job.is_of_panel and len(self._jobs) >= 2 * PANEL

    @property
    def _is_suspended(self) -> bool:
        return self._suspended_until > -math.inf

    def register(self, job_id: str) -> WatchedJob:
        """Add a watched conversation; it counts as watched for as long as the caller holds what is returned."""
        if not self._jobs:
            self._reader.reset()
        job = self._jobs.get(job_id)
        if job is None:
            job = self._jobs[job_id] = WatchedJob(job_id, is_of_panel=len(self._panel) < PANEL)
            if job.is_of_panel:
                self._panel.add(job)
        return job

    async def try_out(self, trust: FeedTrust) -> None:
        """Read the listing next to the watchers' own polls, if a reading is due that may show whether it is of use.

        That is while it is on trial for the watcher's kind of news, and where it could not be read for a while.
        """
        now = self._clock.monotonic()
        trust.try_again(now)
        is_trusted = trust.state is TrustState.TRUSTED and self._is_suspended
        is_wanted = is_trusted or trust.state is TrustState.ON_TRIAL
        if not is_wanted or self._waiters.leader is not None or now < self._suspended_until:
            return
        if self._reader.is_due and len(self._jobs) >= (_FEW if is_trusted else _WORTHWHILE):
            await self._read()

    async def wait(self, job: WatchedJob, trust: FeedTrust, since: float, until: float, *, is_own: bool) -> bool:
        """Wait for an announcement made after `since`; return false at `until`, or when the trust is lost.

        `is_own` says that the watcher sent the conversation's last prompt, whose own change is no news to it.
        """
        waiter = self._waiters.join(job, until)
        try:
            while self.replaces_polls(trust, job) and self._clock.monotonic() < until:
                if job.has_news(since, is_own=is_own):
                    return True
                if self._waiters.leader is None:
                    await self._lead(waiter)
                elif until <= self._lead_until:
                    # Nothing can be announced before.
                    await self._clock.sleep(until - self._clock.monotonic())
                else:
                    await waiter.sleep()
            return job.has_news(since, is_own=is_own)
        finally:
            self._waiters.leave(job, waiter)

    def observe_discovery(self, trust: FeedTrust, job: WatchedJob, alive: float, found: float) -> None:
        """Take in that a poll found by itself what should have been announced."""
        before, reason = trust.state, trust.reason
        if before is TrustState.ON_TRIAL and len(self._jobs) < _WORTHWHILE:
            return  # It is not read now, so this is neither for nor against it.
        if self._is_suspended or alive < self._reader.begun_at:
            return  # It was not read then.
        trust.observe_discovery(job, alive, found)
        self._emit_if_changed(trust, before, reason)

    async def _lead(self, waiter: Waiter) -> None:
        """Wait for the next reading on behalf of all, and make it."""
        waiters = self._waiters
        waiters.leader = waiter
        try:
            now = self._clock.monotonic()
            # A slow reading of another task may still be under way when the next one is due: not asked at each pass.
            due = now + _RECHECK * self.interval if self._reader.is_reading else max(self._reader.next_at, now)
            self._lead_until = min(due, waiter.until, max(waiters.next_deadline, now))
            await self._clock.sleep(self._lead_until - now)
            waiters.wake_expired(self._clock.monotonic())
            if self._reader.is_due:
                await self._read()
            else:
                self._reader.postpone()
        finally:
            waiters.leader = None

    async def _read(self) -> None:
        """Read what has changed since the last reading, and judge the listing by it."""
        started_at = self._clock.monotonic()
        try:
            is_complete = await self._reader.read(self._announce)
            self._observe_success()
        except (NairiError, ValueError) as error:
            self._observe_failure(error)
        else:
            for trust in (self.ends, self.messages) if is_complete else ():
                state, reason = trust.state, trust.reason
                trust.observe_reading(started_at, self.interval)
                self._emit_if_changed(trust, state, reason)
        finally:
            if len(self._jobs) < _FEW:
                self._waiters.wake_all()
            self._waiters.wake_expired(self._clock.monotonic())

    def _announce(self, changed: dict[str, ConversationSummary], received_at: float) -> None:
        self._announced_at = received_at
        for trust in (self.ends, self.messages):
            trust.observe_page()
        for job_id, row in changed.items():
            job = self._jobs.get(job_id)
            if job is not None:
                job.announce(row, received_at, self._executor.server_clock.at)
                self._waiters.wake(job)

    def _observe_failure(self, error: Exception) -> None:
        if isinstance(error, AuthenticationError | SessionClosedError):
            return  # The watchers meet it by themselves.
        now = self._clock.monotonic()
        reason = f"it cannot be read: {error}"
        if isinstance(error, NairiError) and is_transient(error, idempotent=True, unreadable=True):
            # An outage, or a refusal: watchers poll by themselves until it can be read again.
            wait = min(_LONGEST_SUSPENSION, _FIRST_SUSPENSION * 2.0**self._failures)
            if isinstance(error, StatusError) and error.retry_after is not None:
                wait = max(wait, error.retry_after)
            self._failures += 1
            self._suspended_until = now + wait * (0.75 + 0.5 * self._executor.random())
            for trust in (self.ends, self.messages):
                trust.observe_interruption()
            if self._failures == _MOST_FAILURES and not _is_throttled(error):
                self._emit("anything", reason, is_first=True)
            self._waiters.wake_all()
        else:
            is_first = not self.ends.reason
            for trust in (self.ends, self.messages):
                trust.switch_off(reason, now)
            self._emit("anything", reason, is_first=is_first)

    def _observe_success(self) -> None:
        if self._failures >= _MOST_FAILURES and self.ends.state is TrustState.TRUSTED:
            self._emit("anything", None)
        self._failures, self._suspended_until = 0, -math.inf

    def _emit_if_changed(self, trust: FeedTrust, before: TrustState, reason: str) -> None:
        """Report a change of trust; `before` and `reason` are what the trust was."""
        if trust.state is not before:
            news: News = "ends of turns" if trust is self.ends else "messages"
            is_first = before is TrustState.TRUSTED or not reason
            self._emit(news, trust.reason if trust.state is TrustState.OFF else None, is_first=is_first)

    def _emit(self, news: News, reason: str | None, *, is_first: bool = False) -> None:
        """Announce that the listing is used from now on or, with a reason, that it no longer is.

        Where a new trial has failed as the one before, the log says so at a low level only.
        """
        changed = FeedChanged(agent_id=self._agent_id, news=news, is_used=reason is None, reason=reason or "")
        level = logging.INFO if reason is None else logging.WARNING if is_first else logging.DEBUG
        self._executor.hooks.emit(log, changed, level)
        if reason:
            self._waiters.wake_all()


def _is_throttled(error: Exception) -> bool:
    """Return whether a rate limit, and nothing about the listing, kept it from being read."""
    if isinstance(error, RequestTimeoutError):
        return not error.sent
    return isinstance(error, NairiError) and is_refusal(error)


def _lane(executor: RequestExecutor) -> RequestExecutor:
    """Return what reads listings: outside of the queue of polls, so that a cold start does not delay them.

    A listing is optional: where it is refused, only its own readings are held back. The pool of connections bounds
    both. With a bound on requests a second, or few connections, there is one queue.
    """
    limiter = executor.limiter
    if limiter.has_rate or limiter.connections < _MANY_CONNECTIONS:
        return executor
    return executor.with_limiter(RateLimiter(executor.clock, executor.random, connections=1))


class ChangeFeeds:
    """The feeds of a session's agents."""

    def __init__(self, executor: RequestExecutor, polling: Polling, counters: PollCounters) -> None:
        self._executor = executor
        self._lane = _lane(executor)
        self._counters = counters
        self._polling = polling
        self._feeds: dict[str, ChangeFeed] = {}

    def of(self, agent_id: str | None) -> ChangeFeed | None:
        """Return the feed of an agent; `None` where the agent is not known."""
        if agent_id is None:
            return None
        feed = self._feeds.get(agent_id)
        if feed is None:
            feed = self._feeds[agent_id] = ChangeFeed(
                self._executor, self._lane, self._polling, self._counters, agent_id
            )
        return feed
