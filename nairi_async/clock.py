"""Time as a part that is handed in: what the library may ask of a clock, and the one the world runs on."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from contextlib import AbstractAsyncContextManager


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
