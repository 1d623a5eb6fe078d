"""Batches in PostgreSQL: begun or gone on with, filled with items, read."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, LiteralString

from nairi_async._core.records import frozen
from nairi_async.batch.documents import decode_replies, decode_result
from nairi_async.batch.item_runner import BatchOnUnknown
from nairi_async.batch.items import BatchItem, BatchOutcome, BatchStatus, UnusableItem
from nairi_async.batch.record_keys import changed_record_error
from nairi_async.cluster.schema import LOCKS
from nairi_async.cluster.tickets import tickets
from nairi_async.errors import InvalidArgumentError, LedgerError, NairiError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    from nairi_async.cluster.database import Connection
    from nairi_async.cluster.tickets import TicketQueue

_COLUMNS: Final[LiteralString] = "number, name, agent_id, base_url, ask_mode, timeout, on_unknown, settle"
_NO_TIMEOUT: Final = 1e18


@frozen
class BatchRow:
    """A batch, and what applies to each of its items."""

    number: int
    name: str
    agent_id: str
    base_url: str
    ask_mode: bool
    timeout: float
    on_unknown: BatchOnUnknown
    settle: float


@frozen(kw_only=True)
class WorkerStatus:
    """A worker that lives: its session with the database holds its lock."""

    id: int
    """Its number, which never comes again."""
    host: str
    """Name of its machine."""
    pid: int
    """Its process there."""
    items: int
    """Conversations that it runs."""
    capacity: int
    """Conversations that it runs at most."""
    requests_per_second: float | None
    """The rate that it keeps to, together with all others; `None` for no limit."""


@frozen(kw_only=True)
class ClusterStatus(BatchStatus):
    """How far a batch is, and who works on it."""

    name: str
    """The batch's name."""
    in_doubt: int = 0
    """Prompts, among those `sending`, that may or may not run: their worker died, or their response was lost."""
    workers: tuple[WorkerStatus, ...] = ()
    """The workers of the batch's service that live."""
    per_minute: float = 0.0
    """Conversations that ended in the last minute."""

    @property
    def seconds_left(self) -> float | None:
        """Seconds until all have ended, as the last minute went; `None` if nothing ended in it."""
        return 60.0 * self.open / self.per_minute if self.per_minute else None


async def begin_batch(connection: Connection, wanted: BatchRow, where: str) -> BatchRow:
    """Make a batch, or return the one of that name.

    Raises:
        LedgerError: the name belongs to a batch of another agent or another service.
    """
    insert = (
        "INSERT INTO nairi_batches (name, agent_id, base_url, ask_mode, timeout, on_unknown, settle)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"
    )
    values = (wanted.name, wanted.agent_id, wanted.base_url, wanted.ask_mode)
    timeout = min(wanted.timeout, _NO_TIMEOUT)
    await connection.execute(insert, (*values, timeout, wanted.on_unknown, wanted.settle))
    found = await find_batch(connection, wanted.name)
    assert found is not None  # noqa: S101 - inserted, or there before
    if found.agent_id != wanted.agent_id:
        text = f"the batch {wanted.name!r} is one of the agent {found.agent_id!r}, not {wanted.agent_id!r}"
        raise LedgerError(f"{text}: give this one another name", where)
    if found.base_url != wanted.base_url:
        text = f"the batch {wanted.name!r} is one at {found.base_url}, not {wanted.base_url}"
        raise LedgerError(f"{text}: give this one another name", where)
    return found


async def find_batch(connection: Connection, name: str) -> BatchRow | None:
    """Return the batch of a name."""
    query = f"SELECT {_COLUMNS} FROM nairi_batches WHERE name = %s"  # noqa: S608 - ours
    found = await (await connection.execute(query, (name,))).fetchone()
    return None if found is None else BatchRow(*found)


async def read_batch(connection: Connection, number: int) -> BatchRow | None:
    """Return the batch of a number."""
    query = f"SELECT {_COLUMNS} FROM nairi_batches WHERE number = %s"  # noqa: S608 - ours
    found = await (await connection.execute(query, (number,))).fetchone()
    return None if found is None else BatchRow(*found)


