"""How much the service is asked of at once: the limiter that stands before the connection pool (design section 6)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from nairi_async.clock import Clock

# Calls that a quiet time has held back start again spread over this part of it, so that they do not all come at once.
_REOPENING: Final = 0.25


class Gate:
    """When the next request may leave, as plain arithmetic on the caller's clock."""

    def __init__(self, per_second: float | None) -> None:
        self._spacing = 1.0 / per_second if per_second else 0.0
        self._next_slot = 0.0
        self._quiet_until = 0.0
        self._reopening = 0.0

    def wait(self, now: float) -> float:
        """Seconds until the rate lets the next request leave."""
        return max(0.0, self._next_slot - now)

    def leave(self, now: float) -> None:
        """A request leaves now; the next one a spacing later."""
        self._next_slot = now + self._spacing

    def quiet(self, now: float, seconds: float) -> None:
        """Let nothing pass for a time; a shorter one never cuts a longer one."""
        if now + seconds > self._quiet_until:
            self._quiet_until = now + seconds
            self._reopening = seconds * _REOPENING

    def closed_for(self, now: float, jitter: float) -> float:
        """Seconds to stay away, staggered by `jitter` in [0, 1); zero when the gate is open."""
        remaining = self._quiet_until - now
        return remaining + jitter * self._reopening if remaining > 0 else 0.0


class Limiter:
    """A bound on requests at once and, if wanted, on requests a second, for the whole session.

    Waiting here costs no connection and none of a request's own time.
    """

    def __init__(
        self, clock: Clock, random: Callable[[], float], *, connections: int, per_second: float | None = None
    ) -> None:
        self._clock = clock
        self._random = random
        self._slots = asyncio.Semaphore(connections)
        self._gate = Gate(per_second)
        # With a rate, calls pass one by one: only the first in line watches the clock, so one that gives up costs no
        # place, and after a quiet time the rate still holds.
        self._turnstile = asyncio.Lock() if per_second else None
        self.waiting = 0
        """Calls that wait for their turn right now."""

    def quiet(self, seconds: float) -> None:
        """Hold every call of the session back: a limit is the key's, not the request's."""
        self._gate.quiet(self._clock.monotonic(), seconds)

    def slot(self, deadline: float) -> _Slot:
        """The right to have one request under way; `TimeoutError` where the gate stays shut until the deadline.

        Waiting for another request to end is bounded by that request's own timeout, not by the deadline.
        """
        return _Slot(self, deadline)

    async def enter(self, deadline: float) -> None:
        """Wait for a slot; see `slot`."""
        self.waiting += 1
        try:
            await self._acquire(deadline)
            if self._turnstile is not None:
                try:
                    async with self._turnstile:
                        await self._until_open(deadline)
                        self._gate.leave(self._clock.monotonic())
                except BaseException:
                    self._slots.release()
                    raise
        finally:
            self.waiting -= 1

    def leave(self) -> None:
        """Give a slot back."""
        self._slots.release()

    async def _acquire(self, deadline: float) -> None:
        """Wait for a connection, and with one in hand meet the gate as it is then.

        Where it is shut, the connection is given back: those who wait for the end of a quiet time must all have their
        own moment to start again, not only as many as there are connections, with the others close behind them.
        """
        while True:
            await self._slots.acquire()
            if self._turnstile is not None or self._shut_for(self._clock.monotonic()) <= 0:
                return
            self._slots.release()
            await self._until_open(deadline)

    async def _until_open(self, deadline: float) -> None:
        while (shut := self._shut_for(self._clock.monotonic())) > 0:
            remaining = deadline - self._clock.monotonic()
            await self._clock.sleep(min(shut, remaining))
            if shut > remaining:
                raise TimeoutError("the session was held back by a limit")

    def _shut_for(self, now: float) -> float:
        return max(self._gate.wait(now), self._gate.closed_for(now, self._random()))


class _Slot:
    """A slot as a context: a class, because a generator would cost several times as much at each request."""

    __slots__ = ("_deadline", "_limiter")

    def __init__(self, limiter: Limiter, deadline: float) -> None:
        self._limiter = limiter
        self._deadline = deadline

    async def __aenter__(self) -> None:
        await self._limiter.enter(self._deadline)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._limiter.leave()
