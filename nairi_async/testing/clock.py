"""Virtual time: a ten-minute turn in milliseconds, over real HTTP."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from nairi_async.clock import Clock, LoopIdleTimeout

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

# Passes of the event loop without a request in flight before the clock jumps: enough for a task that has
# just been handed an answer to go on and send its next request.
_QUIET_PASSES = 10


class VirtualClock:
    """A clock that jumps to the next wake-up as soon as nobody is busy.

    Give one to the session and to the simulator. Requests travel over real sockets and take no virtual time; only
    `sleep` does. The clock stands still while a request is in flight, so what a test sees does not depend on the
    speed of the machine; it moves on for one that the service lets wait (`stalled`), up to its timeout. For the read
    of a stream the same holds, up to the time for which its service may be silent (`stalled(stream=True)`).

    It stands still during the session's requests, and the work of a store of `Chats` that has this clock, only: other
    work that takes real time, in a thread or over another connection, goes under `timeout`.
    """

    def __init__(self, start: float = 1_775_000_000.0) -> None:
        self._start = start
        self._elapsed = 0.0
        self._busy = 0
        self._stalled = 0
        # Reads of streams are counted by themselves: a stream may wait that nobody reads, beside a request in flight.
        self._reading = 0
        self._pausing = 0
        self._idle_timeout: dict[_Patience, float] = {}
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

    def idle_timeout(self, seconds: float, expired: Callable[[], object]) -> _Patience:
        """Bound each of many waits by real seconds, and hold virtual time still meanwhile; `stalled` as above."""
        return _Patience(seconds, expired, self._reads, self._has_read)

    @contextmanager
    def stalled(self, *, stream: bool = False) -> Generator[None]:
        """For a service: the request that is handled here waits, so time goes on although it is in flight.

        With `stream` it waits in an answer that has begun, and that is read piece by piece.
        """
        self._stalled += not stream
        self._pausing += stream
        self._drive(asyncio.get_running_loop(), _QUIET_PASSES)
        try:
            yield
        finally:
            self._stalled -= not stream
            self._pausing -= stream

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
        if self._busy > self._stalled or self._reading > self._pausing or coming == math.inf:
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
        timeouts = min(self._timeouts.values(), default=math.inf) if self._stalled else math.inf
        silences = min(self._idle_timeout.values(), default=math.inf) if self._pausing else math.inf
        return min(wake_up, timeouts, silences)

    def _wake(self) -> None:
        while self._sleepers and self._sleepers[0][0] <= self._elapsed:
            _, _, wake_up = heapq.heappop(self._sleepers)
            if not wake_up.done():
                wake_up.set_result(None)
        if self._stalled:
            for timeout, until in self._timeouts.items():
                if until <= self._elapsed:
                    timeout.reschedule(asyncio.get_running_loop().time())
        if self._pausing:
            for idle_timeout in [one for one, until in self._idle_timeout.items() if until <= self._elapsed]:
                del self._idle_timeout[idle_timeout]
                idle_timeout.expire()

    def _reads(self, idle_timeout: _Patience, seconds: float) -> None:
        self._reading += 1
        self._idle_timeout[idle_timeout] = self._elapsed + seconds

    def _has_read(self, idle_timeout: _Patience) -> None:
        self._reading -= 1
        self._idle_timeout.pop(idle_timeout, None)
        self._drive(asyncio.get_running_loop(), _QUIET_PASSES)


class _Patience(LoopIdleTimeout):
    """Bounds waits by real seconds and, where the other side waits in virtual time, by virtual ones."""

    __slots__ = ("_begun", "_ended")

    def __init__(
        self,
        seconds: float,
        expired: Callable[[], object],
        begun: Callable[[_Patience, float], None],
        ended: Callable[[_Patience], None],
    ) -> None:
        super().__init__(seconds, expired)
        self._begun, self._ended = begun, ended

    def begin(self) -> None:
        """A wait begins."""
        super().begin()
        self._begun(self, self._seconds)

    def end(self) -> None:
        """It is over."""
        super().end()
        self._ended(self)

    def expire(self) -> None:
        """It has lasted long enough, in virtual time."""
        self._expired()


def stalled(clock: Clock, *, stream: bool = False) -> AbstractContextManager[None]:
    """What a service waits in, so that a virtual clock runs on; of no effect with another clock."""
    return clock.stalled(stream=stream) if isinstance(clock, VirtualClock) else nullcontext()
