"""Rows of items as PostgreSQL holds them: read and locked, and written.

A row that a worker owns is written on condition that the claim still holds, without being read or locked before. What
changes as an item runs stands in a narrow table, and no index holds what most changes concern: PostgreSQL then changes
a row within its page (a heap-only update), where it would write to each index otherwise.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, LiteralString

from nairi_async._core.records import frozen
from nairi_async.cluster.row import Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nairi_async.cluster.database import Connection

NO_ONE: Final = -1
"""The stored owner of an item that is `sending` or `running`, and that no worker runs.

The index of what has an owner then holds all that is under way.
"""
COLUMNS: Final[LiteralString] = (
    "i.number, i.state, nullif(i.owner, -1), i.claim, i.is_in_doubt, i.lost_at, i.sent_at, i.job_id, i.message_id,"
    " i.batch"
)
"""What `row_of` takes, of `nairi_items i`; the batch comes after it."""
_READ: Final[LiteralString] = (
    f"SELECT {COLUMNS}, extract(epoch FROM clock_timestamp())::float8 FROM nairi_items i"  # noqa: S608 - ours
    " WHERE number = %s FOR NO KEY UPDATE"
)
_WRITE: Final[LiteralString] = """
WITH new AS (SELECT * FROM unnest(%s::bigint[], %s::text[], %s::integer[], %s::integer[], %s::boolean[], %s::float8[],
    %s::float8[], %s::text[], %s::text[], %s::boolean[]) AS new(number, state, owner, claim, is_in_doubt, lost_at,
    sent_at, job_id, message_id, is_new_turn)),
changed AS (UPDATE nairi_items i SET state = new.state, owner = new.owner, claim = new.claim,
    is_in_doubt = new.is_in_doubt, lost_at = new.lost_at, sent_at = new.sent_at, job_id = new.job_id,
    message_id = new.message_id FROM new WHERE i.number = new.number
    RETURNING i.number, i.batch, new.job_id, new.is_new_turn),
turns AS (INSERT INTO nairi_turns (job_id, number, batch) SELECT job_id, number, batch FROM changed WHERE is_new_turn)
SELECT number FROM changed
"""
_WRITE_OWNED: Final[LiteralString] = """
WITH new AS (SELECT * FROM unnest(%s::bigint[], %s::text[], %s::integer[], %s::integer[], %s::boolean[], %s::float8[],
    %s::float8[], %s::text[], %s::text[], %s::boolean[]) AS new(number, state, owner, claim, is_in_doubt, lost_at,
    sent_at, job_id, message_id, is_new_turn)),
changed AS (UPDATE nairi_items i SET state = new.state, is_in_doubt = new.is_in_doubt, lost_at = new.lost_at,
    sent_at = new.sent_at, job_id = new.job_id, message_id = new.message_id
    FROM new WHERE i.number = new.number AND i.owner = new.owner AND i.claim = new.claim
    RETURNING i.number, i.batch, new.job_id, new.is_new_turn),
turns AS (INSERT INTO nairi_turns (job_id, number, batch) SELECT job_id, number, batch FROM changed WHERE is_new_turn)
SELECT number FROM changed
"""
# The batch's row is locked after those of its items, and until the commit, so that outcomes come in their order.
_END_OWNED: Final[LiteralString] = """
WITH new AS (SELECT * FROM unnest(%s::bigint[], %s::text[], %s::integer[], %s::integer[], %s::numeric[], %s::text[])
    AS new(number, state, owner, claim, cost, document)),
ended AS (UPDATE nairi_items i SET state = new.state, owner = NULL, is_in_doubt = false
    FROM new WHERE i.number = new.number AND i.owner = new.owner AND i.claim = new.claim
    RETURNING i.number, i.batch, new.state, new.cost, new.document),
counted AS (UPDATE nairi_batches b SET done = b.done + e.done, failed = b.failed + e.count - e.done,
    cost_usd = b.cost_usd + e.cost, last_sequence = b.last_sequence + e.count
    FROM (SELECT batch, count(*) AS count, count(*) FILTER (WHERE state = 'done') AS done, sum(cost) AS cost
        FROM ended GROUP BY batch) AS e WHERE b.number = e.batch
    RETURNING b.number AS batch, b.last_sequence - e.count AS before)
