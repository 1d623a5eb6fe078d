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

# Bytes of a digest: enough that no two contents of a batch have the same one.
_DIGEST_SIZE: Final = 16


def record_key(item: BatchItem, copy: int = 1) -> str | bytearray:
    """Return what identifies a record, wherever it stands: its id, else a digest of its content.

    Identical records without an id differ by the number of the copy, in the order of arrival.
    """
    if item.id is not None:
        return item.id
    if copy == 1 and not item.follow_ups and not item.attachments and item.job_id is None:
        digest = hashlib.blake2b(item.prompt.encode(), digest_size=_DIGEST_SIZE)
    else:
        content = json.dumps([item.prompts, item.attachments, item.job_id, copy])
        digest = hashlib.blake2b(content.encode(), digest_size=_DIGEST_SIZE, person=b"record")
    # Python's sqlite3 takes it as it is, where it would look for an adapter of bytes each time.
    return bytearray(digest.digest())


class RecordCopies:
    """Numbers identical records of a source.

    The numbers are kept in a temporary table, on the disk, since a batch may be larger than memory.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._db.execute("CREATE TEMP TABLE copies_this_run (key BLOB PRIMARY KEY, count INTEGER) WITHOUT ROWID")

    def next(self, key: bytearray, first: int) -> int:
        """Return the number of the next copy of the record with this key; that of the first call is `first`."""
        if self._db.execute("INSERT OR IGNORE INTO copies_this_run VALUES (?, ?)", (key, first)).rowcount:
            return first
        self._db.execute("UPDATE copies_this_run SET count = count + 1 WHERE key = ?", (key,))
        (count,) = self._db.execute("SELECT count FROM copies_this_run WHERE key = ?", (key,)).fetchone()
        return int(count)


def stored_list(values: tuple[str, ...]) -> str | None:
    """Return a list as the ledger stores it."""
    return json.dumps(values) if values else None


def stored_content(item: BatchItem) -> tuple[str, str | None, str | None, str | None]:
    """Return what of a record may not change, as the columns `CONTENT` of the ledger have it."""
    return item.prompt, stored_list(item.follow_ups), stored_list(item.attachments), item.job_id


CONTENT: Final = "prompt, follow_ups, attachments, continues"
"""The columns of `stored_content`."""


def taken_id_error(id_: str, place: int) -> InvalidArgumentError:
    """Return the error of a record whose id another record has."""
    return InvalidArgumentError(f"the id {id_!r} was already taken by {place_name(place)}: give it another id")


def changed_record_error(id_: str) -> InvalidArgumentError:
    """Return the error of a record whose prompt or attachments are not those that were sent under its id."""
    return InvalidArgumentError(
        f"the ledger knows {id_!r} with another prompt or other attachments: give the changed record another id"
    )
