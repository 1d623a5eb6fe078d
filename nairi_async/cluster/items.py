"""The items in PostgreSQL: claimed, handed on and released in transactions; what each of it does is decided by `row`.

Rows are locked in the order of their numbers, and batches after rows, so that no two processes wait for each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, LiteralString

from nairi_async._core.records import frozen
from nairi_async.batch.item_state import Entry
from nairi_async.cluster import row as rows
from nairi_async.cluster.changes import ItemChanges
from nairi_async.cluster.row import Claim, ClaimLostError, Row
from nairi_async.cluster.schema import LOCKS, SLOT_LOCKS, SWEEP_LOCK
from nairi_async.cluster.stored_rows import COLUMNS, NO_ONE, read_locked, row_of, write
from nairi_async.cluster.tickets import Ticket, tickets
from nairi_async.models import Turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nairi_async.cluster.batches import BatchRow
    from nairi_async.cluster.database import Connection, Database
    from nairi_async.cluster.tickets import TicketQueue

_CLAIM: Final[LiteralString] = (
    f"SELECT {COLUMNS}, i.parked, p.id, p.place, p.prompt FROM nairi_items i"  # noqa: S608 - ours
    " JOIN nairi_prompts p ON p.number = i.number WHERE i.number BETWEEN %s AND %s AND i.batch = %s"
    " AND i.state IN ('unsent', 'sending', 'running')"
    # What this worker owns and does not run was claimed by a transaction whose commit was not heard of.
    " AND (i.owner IS NULL OR i.owner = -1 OR (i.owner = %s AND NOT i.number = ANY(%s)))"
    " ORDER BY i.number LIMIT %s FOR NO KEY UPDATE OF i"
)
# What this worker owns and does not run is about to be claimed again.
_RUNNING: Final[LiteralString] = (
    "SELECT count(*) FROM nairi_items WHERE owner IN (SELECT id FROM nairi_workers WHERE base_url = %s)"
    " AND (owner <> %s OR number = ANY(%s))"
)
_OWNED: Final[LiteralString] = (
    f"SELECT {COLUMNS} FROM nairi_items i WHERE owner = ANY(%s) ORDER BY number FOR NO KEY UPDATE"  # noqa: S608 - ours
)
# Items of one ticket that a dead worker leaves.
_TAKEN_OVER: Final = 500


@frozen
class Claimed:
    """An item that this worker runs from now on."""

    row: Row
    entry: Entry
    is_new: bool
    """Whether nothing of it had left before it was claimed."""
    parked: int
    """How often it was put off already."""


class ItemTable:
    """The items, as one worker has them.

    Attributes:
        changes: Those that it runs, and their changes.
    """

    def __init__(self, database: Database, queue: TicketQueue) -> None:
        self.database = database
        self.changes: ItemChanges = ItemChanges(database)
        self._queue = queue

    async def claim(
        self, ticket: Ticket, batch: BatchRow, *, worker: int, sent_at: float, limit: int, concurrency: int | None
    ) -> tuple[list[Claimed], Ticket | None] | None:
        """Claim items of a ticket that no worker owns. Prompts that have not left are about to leave from then on.

        Args:
            ticket: The items.
            batch: The ticket's batch.
            worker: The worker that claims them.
            sent_at: A time before their prompts leave.
            limit: How many it claims at most.
            concurrency: How many items all workers of the batch's service run at most; `None` for any number.

        Returns:
            The items, and those of the ticket that are beyond the limit; `None` if the workers run as many as they may,
            and the ticket must be tried again.

        Raises:
            ClaimLostError: the worker was found dead. What it claimed now would never be released.
        """
        running = list(self.changes.running)
        # Claims of an earlier try, whose commit was not heard of: nothing has left under them.
        tried: dict[int, tuple[Row, bool]] = {}

        async def work(connection: Connection) -> tuple[list[Claimed], Ticket | None] | None:
            registered = await connection.execute("SELECT FROM nairi_workers WHERE id = %s FOR SHARE", (worker,))
            if await registered.fetchone() is None:
                raise ClaimLostError
            free = limit
            if concurrency is not None:
                # One worker at a time counts and claims.
                locked = "SELECT pg_advisory_xact_lock(%s, hashtext(%s))"
                await connection.execute(locked, (SLOT_LOCKS, batch.base_url))
                counted = await connection.execute(_RUNNING, (batch.base_url, worker, running))
                free = min(limit, concurrency - (await counted.fetchone() or (0,))[0])
            if free < 1:
                return None
            wanted = (ticket.first, ticket.last, ticket.batch, worker, running, free + 1)
            found = await (await connection.execute(_CLAIM, wanted)).fetchall()
            claimed: list[Claimed] = []
            for values in found[:free]:
                row = row_of(values)
                taken, is_new = tried.get(row.number, (None, False))
                if taken is None or taken != row:
                    taken, is_new = rows.take(row, worker, sent_at), row.state == "unsent"
                    tried[row.number] = taken, is_new
                claimed.append(Claimed(taken, _entry(taken, values, batch.agent_id), is_new, values[10]))
            await write(connection, [one.row for one in claimed])
            rest = Ticket(ticket.batch, found[free][0], ticket.last) if len(found) > free else None
            return claimed, rest

        return await self.database.run(work)

    async def leave(self, rest: Ticket) -> None:
        """Let any worker claim what is left over of a ticket."""
        await self.database.run(lambda connection: self._queue.add(connection, [rest], is_urgent=True))

    async def hand_on(self, number: int, claim: Claim, batch: int, delay: float) -> None:
        """Release an item for another worker, or for a later time; harmless if the claim was lost."""

        async def work(connection: Connection) -> None:
            found = await read_locked(connection, number)
            if found is None:
                return
            try:
                row = rows.hand_on(found[0], claim)
            except ClaimLostError:
                return
            await write(connection, [row])
            if delay:
                await connection.execute("UPDATE nairi_items SET parked = parked + 1 WHERE number = %s", (number,))
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
                "SELECT DISTINCT owner FROM nairi_items WHERE owner IS NOT NULL AND owner <> %s"
                " AND NOT owner IN (SELECT id FROM nairi_workers)"
            )
            dead += [id_ for (id_,) in await (await connection.execute(query, (NO_ONE,))).fetchall()]
            if not dead:
                return 0, 0
            owned = await (await connection.execute(_OWNED, (dead,))).fetchall()
            await write(connection, [rows.release(row_of(values)) for values in owned])
            by_batch: dict[int, list[int]] = {}
            for values in owned:
                by_batch.setdefault(values[9], []).append(values[0])
            for batch, numbers in by_batch.items():
                # What ran before has waited long enough: few tickets, claimed as far as there is capacity.
                await self._queue.add(connection, tickets(batch, numbers, _TAKEN_OVER), is_urgent=True)
            await connection.execute("DELETE FROM nairi_workers WHERE id = ANY(%s)", (dead,))
            return len(dead), len(owned)

        return await self.database.run(work)


def _entry(row: Row, values: Sequence[Any], agent_id: str) -> Entry:
    turn = None
    if row.state == "running" and row.job_id is not None and row.message_id is not None:
        turn = Turn(row.job_id, row.message_id, agent_id=agent_id)
    id_, place, prompt = values[11:14]
    return Entry(number=row.number, id=id_, place=place, prompt=prompt, state=row.state, sent_at=row.sent_at, turn=turn)
