"""Opening a ledger: the file must be a ledger, of this agent and service, writable, and used by no other process.

The file is an SQLite database in WAL mode with `synchronous=FULL`: a commit is on the disk before it returns, even if
the power fails right after. `NORMAL` would survive a killed process, but a power failure could undo the record that a
prompt is being sent, and the prompt would run twice. Group commit makes up for the cost.

Only SQLite opens the file: POSIX drops all of a process's locks on a file as soon as the process closes it anywhere,
and another process could then take over the log of a running batch and delete it.
"""

from __future__ import annotations

import os
import secrets
import shlex
import sqlite3
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, ClassVar, Final

from nairi_async.errors import InvalidArgumentError, LedgerError, NairiError

if TYPE_CHECKING:
    from collections.abc import Generator

FORMAT: Final = 4
"""Version of the tables, in `PRAGMA user_version`."""
# "NAIR", in the field by which programs recognise their SQLite files.
_APPLICATION_ID: Final = 0x4E41_4952
# Seconds for which another program, such as a backup, may hold the file, and for which the lock may be probed.
_BUSY_TIMEOUT: Final = 10.0
_LOCK_TIMEOUT: Final = 1.0
# The permissions of what is created: for its owner alone, since prompts and replies stand in it.
_PRIVATE: Final = 0o600

OPEN: Final = "state IN ('unsent', 'sending', 'running')"
"""The condition of the index over items that have not ended; SQLite uses the index only for this very text."""
_SCHEMA: Final = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    """CREATE TABLE items (
        number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, id TEXT NOT NULL UNIQUE, place INTEGER NOT NULL,
        prompt TEXT NOT NULL, attachments TEXT NOT NULL, state TEXT NOT NULL, sent_at REAL,
        attachment_ids TEXT NOT NULL DEFAULT '[]', job_id TEXT, message_id TEXT
    )""",
    f"CREATE INDEX items_open ON items (number) WHERE {OPEN}",
    "CREATE INDEX items_failed ON items (number) WHERE state = 'failed'",
    "CREATE INDEX items_unusable ON items (number) WHERE state = 'unusable'",
    "CREATE TABLE jobs (id TEXT PRIMARY KEY, item INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE outcomes (sequence INTEGER PRIMARY KEY, item INTEGER NOT NULL, document TEXT NOT NULL)",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT}",
)


