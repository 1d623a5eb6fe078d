"""The timeout of a whole stream, by the session's clock."""

from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from nairi_async.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from nairi_async.clock import Clock


class StreamDeadline:
    """Bounds the steps of one stream, of which one at a time is under way, from the first step on.

    It refers to nothing of its stream, which may be collected while the timer runs.
    """

    def __init__(self, clock: Clock, timeout: float) -> None:
        self._clock = clock
        self._timeout = timeout
        self._at: float | None = None
        self._timer: asyncio.Future[None] | None = None
        self._step: asyncio.Timeout | None = None

    @asynccontextmanager
    async def bound(self) -> AsyncGenerator[None]:
        """Bound a step by what is left of the timeout; `TimeoutError` is raised when it is over."""
        if self._timeout == math.inf:
            yield
            return
        now = self._clock.monotonic()
        if self._at is None:
            self._at = now + self._timeout
        if self._timer is None and not isinstance(self._clock, SystemClock):
            self._timer = asyncio.ensure_future(self._clock.sleep(self._at - now))
            self._timer.add_done_callback(self._expired)
        # By real seconds as well, since a virtual clock stands still while a request is under way.
        async with asyncio.timeout(max(0.0, self._at - now)) as step:
            self._step = step
            try:
                yield
            finally:
                self._step = None

    def close(self) -> None:
        """Stop the timer: no step is under way. The next step starts it again, with what is left."""
        timer, self._timer = self._timer, None
        if timer is not None:
            # Where the event loop is closed, nothing waits any more.
            with suppress(RuntimeError):
                timer.cancel()

    def _expired(self, timer: asyncio.Future[None]) -> None:
        if not timer.cancelled() and self._step is not None:
            self._step.reschedule(0)
