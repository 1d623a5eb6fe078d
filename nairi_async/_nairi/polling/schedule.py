"""When one watcher's next poll is due, after what each poll has shown. Pure: no clock, no I/O."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nairi_async._nairi.polling.cadence import Cadence, Kind


class Schedule:
    """The polls of one conversation by one watcher. Times are of the watcher's clock.

    Args:
        cadence: What the session has learnt.
        agent_id: The agent, if it is known.
        kind: The kind of news that the watcher awaits.
        started_at: When the wait began.
        is_start_known: Whether the turn started then, too. Otherwise the cadence learns nothing from this wait.
    """

    __slots__ = (
        "_agent_id",
        "_cadence",
        "_interval_is_learnt",
        "_is_start_known",
        "_kind",
        "_no_news_until",
        "_started_at",
        "interval",
        "is_fixed",
        "next_poll_at",
        "polled_at",
    )  # fmt: skip

    def __init__(
        self, cadence: Cadence, agent_id: str | None, kind: Kind, started_at: float, *, is_start_known: bool
    ) -> None:
        self._cadence = cadence
        self._agent_id = agent_id
        self._kind: Kind = kind
        self._is_start_known = is_start_known
        self._started_at = started_at
        # Seconds into the wait up to which there was certainly no news.
        self._no_news_until = 0.0
        # Whether the last interval came from what the cadence has learnt.
        self._interval_is_learnt = False
        self.interval = math.inf
        """Seconds from the last poll to the next, as planned by the cadence."""
        self.polled_at = -math.inf
        """When the last poll began; minus infinity before the first."""
        self.next_poll_at = -math.inf
        """When the next poll is due; minus infinity before the first, which is due at once."""
        self.is_fixed = False
        """Whether the next poll was set by `poll_at`, so that no announcement can replace it."""

    @property
    def has_polled(self) -> bool:
        """Whether there was a poll."""
        return self.polled_at > -math.inf

    @property
    def may_await_announcement(self) -> bool:
        """Whether an announcement may be awaited instead of the next poll."""
        return self.has_polled and not self.is_fixed

    def record_poll(self, polled_at: float, *, news: bool, jitter: float, received_at: float | None = None) -> float:
        """Record a poll that began at `polled_at`, and return the seconds to the next; `jitter` is in [0, 1).

        The interval counts from the start of the poll, so that watchers which share reads fall into step. But if the
        response was delayed until `received_at`, at least half an interval follows it.
        """
        waited = self.waited(polled_at)
        if news:
            self.observe_news(polled_at)
            # From now on the start of the wait is known: this message.
            self._kind, self._started_at, self._is_start_known = self._next_kind(), polled_at, True
            self._no_news_until = waited = 0.0
        else:
            self._observe_survival(waited)
        self.interval, self._interval_is_learnt = self._cadence.plan_interval(
            self._agent_id, self._kind, waited, jitter=jitter
        )
        earliest = polled_at if received_at is None else received_at
        self.next_poll_at = max(polled_at + self.interval, earliest + self.interval / 2.0)
        self.is_fixed, self.polled_at = False, polled_at
        return self.interval

    def record_rest(self, polled_at: float, interval: float | None, *, jitter: float, received_at: float) -> float:
        """Record a poll that showed that what is awaited has not begun, and return the seconds to the next.

        `interval` is seconds; without it, the next poll comes as soon as the first one of a wait that begins now would.
        The cadence learns nothing from the rest, nor from the wait after it before `restart`.
        """
        if interval is None:
            interval, _ = self._cadence.plan_interval(self._agent_id, self._kind, 0.0, jitter=jitter)
        self._started_at, self._no_news_until = polled_at, 0.0
        self._is_start_known = self._interval_is_learnt = False
        self.interval, self.is_fixed, self.polled_at = interval, False, polled_at
        self.next_poll_at = max(polled_at + interval, received_at + interval / 2.0)
        return interval

    def first_poll_at(self, started_at: float, jitter: float) -> float:
        """Return when the first poll is due of a wait that began at `started_at`."""
        return started_at + self._cadence.plan_interval(self._agent_id, self._kind, 0.0, jitter=jitter)[0]

    def restart(self, started_at: float, *, is_start_known: bool) -> None:
        """Count the wait from `started_at` on: what is awaited has begun then."""
        self._started_at, self._no_news_until, self._is_start_known = started_at, 0.0, is_start_known

    def waited(self, now: float) -> float:
        """Return the seconds for which news has been awaited."""
        return max(0.0, now - self._started_at)

    def poll_at(self, at: float) -> None:
        """Override the cadence: poll next at `at`."""
        self.next_poll_at, self.is_fixed = at, True

    def hasten(self, at: float) -> None:
        """Poll next at `at`, unless a poll is due earlier."""
        self.next_poll_at = min(self.next_poll_at, at)

    def observe_news(self, polled_at: float, delay: float | None = None) -> None:
        """Let the cadence learn that a poll at `polled_at` found the news; `delay` is how old it was, if known."""
        if self._is_start_known:
            waited = max(self._no_news_until, polled_at - self._started_at)
            late = self.expected_delay(polled_at) if delay is None else delay
            self._cadence.observe_news(
                self._agent_id, self._kind, self._no_news_until, waited, late if self._interval_is_learnt else None
            )

    def record_announced_wait(self, no_news_at: float | None) -> None:
        """Record that the wait since the last poll ended by the listing, not by this schedule.

        `no_news_at` is the latest time at which the listing shows that there was no news; `None` if it shows none.
        """
        self._interval_is_learnt = False
        if no_news_at is not None:
            self._observe_survival(no_news_at - self._started_at)

    def expected_delay(self, polled_at: float) -> float:
        """Estimate the age of the news found by the poll at `polled_at`.

        On average it is half of the time in which the news can have appeared.
        """
        return max(0.0, polled_at - self._started_at - self._no_news_until) / 2.0

    def _next_kind(self) -> Kind:
        return "gap" if self._kind == "first" else self._kind

    def _observe_survival(self, waited: float) -> None:
        """Let the cadence learn that there was no news for so many seconds."""
        if waited > self._no_news_until:
            if self._is_start_known:
                self._cadence.observe_survival(self._agent_id, self._kind, self._no_news_until, waited)
            self._no_news_until = waited
