"""One chat's record while a prompt is under way."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING

import anyio
from attrs import define, frozen

from nairi_async.bots.store import Record, Store
from nairi_async.clock import Clock

if TYPE_CHECKING:
    from typing import Self


_log = logging.getLogger("nairi_async.bots")


@frozen
class ClockedStore:
    """A store during whose work a virtual clock stands still: no clock sees what a thread or another process does."""

    store: Store
    clock: Clock

    async def load(self, name: str) -> Record | None:
        """As the store does."""
        async with self.clock.timeout(math.inf):
            return await self.store.load(name)

    async def save(self, name: str, record: Record) -> None:
        """As the store does."""
        async with self.clock.timeout(math.inf):
            await self.store.save(name, record)

    async def open_names(self) -> list[str]:
        """As the store does."""
        async with self.clock.timeout(math.inf):
            return await self.store.open_names()


@define
class ChatRecord:
    """A record as the store has it."""

    store: Store
    name: str
    record: Record

    @classmethod
    async def of(cls, store: Store, name: str) -> Self:
        """What the store has under that name."""
        return cls(store, name, await store.load(name) or Record())

    async def put(self, record: Record) -> None:
        """Save a record, also one that is there already: whether saving works is known before a prompt leaves."""
        await self.store.save(self.name, record)
        self.record = record

    async def put_or_undo(self, record: Record) -> None:
        """The same, but nothing of it stays where it was cancelled: the store may have it all the same."""
        before = self.record
        try:
            await self.put(record)
        except asyncio.CancelledError:
            self.record = record
            await self.put_in_any_case(before)
            raise

    async def put_in_any_case(self, record: Record) -> None:
        """Save what came of a prompt: also when cancelled, and a reply is not lost to a disk that is full."""
        if record == self.record:
            return
        with anyio.CancelScope(shield=True):
            try:
                await self.put(record)
            except Exception as error:  # noqa: BLE001 - a store may be anybody's
                _log.warning("what came of a prompt could not be saved: %r", error)
