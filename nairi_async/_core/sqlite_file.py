"""SQLite files that are private, survive a power failure, and are used by one process at a time.

A file is a database in WAL mode with `synchronous=FULL`: a commit is on the disk before it returns, even if the power
fails right after. `NORMAL` would survive a killed process, but a power failure could undo the record that a prompt is
being sent, and the prompt would run twice. Group commit (`commit_thread`) makes up for the cost.

Only SQLite opens a file: POSIX drops all of a process's locks on a file as soon as the process closes it anywhere,
and another process could then take over the log of a running one and delete it.

Everything here blocks.
"""

from __future__ import annotations

import os
import shlex
import sqlite3
import stat
from collections.abc import Callable
from contextlib import contextmanager, suppress
from threading import Lock
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from nairi_async._core.private_files import create_private, exposure
from nairi_async._core.records import frozen
from nairi_async.errors import NairiError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

# Seconds for which another program, such as a backup, may hold the file, and for which the lock may be probed.
_BUSY_TIMEOUT: Final = 10.0
_LOCK_TIMEOUT: Final = 1.0
# The permissions of what is created: for its owner alone, since prompts and replies may stand in it.
_PRIVATE: Final = 0o600


class SetUp(Protocol):
    """Makes the content of a new file, or refuses a file for its content."""

    def __call__(self, connection: sqlite3.Connection, *, is_new: bool) -> None:
        """Check the file; one that is new is in a transaction."""
        ...


