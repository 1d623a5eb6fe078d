"""The ledger: what was asked and what came of it, in a file that outlives every process.

The states of an item are those of `item_state`.

* A record is recognised by its id, else by its prompt and attachments (see `record_keys`).
* An item without files is claimed as `sending`; one with files as `unsent`, until the files are uploaded. The prompt
  leaves only after `sending` is on the disk, so that no prompt runs that the ledger does not know.
* After a crash `sending` is looked up at the service: found, the item is `running`; provably absent, it is sent again.
* An outcome is on the disk before it is handed over, and its place in the order of outcomes never changes. Which
  outcomes the consumer has handled becomes durable with the next commit; after a crash the last ones are handed over
  again.

All of this blocks, so it runs in the ledger's own thread (see `writer`), many calls in one transaction.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import suppress
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, Final

from nairi_async._core.records import frozen
from nairi_async.batch.item_state import Entry
from nairi_async.batch.items import BatchStatus
from nairi_async.batch.ledger_file import LEDGER, OPEN, open_ledger
from nairi_async.batch.record_keys import CONTENT_PREFIX, RecordKeys, changed_record_error, taken_id_error
from nairi_async.models import Turn

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from nairi_async.batch.item_state import State
    from nairi_async.batch.items import BatchItem

# How many turns to look up, to find out whether this service and key are those that the batch began with.
_WITNESSES: Final = 3
# Costs with more digits before or behind the point are not summed: no agent costs that much, or that little.
_COST_DIGITS: Final = 12
_COLUMNS: Final = (
    "number, id, place, prompts, step, prompt, attachments, fields, state, sent_at, attachment_ids, job_id, message_id,"
    " conversation, previous, earlier"
)

_INSERT: Final = (
    "INSERT INTO items"
    " (number, key, id, place, prompts, attachments, continues, fields, state, sent_at, prompt, conversation)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


@frozen(kw_only=True)
class RecordedOutcome:
    """An item's outcome, as the ledger holds it."""

    sequence: int
    """Its place in the order of outcomes, from 1."""
    id: str
    place: int
    prompt: str
    fields: dict[str, object]
    document: str
    """The result, encoded by `documents`."""


