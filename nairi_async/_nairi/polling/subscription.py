"""One watcher's subscription to an agent's listing: whether to wait for it, and whether its announcements were true."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from nairi_async._nairi.polling.agent_queue import QueuedTurn
from nairi_async._nairi.polling.feed_trust import TrustState, trial_patience

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from datetime import datetime
    from typing import Any

    from nairi_async._nairi.polling.cadence import Kind
    from nairi_async._nairi.polling.change_feed import ChangeFeed
    from nairi_async._nairi.polling.context import PollingContext, TurnOrigin
    from nairi_async._nairi.polling.feed_trust import FeedTrust
    from nairi_async._nairi.polling.schedule import Schedule
    from nairi_async._nairi.polling.settings import Polling


# Where a listing is trusted, each conversation is still polled after this many times `Polling.maximum`, to verify it.
_VERIFYING: Final = 5.0
# And after this share of `Polling.maximum` where a change was announced that no later poll has explained: what was
# taken for the prompt may have been the end of a very short turn, and a poll may have been answered by a server that
# lags by so many seconds.
_EXPLAINING: Final = 0.95
_LAG: Final = 10.0
# A turn that is queued behind others is polled after nearly `Polling.maximum`, this share of the time it has been
# queued, or so many stated delays for each queued turn before it: the longest of these.
_QUEUED_SHARE: Final = 0.25
_EACH_BEFORE: Final = 2.0
# The same with a trusted listing, the first in times of `Polling.maximum`.
_VERIFYING_QUEUED: Final = 60.0
_VERIFYING_SHARE: Final = 1.0
_VERIFYING_EACH_BEFORE: Final = 30.0
# Where only turns that run are before it, it is polled after `Polling.maximum`, or so many times that.
_VERIFYING_NEXT: Final = 2.0
# An idle conversation is polled after this share of the time for which it has been idle.
_IDLE_SHARE: Final = 0.2


class Subscription:
    """A watched conversation in the feed of its agent."""

    __slots__ = (
        "_explained_at",
        "_job",
        "_number",
        "_own_until",
        "_queued",
        "_sent_at",
        "_trust",
        "early_at",
        "feed",
        "was_announced",
    )  # fmt: skip

    def __init__(self, feed: ChangeFeed, job_id: str, kind: Kind, origin: TurnOrigin | None) -> None:
        self.feed = feed
        self.was_announced = False
        """Whether the poll that is due was announced, so that news is likely."""
        self._trust = feed.trust_for(kind)
        self._job = feed.register(job_id)
        self._number = origin.number if origin is not None and feed.is_of_one_agent else None
        self._queued: QueuedTurn | None = None
        # The watcher that sent the prompt does not take its change for news.
        self._sent_at = origin.sent_at if origin is not None else None
        if origin is not None and origin.answered_at is not None:
            self._job.prompted, self._job.prompt_came_at = (origin.sent_at, origin.answered_at), None
        # Until then no announcement replaces polls: after an announced one that showed no end, and until the first one
        # where the conversation may have been announced before it was registered.
        is_missed = origin is None or not feed.catch_up(self._job, origin.sent_at)
        self._own_until = math.inf if is_missed else -math.inf
        # What was announced up to then is explained by a poll, or is older than the turn. A clock may be coarse.
        self._explained_at = math.nextafter(origin.sent_at, -math.inf) if origin is not None else -math.inf
        self.early_at: float = origin.sent_at + feed.lengths.early if origin is not None else math.inf
        """When the first poll is worthwhile although the listing is awaited; infinity after the first poll."""

    @property
    def replaces_polls(self) -> bool:
        """Whether the watcher should wait for an announcement instead of polling by itself."""
        return not self._is_on_its_own and self._is_replacing

    @property
    def _is_on_its_own(self) -> bool:
        return self._own_until > -math.inf

    @property
    def is_trusted(self) -> bool:
        """Whether the listing has proved that it announces the watcher's kind of news."""
        return self._trust.state is TrustState.TRUSTED

    @property
    def _is_replacing(self) -> bool:
        return self.feed.replaces_polls(self._trust, self._job)

    def check_at(self, polled_at: float, checked_at: float, context: PollingContext) -> float:
        """Return until when an announcement is awaited after a poll, or after a check that asked for no poll.

        Args:
            polled_at: When the last poll began.
            checked_at: The last check since then; minus infinity before the first. It is returned where a poll is due.
            context: The session's settings and chance.
        """
        maximum, is_first = context.polling.maximum, checked_at == -math.inf
        if not is_first and (self.was_announced or self._is_due_at(checked_at)):
            return checked_at
        if not self.is_trusted:
            return min(self.early_at, polled_at + trial_patience(context.random()))
        patience = maximum * _EXPLAINING * (0.95 + 0.05 * context.random())
        at = min(max(polled_at, checked_at) + patience, polled_at + _VERIFYING * maximum)
        if not self._is_explained and self._job.moved_at > polled_at - _LAG:
            # It is older than the announcement, and that is older than its follow-up.
            at = min(at, self._job.moved_at + 0.9 * patience)
        return min(self.early_at, at)

    def _is_due_at(self, checked_at: float) -> bool:
        """Return whether a wait that ended without an announcement is over, so that a poll is due."""
        is_waiting = self.is_trusted and self.replaces_polls
        return not is_waiting or checked_at >= self.early_at or not self._is_explained

    @property
    def _is_explained(self) -> bool:
        """Whether a poll has shown what came of the last change."""
        return self._job.moved_at <= self._explained_at

    @property
    def no_news_at(self) -> float | None:
        """The latest time at which the announcement shows that there was no news; `None` without an announcement."""
        return self._job.moved_at - self.feed.interval if self.was_announced else None

    def wait(self, since: float, until: float, *, is_patient: bool = False) -> Coroutine[Any, Any, bool]:
        """Return the wait for an announcement made after `since`, as `ChangeFeed.wait` does.

        Not a coroutine function itself: thousands wait here, and a frame more is memory for each of them.
        """
        trust = self._patient_trust if is_patient else self._trust
        return self.feed.wait(self._job, trust, since, until, sent_at=self._sent_at, is_patient=is_patient)

    def begin_wait(self) -> None:
        """Take in that the watcher waits for its next poll."""
        if self._queued is not None:
            self._queued.is_awaited = True

    def end_wait(self, *, is_due: bool) -> None:
        """Take in that the wait is over: a poll is due, or the watcher was cancelled and may not come back."""
        if self._queued is not None:
            self._queued.is_awaited = False
            if not is_due:
                self._leave_queue()

    def observe_status(self, status: str, came_at: datetime | None, at: float) -> int | None:
        """Take in the status that a poll begun at `at` has shown, and return the turn's place, if it is queued.

        `came_at` is when its prompt came, as the service says. The place is that of
        `AgentQueue.place`.
        """
        is_queued, queue = status == "queued", self.feed.queue
        if self._sent_at is not None and came_at is not None:
            self._job.prompt_came_at = came_at.timestamp()
            self.feed.observe_prompt(self._sent_at, self._job.prompt_came_at)
        if self._number is None or not (is_queued or self._queued is not None or len(queue)):
            return 0 if is_queued else None
        if is_queued and self.was_announced and not self._job.is_doubtful:
            queue.lags = True
        if self._queued is None:
            # A service whose prompts have no times gets the order of its responses.
            self._queued = QueuedTurn(self._job, (came_at.timestamp() if came_at is not None else 0.0, self._number))
        self._call(queue.observe(self._queued, is_queued=is_queued, at=at))
        return queue.place(self._queued, at) if is_queued else None

    def queue_patience(self, place: int, since: float, at: float, polling: Polling, jitter: float) -> float:
        """Return the seconds from `at` to the next poll of a turn queued `since` then behind others of this session.

        The end of a turn before it calls it earlier. This is how late it is noticed if a turn before it ended unseen,
        or if the agent does not run turns in order.
        """
        is_verifying = self.feed.serves_patient(self._trust)
        waited, soon = at - since, polling.maximum * (0.65 + 0.2 * jitter)
        if waited == 0.0 and self._sent_at is not None:
            # It may run or have ended already, and a server that lags shows it as queued.
            soon = max(0.2 * soon, self._sent_at + soon - at)
        if not self._is_explained and (is_verifying or self.feed.queue.lags):
            return max(0.2 * soon, max(self._job.moved_at, since) + soon - at)
        if waited < _LAG and self.feed.queue.lags:
            return soon
        if place == 1:
            return polling.maximum * (_VERIFYING_NEXT if is_verifying else 1.0) * (0.8 + 0.2 * jitter)
        if is_verifying:
            first, share, each = _VERIFYING_QUEUED, _VERIFYING_SHARE, _VERIFYING_EACH_BEFORE
        else:
            first, share, each = 1.0, _QUEUED_SHARE, _EACH_BEFORE
        return max(first * soon, max(share * waited, each * (place - 1) * polling.delay) * (0.8 + 0.4 * jitter))

    def idle_patience(self, idle: float, polling: Polling, jitter: float) -> float:
        """Return the seconds to the next poll of a conversation in which no turn is open.

        A prompt of this session calls it earlier. This is how late a prompt from elsewhere is noticed.
        """
        if self.feed.serves_patient(self._patient_trust):
            return _VERIFYING * polling.maximum * (0.8 + 0.2 * jitter)
        return min(polling.maximum, max(2.0 * polling.delay, _IDLE_SHARE * idle) * (0.8 + 0.4 * jitter))

    @property
    def _patient_trust(self) -> FeedTrust:
        """Return the trust that counts for a patient watcher: the end of a foreign turn is enough to wake it."""
        return self.feed.ends if self.feed.ends.state is TrustState.TRUSTED else self._trust

    def _call(self, turn: QueuedTurn | None) -> None:
        if turn is not None and turn is not self._queued:
            self.feed.call(turn.job)

    def _leave_queue(self) -> None:
        queue, turn = self.feed.queue, self._queued
        if turn is not None:
            is_first = queue.first(turn.polled_at) is turn
            following = queue.leave(turn, turn.polled_at)
            self._call(following if is_first else None)

    def try_out(self) -> Coroutine[Any, Any, None]:
        """Return a reading of the listing next to the watcher's own polls, if it is on trial."""
        return self.feed.try_out(self._trust)

    def account(self, schedule: Schedule, started_at: float, *, news: bool, was_patient: bool) -> None:
        """Take in what a poll that began at `started_at` has shown about the listing."""
        polled_at = schedule.polled_at
        is_own = self._is_on_its_own and not self.was_announced
        if news and not self.was_announced and not is_own:
            self.feed.observe_discovery(self._trust, self._job, polled_at, started_at)
        if was_patient:
            return  # It would hardly have polled without the listing, nor did the listing cost much.
        job = self._job
        has_moved = self.feed.has_news(job, polled_at, self._sent_at) and not job.is_doubtful
        waited = started_at - polled_at
        # A wait for the listing has saved the polls of its time, also one that a verifying poll ends. Otherwise polls
        # in quick succession, as at the beginning, are worth no more than one reading would be.
        has_waited = self.was_announced or (self.replaces_polls and waited > 2.0 * schedule.interval)
        saved = waited / schedule.interval if has_waited else min(1.0, waited / self.feed.interval)
        if news and self.was_announced:
            saved = max(1.0, saved)  # Without the listing, a poll would have had to find it, too.
        is_follow_up = is_own and self._is_replacing
        self._trust.observe_cost(1.0 if has_moved or is_follow_up else 0.0, saved)

    def plan_follow_up(self, previous_at: float, polled_at: float) -> float | None:
        """Return the seconds to the watcher's own next poll after one that showed no end; `None` without one.

        Where a change was announced since the poll before, at `previous_at`, the end may be about to come without an
        announcement, or the poll was answered by a server that lags.
        """
        self.early_at, self._explained_at = math.inf, polled_at - _LAG
        delay = 0.5 * self.feed.interval
        is_vague = self._sent_at is not None and self._job.is_doubtful
        if self.was_announced or (self.feed.has_news(self._job, previous_at, self._sent_at) and not is_vague):
            horizon = delay * (2.0 ** (1 if is_vague else self._trust.follow_ups) - 1.0)
            self._own_until = max(self._job.moved_at + horizon, polled_at + delay)
        elif polled_at >= self._own_until:
            # What may be the prompt itself, or was announced on trial, says nothing about ends without announcement.
            if self.is_trusted and not self._job.is_doubtful:
                self._trust.observe_follow_up(found_end=False)
            self._own_until = -math.inf
        elif self._own_until == math.inf:
            self._own_until = -math.inf
        if not self._is_on_its_own or not self._is_replacing:
            return None  # On trial, the watcher polls by itself anyway.
        # One, three and seven delays after the announcement.
        return min(self._own_until - polled_at, max(0.0, polled_at - self._job.moved_at) + delay)

    def observe_end(
        self, found_at: float, ended_at: float, service_time: float | None, length: float, seconds: float
    ) -> None:
        """Take in that the poll that began at `found_at` has shown the end, which was at `ended_at` by estimate.

        `service_time` is the Unix time that the service gives the end, `length` the seconds since the prompt, and
        `seconds` how long the poll took.
        """
        self.feed.observe_length(length)
        if self.was_announced and service_time is not None:
            self.feed.observe_end(self._trust, self._job, service_time, seconds)
        queue = self.feed.queue
        if len(queue) and self._number is not None:
            queue.end(ended_at)
            following = queue.first(found_at) if self._queued is None else queue.leave(self._queued, found_at)
            self._call(following)
            self._queued = None
        if -math.inf < self._own_until < math.inf and not self.was_announced:
            self._trust.observe_follow_up(found_end=True)
        self._own_until = -math.inf