@contextmanager
def ledger_errors(path: Path) -> Generator[None]:
    """Raise as a `LedgerError` what SQLite or the disk refuses, and what a damaged ledger causes."""
    try:
        yield
    except NairiError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise LedgerError(f"is damaged: {type(error).__name__}: {error}", str(path)) from error
    except (sqlite3.Error, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise LedgerError(_EXPLAINED.get(reason, reason), str(path)) from error


_EXPLAINED: Final = {
    "unable to open database file": "cannot be opened: its directory must exist and be writable",
    "attempt to write a readonly database": "is read-only",
    "file is not a database": "is not a batch's ledger but another kind of file; name another --ledger",
    "database or disk is full": "the disk is full; free some space and run the batch again",
    "database disk image is malformed": "is damaged",
    "database is locked": "is locked by another program, such as a backup; run the batch again when that has ended",
    "disk I/O error": "the disk refuses to be read or written",
}


def ledger_path(path: str | os.PathLike[str]) -> Path:
    """Return the resolved path: two ways to a file are one ledger."""
    try:
        return Path(path).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidArgumentError(f"{os.fspath(path)!r} cannot be resolved: {error}") from error


def companions(path: Path) -> set[Path]:
    """Return the ledger and the files that SQLite keeps next to it."""
    kinds = ("lock", "lock-journal", "wal", "shm", "journal")
    return {path, *(path.with_name(f"{path.name}-{kind}") for kind in kinds)}


class LedgerLock:
    """The lock of a ledger: an exclusive transaction on an empty database next to it.

    SQLite implements it on every system as a lock on a file, which the system releases when the process ends, also if
    it is killed. The ledger itself can still be read.

    Args:
        path: The ledger.
        timeout: Seconds to wait for another holder.

    Raises:
        LedgerError: the lock is held.
        sqlite3.Error: there can be no lock.
    """

    _held: ClassVar[dict[Path, LedgerLock]] = {}
    _guard: ClassVar[Lock] = Lock()

    def __init__(self, path: Path, timeout: float) -> None:
        self._path = path
        file = lock_path(path)
        create_private(file)
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
            if is_own:
                reason = "is in use by another Batch of this process: leave its `async with` first"
            else:
                reason = "another process works on this batch: wait until it has ended, or stop it"
            raise LedgerError(reason, str(path)) from error
        with self._guard:
            self._held[path] = self

    def close(self) -> None:
        """Release the ledger. Harmless when repeated."""
        with self._guard:
            if self._held.get(self._path) is self:
                del self._held[self._path]
        self._db.close()


def open_ledger(path: Path, agent_id: str, base_url: str) -> tuple[sqlite3.Connection, LedgerLock]:
    """Open the ledger, creating it if it is missing, and its lock; closing the lock releases the ledger.

    Raises:
        LedgerError: the file is not a ledger, belongs to another agent or service, is in use, or cannot be written.
    """
    with ledger_errors(path):
        _check_writable(path)
        # Before SQLite opens the ledger and reads its log.
        for file in sorted(companions(path)):
            check_private(file)
        create_private(path)
        connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
        lock = None
        try:
            is_new = check_format(connection, path)
            lock = LedgerLock(path, _LOCK_TIMEOUT)
            _check_writable(lock_path(path))
            if is_new and check_format(connection, path):
                _create(connection, agent_id, base_url)
            check_agent(connection, path, agent_id, base_url)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        except BaseException:
            connection.close()
            if lock is not None:
                lock.close()
            raise
        return connection, lock


def open_read_only(path: Path) -> sqlite3.Connection:
    """Open a connection that changes nothing; others may write meanwhile."""
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", timeout=_BUSY_TIMEOUT, uri=True, isolation_level=None)


def is_locked(path: Path) -> bool:
    """Return whether a process uses the ledger."""
    if not lock_path(path).exists():
        return False
    if not _may(lock_path(path), os.R_OK | os.W_OK):
        # Another user's: its log is there while a process uses the ledger, and after one was killed.
        return path.with_name(f"{path.name}-wal").exists()
    try:
        LedgerLock(path, 0.0).close()
    except LedgerError:
        return True
    return False


def lock_path(path: Path) -> Path:
    """Return the file whose lock says that the ledger is in use."""
    return path.with_name(f"{path.name}-lock")


def check_format(connection: sqlite3.Connection, path: Path) -> bool:
    """Refuse another program's database; return whether the database is empty."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if application == _APPLICATION_ID:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != FORMAT:
            advice = "finish it with that version, or name another --ledger"
            raise LedgerError(f"has format {version} of another version, not format {FORMAT}: {advice}", str(path))
        return False
    if application or connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise LedgerError("is not a batch's ledger but another program's database; name another --ledger", str(path))
    return True


def check_agent(connection: sqlite3.Connection, path: Path, agent_id: str, base_url: str) -> None:
    """Refuse the ledger of a batch for another agent or at another service, which does not know its turns."""
    meta = dict(connection.execute("SELECT name, value FROM meta WHERE name IN ('agent_id', 'base_url')"))
    agent, service = meta["agent_id"], meta["base_url"]
    if service != base_url:
        raise LedgerError(f"belongs to a batch at {service}, not {base_url}", str(path))
    if agent != agent_id:
        raise LedgerError(f"belongs to a batch for the agent {agent!r}, not {agent_id!r}", str(path))


def _check_writable(path: Path) -> None:
    """Refuse what may only be read: SQLite would open it, take a lock that locks nothing, and fail late."""
    if path.exists() and not _may(path, os.W_OK):
        raise LedgerError("is read-only", str(path))


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def check_private(path: Path) -> None:
    """Refuse a file of another user, or one that other users can write: what stands in it could have files uploaded.

    Raises:
        LedgerError: it is one.
    """
    if not hasattr(os, "geteuid"):
        return
    try:
        found = path.stat()
    except FileNotFoundError:
        return
    if found.st_uid != os.geteuid():
        raise LedgerError("belongs to another user: move it away, or make it your own with chown", str(path))
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise LedgerError(f"can be written by other users: run chmod go-w {shlex.quote(str(path))}", str(path))


def create_private(path: Path) -> None:
    """Create an empty file that only its owner can read and write, unless there is one or none can be created.

    SQLite gives its companions the permissions of the file. It gets its name only after it was closed: closing a file
    would release the locks that SQLite holds on it.
    """
    if path.exists():
        return
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    # Where nothing can be created here, SQLite says so.
    with suppress(OSError):
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE))
        try:
            os.link(part, path)
        except FileExistsError:
            pass
        except (OSError, NotImplementedError):
            # A file system without links: another thread that opens the same new file at this instant is the risk.
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE))
        finally:
            part.unlink()


def _create(connection: sqlite3.Connection, agent_id: str, base_url: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA:
        connection.execute(statement)
    connection.execute("INSERT INTO meta VALUES ('agent_id', ?), ('base_url', ?)", (agent_id, base_url))
    connection.execute("COMMIT")
