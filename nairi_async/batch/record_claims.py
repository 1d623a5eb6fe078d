"""Takes the records of a source into the ledger, each as one item, and recognises those that it holds already."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from nairi_async.batch.item_state import Entry
from nairi_async.batch.items import LAST_PLACE, place_name
from nairi_async.batch.ledger_file import BY_PLACE
from nairi_async.batch.record_keys import (
    CONTENT,
    RecordCopies,
    changed_record_error,
    record_key,
    stored_content,
    taken_id_error,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from typing import Any

    from nairi_async.batch.item_state import State
    from nairi_async.batch.items import BatchItem

_INSERT: Final = (
    f"INSERT OR IGNORE INTO items (number, key, place, name, fields, {CONTENT})"  # noqa: S608 - ours
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
# For most records. A parameter that is `None` would cost as much as four others: sqlite3 looks for an adapter.
_INSERT_PLAIN: Final = "INSERT OR IGNORE INTO items (number, key, place, prompt) VALUES (?, ?, ?, ?)"
_KNOWN: Final = (
    "SELECT number, place, name, (SELECT state FROM progress WHERE number = items.number),"  # noqa: S608 - ours
    f" EXISTS (SELECT 1 FROM unusable_this_run WHERE number = items.number), {CONTENT} FROM items WHERE key = ?"
)


class RecordClaims:
    """The records of one run. All of this blocks: it belongs to the ledger's thread.

    Args:
        connection: The ledger.
        flush: Called before what changes is read: writes what waits to be written.
        unusable: How many items are `unusable`.
    """

    def __init__(self, connection: sqlite3.Connection, flush: Callable[[], None], unusable: int) -> None:
        self._db, self._flush = connection.cursor(), flush
        self.unusable: int = unusable
        """How many items are `unusable`."""
        self.claimed: list[tuple[int, State, float]] = []
        """What is to be stored in `progress` of items that were claimed: number, state and time."""
        # Temporary tables: on the disk, since a batch may be larger than memory; dropped with the connection.
        self._db.execute("CREATE TEMP TABLE seen_this_run (number INTEGER PRIMARY KEY)")
        self._db.execute("CREATE TEMP TABLE unusable_this_run (number INTEGER PRIMARY KEY)")
        self._copies = RecordCopies(connection)
        self._last: int = self._db.execute("SELECT coalesce(max(number), 0) FROM items").fetchone()[0]
        self._earlier = self._last
        """The last item of earlier runs; those after it were seen in this run."""
        # Names that look like a place; in most batches there are none, and no prompt pays for looking them up.
        self._has_names = bool(
            self._db.execute(
                "SELECT EXISTS (SELECT 1 FROM items WHERE key >= '#' AND key < '$')"
                " OR EXISTS (SELECT 1 FROM items WHERE name IS NOT NULL)"
            ).fetchone()[0]
        )

    def claim(self, item: BatchItem, now: float) -> Entry | None:
        """Take an item into the ledger; see `Ledger.claim`."""
        key = record_key(item)
        # Where there are no earlier runs, most records are new, and storing them finds out those that are not.
        if not self._earlier and (entry := self._insert(key, item, now)) is not None:
            return entry
        first = key
        while (known := self._db.execute(_KNOWN, (key,)).fetchone()) is not None:
            number, place, *rest = known
            if number <= self._earlier and self._see(number):
                return self._claim_known(item, now, key, number, place, *rest)
            if isinstance(first, str):
                raise taken_id_error(first, place)
            key = record_key(item, self._copies.next(first, 2))
        entry = self._insert(key, item, now)
        assert entry is not None  # noqa: S101 - its key is not known
        return entry

    def forget_replaced(self) -> None:
        """Forget the unusable items without an id that this run has not seen, once it has read the whole source.

        They were never sent, and their records were corrected or removed.
        """
        self._flush()
        query = (
            "SELECT number FROM items WHERE typeof(key) = 'blob'"
            " AND number IN (SELECT number FROM progress WHERE state = 'unusable')"
            " AND number <= ? AND number NOT IN (SELECT number FROM seen_this_run)"
        )
        for (number,) in self._db.execute(query, (self._earlier,)).fetchall():
            self._delete(number)

    def mark_unusable(self, number: int) -> None:
        """Record that an unsent item cannot be sent as it is."""
        self._flush()
        query = "UPDATE progress SET state = 'unusable' WHERE number = ? AND state = 'unsent'"
        self.unusable += self._db.execute(query, (number,)).rowcount
        self._db.execute("INSERT OR IGNORE INTO unusable_this_run VALUES (?)", (number,))

    def _see(self, number: int) -> bool:
        """Note that this run has seen an item of earlier runs; return whether it is the first time."""
        return self._db.execute("INSERT OR IGNORE INTO seen_this_run VALUES (?)", (number,)).rowcount == 1

    def _claim_known(
        self, item: BatchItem, now: float, key: str | bytearray, number: int, place: int, *rest: Any
    ) -> Entry | None:
        name, state, was_tried, *content = rest
        is_changed = tuple(content) != stored_content(item)
        if state == "unusable" and (is_changed or not was_tried):
            self._delete(number)
            return self._insert(key, item, now, number=number, name=item_name(key, name, place))
        if is_changed:
            raise changed_record_error(item.name)
        return None

    def _delete(self, number: int) -> None:
        """Delete an unusable item."""
        self._flush()
        self._db.execute("DELETE FROM items WHERE number = ?", (number,))
        self._db.execute("DELETE FROM progress WHERE number = ?", (number,))
        self.unusable -= 1

    def _insert(
        self, key: str | bytearray, item: BatchItem, now: float, *, number: int | None = None, name: str | None = None
    ) -> Entry | None:
        """Store an item as a new one, with a number and name of its own unless they are given.

        Returns:
            `None` if the ledger holds its key.
        """
        # Before a prompt of a given conversation leaves, its last turn must have ended.
        state: State = "unsent" if item.attachments or item.job_id is not None else "sending"
        place = item.place or 0
        fields = json.dumps(item.fields) if item.fields else None
        used: int = self._last + 1 if number is None else number
        if name is not None:
            name = None if name == item_name(key, None, place) else name
            self._has_names |= name is not None
        # Only what looks like a place can be taken by an item of another kind.
        elif key.startswith("#") if isinstance(key, str) else self._has_names:
            name = self._free_name(key, place)
        if not self._store((used, key, place, name, fields), item):
            if self._db.execute("SELECT 1 FROM items WHERE key = ?", (key,)).fetchone() is not None:
                return None
            # An earlier item is called by this place.
            name = self._free_name(key, place)
            self._store((used, key, place, name, fields), item)
        self._last = max(self._last, used)
        self.claimed.append((used, state, now))
        return Entry(
            number=used,
            id=item_name(key, name, place),
            place=place,
            prompt=item.prompt,
            attachments=item.attachments,
            state=state,
            sent_at=now,
            conversation=item.job_id,
            rest=item.follow_ups,
            prompts=item.prompts,
            fields=json.loads(fields) if fields else {},
        )

    def _store(self, row: tuple[int, str | bytearray, int, str | None, str | None], item: BatchItem) -> bool:
        """Store an item; return whether its key and its name were free."""
        number, key, place, name, fields = row
        prompt, *rest = stored_content(item)
        if name is None and fields is None and not any(rest):
            return self._db.execute(_INSERT_PLAIN, (number, key, place, prompt)).rowcount == 1
        return self._db.execute(_INSERT, (*row, prompt, *rest)).rowcount == 1

    def _free_name(self, key: str | bytearray, place: int) -> str | None:
        """Return the name of a new item: `None` for its id, or for its place where no other item is called so.

        Raises:
            InvalidArgumentError: the item has an id, and another one is called by it.
        """
        own = item_name(key, None, place)
        wanted, number = own, 1
        while (taken := self._place_of(wanted)) is not None:
            if isinstance(key, str):
                raise taken_id_error(key, taken)
            number += 1
            wanted = f"{own}-{number}"
        self._has_names |= isinstance(key, str) or wanted != own
        return None if wanted == own else wanted

    def _place_of(self, name: str) -> int | None:
        """Return the place of the item that is called so."""
        query = "SELECT place FROM items WHERE key = :name UNION ALL SELECT place FROM items WHERE name = :name"
        found = self._db.execute(query, {"name": name}).fetchone()
        digits = name[1:]
        is_place = digits.isdecimal() and place_name(int(digits)) == name and int(digits) <= LAST_PLACE
        if found is None and is_place:
            query = f"SELECT place FROM items WHERE place = ? AND {BY_PLACE}"  # noqa: S608 - ours
            found = self._db.execute(query, (int(digits),)).fetchone()
        return None if found is None else int(found[0])


def item_name(key: str | bytearray, name: str | None, place: int) -> str:
    """Return what outcomes call an item: by its id, by the name that it was given, else by its place."""
    if isinstance(key, str):
        return key
    return place_name(place) if name is None else name
