"""The outcomes of a batch, read from the database; each reader has a place there."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from nairi_async.cluster.batches import read_outcomes
from nairi_async.errors import LedgerError

if TYPE_CHECKING:
    from typing import Self

    from nairi_async.batch.items import BatchOutcome
    from nairi_async.cluster.batches import BatchRow
    from nairi_async.cluster.database import Connection, Database

# Outcomes that are read at a time, and seconds between looks for new ones.
_PAGE: Final = 200
_POLL: Final = 0.5


class Outcomes:
    """An async iterator over a batch's outcomes; see `ClusterBatch.outcomes`."""

    def __init__(self, database: Database, row: BatchRow, reader: str) -> None:
        self._database, self._row, self._reader = database, row, reader
        self._page: list[tuple[int, BatchOutcome]] = []
        self._place: int | None = None
        self._handed: int | None = None
        self._stored_at = 0.0
        self._stored = 0

    def __repr__(self) -> str:
        return f"<Outcomes of {self._row.name!r} for {self._reader!r}>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> BatchOutcome:
        """Return the next outcome."""
        loop = asyncio.get_running_loop()
        if self._place is None:
            self._place = self._stored = await self._database.run(self._read_place)
        if self._handed is not None:
            self._place, self._handed = self._handed, None
        while True:
            is_time = loop.time() - self._stored_at >= _POLL
            if self._place != self._stored and (is_time or not self._page):
                await self._store_place()
            if self._page:
                self._handed, outcome = self._page.pop(0)
                return outcome
            is_over = await self._database.run(self._is_over)
            self._page = await self._database.run(
                partial(read_outcomes, batch=self._row, after=self._place, count=_PAGE)
            )
            if self._page:
                continue
            if is_over:
                raise StopAsyncIteration
            await asyncio.sleep(_POLL)

    async def aclose(self) -> None:
        """Store the place now; the outcome that was handed over last counts as not handled."""
        if self._place is not None and self._place != self._stored:
            await self._store_place()

    async def _store_place(self) -> None:
        place = self._place
        assert place is not None  # noqa: S101 - read before

        async def store(connection: Connection) -> None:
            query = (
                "INSERT INTO nairi_readers VALUES (%s, %s, %s)"
                " ON CONFLICT (batch, reader) DO UPDATE SET sequence = excluded.sequence"
            )
            await connection.execute(query, (self._row.number, self._reader, place))

        await self._database.run(store)
        self._stored, self._stored_at = place, asyncio.get_running_loop().time()

    async def _read_place(self, connection: Connection) -> int:
        query = "SELECT sequence FROM nairi_readers WHERE batch = %s AND reader = %s"
        found = await (await connection.execute(query, (self._row.number, self._reader))).fetchone()
        return int(found[0]) if found else 0

    async def _is_over(self, connection: Connection) -> bool:
        """Return whether nothing more will end, as of now. Read before the outcomes, so that none is missed."""
        query = "SELECT items <= done + failed FROM nairi_batches WHERE number = %s"
        found = await (await connection.execute(query, (self._row.number,))).fetchone()
        if found is None:
            raise LedgerError(f"the batch {self._row.name!r} was deleted", self._database.address.name)
        return bool(found[0])
