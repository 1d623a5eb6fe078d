"""What is read from a ledger over a connection of its own, while a batch may be writing to it."""

from __future__ import annotations

from contextlib import closing
from decimal import Decimal
from typing import TYPE_CHECKING

from nairi_async._core.private_files import resolved_path
from nairi_async._core.sqlite_file import open_read_only
from nairi_async.batch.items import BatchStatus
from nairi_async.batch.ledger import read_meta
from nairi_async.batch.ledger_file import LEDGER, OPEN
from nairi_async.errors import LedgerError

if TYPE_CHECKING:
    import os
    import sqlite3
    from pathlib import Path


def read_status(path: str | os.PathLike[str]) -> BatchStatus:
    """Read from its ledger how far a batch is, whether or not a process works on it. Blocks briefly.

    Args:
        path: The ledger.

    Raises:
        LedgerError: there is no ledger, or it cannot be read.
    """
    file = resolved_path(path)
    with LEDGER.errors(file):
        if not file.exists():
            raise LedgerError("there is no such ledger", str(file))
        with closing(open_read_only(file)) as connection:
            if LEDGER.check_format(connection, file):
                raise LedgerError("is empty: no batch has begun", str(file))
            return _status(connection, file)


def _status(connection: sqlite3.Connection, path: Path) -> BatchStatus:
    connection.execute("BEGIN")
    meta = read_meta(connection)
    counts = dict(connection.execute(f"SELECT state, count(*) FROM progress WHERE {OPEN} GROUP BY state"))  # noqa: S608
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
        is_active=LEDGER.is_locked(path),
    )
