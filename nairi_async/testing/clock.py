"""Virtual time: a ten-minute turn in milliseconds, over real HTTP."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

# Passes of the event loop without a request in flight before the clock jumps: enough for a task that has
# just been handed an answer to go on and send its next request.
_QUIET_PASSES = 10


class VirtualClock:
    """A clock that jumps to the next wake-up as soon as nobody is busy.

    Give one to the session and to the simulator. Requests travel over real sockets and take no virtual time; only
    `sleep` does. The clock stands still while a request is in flight, so what a test sees does not depend on the
    speed of the machine.
    """

    def __init__(self, start: float = 1_775_000_000.0) -> None:
        self._start = start
        self._elapsed = 0.0
        self._busy = 0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._driver: asyncio.Handle | None = None

    def monotonic(self) -> float:
        """Virtual seconds since the clock was made."""
        return self._elapsed

    def time(self) -> float:
        """Virtual seconds since the Unix epoch."""
        return self._start + self._elapsed

    def advance(self, seconds: float) -> None:
        """Move time on by hand; sleepers whose time has come wake up."""
        self._elapsed += seconds
        self._wake()

    async def sleep(self, seconds: float) -> None:
        """Wait in virtual time."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        wake_up: asyncio.Future[None] = loop.create_future()
        heapq.heappush(self._sleepers, (self._elapsed + seconds, next(self._order), wake_up))
        self._drive(loop, _QUIET_PASSES)
        await wake_up

    @asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncGenerator[None]:
        """Bound real input and output by real seconds, and hold virtual time still meanwhile."""
        self._busy += 1
        try:
            async with asyncio.timeout(seconds):
                yield
        finally:
            self._busy -= 1
            self._drive(asyncio.get_running_loop(), _QUIET_PASSES)

    def _drive(self, loop: asyncio.AbstractEventLoop, passes: int) -> None:
        """Count quiet passes of the loop; anything that happens starts the count anew."""
        if self._driver is not None:
            self._driver.cancel()
        self._driver = loop.call_soon(self._step, loop, passes)

    def _step(self, loop: asyncio.AbstractEventLoop, passes: int) -> None:
        self._driver = None
        while self._sleepers and self._sleepers[0][2].cancelled():
            heapq.heappop(self._sleepers)
        if self._busy or not self._sleepers:
            return
        if passes:
            self._driver = loop.call_soon(self._step, loop, passes - 1)
            return
        self._elapsed = max(self._elapsed, self._sleepers[0][0])
        self._wake()
        self._drive(loop, _QUIET_PASSES)

    def _wake(self) -> None:
        while self._sleepers and self._sleepers[0][0] <= self._elapsed:
            _, _, wake_up = heapq.heappop(self._sleepers)
            if not wake_up.done():
                wake_up.set_result(None)
