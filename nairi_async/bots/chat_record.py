"""One chat's record while a prompt is under way, and the store behind it."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING

from attrs import define, frozen

from nairi_async._core.closing import run_shielded
from nairi_async.bots.store import Record, Store
from nairi_async.clock import Clock

if TYPE_CHECKING:
    from typing import Self


_log = logging.getLogger("nairi_async.bots")


@frozen
class ClockedStore:
    """A store that holds a virtual clock still while it works: no clock sees what a thread or another process does."""

    store: Store
    clock: Clock

    async def load(self, name: str) -> Record | None:
        """Load a record, as `Store.load` does."""
        async with self.clock.timeout(math.inf):
            return await self.store.load(name)

    async def save(self, name: str, record: Record) -> None:
        """Save a record, as `Store.save` does."""
        async with self.clock.timeout(math.inf):
            await self.store.save(name, record)

    async def open_names(self) -> list[str]:
        """Return the names of open records, as `Store.open_names` does."""
        async with self.clock.timeout(math.inf):
            return await self.store.open_names()


@define
class ChatRecord:
    """A record as the store has it."""

    store: ClockedStore
    name: str
    record: Record

    @classmethod
    async def load(cls, store: ClockedStore, name: str) -> Self:
        """Load the record of a chat; an empty one if the store has none."""
        return cls(store, name, await store.load(name) or Record())

    async def save(self, record: Record) -> None:
        """Save a record, even an unchanged one: a store that cannot save is noticed before a prompt is sent."""
        await self.store.save(self.name, record)
        self.record = record

    async def save_or_restore(self, record: Record) -> None:
        """Save a record; if cancelled, save the former one again, since the store may hold the new one by then."""
        before = self.record
        try:
            await self.save(record)
        except asyncio.CancelledError:
            self.record = record
            await self.save_outcome(before)
            raise

    async def save_outcome(self, record: Record) -> None:
        """Save the outcome of a prompt, even while cancelled. Only log a failure: a full disk must not lose a reply."""
        if record == self.record:
            return
        await run_shielded(self._save_or_log(record))

    async def _save_or_log(self, record: Record) -> None:
        try:
            await self.save(record)
        except Exception as error:  # noqa: BLE001 - a store of the user's may raise anything
            _log.warning("the outcome of a prompt could not be saved: %r", error)
