"""The watchers that wait for one agent's news: who is woken, and which of them leads and reads the listing for all."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from nairi_async._nairi.polling.feed_trust import WatchedJob
    from nairi_async.clock import Clock


class Waiter:
    """A watcher that waits for an announcement, at most until a time of the session's clock."""

    __slots__ = ("_woken", "has_left", "is_patient", "until")

    def __init__(self, until: float, *, is_patient: bool) -> None:
        self.until = until
        self.is_patient = is_patient
        """Whether it waits for what is not likely to come soon: the listing need not be read often for it."""
        self.has_left = False
        self._woken: asyncio.Future[None] | None = None

    @property
    def is_asleep(self) -> bool:
        """Whether it sleeps until it is woken."""
        return self._woken is not None and not self._woken.done()

    def sleep(self) -> asyncio.Future[None]:
        """Return what to await until `wake` is called."""
        self._woken = asyncio.get_running_loop().create_future()
        return self._woken

    def wake(self) -> None:
        """Let the watcher check again for what it waits for."""
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)


class Waiters:
    """All that wait for one agent. At most one leads, in its own task; when it leaves, another one is woken."""

    def __init__(self) -> None:
        self._by_job: dict[WatchedJob, list[Waiter]] = {}
        self._deadlines: list[tuple[float, int, Waiter]] = []
        self._order = itertools.count()
        self._rest: anyio.CancelScope | None = None
        self._rests_until = -math.inf
        self._rests_long = False
        self._count = 0
        self.patient = 0
        """How many of them are patient."""
        self.leader: Waiter | None = None
        """The waiter that reads the listing for all."""

    def __len__(self) -> int:
        return self._count

    @property
    def next_deadline(self) -> float:
        """When the first of them stops waiting; infinity if none does."""
        return self._deadlines[0][0] if self._deadlines else math.inf

    def join(self, job: WatchedJob, until: float, *, is_patient: bool) -> Waiter:
        """Add a waiter for changes of a conversation."""
        waiter = Waiter(until, is_patient=is_patient)
        self._by_job.setdefault(job, []).append(waiter)
        heapq.heappush(self._deadlines, (until, next(self._order), waiter))
        self._count += 1
        self.patient += is_patient
        if until < self._rests_until or (self._rests_long and not is_patient):
            self._rouse()
        return waiter

    def leave(self, job: WatchedJob, waiter: Waiter) -> None:
        """Remove a waiter, and see to it that another one leads."""
        waiter.has_left = True
        self._count -= 1
        self.patient -= waiter.is_patient
        waiters = self._by_job[job]
        waiters.remove(waiter)
        if not waiters:
            del self._by_job[job]
        if self.leader is None:
            sleepers = (other for others in self._by_job.values() for other in others if other.is_asleep)
            successor = next(sleepers, None)
            if successor is not None:
                successor.wake()

    def wake(self, job: WatchedJob) -> None:
        """Wake those that wait for this conversation."""
        for waiter in self._by_job.get(job, ()):
            self._wake(waiter)

    def wake_all(self) -> None:
        """Wake every one."""
        for waiters in self._by_job.values():
            for waiter in waiters:
                self._wake(waiter)

    def wake_expired(self, now: float) -> None:
        """Wake those whose time is over."""
        while self._deadlines and (self._deadlines[0][0] <= now or self._deadlines[0][2].has_left):
            heapq.heappop(self._deadlines)[2].wake()

    async def rest(self, clock: Clock, until: float, *, is_long: bool) -> None:
        """Let the leader sleep until a time, or until it is woken or one joins that cannot wait so long.

        `is_long` says that only patient ones wait, so the time is too late for any other.
        """
        self._rests_until, self._rests_long = until, is_long
        try:
            with anyio.CancelScope() as self._rest:
                await clock.sleep(until - clock.monotonic())
        finally:
            self._rest, self._rests_until, self._rests_long = None, -math.inf, False

    def _wake(self, waiter: Waiter) -> None:
        if waiter is self.leader:
            self._rouse()
        else:
            waiter.wake()

    def _rouse(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
