"""One watcher's subscription to an agent's listing: whether to wait for it, and whether its announcements were true."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from nairi_async._nairi.polling.feed_trust import TrustState, trial_patience

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from nairi_async._nairi.polling.cadence import Kind
    from nairi_async._nairi.polling.change_feed import ChangeFeed
    from nairi_async._nairi.polling.context import TurnOrigin
    from nairi_async._nairi.polling.schedule import Schedule


# Where a listing is trusted, each conversation is still polled after this many times `Polling.maximum`, to verify it.
_VERIFYING: Final = 5.0


class Subscription:
    """A watched conversation in the feed of its agent."""

    __slots__ = ("_is_own", "_job", "_own_until", "_trust", "feed", "was_announced")

    def __init__(self, feed: ChangeFeed, job_id: str, kind: Kind, origin: TurnOrigin | None) -> None:
        self.feed = feed
        self.was_announced = False
        """Whether the poll that is due was announced, so that news is likely."""
        self._trust = feed.trust_for(kind)
        self._job = feed.register(job_id)
        # The watcher that sent the prompt does not take its change for news.
        self._is_own = origin is not None
        # Until then no announcement replaces polls: after an announced one that showed no end, and until the first one
        # where the conversation may have been announced before it was registered.
        is_missed = origin is None or feed.announced_at > origin.sent_at
        self._own_until = math.inf if is_missed else -math.inf
        if origin is not None and origin.answered_at is not None:
            self._job.prompted = (origin.sent_at, origin.answered_at)

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

    def patience(self, waited: float, maximum: float, jitter: float) -> float:
        """Return the seconds after a poll within which the next one comes even without an announcement."""
        return _VERIFYING * maximum if self.is_trusted else trial_patience(waited, jitter)

    @property
    def no_news_at(self) -> float | None:
        """The latest time at which the announcement shows that there was no news; `None` without an announcement."""
        return self._job.moved_at - self.feed.interval if self.was_announced else None

    def wait(self, since: float, until: float) -> Coroutine[Any, Any, bool]:
        """Return the wait for an announcement made after `since`, as `ChangeFeed.wait` does.

        Not a coroutine function itself: thousands wait here, and a frame more is memory for each of them.
        """
        return self.feed.wait(self._job, self._trust, since, until, is_own=self._is_own)

    def try_out(self) -> Coroutine[Any, Any, None]:
        """Return a reading of the listing next to the watcher's own polls, if it is on trial."""
        return self.feed.try_out(self._trust)

    def account(self, schedule: Schedule, started_at: float, *, news: bool) -> None:
        """Take in what a poll that began at `started_at` has shown about the listing."""
        polled_at = schedule.polled_at
        is_own = self._is_on_its_own and not self.was_announced
        if news and not self.was_announced and not is_own:
            self.feed.observe_discovery(self._trust, self._job, polled_at, started_at)
        job = self._job
        has_moved = job.moved_at > polled_at and not job.is_doubtful and not job.is_only_prompt
        waited = started_at - polled_at
        # A wait for the listing has saved the polls of its time, also one that a verifying poll ends. Otherwise polls
        # in quick succession, as at the beginning, are worth no more than one reading would be.
        has_waited = self.was_announced or (self.replaces_polls and waited > 2.0 * schedule.interval)
        saved = waited / schedule.interval if has_waited else min(1.0, waited / self.feed.interval)
        is_follow_up = is_own and self._is_replacing
        self._trust.observe_cost(1.0 if has_moved or is_follow_up else 0.0, saved)

    def plan_follow_up(self, previous_at: float, polled_at: float) -> float | None:
        """Return the seconds to the watcher's own next poll after one that showed no end; `None` without one.

        Where a change was announced since the poll before, at `previous_at`, the end may be about to come without an
        announcement, or the poll was answered by a server that lags.
        """
        delay = 0.5 * self.feed.interval
        if self.was_announced or self._job.has_news(previous_at, is_own=self._is_own):
            horizon = delay * (2.0**self._trust.follow_ups - 1.0)
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

    def observe_end(self) -> None:
        """Take in that the poll that is due has shown the end."""
        if -math.inf < self._own_until < math.inf and not self.was_announced:
            self._trust.observe_follow_up(found_end=True)
        self._own_until = -math.inf
