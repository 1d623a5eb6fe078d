"""The items in PostgreSQL: claimed, changed and released in transactions; what each change does is decided by `row`.

Changes that are asked for while a transaction runs are made together in the next one, so that each pays a small part of
a commit. Rows are locked in the order of their numbers, and batches after rows, so that no two processes wait for each
other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, LiteralString

from attrs import field
from psycopg import errors as sql

from nairi_async._core.records import define, frozen
from nairi_async.batch.item_state import Entry
from nairi_async.batch.item_store import TurnTakenError
from nairi_async.cluster import row as rows
from nairi_async.cluster.row import Claim, ClaimLostError, Row
from nairi_async.cluster.schema import LOCKS, SLOT_LOCKS, SWEEP_LOCK
from nairi_async.cluster.tickets import Ticket, tickets
from nairi_async.models import Turn

if TYPE_CHECKING:
    from nairi_async.cluster.batches import BatchRow
    from nairi_async.cluster.database import Connection, Database
    from nairi_async.cluster.tickets import TicketQueue

Change = Callable[[Row, float], Row]
"""Returns the changed row, given the row and the database's time; see `row`."""
_ROW: Final[LiteralString] = (
    "number, state, owner, claim, is_in_doubt, lost_at, sent_at, job_id, message_id, sequence, batch"
)
_READ: Final[LiteralString] = (
    f"SELECT {_ROW}, extract(epoch FROM clock_timestamp())::float8 FROM nairi_items"  # noqa: S608 - ours
    " WHERE number = ANY(%s) ORDER BY number FOR NO KEY UPDATE"
)
_WRITE: Final[LiteralString] = """
UPDATE nairi_items SET state = new.state, owner = new.owner, claim = new.claim, is_in_doubt = new.is_in_doubt,
    lost_at = new.lost_at, sent_at = new.sent_at, job_id = new.job_id, message_id = new.message_id,
    sequence = new.sequence, document = coalesce(new.document, nairi_items.document),
    recorded_at = CASE WHEN new.job_id IS NOT NULL AND nairi_items.job_id IS NULL THEN clock_timestamp()
        ELSE nairi_items.recorded_at END
FROM unnest(%s::bigint[], %s::text[], %s::integer[], %s::integer[], %s::boolean[], %s::float8[], %s::float8[],
    %s::text[], %s::text[], %s::bigint[], %s::text[])
    AS new(number, state, owner, claim, is_in_doubt, lost_at, sent_at, job_id, message_id, sequence, document)
WHERE nairi_items.number = new.number
"""
_CLAIM: Final[LiteralString] = (
    f"SELECT {_ROW}, id, place, prompt FROM nairi_items WHERE number BETWEEN %s AND %s AND batch = %s"  # noqa: S608
    " AND state IN ('unsent', 'sending', 'running')"
    # What this worker owns and does not run was claimed by a transaction whose commit was not heard of.
    " AND (owner IS NULL OR (owner = %s AND NOT number = ANY(%s))) ORDER BY number LIMIT %s FOR NO KEY UPDATE"
)
# What this worker owns and does not run is about to be claimed again.
_RUNNING: Final[LiteralString] = (
    "SELECT count(*) FROM nairi_items WHERE owner IN (SELECT id FROM nairi_workers WHERE base_url = %s)"
    " AND (owner <> %s OR number = ANY(%s))"
)
_OWNED: Final[LiteralString] = f"SELECT {_ROW} FROM nairi_items WHERE owner = ANY(%s) ORDER BY number FOR NO KEY UPDATE"  # noqa: S608 - ours
# Items of one ticket that a dead worker leaves.
_TAKEN_OVER: Final = 500
# Costs with more digits before or behind the point are not summed: no agent costs that much, or that little.
_COST_DIGITS: Final = 12


@frozen
class Ended:
    """How an item ended."""

    document: str
    """The result, encoded by `batch.documents`."""
    is_done: bool
    cost: Decimal | None


