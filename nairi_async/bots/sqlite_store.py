"""Chats in an SQLite file, so that a restarted bot continues its dialogues."""

from __future__ import annotations

import asyncio
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

from nairi_async._core.closing import run_shielded
from nairi_async.bots.store import Record
from nairi_async.errors import SessionClosedError, StoreError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from concurrent.futures import Future
    from types import TracebackType
    from typing import Self

_T = TypeVar("_T")

# "naCh", where SQLite keeps a number by which programs recognise their files.
_APPLICATION_ID: Final = 0x6E614368
_FORMAT: Final = 2
_SCHEMA: Final = """
CREATE TABLE chats (
    name TEXT PRIMARY KEY, dialogue_id TEXT, is_unfinished INTEGER NOT NULL, record TEXT NOT NULL
) STRICT, WITHOUT ROWID
"""
# Seconds to wait for another process that uses the file, such as a backup.
_BUSY_TIMEOUT: Final = 10.0


class SQLiteStore:
    """Records in a file, used with `async with`. Calls run in a thread, so the event loop never waits for a disk.

    A saved record is on the disk: each commit is synchronised. A virtual clock stands still only for calls that `Chats`
    makes; it runs on during calls of your own.

    Args:
        path: The file. It is created if it is missing, in a directory that exists.

    Raises:
        StoreError: on entering and in each call: the file cannot be read or written, or another program made it.
        SessionClosedError: used outside of `async with`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._connection: sqlite3.Connection | None = None
        self._thread: ThreadPoolExecutor | None = None

    def __repr__(self) -> str:
        return f"SQLiteStore({self._path!r})"

    async def __aenter__(self) -> Self:
        # One thread of its own: calls run in order, even if one is cancelled while it runs.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nairi-chats")
        try:
            await self._run(self._open)
        except BaseException:
            self._begin_closing()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._thread is not None:
            await run_shielded(asyncio.wrap_future(self._begin_closing()))

    async def load(self, name: str) -> Record | None:
        """Return the record that was saved last under that name; `None` if there is none."""
        query = "SELECT record FROM chats WHERE name = ?"
        rows = await self._run(lambda: self._opened().execute(query, (name,)).fetchall())
        try:
            return Record.from_dict(json.loads(rows[0][0])) if rows else None
        except (TypeError, ValueError) as error:
            raise StoreError(f"the store {self._path!r} cannot be used: {error}") from error

    async def save(self, name: str, record: Record) -> None:
        """Save a record, replacing an earlier one of that name; it is on the disk when this returns."""
        row = (name, record.dialogue_id, int(record.is_unfinished), json.dumps(record.to_dict()))

        def write() -> None:
            with self._opened() as connection:
                connection.execute("INSERT OR REPLACE INTO chats VALUES (?, ?, ?, ?)", row)

        await self._run(write)

    async def open_names(self) -> list[str]:
        """Return the names of all records that are `is_unfinished`."""
        query = "SELECT name FROM chats WHERE is_unfinished ORDER BY name"
        return [name for (name,) in await self._run(lambda: self._opened().execute(query).fetchall())]

    async def dialogue_ids(self) -> set[str]:
        """Return the dialogue ids of all records."""
        query = "SELECT dialogue_id FROM chats WHERE dialogue_id IS NOT NULL"
        return {dialogue_id for (dialogue_id,) in await self._run(lambda: self._opened().execute(query).fetchall())}

    def _opened(self) -> sqlite3.Connection:
        assert self._connection is not None  # noqa: S101 - calls run between opening and closing
        return self._connection

    def _begin_closing(self) -> Future[None]:
        """Close the file after the calls that still run, even if their callers were cancelled."""
        assert self._thread is not None  # noqa: S101 - called only after entering
        thread, self._thread = self._thread, None
        closed = thread.submit(self._close)
        thread.shutdown(wait=False)
        return closed

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _run(self, work: Callable[[], _T]) -> _T:
        import sqlite3  # noqa: PLC0415 - imported only where it is used

        if self._thread is None:
            raise SessionClosedError("the store is not open: use it in `async with SQLiteStore(…) as store:`")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            raise StoreError(f"the store {self._path!r} cannot be used: {error}") from error

    def _open(self) -> None:
        import sqlite3  # noqa: PLC0415 - imported only where it is used

        connection = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT, check_same_thread=False)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            with connection:
                # Another process may create the same file at this moment.
                connection.execute("BEGIN IMMEDIATE")
                (application,) = connection.execute("PRAGMA application_id").fetchone()
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                is_ours = (application, version) == (_APPLICATION_ID, _FORMAT)
                if not is_ours and (tables or application):
                    raise sqlite3.DatabaseError("another program or version made it; give another path")  # noqa: TRY301
                if not is_ours:
                    connection.execute(_SCHEMA)
                    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                    connection.execute(f"PRAGMA user_version = {_FORMAT}")
        except BaseException:
            connection.close()
            raise
        self._connection = connection