@frozen(kw_only=True)
class FileKind:
    """One kind of file, and the words in which its errors speak."""

    name: str
    """What it is, such as `a batch's ledger`."""
    application_id: int
    """The number by which programs recognise their SQLite files."""
    version: int
    """Version of the tables."""
    schema: tuple[str, ...]
    """The statements that make the tables of a new file."""
    error: Callable[[str, str], NairiError]
    """Makes an error from a message and the path."""
    another: str
    """What to do instead of using this file, such as `name another --ledger`."""
    again: str
    """What to do when the cause is gone, such as `run the batch again`."""
    used_here: str
    """What to say when this process uses the file already."""
    used_elsewhere: str
    """What to say when another process uses it."""

    @contextmanager
    def errors(self, path: Path) -> Generator[None]:
        """Raise as an error of this kind what SQLite or the disk refuses, and what a damaged file causes."""
        try:
            yield
        except NairiError:
            raise
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise self.error(f"is damaged: {type(error).__name__}: {error}", str(path)) from error
        except (sqlite3.Error, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise self.error(self._explained(reason), str(path)) from error

    def open(self, path: Path, set_up: SetUp) -> OpenFile:
        """Open the file, creating it if it is missing, and lock it.

        Args:
            path: The file.
            set_up: Called with the connection.

        Raises:
            NairiError: of this kind; the file is of another kind, is in use, is not private, or cannot be written.
        """
        with self.errors(path):
            self._check_writable(path)
            # Before SQLite opens the file and reads its log.
            for file in sorted(companions(path)):
                self._check_private(file)
            _create(path)
            connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
            lock = None
            try:
                is_new = self.check_format(connection, path)
                lock = FileLock(self, path, _LOCK_TIMEOUT)
                self._check_writable(lock_path(path))
                if is_new and self.check_format(connection, path):
                    self._create(connection, set_up)
                else:
                    set_up(connection, is_new=False)
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
            except BaseException:
                connection.close()
                if lock is not None:
                    lock.close()
                raise
            return OpenFile(connection, lock)

    def check_format(self, connection: sqlite3.Connection, path: Path) -> bool:
        """Refuse another program's database; return whether the database is empty."""
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        if application == self.application_id:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version != self.version:
                advice = f"finish it with that version, or {self.another}"
                text = f"has format {version} of another version, not format {self.version}: {advice}"
                raise self.error(text, str(path))
            return False
        if application or connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise self.error(f"is not {self.name} but another program's database; {self.another}", str(path))
        return True

    def is_locked(self, path: Path) -> bool:
        """Return whether a process uses the file."""
        if not lock_path(path).exists():
            return False
        if not _may(lock_path(path), os.R_OK | os.W_OK):
            # Another user's: its log is there while a process uses the file, and after one was killed.
            return path.with_name(f"{path.name}-wal").exists()
        try:
            FileLock(self, path, 0.0).close()
        except NairiError:
            return True
        return False

    def _create(self, connection: sqlite3.Connection, set_up: SetUp) -> None:
        connection.execute("BEGIN IMMEDIATE")
        for statement in self.schema:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {self.application_id}")
        connection.execute(f"PRAGMA user_version = {self.version}")
        set_up(connection, is_new=True)
        connection.execute("COMMIT")

    def _check_writable(self, path: Path) -> None:
        """Refuse what may only be read: SQLite would open it, take a lock that locks nothing, and fail late."""
        if path.exists() and not _may(path, os.W_OK):
            raise self.error("is read-only", str(path))

    def _check_private(self, path: Path) -> None:
        """Refuse a file of another user, or one that other users can write: its content may be planted."""
        found = None
        with suppress(FileNotFoundError):
            found = exposure(path)
        if found == "foreign":
            raise self.error("belongs to another user: move it away, or make it your own with chown", str(path))
        if found == "link":
            raise self.error("is a link to another file: remove it", str(path))
        if found == "writable":
            raise self.error(f"can be written by other users: run chmod go-w {shlex.quote(str(path))}", str(path))

    def _explained(self, reason: str) -> str:
        explained = {
            "unable to open database file": "cannot be opened: its directory must exist and be writable",
            "attempt to write a readonly database": "is read-only",
            "file is not a database": f"is not {self.name} but another kind of file; {self.another}",
            "database or disk is full": f"the disk is full; free some space and {self.again}",
            "database disk image is malformed": "is damaged",
            "database is locked": (f"is locked by another program, such as a backup; {self.again} when that has ended"),
            "disk I/O error": "the disk refuses to be read or written",
        }
        return explained.get(reason, reason)


@frozen
class OpenFile:
    """An open file, and the lock that keeps other processes out."""

    connection: sqlite3.Connection
    lock: FileLock

    def close(self) -> None:
        """Close the file, then release its lock. Harmless when repeated."""
        self.connection.close()
        self.lock.close()


class FileLock:
    """The lock of a file: an exclusive transaction on an empty database next to it.

    SQLite implements it on every system as a lock on a file, which the system releases when the process ends, also if
    it is killed. The file itself can still be read.

    Args:
        kind: What the file is.
        path: The file.
        timeout: Seconds to wait for another holder.

    Raises:
        NairiError: of that kind; the lock is held.
        sqlite3.Error: there can be no lock.
    """

    _held: ClassVar[dict[Path, FileLock]] = {}
    _guard: ClassVar[Lock] = Lock()

    def __init__(self, kind: FileKind, path: Path, timeout: float) -> None:
        self._path = path
        file = lock_path(path)
        _create(file)
        # A reader of the file could hold the lock.
        with suppress(OSError):
            if stat.S_IMODE(file.stat().st_mode) & ~_PRIVATE:
                file.chmod(_PRIVATE)
        self._db = sqlite3.connect(file, timeout=timeout, isolation_level=None, check_same_thread=False)
        try:
            self._db.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            self._db.close()
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            with self._guard:
                is_own = path in self._held
            raise kind.error(kind.used_here if is_own else kind.used_elsewhere, str(path)) from error
        with self._guard:
            self._held[path] = self

    def close(self) -> None:
        """Release the file. Harmless when repeated."""
        with self._guard:
            if self._held.get(self._path) is self:
                del self._held[self._path]
        self._db.close()


class StoredKeys:
    """What one query finds in a file, as a container: `value in keys` runs the query with `:value`.

    It reads over a connection of its own, while the file is written: only what was committed counts. A lookup takes
    microseconds, so it may run on the event loop.
    """

    def __init__(self, kind: FileKind, path: Path, query: str) -> None:
        self._kind, self._path, self._query = kind, path, query
        with kind.errors(path):
            self._db = open_read_only(path)

    def __contains__(self, value: object) -> bool:
        with self._kind.errors(self._path):
            return self._db.execute(self._query, {"value": value}).fetchone() is not None

    def close(self) -> None:
        """Close the connection. Harmless when repeated."""
        self._db.close()


def companions(path: Path) -> set[Path]:
    """Return a file and the files that SQLite keeps next to it."""
    kinds = ("lock", "lock-journal", "wal", "shm", "journal")
    return {path, *(path.with_name(f"{path.name}-{kind}") for kind in kinds)}


def lock_path(path: Path) -> Path:
    """Return the file whose lock says that the other one is in use."""
    return path.with_name(f"{path.name}-lock")


def open_read_only(path: Path) -> sqlite3.Connection:
    """Open a connection that changes nothing; others may write meanwhile."""
    uri = f"{path.as_uri()}?mode=ro"
    return sqlite3.connect(uri, timeout=_BUSY_TIMEOUT, uri=True, isolation_level=None, check_same_thread=False)


def _create(path: Path) -> None:
    """Create a file, private as SQLite's companions of it then are. Where nothing can be created, SQLite says so."""
    with suppress(OSError):
        create_private(path)


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)
