"""The file of a ledger: an SQLite database of one batch, of one agent and service, used by one process at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nairi_async._core.sqlite_file import FileKind, OpenFile
from nairi_async.errors import LedgerError

if TYPE_CHECKING:
    from pathlib import Path
    from sqlite3 import Connection

OPEN: Final = "state IN ('unsent', 'sending', 'running')"
"""The condition for items that have not ended and can be sent."""
BY_PLACE: Final = "name IS NULL AND typeof(key) = 'blob'"
"""The condition for items that are called by their place; SQLite uses their index only for this very text."""
LEDGER: Final = FileKind(
    name="a batch's ledger",
    application_id=0x4E41_4952,  # "NAIR"
    version=6,
    # What is written for each prompt is written once, and in the order of a table where that is possible: `items` and
    # `outcomes` only grow, and what changes is a row of `progress`, which is gone when its item has a reply. Each index
    # costs every prompt, so there are none but those that keep the names apart; the first lookup of a lost prompt makes
    # the index of `turns`.
    schema=(
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
        """CREATE TABLE items (
            number INTEGER PRIMARY KEY, key NOT NULL UNIQUE, name TEXT, place INTEGER NOT NULL, prompt TEXT NOT NULL,
            follow_ups TEXT, attachments TEXT, continues TEXT, fields TEXT
        )""",
        f"CREATE UNIQUE INDEX items_place ON items (place) WHERE {BY_PLACE}",
        "CREATE UNIQUE INDEX items_name ON items (name) WHERE name IS NOT NULL",
        """CREATE TABLE progress (
            number INTEGER PRIMARY KEY, state TEXT NOT NULL, sent_at REAL, conversation TEXT, job_id TEXT,
            message_id TEXT, attachment_ids TEXT, step INTEGER NOT NULL DEFAULT 0, prompt TEXT, previous TEXT,
            earlier TEXT
        )""",
        "CREATE TABLE turns (job_id TEXT, message_id TEXT NOT NULL)",
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
