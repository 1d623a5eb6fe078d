"""One connection to PostgreSQL that runs transactions one after another, in a task of its own.

A caller that is cancelled stops waiting, and the transaction runs to its end: psycopg closes a connection whose
statement is cancelled twice, or in an anyio scope, while the server runs on and may commit later. A lost connection is
opened again, and the transaction runs again, so each one must be idempotent: whether it was committed is not known.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psycopg
from psycopg import errors as sql

from nairi_async._core.closing import run_shielded, undisturbed
from nairi_async._core.failures import drop_frames
from nairi_async.cluster.address import FAULTS, SESSION_SETTINGS, Address
from nairi_async.cluster.schema import check_schema
from nairi_async.errors import LedgerError, SessionClosedError

if TYPE_CHECKING:
    from typing import Self

log: logging.Logger = logging.getLogger("nairi_async.cluster")

Connection = psycopg.AsyncConnection[tuple[Any, ...]]
_T = TypeVar("_T")
_Work = Callable[[Connection], Awaitable[_T]]
# Seconds for which a database that does not answer is tried again: a restart or a failover takes less.
PATIENCE: Final = 60.0
_LONGEST_WAIT: Final = 2.0
# Seconds for the first statement of a session: a server that is stopped still lets connections be made.
_SETTINGS_TIMEOUT: Final = 10.0
# Seconds for one transaction, before its connection is given up, and before it is logged that it has no answer.
_LONGEST: Final = 90.0
_LOGGED_AFTER: Final = 10.0
# What passes by itself: the connection is lost, the server starts or stops, another transaction was in the way, or an
# identical item has the turn, after which `items` makes its changes one by one.
_LOST: Final = (psycopg.OperationalError, psycopg.InterfaceError, OSError, TimeoutError)
_CONFLICTS: Final = (sql.DeadlockDetected, sql.SerializationFailure, sql.UniqueViolation)
# … but these are errors of the caller's data or the server's state.
_FINAL: Final = (sql.DiskFull, sql.InsufficientPrivilege, sql.InvalidPassword, sql.InvalidAuthorizationSpecification)


class PoolerError(LedgerError):
    """The database's sessions are not what they seem, so that no lock says who lives."""


POOLED: Final = "it is reached through a pooler that shares sessions; give the address of PostgreSQL itself"


def passes_by_itself(error: Exception) -> bool:
    """Return whether an error is one of the connection or of a server that starts or stops."""
    return isinstance(error, _LOST) and not isinstance(error, _FINAL)


async def connect(address: Address) -> Connection:
    """Open a connection with the settings of all.

    Raises:
        psycopg.Error: there is none.
    """
    outer = sys.exception()
    try:
        connection = await psycopg.AsyncConnection.connect(address.conninfo, autocommit=True)
    except BaseException as error:
        # The frames of the driver hold the password in local variables, also where a cancellation passes them.
        drop_frames(error, outer)
        raise
    try:
        async with asyncio.timeout(_SETTINGS_TIMEOUT):
            await connection.execute(SESSION_SETTINGS)
    except BaseException:
        await connection.close()
        raise
    return connection


async def check_own_session(connection: Connection, address: Address) -> None:
    """Refuse a pooler that gives one session to several clients in turn: a lock would belong to all of them.

    While a second connection is in a transaction, the first must still have the session that it had.

    Raises:
        PoolerError: it has another one.
        psycopg.Error: the database could not be asked.
    """
    mine = {await _session_of(connection)}
    other = await connect(address)
    try:
        async with other.transaction():
            others = await _session_of(other)
            mine.add(await _session_of(connection))
    finally:
        await other.close()
    if len(mine) > 1 or others in mine:
        raise PoolerError(POOLED, address.name)


async def _session_of(connection: Connection) -> int:
    found = await (await connection.execute("SELECT pg_backend_pid()")).fetchone()
    assert found is not None  # noqa: S101 - a session has a process
    return int(found[0])


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        # Not all callers wait.
        future.exception()


