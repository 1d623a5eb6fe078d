"""Reading what may keep one waiting, such as a pipe, without keeping the event loop."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from threading import Semaphore, Thread
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

_T = TypeVar("_T")

# Items read ahead at most; and what one wake-up of the loop may bring.
_AHEAD: Final = 64


class Fed(Generic[_T]):
    """An async iterator over an iterable whose steps block.

    A thread reads. It may be waiting for somebody who never writes, so nothing waits for its end: it dies with the
    process.
    """

    def __init__(self, items: Iterable[_T]) -> None:
        self._items = items
        self._room = Semaphore(_AHEAD)
        self._ready: asyncio.Queue[tuple[_T, ...] | BaseException | None] = asyncio.Queue()
        self._is_begun = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _T:
        """The next item."""
        if not self._is_begun:
            self._is_begun = True
            Thread(target=self._read, args=(asyncio.get_running_loop(),), name="nairi-input", daemon=True).start()
        found = await self._ready.get()
        if not isinstance(found, tuple):
            # The end remains the end.
            self._ready.put_nowait(found)
            raise found or StopAsyncIteration
        self._room.release()
        return found[0]

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        end: BaseException | None = None
        # A loop that is closed wants nothing more.
        with suppress(RuntimeError):
            try:
                for item in self._items:
                    loop.call_soon_threadsafe(self._ready.put_nowait, (item,))
                    self._room.acquire()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is raised where the items are taken
                end = error
            loop.call_soon_threadsafe(self._ready.put_nowait, end)