INSERT INTO nairi_outcomes (batch, sequence, number, document)
SELECT batch, before + row_number() OVER (PARTITION BY batch ORDER BY number), number, document
FROM ended JOIN counted USING (batch) RETURNING number, sequence
"""
_PLACE: Final[LiteralString] = (
    "SELECT sequence FROM nairi_outcomes WHERE batch = %s AND number = %s ORDER BY sequence DESC LIMIT 1"
)


@frozen
class Ended:
    """How an item ended."""

    document: str
    """The result, encoded by `batch.documents`."""
    is_done: bool
    cost: Decimal
    """What it has cost, as far as it can be summed."""


def row_of(values: Sequence[Any]) -> Row:
    """Return the row, given its columns."""
    number, state, owner, claim, is_in_doubt, lost_at, sent_at, job_id, message_id = values[:9]
    return Row(
        number=number,
        state=state,
        owner=owner,
        claim=claim,
        is_in_doubt=is_in_doubt,
        lost_at=lost_at,
        sent_at=sent_at,
        job_id=job_id,
        message_id=message_id,
    )


async def read_locked(connection: Connection, number: int) -> tuple[Row, int, float] | None:
    """Lock a row; return it, its batch, and the database's time."""
    values = await (await connection.execute(_READ, (number,))).fetchone()
    return None if values is None else (row_of(values), values[9], values[10])


async def write(connection: Connection, changed: Sequence[Row], before: Sequence[Row] | None = None) -> None:
    """Write rows that are locked, in the order of their numbers.

    Args:
        connection: It is in the transaction that has locked them.
        changed: The rows.
        before: The rows as they were, where one of them may have become a turn.

    Raises:
        psycopg.errors.UniqueViolation: a turn belongs to another item.
    """
    if changed:
        await connection.execute(_WRITE, _columns(changed, before or changed))


async def write_owned(connection: Connection, changed: Sequence[Row], before: Sequence[Row]) -> set[int]:
    """Write rows whose owner and claim stay, as far as those still hold; return the numbers of these.

    Raises:
        psycopg.errors.UniqueViolation: a turn belongs to another item, and nothing was written.
    """
    if not changed:
        return set()
    found = await connection.execute(_WRITE_OWNED, _columns(changed, before))
    return {number for (number,) in await found.fetchall()}


async def end_owned(connection: Connection, owned: Sequence[Row], ended: Sequence[Ended]) -> dict[int, int]:
    """End items, as far as their claims still hold; return the places of these in the order of outcomes, by number."""
    if not owned:
        return {}
    columns = (
        [row.number for row in owned],
        ["done" if one.is_done else "failed" for one in ended],
        [row.owner for row in owned],
        [row.claim for row in owned],
        [one.cost for one in ended],
        [one.document for one in ended],
    )
    return dict(await (await connection.execute(_END_OWNED, columns)).fetchall())


async def place_of(connection: Connection, batch: int, number: int) -> int:
    """Return the place of an item that has ended in the order of outcomes; 0 if its batch was deleted."""
    found = await (await connection.execute(_PLACE, (batch, number))).fetchone()
    return 0 if found is None else int(found[0])


def _columns(changed: Sequence[Row], before: Sequence[Row]) -> tuple[list[Any], ...]:
    return (
        [row.number for row in changed],
        [row.state for row in changed],
        [_stored_owner(row) for row in changed],
        [row.claim for row in changed],
        [row.is_in_doubt for row in changed],
        [row.lost_at for row in changed],
        [row.sent_at for row in changed],
        [row.job_id for row in changed],
        [row.message_id for row in changed],
        [row.job_id is not None and row.job_id != old.job_id for row, old in zip(changed, before, strict=True)],
    )


def _stored_owner(row: Row) -> int | None:
    return NO_ONE if row.owner is None and row.state in {"sending", "running"} else row.owner
