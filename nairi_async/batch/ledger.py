"""The ledger: what was asked and what came of it, in a file that outlives every process.

The states of an item are those of `item_state`.

* A record is recognised by its id, else by its prompt and attachments (see `record_claims`).
* An item without files is claimed as `sending`; one with files as `unsent`, until the files are uploaded. The prompt
  leaves only after `sending` is on the disk, so that no prompt runs that the ledger does not know.
* After a crash `sending` is looked up at the service: found, the item is `running`; provably absent, it is sent again.
* An outcome is on the disk before it is handed over, and its place in the order of outcomes never changes. Which
  outcomes the consumer has handled becomes durable with the next commit; after a crash the last ones are handed over
  again.

All of this blocks, so it runs in the ledger's own thread (see `writer`), many calls in one transaction. Changes that
come for each prompt are collected and written by one statement for many of them, before the commit and before anything
reads what they change.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import suppress
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, Final

from nairi_async._core.records import frozen
from nairi_async.batch.documents import turn_of
from nairi_async.batch.item_state import Entry
from nairi_async.batch.items import BatchStatus
from nairi_async.batch.ledger_file import LEDGER, OPEN, open_ledger
from nairi_async.batch.record_claims import RecordClaims, item_name
from nairi_async.batch.record_keys import stored_list
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
    "number, key, name, place, items.prompt, follow_ups, attachments, fields, state, sent_at,"
    " coalesce(conversation, continues), job_id,"
    " message_id, attachment_ids, step, progress.prompt, previous, earlier"
)
_CLAIMED: Final = "INSERT INTO progress (number, state, sent_at) VALUES (?, ?, ?)"
_RUNNING: Final = "UPDATE progress SET state = 'running', job_id = ?, message_id = ? WHERE number = ?"
# The first index serves conversations that items started, the second one their turns.
_TURN_INDEXES: Final = (
    "CREATE INDEX IF NOT EXISTS turns_job ON turns (job_id) WHERE job_id IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS turns_message ON turns (message_id)",
)
KNOWN_TURN: Final = "SELECT 1 FROM turns WHERE job_id = :value UNION ALL SELECT 1 FROM turns WHERE message_id = :value"
"""The query for what belongs to items: the conversations that they started, by job id, and their turns."""


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
        # What is written with the next statement of its kind.
        self._runs: list[tuple[str, str, int]] = []
        self._turns: list[tuple[str | None, str]] = []
        self._ends: list[tuple[int, int, str]] = []
        self._done: list[tuple[int]] = []
        try:
            with LEDGER.errors(path):
                self._meta = read_meta(self._db)
                self._written = dict(self._meta)
                # This run reads those records again.
                self._meta["passed_over"] = 0
                self.handled: int = self._count("handled")
                """The last outcome that the consumer has handled, by its place in the order of outcomes."""
                self.totals: BatchStatus = self._read_totals()
                self._cost = Decimal(self._meta.get("cost_usd", "0"))
                query = "SELECT coalesce(max(sequence), 0) FROM outcomes"
                self._last: int = self._db.execute(query).fetchone()[0]
                self._earlier = self._last
                query = (
                    "SELECT number, message_id FROM progress WHERE message_id IS NOT NULL ORDER BY number DESC LIMIT ?"
                )
                self._earlier_turns: list[tuple[int, str]] = self._db.execute(query, (_WITNESSES + 1,)).fetchall()
                self._records = RecordClaims(self._db, self._flush, self._count("unusable"))
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
        self._flush()
        self._meta["handled"] = self.handled
        self._meta["unusable"] = self._records.unusable
        if self._cost:
            self._meta["cost_usd"] = str(self._cost)
        changed = self._meta.items() - self._written.items()
        if changed:
            self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", changed)
        self._db.execute("COMMIT")
        self._written = dict(self._meta)
        self.totals = self._read_totals()

    def rollback(self) -> None:
        """Undo everything since `begin`, where SQLite has not done so itself; the ledger cannot be used afterwards."""
        self._meta = dict(self._written)
        # `close` stores what is counted apart from these; what was undone would count twice, as it happens again.
        self._cost = Decimal(self._meta.get("cost_usd", "0"))
        self._records.unusable = self._count("unusable")
        for waiting in (self._records.claimed, self._runs, self._turns, self._ends, self._done):
            waiting.clear()
        with suppress(sqlite3.Error):
            self._db.execute("ROLLBACK")

    def claim(self, item: BatchItem, now: float) -> Entry | None:
        """Take an item into the ledger: as `sending`, or as `unsent` where files must be uploaded first.

        Returns:
            The entry, if the item is new or was unusable before; `None` if the ledger knows it.

        Raises:
            InvalidArgumentError: the id occurred before in this run, or the ledger knows it with another prompt.
        """
        return self._records.claim(item, now)

    def forget_replaced(self) -> None:
        """Forget the unusable items without an id that this run has not seen, once it has read the whole source."""
        self._records.forget_replaced()

    def open_entries(self, after: int, count: int) -> list[Entry]:
        """Return items that have not ended, in the order in which they were claimed, after a number."""
        return self._entries(OPEN, after, count)

    def unusable_entries(self, after: int, count: int) -> list[Entry]:
        """Make `unsent` what earlier runs could not use and this run has not tried, and return it, after a number.

        A corrected record replaces its item, so the source must be read before these.
        """
        untried = "state = 'unusable' AND number NOT IN (SELECT number FROM unusable_this_run)"
        entries = self._entries(untried, after, count)
        for entry in entries:
            self.mark_unsent(entry.number)
        self._records.unusable -= len(entries)
        return entries

    def _entries(self, condition: str, after: int, count: int) -> list[Entry]:
        self._flush()
        query = (
            f"SELECT {_COLUMNS} FROM progress JOIN items USING (number) WHERE {condition}"  # noqa: S608 - ours
            " AND number > ? ORDER BY number LIMIT ?"
        )
        return [self._entry(row) for row in self._db.execute(query, (after, count))]

    def count_equal_sending(self, entry: Entry) -> int:
        """Return how many items with this prompt, files and conversation are `sending`, including this one."""
        self._flush()
        query = (
            "SELECT count(*) FROM progress JOIN items USING (number) WHERE state = 'sending'"
            " AND coalesce(progress.prompt, items.prompt) = ? AND attachment_ids IS ?"
            " AND coalesce(conversation, continues) IS ?"
        )
        content = (entry.prompt, stored_list(entry.attachment_ids), entry.conversation)
        return int(self._db.execute(query, content).fetchone()[0])

    def index_turns(self) -> None:
        """Make the index for lookups of lost prompts. Most batches have none, and then no prompt pays for it."""
        for statement in _TURN_INDEXES:
            self._db.execute(statement)

    def earlier_messages(self, excluding: int) -> list[str]:
        """Return user messages of some other items: the latest of those that earlier runs sent."""
        found = [message_id for number, message_id in self._earlier_turns if number != excluding][:_WITNESSES]
        query = "SELECT document FROM outcomes WHERE sequence <= ? AND item <> ? ORDER BY sequence DESC"
        for (document,) in self._db.execute(query, (self._earlier, excluding)):
            if len(found) >= _WITNESSES:
                break
            if (turn := turn_of(document)) is not None and turn.message_id not in found:
                found.append(turn.message_id)
        return found

    def mark_sending(self, entry: Entry) -> None:
        """Record that the prompt is about to leave."""
        self._flush()
        self._db.execute(
            "UPDATE progress SET state = 'sending', sent_at = ?, attachment_ids = ?, previous = ? WHERE number = ?",
            (entry.sent_at, stored_list(entry.attachment_ids), entry.previous, entry.number),
        )

    def advance(self, entry: Entry, step: int, cost: Decimal | None) -> None:
        """Record that a turn has ended, and that the prompt that follows it is about to leave, as `entry` has it."""
        self._flush()
        self._db.execute(
            "UPDATE progress SET state = 'sending', step = ?, prompt = ?, conversation = ?, previous = ?, earlier = ?,"
            " sent_at = ?, attachment_ids = NULL WHERE number = ?",
            (
                step,
                entry.prompt,
                entry.conversation,
                entry.previous,
                stored_list(entry.earlier),
                entry.sent_at,
                entry.number,
            ),
        )
        self._add_cost(cost)

    def mark_unsent(self, number: int) -> None:
        """Record that the prompt provably does not run."""
        self._flush()
        self._db.execute("UPDATE progress SET state = 'unsent' WHERE number = ?", (number,))

    def mark_unusable(self, number: int) -> None:
        """Record that an unsent item cannot be sent as it is."""
        self._records.mark_unusable(number)

    def mark_running(self, number: int, turn: Turn, *, is_first: bool = True) -> None:
        """Record the turn that the prompt became; `is_first` if it has started the conversation."""
        self._runs.append((turn.job_id, turn.message_id, number))
        # A conversation that was continued is not the item's own; its message is.
        self._turns.append((turn.job_id if is_first else None, turn.message_id))

    def pass_over(self) -> None:
        """Count a record that cannot be claimed."""
        self._meta["passed_over"] = self._count("passed_over") + 1

    def finish(self, number: int, document: str, *, is_done: bool, cost: Decimal | None) -> int:
        """Record an item's outcome, and return its place in the order of outcomes."""
        name: State = "done" if is_done else "failed"
        if is_done:
            self._done.append((number,))
        else:
            self._flush()
            self._db.execute("UPDATE progress SET state = 'failed' WHERE number = ?", (number,))
        self._last += 1
        self._ends.append((self._last, number, document))
        self._meta[name] = self._count(name) + 1
        self._add_cost(cost)
        return self._last

    def _flush(self) -> None:
        """Write what was collected; in this order, since an item may be claimed, run and end in one transaction."""
        for statement, rows in (
            (_CLAIMED, self._records.claimed),
            (_RUNNING, self._runs),
            ("INSERT INTO turns VALUES (?, ?)", self._turns),
            ("DELETE FROM progress WHERE number = ?", self._done),
            ("INSERT INTO outcomes VALUES (?, ?, ?)", self._ends),
        ):
            if rows:
                self._db.executemany(statement, rows)
                rows.clear()

    def _add_cost(self, cost: Decimal | None) -> None:
        if cost is not None and cost.is_finite() and -_COST_DIGITS < cost.adjusted() < _COST_DIGITS:
            with localcontext(prec=4 * _COST_DIGITS):
                self._cost += cost

    def retry_failed(self) -> None:
        """Make `unsent` what ended without a reply."""
        self._flush()
        changed = self._db.execute("UPDATE progress SET state = 'unsent' WHERE state = 'failed'").rowcount
        self._meta["failed"] = self._count("failed") - changed

    def outcomes(self, after: int, count: int) -> list[RecordedOutcome]:
        """Return outcomes in their order, after one of them."""
        query = (
            "SELECT sequence, key, name, place, prompt, fields, document FROM outcomes JOIN items ON number = item"
            " WHERE sequence > ? ORDER BY sequence LIMIT ?"
        )
        self._flush()
        return [
            RecordedOutcome(
                sequence=sequence,
                id=item_name(key, name, place),
                place=place,
                prompt=prompt,
                fields=json.loads(fields) if fields else {},
                document=document,
            )
            for sequence, key, name, place, prompt, fields, document in self._db.execute(query, (after, count))
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

    def _entry(self, row: tuple[Any, ...]) -> Entry:
        number, key, name, place, first_prompt, follow_ups, attachments, fields, state, sent_at, *rest = row
        conversation, job_id, message_id, attachment_ids, step, prompt, previous, earlier = rest
        prompts = (first_prompt, *_list(follow_ups))
        return Entry(
            number=number,
            id=item_name(key, name, place),
            place=place,
            prompt=first_prompt if prompt is None else prompt,
            attachments=() if step else _list(attachments),
            state=state,
            sent_at=sent_at,
            attachment_ids=_list(attachment_ids),
            turn=Turn(job_id, message_id, agent_id=self._agent_id) if state == "running" else None,
            conversation=conversation,
            previous=previous,
            rest=prompts[step + 1 :],
            repairs=max(0, step + 1 - len(prompts)),
            earlier=_list(earlier),
            prompts=prompts,
            fields=json.loads(fields) if fields else {},
        )

    def _count(self, name: str) -> int:
        return int(self._meta.get(name, 0))

    def _read_totals(self) -> BatchStatus:
        return BatchStatus(
            agent_id=self._agent_id,
            base_url=self._base_url,
            done=self._count("done"),
            failed=self._count("failed"),
            unusable=self._count("unusable") + self._count("passed_over"),
            cost_usd=Decimal(self._meta.get("cost_usd", "0")),
            is_active=True,
        )


def _list(stored: str | None) -> tuple[str, ...]:
    return tuple(json.loads(stored)) if stored else ()


def read_meta(connection: sqlite3.Connection) -> dict[str, Any]:
    """Return what the ledger stores about the whole batch, by name."""
    rows: list[tuple[str, Any]] = connection.execute("SELECT name, value FROM meta").fetchall()
    return dict(rows)