@frozen
class Claimed:
    """An item that this worker runs from now on."""

    entry: Entry
    claim: Claim
    parked: int
    """How often it was put off already."""


@define
class _Asked:
    """A change that was asked for."""

    number: int
    change: Change
    ended: Ended | None = None
    future: asyncio.Future[int] = field(factory=lambda: asyncio.get_running_loop().create_future())


class ItemTable:
    """The items, as one process changes them."""

    def __init__(self, database: Database, queue: TicketQueue) -> None:
        self.database = database
        self._queue = queue
        self._asked: list[_Asked] = []

    async def change(self, number: int, change: Change, ended: Ended | None = None) -> int:
        """Change a row, and return its place in the order of outcomes; 0 while it has none.

        Raises:
            ClaimLostError: the row belongs to another claim.
            TurnTakenError: the turn belongs to an identical item.
            LedgerError: the database refuses it.
        """
        if not self._asked:
            transaction = _Transaction(self)
            self.database.submit(transaction).add_done_callback(transaction.on_done)
        asked = _Asked(number, change, ended)
        self._asked.append(asked)
        return await asyncio.shield(asked.future)

    def taken(self) -> list[_Asked]:
        """Return what was asked for since the last call."""
        asked, self._asked = self._asked, []
        return asked

    async def claim(
        self,
        ticket: Ticket,
        batch: BatchRow,
        *,
        worker: int,
        running: Sequence[int],
        limit: int,
        concurrency: int | None,
    ) -> list[Claimed] | None:
        """Claim items of a ticket that no worker owns; those beyond the limit get a ticket of their own.

        Args:
            ticket: The items.
            batch: The ticket's batch.
            worker: The worker that claims them.
            running: The items that it runs.
            limit: How many it claims at most.
            concurrency: How many items all workers of the batch's service run at most; `None` for any number.

        Returns:
            The items; `None` if the workers run as many as they may, and the ticket must be tried again.

        Raises:
            ClaimLostError: the worker was found dead. What it claimed now would never be released.
        """

        async def work(connection: Connection) -> list[Claimed] | None:
            registered = await connection.execute("SELECT FROM nairi_workers WHERE id = %s FOR SHARE", (worker,))
            if await registered.fetchone() is None:
                raise ClaimLostError
            free = limit
            if concurrency is not None:
                # One worker at a time counts and claims.
                locked = "SELECT pg_advisory_xact_lock(%s, hashtext(%s))"
                await connection.execute(locked, (SLOT_LOCKS, batch.base_url))
                counted = await connection.execute(_RUNNING, (batch.base_url, worker, list(running)))
                free = min(limit, concurrency - (await counted.fetchone() or (0,))[0])
            if free < 1:
                return None
            values = (ticket.first, ticket.last, ticket.batch, worker, list(running), free + 1)
            found = await (await connection.execute(_CLAIM, values)).fetchall()
            taken = [(rows.take(_row(values), worker), values) for values in found[:free]]
            numbers, claims = [row.number for row, _ in taken], [row.claim for row, _ in taken]
            query = (
                "UPDATE nairi_items SET owner = %s, claim = new.claim FROM unnest(%s::bigint[], %s::integer[])"
                " AS new(number, claim) WHERE nairi_items.number = new.number RETURNING nairi_items.number, parked"
            )
            parked: dict[int, int] = dict(await (await connection.execute(query, (worker, numbers, claims))).fetchall())
            if len(found) > free:
                rest = Ticket(ticket.batch, found[free][0], ticket.last)
                await self._queue.add(connection, [rest], is_urgent=True)
            return [
                Claimed(_entry(row, values, batch.agent_id), rows.claim_of(row), parked[row.number])
                for row, values in taken
            ]

        return await self.database.run(work)

    async def hand_on(self, number: int, claim: Claim, batch: int, delay: float) -> None:
        """Release an item for another worker, or for a later time; harmless if the claim was lost."""

        async def work(connection: Connection) -> None:
            found = await (await connection.execute(_READ, ([number],))).fetchone()
            if found is None:
                return
            try:
                row = rows.hand_on(_row(found), claim)
            except ClaimLostError:
                return
            query = (
                "UPDATE nairi_items SET owner = NULL, claim = %s, is_in_doubt = %s, parked = parked + %s"
                " WHERE number = %s"
            )
            await connection.execute(query, (row.claim, row.is_in_doubt, int(delay > 0), number))
            await self._queue.add(connection, [Ticket(batch, number, number)], delay=delay)

        await self.database.run(work)

    async def sweep(self, myself: int) -> tuple[int, int]:
        """Release what dead workers own; return how many workers were found dead, and how many items they had.

        A worker lives as long as its session with the database, which holds a lock.
        """

        async def work(connection: Connection) -> tuple[int, int]:
            locked = "SELECT pg_try_advisory_xact_lock(%s, %s)"
            mine = await (await connection.execute(locked, (LOCKS, SWEEP_LOCK))).fetchone()
            if not (mine and mine[0]):
                return 0, 0
            # Their rows are locked before their items are read: a claim that is under way is waited for, and no other
            # begins. What is owned by a worker without a row was left by someone who deleted it.
            query = "SELECT id FROM nairi_workers WHERE id <> %s AND pg_try_advisory_xact_lock(%s, id) FOR UPDATE"
            dead = [id_ for (id_,) in await (await connection.execute(query, (myself, LOCKS))).fetchall()]
            query = (
                "SELECT DISTINCT owner FROM nairi_items WHERE owner IS NOT NULL"
                " AND NOT owner IN (SELECT id FROM nairi_workers)"
            )
            dead += [id_ for (id_,) in await (await connection.execute(query)).fetchall()]
            if not dead:
                return 0, 0
            owned = await (await connection.execute(_OWNED, (dead,))).fetchall()
            await _write(connection, [(rows.release(_row(values)), values[9], None) for values in owned])
            by_batch: dict[int, list[int]] = {}
            for values in owned:
                by_batch.setdefault(values[10], []).append(values[0])
            for batch, numbers in by_batch.items():
                # What ran before has waited long enough: few tickets, claimed as far as there is capacity.
                await self._queue.add(connection, tickets(batch, numbers, _TAKEN_OVER), is_urgent=True)
            await connection.execute("DELETE FROM nairi_workers WHERE id = ANY(%s)", (dead,))
            return len(dead), len(owned)

        return await self.database.run(work)


