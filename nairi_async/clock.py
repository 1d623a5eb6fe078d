"""An injectable clock: its protocol, and the clock of the machine.

A session takes another clock as `clock=`. Tests give `nairi_async.testing.VirtualClock`, which jumps over waits.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Self

__all__ = ["Clock", "IdleTimeout", "LoopIdleTimeout", "LoopTimeout", "SystemClock"]

# A timer that fires so many seconds late shows that the event loop was blocked, or the process stopped.
_LATE: Final = 0.1
# Seconds to read what arrived meanwhile, at least.
_GRACE: Final = 1.0


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

    def __init__(self) -> None:
        self._alarm: _Alarm | None = None

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
        loop = asyncio.get_running_loop()
        if self._alarm is None or self._alarm.loop is not loop:
            self._alarm = _Alarm(loop)
        return LoopTimeout(seconds, self._alarm)

    def idle_timeout(self, seconds: float, expired: Callable[[], object]) -> IdleTimeout:
        """Bound each of many waits by the event loop's time."""
        return LoopIdleTimeout(seconds, expired)


class _Alarm:
    """Expires the timeouts of one event loop, with one timer for all: most blocks end long before they are due.

    The timer is set for the earliest of them, and not again when that one ends. So a request costs an entry in a set,
    where a timer of its own would cost twenty times as much.
    """

    __slots__ = ("_timer", "loop", "now", "set_for", "timeouts")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop: asyncio.AbstractEventLoop = loop
        self.now: Callable[[], float] = loop.time
        """Returns the loop's time."""
        self.timeouts: set[LoopTimeout] = set()
        """Those that are under way."""
        self.set_for: float = math.inf
        """When the timer fires: no timeout may be due earlier."""
        self._timer: asyncio.TimerHandle | None = None

    def set(self, due: float) -> None:
        """Let the timer fire at this time of the loop."""
        if self._timer is not None:
            self._timer.cancel()
        self.set_for, self._timer = due, self.loop.call_at(due, self._ring)

    def _ring(self) -> None:
        self.set_for, self._timer = math.inf, None
        now = self.now()
        for timeout in [timeout for timeout in self.timeouts if timeout.due <= now]:
            self.timeouts.remove(timeout)
            timeout.expire(now)
        earliest = min((timeout.due for timeout in self.timeouts), default=math.inf)
        if earliest < self.set_for:
            self.set(earliest)


class LoopTimeout:
    """Bounds a block by the running event loop's time, as `asyncio.timeout` does, and leaves out what was no wait.

    While the loop is blocked, or the process is stopped, responses arrive unread. A timeout that expires late is
    therefore extended, for as long as it was late: in all for a second at least, and for its own length at most.
    """

    # With the text that `help` shows for each.
    __slots__ = {
        "due": "When it expires, by the loop's time.",
        **dict.fromkeys(("_alarm", "_cancelling", "_expiry", "_extended", "_has_cancelled", "_seconds", "_task")),
    }

    due: float
    """When it expires, by the loop's time."""

    def __init__(self, seconds: float, alarm: _Alarm | None = None) -> None:
        self._seconds = seconds
        self._alarm = alarm or _Alarm(asyncio.get_running_loop())
        self._extended = 0.0
        self._expiry: asyncio.Handle | None = None
        self._has_cancelled = False

    def restart(self, seconds: float) -> None:
        """Bound the rest of the block anew, from now on."""
        self._seconds, self._extended = seconds, 0.0
        if self._expiry is not None:
            self._expiry.cancel()
        self._start(seconds)

    async def __aenter__(self) -> Self:
        task = asyncio.current_task(self._alarm.loop)
        if task is None:
            raise RuntimeError("a timeout can be used inside of a task only")
        self._task = task
        # A task may have been cancelled before, and catch it.
        self._cancelling = task.cancelling()
        self._start(self._seconds)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._alarm.timeouts.discard(self)
        if self._expiry is None:
            return
        self._expiry.cancel()
        if self._has_cancelled and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self, now: float) -> None:
        """End the block, unless the loop was blocked meanwhile."""
        late = now - self.due
        grace = max(_GRACE, self._seconds) - self._extended
        if late > _LATE and grace > 0:
            more = min(max(_GRACE, late), grace)
            self._extended += more
            self._start(more)
        else:
            # After what this pass of the loop has read: it may be what the block waits for.
            self._expiry = self._alarm.loop.call_soon(self._cancel)

    def _cancel(self) -> None:
        self._has_cancelled = True
        self._task.cancel()

    def _start(self, seconds: float) -> None:
        alarm = self._alarm
        self.due = due = alarm.now() + seconds
        alarm.timeouts.add(self)
        if due < alarm.set_for:
            alarm.set(due)


class LoopIdleTimeout:
    """Bounds waits by the running event loop's time, with one timer however many waits there are.

    The time for which the loop was blocked does not count, as in `LoopTimeout`.
    """

    __slots__ = ("_due", "_expired", "_grace", "_loop", "_seconds", "_timer", "_waiting_since")

    def __init__(self, seconds: float, expired: Callable[[], object]) -> None:
        self._seconds = seconds
        self._expired = expired
        self._loop = asyncio.get_running_loop()
        self._waiting_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = self._grace = 0.0

    def begin(self) -> None:
        """Start to measure a wait."""
        self._waiting_since = self._loop.time()
        self._grace = max(_GRACE, self._seconds)
        if self._timer is None:
            self._set(self._seconds)

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
        now = self._loop.time()
        late = now - self._due
        remaining = self._waiting_since + self._seconds - now
        if late > _LATE and remaining <= 0 and self._grace > 0:
            remaining = min(max(_GRACE, late), self._grace)
            self._grace -= remaining
            self._waiting_since = now - self._seconds + remaining
        if remaining > 0:
            self._set(remaining)
        else:
            self._expired()

    def _set(self, seconds: float) -> None:
        self._due = self._loop.time() + seconds
        self._timer = self._loop.call_at(self._due, self._check)
