"""The session's turns that queue at one agent: which of them need not be polled like one that runs. Pure.

An agent may run only so many turns at a time, the vendor's own daemon one by default, and the others are `queued`:
https://nairi.ai/docs/api/conversations/message-reference. Nothing says in which order they run. They are taken to run
in the order in which they were sent, until a turn is seen to have overtaken an earlier one.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nairi_async._nairi.polling.feed_trust import WatchedJob

# Seconds after its last poll for which a turn counts although its watcher does not wait at the moment.
_STALE: Final = 60.0
# Seconds for which the order is not relied on after a turn has overtaken another.
_UNORDERED: Final = 600.0
# Seconds for which a poll may be answered by a server that lags.
_LAG: Final = 5.0
# Prompts that came within so many seconds may be run in any order.
_TOGETHER: Final = 1.0
# Number of turns behind the first that are polled after an end, one by one, where the first is still queued and
# none runs.
_PROBES: Final = 4


class QueuedTurn:
    """A turn that its watcher has seen queued, or that runs while others queue."""

    __slots__ = ("is_awaited", "is_listed", "is_queued", "job", "order", "overtaken_at", "polled_at")

    def __init__(self, job: WatchedJob, order: tuple[float, int], *, is_awaited: bool = False) -> None:
        self.job: WatchedJob = job
        self.order: tuple[float, int] = order
        """When the service says that its prompt came, in seconds since the epoch, and the order of the responses."""
        self.is_queued: bool = True
        """Whether the last poll showed it queued; otherwise it runs."""
        self.polled_at: float = -math.inf
        """When that poll began."""
        self.is_awaited: bool = is_awaited
        """Whether its watcher waits for its next poll."""
        self.overtaken_at: float = math.inf
        """When a turn that was sent later was first seen to run while this one was taken to be queued."""
        self.is_listed: bool = False
        """Whether the queue holds it."""


class AgentQueue:
    """The turns of one agent that this session has sent and watches, while some of them are queued."""

    def __init__(self) -> None:
        self._turns: list[QueuedTurn] = []
        self._is_unordered_until = float("-inf")
        self._running = 0
        # How many were running when the next one was seen queued: where fewer run, the next one probably does too.
        self._capacity = math.inf
        self._probes = _PROBES
        self.freed_at: float = float("-inf")
        """When one of the turns was last found to have ended, as far as that is known: then the next one began."""
        self.lags: bool = False
        """Whether the service was seen to show a turn as queued that had begun: a server of it lags."""

    def __len__(self) -> int:
        return len(self._turns)

    def observe(self, turn: QueuedTurn, *, is_queued: bool, at: float) -> QueuedTurn | None:
        """Take in what a poll that began at `at` has shown, and return the turn that should be polled next, if any."""
        was_queued, turn.is_queued, turn.polled_at = turn.is_queued, is_queued, at
        if not turn.is_listed:
            self._forget(at)
            insort(self._turns, turn, key=_order)
            turn.is_listed, was_queued = True, True
        if is_queued:
            self._running -= not was_queued
            if turn.overtaken_at + _LAG <= at:
                self._is_unordered_until = at + _UNORDERED
            if self._running and self.first(at) is turn:
                self._capacity = self._running
            return self._probe(turn, at) if not self._running else None
        if not was_queued:
            return None
        self._running += 1
        self._probes = _PROBES
        turn.overtaken_at = float("inf")
        for other in self._turns:
            if other is turn:
                break
            if other.is_queued and other.order[0] < turn.order[0] - _TOGETHER:
                other.overtaken_at = min(other.overtaken_at, at)
        # With more than ever the capacity is unknown again.
        self._capacity = self._capacity if self._running <= self._capacity else math.inf
        return self.first(at) if self._running < self._capacity else None

    def end(self, ended_at: float) -> None:
        """Take in that a turn has ended."""
        self.freed_at = max(self.freed_at, ended_at)
        self._probes = _PROBES

    def leave(self, turn: QueuedTurn, at: float) -> QueuedTurn | None:
        """Remove a turn that has ended or is no longer watched, and return the one to be polled next, if any."""
        if turn.is_listed:
            self._turns.remove(turn)
            turn.is_listed = False
            self._running -= not turn.is_queued
        return self.first(at)

    def first(self, at: float) -> QueuedTurn | None:
        """Return the turn that is taken to run next."""
        return next((turn for turn in self._awaited(at) if turn.is_queued), None)

    def place(self, turn: QueuedTurn, at: float) -> int:
        """Return 0 for a queued turn with none before it, 1 with only turns that run, else 1 and the queued ones."""
        if at < self._is_unordered_until:
            return 0
        # Those that came together may run in any order.
        latest = turn.order[0] + _TOGETHER
        is_full = 0 < self._running >= self._capacity
        place = int(is_full and any(not one.is_queued and one.order[0] <= latest for one in self._awaited(at)))
        for other in self._awaited(at):
            if other is turn:
                break
            if other.is_queued:
                return 1 + max(1, bisect_left(self._turns, turn.order, key=_order) - self._running)
            place = 1
        return place

    def _probe(self, turn: QueuedTurn, at: float) -> QueuedTurn | None:
        """Return another queued turn to be polled, since none is known to run: the order may be another one.

        At first some at once, then one with each poll of the first: in order those not polled since a turn has ended,
        then the one not polled for longest.
        """
        others = [other for other in self._awaited(at) if other.is_queued and other is not turn]
        if self._probes:
            self._probes -= 1
        elif not others or turn.order > others[0].order:
            return None
        unseen = (other for other in others if other.polled_at < self.freed_at)
        return next(unseen, None) or min(others, key=lambda other: other.polled_at, default=None)

    def _awaited(self, at: float) -> Iterator[QueuedTurn]:
        """Iterate over the turns that are polled in time, in the order in which they were sent."""
        return (turn for turn in self._turns if turn.is_awaited or turn.polled_at > at - _STALE)

    def _forget(self, at: float) -> None:
        """Forget turns whose watchers have gone."""
        oldest = self._turns[0] if self._turns else None
        if oldest is not None and not oldest.is_awaited and oldest.polled_at <= at - _STALE:
            kept = list(self._awaited(at))
            for turn in self._turns:
                turn.is_listed = False
            for turn in kept:
                turn.is_listed = True
            self._turns, self._running = kept, sum(not turn.is_queued for turn in kept)


def _order(turn: QueuedTurn) -> tuple[float, int]:
    return turn.order
