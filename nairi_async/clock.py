"""Time as a part that is handed in: the protocol of a clock, and the clock of the machine.

A session takes another clock as `clock=`. Tests give `nairi_async.testing.VirtualClock`, which jumps over waits.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractAsyncContextManager

__all__ = ["Clock", "IdleTimeout", "LoopIdleTimeout", "SystemClock"]


class IdleTimeout(Protocol):
    """A bound on each of many waits, of which one at a time is under way."""

    def begin(self) -> None:
        """Start to measure a wait."""
        ...

    def end(self) -> None:
        """Stop: the wait is over."""
        ...

    def close(self) -> None:
        """Release the timer: there will be no further wait. Harmless when repeated."""
        ...


class Clock(Protocol):
    """Everything that the library asks of time."""

    def monotonic(self) -> float:
        """Return seconds on a scale that never runs backwards; only differences have a meaning."""
        ...

    def time(self) -> float:
        """Return seconds since the Unix epoch, to compare with dates that the service sends."""
        ...

    def sleep(self, seconds: float) -> Coroutine[Any, Any, None]:
        """Wait; zero or less still lets other tasks run."""
        ...

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """Bound a block of real input and output, which raises `TimeoutError` when it takes longer."""
        ...

    def idle_timeout(self, seconds: float, expired: Callable[[], object]) -> IdleTimeout:
        """Bound each read of a stream: `expired` is called when one takes longer."""
        ...


class SystemClock:
    """The clock of the machine and of the running event loop."""

    def monotonic(self) -> float:
        """Return the seconds of the machine's monotonic clock."""
        return time.monotonic()

    def time(self) -> float:
        """Return the seconds since the Unix epoch, by the machine's clock."""
        return time.time()

    def sleep(self, seconds: float) -> Coroutine[Any, Any, None]:
        """Wait on the event loop."""
        # Returned and not awaited here: thousands wait, and each frame less is memory.
        return asyncio.sleep(max(0.0, seconds))

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """Bound a block by the event loop's time."""
        return asyncio.timeout(seconds)

    def idle_timeout(self, seconds: float, expired: Callable[[], object]) -> IdleTimeout:
        """Bound each of many waits by the event loop's time."""
        return LoopIdleTimeout(seconds, expired)


class LoopIdleTimeout:
    """Bounds waits by the running event loop's time, with one timer however many waits there are."""

    __slots__ = ("_expired", "_loop", "_seconds", "_timer", "_waiting_since")

    def __init__(self, seconds: float, expired: Callable[[], object]) -> None:
        self._seconds = seconds
        self._expired = expired
        self._loop = asyncio.get_running_loop()
        self._waiting_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Start to measure a wait."""
        self._waiting_since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._check)

    def end(self) -> None:
        """Stop measuring. The timer stays, since the next wait usually begins before it fires."""
        self._waiting_since = None

    def close(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _check(self) -> None:
        self._timer = None
        if self._waiting_since is None:
            return
        remaining = self._waiting_since + self._seconds - self._loop.time()
        if remaining > 0:
            self._timer = self._loop.call_later(remaining, self._check)
        else:
            self._expired()
