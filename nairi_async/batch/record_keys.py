"""How the ledger recognises a record: by its id, or without one by its prompt and attachments."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import sqlite3

    from nairi_async.batch.items import BatchItem

# The beginning of the keys of records without an id.
CONTENT_PREFIX: Final = "content:"


class RecordKeys:
    """Makes the keys of a source's records, which are the same wherever a record stands.

    Identical records without an id are numbered in the order of arrival. The numbers are kept in a
    temporary table, on the disk, since a batch may be larger than memory.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._db.execute("CREATE TEMP TABLE contents_this_run (digest TEXT PRIMARY KEY, count INTEGER) WITHOUT ROWID")

    def next_key(self, item: BatchItem) -> str:
        """Return the key of the source's next record."""
        if item.id is not None:
            return f"id:{item.id}"
        content = json.dumps([item.prompts, item.attachments, item.job_id])
        digest = hashlib.sha256(content.encode()).hexdigest()
        query = "INSERT INTO contents_this_run VALUES (?, 1) ON CONFLICT (digest) DO UPDATE SET count = count + 1"
        self._db.execute(query, (digest,))
        (count,) = self._db.execute("SELECT count FROM contents_this_run WHERE digest = ?", (digest,)).fetchone()
        return f"{CONTENT_PREFIX}{digest}:{count}"
