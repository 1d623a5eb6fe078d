"""Virtual time: over HTTP, a turn of ten minutes takes milliseconds."""

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

# Passes of the event loop without a request under way before the clock jumps. Within them a task that has just received
# a response must have sent its next request; the tests measure how many asyncio and aiohttp need for that.
IDLE_PASSES = 30
# For how many of them one pass counts in which nothing else is to be done: then no task is on its way to a request.
_QUIET_PASS = 5


class VirtualClock:
    """A clock that jumps to the next wake-up as soon as no request is under way.

    Give the same clock to the session and to the simulator: a session with another clock polls for a time that never
    comes, and the simulator refuses such polls after a moment, with an error that says so. Requests take no virtual
    time; only `sleep` does. The clock stands still while a request is under way, so results do not depend on the speed
    of the machine. It advances while the service delays its response (`stalled`), up to the request's timeout, or up to
    the idle timeout in a stream (`stalled(stream=True)`).

    It stands still only for requests of the session, and for the work of a `Chats` store that has this clock. Put
    other work that takes real time, in a thread or over another connection, in `timeout`.
    """

    def __init__(self, start: float = 1_775_000_000.0) -> None:
        self._start = start
        self._elapsed = 0.0
        self._busy = 0
        self._stalled = 0
        # Counted apart from requests: a stream may stall that no task reads, next to a request under way.
        self._reading = 0
        self._stalled_streams = 0
        # When, in virtual time, each read of a stream expires.
        self._idle_timeouts: dict[_VirtualIdleTimeout, float] = {}
        # When, in virtual time, each block in `timeout` expires.
        self._timeouts: dict[asyncio.Timeout, float] = {}
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._driver: asyncio.Handle | None = None

    def __repr__(self) -> str:
        return f"<VirtualClock {self._elapsed:.3f} s, {len(self._sleepers)} sleepers, {self._busy} under way>"

    def monotonic(self) -> float:
        """Return the virtual seconds since the clock was created."""
        return self._elapsed

    def time(self) -> float:
        """Return the virtual seconds since the Unix epoch."""
        return self._start + self._elapsed

    @property
    def stands_still(self) -> bool:
        """Whether no request is under way and nothing waits: time goes on only by `advance`, or by a new wait."""
        return not self._busy and not self._reading and self._next_event() == math.inf

    def advance(self, seconds: float) -> None:
        """Move time on, and wake the sleepers whose time has come."""
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
        self._drive(loop, IDLE_PASSES)
        await wake_up

    @asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncGenerator[None]:
        """Bound real input and output by real seconds; virtual time stands still meanwhile.

        While the other side is `stalled`, virtual time advances and bounds the block as well.
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
            self._drive(asyncio.get_running_loop(), IDLE_PASSES)

    def idle_timeout(self, seconds: float, expired: Callable[[], object]) -> _VirtualIdleTimeout:
        """Bound each of many waits by real seconds, and by virtual ones while the stream is `stalled`."""
        return _VirtualIdleTimeout(seconds, expired, self._begin_read, self._end_read)

    @contextmanager
    def stalled(self, *, stream: bool = False) -> Generator[None]:
        """Let virtual time go on although the request that is handled here is under way; for a service.

        With `stream` the request waits in a response that has begun, and that the client reads piece by piece.
        """
        self._stalled += not stream
        self._stalled_streams += stream
        self._drive(asyncio.get_running_loop(), IDLE_PASSES)
        try:
            yield
        finally:
            self._stalled -= not stream
            self._stalled_streams -= stream

    def _drive(self, loop: asyncio.AbstractEventLoop, passes: int) -> None:
        """Count idle passes of the loop; each call starts the count anew."""
        if self._driver is not None:
            self._driver.cancel()
        self._driver = loop.call_soon(self._step, loop, passes)

    def _step(self, loop: asyncio.AbstractEventLoop, passes: int) -> None:
        self._driver = None
        next_event = self._next_event()
        if self._busy > self._stalled or self._reading > self._stalled_streams or next_event == math.inf:
            return
        if passes > 0:
            # asyncio has no public way to ask; on another loop than its own, all passes count alike.
            is_quiet = not getattr(loop, "_ready", True)
            self._driver = loop.call_soon(self._step, loop, passes - (_QUIET_PASS if is_quiet else 1))
            return
        self._elapsed = max(self._elapsed, next_event)
        self._wake()
        self._drive(loop, IDLE_PASSES)

    def _next_event(self) -> float:
        """Return the virtual time of the next wake-up or timeout."""
        while self._sleepers and self._sleepers[0][2].cancelled():
            heapq.heappop(self._sleepers)
        wake_up = self._sleepers[0][0] if self._sleepers else math.inf
        timeouts = min(self._timeouts.values(), default=math.inf) if self._stalled else math.inf
        idle_timeouts = min(self._idle_timeouts.values(), default=math.inf) if self._stalled_streams else math.inf
        return min(wake_up, timeouts, idle_timeouts)

    def _wake(self) -> None:
        while self._sleepers and self._sleepers[0][0] <= self._elapsed:
            _, _, wake_up = heapq.heappop(self._sleepers)
            if not wake_up.done():
                wake_up.set_result(None)
        if self._stalled:
            for timeout, until in self._timeouts.items():
                if until <= self._elapsed:
                    timeout.reschedule(asyncio.get_running_loop().time())
        if self._stalled_streams:
            for idle_timeout in [one for one, until in self._idle_timeouts.items() if until <= self._elapsed]:
                del self._idle_timeouts[idle_timeout]
                idle_timeout.expire()

    def _begin_read(self, idle_timeout: _VirtualIdleTimeout, seconds: float) -> None:
        self._reading += 1
        self._idle_timeouts[idle_timeout] = self._elapsed + seconds

    def _end_read(self, idle_timeout: _VirtualIdleTimeout) -> None:
        self._reading -= 1
        self._idle_timeouts.pop(idle_timeout, None)
        self._drive(asyncio.get_running_loop(), IDLE_PASSES)


class _VirtualIdleTimeout(LoopIdleTimeout):
    """Bounds waits by real seconds and, while the stream is stalled, by virtual ones."""

    __slots__ = ("_on_begin", "_on_end")

    def __init__(
        self,
        seconds: float,
        expired: Callable[[], object],
        on_begin: Callable[[_VirtualIdleTimeout, float], None],
        on_end: Callable[[_VirtualIdleTimeout], None],
    ) -> None:
        super().__init__(seconds, expired)
        self._on_begin, self._on_end = on_begin, on_end

    def begin(self) -> None:
        """Begin a wait."""
        super().begin()
        self._on_begin(self, self._seconds)

    def end(self) -> None:
        """End the wait."""
        super().end()
        self._on_end(self)

    def expire(self) -> None:
        """Expire in virtual time."""
        self._expired()


def stalled(clock: Clock, *, stream: bool = False) -> AbstractContextManager[None]:
    """Let a virtual clock run on inside the block, as `VirtualClock.stalled`; do nothing with another clock."""
    return clock.stalled(stream=stream) if isinstance(clock, VirtualClock) else nullcontext()
