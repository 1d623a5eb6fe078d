"""Reading from what may block, such as a pipe, without blocking the event loop."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from threading import Semaphore, Thread
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

_T = TypeVar("_T")

# Items that are read ahead.
_READ_AHEAD: Final = 64


class ThreadedReader(Generic[_T]):
    """An async iterator over an iterable whose steps block.

    A daemon thread reads. It may wait for input that never comes, so nothing waits for the thread to end.
    """

    def __init__(self, items: Iterable[_T]) -> None:
        self._items = items
        self._capacity = Semaphore(_READ_AHEAD)
        self._queue: asyncio.Queue[tuple[_T, ...] | BaseException | None] = asyncio.Queue()
        self._is_started = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _T:
        """Return the next item."""
        if not self._is_started:
            self._is_started = True
            Thread(target=self._read, args=(asyncio.get_running_loop(),), name="nairi-input", daemon=True).start()
        found = await self._queue.get()
        if not isinstance(found, tuple):
            # Further calls end in the same way.
            self._queue.put_nowait(found)
            raise found or StopAsyncIteration
        self._capacity.release()
        return found[0]

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        end: BaseException | None = None
        # A closed loop wants no more items.
        with suppress(RuntimeError):
            try:
                for item in self._items:
                    loop.call_soon_threadsafe(self._queue.put_nowait, (item,))
                    self._capacity.acquire()
            except Exception as error:  # noqa: BLE001 - all of them: the consumer raises it
                end = error
            loop.call_soon_threadsafe(self._queue.put_nowait, end)
