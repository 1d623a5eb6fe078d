"""What is read from a ledger over a connection of its own, while a batch may be writing to it."""

from __future__ import annotations

from contextlib import closing
from decimal import Decimal
from typing import TYPE_CHECKING

from nairi_async.batch.items import BatchStatus
from nairi_async.batch.ledger import read_meta
from nairi_async.batch.ledger_file import OPEN, check_format, is_locked, ledger_errors, ledger_path, open_read_only
from nairi_async.errors import LedgerError

if TYPE_CHECKING:
    import os
    import sqlite3
    from pathlib import Path


class KnownJobs:
    """The conversations of a ledger's items, as a container of job ids; only what was committed counts.

    A lookup takes microseconds, so it may run on the event loop.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with ledger_errors(path):
            self._db = open_read_only(path)

    def __contains__(self, job_id: object) -> bool:
        with ledger_errors(self._path):
            return self._db.execute("SELECT 1 FROM jobs WHERE id = ?", (job_id,)).fetchone() is not None

    def close(self) -> None:
        """Close the connection. Harmless when repeated."""
        self._db.close()


def read_status(path: str | os.PathLike[str]) -> BatchStatus:
    """Read from its ledger how far a batch is, whether or not a process works on it. Blocks briefly.

    Args:
        path: The ledger.

    Raises:
        LedgerError: there is no ledger, or it cannot be read.
    """
    file = ledger_path(path)
    with ledger_errors(file):
        if not file.exists():
            raise LedgerError("there is no such ledger", str(file))
        with closing(open_read_only(file)) as connection:
            if check_format(connection, file):
                raise LedgerError("is empty: no batch has begun", str(file))
            return _status(connection, file)


def _status(connection: sqlite3.Connection, path: Path) -> BatchStatus:
    connection.execute("BEGIN")
    meta = read_meta(connection)
    counts = dict(connection.execute(f"SELECT state, count(*) FROM items WHERE {OPEN} GROUP BY state"))  # noqa: S608
    return BatchStatus(
        agent_id=str(meta["agent_id"]),
        base_url=str(meta["base_url"]),
        done=int(meta.get("done", 0)),
        failed=int(meta.get("failed", 0)),
        running=counts.get("running", 0),
        sending=counts.get("sending", 0),
        unsent=counts.get("unsent", 0),
        unusable=int(meta.get("unusable", 0)) + int(meta.get("passed_over", 0)),
        cost_usd=Decimal(meta.get("cost_usd", "0")),
        is_active=is_locked(path),
    )
