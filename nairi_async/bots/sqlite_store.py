"""Chats in an SQLite file, so that a restarted bot continues its dialogues."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

from nairi_async._core import checks
from nairi_async._core.closing import run_shielded
from nairi_async._core.private_files import setting_path
from nairi_async.bots import sqlite_file
from nairi_async.bots.store import Record
from nairi_async.errors import SessionClosedError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from types import TracebackType
    from typing import Self

    from nairi_async.typing import Duration

_T = TypeVar("_T")

LOCK_TIMEOUT: Final = 30.0
"""Seconds to wait for the end of another process that uses the file, as in a rolling deploy."""
# Seconds between attempts.
_LOCK_INTERVAL: Final = 0.1


class SQLiteStore:
    """Records in a file, used with `async with`. Calls run in a thread, so the event loop never waits for a disk.

    A saved record is on the disk: each commit is synchronised. A virtual clock stands still only for calls that `Chats`
    makes; it runs on during calls of your own.

    One process uses a file at a time, so that each chat is answered once. Entering waits until another process has
    ended, as in a rolling deploy: the new process then recovers what the old one left.

    The file holds what users have written. It is created with mode 0600, as is the file `…-lock` next to it, and is
    refused if it belongs to another user of the machine, or others may write it.

    Args:
        path: The file. It is created if it is missing, in a directory that exists.
        lock_timeout: Seconds to wait for another process that uses the file.

    Raises:
        StoreError: on entering and in each call: the file cannot be used, is in use, or another program made it.
        ConfigurationError: the path or `lock_timeout` is not valid.
        SessionClosedError: used outside of `async with`.
    """

    def __init__(self, path: str | os.PathLike[str], *, lock_timeout: Duration = LOCK_TIMEOUT) -> None:
        self._path = os.fspath(setting_path("path", path))
        self._lock_timeout = checks.seconds(lock_timeout)
        checks.positive("lock_timeout", self._lock_timeout, or_zero=True)
        self._file: sqlite_file.OpenFile | None = None
        self._thread: ThreadPoolExecutor | None = None

    def __repr__(self) -> str:
        return f"SQLiteStore({self._path!r})"

    async def __aenter__(self) -> Self:
        # One thread of its own: calls run in order, even if one is cancelled while it runs.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nairi-chats")
        try:
            await self._open()
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
        assert self._file is not None  # noqa: S101 - calls run between opening and closing
        return self._file.connection

    def _begin_closing(self) -> Future[None]:
        """Close the file after the calls that still run, even if their callers were cancelled."""
        assert self._thread is not None  # noqa: S101 - called only after entering
        thread, self._thread = self._thread, None
        closed = thread.submit(self._close)
        thread.shutdown(wait=False)
        return closed

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    async def _run(self, work: Callable[[], _T]) -> _T:
        if self._thread is None:
            raise SessionClosedError("the store is not open: use it in `async with SQLiteStore(…) as store:`")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"the store {self._path!r} cannot be used: {error}") from error

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._lock_timeout
        while True:
            try:
                await self._run(self._open_file)
            except sqlite_file.FileInUseError as error:
                if loop.time() >= deadline:
                    reason = "another process uses it, or another store of this one; wait for its end, or stop it"
                    raise StoreError(f"the store {self._path!r} cannot be used: {reason}") from error
            else:
                return
            await asyncio.sleep(_LOCK_INTERVAL)

    def _open_file(self) -> None:
        self._file = sqlite_file.open_file(self._path)
