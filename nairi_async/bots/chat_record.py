"""One chat's record while its prompts run and wait, and the store behind it."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from typing import TYPE_CHECKING

from attrs import field

from nairi_async._core.closing import run_shielded
from nairi_async._core.records import define, frozen
from nairi_async.bots.store import ChatPrompt, Record, SharedStore, Store
from nairi_async.clock import Clock
from nairi_async.errors import SessionClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    Change = Callable[[Record], Record]

_log = logging.getLogger("nairi_async.bots")


@frozen
class ClockedStore:
    """A store that holds a virtual clock still while it works: no clock sees what a thread or another process does."""

    store: Store
    clock: Clock

    async def acquire(self, name: str) -> None:
        """Keep other processes from a chat, if they use the store as well; see `SharedStore`."""
        if isinstance(self.store, SharedStore):
            async with self.clock.timeout(math.inf):
                await self.store.acquire(name)

    def release(self, name: str) -> None:
        """Let other processes have a chat, if they use the store as well."""
        if isinstance(self.store, SharedStore):
            self.store.release(name)

    async def load(self, name: str) -> Record | None:
        """Load a record, as `Store.load` does."""
        async with self.clock.timeout(math.inf):
            return await self.store.load(name)

    async def save(self, name: str, record: Record) -> None:
        """Save a record, as `Store.save` does."""
        async with self.clock.timeout(math.inf):
            await self.store.save(name, record)

    async def open_names(self) -> list[str]:
        """Return the names of unfinished records, as `Store.open_names` does."""
        async with self.clock.timeout(math.inf):
            return await self.store.open_names()

    async def dialogue_ids(self) -> Collection[str]:
        """Return the dialogue ids of all records, as `Store.dialogue_ids` does."""
        async with self.clock.timeout(math.inf):
            return await self.store.dialogue_ids()


@define(eq=False)
class ChatRecord:
    """A record that several prompts of a chat change, each by a function of what it is by then."""

    store: ClockedStore
    name: str
    record: Record = field(factory=Record)
    is_exclusive: bool = False
    """Whether no other process may answer the chat from the moment when it is loaded."""
    is_unsaved: bool = False
    """Whether the store refused the last state: then only this process knows it."""
    leftover: deque[ChatPrompt] = field(factory=deque)
    """Prompts that an earlier process accepted, and that waited when it ended."""
    _is_loaded: bool = False
    _lock: asyncio.Lock = field(factory=asyncio.Lock)

    async def load(self) -> Record:
        """Load the record from the store, once."""
        async with self._lock:
            if not self._is_loaded:
                if self.is_exclusive:
                    await self.store.acquire(self.name)
                self.record = await self.store.load(self.name) or Record()
                self.leftover.extend(self.record.waiting)
                self._is_loaded = True
        return self.record

    async def check_store_is_open(self) -> None:
        """Refuse to hand over a reply after the store was closed: it could not be noted, and the next process sends it.

        Raises:
            SessionClosedError: the store is closed.
        """
        try:
            await self.store.load(self.name)
        except SessionClosedError:
            raise
        except Exception as error:  # noqa: BLE001 - a store that fails must not lose a reply
            _log.warning("the store of the chats fails: %r", error)

    async def save(self, change: Change) -> None:
        """Save a changed record, even an unchanged one: a store that cannot save is noticed before a prompt is sent."""
        async with self._lock:
            changed = change(self.record)
            try:
                await self.store.save(self.name, changed)
            except asyncio.CancelledError:
                # The store may hold it by now.
                self.record, self.is_unsaved = changed, True
                raise
            self.record, self.is_unsaved = changed, False

    async def save_or_undo(self, change: Change, undo: Change) -> None:
        """Save a changed record; if cancelled, save it once more with the change undone."""
        try:
            await self.save(change)
        except asyncio.CancelledError:
            await self.save_outcome(undo)
            raise

    async def save_outcome(self, change: Change) -> None:
        """Save the outcome of a prompt, even while cancelled. Only log a failure: a full disk must not lose a reply."""
        await run_shielded(self._save_or_log(change))

    async def _save_or_log(self, change: Change) -> None:
        if change(self.record) == self.record and not self.is_unsaved:
            return
        try:
            await self.save(change)
        except Exception as error:  # noqa: BLE001 - a store of the user's may raise anything
            self.record, self.is_unsaved = change(self.record), True
            _log.warning("the outcome of a prompt could not be saved: %r", error)