class _Transaction:
    """One transaction with all changes that were asked for before it began."""

    def __init__(self, table: ItemTable) -> None:
        self._table = table
        self._asked: list[_Asked] | None = None
        self._is_split = False

    async def __call__(self, connection: Connection) -> list[object]:
        """Make the changes; return the result or the error of each."""
        if self._asked is None:
            self._asked = self._table.taken()
        if self._is_split:
            return [result for asked in self._asked for result in await self._make_one(connection, asked)]
        try:
            return await self._make(connection, self._asked)
        except sql.UniqueViolation:
            # One of the turns belongs to an identical item. This transaction is over; the next one finds out, one by
            # one, which of them it is. A savepoint in every transaction would cost two statements more.
            self._is_split = True
            raise

    def on_done(self, done: asyncio.Future[list[object]]) -> None:
        """Hand the results to those that asked."""
        asked = self._table.taken() if self._asked is None else self._asked
        error = None if done.cancelled() else done.exception()
        results: list[object] = [error or LookupError()] * len(asked) if error else list(done.result())
        for one, result in zip(asked, results, strict=True):
            if one.future.done():
                continue
            if isinstance(result, BaseException):
                one.future.set_exception(result)
                one.future.exception()
            else:
                one.future.set_result(int(str(result)))

    async def _make_one(self, connection: Connection, asked: _Asked) -> list[object]:
        try:
            async with connection.transaction():
                return await self._make(connection, [asked])
        except sql.UniqueViolation:
            return [TurnTakenError()]

    async def _make(self, connection: Connection, asked: Sequence[_Asked]) -> list[object]:
        numbers = sorted({one.number for one in asked})
        found = await (await connection.execute(_READ, (numbers,))).fetchall()
        table = {values[0]: _row(values) for values in found}
        sequences: dict[int, int | None] = {values[0]: values[9] for values in found}
        batches = {values[0]: values[10] for values in found}
        ended: dict[int, Ended] = {}
        results: list[object] = []
        before = dict(table)
        for one in asked:
            try:
                # A row that is gone was deleted with its batch.
                row = table[one.number]
                table[one.number] = one.change(row, found[0][11])
                if one.ended is not None and row.state not in rows.ENDED:
                    ended[one.number] = one.ended
            except LookupError:
                results.append(ClaimLostError())
            except (ClaimLostError, AssertionError) as error:
                results.append(error)
            else:
                results.append(one.number)
        for batch in sorted({batches[number] for number in ended}):
            of_batch = [number for number in ended if batches[number] == batch]
            await _end(connection, batch, [(number, ended[number]) for number in of_batch], sequences)
        changed = [row for number, row in table.items() if row != before[number]]
        documents = {number: one.document for number, one in ended.items()}
        await _write(connection, [(row, sequences[row.number], documents.get(row.number)) for row in changed])
        return [sequences[result] or 0 if isinstance(result, int) else result for result in results]


