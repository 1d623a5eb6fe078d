"""`Cluster`: batches that any number of processes and machines work on, over one PostgreSQL database."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from nairi_async._core import checks
from nairi_async._core.address import base_url as checked_base_url
from nairi_async._core.checks import DEFAULT_TIMEOUT
from nairi_async._core.closing import run_shielded, undisturbed
from nairi_async._core.concealed import Concealed
from nairi_async._core.fan_out import ItemReader
from nairi_async._nairi.delivery.search_window import SETTLING_TIME
from nairi_async._nairi.session import API_PREFIX, API_URL, NairiSession
from nairi_async._nairi.session_parts import parts_of
from nairi_async.cluster.address import Address
from nairi_async.cluster.batches import (
    BatchRow,
    Keys,
    add_items,
    begin_batch,
    delete_batch,
    find_batch,
    read_statuses,
    retry_failed,
)
from nairi_async.cluster.database import Database
from nairi_async.cluster.outcomes import Outcomes
from nairi_async.cluster.tickets import TicketQueue
from nairi_async.cluster.worker import Worker
from nairi_async.errors import InvalidArgumentError, LedgerError, SessionClosedError, UnknownBatchError
from nairi_async.models import Turn

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from nairi_async.batch.item_runner import BatchOnUnknown
    from nairi_async.batch.items import BatchItem
    from nairi_async.cluster.batches import ClusterStatus
    from nairi_async.cluster.database import Connection
    from nairi_async.typing import Duration

# Records that are stored in one transaction.
_AT_ONCE: Final = 500
_LONGEST_NAME: Final = 200


class Cluster:
    """A PostgreSQL database over which processes share batches. Use it in `async with`.

    It submits batches and reads outcomes without a key of the service; `work` needs an open session. Each call is safe
    to cancel, also in an anyio scope: what was begun in the database runs to its end.

    Args:
        url: `postgresql://user@host:port/database`, of PostgreSQL itself and not of a pooler that shares sessions. The
            password may stand in it, in `PGPASSWORD` or in a password file; no error, log or `repr` shows it. The
            database is for the cluster alone; its tables are made by the first process that opens it.
        base_url: The service to which submitted batches belong; by default `NAIRI_BASE_URL`, else the real service.

    Raises:
        ConfigurationError: a URL is not valid.
        LedgerError: in `async with`: the database cannot be reached, the user has not the rights, it holds the tables
            of another program, or those of another version. In each call: it has not answered for a minute.
    """

    def __init__(self, url: str, *, base_url: str | None = None) -> None:
        # The names are cleared first: a traceback may show local variables, and a URL may hold a password.
        database, url = Concealed(url), ""
        given = os.environ.get("NAIRI_BASE_URL") or API_URL if base_url is None else base_url
        service, given, base_url = Concealed(given), "", None
        self._address = Address.of(database)
        self._base_url = checked_base_url(service, prefix=API_PREFIX)
        self._database: Database | None = None
        self._worker: Worker | None = None
        self._working: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        # Also for one that `__init__` refused: a traceback that shows local variables calls this.
        address = getattr(self, "_address", None)
        return f"<Cluster {address.name if address else 'of no database'}>"

    async def __aenter__(self) -> Self:
        if self._database is not None:
            raise InvalidArgumentError("the cluster is open already")
        database = Database(self._address)
        await database.__aenter__()
        self._database = database
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        database, self._database = self._opened, None
        try:
            if self._working is not None:
                # What it runs is handed on over the connection that is about to be closed.
                self.stop()
                await run_shielded(asyncio.wait((self._working,)))
        finally:
            await database.aclose()

    async def submit(
        self,
        name: str,
        agent_id: str,
        prompts: Iterable[str | BatchItem | Mapping[str, object]] | AsyncIterable[Any],
        *,
        ask_mode: bool = False,
        timeout: Duration | None = DEFAULT_TIMEOUT,
        on_unknown: BatchOnUnknown = "reconcile",
        settle: Duration = SETTLING_TIME,
        retry_failed: bool = False,
    ) -> ClusterBatch:
        """Store prompts for the workers, and return the batch. With the name of a batch that exists, go on with it.

        Records are recognised as by `nairi_async.batch.Batch`: by their `id`, else by their prompt, so that submitting
        the same again adds only what is missing, also after a crash in the middle. The settings of a batch are those of
        its first submission. A collection is checked as a whole before anything is stored.

        Args:
            name: The batch's name in the database.
            agent_id: Slug or id of the agent.
            prompts: Texts or records, with `prompt` and optionally `id`. An iterator is read as it is stored.
            ask_mode: Restrict the agent to reading, without tools.
            timeout: Seconds to wait for each turn before another worker goes on waiting.
            on_unknown: `report` never looks up a prompt whose response was lost: it stays in doubt.
            settle: Seconds for which a lost prompt is searched for before it counts as not arrived.
            retry_failed: Send again what has failed.

        Raises:
            InvalidArgumentError: an argument or a record is not valid, such as one with attachments: the workers are
                on other machines than its files.
            LedgerError: the name belongs to a batch of another agent or another service.
        """
        if isinstance(prompts, str | Mapping) or not isinstance(prompts, Iterable | AsyncIterable):
            raise InvalidArgumentError("prompts must be an iterable of prompts, not a single one")
        if on_unknown not in {"reconcile", "report"}:
            raise InvalidArgumentError(f"on_unknown must be 'reconcile' or 'report', not {on_unknown!r}")
        wanted = BatchRow(
            number=0,
            name=_checked_name("name", name),
            agent_id=checks.identifier("agent_id", agent_id),
            base_url=self._base_url,
            ask_mode=checks.flag("ask_mode", ask_mode),
            timeout=checks.timeout(timeout),
            on_unknown=on_unknown,
            settle=checks.timeout(settle, "settle"),
        )
        is_retrying = checks.flag("retry_failed", retry_failed)
        database = self._opened
        if isinstance(prompts, list | tuple):
            keys = Keys()
            for place, given in enumerate(prompts, 1):
                keys.checked(given, place)
        row = await database.run(lambda connection: begin_batch(connection, wanted, self._address.name))
        queue = TicketQueue(self._address, row.base_url)
        if is_retrying:
            await database.run(lambda connection: _retry_failed(connection, queue, row.number))
        await self._add(queue, row, prompts)
        return ClusterBatch(database, row)

    async def batch(self, name: str) -> ClusterBatch:
        """Return a batch that was submitted before.

        Raises:
            UnknownBatchError: there is none of that name.
        """
        wanted = _checked_name("name", name)
        row = await self._opened.run(lambda connection: find_batch(connection, wanted))
        if row is None:
            raise UnknownBatchError(f"there is no batch {wanted!r}", self._address.name)
        return ClusterBatch(self._opened, row)

    async def batches(self) -> list[ClusterStatus]:
        """Return how far all batches are, the oldest first."""
        return await self._opened.run(lambda connection: read_statuses(connection, None))

    async def delete(self, name: str) -> None:
        """Delete a batch that has ended, with its prompts and replies.

        Raises:
            UnknownBatchError: there is none of that name.
            LedgerError: it has not ended.
        """
        number = (await self.batch(name))._row.number  # noqa: SLF001
        count = await self._opened.run(lambda connection: delete_batch(connection, number))
        if count:
            text = f"the batch {name!r} has {count} prompts that have not ended"
            raise LedgerError(f"{text}: what runs would be forgotten", self._address.name)

    async def work(
        self,
        session: NairiSession,
        *,
        limit: int = 100,
        requests_per_second: float | None = None,
        concurrency: int | None = None,
    ) -> int:
        """Run the prompts of all batches of the session's service, until cancelled or stopped.

        Any number of processes may work. The items of one that is killed or cut off go on at another within seconds. A
        process that comes back after the others took it for dead lets go of everything first. Cancelled, or stopped
        by `stop`, it records the prompts that are being sent, and hands on what runs; the turns themselves continue.

        Args:
            session: An open session. The rate applies to all its requests while this runs.
            limit: Maximum number of conversations at once, of this process.
            requests_per_second: Maximum rate of requests, polls included, of all workers of the service together; by
                default no limit. Give the same to all.
            concurrency: Maximum number of conversations at once of all workers of the service together; by default no
                limit. Those of a worker that died count until they are taken over. Give the same to all.

        Returns:
            The number of conversations that were handed on, once stopped.

        Raises:
            InvalidArgumentError: an argument is not valid, or the session works already.
            LedgerError: the database has not answered for a minute, or cannot be used.
            NairiError: the service refuses every prompt, such as for a wrong key. Nothing is lost by that.
        """
        if not isinstance(session, NairiSession):
            raise InvalidArgumentError(f"work needs a NairiSession, not {type(session).__name__}")
        at_once = checks.limit(limit)
        in_all = None if concurrency is None else checks.limit(concurrency, "concurrency")
        if requests_per_second is not None:
            checks.positive("requests_per_second", checks.seconds(requests_per_second))
        database = self._opened
        parts = parts_of(session)
        executor = parts.sender.context.executor
        if self._worker is not None or executor.gate.wait is not None:
            raise InvalidArgumentError("it works already; one session and one cluster object work once at a time")
        executor.http.check_open()
        queue = TicketQueue(self._address, parts.base_url)
        worker = self._worker = Worker(database, queue, session, at_once, requests_per_second, in_all)
        running = self._working = asyncio.create_task(worker.run(), name="nairi-worker")
        try:
            await undisturbed(running)
        except asyncio.CancelledError:
            worker.stop()
            with suppress(Exception):
                await run_shielded(running)
            raise
        finally:
            self._worker = self._working = None
        return worker.handed_on

    def stop(self) -> None:
        """Let `work` return, as if cancelled. May be called again, and from a signal handler of the loop."""
        if self._worker is not None:
            self._worker.stop()

    @property
    def _opened(self) -> Database:
        if self._database is None:
            raise SessionClosedError("the cluster is not open: use it in `async with Cluster(…) as cluster`")
        return self._database

    async def _add(self, queue: TicketQueue, row: BatchRow, prompts: Iterable[Any] | AsyncIterable[Any]) -> None:
        source: ItemReader[Any] = ItemReader(prompts)
        keys, place, is_open = Keys(), 0, True
        while is_open:
            records: list[tuple[str, BatchItem]] = []
            with suppress(StopAsyncIteration):
                while len(records) < _AT_ONCE:
                    given = await source.next()
                    place += 1
                    records.append(keys.checked(given, place))
            is_open = len(records) == _AT_ONCE

            async def store(connection: Connection, records: list[tuple[str, BatchItem]] = records) -> int:
                return await add_items(connection, queue, row.number, records)

            if records:
                await self._opened.run(store)


class ClusterBatch:
    """A batch in the database. Made by `Cluster.submit` and `Cluster.batch`."""

    def __init__(self, database: Database, row: BatchRow) -> None:
        self._database = database
        self._row = row

    def __repr__(self) -> str:
        return f"<ClusterBatch {self._row.name!r} for {self._row.agent_id!r}>"

    @property
    def name(self) -> str:
        """Its name in the database."""
        return self._row.name

    async def status(self) -> ClusterStatus:
        """Return how far the batch is, and which workers live.

        Raises:
            UnknownBatchError: the batch was deleted.
        """
        found = await self._database.run(lambda connection: read_statuses(connection, self.name))
        if not found:
            raise UnknownBatchError(f"there is no batch {self.name!r}", self._database.address.name)
        return found[0]

    async def turn(self, id_: str) -> Turn | None:
        """Return the turn of an item, to watch its conversation from any process; `None` while it has none.

        Args:
            id_: The item's id, as its outcome names it.

        Raises:
            InvalidArgumentError: it is no text that an id can be.
        """
        if not isinstance(id_, str) or not checks.is_storable(id_):
            raise InvalidArgumentError("the id must be a text, as outcomes name it")

        async def read(connection: Connection) -> Turn | None:
            query = (
                "SELECT i.job_id, i.message_id FROM nairi_prompts p JOIN nairi_items i ON i.number = p.number"
                " WHERE p.batch = %s AND p.id = %s AND i.job_id IS NOT NULL"
            )
            found = await (await connection.execute(query, (self._row.number, id_))).fetchone()
            return None if found is None else Turn(*found, agent_id=self._row.agent_id)

        return await self._database.run(read)

    def outcomes(self, reader: str = "default") -> Outcomes:
        """Return an async iterator over the outcomes in the order in which they end; it ends when all have.

        Each reader has a place in the database, from which it goes on in any process: it gets each outcome at least
        once. An outcome counts as handled when the next one is asked for; the place is stored twice a second and at the
        end, so after a crash the last ones come again.

        Args:
            reader: Its name. Two processes with one name would both get everything.
        """
        return Outcomes(self._database, self._row, _checked_name("reader", reader))


async def _retry_failed(connection: Connection, queue: TicketQueue, batch: int) -> int:
    return await retry_failed(connection, queue, batch)


def _checked_name(kind: str, given: object) -> str:
    if not isinstance(given, str) or not given.strip() or len(given) > _LONGEST_NAME or not given.isprintable():
        raise InvalidArgumentError(f"the {kind} must be a text of 1 to {_LONGEST_NAME} printable characters")
    return given
