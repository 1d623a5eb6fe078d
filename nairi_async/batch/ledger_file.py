"""Opening a ledger: is the file ours, does nobody else work with it, and does it stand where it is believed to.

The file is an SQLite database in WAL mode, with `synchronous=FULL`: a commit is on the disk before it returns, also
where the power fails the moment after. `NORMAL` would survive a killed process, but a power failure could take back
the note that a prompt is being sent, and the prompt would run twice. Group commit makes up for what it costs.

Nobody but SQLite opens the file: POSIX takes all locks of a process on a file back as soon as the process closes it
anywhere, and then another process may take the log of a running batch for its own and throw it away.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nairi_async.errors import InvalidArgumentError, LedgerError, NairiError

if TYPE_CHECKING:
    from collections.abc import Generator

FORMAT: Final = 2
"""Version of the tables, in `PRAGMA user_version`."""
# "NAIR", where SQLite keeps a number for programs to know their files by.
_APPLICATION: Final = 0x4E41_4952
# Seconds that other programs, such as a backup, may hold the file; and that a look at the lock may last.
_PATIENCE: Final = 10.0
_BRIEFLY: Final = 1.0

OPEN: Final = "state IN ('unsent', 'sending', 'running')"
"""The condition of the index over items that have not ended; spelled the same wherever it is to be used."""
_SCHEMA: Final = (
    "CREATE TABLE head (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    """CREATE TABLE items (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, place INTEGER NOT NULL, prompt TEXT NOT NULL,
        attachments TEXT NOT NULL, state TEXT NOT NULL, sent_at REAL,
        attachment_ids TEXT NOT NULL DEFAULT '[]', job_id TEXT, message_id TEXT
    )""",
    f"CREATE INDEX items_open ON items (number) WHERE {OPEN}",
    "CREATE INDEX items_failed ON items (number) WHERE state = 'failed'",
    "CREATE INDEX items_unusable ON items (number) WHERE state = 'unusable'",
    "CREATE TABLE jobs (id TEXT PRIMARY KEY, item INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE outcomes (finished INTEGER PRIMARY KEY, item INTEGER NOT NULL, document TEXT NOT NULL)",
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {FORMAT}",
)


@contextmanager
def ledger_errors(path: Path) -> Generator[None]:
    """What SQLite or the disk refuses, and what nobody can make sense of, as a `LedgerError`."""
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
    "unable to open database file": "cannot be opened: its directory must be there, and writable",
    "attempt to write a readonly database": "is read-only",
    "file is not a database": "is no ledger of a batch: another kind of file",
    "database or disk is full": "the disk is full",
    "database disk image is malformed": "is damaged",
    "disk I/O error": "the disk refuses to be read or written",
}


def ledger_path(path: str | os.PathLike[str]) -> Path:
    """The one name of a file: two ways to it are one ledger."""
    try:
        return Path(path).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidArgumentError(f"{os.fspath(path)!r} leads nowhere: {error}") from error


def companions(path: Path) -> set[Path]:
    """The ledger and the files beside it."""
    kinds = ("lock", "lock-journal", "wal", "shm", "journal")
    return {path, *(path.with_name(f"{path.name}-{kind}") for kind in kinds)}


def open_ledger(path: Path, agent_id: str, base_url: str) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    """A connection to the ledger, made if it is missing, and the lock: closing it lets others in.

    Raises:
        LedgerError: the file is something else, another agent's or service's, in use, or cannot be written.
    """
    with ledger_errors(path):
        connection = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
        lock = None
        try:
            is_new = check_kind(connection, path)
            lock = _lock(path, _BRIEFLY)
            _check_writable(path)
            if is_new and check_kind(connection, path):
                _make(connection, agent_id, base_url)
            check_owner(connection, path, agent_id, base_url)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        except BaseException:
            connection.close()
            if lock is not None:
                lock.close()
            raise
        return connection, lock


def open_to_read(path: Path) -> sqlite3.Connection:
    """A connection that changes nothing; others may write meanwhile."""
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", timeout=_PATIENCE, uri=True, isolation_level=None)


def is_locked(path: Path) -> bool:
    """Whether a process works with the ledger."""
    if not lock_path(path).exists():
        return False
    try:
        _lock(path, 0.0).close()
    except LedgerError:
        return True
    return False


def lock_path(path: Path) -> Path:
    """The file whose lock says that the ledger is in use."""
    return path.with_name(f"{path.name}-lock")


def check_kind(connection: sqlite3.Connection, path: Path) -> bool:
    """Refuse another program's database; returns whether there is nothing in it yet."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if application == _APPLICATION:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != FORMAT:
            raise LedgerError(
                f"was made by another version of this library (format {version}, not {FORMAT})", str(path)
            )
        return False
    if application or connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise LedgerError("is no ledger of a batch: another program's database", str(path))
    return True


def check_owner(connection: sqlite3.Connection, path: Path, agent_id: str, base_url: str) -> None:
    """Refuse the ledger of a batch for another agent, or at another service: there its turns are not."""
    head = dict(connection.execute("SELECT name, value FROM head WHERE name IN ('agent_id', 'base_url')"))
    agent, service = head["agent_id"], head["base_url"]
    if service != base_url:
        raise LedgerError(f"belongs to a batch at {service}, not {base_url}", str(path))
    if agent != agent_id:
        raise LedgerError(f"belongs to a batch for the agent {agent!r}, not {agent_id!r}", str(path))


def _check_writable(path: Path) -> None:
    """SQLite opens what it may not write to read it: then the lock locks nobody out, and the ledger fails late."""
    for file in (path, lock_path(path)):
        if not os.access(file, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            raise LedgerError("is read-only", str(file))


def _make(connection: sqlite3.Connection, agent_id: str, base_url: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA:
        connection.execute(statement)
    connection.execute("INSERT INTO head VALUES ('agent_id', ?), ('base_url', ?)", (agent_id, base_url))
    connection.execute("COMMIT")


def _lock(path: Path, idle_timeout: float) -> sqlite3.Connection:
    """An exclusive transaction on an empty database beside the ledger.

    To SQLite that is nothing but a lock on a file, on every system, which the system takes back when the process ends,
    however it does. The ledger itself stays free to be read.
    """
    lock = sqlite3.connect(lock_path(path), timeout=idle_timeout, isolation_level=None, check_same_thread=False)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        lock.close()
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            raise LedgerError("another process works on this batch", str(path)) from error
        raise
    return lock
