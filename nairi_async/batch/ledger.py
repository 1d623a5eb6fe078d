"""The ledger: what was asked and what came of it, in a file that outlives every process.

All of this blocks, so it is called in the ledger's own thread (see `writer`), many calls in one transaction.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Final, Literal

from attrs import frozen

from nairi_async.batch.items import BatchStatus, place_name
from nairi_async.batch.ledger_file import (
    OPEN,
    check_kind,
    is_locked,
    ledger_errors,
    ledger_path,
    open_ledger,
    open_to_read,
)
from nairi_async.errors import InvalidArgumentError, LedgerError
from nairi_async.models import Turn

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Any

    from nairi_async.batch.items import BatchItem

State = Literal["unsent", "sending", "running", "unusable", "failed", "done"]
# Turns that are looked for to tell whether this is where the batch was begun.
_WITNESSES: Final = 3
_COLUMNS: Final = "number, id, place, prompt, attachments, state, sent_at, attachment_ids, job_id, message_id"


@frozen(kw_only=True)
class Entry:
    """An item as the ledger holds it."""

    number: int
    id: str
    place: int
    prompt: str
    attachments: tuple[str, ...]
    state: State
    sent_at: float | None
    """Seconds since the epoch, not later than the prompt itself left: by the service's clock or by that of the machine
    that sent it, whichever was behind."""
    attachment_ids: tuple[str, ...] = ()
    """Ids of the files that it was sent with."""
    turn: Turn | None = None


@frozen(kw_only=True)
class End:
    """An item's end, as the ledger holds it: everything but when it came."""

    finished: int
    """Its place in the order of ends, from 1."""
    id: str
    place: int
    prompt: str
    document: str


