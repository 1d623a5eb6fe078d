"""Virtual time: a ten-minute turn in milliseconds, over real HTTP."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

# Passes of the event loop without a request in flight before the clock jumps: enough for a task that has
# just been handed an answer to go on and send its next request.
_QUIET_PASSES = 10


class VirtualClock:
    """A clock that jumps to the next wake-up as soon as nobody is busy.

    Give one to the session and to the simulator. Requests travel over real sockets and take no virtual time; only
    `sleep` does. The clock stands still while a request is in flight, so what a test sees does not depend on the
    speed of the machine; it moves on for one that the service lets wait (`stalled`), up to its timeout.
    """

    def __init__(self, start: float = 1_775_000_000.0) -> None:
        self._start = start
        self._elapsed = 0.0
        self._busy = 0
        self._stalled = 0
        # When, in virtual time, each block under `timeout` has lasted long enough.
        self._timeouts: dict[asyncio.Timeout, float] = {}
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
        """Bound real input and output by real seconds, and hold virtual time still meanwhile.

        Where the other side is `stalled` virtual time goes on, and bounds the block as well.
        """
        self._busy += 1
        try:
            async with asyncio.timeout(seconds) as timeout:
                self._timeouts[timeout] = self._elapsed + seconds
                try:
                    yield
                finally:
                    del self._timeouts[timeout]
        finally:
            self._busy -= 1
            self._drive(asyncio.get_running_loop(), _QUIET_PASSES)

    @contextmanager
    def stalled(self) -> Generator[None]:
        """For a service: the request that is handled here waits, so time goes on although it is in flight."""
        self._stalled += 1
        self._drive(asyncio.get_running_loop(), _QUIET_PASSES)
        try:
            yield
        finally:
            self._stalled -= 1

    def _drive(self, loop: asyncio.AbstractEventLoop, passes: int) -> None:
        """Count quiet passes of the loop; anything that happens starts the count anew."""
        if self._driver is not None:
            self._driver.cancel()
        self._driver = loop.call_soon(self._step, loop, passes)

    def _step(self, loop: asyncio.AbstractEventLoop, passes: int) -> None:
        self._driver = None
        while self._sleepers and self._sleepers[0][2].cancelled():
            heapq.heappop(self._sleepers)
        coming = self._coming()
        if self._busy > self._stalled or coming == math.inf:
            return
        if passes:
            self._driver = loop.call_soon(self._step, loop, passes - 1)
            return
        self._elapsed = max(self._elapsed, coming)
        self._wake()
        self._drive(loop, _QUIET_PASSES)

    def _coming(self) -> float:
        """The next moment at which something happens."""
        wake_up = self._sleepers[0][0] if self._sleepers else math.inf
        return min((wake_up, *self._timeouts.values())) if self._stalled else wake_up

    def _wake(self) -> None:
        while self._sleepers and self._sleepers[0][0] <= self._elapsed:
            _, _, wake_up = heapq.heappop(self._sleepers)
            if not wake_up.done():
                wake_up.set_result(None)
        if self._stalled:
            for timeout, until in self._timeouts.items():
                if until <= self._elapsed:
                    timeout.reschedule(asyncio.get_running_loop().time())
