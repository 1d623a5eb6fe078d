"""One listing announces changes for all watchers of an agent: read by one of them, and replacing polls once trusted.

While a listing is on trial it is read next to the watchers' own polls. Once it is trusted, watchers wait for it
instead: one of them leads, reads it at intervals in its own task, and wakes those whose conversation has changed. When
the leader leaves or is cancelled, another one takes over.

Patient watchers, whose turn is queued behind others or whose conversation is idle, wait in the same way with any
listing or none: they are also called by what the session itself does. For them alone the listing is read seldom.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Final
from weakref import WeakSet, WeakValueDictionary

from nairi_async._core.retry import is_refusal, is_transient
from nairi_async._nairi.polling.agent_queue import AgentQueue
from nairi_async._nairi.polling.feed_trust import PANEL, FeedTrust, TrustState, WatchedJob, suspension
from nairi_async._nairi.polling.listing_reader import ListingReader
from nairi_async._nairi.polling.turn_lengths import TurnLengths
from nairi_async._nairi.polling.waiters import Waiters
from nairi_async.errors import (
    AuthenticationError,
    NairiError,
    RequestTimeoutError,
    SessionClosedError,
    StatusError,
)
from nairi_async.models import ConversationSummary

if TYPE_CHECKING:
    from nairi_async._core.executor import RequestExecutor
    from nairi_async._nairi.polling.cadence import Kind
    from nairi_async._nairi.polling.counters import PollCounters
    from nairi_async._nairi.polling.settings import Polling
    from nairi_async._nairi.polling.waiters import Waiter
    from nairi_async.hooks import News

log = logging.getLogger("nairi_async.polling")

# Watched conversations of an agent below which their own polls cost no more than the trial would.
_WORTHWHILE: Final = 12
# The same once the listing is trusted: a reading replaces as many polls.
_FEW: Final = 4
# Seconds for which rows are known at least.
_CAUGHT_UP: Final = 3.0
# Consecutive readings that fail before that is logged.
_MOST_FAILURES: Final = 3
# Share of an interval after which a reading that is overdue is asked for again.
_RECHECK: Final = 0.1


class ChangeFeed:
    """The announcements of one agent's listing."""

    def __init__(
        self,
        executor: RequestExecutor,
        lane: RequestExecutor,
        polling: Polling,
        counters: PollCounters,
        agent_id: str | None,
    ) -> None:
        self._executor = executor
        self._clock = executor.clock
        self._agent_id = agent_id or ""
        self.interval: float = 2.0 * polling.delay
        """Seconds between two readings. An announcement later than that would cost more delay than is acceptable."""
        self._long_interval = max(self.interval, polling.maximum)
        state = TrustState.ON_TRIAL if agent_id is not None else TrustState.OFF
        self.ends: FeedTrust = FeedTrust(state)
        """Whether it announces the ends of turns."""
        self.messages: FeedTrust = FeedTrust(state)
        """Whether it announces each message."""
        # What moves with each progress entry is not worth a reading of the listing.
        self._never = FeedTrust(TrustState.OFF)
        self.queue: AgentQueue = AgentQueue()
        """The turns of this session that queue at the agent."""
        self._reader = ListingReader(executor, lane, counters, self._agent_id, self.interval)
        self._failures = 0
        # Until then the listing is not read, because it could not be; watchers poll by themselves.
        self._suspended_until = -math.inf
        self._jobs: WeakValueDictionary[str, WatchedJob] = WeakValueDictionary()
        self._panel: WeakSet[WatchedJob] = WeakSet()
        self._waiters = Waiters()
        self._announced_at = -math.inf
        self.lengths: TurnLengths = TurnLengths(polling.delay)
        """How long the agent's last turns took."""
        # Seconds by which the service's times of prompts were behind its `Date` at most; infinity before the first.
        self._behind = math.inf

    def catch_up(self, job: WatchedJob, sent_at: float) -> bool:
        """Announce what was listed before a conversation was watched, and return whether all of it is known.

        `sent_at` is when its prompt was sent; rows of the last seconds are known.
        """
        self._reader.watch_since(sent_at)
        if self._announced_at < sent_at:
            return True
        if sent_at < self._clock.monotonic() - self.interval or self.interval > _CAUGHT_UP:
            return False
        updated_at = self._reader.listed_at(job.job_id)
        if updated_at is not None and job.moved_at < self._announced_at:
            row = ConversationSummary(id=job.job_id, status="active", updated_at=updated_at)
            job.announce(row, self._announced_at, self._executor.server_clock.at, self.lengths.shortest)
        return True

    @property
    def is_of_one_agent(self) -> bool:
        """Whether it is the feed of a known agent; otherwise it has no listing, and its conversations no queue."""
        return bool(self._agent_id)

    @property
    def is_watched(self) -> bool:
        """Whether a conversation is watched."""
        return bool(self._jobs)

    def trust_for(self, kind: Kind) -> FeedTrust:
        """Return the trust that counts for those who wait for this kind of news."""
        if kind == "progress":
            return self._never
        return self.ends if kind == "turn" else self.messages

    def replaces_polls(self, trust: FeedTrust, job: WatchedJob) -> bool:
        """Return whether a watcher should wait for it instead of polling by itself.

        On its first trial it replaces the polls of most of many conversations; a panel of them tests it.
        """
        if self._is_suspended:
            return False
        if trust.state is TrustState.TRUSTED:
            return self._impatient >= _FEW
        is_first_trial = trust.state is TrustState.ON_TRIAL and not trust.reason
        return is_first_trial and not job.is_of_panel and self._impatient >= 2 * PANEL

    def serves_patient(self, trust: FeedTrust) -> bool:
        """Return whether a trusted listing is read for those who are patient, so that they hardly need to poll."""
        return trust.state is TrustState.TRUSTED and self._interval_for(trust) < math.inf

    @property
    def _impatient(self) -> int:
        """How many watched conversations may have news soon."""
        return len(self._jobs) - self._waiters.patient

    def _interval_for(self, trust: FeedTrust) -> float:
        """Return the seconds between readings that this kind of news is worth; infinity for no reading."""
        if self._is_suspended or trust.state is TrustState.OFF:
            return math.inf
        enough = _FEW if trust.state is TrustState.TRUSTED else _WORTHWHILE
        if self._impatient >= enough:
            return self.interval
        return self._long_interval if len(self._jobs) >= enough else math.inf

    @property
    def _is_suspended(self) -> bool:
        return self._suspended_until > -math.inf

    def register(self, job_id: str) -> WatchedJob:
        """Add a watched conversation; it counts as watched for as long as the caller holds what is returned."""
        if not self._jobs:
            self._reader.reset()
        self._reader.watch_since(self._clock.monotonic())
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
        if not is_wanted or self._is_read_by_leader or now < self._suspended_until:
            return
        due_at = self._reader.next_at if self._impatient >= _FEW else math.inf
        if not is_trusted:
            due_at = self._due_at(trust)
        if self._reader.is_due(due_at):
            await self._read()

    @property
    def _is_read_by_leader(self) -> bool:
        return self._waiters.leader is not None and len(self._waiters) > self._waiters.patient

    def _due_at(self, trust: FeedTrust) -> float:
        """Return when the next reading is due: soon where it is needed to judge a discovery on trial."""
        due_at = self._reader.due_at(self._interval_for(trust))
        if due_at < math.inf and trust.state is TrustState.ON_TRIAL:
            due_at = min(due_at, max(self._reader.next_at, trust.doubted_at + self.interval))
        return due_at

    async def wait(
        self,
        job: WatchedJob,
        trust: FeedTrust,
        since: float,
        until: float,
        *,
        sent_at: float | None,
        is_patient: bool,
    ) -> bool:
        """Wait for an announcement made after `since`; return false at `until`, or when the trust is lost.

        `sent_at` is when the watcher sent the conversation's last prompt, whose own change is no news to it; `None` if
        it did not. One that is patient waits also without trust, and until it is called: the result is false then.
        """
        is_own = sent_at is not None
        waiter = self._waiters.join(job, until, is_patient=is_patient)
        try:
            while self._clock.monotonic() < until and (is_patient or self.replaces_polls(trust, job)):
                if is_own and job.is_doubtful:
                    job.judge(self._executor.server_clock.at, self.lengths.shortest)
                # What may be the prompt itself is not worth a poll where one comes soon, or where news is not likely.
                is_likely = trust.state is not TrustState.ON_TRIAL or job.is_late
                is_vague = is_own and job.is_doubtful and (is_patient or not is_likely)
                if self.has_news(job, since, sent_at) and not is_vague:
                    return True
                if is_patient and job.called_at > since:
                    return False
                if self._waiters.leader is None:
                    await self._lead(waiter, trust)
                else:
                    await waiter.sleep()
            return self.has_news(job, since, sent_at) and not (is_own and job.is_doubtful)
        finally:
            self._waiters.leave(job, waiter)

    def has_news(self, job: WatchedJob, since: float, sent_at: float | None) -> bool:
        """Return whether news was announced after `since`, for a watcher that sent the prompt at `sent_at`, if any."""
        if sent_at is None:
            return job.has_news(since, is_own=False)
        earliest = self._executor.server_clock.at(sent_at)[0]
        return job.has_news(since, is_own=True, sent_at=earliest - self._behind)

    def observe_prompt(self, sent_at: float, came_at: float) -> None:
        """Take in the Unix time that the service gives a prompt that was sent at `sent_at`."""
        earliest = self._executor.server_clock.at(sent_at)[0]
        if earliest > -math.inf:
            behind = max(0.0, earliest - came_at)
            self._behind = behind if self._behind == math.inf else max(self._behind, behind)

    def call(self, job: WatchedJob) -> None:
        """Let patient watchers of a conversation poll now."""
        job.called_at = self._clock.monotonic()
        self._waiters.wake(job)

    def call_job(self, job_id: str) -> None:
        """Let patient watchers of a conversation, if there are any, poll now."""
        if (job := self._jobs.get(job_id)) is not None:
            self.call(job)

    def observe_discovery(self, trust: FeedTrust, job: WatchedJob, alive: float, found: float) -> None:
        """Take in that a poll found by itself what should have been announced."""
        before, reason = trust.state, trust.reason
        if self._interval_for(trust) == math.inf:
            return  # It is not read now, so this is neither for nor against it.
        if alive < self._reader.begun_at:
            return  # It was not read then.
        trust.observe_discovery(job, alive, found)
        self._emit_if_changed(trust, before, reason)

    def observe_end(self, trust: FeedTrust, job: WatchedJob, ended_at: float, poll_seconds: float) -> None:
        """Take in that an announced turn ended at `ended_at`, in the service's Unix time.

        The poll that found it took `poll_seconds`: if a page takes longer, the listing is late by as much.
        """
        earliest, latest = self._executor.server_clock.at(job.missed_at)
        if -math.inf < earliest <= latest < math.inf:
            before, reason = trust.state, trust.reason
            late = max(earliest - ended_at, self._reader.page_seconds - poll_seconds)
            trust.observe_lateness(late, self.interval, self._clock.monotonic())
            self._emit_if_changed(trust, before, reason)

    def observe_length(self, seconds: float) -> None:
        """Take in how long a turn of the agent took from its prompt to its end."""
        if self.lengths.observe(seconds):
            # What was taken for the prompt of another turn may have been its end.
            self._waiters.wake_all()

    async def _lead(self, waiter: Waiter, trust: FeedTrust) -> None:
        """Wait for the next reading on behalf of all, and make it."""
        waiters, reader = self._waiters, self._reader
        waiters.leader = waiter
        try:
            now = self._clock.monotonic()
            is_long = len(waiters) == waiters.patient
            used = [one for one in (self.ends, self.messages) if one is trust or one.state is TrustState.TRUSTED]
            due_at = min(map(self._due_at, used), default=math.inf) if is_long else reader.next_at
            if due_at < math.inf:
                # A slow reading of another task may be under way when the next one is due: not asked at each pass.
                due_at = now + _RECHECK * self.interval if reader.is_reading else max(due_at, now)
            until = min(due_at, waiter.until, max(waiters.next_deadline, now))
            await waiters.rest(self._clock, until, is_long=is_long)
            waiters.wake_expired(self._clock.monotonic())
            if reader.is_due(due_at):
                await self._read()
            elif due_at <= self._clock.monotonic():
                reader.postpone()
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
            if self._impatient < _FEW:
                self._waiters.wake_all()
            self._waiters.wake_expired(self._clock.monotonic())

    def _announce(self, changed: dict[str, ConversationSummary], received_at: float) -> None:
        self._announced_at = received_at
        for trust in (self.ends, self.messages):
            trust.observe_page()
        for job_id, row in changed.items():
            job = self._jobs.get(job_id)
            if job is not None:
                clock, shortest = self._executor.server_clock, self.lengths.shortest
                job.announce(row, received_at, clock.at, shortest, self._reader.previous_at)
                self._waiters.wake(job)

    def _observe_failure(self, error: Exception) -> None:
        if isinstance(error, AuthenticationError | SessionClosedError):
            return  # The watchers meet it by themselves.
        now = self._clock.monotonic()
        reason = f"it cannot be read: {error}"
        if isinstance(error, NairiError) and is_transient(error, idempotent=True, unreadable=True):
            # An outage, or a refusal: watchers poll by themselves until it can be read again.
            asked = error.retry_after if isinstance(error, StatusError) else None
            self._suspended_until = now + suspension(self._failures, asked, self._executor.random())
            self._failures += 1
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
        from nairi_async.hooks import FeedChanged  # noqa: PLC0415 - see `event_hooks`

        changed = FeedChanged(agent_id=self._agent_id, news=news, is_used=reason is None, reason=reason or "")
        level = logging.INFO if reason is None else logging.WARNING if is_first else logging.DEBUG
        self._executor.hooks.emit(log, changed, level)
        # Also where it is used from now on: what may have been announced on trial is worth a poll now.
        self._waiters.wake_all()


def _is_throttled(error: Exception) -> bool:
    """Return whether a rate limit, and nothing about the listing, kept it from being read."""
    if isinstance(error, RequestTimeoutError):
        return not error.sent
    return isinstance(error, NairiError) and is_refusal(error)
