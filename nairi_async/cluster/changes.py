"""Changes of the items that one worker runs; what each change does is decided by `row`.

A worker knows the rows that it owns, since no one else changes a row under its claim. So a change is decided without
reading the row, and made on condition that the claim holds. Where it does not, or the turn belongs to an identical
item, the row is locked and read, and the change decided anew.

Changes that are asked for within a moment, or while a transaction runs, are made together: each pays a small part of a
statement and of a commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from attrs import field
from psycopg import errors as sql

from nairi_async._core.closing import undisturbed
from nairi_async._core.records import define
from nairi_async.batch.item_store import TurnTakenError
from nairi_async.cluster import row as rows
from nairi_async.cluster.row import ClaimLostError, Row
from nairi_async.cluster.stored_rows import Ended, end_owned, place_of, read_locked, write, write_owned
from nairi_async.errors import NairiError

if TYPE_CHECKING:
    from nairi_async.cluster.database import Connection, Database

Change = Callable[[Row, float], Row]
"""Returns the changed row, given the row and the database's time, which is 0 where the row was not read; see `row`."""
# Seconds for which changes are gathered, for each item that runs, and at most.
_GATHERING: Final = 0.001
_LONGEST_GATHERING: Final = 0.05


@define
class _Asked:
    """A change that was asked for."""

    number: int
    change: Change
    ended: Ended | None = None
    future: asyncio.Future[int] = field(factory=lambda: asyncio.get_running_loop().create_future())

    def resolve(self, result: int | BaseException) -> None:
        if self.future.done():
            return
        if isinstance(result, BaseException):
            self.future.set_exception(result)
            # Not all callers wait.
            self.future.exception()
        else:
            self.future.set_result(result)


_Result = int | BaseException | None
# Returns a place in the order of outcomes, or 0, or an error for each change; `None` for one that must be decided anew.
_Make = Callable[["Connection", list[_Asked]], Awaitable[list[_Result]]]