class Database:
    """An open database. Use it in `async with`.

    Args:
        address: Where it is.
        is_durable: Whether a commit waits for the disk.

    Raises:
        LedgerError: on entering: it cannot be reached, is another program's, or of another version.
    """

    def __init__(self, address: Address, *, is_durable: bool = True) -> None:
        self.address = address
        self._is_durable = is_durable
        self._queue: asyncio.Queue[tuple[_Work[Any], bool, asyncio.Future[Any]] | None] = asyncio.Queue()
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False
        self._has_given_up = False
        """Whether the latest transaction had no answer for too long."""

    async def __aenter__(self) -> Self:
        opening = asyncio.ensure_future(self._open())
        try:
            await undisturbed(opening)
        except BaseException:
            # What it may have begun, the tables, is begun as a whole or not at all.
            opening.cancel()
            await run_shielded(asyncio.wait((opening,)))
            await self.aclose()
            raise
        self._task = asyncio.create_task(self._serve(), name="nairi-database")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Run what was submitted, and close the connection. Harmless when repeated."""
        await run_shielded(self._close())

    def submit(self, work: _Work[_T], *, is_single: bool = False) -> asyncio.Future[_T]:
        """Submit a transaction; its future gets the result once it is committed.

        Args:
            work: The transaction.
            is_single: Whether it is one statement, which commits by itself: that saves two round trips.
        """
        if self._task is None or self._task.done() or self._is_closing:
            raise SessionClosedError("the cluster is not open: use it in `async with Cluster(…) as cluster`")
        loop = asyncio.get_running_loop()
        if loop is not self._task.get_loop():
            raise SessionClosedError("the cluster was opened in another event loop: open one in each loop")
        future: asyncio.Future[_T] = loop.create_future()
        self._queue.put_nowait((work, is_single, future))
        return future

    async def run(self, work: _Work[_T]) -> _T:
        """Run a transaction, and return its result once it is committed.

        Raises:
            LedgerError: the database refuses it, or has not answered for a minute.
        """
        return await undisturbed(self.submit(work))

    async def _open(self) -> None:
        with self.address.errors():
            async with asyncio.timeout(_LONGEST):
                self._connection = await connect(self.address)
                await check_schema(self._connection, self.address)
                await self._prepare(self._connection)

    async def _prepare(self, connection: Connection) -> None:
        if not self._is_durable:
            await connection.execute("SET synchronous_commit = off")

    async def _close(self) -> None:
        # What was submitted has one more try: a database that is gone must not hold the process up.
        self._is_closing = True
        if self._task is not None:
            self._queue.put_nowait(None)
            await asyncio.wait((self._task,))
        if self._connection is not None:
            await self._connection.close()

    async def _serve(self) -> None:
        while (submitted := await self._queue.get()) is not None:
            work, is_single, future = submitted
            try:
                result = await self._run(work, is_single=is_single)
            except Exception as error:  # noqa: BLE001 - raised by the caller's wait
                _fail(future, error)
                if self._has_given_up and not self._fail_all(error):
                    return
            else:
                if not future.done():
                    future.set_result(result)

    def _fail_all(self, error: Exception) -> bool:
        """Fail what was submitted while one transaction had no answer; return whether more may be submitted.

        Each of them would wait as long again, one after another.
        """
        self._has_given_up = False
        while not self._queue.empty():
            if (submitted := self._queue.get_nowait()) is None:
                return False
            _fail(submitted[2], copy(error))
        return True

    async def _run(self, work: _Work[_T], *, is_single: bool) -> _T:
        text = "%s has not answered for %.0f s, and is waited for"
        warn = partial(log.warning, text, self.address.name, _LOGGED_AFTER)
        warning = asyncio.get_running_loop().call_later(_LOGGED_AFTER, warn)
        try:
            return await self._try(work, is_single=is_single)
        finally:
            warning.cancel()

    async def _try(self, work: _Work[_T], *, is_single: bool) -> _T:
        failed_at: float | None = None
        wait = 0.05
        while True:
            try:
                async with asyncio.timeout(_LONGEST):
                    connection = await self._connected()
                    if is_single:
                        return await work(connection)
                    async with connection.transaction():
                        return await work(connection)
            except FAULTS as error:
                now = time.monotonic()
                failed_at = failed_at or now
                does_pass = passes_by_itself(error) or isinstance(error, _CONFLICTS)
                is_waiting = isinstance(error, _CONFLICTS) or not self._is_closing
                is_over = not (does_pass and is_waiting) or now - failed_at > PATIENCE
                explained = self.address.explained(error) if is_over else None
                self._has_given_up = is_over and passes_by_itself(error)
                if isinstance(error, _LOST) and not isinstance(error, _CONFLICTS):
                    await self._drop()
                    log.info("%s: %s", self.address.name, type(error).__name__)
            if explained is not None:
                # Outside of the handler: the original could repeat the password in a traceback.
                raise explained
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    async def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = await connect(self.address)
            await self._prepare(self._connection)
        return self._connection

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                await connection.close()