async def _end(
    connection: Connection, batch: int, ended: Sequence[tuple[int, Ended]], sequences: dict[int, int | None]
) -> None:
    """Count items of a batch as ended. The batch's row is locked until the commit, so outcomes come in their order."""
    done = sum(one.is_done for _, one in ended)
    cost = sum((_countable(one.cost) for _, one in ended), Decimal(0))
    query = (
        "UPDATE nairi_batches SET done = done + %s, failed = failed + %s, cost_usd = cost_usd + %s,"
        " last_sequence = last_sequence + %s WHERE number = %s RETURNING last_sequence"
    )
    values = (done, len(ended) - done, cost, len(ended), batch)
    found = await (await connection.execute(query, values)).fetchone()
    assert found is not None  # noqa: S101 - its items are locked
    first = found[0] - len(ended) + 1
    sequences.update({number: first + place for place, (number, _) in enumerate(ended)})


async def _write(connection: Connection, changed: Sequence[tuple[Row, int | None, str | None]]) -> None:
    if not changed:
        return
    table = [row for row, _, _ in changed]
    columns = (
        [row.number for row in table],
        [row.state for row in table],
        [row.owner for row in table],
        [row.claim for row in table],
        [row.is_in_doubt for row in table],
        [row.lost_at for row in table],
        [row.sent_at for row in table],
        [row.job_id for row in table],
        [row.message_id for row in table],
        [sequence for _, sequence, _ in changed],
        [document for _, _, document in changed],
    )
    await connection.execute(_WRITE, columns)


def _row(values: Sequence[Any]) -> Row:
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


def _entry(row: Row, values: Sequence[Any], agent_id: str) -> Entry:
    turn = None
    if row.state == "running" and row.job_id is not None and row.message_id is not None:
        turn = Turn(row.job_id, row.message_id, agent_id=agent_id)
    id_, place, prompt = values[11:14]
    return Entry(number=row.number, id=id_, place=place, prompt=prompt, state=row.state, sent_at=row.sent_at, turn=turn)


def _countable(cost: Decimal | None) -> Decimal:
    is_sane = cost is not None and cost.is_finite() and -_COST_DIGITS < cost.adjusted() < _COST_DIGITS
    return cost if is_sane and cost is not None else Decimal(0)
