"""The schedule of one watcher: it takes in what each poll showed, and says when the next is due. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nairi_async._nairi.polling.cadence import Cadence, Kind


class Schedule:
    """The polls of one watcher at one conversation, by the watcher's clock.

    Args:
        cadence: What the session has learnt.
        agent_id: The agent, where it is known.
        kind: What is waited for.
        started_at: When the wait began.
        known: Whether the turn began then, too. A wait whose beginning is not known teaches nothing.
    """

    __slots__ = (
        "_agent_id",
        "_alive",
        "_cadence",
        "_is_known",
        "_is_learnt",
        "_kind",
        "_started_at",
        "interval",
        "is_fixed",
        "next_poll_at",
        "polled_at",
    )  # fmt: skip

    def __init__(self, cadence: Cadence, agent_id: str | None, kind: Kind, started_at: float, *, known: bool) -> None:
        self._cadence = cadence
        self._agent_id = agent_id
        self._kind: Kind = kind
        self._is_known = known
        self._started_at = started_at
        # Seconds of the wait after which there was still no news.
        self._alive = 0.0
        # Whether the interval followed what was learnt.
        self._is_learnt = False
        self.interval = math.inf
        """Seconds between the last poll and the next, as the cadence planned them."""
        self.polled_at = -math.inf
        """When the last poll began; long ago before the first."""
        self.next_poll_at = -math.inf
        """When the next poll is due; at once before the first."""
        self.is_fixed = False
        """Whether the next poll was set by `poll_at`, so that no announcement can replace it."""

    @property
    def has_polled(self) -> bool:
        """Whether there was a poll."""
        return self.polled_at > -math.inf

    @property
    def is_replaceable(self) -> bool:
        """Whether an announcement may be awaited instead of the next poll."""
        return self.has_polled and not self.is_fixed

    def feed(self, polled_at: float, *, news: bool, jitter: float, received_at: float | None = None) -> float:
        """Take in a poll that began at `polled_at`, and return the seconds to the next; `jitter` is in [0, 1).

        The interval counts from the beginning of the poll, so that watchers which share reads fall into step. But after
        a poll that was held back until `received_at`, the next one does not follow at once.
        """
        waited = self.waited(polled_at)
        if news:
            self.observe_news(polled_at)
            # From here on the beginning is known: the last message.
            self._kind, self._started_at, self._is_known = self._next_kind(), polled_at, True
            self._alive = waited = 0.0
        else:
            self._observe_survival(waited)
        self.interval, self._is_learnt = self._cadence.plan_interval(self._agent_id, self._kind, waited, jitter=jitter)
        earliest = polled_at if received_at is None else received_at
        self.next_poll_at = max(polled_at + self.interval, earliest + self.interval / 2.0)
        self.is_fixed, self.polled_at = False, polled_at
        return self.interval

    def waited(self, now: float) -> float:
        """Return the seconds for which news has been awaited."""
        return max(0.0, now - self._started_at)

    def poll_at(self, at: float) -> None:
        """Set the time of the next poll instead of the cadence."""
        self.next_poll_at, self.is_fixed = at, True

    def hasten(self, at: float) -> None:
        """Let the next poll be due at `at` or earlier."""
        self.next_poll_at = min(self.next_poll_at, at)

    def observe_news(self, polled_at: float) -> None:
        """Learn that a poll at `polled_at` has found what was waited for."""
        if self._is_known:
            waited = max(self._alive, polled_at - self._started_at)
            self._cadence.observe_news(self._agent_id, self._kind, self._alive, waited, is_learnt=self._is_learnt)

    def observe_announcement_wait(self, alive_at: float | None) -> None:
        """Take in that the time since the last poll was not this schedule's choice.

        `alive_at` is when there was still no news, where an announcement shows it.
        """
        self._is_learnt = False
        if alive_at is not None:
            self._observe_survival(alive_at - self._started_at)

    def expected_delay(self, polled_at: float) -> float:
        """Estimate how long ago that happened which a poll at `polled_at` has found.

        On average it is half of the time in which it can have happened.
        """
        return max(0.0, polled_at - self._started_at - self._alive) / 2.0

    def _next_kind(self) -> Kind:
        return "gap" if self._kind == "first" else self._kind

    def _observe_survival(self, waited: float) -> None:
        """Learn that there was no news after so many seconds."""
        if waited > self._alive:
            if self._is_known:
                self._cadence.observe_survival(self._agent_id, self._kind, self._alive, waited)
            self._alive = waited
