"""Time as a part that is handed in: what the library may ask of a clock, and the one the world runs on."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractAsyncContextManager


class IdleTimeout(Protocol):
    """A bound on each of many waits, of which one at a time is under way."""

    def begin(self) -> None:
        """A wait begins."""
        ...

    def end(self) -> None:
        """It is over."""
        ...

    def close(self) -> None:
        """There will be no other. Harmless when repeated."""
        ...


class Clock(Protocol):
    """Everything the library knows of time.

    `nairi_async.testing.VirtualClock` is the other implementation: it jumps over waits.
    """

    def monotonic(self) -> float:
        """Seconds on a scale that never runs backwards; only differences mean anything."""
        ...

    def time(self) -> float:
        """Seconds since the Unix epoch; needed only for `Retry-After` dates and windows of server time."""
        ...

    def sleep(self, seconds: float) -> Coroutine[Any, Any, None]:
        """Wait; zero or less still lets other tasks run."""
        ...

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """Bound real input and output: the block raises `TimeoutError` when it takes longer."""
        ...

    def idle_timeout(self, seconds: float, expired: Callable[[], object]) -> IdleTimeout:
        """Bound each read of an answer that comes piece by piece: `expired` is called when one takes longer."""
        ...


class SystemClock:
    """The clock of the machine and of the running event loop."""

    def monotonic(self) -> float:
        """Seconds of the machine's monotonic clock."""
        return time.monotonic()

    def time(self) -> float:
        """Seconds since the Unix epoch, as the machine believes."""
        return time.time()

    def sleep(self, seconds: float) -> Coroutine[Any, Any, None]:
        """Wait on the event loop."""
        # Handed on and not awaited here: thousands wait, and each frame less is memory.
        return asyncio.sleep(max(0.0, seconds))

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """Bound a block by the event loop's time."""
        return asyncio.timeout(seconds)

    def idle_timeout(self, seconds: float, expired: Callable[[], object]) -> IdleTimeout:
        """Bound each of many waits by the event loop's time."""
        return LoopIdleTimeout(seconds, expired)


class LoopIdleTimeout:
    """Bounds waits by the running event loop's time, with one timer however many they are."""

    __slots__ = ("_expired", "_loop", "_seconds", "_since", "_timer")

    def __init__(self, seconds: float, expired: Callable[[], object]) -> None:
        self._seconds = seconds
        self._expired = expired
        self._loop = asyncio.get_running_loop()
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """A wait begins."""
        self._since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._look)

    def end(self) -> None:
        """It is over; the timer goes on, and finds out."""
        self._since = None

    def close(self) -> None:
        """There will be no other."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        if self._since is None:
            return
        left = self._since + self._seconds - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._expired()
