"""Checking a source before anything is sent: its records, against each other and against the ledger."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nairi_async._core.sqlite_file import open_read_only
from nairi_async.batch.items import BatchItem, UnusableItem, unusable_outcome
from nairi_async.batch.ledger_file import LEDGER
from nairi_async.batch.record_keys import (
    CONTENT,
    RecordCopies,
    changed_record_error,
    record_key,
    stored_content,
    taken_id_error,
)
from nairi_async.errors import InvalidArgumentError, OtherPromptsError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nairi_async.batch.items import BatchOutcome

# New records that are looked for under another identity.
_SAMPLE: Final = 20


class SourceCheck:
    """One pass over a source. It changes nothing in the ledger.

    Args:
        path: The ledger, which need not exist.
        attachments_from: The directory in which attachments must lie, if any.

    Raises:
        LedgerError: the ledger cannot be read.
    """

    def __init__(self, path: Path | None, attachments_from: Path | None = None) -> None:
        self._path = path
        self._attachments_from = attachments_from
        self._has_ledger = False
        with LEDGER.errors(path or Path()):
            self._db = self._open()
            try:
                self._db.execute("CREATE TEMP TABLE ids_this_run (id TEXT PRIMARY KEY, place INTEGER) WITHOUT ROWID")
                self._copies = RecordCopies(self._db)
            except BaseException:
                self._db.close()
                raise
        self.records: int = 0
        """Records that were checked."""
        self.new: int = 0
        """Records that the ledger does not know."""
        self.unusable: int = 0
        """Records that cannot be sent."""
        self._place = 0
        self._new_without_id = 0
        self._first_new: list[BatchItem] = []

    @property
    def known(self) -> int:
        """Records that the ledger knows."""
        return self.records - self.new - self.unusable

    def close(self) -> None:
        """Close the connection to the ledger. Harmless when repeated."""
        self._db.close()

    def problem(self, given: object) -> BatchOutcome | None:
        """Check the source's next record; return its outcome if it cannot be sent."""
        self.records += 1
        self._place += 1
        item = None
        try:
            if isinstance(given, UnusableItem):
                self._place = given.place
                raise given.error
            item = BatchItem.of(given, self._place)
            self._place = item.place or self._place
            check_attachments(item.attachments, self._attachments_from)
            with LEDGER.errors(self._path or Path()):
                self._compare(item, self._place)
        except InvalidArgumentError as error:
            self.unusable += 1
            return unusable_outcome(error, self._place, item)
        return None

    def check_continuation(self) -> None:
        """Refuse a source of which the ledger knows nothing, once all of it was checked.

        Raises:
            OtherPromptsError: the ledger holds prompts without an id, the source as well, and none of them is the same;
                or the ledger holds the same prompts, and either these or those have ids.
        """
        if not self._has_ledger or self.known:
            return
        with LEDGER.errors(self._path or Path()):
            if any(self._is_held_otherwise(item) for item in self._first_new):
                reason = "holds the same prompts, but with ids where these have none, or without where these have some"
                raise OtherPromptsError(f"{reason}: give the records as they were", str(self._path))
        if not self._new_without_id:
            return
        query = (
            "SELECT count(*) FROM items WHERE typeof(key) = 'blob'"
            " AND number NOT IN (SELECT number FROM progress WHERE state = 'unusable')"
        )
        with LEDGER.errors(self._path or Path()):
            held = self._db.execute(query).fetchone()[0]
        if held:
            advice = "name another ledger, or give each record an id to add it to this batch"
            raise OtherPromptsError(f"holds {held} other prompts and none of these: {advice}", str(self._path))

    def _open(self) -> sqlite3.Connection:
        if self._path is not None and self._path.exists():
            connection = open_read_only(self._path)
            try:
                self._has_ledger = not LEDGER.check_format(connection, self._path)
            except BaseException:
                connection.close()
                raise
            if self._has_ledger:
                return connection
            connection.close()
        # A database of its own, on the disk as long as it is open.
        return sqlite3.connect("", isolation_level=None)

    def _compare(self, item: BatchItem, place: int) -> None:
        key = record_key(item)
        if isinstance(key, bytearray):
            copy = self._copies.next(key, 1)
            key = key if copy == 1 else record_key(item, copy)
        elif not self._db.execute("INSERT OR IGNORE INTO ids_this_run VALUES (?, ?)", (key, place)).rowcount:
            row = self._db.execute("SELECT place FROM ids_this_run WHERE id = ?", (key,)).fetchone()
            raise taken_id_error(key, row[0])
        if not self._is_known(key, item):
            self.new += 1
            self._new_without_id += item.id is None
            if len(self._first_new) < _SAMPLE:
                self._first_new.append(item)

    def _is_held_otherwise(self, item: BatchItem) -> bool:
        """Return whether the ledger holds an identical item that has an id if this one has none, or the reverse."""
        kind = "text" if item.id is None else "blob"
        query = (
            "SELECT 1 FROM items WHERE prompt = ? AND follow_ups IS ? AND attachments IS ? AND typeof(key) = ? LIMIT 1"
        )
        return self._db.execute(query, (*stored_content(item)[:3], kind)).fetchone() is not None

    def _is_known(self, key: str | bytearray, item: BatchItem) -> bool:
        if not self._has_ledger:
            return False
        query = f"SELECT (SELECT state FROM progress WHERE number = items.number), {CONTENT} FROM items WHERE key = ?"  # noqa: S608 - ours
        known = self._db.execute(query, (key,)).fetchone()
        if known is None:
            return False
        state, *content = known
        if tuple(content) != stored_content(item) and state != "unusable":
            raise changed_record_error(item.name)
        return True


def check_attachments(paths: Iterable[str], directory: Path | None) -> None:
    """Refuse paths that lie, once links are resolved, outside of a directory.

    Raises:
        InvalidArgumentError: one of them does.
    """
    if directory is None:
        return
    for path in paths:
        resolved = None
        with suppress(OSError, RuntimeError, ValueError):
            resolved = Path(path).resolve()
        if resolved is None or not resolved.is_relative_to(directory):
            raise InvalidArgumentError(f"the attachment {path!r} is outside of the permitted directory {directory}")