class Ledger:
    """An open ledger. Changes are durable from `commit` on.

    Args:
        path: The file; it is created if it is missing.
        agent_id: The batch's agent.
        base_url: The service.

    Raises:
        LedgerError: as for `open_ledger`.
    """

    def __init__(self, path: Path, agent_id: str, base_url: str) -> None:
        self.path = path
        self._agent_id, self._base_url = agent_id, base_url
        self._file = open_ledger(path, agent_id, base_url)
        self._db = self._file.connection
        try:
            with LEDGER.errors(path):
                # Temporary tables: on the disk, since a batch may be larger than memory; dropped with the connection.
                self._db.execute("CREATE TEMP TABLE seen_this_run (number INTEGER PRIMARY KEY)")
                self._db.execute("CREATE TEMP TABLE unusable_this_run (number INTEGER PRIMARY KEY)")
                self._keys = RecordKeys(self._db)
                self._meta = read_meta(self._db)
                self._written = dict(self._meta)
                # This run reads those records again.
                self._meta["passed_over"] = 0
                self.handled: int = self._count("handled")
                """The last outcome that the consumer has handled, by its place in the order of outcomes."""
                self.totals: BatchStatus = self._read_totals()
                self._last = self._last_sequence()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Store what is pending, and release the ledger. Harmless when repeated."""
        # The disk may be full: outcomes whose handling is not stored are handed over again.
        with suppress(sqlite3.Error):
            self.begin()
            self.commit()
        self._file.close()

    def begin(self) -> None:
        """Begin a transaction."""
        self._db.execute("BEGIN")

    def commit(self) -> None:
        """Make everything since `begin` durable."""
        self._meta["handled"] = self.handled
        for name, value in self._meta.items():
            if self._written.get(name) != value:
                self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))
        self._db.execute("COMMIT")
        self._written = dict(self._meta)
        self.totals = self._read_totals()

    def rollback(self) -> None:
        """Undo everything since `begin`, where SQLite has not done so itself; the ledger cannot be used afterwards."""
        self._meta = dict(self._written)
        with suppress(sqlite3.Error):
            self._db.execute("ROLLBACK")

    def claim(self, item: BatchItem, now: float) -> Entry | None:
        """Take an item into the ledger: as `sending`, or as `unsent` where files must be uploaded first.

        Returns:
            The entry, if the item is new or was unusable before; `None` if the ledger knows it.

        Raises:
            InvalidArgumentError: the id occurred before in this run, or the ledger knows it with another prompt.
        """
        key = self._keys.next_key(item)
        query = (
            "SELECT number, id, place, state = 'unusable', number IN (SELECT number FROM unusable_this_run), prompts,"
            " attachments, continues FROM items WHERE key = ?"
        )
        known = self._db.execute(query, (key,)).fetchone()
        if known is None:
            entry = self._insert(key, item, now)
            self._db.execute("INSERT INTO seen_this_run VALUES (?)", (entry.number,))
            return entry
        number, id_, first_place, is_unusable, was_tried, *content = known
        if not self._db.execute("INSERT OR IGNORE INTO seen_this_run VALUES (?)", (number,)).rowcount:
            raise taken_id_error(item.name, first_place)
        is_changed = content != [json.dumps(item.prompts), json.dumps(item.attachments), item.job_id]
        if is_unusable and (is_changed or not was_tried):
            self._meta["unusable"] = self._count("unusable") - 1
            self._db.execute("DELETE FROM items WHERE number = ?", (number,))
            return self._insert(key, item, now, number=number, id_=id_)
        if is_changed:
            raise changed_record_error(item.name)
        return None

    def forget_replaced(self) -> None:
        """Forget the unusable items without an id that this run has not seen, once it has read the whole source.

        They were never sent, and their records were corrected or removed.
        """
        query = (
            "DELETE FROM items WHERE state = 'unusable' AND key LIKE ? || '%'"
            " AND number NOT IN (SELECT number FROM seen_this_run)"
        )
        removed = self._db.execute(query, (CONTENT_PREFIX,)).rowcount
        self._meta["unusable"] = self._count("unusable") - removed

    def open_entries(self, after: int, count: int) -> list[Entry]:
        """Return items that have not ended, in the order in which they were claimed, after a number."""
        query = f"SELECT {_COLUMNS} FROM items WHERE {OPEN} AND number > ? ORDER BY number LIMIT ?"  # noqa: S608 - ours
        return [self._entry(row) for row in self._db.execute(query, (after, count))]

    def unusable_entries(self, after: int, count: int) -> list[Entry]:
        """Make `unsent` what earlier runs could not use and this run has not tried, and return it, after a number.

        A corrected record replaces its item, so the source must be read before these.
        """
        query = (
            f"SELECT {_COLUMNS} FROM items WHERE state = 'unusable' AND number > ?"  # noqa: S608 - ours
            " AND number NOT IN (SELECT number FROM unusable_this_run) ORDER BY number LIMIT ?"
        )
        entries = [self._entry(row) for row in self._db.execute(query, (after, count))]
        for entry in entries:
            self.mark_unsent(entry.number)
        self._meta["unusable"] = self._count("unusable") - len(entries)
        return entries

    def count_equal_sending(self, entry: Entry) -> int:
        """Return how many items with this prompt, files and conversation are `sending`, including this one."""
        query = (
            f"SELECT count(*) FROM items WHERE {OPEN} AND state = 'sending'"  # noqa: S608 - ours
            " AND prompt = ? AND attachment_ids = ? AND conversation IS ?"
        )
        found = self._db.execute(query, (entry.prompt, json.dumps(entry.attachment_ids), entry.conversation))
        return int(found.fetchone()[0])

    def earlier_messages(self, before: float, excluding: int) -> list[str]:
        """Return user messages of some other items: the latest of those that were sent before a time."""
        query = (
            "SELECT message_id FROM items WHERE message_id IS NOT NULL AND sent_at < ? AND number <> ?"
            " ORDER BY number DESC LIMIT ?"
        )
        return [message_id for (message_id,) in self._db.execute(query, (before, excluding, _WITNESSES))]

    def mark_sending(self, entry: Entry) -> None:
        """Record that the prompt is about to leave."""
        self._db.execute(
            "UPDATE items SET state = 'sending', sent_at = ?, attachment_ids = ?, previous = ? WHERE number = ?",
            (entry.sent_at, json.dumps(entry.attachment_ids), entry.previous, entry.number),
        )

    def advance(self, entry: Entry, step: int, cost: Decimal | None) -> None:
        """Record that a turn has ended, and that the prompt that follows it is about to leave, as `entry` has it."""
        self._db.execute(
            "UPDATE items SET state = 'sending', step = ?, prompt = ?, conversation = ?, previous = ?, earlier = ?,"
            " sent_at = ?, attachment_ids = '[]' WHERE number = ?",
            (
                step,
                entry.prompt,
                entry.conversation,
                entry.previous,
                json.dumps(entry.earlier),
                entry.sent_at,
                entry.number,
            ),
        )
        self._add_cost(cost)

    def mark_unsent(self, number: int) -> None:
        """Record that the prompt provably does not run."""
        self._db.execute("UPDATE items SET state = 'unsent' WHERE number = ?", (number,))

    def mark_unusable(self, number: int) -> None:
        """Record that an unsent item cannot be sent as it is."""
        query = "UPDATE items SET state = 'unusable' WHERE number = ? AND state = 'unsent'"
        self._meta["unusable"] = self._count("unusable") + self._db.execute(query, (number,)).rowcount
        self._db.execute("INSERT OR IGNORE INTO unusable_this_run VALUES (?)", (number,))

    def mark_running(self, number: int, turn: Turn) -> None:
        """Record the turn that the prompt became."""
        self._db.execute(
            "UPDATE items SET state = 'running', job_id = ?, message_id = ? WHERE number = ?",
            (turn.job_id, turn.message_id, number),
        )
        # A conversation that was continued is not the item's own; its message is.
        started = "SELECT ?, number FROM items WHERE number = ? AND conversation IS NULL"
        self._db.execute(f"INSERT OR REPLACE INTO jobs {started}", (turn.job_id, number))
        self._db.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?)", (turn.message_id, number))

    def pass_over(self) -> None:
        """Count a record that cannot be claimed."""
        self._meta["passed_over"] = self._count("passed_over") + 1

    def finish(self, number: int, document: str, *, is_done: bool, cost: Decimal | None) -> int:
        """Record an item's outcome, and return its place in the order of outcomes."""
        name: State = "done" if is_done else "failed"
        self._db.execute("UPDATE items SET state = ? WHERE number = ?", (name, number))
        self._last += 1
        self._db.execute("INSERT INTO outcomes VALUES (?, ?, ?)", (self._last, number, document))
        self._meta[name] = self._count(name) + 1
        self._add_cost(cost)
        return self._last

    def _add_cost(self, cost: Decimal | None) -> None:
        if cost is not None and cost.is_finite() and -_COST_DIGITS < cost.adjusted() < _COST_DIGITS:
            with localcontext(prec=4 * _COST_DIGITS):
                self._meta["cost_usd"] = str(self._cost() + cost)

    def retry_failed(self) -> None:
        """Make `unsent` what ended without a reply."""
        changed = self._db.execute("UPDATE items SET state = 'unsent' WHERE state = 'failed'").rowcount
        self._meta["failed"] = self._count("failed") - changed

    def outcomes(self, after: int, count: int) -> list[RecordedOutcome]:
        """Return outcomes in their order, after one of them."""
        query = (
            "SELECT sequence, id, place, prompts, fields, document FROM outcomes JOIN items ON number = item"
            " WHERE sequence > ? ORDER BY sequence LIMIT ?"
        )
        return [
            RecordedOutcome(
                sequence=sequence,
                id=id_,
                place=place,
                prompt=json.loads(prompts)[0],
                fields=json.loads(fields),
                document=document,
            )
            for sequence, id_, place, prompts, fields, document in self._db.execute(query, (after, count))
        ]

    @property
    def output(self) -> tuple[int, int] | None:
        """The last outcome in the output file and the file's size behind it; `None` if the batch has had no output."""
        if "output_size" not in self._meta:
            return None
        return self._count("output_sequence"), self._count("output_size")

    @output.setter
    def output(self, mark: tuple[int, int]) -> None:
        self._meta["output_sequence"], self._meta["output_size"] = mark

    def _free_id(self, item: BatchItem) -> str:
        """Return the id of a new item: its own, else its place, numbered where another item is called so."""
        query = "SELECT place FROM items WHERE id = ?"
        taken = self._db.execute(query, (item.name,)).fetchone()
        if item.id is not None and taken is not None:
            raise taken_id_error(item.id, taken[0])
        id_, number = item.name, 1
        while taken is not None:
            number += 1
            id_ = f"{item.name}-{number}"
            taken = self._db.execute(query, (id_,)).fetchone()
        return id_

    def _insert(
        self, key: str, item: BatchItem, now: float, *, number: int | None = None, id_: str | None = None
    ) -> Entry:
        """Store an item as a new one, with a number and id of its own unless they are given."""
        # Before a prompt of a given conversation leaves, its last turn must have ended.
        state: State = "unsent" if item.attachments or item.job_id is not None else "sending"
        place, all_prompts = item.place or 0, item.prompts
        prompts, attachments, fields = map(json.dumps, (all_prompts, item.attachments, item.fields))
        record = (prompts, attachments, item.job_id, fields, state, now, item.prompt, item.job_id)
        id_ = id_ or item.name
        try:
            stored = self._db.execute(_INSERT, (number, key, id_, place, *record))
        except sqlite3.IntegrityError:
            # Another item has the id, which is seldom: looking first would cost each item a query.
            id_ = self._free_id(item)
            stored = self._db.execute(_INSERT, (number, key, id_, place, *record))
        assert stored.lastrowid is not None, "a row was stored"  # noqa: S101 - as SQLite promises
        return Entry(
            number=stored.lastrowid,
            id=id_,
            place=place,
            prompt=item.prompt,
            attachments=item.attachments,
            state=state,
            sent_at=now,
            conversation=item.job_id,
            rest=item.follow_ups,
            prompts=all_prompts,
            fields=json.loads(fields),
        )

    def _entry(self, row: tuple[Any, ...]) -> Entry:
        number, id_, place, prompts, step, prompt, attachments, fields, state, sent_at, *rest = row
        attachment_ids, job_id, message_id, conversation, previous, earlier = rest
        all_prompts = tuple(json.loads(prompts))
        return Entry(
            number=number,
            id=id_,
            place=place,
            prompt=prompt,
            attachments=() if step else tuple(json.loads(attachments)),
            state=state,
            sent_at=sent_at,
            attachment_ids=tuple(json.loads(attachment_ids)),
            turn=Turn(job_id, message_id, agent_id=self._agent_id) if state == "running" else None,
            conversation=conversation,
            previous=previous,
            rest=all_prompts[step + 1 :],
            repairs=max(0, step + 1 - len(all_prompts)),
            earlier=tuple(json.loads(earlier)),
            prompts=all_prompts,
            fields=json.loads(fields),
        )

    def _last_sequence(self) -> int:
        return int(self._db.execute("SELECT coalesce(max(sequence), 0) FROM outcomes").fetchone()[0])

    def _count(self, name: str) -> int:
        return int(self._meta.get(name, 0))

    def _cost(self) -> Decimal:
        return Decimal(self._meta.get("cost_usd", "0"))

    def _read_totals(self) -> BatchStatus:
        return BatchStatus(
            agent_id=self._agent_id,
            base_url=self._base_url,
            done=self._count("done"),
            failed=self._count("failed"),
            unusable=self._count("unusable") + self._count("passed_over"),
            cost_usd=self._cost(),
            is_active=True,
        )


def read_meta(connection: sqlite3.Connection) -> dict[str, Any]:
    """Return what the ledger stores about the whole batch, by name."""
    rows: list[tuple[str, Any]] = connection.execute("SELECT name, value FROM meta").fetchall()
    return dict(rows)
