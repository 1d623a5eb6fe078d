"""The queue, which Procrastinate carries: tickets, each of which says "some items of this batch may be claimed".

A ticket is no truth about an item. It may be run twice, or after its items have ended: a worker claims what no one owns
yet. What must hold is only this: for each open item without an owner there is a ticket, so it is added in the same
transaction in which the item is stored, or released.

https://procrastinate.readthedocs.io
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import psycopg

from nairi_async._core.closing import run_shielded
from nairi_async._core.records import frozen
from nairi_async.cluster.address import FAULTS, SESSION_SETTINGS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from procrastinate.job_context import JobContext

    from nairi_async.cluster.address import Address

log: logging.Logger = logging.getLogger("nairi_async.cluster")

_QUIET: Final = logging.NullHandler()
CHUNK: Final = 50
"""Items of a ticket at most: the queue's own cost is shared by so many."""
_FEW: Final = 20
# Tickets of a small batch at least, for its workers to share.
_TICKETS: Final = 10
_TASK: Final = "nairi_async.claim"
# Seconds between polls of an empty queue. Notifications would save half of that, and cost a connection that can hang.
_POLL_INTERVAL: Final = 0.5
# A ticket whose worker has shown no sign of life for so long is run again; if it lives, this does no harm.
_HEARTBEAT: Final = 2.0
STALLED_AFTER: Final = 8.0
# Seconds for the worker of the queue to end, before it is left alone: its connection may be dead.
_CLOSING: Final = 5.0
_RESTART_WAIT: Final = 1.0
# Workers that are gone are forgotten after a day. Only memory depends on it.
_FORGET_AFTER: Final = 86400.0


@frozen
class Ticket:
    """Items of a batch that may be claimed, by their numbers."""

    batch: int
    first: int
    last: int


def tickets(batch: int, numbers: Sequence[int], size: int | None = None) -> list[Ticket]:
    """Return the tickets for items, in the order of their numbers, with so many items each."""
    if size is None:
        size = min(CHUNK, max(_FEW, len(numbers) // _TICKETS))
    chunks = [numbers[start : start + size] for start in range(0, len(numbers), size)]
    return [Ticket(batch, chunk[0], chunk[-1]) for chunk in chunks]


class TicketQueue:
    """The tickets of one service."""

    def __init__(self, address: Address, base_url: str) -> None:
        # Not with this module: it starts a process when it is imported, to ask for the width of the machine's words.
        import procrastinate  # noqa: PLC0415
        from procrastinate.exceptions import ProcrastinateException  # noqa: PLC0415

        # It logs each lost connection with two tracebacks, which Python prints where a program configures no logging.
        logging.getLogger("procrastinate").addHandler(_QUIET)
        self._address = address
        self._errors, self._faults = ProcrastinateException, (ProcrastinateException, *FAULTS)
        self._queue = base_url[-128:]
        # One connection: a pool that grows while it is closed would leave the new one open.
        connector = procrastinate.PsycopgConnector(
            conninfo=address.conninfo, min_size=1, max_size=1, timeout=10.0, configure=_configure
        )
        self._app = procrastinate.App(connector=connector)
        # A ticket whose end could not be stored would stay with this worker of the queue, which must therefore end.
        self._is_cut = asyncio.Event()
        jobs: Any = self._app.job_manager
        jobs.finish_job, jobs.retry_job = self._noticed(jobs.finish_job), self._noticed(jobs.retry_job)
        self._claim: Callable[[Ticket], Awaitable[None]] | None = None
        task = self._app.task(name=_TASK, retry=procrastinate.RetryStrategy(wait=1), pass_context=True)
        task(self._run)

    async def add(
        self,
        connection: psycopg.AsyncConnection[Any],
        added: Sequence[Ticket],
        *,
        delay: float = 0.0,
        is_urgent: bool = False,
    ) -> None:
        """Add tickets in the caller's transaction.

        Raises:
            psycopg.Error: the database refuses it.
        """
        if not added:
            return
        options: dict[str, Any] = {"schedule_in": {"seconds": delay}} if delay else {}
        deferrer = self._app.configure_task(
            _TASK, queue=self._queue, connection=connection, priority=int(is_urgent), **options
        )
        jobs: list[Any] = [{"batch": one.batch, "first": one.first, "last": one.last} for one in added]
        try:
            await deferrer.batch_defer_async(*jobs)
        except self._errors as error:
            # What befalls a transaction is decided by the kind of the database's own error.
            if isinstance(error.__cause__, psycopg.Error):
                raise error.__cause__ from None
            raise

    async def work(self, claim: Callable[[Ticket], Awaitable[None]]) -> None:
        """Run tickets one after another until cancelled, also after the queue's connections were lost."""
        self._claim = claim
        while True:
            try:
                await self._work_once()
            except self._faults as error:
                cause = self._address.explained(error.__cause__ or error)
                log.warning("the queue cannot be used, and is tried again: %s", cause)
            await asyncio.sleep(_RESTART_WAIT)

    async def retry_stalled(self) -> None:
        """Run the tickets again whose worker has shown no sign of life."""
        with suppress(*self._faults):
            jobs = self._app.job_manager
            for job in await jobs.get_stalled_jobs(queue=self._queue, seconds_since_heartbeat=STALLED_AFTER):
                with suppress(*self._faults):
                    await jobs.retry_job(job)

    async def _work_once(self) -> None:
        # Closed also if its opening was cancelled: the tasks of a pool go on without it, and take no cancellation.
        try:
            await self._app.open_async()
            await self._work()
        finally:
            # A fault here must not take the place of a cancellation.
            with suppress(*self._faults):
                await run_shielded(self._app.close_async())

    async def _work(self) -> None:
        running = asyncio.create_task(
            self._app.run_worker_async(
                queues=[self._queue],
                concurrency=1,
                fetch_job_polling_interval=_POLL_INTERVAL,
                listen_notify=False,
                install_signal_handlers=False,
                delete_jobs="successful",
                update_heartbeat_interval=_HEARTBEAT,
                stalled_worker_timeout=_FORGET_AFTER,
            )
        )
        # Where the database is gone, it fails once more as it ends, when no one waits for it.
        running.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._is_cut.clear()
        cut = asyncio.create_task(self._is_cut.wait())
        try:
            await asyncio.wait((running, cut), return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
        finally:
            cut.cancel()
            running.cancel()
            await run_shielded(asyncio.wait((running,), timeout=_CLOSING))

    def _noticed(self, call: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        """Return a call of the queue's that does not raise, since the queue makes it in a task that none waits for."""

        async def run(*args: Any, **options: Any) -> None:
            try:
                await call(*args, **options)
            except self._faults:
                self._is_cut.set()

        return run

    async def _run(self, context: JobContext, batch: int, first: int, last: int) -> None:
        assert context.job.id is not None  # noqa: S101 - it was fetched
        assert self._claim is not None  # noqa: S101 - a worker runs
        await self._claim(Ticket(batch, first, last))


async def _configure(connection: psycopg.AsyncConnection[Any]) -> None:
    was_autocommit = connection.autocommit
    await connection.set_autocommit(True)
    await connection.execute(SESSION_SETTINGS)
    await connection.set_autocommit(was_autocommit)
