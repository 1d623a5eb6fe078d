"""Permits for a bounded number of callers, and a lock for what belongs to one event loop.

`asyncio.Semaphore` and `asyncio.Lock` have no way to take what is free without awaiting it, which is what nearly every
request does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from nairi_async.errors import SessionClosedError

if TYPE_CHECKING:
    from types import TracebackType


class Permits:
    """A fair semaphore: a permit that is released goes to the caller that has waited longest."""

    __slots__ = ("_free", "_waiting")

    def __init__(self, count: int) -> None:
        self._free = count
        # Made when it is needed: an empty one takes 600 bytes.
        self._waiting: deque[asyncio.Future[None]] | None = None

    def locked(self) -> bool:
        """Return whether a caller would have to wait."""
        return not self._free

    def acquire_now(self) -> bool:
        """Take a permit if one is free; return whether that is so."""
        if not self._free:
            return False
        self._free -= 1
        return True

    async def acquire(self) -> None:
        """Take a permit; wait for one if none is free."""
        if not self.acquire_now():
            await self._wait()

    async def _wait(self) -> None:
        if self._waiting is None:
            self._waiting = deque()
        permit: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(permit)
        try:
            await permit
        except BaseException:
            if permit.done() and not permit.cancelled():
                # Cancelled just when the permit was handed over: the next one gets it.
                self.release()
            else:
                self._waiting.remove(permit)
            raise

    def release(self) -> None:
        """Give a permit back."""
        for permit in self._waiting or ():
            if not permit.done():
                assert self._waiting is not None  # noqa: S101 - the permit is in it
                self._waiting.remove(permit)
                permit.set_result(None)
                return
        self._free += 1


class LoopLock(Permits):
    """A lock for what belongs to a session: used from another event loop, it raises, and never waits without end."""

    __slots__ = ("__weakref__", "_holders_loop")  # weakly referenced where each key has a lock of its own

    def __init__(self) -> None:
        super().__init__(1)
        self._holders_loop: asyncio.AbstractEventLoop | None = None

    async def acquire(self) -> None:
        """Acquire the lock.

        Raises:
            SessionClosedError: the lock is held or awaited in another event loop.
        """
        loop = asyncio.get_running_loop()
        if self.acquire_now():
            self._holders_loop = loop
        elif self._holders_loop is loop:
            await self._wait()
        else:
            raise SessionClosedError("this belongs to a session of another event loop; make one session per loop")

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()
