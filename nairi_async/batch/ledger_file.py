"""The file of a ledger: an SQLite database of one batch, of one agent and service, used by one process at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nairi_async._core.sqlite_file import FileKind, OpenFile
from nairi_async.errors import LedgerError

if TYPE_CHECKING:
    from pathlib import Path
    from sqlite3 import Connection

OPEN: Final = "state IN ('unsent', 'sending', 'running')"
"""The condition of the index over items that have not ended; SQLite uses the index only for this very text."""
LEDGER: Final = FileKind(
    name="a batch's ledger",
    application_id=0x4E41_4952,  # "NAIR"
    version=5,
    schema=(
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
        """CREATE TABLE items (
            number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, id TEXT NOT NULL UNIQUE, place INTEGER NOT NULL,
            prompts TEXT NOT NULL, attachments TEXT NOT NULL, continues TEXT, fields TEXT NOT NULL,
            step INTEGER NOT NULL DEFAULT 0, prompt TEXT NOT NULL, conversation TEXT, previous TEXT,
            earlier TEXT NOT NULL DEFAULT '[]', state TEXT NOT NULL, sent_at REAL,
            attachment_ids TEXT NOT NULL DEFAULT '[]', job_id TEXT, message_id TEXT
        )""",
        f"CREATE INDEX items_open ON items (number) WHERE {OPEN}",
        "CREATE INDEX items_failed ON items (number) WHERE state = 'failed'",
        "CREATE INDEX items_unusable ON items (number) WHERE state = 'unusable'",
        "CREATE TABLE jobs (id TEXT PRIMARY KEY, item INTEGER NOT NULL) WITHOUT ROWID",
        "CREATE TABLE outcomes (sequence INTEGER PRIMARY KEY, item INTEGER NOT NULL, document TEXT NOT NULL)",
    ),
    error=LedgerError,
    another="name another --ledger",
    again="run the batch again",
    used_here="is in use by another Batch of this process: leave its `async with` first",
    used_elsewhere="another process works on this batch: wait until it has ended, or stop it",
)
"""The file of a ledger."""


def open_ledger(path: Path, agent_id: str, base_url: str) -> OpenFile:
    """Open a ledger, creating it if it is missing, and lock it.

    Raises:
        LedgerError: the file is not a ledger, belongs to another agent or service, is in use, or cannot be written.
    """

    def set_up(connection: Connection, *, is_new: bool) -> None:
        if is_new:
            connection.execute("INSERT INTO meta VALUES ('agent_id', ?), ('base_url', ?)", (agent_id, base_url))
        # Another service does not know the turns of the batch.
        meta = dict(connection.execute("SELECT name, value FROM meta WHERE name IN ('agent_id', 'base_url')"))
        agent, service = meta["agent_id"], meta["base_url"]
        if service != base_url:
            raise LedgerError(f"belongs to a batch at {service}, not {base_url}", str(path))
        if agent != agent_id:
            raise LedgerError(f"belongs to a batch for the agent {agent!r}, not {agent_id!r}", str(path))

    return LEDGER.open(path, set_up)
