"""How the ledger recognises a record: by its id, or without one by its prompt and attachments."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Final

from nairi_async.batch.items import place_name
from nairi_async.errors import InvalidArgumentError

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
        count = 1
        if not self._db.execute("INSERT OR IGNORE INTO contents_this_run VALUES (?, 1)", (digest,)).rowcount:
            self._db.execute("UPDATE contents_this_run SET count = count + 1 WHERE digest = ?", (digest,))
            (count,) = self._db.execute("SELECT count FROM contents_this_run WHERE digest = ?", (digest,)).fetchone()
        return f"{CONTENT_PREFIX}{digest}:{count}"


def taken_id_error(id_: str, place: int) -> InvalidArgumentError:
    """Return the error of a record whose id another record has."""
    return InvalidArgumentError(f"the id {id_!r} was already taken by {place_name(place)}: give it another id")


def changed_record_error(id_: str) -> InvalidArgumentError:
    """Return the error of a record whose prompt or attachments are not those that were sent under its id."""
    return InvalidArgumentError(
        f"the ledger knows {id_!r} with another prompt or other attachments: give the changed record another id"
    )