class Ledger:
    """An open ledger. Changes hold from `commit` on.

    Args:
        path: The file, made if it is missing.
        agent_id: Whose it is.
        base_url: Where the service is.

    Raises:
        LedgerError: as for `open_ledger`.
    """

    def __init__(self, path: Path, agent_id: str, base_url: str) -> None:
        self.path = path
        self._agent_id, self._base_url = agent_id, base_url
        self._db, self._lock = open_ledger(path, agent_id, base_url)
        try:
            with ledger_errors(path):
                # What this run has met: on the disk, since a batch may be larger than memory; and gone with the
                # connection.
                self._db.execute("CREATE TEMP TABLE met (number INTEGER PRIMARY KEY)")
                # What has proved unusable in this run.
                self._db.execute("CREATE TEMP TABLE spoilt (number INTEGER PRIMARY KEY)")
                self._head = _head(self._db)
                self._written = dict(self._head)
                # They are read again.
                self._head["passed_over"] = 0
                self.write_started = self._whole("write_started")
                """The last end that the consumer has dealt with, in the order of ends."""
                self.totals = self._counted()
                self._last = self._newest()
        except BaseException:
            self._db.close()
            self._lock.close()
            raise

    def close(self) -> None:
        """Keep what `head` says, and let others in. Harmless when repeated."""
        # The disk may be full: what is lost then is given again.
        with suppress(sqlite3.Error):
            self.begin()
            self.commit()
        self._db.close()
        self._lock.close()

    def begin(self) -> None:
        """Begin a transaction."""
        self._db.execute("BEGIN")

    def commit(self) -> None:
        """Make everything since `begin` durable."""
        self._head["write_started"] = self.write_started
        for name, value in self._head.items():
            if self._written.get(name) != value:
                self._db.execute("INSERT OR REPLACE INTO head VALUES (?, ?)", (name, value))
        self._db.execute("COMMIT")
        self._written = dict(self._head)
        self.totals = self._counted()

    def rollback(self) -> None:
        """Undo everything since `begin`, as far as SQLite has not done so itself; the ledger is of no more use."""
        self._head = dict(self._written)
        with suppress(sqlite3.Error):
            self._db.execute("ROLLBACK")

    def claim(self, item: BatchItem, now: float) -> Entry | None:
        """Take an item into the ledger: as `sending`, or as `unsent` where files are to be uploaded first.

        Returns:
            The entry, if it is new, or could not be used before; `None` if it is known, and dealt with elsewhere.

        Raises:
            InvalidArgumentError: the id was met before in this run, or is known with another prompt.
        """
        id_ = item.identity
        query = (
            "SELECT number, place, state = 'unusable', number IN (SELECT number FROM spoilt), prompt, attachments"
            " FROM items WHERE id = ?"
        )
        known = self._db.execute(query, (id_,)).fetchone()
        if known is None:
            entry = self._taken(None, item, now)
            self._db.execute("INSERT INTO met VALUES (?)", (entry.number,))
            return entry
        number, first, is_unusable, is_spoilt, *content = known
        if not self._db.execute("INSERT OR IGNORE INTO met VALUES (?)", (number,)).rowcount:
            self.pass_over()
            raise InvalidArgumentError(f"the id {id_!r} was already taken by {place_name(first)}")
        is_changed = content != [item.prompt, json.dumps(item.attachments)]
        if is_unusable and (is_changed or not is_spoilt):
            self._head["unusable"] = self._whole("unusable") - 1
            return self._taken(number, item, now)
        if is_changed:
            self.pass_over()
            raise InvalidArgumentError(f"the ledger knows {id_!r} with another prompt or other attachments")
        return None

    def open_entries(self, after: int, count: int) -> list[Entry]:
        """Items that have not ended, in the order in which they were taken, behind a number."""
        query = f"SELECT {_COLUMNS} FROM items WHERE {OPEN} AND number > ? ORDER BY number LIMIT ?"  # noqa: S608 - ours
        return [self._entry(row) for row in self._db.execute(query, (after, count))]

    def unusable_entries(self, after: int, count: int) -> list[Entry]:
        """Items that earlier runs could not use and that this one has not met, behind a number; `unsent` from now on.

        Whoever corrects a record gives it again, so these come last.
        """
        query = (
            f"SELECT {_COLUMNS} FROM items WHERE state = 'unusable' AND number > ?"  # noqa: S608 - ours
            " AND number NOT IN (SELECT number FROM spoilt) ORDER BY number LIMIT ?"
        )
        entries = [self._entry(row) for row in self._db.execute(query, (after, count))]
        for entry in entries:
            self.unsent(entry.number)
        self._head["unusable"] = self._whole("unusable") - len(entries)
        return entries

    def twins(self, entry: Entry) -> int:
        """How many items ask the same as this one and are marked as being sent, itself included."""
        query = f"SELECT count(*) FROM items WHERE {OPEN} AND state = 'sending' AND prompt = ? AND attachment_ids = ?"  # noqa: S608
        found = self._db.execute(query, (entry.prompt, json.dumps(entry.attachment_ids)))
        return int(found.fetchone()[0])

    def earlier(self, before: float, but: int) -> list[str]:
        """User messages of some other items, the newest of those that were sent before a moment."""
        query = (
            "SELECT message_id FROM items WHERE message_id IS NOT NULL AND sent_at < ? AND number <> ?"
            " ORDER BY number DESC LIMIT ?"
        )
        return [message_id for (message_id,) in self._db.execute(query, (before, but, _WITNESSES))]

    def sending(self, number: int, now: float, attachment_ids: Sequence[str]) -> None:
        """The prompt is about to leave."""
        self._db.execute(
            "UPDATE items SET state = 'sending', sent_at = ?, attachment_ids = ? WHERE number = ?",
            (now, json.dumps(attachment_ids), number),
        )

    def unsent(self, number: int) -> None:
        """The prompt provably does not run."""
        self._db.execute("UPDATE items SET state = 'unsent' WHERE number = ?", (number,))

    def unusable(self, number: int) -> None:
        """An item that was not sent cannot be, as it is: its files are missing, for one."""
        query = "UPDATE items SET state = 'unusable' WHERE number = ? AND state = 'unsent'"
        self._head["unusable"] = self._whole("unusable") + self._db.execute(query, (number,)).rowcount
        self._db.execute("INSERT OR IGNORE INTO spoilt VALUES (?)", (number,))

    def pass_over(self) -> None:
        """There was a record that cannot be taken; it is counted, and no more."""
        self._head["passed_over"] = self._whole("passed_over") + 1

    def running(self, number: int, turn: Turn) -> None:
        """The prompt has become this turn."""
        self._db.execute(
            "UPDATE items SET state = 'running', job_id = ?, message_id = ? WHERE number = ?",
            (turn.job_id, turn.message_id, number),
        )
        self._db.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?)", (turn.job_id, number))

    def finish(self, number: int, document: str, *, is_done: bool, cost: Decimal | None) -> int:
        """The item has ended; returns its place in the order of ends."""
        name: State = "done" if is_done else "failed"
        self._db.execute("UPDATE items SET state = ? WHERE number = ?", (name, number))
        self._last += 1
        self._db.execute("INSERT INTO outcomes VALUES (?, ?, ?)", (self._last, number, document))
        self._head[name] = self._whole(name) + 1
        if cost is not None:
            self._head["cost_usd"] = str(self._cost() + cost)
        return self._last

    def retry_failed(self) -> None:
        """Ask again what ended without a reply."""
        changed = self._db.execute("UPDATE items SET state = 'unsent' WHERE state = 'failed'").rowcount
        self._head["failed"] = self._whole("failed") - changed

    def ends(self, after: int, count: int) -> list[End]:
        """How items ended, in the order of ends, behind one of them."""
        query = (
            "SELECT finished, id, place, prompt, document FROM outcomes JOIN items ON number = item"
            " WHERE finished > ? ORDER BY finished LIMIT ?"
        )
        rows = self._db.execute(query, (after, count))
        return [
            End(finished=finished, id=id_, place=place, prompt=prompt, document=document)
            for finished, id_, place, prompt, document in rows
        ]

    @property
    def output(self) -> tuple[int, int] | None:
        """The last end in the output file, and the size of the file behind it; `None` if it never had one."""
        if "output_size" not in self._head:
            return None
        return self._whole("output_end"), self._whole("output_size")

    @output.setter
    def output(self, mark: tuple[int, int]) -> None:
        self._head["output_end"], self._head["output_size"] = mark

    def _taken(self, number: int | None, item: BatchItem, now: float) -> Entry:
        """Write an item down, as a new one or in the place of one that could not be used."""
        state: State = "unsent" if item.attachments else "sending"
        place = item.place or 0
        values = (number, item.identity, place, item.prompt, json.dumps(item.attachments), state, now)
        query = (
            "INSERT OR REPLACE INTO items (number, id, place, prompt, attachments, state, sent_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)"
        )
        number = self._db.execute(query, values).lastrowid
        assert number is not None  # noqa: S101 - a row was inserted
        return Entry(
            number=number,
            id=item.identity,
            place=place,
            prompt=item.prompt,
            attachments=item.attachments,
            state=state,
            sent_at=now,
        )

    def _entry(self, row: tuple[Any, ...]) -> Entry:
        number, id_, place, prompt, attachments, state, sent_at, attachment_ids, job_id, message_id = row
        turn = Turn(job_id, message_id, agent_id=self._agent_id) if state == "running" else None
        return Entry(
            number=number,
            id=id_,
            place=place,
            prompt=prompt,
            attachments=tuple(json.loads(attachments)),
            state=state,
            sent_at=sent_at,
            attachment_ids=tuple(json.loads(attachment_ids)),
            turn=turn,
        )

    def _newest(self) -> int:
        return int(self._db.execute("SELECT coalesce(max(finished), 0) FROM outcomes").fetchone()[0])

    def _whole(self, name: str) -> int:
        return int(self._head.get(name, 0))

    def _cost(self) -> Decimal:
        return Decimal(self._head.get("cost_usd", "0"))

    def _counted(self) -> BatchStatus:
        return BatchStatus(
            agent_id=self._agent_id,
            base_url=self._base_url,
            done=self._whole("done"),
            failed=self._whole("failed"),
            unusable=self._whole("unusable") + self._whole("passed_over"),
            cost_usd=self._cost(),
            is_active=True,
        )


