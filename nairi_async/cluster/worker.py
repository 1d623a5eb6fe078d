"""One worker's life: it claims items as it has capacity, runs them, and hands on what it cannot end.

A life ends when the worker is stopped, or when its lock is lost: the others then take it for dead, so it lets go of
everything at once, and begins another life under another id.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, Final

from attrs import field

from nairi_async._core.closing import run_shielded
from nairi_async._core.records import define
from nairi_async._nairi.session_parts import parts_of
from nairi_async.batch.item_runner import BatchOptions, ItemRunner
from nairi_async.batch.lost_prompts import LostPrompts
from nairi_async.batch.stop_switch import StopSwitch
from nairi_async.cluster.batches import read_batch
from nairi_async.cluster.claimed_items import AgentJobs, ClaimedItems
from nairi_async.cluster.database import PATIENCE, PoolerError
from nairi_async.cluster.items import ItemTable
from nairi_async.cluster.liveness import LEASE, Liveness
from nairi_async.cluster.pace import Gate, SharedRate
from nairi_async.cluster.row import Claim, ClaimLostError, Row, claim_of
from nairi_async.cluster.tickets import CHUNK
from nairi_async.errors import (
    AgentNotFoundError,
    InvalidArgumentError,
    LedgerError,
    NairiError,
    OutcomeUnknownError,
    WatchTimeoutError,
)

if TYPE_CHECKING:
    from nairi_async._nairi.session import NairiSession
    from nairi_async.batch.item_outcome import ItemOutcome
    from nairi_async.batch.item_state import Entry
    from nairi_async.cluster.batches import BatchRow
    from nairi_async.cluster.database import Database
    from nairi_async.cluster.items import Claimed
    from nairi_async.cluster.tickets import Ticket, TicketQueue

log: logging.Logger = logging.getLogger("nairi_async.cluster")

# Seconds between sweeps for dead workers, and for tickets of dead workers.
_SWEEP_INTERVAL: Final = 1.0
_SWEEPS_PER_RETRY: Final = 5
# Seconds between attempts to begin a further life.
_RETRY_INTERVAL: Final = 1.0
# Seconds in which capacity becomes free that is filled together.
_GATHERING: Final = 0.1
# Seconds for which the rest of a ticket is kept, if capacity may become free: a ticket costs as much as an item.
_KEEPING: Final = 1.0
# Seconds after which all workers' items are counted again, where they run as many as they may.
_SLOT_INTERVAL: Final = 0.5
# Seconds for which an item is put off that could not be ended now: first, and at most.
_FIRST_DELAY: Final = 5.0
_LONGEST_DELAY: Final = 900.0


class LifeOverError(Exception):
    """The worker's lock was lost: it goes on with another life."""


@define(eq=False)
class Worker:
    """What the lives of one worker have in common."""

    database: Database
    queue: TicketQueue
    session: NairiSession
    limit: int
    per_second: float | None
    concurrency: int | None = None
    switch: StopSwitch = field(factory=StopSwitch)
    stopping: asyncio.Event = field(factory=asyncio.Event)
    batches: dict[int, BatchRow] = field(factory=dict)
    _lost_at: float = field(factory=time.monotonic)
    """When the last life was lost, or the first one was to begin."""
    handed_on: int = 0
    """Items that were handed on when the worker was stopped."""

    def stop(self) -> None:
        """Claim and send nothing more; prompts being sent are recorded, and the rest is handed on."""
        self.stopping.set()
        self.switch.stop()

    async def run(self) -> None:
        """Live until stopped.

        Raises:
            LedgerError: the database cannot be used.
            NairiError: the service refuses everything, such as a wrong key.
        """
        while not self.stopping.is_set():
            try:
                await self._live()
            except LifeOverError:
                log.warning("the connection that shows that this worker lives was lost: beginning anew")
                self._lost_at = time.monotonic()
            except LedgerError as error:
                # A database that starts again, or fails over, is waited for: it was there when the cluster was opened.
                if isinstance(error, PoolerError) or time.monotonic() - self._lost_at > PATIENCE:
                    raise
                log.info("%s; trying again", error)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_RETRY_INTERVAL):
                        await self.stopping.wait()

    async def _live(self) -> None:
        parts = parts_of(self.session)
        base_url = parts.base_url
        async with AsyncExitStack() as stack:
            liveness = await Liveness.open(self.database, base_url, self.limit, self.per_second)
            stack.push_async_callback(liveness.aclose)
            pace = None
            if self.per_second is not None:
                # A connection of its own: tokens need not wait for the disk.
                tokens = await stack.enter_async_context(type(self.database)(self.database.address, is_durable=False))
                pace = SharedRate(tokens, base_url, self.per_second)
                await stack.enter_async_context(pace)
            life = _Life(self, liveness, ItemTable(self.database, self.queue))
            gate = parts.sender.context.executor.gate
            gate.wait = Gate(parts.clock, liveness, pace).wait
            try:
                await life.run()
            finally:
                gate.wait = None