class Keys:
    """How items are recognised: by their id, else by their prompt; identical ones are counted."""

    def __init__(self) -> None:
        self._counts: Counter[bytes] = Counter()
        self._ids: dict[str, int] = {}

    def checked(self, given: object, place: int) -> tuple[str, BatchItem]:
        """Return the key of the next record, and the record.

        Raises:
            InvalidArgumentError: it cannot be sent; the text names its place.
        """
        try:
            item = self._item(given, place)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"#{place} cannot be used: {error}") from error
        if item.id is not None:
            return f"id:{item.id}", item
        digest = hashlib.sha256(json.dumps([item.prompt, []]).encode()).digest()[:16]
        self._counts[digest] += 1
        return f"content:{digest.hex()}:{self._counts[digest]}", item

    def _item(self, given: object, place: int) -> BatchItem:
        if isinstance(given, UnusableItem):
            raise given.error
        item = BatchItem.of(given, place)
        if item.attachments:
            text = "attachments are paths, and the workers see other files: run records with files by `Batch`, on one"
            raise InvalidArgumentError(f"{text} machine, or put what the files say into the prompt")
        if item.follow_ups or item.job_id is not None:
            text = "a cluster takes single prompts: run records with several `prompts`, or a `job_id`, by `Batch`, on"
            raise InvalidArgumentError(f"{text} one machine, or submit the next prompt once an outcome is read")
        if "\0" in item.prompt or "\0" in (item.id or ""):
            raise InvalidArgumentError("PostgreSQL cannot store a zero byte")
        if item.id is not None and self._ids.setdefault(item.id, place) != place:
            raise InvalidArgumentError(f"the id {item.id!r} is there twice, first at #{self._ids[item.id]}")
        return item


async def add_items(
    connection: Connection, queue: TicketQueue, batch: int, records: Sequence[tuple[str, BatchItem]]
) -> int:
    """Store the items that the batch does not have yet, and tickets for them; return how many are new.

    Raises:
        InvalidArgumentError: the batch knows an id with another prompt.
    """
    keys = [key for key, _ in records]
    items = [item for _, item in records]
    known = "SELECT key, prompt FROM nairi_prompts WHERE batch = %s AND key = ANY(%s)"
    prompts: dict[str, str] = dict(await (await connection.execute(known, (batch, keys))).fetchall())
    for key, item in records:
        if prompts.get(key, item.prompt) != item.prompt:
            raise changed_record_error(item.name)
    insert = (
        "WITH stored AS (INSERT INTO nairi_prompts (batch, key, id, place, prompt, fields) SELECT %s, new.* FROM"
        " unnest(%s::text[], %s::text[], %s::bigint[], %s::text[], %s::text[]) AS new(key, id, place, prompt, fields)"
        # Where another process has just given an id to another record, this is an error, and the next try sees that.
        " ON CONFLICT (batch, key) DO NOTHING RETURNING number, batch, prompt)"
        " INSERT INTO nairi_items (number, batch, prompt_hash) SELECT number, batch, hashtext(prompt) FROM stored"
        " RETURNING number"
    )
    # A record without an id is called by its place; where another had the place before, by its key as well.
    ids = [item.id if item.id is not None else f"#{item.place}" for item in items]
    taken = "SELECT id, key FROM nairi_prompts WHERE batch = %s AND id = ANY(%s)"
    keys_of: dict[str, str] = dict(await (await connection.execute(taken, (batch, ids))).fetchall())
    names = [id_ if keys_of.get(id_, key) == key else f"{id_}-{key[-34:]}" for id_, key in zip(ids, keys, strict=True)]
    columns = (
        keys,
        names,
        [item.place or 0 for item in items],
        [item.prompt for item in items],
        [json.dumps(dict(item.fields)) for item in items],
    )
    numbers = [number for (number,) in await (await connection.execute(insert, (batch, *columns))).fetchall()]
    await queue.add(connection, tickets(batch, sorted(numbers)))
    # The batch's row last: until the commit no item of it can end.
    await connection.execute("UPDATE nairi_batches SET items = items + %s WHERE number = %s", (len(numbers), batch))
    return len(numbers)


async def retry_failed(connection: Connection, queue: TicketQueue, batch: int) -> int:
    """Make what failed `unsent` again; return how many. Each new end is a further outcome."""
    locked = "SELECT failed FROM nairi_batches WHERE number = %s FOR NO KEY UPDATE"
    query = (
        "UPDATE nairi_items SET state = 'unsent', job_id = NULL, message_id = NULL, lost_at = NULL, parked = 0,"
        " claim = claim + 1 WHERE batch = %s AND state = 'failed' RETURNING number"
    )
    numbers = [number for (number,) in await (await connection.execute(query, (batch,))).fetchall()]
    forget = "DELETE FROM nairi_outcomes WHERE batch = %s AND number = ANY(%s)"
    await connection.execute(forget, (batch, numbers))
    await connection.execute(locked, (batch,))
    change = "UPDATE nairi_batches SET failed = failed - %s WHERE number = %s"
    await connection.execute(change, (len(numbers), batch))
    await queue.add(connection, tickets(batch, sorted(numbers)))
    return len(numbers)


