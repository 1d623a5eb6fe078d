"""How much the service is asked of at once: the limiter that stands before the connection pool (design section 6)."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

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

    def reserve(self, now: float) -> float:
        """Take the next slot; returns the seconds until it comes."""
        slot = max(now, self._next_slot)
        self._next_slot = slot + self._spacing
        return slot - now

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
        self.waiting = 0
        """Calls that wait for their turn right now."""

    def quiet(self, seconds: float) -> None:
        """Hold every call of the session back: a limit is the key's, not the request's."""
        self._gate.quiet(self._clock.monotonic(), seconds)

    @asynccontextmanager
    async def slot(self, deadline: float) -> AsyncGenerator[None]:
        """The right to have one request under way; `TimeoutError` where the gate stays shut until the deadline.

        Waiting for another request to end is bounded by that request's own timeout, not by the deadline.
        """
        self.waiting += 1
        try:
            await self._pass_gate(deadline)
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._slots.release()

    async def _pass_gate(self, deadline: float) -> None:
        slot = self._gate.reserve(self._clock.monotonic())
        if slot > 0:
            await self._sleep(slot, deadline)
        while (closed := self._gate.closed_for(self._clock.monotonic(), self._random())) > 0:
            await self._sleep(closed, deadline)

    async def _sleep(self, seconds: float, deadline: float) -> None:
        remaining = deadline - self._clock.monotonic()
        await self._clock.sleep(min(seconds, remaining))
        if seconds > remaining:
            raise TimeoutError("the session was held back by a limit")