@define(eq=False)
class _Life:
    """One life of a worker."""

    worker: Worker
    liveness: Liveness
    table: ItemTable
    _tasks: set[asyncio.Task[None]] = field(factory=set)
    _has_capacity: asyncio.Event = field(factory=asyncio.Event)
    _has_ended: asyncio.Event = field(factory=asyncio.Event)
    """Set when an item has ended here, since the latest claim."""
    _is_ending: bool = False
    _failure: asyncio.Future[None] = field(factory=lambda: asyncio.get_running_loop().create_future())
    _runners: dict[int, ItemRunner] = field(factory=dict)
    _jobs: dict[str, AgentJobs] = field(factory=dict)

    async def run(self) -> None:
        """Work until stopped, or until the lock is lost.

        Raises:
            LifeOverError: the lock is lost.
            NairiError: nothing can be done any more.
        """
        worker = self.worker
        self._has_capacity.set()
        background = [
            asyncio.create_task(worker.queue.work(self._claim), name="nairi-queue"),
            asyncio.create_task(self._sweep(), name="nairi-sweeper"),
        ]
        stopping = asyncio.create_task(worker.stopping.wait())
        try:
            waited: set[asyncio.Future[Any]] = {self.liveness.lost, self._failure, stopping, *background}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            await run_shielded(self._end(background))
        if self._failure.done():
            self._failure.result()
        if self.liveness.lost.done():
            raise LifeOverError
        for task in background:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _end(self, background: list[asyncio.Task[None]]) -> None:
        """Let go of everything: record the prompts being sent and hand on the rest, if the lock is still held."""
        self._is_ending = True
        if self.liveness.lost.done():
            for task in self._tasks:
                task.cancel()
        else:
            self.worker.switch.stop()
        # A ticket that waits for capacity ends by this.
        self._has_capacity.set()
        self._has_ended.set()
        for task in background:
            task.cancel()
        await asyncio.wait(background)
        lost = self.liveness.lost
        while self._tasks:
            waited: set[asyncio.Future[Any]] = {*self._tasks} if lost.done() else {*self._tasks, lost}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                for task in self._tasks:
                    task.cancel()
        if not self.worker.stopping.is_set():
            # The next life starts with a switch that is on.
            self.worker.switch = StopSwitch()

    async def _claim(self, ticket: Ticket) -> None:
        """Claim a ticket's items as there is capacity for them, and return when there is capacity again.

        Until then the queue gives this worker no further ticket. What this one leaves over, where it would be kept from
        other workers for long, gets a ticket of its own.

        Raises:
            LifeOverError, ClaimLostError: the ticket goes back to the queue.
        """
        await self._has_capacity.wait()
        rest: Ticket | None = ticket
        while rest is not None:
            if self._is_ending or self.worker.stopping.is_set() or self.liveness.lost.done():
                # The ticket goes back to the queue.
                raise LifeOverError
            batch = await self._batch(rest.batch)
            if batch is None:
                return
            rest = await self._claim_some(rest, batch)
            if rest is not None and not await self._is_kept(rest):
                await self.table.leave(rest)
                break
        await self._has_capacity.wait()

    async def _claim_some(self, ticket: Ticket, batch: BatchRow) -> Ticket | None:
        """Claim items of a ticket, and return what is left over of it."""
        if self.worker.limit - len(self.running) < CHUNK:
            # More may end in this moment: claiming one by one costs more.
            await asyncio.sleep(_GATHERING)
        claimed, rest = await self._claim_free(ticket, batch)
        for one in claimed:
            self.running[one.row.number] = one.row
            run = self._run(one.entry, claim_of(one.row), batch, is_new=one.is_new, parked=one.parked)
            task = asyncio.create_task(run)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._note_capacity()
        return rest

    async def _is_kept(self, rest: Ticket) -> bool:
        """Return whether there is capacity for what is left over of a ticket, now or in a moment."""
        if rest.last - rest.first < self.worker.limit:
            with suppress(TimeoutError):
                async with asyncio.timeout(_KEEPING):
                    await self._has_capacity.wait()
                return True
        return False

    async def _claim_free(self, ticket: Ticket, batch: BatchRow) -> tuple[list[Claimed], Ticket | None]:
        """Claim items once all workers together run less than they may."""
        runner = await self._runner(batch)
        while True:
            free = self.worker.limit - len(self.running)
            self._has_ended.clear()
            claimed = await self.table.claim(
                ticket,
                batch,
                worker=self.liveness.worker,
                sent_at=runner.now(),
                limit=free,
                concurrency=self.worker.concurrency,
            )
            if claimed is not None:
                return claimed
            # What ends here makes way at once, what ends elsewhere is seen a little later.
            with suppress(TimeoutError):
                async with asyncio.timeout(_SLOT_INTERVAL):
                    await self._has_ended.wait()
            if self._is_ending or self.worker.stopping.is_set() or self.liveness.lost.done():
                raise LifeOverError

    @property
    def running(self) -> dict[int, Row]:
        """The rows of the items that run, by number."""
        return self.table.changes.running

    def _note_capacity(self) -> None:
        if len(self.running) < self.worker.limit:
            self._has_capacity.set()
        else:
            self._has_capacity.clear()

    async def _run(self, entry: Entry, claim: Claim, batch: BatchRow, *, is_new: bool, parked: int) -> None:
        """Run one item; in every case it is ended, handed on, or owned by another worker."""
        number = entry.number
        try:
            runner = await self._runner(batch)
            try:
                outcome = await runner.run(entry, is_new=is_new, sent_before=runner.clock.monotonic())
            except AgentNotFoundError as error:
                # It concerns this batch, and not the worker.
                await runner.store.finish(entry, None, error, None)
            else:
                delay = await self._put_off(runner, outcome, parked)
                if delay is not None:
                    await self.table.hand_on(number, claim, batch.number, delay)
        except ClaimLostError:
            log.info("an item was taken over by another worker")
        except asyncio.CancelledError:
            if not self.liveness.lost.done():
                self.worker.handed_on += 1
                with suppress(LedgerError):
                    await run_shielded(self.table.hand_on(number, claim, batch.number, 0.0))
        except Exception as error:  # noqa: BLE001 - raised by `run`
            if not self._failure.done():
                self._failure.set_exception(error)
            # A database that does not answer is not asked again for each item: the next sweep releases them.
            if not isinstance(error, LedgerError):
                with suppress(LedgerError):
                    await self.table.hand_on(number, claim, batch.number, 0.0)
        finally:
            del self.running[number]
            self._has_ended.set()
            self._note_capacity()

    async def _put_off(self, runner: ItemRunner, outcome: ItemOutcome, parked: int) -> float | None:
        """Return the seconds for which an item is put off, if a run could not end it."""
        if outcome.is_final:
            return None
        result = outcome.result
        assert isinstance(result, NairiError)  # noqa: S101 - a reply is final
        if isinstance(result, InvalidArgumentError):
            await runner.store.finish(outcome.entry, None, result, None)
            return None
        if isinstance(result, WatchTimeoutError):
            return 0.0
        delay = min(_FIRST_DELAY * 2.0**parked, _LONGEST_DELAY)
        kind = "is in doubt" if isinstance(result, OutcomeUnknownError) else "could not be ended"
        log.warning("item %r %s, and is tried again in %.0f s: %s", outcome.entry.id, kind, delay, result)
        return delay

    async def _runner(self, batch: BatchRow) -> ItemRunner:
        runner = self._runners.get(batch.number)
        if runner is None:
            session = self.worker.session
            # A lost prompt can then be looked up by the service's time, even if this machine's clock is set meanwhile.
            await parts_of(session).sender.observe_server_time(batch.agent_id)
            if (runner := self._runners.get(batch.number)) is None:
                runner = self._runners[batch.number] = self._new_runner(session, batch)
        return runner

    def _new_runner(self, session: NairiSession, batch: BatchRow) -> ItemRunner:
        clock = parts_of(session).clock
        jobs = self._jobs.get(batch.agent_id)
        if jobs is None:
            jobs = self._jobs[batch.agent_id] = AgentJobs(self.table, batch.agent_id, batch.base_url)
        store = ClaimedItems(self.table, self.liveness, jobs, parts_of(session).sender.timestamps)
        return ItemRunner(
            session=session,
            clock=clock,
            options=BatchOptions(
                agent_id=batch.agent_id,
                ask_mode=batch.ask_mode,
                attachments_from=None,
                timeout=batch.timeout,
                on_unknown=batch.on_unknown,
            ),
            store=store,
            # A prompt may have left as late as the lease of its worker allows.
            lost_prompts=LostPrompts(session, batch.agent_id, store, batch.settle + LEASE),
            switch=self.worker.switch,
        )

    async def _batch(self, number: int) -> BatchRow | None:
        known = self.worker.batches
        if number not in known:
            found = await self.worker.database.run(lambda connection: read_batch(connection, number))
            if found is None:
                return None
            known[number] = found
        return known[number]

    async def _sweep(self) -> None:
        sweeps = 0
        while True:
            workers, items = await self.table.sweep(self.liveness.worker)
            if workers:
                log.warning("%d workers are dead: their %d items go on", workers, items)
            if sweeps % _SWEEPS_PER_RETRY == 0:
                await self.worker.queue.retry_stalled()
            sweeps += 1
            await asyncio.sleep(_SWEEP_INTERVAL)