async def read_outcomes(
    connection: Connection, batch: BatchRow, after: int, count: int
) -> list[tuple[int, BatchOutcome]]:
    """Return outcomes with their places, in their order, after one of them."""
    query = (
        "SELECT o.sequence, p.id, p.place, p.prompt, o.document, p.fields"
        " FROM nairi_outcomes o JOIN nairi_prompts p ON p.number = o.number"
        " WHERE o.batch = %s AND o.sequence > %s ORDER BY o.sequence LIMIT %s"
    )
    found = await (await connection.execute(query, (batch.number, after, count))).fetchall()
    return [(values[0], _outcome(batch, *values[1:])) for values in found]


def _outcome(  # noqa: PLR0917 - the columns, in their order
    batch: BatchRow, id_: str, place: int, prompt: str, document: str, fields: str
) -> BatchOutcome:
    turn, result = decode_result(document, batch.agent_id)
    return BatchOutcome(
        id=id_,
        place=place,
        prompt=prompt,
        turn=turn,
        reply=None if isinstance(result, NairiError) else result,
        error=result if isinstance(result, NairiError) else None,
        replies=decode_replies(document, batch.agent_id),
        fields=json.loads(fields),
        is_final=True,
    )


async def delete_batch(connection: Connection, batch: int) -> int:
    """Delete a batch with its prompts and outcomes, if it has ended; return how many of its items have not."""
    locked = "SELECT items - done - failed FROM nairi_batches WHERE number = %s FOR UPDATE"
    found = await (await connection.execute(locked, (batch,))).fetchone()
    if found is None or found[0]:
        return int(found[0]) if found else 0
    tables: tuple[LiteralString, ...] = ("nairi_outcomes", "nairi_turns", "nairi_items")
    for table in tables:
        await connection.execute(f"DELETE FROM {table} WHERE batch = %s", (batch,))  # noqa: S608 - ours
    await connection.execute("DELETE FROM nairi_batches WHERE number = %s", (batch,))
    return 0


async def read_statuses(connection: Connection, name: str | None) -> list[ClusterStatus]:
    """Return the status of one batch, or of all."""
    # One statement, so that all numbers are of one moment. Outcomes have ended in their order.
    query = (
        f"SELECT {_COLUMNS}, items, done, failed, cost_usd, coalesce(sending, 0), coalesce(running, 0),"  # noqa: S608
        " coalesce(in_doubt, 0), last_sequence - coalesce((SELECT o.sequence FROM nairi_outcomes o"
        " WHERE o.batch = b.number AND o.ended_at < clock_timestamp() - interval '1 minute'"
        " ORDER BY o.sequence DESC LIMIT 1), 0)"
        " FROM nairi_batches b LEFT JOIN (SELECT batch, count(*) FILTER (WHERE state = 'sending') AS sending,"
        " count(*) FILTER (WHERE state = 'running') AS running, count(*) FILTER (WHERE is_in_doubt) AS in_doubt"
        " FROM nairi_items WHERE owner IS NOT NULL GROUP BY batch) AS i ON i.batch = b.number"
        " WHERE %s::text IS NULL OR name = %s ORDER BY number"
    )
    found = await (await connection.execute(query, (name, name))).fetchall()
    workers = await _read_workers(connection)
    return [_status(BatchRow(*values[:8]), values[8:], workers) for values in found]


def _status(
    batch: BatchRow,
    totals: tuple[int, int, int, Decimal, int, int, int, int],
    workers: dict[str, tuple[WorkerStatus, ...]],
) -> ClusterStatus:
    items, done, failed, cost_usd, sending, running, in_doubt, recent = totals
    living = workers.get(batch.base_url, ())
    return ClusterStatus(
        name=batch.name,
        agent_id=batch.agent_id,
        base_url=batch.base_url,
        done=done,
        failed=failed,
        running=running,
        sending=sending,
        unsent=items - done - failed - sending - running,
        in_doubt=in_doubt,
        cost_usd=cost_usd,
        is_active=bool(living),
        workers=living,
        per_minute=float(recent),
    )


async def _read_workers(connection: Connection) -> dict[str, tuple[WorkerStatus, ...]]:
    query = (
        "SELECT w.base_url, w.id, w.host, w.pid, w.capacity, w.per_second,"
        " (SELECT count(*) FROM nairi_items i WHERE i.owner = w.id) FROM nairi_workers w"
        " WHERE EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.classid = %s"
        " AND l.objid = w.id AND l.pid = w.backend"
        " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
        " ORDER BY w.id"
    )
    found: Any = await (await connection.execute(query, (LOCKS,))).fetchall()
    workers: dict[str, tuple[WorkerStatus, ...]] = {}
    for base_url, id_, host, pid, capacity, per_second, items in found:
        one = WorkerStatus(id=id_, host=host, pid=pid, items=items, capacity=capacity, requests_per_second=per_second)
        workers[base_url] = (*workers.get(base_url, ()), one)
    return workers
