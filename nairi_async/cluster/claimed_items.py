"""The items that one worker runs for one batch, as running them asks for it; see `batch.item_store.ItemStore`."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from nairi_async._core.closing import UndisturbedTask
from nairi_async._nairi.results import Reply
from nairi_async.batch.documents import encode_result
from nairi_async.cluster import row as rows
from nairi_async.cluster.stored_rows import NO_ONE, Ended

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from nairi_async._core.time_scales import Timestamps
    from nairi_async.batch.item_state import Entry
    from nairi_async.cluster.database import Connection
    from nairi_async.cluster.items import ItemTable
    from nairi_async.cluster.liveness import Liveness
    from nairi_async.cluster.row import Claim
    from nairi_async.errors import NairiError
    from nairi_async.models import Turn

# How many turns to look up, to find out whether this service and key are those that the batch began with.
_WITNESSES: Final = 3
# Seconds before the sending of a lost prompt, from which the conversations of others are needed.
_BEFORE: Final = 900.0
# Seconds by which the moment of a commit may be behind the time that it stores.
_OVERLAP: Final = 120.0
# Seconds for which prompts of other workers are waited for that are on their way, and between two looks.
_LONGEST_SENDING: Final = 45.0
_INTERVAL: Final = 0.2
# Costs with more digits before or behind the point are not summed: no agent costs that much, or that little.
_COST_DIGITS: Final = 12


class AgentJobs:
    """The conversations that the items of an agent have become, over all workers, by job id."""

    def __init__(self, table: ItemTable, agent_id: str, base_url: str) -> None:
        self._table = table
        self._of = (agent_id, base_url)
        self._ids: set[str] = set()
        self._since: float | None = None
        """Conversations that were stored since this time of the database are known, until `_until`."""
        self._until = 0.0

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._ids

    async def load(self, age: float) -> None:
        """Learn the conversations that were stored in the last seconds."""
        since = await self._now() - age
        if self._since is None or since < self._since:
            self._since, self._until = since, since
        await self._load()

    async def settle(self) -> None:
        """Wait until the prompts that other workers are sending now are stored or in doubt, and learn of them."""
        sending = await self._sending(None)
        loop = asyncio.get_running_loop()
        until = loop.time() + _LONGEST_SENDING
        while sending and loop.time() < until:
            await asyncio.sleep(_INTERVAL)
            sending &= await self._sending([number for number, _ in sending])
        await self._load()

    async def _sending(self, numbers: list[int] | None) -> set[tuple[int, int]]:
        async def read(connection: Connection) -> set[tuple[int, int]]:
            query = (
                "SELECT i.number, i.claim FROM nairi_items i JOIN nairi_batches b ON b.number = i.batch"
                " WHERE b.agent_id = %s AND b.base_url = %s AND i.owner IS NOT NULL AND i.state = 'sending'"
                " AND NOT i.is_in_doubt"
                " AND NOT i.number = ANY(%s) AND (%s::bigint[] IS NULL OR i.number = ANY(%s))"
            )
            running = list(self._table.changes.running)
            found = await connection.execute(query, (*self._of, running, numbers, numbers))
            return {(number, claim) for number, claim in await found.fetchall()}

        return await self._table.database.run(read)

    async def _load(self) -> None:
        async def read(connection: Connection) -> tuple[list[str], float]:
            query = (
                "SELECT t.job_id FROM nairi_turns t JOIN nairi_batches b ON b.number = t.batch"
                " WHERE t.recorded_at >= to_timestamp(%s) AND b.agent_id = %s AND b.base_url = %s"
            )
            now = await _read_clock(connection)
            found = await connection.execute(query, (self._until - _OVERLAP, *self._of))
            return [job_id for (job_id,) in await found.fetchall()], now

        ids, self._until = await self._table.database.run(read)
        self._ids.update(ids)

    async def _now(self) -> float:
        return await self._table.database.run(_read_clock)


async def _read_clock(connection: Connection) -> float:
    """Return the time of the database, in seconds since the epoch."""
    found = await (await connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8")).fetchone()
    assert found is not None  # noqa: S101 - a clock has a time
    return float(found[0])


class ClaimedItems:
    """The items of one batch that one worker has claimed. Every change states the claim, and is refused without it."""

    def __init__(self, table: ItemTable, liveness: Liveness, jobs: AgentJobs, timestamps: Timestamps) -> None:
        self._table, self._liveness, self._timestamps = table, liveness, timestamps
        self._clock = timestamps.clock
        self._changes = table.changes
        self.known_jobs = jobs

    async def mark_sending(self, entry: Entry) -> None:
        """Store that the prompt is about to leave."""
        claim, sent_at = self._claim(entry), entry.sent_at or 0.0
        await self._changes.change(entry.number, lambda row: rows.mark_sending(row, claim, sent_at))

    async def mark_unsent(self, entry: Entry) -> None:
        """Store that the prompt provably does not run."""
        claim = self._claim(entry)
        await self._changes.change(entry.number, lambda row: rows.mark_unsent(row, claim))

    async def mark_unusable(self, entry: Entry) -> None:
        """Do nothing: an item that cannot be sent ends with its error."""

    def mark_running(self, entry: Entry, turn: Turn) -> UndisturbedTask[None]:
        """Store the turn that the prompt became."""
        claim, job_id, message_id = self._claim(entry), turn.job_id, turn.message_id
        change = self._changes.change(entry.number, lambda row: rows.mark_running(row, claim, job_id, message_id))
        return UndisturbedTask(change)

    async def finish(self, entry: Entry, turn: Turn | None, result: Reply | NairiError, cost: Decimal | None) -> int:
        """Store an item's end, and return its place in the order of outcomes."""
        claim, is_done = self._claim(entry), isinstance(result, Reply)
        ended = Ended(encode_result(turn, result), is_done, _countable(cost))
        return await self._changes.end(entry.number, lambda row: rows.mark_ended(row, claim, is_done=is_done), ended)

    async def count_equal_sending(self, entry: Entry) -> int:
        """Return how many items with this prompt are `sending`, including this one."""

        async def read(connection: Connection) -> int:
            query = (
                "SELECT count(*) FROM nairi_items i JOIN nairi_prompts p ON p.number = i.number"
                " WHERE i.owner = ANY(ARRAY(SELECT id FROM nairi_workers UNION ALL SELECT %s))"
                " AND i.prompt_hash = hashtext(%s) AND p.prompt = %s AND i.state = 'sending'"
            )
            found = await (await connection.execute(query, (NO_ONE, entry.prompt, entry.prompt))).fetchone()
            return int(found[0]) if found else 0

        return await self._table.database.run(read)

    async def earlier_messages(self, excluding: Entry) -> list[str]:
        """Return user messages of some other items: the latest that became known."""

        async def read(connection: Connection) -> list[str]:
            query = (
                "SELECT i.message_id FROM nairi_turns t JOIN nairi_items i ON i.number = t.number"
                " WHERE t.batch = (SELECT batch FROM nairi_items WHERE number = %s) AND i.message_id IS NOT NULL"
                " AND i.number <> %s ORDER BY t.recorded_at DESC LIMIT %s"
            )
            found = await connection.execute(query, (excluding.number, excluding.number, _WITNESSES))
            return [message_id for (message_id,) in await found.fetchall()]

        return await self._table.database.run(read)

    @asynccontextmanager
    async def lookup(self, entry: Entry, sent_before: float) -> AsyncGenerator[float]:
        """Look up a prompt while no other worker looks up an identical one.

        It gives the time from which the settling time counts: when the latest of the identical prompts was lost.
        """
        claim = self._claim(entry)
        age = max(0.0, self._clock.monotonic() - sent_before)
        async with self._liveness.text_lock(await self._hash(entry.prompt)):
            await self._changes.change_dated(entry.number, lambda row, now: rows.mark_in_doubt(row, claim, now - age))

            async def read(connection: Connection) -> float:
                query = (
                    "SELECT extract(epoch FROM clock_timestamp())::float8 - max(i.lost_at) FROM nairi_items i"
                    " JOIN nairi_prompts p ON p.number = i.number"
                    " WHERE i.prompt_hash = hashtext(%s) AND p.prompt = %s AND i.lost_at IS NOT NULL"
                )
                found = await (await connection.execute(query, (entry.prompt, entry.prompt))).fetchone()
                return float(found[0] or 0.0) if found else 0.0

            age = await self._table.database.run(read)
            # The clock of the database is neither the service's nor this machine's: only ages can be compared.
            sent_ago = age
            if entry.sent_at is not None:
                sent_ago = self._timestamps.latest() - entry.sent_at
                # It was lost after it was sent, also if the clock of the database was set forward since.
                age = min(age, self._timestamps.seconds_since(entry.sent_at))
            await self.known_jobs.load(max(age, sent_ago) + _BEFORE)
            yield self._clock.monotonic() - age

    def _claim(self, entry: Entry) -> Claim:
        return rows.claim_of(self._changes.running[entry.number])

    async def _hash(self, text: str) -> int:
        async def read(connection: Connection) -> int:
            found = await (await connection.execute("SELECT hashtext(%s)", (text,))).fetchone()
            assert found is not None  # noqa: S101 - a function has a value
            return int(found[0])

        return await self._table.database.run(read)


def _countable(cost: Decimal | None) -> Decimal:
    is_sane = cost is not None and cost.is_finite() and -_COST_DIGITS < cost.adjusted() < _COST_DIGITS
    return cost if is_sane and cost is not None else Decimal(0)