class ItemChanges:
    """The items that one worker runs, and their changes."""

    def __init__(self, database: Database) -> None:
        self.running: dict[int, Row] = {}
        """The rows of the items that run, by number."""
        self._changes = _Group(database, self._write, self._decide_anew)
        self._ends = _Group(database, self._end, self._decide_anew)
        self._anew = _Group(database, self._make_locked, None)

    async def change(self, number: int, change: Callable[[Row], Row]) -> None:
        """Change the row of an item that runs.

        Raises:
            ClaimLostError: the row belongs to another claim.
            TurnTakenError: the turn belongs to an identical item.
            LedgerError: the database refuses it.
        """
        await self._changes.add(_Asked(number, lambda row, _: change(row)), self._wait())

    async def change_dated(self, number: int, change: Change) -> None:
        """Change the row of an item that runs, given the database's time; see `change`."""
        await self._anew.add(_Asked(number, change), 0.0)

    async def end(self, number: int, change: Callable[[Row], Row], ended: Ended) -> int:
        """End an item that runs, and return its place in the order of outcomes; see `change`."""
        return await self._ends.add(_Asked(number, lambda row, _: change(row), ended), self._wait())

    def _wait(self) -> float:
        return min(_LONGEST_GATHERING, _GATHERING * len(self.running))

    def _decide_anew(self, asked: _Asked) -> None:
        self._anew.submit(asked, 0.0)

    def _note(self, row: Row) -> None:
        if row.number in self.running:
            self.running[row.number] = row

    def _decided(self, asked: list[_Asked]) -> tuple[dict[int, tuple[Row, Row, _Asked]], dict[int, BaseException]]:
        """Return the rows before and after the changes, and the errors of those that cannot be."""
        decided: dict[int, tuple[Row, Row, _Asked]] = {}
        errors: dict[int, BaseException] = {}
        for one in sorted(asked, key=lambda one: one.number):
            if (row := self.running.get(one.number)) is not None:
                try:
                    decided[one.number] = row, one.change(row, 0.0), one
                except (ClaimLostError, AssertionError) as error:
                    errors[one.number] = error
        return decided, errors

    async def _write(self, connection: Connection, asked: list[_Asked]) -> list[_Result]:
        """Make changes on condition that the claims hold: one statement."""
        decided, errors = self._decided(asked)
        befores, afters = [before for before, _, _ in decided.values()], [after for _, after, _ in decided.values()]
        try:
            written = await write_owned(connection, afters, befores)
        except sql.UniqueViolation:
            # One of the turns belongs to an identical item: which of them, is found out one by one.
            return [None] * len(asked)
        for number in written:
            self._note(decided[number][1])
        return [errors.get(one.number, 0 if one.number in written else None) for one in asked]

    async def _end(self, connection: Connection, asked: list[_Asked]) -> list[_Result]:
        """End items on condition that the claims hold: one statement."""
        decided, errors = self._decided(asked)
        owned = [before for before, _, _ in decided.values()]
        places = await end_owned(connection, owned, [one.ended for _, _, one in decided.values() if one.ended])
        return [errors.get(one.number, places.get(one.number)) for one in asked]

    async def _make_locked(self, connection: Connection, asked: list[_Asked]) -> list[_Result]:
        """Make changes one by one, each of a row that is locked."""
        async with connection.transaction():
            results = {
                id(one): await self._make_one(connection, one) for one in sorted(asked, key=lambda one: one.number)
            }
        return [results[id(one)] for one in asked]

    async def _make_one(self, connection: Connection, asked: _Asked) -> _Result:
        try:
            async with connection.transaction():
                found = await read_locked(connection, asked.number)
                if found is None:
                    # It was deleted with its batch.
                    return ClaimLostError()
                before, batch, now = found
                after = asked.change(before, now)
                if asked.ended is not None:
                    if before.state in rows.ENDED:
                        return await place_of(connection, batch, before.number)
                    return (await end_owned(connection, [before], [asked.ended])).get(before.number, 0)
                # Also what stands there already: an earlier try may have been committed here, and its commit given up
                # before it reached a standby. This commit waits for that.
                await write(connection, [after], [before])
                self._note(after)
                return 0
        except sql.UniqueViolation:
            return TurnTakenError()
        except (ClaimLostError, AssertionError) as error:
            return error


class _Group:
    """Changes of one kind: those that are asked for until the transaction begins are made by it."""

    def __init__(self, database: Database, make: _Make, missed: Callable[[_Asked], None] | None) -> None:
        self._database, self._make, self._missed = database, make, missed
        self._asked: list[_Asked] = []

    async def add(self, asked: _Asked, wait: float) -> int:
        """Ask for a change, and return its result."""
        self.submit(asked, wait)
        return await undisturbed(asked.future)

    def submit(self, asked: _Asked, wait: float) -> None:
        """Ask for a change, to be made at the latest after so many seconds."""
        self._asked.append(asked)
        if len(self._asked) > 1:
            return
        if wait:
            asyncio.get_running_loop().call_later(wait, self._begin)
        else:
            self._begin()

    def _begin(self) -> None:
        taken: list[_Asked] = []

        async def work(connection: Connection) -> list[_Result]:
            if not taken:
                taken.extend(self._take())
            return await self._make(connection, taken)

        try:
            # Each kind begins its own transaction, or is one statement.
            done = self._database.submit(work, is_single=True)
        except NairiError as error:
            for one in self._take():
                one.resolve(error)
        else:
            done.add_done_callback(partial(self._on_done, taken))

    def _take(self) -> list[_Asked]:
        asked, self._asked = self._asked, []
        return asked

    def _on_done(self, taken: list[_Asked], done: asyncio.Future[list[_Result]]) -> None:
        """Hand the results to those that asked."""
        asked = taken or self._take()
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        results = [error] * len(asked) if error else done.result()
        for one, result in zip(asked, results, strict=True):
            if result is None and self._missed is not None:
                self._missed(one)
            else:
                one.resolve(ClaimLostError() if result is None else result)
