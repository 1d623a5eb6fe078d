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
    from collections.abc import Hashable
    from types import TracebackType


class Permits:
    """A fair semaphore, for callers of several kinds.

    A permit that is released goes to the caller that has waited longest, of each kind in turn: a thousand callers of
    one kind do not hold up the other.
    """

    __slots__ = ("_free", "_waiting")

    def __init__(self, count: int) -> None:
        self._free = count
        # By kind; the kind whose turn it is comes first.
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}

    def locked(self) -> bool:
        """Return whether a caller would have to wait."""
        return not self._free

    def count_waiting(self, kind: Hashable) -> int:
        """Return how many callers of a kind wait for a permit."""
        return len(self._waiting.get(kind, ()))

    def acquire_now(self) -> bool:
        """Take a permit if one is free; return whether that is so."""
        if not self._free:
            return False
        self._free -= 1
        return True

    async def acquire(self, kind: Hashable = None) -> None:
        """Take a permit; wait for one if none is free."""
        if not self.acquire_now():
            await self._wait(kind)

    async def _wait(self, kind: Hashable = None) -> None:
        queue = self._waiting.setdefault(kind, deque())
        permit: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(permit)
        try:
            await permit
        except BaseException:
            if permit.done() and not permit.cancelled():
                # Cancelled just when the permit was handed over: the next one gets it.
                self.release()
            else:
                queue.remove(permit)
                if not queue:
                    self._waiting.pop(kind, None)
            raise

    def release(self) -> None:
        """Give a permit back."""
        if not self._waiting:
            self._free += 1
            return
        for kind, queue in self._waiting.items():
            for permit in queue:
                if not permit.done():
                    queue.remove(permit)
                    # The kind is last now, behind the others.
                    del self._waiting[kind]
                    if queue:
                        self._waiting[kind] = queue
                    permit.set_result(None)
                    return
        self._free += 1


class LoopLock(Permits):
    """A lock for what belongs to a session: used from another event loop, it raises, and never waits without end."""

    __slots__ = ("__weakref__", "_holders_loop")  # weakly referenced where each key has a lock of its own

    def __init__(self) -> None:
        super().__init__(1)
        self._holders_loop: asyncio.AbstractEventLoop | None = None

    def acquire_now(self) -> bool:
        """Take the lock if it is free; return whether that is so."""
        if not self._free:
            return False
        self._free, self._holders_loop = 0, asyncio.get_running_loop()
        return True

    async def acquire(self, kind: Hashable = None) -> None:
        """Acquire the lock.

        Raises:
            SessionClosedError: the lock is held or awaited in another event loop.
        """
        if self.acquire_now():
            return
        if self._holders_loop is asyncio.get_running_loop():
            await self._wait(kind)
        else:
            raise SessionClosedError("this belongs to a session of another event loop; make one session per loop")

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()
