"""The end of the whole wait for one prompt."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Final, TypeVar

from nairi_async._core.closing import run_shielded
from nairi_async.errors import WatchTimeoutError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from nairi_async.clock import Clock

_T = TypeVar("_T")
_NOT_SENT: Final = "the prompt was not sent: its turn has not come within the timeout"


class Deadline:
    """The end of the whole wait for one prompt."""

    def __init__(self, clock: Clock, timeout: float) -> None:
        self._clock = clock
        self._at = clock.monotonic() + timeout

    def options(self) -> dict[str, Any]:
        """Return the `timeout=` for a call; `None` if there is no deadline.

        Raises:
            WatchTimeoutError: the time is over.
        """
        left = self.left()
        return {"timeout": None if left == math.inf else left}

    def left(self) -> float:
        """Return the seconds that are left.

        Raises:
            WatchTimeoutError: none are.
        """
        left = self._at - self._clock.monotonic()
        if left <= 0:
            raise WatchTimeoutError(_NOT_SENT)
        return left

    async def bound(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Await some work for as long as time is left.

        Raises:
            WatchTimeoutError: the time was over first.
        """
        if self._at == math.inf:
            return await work
        task = asyncio.ensure_future(work)
        timer = asyncio.ensure_future(self._clock.sleep(max(0.0, self._at - self._clock.monotonic())))
        try:
            await asyncio.wait({task, timer}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise WatchTimeoutError(_NOT_SENT)
            return task.result()
        finally:
            timer.cancel()
            if not task.done():
                task.cancel()
                await run_shielded(asyncio.wait({task}))