class Jobs:
    """The conversations of a ledger's items, to be looked up while another connection writes.

    What was committed counts. A look takes microseconds, so it may be made on the event loop.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with ledger_errors(path):
            self._db = open_to_read(path)

    def __contains__(self, job_id: object) -> bool:
        with ledger_errors(self._path):
            return self._db.execute("SELECT 1 FROM jobs WHERE id = ?", (job_id,)).fetchone() is not None

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()


def read_status(path: str | os.PathLike[str]) -> BatchStatus:
    """Where a batch stands, from its ledger, whether a process works on it or not. Blocks for a moment.

    Args:
        path: The ledger.

    Raises:
        LedgerError: there is no ledger, or it cannot be read.
    """
    place = ledger_path(path)
    with ledger_errors(place):
        if not place.exists():
            raise LedgerError("there is no such ledger", str(place))
        with closing(open_to_read(place)) as connection:
            if check_kind(connection, place):
                raise LedgerError("is empty: no batch has begun", str(place))
            return _status(connection, place)


def _status(connection: sqlite3.Connection, path: Path) -> BatchStatus:
    connection.execute("BEGIN")
    head = _head(connection)
    counts = dict(connection.execute(f"SELECT state, count(*) FROM items WHERE {OPEN} GROUP BY state"))  # noqa: S608
    return BatchStatus(
        agent_id=str(head["agent_id"]),
        base_url=str(head["base_url"]),
        done=int(head.get("done", 0)),
        failed=int(head.get("failed", 0)),
        running=counts.get("running", 0),
        sending=counts.get("sending", 0),
        unsent=counts.get("unsent", 0),
        unusable=int(head.get("unusable", 0)) + int(head.get("passed_over", 0)),
        cost_usd=Decimal(head.get("cost_usd", "0")),
        is_active=is_locked(path),
    )


def _head(connection: sqlite3.Connection) -> dict[str, Any]:
    return dict(_pairs(connection))


def _pairs(connection: sqlite3.Connection) -> Iterator[tuple[str, Any]]:
    yield from connection.execute("SELECT name, value FROM head")
