"""Chats in an SQLite file, so that a bot that is started again goes on where it stood."""

from __future__ import annotations

import asyncio
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

from nairi_async.bots.store import Record
from nairi_async.errors import ConfigurationError, StoreError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from concurrent.futures import Future
    from types import TracebackType
    from typing import Self

_T = TypeVar("_T")

_APPLICATION: Final = 0x6E614368  # "naCh": tells these files from other people's databases
_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE chats (
    name TEXT PRIMARY KEY, dialogue_id TEXT, is_open INTEGER NOT NULL, last TEXT, keys TEXT NOT NULL
) STRICT, WITHOUT ROWID
"""
# Seconds for which another process that reads the file, such as a backup, is waited for.
_BUSY: Final = 10.0


class SQLiteStore:
    """Records in a file, used with `async with`. Calls run in a thread, so the event loop never waits for a disk.

    A saved record is on the disk (synchronised at each commit). Used by itself, and not through `Chats`, it is not seen
    by a virtual clock, which runs on while the thread works.

    Args:
        path: The file; made where there is none, in a directory that exists.

    Raises:
        StoreError: on entering and in each call: the file cannot be read or written, or is none of this library's.
        ConfigurationError: used outside of `async with`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._connection: sqlite3.Connection | None = None
        self._thread: ThreadPoolExecutor | None = None

    def __repr__(self) -> str:
        return f"SQLiteStore({self._path!r})"

    async def __aenter__(self) -> Self:
        # A thread of its own: calls run in their order, also where one was cancelled while it ran.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nairi-chats")
        try:
            await self._run(self._open)
        except BaseException:
            self._shut()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._thread is not None:
            # A cancelled wait must not take the closing with it.
            await asyncio.shield(asyncio.wrap_future(self._shut()))

    async def load(self, name: str) -> Record | None:
        """What was saved last under that name; `None` for a new one."""
        query = "SELECT dialogue_id, is_open, last, keys FROM chats WHERE name = ?"
        rows = await self._run(lambda: self._opened().execute(query, (name,)).fetchall())
        try:
            return Record(rows[0][0], bool(rows[0][1]), rows[0][2], tuple(json.loads(rows[0][3]))) if rows else None
        except (TypeError, ValueError) as error:
            raise StoreError(f"the chats in {self._path!r} cannot be used: {error}") from error

    async def save(self, name: str, record: Record) -> None:
        """Keep a record, in the place of any there was; on the disk when this returns."""
        row = (name, record.dialogue_id, int(record.is_open), record.last, json.dumps(record.keys))

        def write() -> None:
            with self._opened() as connection:
                connection.execute("INSERT OR REPLACE INTO chats VALUES (?, ?, ?, ?, ?)", row)

        await self._run(write)

    async def open_names(self) -> list[str]:
        """The names of all records that say `is_open`."""
        query = "SELECT name FROM chats WHERE is_open ORDER BY name"
        return [name for (name,) in await self._run(lambda: self._opened().execute(query).fetchall())]

    def _opened(self) -> sqlite3.Connection:
        assert self._connection is not None  # noqa: S101 - work runs between opening and closing, in this order
        return self._connection

    def _shut(self) -> Future[None]:
        """Close the file behind what is still under way, also where nobody waits for it any more."""
        assert self._thread is not None  # noqa: S101 - whoever calls it has entered
        thread, self._thread = self._thread, None
        closed = thread.submit(self._close)
        thread.shutdown(wait=False)
        return closed

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _run(self, work: Callable[[], _T]) -> _T:
        import sqlite3  # noqa: PLC0415 - loaded by those who use it

        if self._thread is None:
            raise ConfigurationError("the store is not open; use it in `async with`")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            raise StoreError(f"the chats in {self._path!r} cannot be used: {error}") from error

    def _open(self) -> None:
        import sqlite3  # noqa: PLC0415 - loaded by those who use it

        connection = sqlite3.connect(self._path, timeout=_BUSY, check_same_thread=False)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            with connection:
                # Another process may be making the same file at this moment.
                connection.execute("BEGIN IMMEDIATE")
                (application,) = connection.execute("PRAGMA application_id").fetchone()
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                is_ours = (application, version) == (_APPLICATION, _VERSION)
                if not is_ours and (tables or application):
                    raise sqlite3.DatabaseError("it holds another program's data, or another version's")  # noqa: TRY301
                if not is_ours:
                    connection.execute(_SCHEMA)
                    connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                    connection.execute(f"PRAGMA user_version = {_VERSION}")
        except BaseException:
            connection.close()
            raise
        self._connection = connection
