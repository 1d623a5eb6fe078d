"""Opens the SQLite file of a bot's chats: private, created if it is missing, and used by one process at a time.

Everything here blocks. Nothing but SQLite opens the file once it exists: POSIX releases all locks of a process on a
file as soon as the process closes it anywhere.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Final

from nairi_async._core.private_files import check_private, create_private
from nairi_async._core.records import frozen
from nairi_async._core.sqlite_file import companions

# "naCh", where SQLite keeps a number by which programs recognise their files.
_APPLICATION_ID: Final = 0x6E614368
_FORMAT: Final = 3
_SCHEMA: Final = """
CREATE TABLE chats (
    name TEXT PRIMARY KEY, dialogue_id TEXT, is_unfinished INTEGER NOT NULL, record TEXT NOT NULL
) STRICT, WITHOUT ROWID
"""
# Seconds to wait for another program that uses the file, such as a backup.
_BUSY_TIMEOUT: Final = 10.0


class FileInUseError(Exception):
    """Another process, or another store of this one, holds the lock of the file."""


@frozen
class OpenFile:
    """An open file, and the lock that keeps other processes out."""

    connection: sqlite3.Connection
    lock: sqlite3.Connection

    def close(self) -> None:
        """Close the file, then release the lock."""
        self.connection.close()
        self.lock.close()


def open_file(path: str) -> OpenFile:
    """Open the file, creating it if it is missing.

    Raises:
        FileInUseError: another store uses it.
        OSError: it cannot be created, or other users may have written it.
        sqlite3.Error: it cannot be used.
    """
    create_private(path)
    # Before SQLite opens the file and plays back its journal.
    for file in sorted(companions(Path(path))):
        with suppress(FileNotFoundError):
            check_private(file)
    connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT, check_same_thread=False)
    lock = None
    try:
        connection.execute("PRAGMA synchronous = FULL")
        _is_new(connection)
        lock = _lock(f"{path}-lock")
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            if _is_new(connection):
                connection.execute(_SCHEMA)
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {_FORMAT}")
    except BaseException:
        connection.close()
        if lock is not None:
            lock.close()
        raise
    return OpenFile(connection, lock)


def _is_new(connection: sqlite3.Connection) -> bool:
    """Return whether the file is empty; refuse one that another program or version made."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    is_ours = (application, version) == (_APPLICATION_ID, _FORMAT)
    if not is_ours and (tables or application):
        raise sqlite3.DatabaseError("another program or version made it; give another path")
    return not is_ours


def _lock(path: str) -> sqlite3.Connection:
    """Hold an exclusive transaction on an empty database next to the file.

    SQLite implements it on every system as a lock on a file, which the system releases when the process ends, also if
    it is killed. The file itself can still be read.
    """
    create_private(path)
    lock = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        lock.close()
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            raise FileInUseError from error
        raise
    return lock
