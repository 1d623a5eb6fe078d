"""Reading from what may block, such as a pipe, without blocking the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from threading import Semaphore, Thread
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

_T = TypeVar("_T")

# Items that are read ahead.
_READ_AHEAD: Final = 64
# Seconds without a further item after which `peek` has seen what there is.
_PAUSE: Final = 0.1


class ThreadedReader(Generic[_T]):
    """An async iterator over an iterable whose steps block.

    A daemon thread reads. It may wait for input that never comes, so nothing waits for the thread to end.
    """

    def __init__(self, items: Iterable[_T]) -> None:
        self._items = items
        self._capacity = Semaphore(_READ_AHEAD)
        self._queue: asyncio.Queue[tuple[_T, ...] | BaseException | None] = asyncio.Queue()
        self._peeked: deque[tuple[_T, ...] | BaseException | None] = deque()
        self._is_started = False
        self.is_at_end: bool = False
        """Whether `peek` has returned everything."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _T:
        """Return the next item."""
        self._start()
        found = self._peeked.popleft() if self._peeked else await self._queue.get()
        if not isinstance(found, tuple):
            # Further calls end in the same way.
            self._queue.put_nowait(found)
            raise found or StopAsyncIteration
        self._capacity.release()
        return found[0]

    async def peek(self) -> list[_T]:
        """Return the next items without taking them: those that are read ahead by the time that the input pauses."""
        self._start()
        while len(self._peeked) < _READ_AHEAD and not self.is_at_end:
            try:
                found = await asyncio.wait_for(self._queue.get(), _PAUSE)
            except TimeoutError:
                break
            self._peeked.append(found)
            self.is_at_end = found is None
            if not isinstance(found, tuple):
                break
        return [found[0] for found in self._peeked if isinstance(found, tuple)]

    def _start(self) -> None:
        if not self._is_started:
            self._is_started = True
            Thread(target=self._read, args=(asyncio.get_running_loop(),), name="nairi-input", daemon=True).start()

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        end: BaseException | None = None
        # A closed loop wants no more items.
        with suppress(RuntimeError):
            try:
                for item in self._items:
                    self._hand_over(loop, (item,))
                    self._capacity.acquire()
            except Exception as error:  # noqa: BLE001 - all of them: the consumer raises it
                end = error
            self._hand_over(loop, end)

    def _hand_over(self, loop: asyncio.AbstractEventLoop, found: tuple[_T, ...] | BaseException | None) -> None:
        # A function without arguments: asyncio's debug mode shows arguments, and prompts may stand in them.
        loop.call_soon_threadsafe(lambda: self._queue.put_nowait(found))
