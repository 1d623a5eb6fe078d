"""Who lives: an advisory lock for each worker, held by a session of its own, as long as the process reaches the server.

No clock declares a worker dead. A stopped process keeps its lock, and comes back as the same worker. The lock is free
when the server ends the session: at once if the process is killed, seconds later if it is cut off (TCP keepalives).

The worker must not send after that, so it *confirms* its life before each request: a beat that was sent within the last
seconds was answered. The server frees the lock of a worker that is cut off later than that.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final, LiteralString

import psycopg

from nairi_async._core.closing import run_shielded, undisturbed
from nairi_async.cluster.database import POOLED, PoolerError, check_own_session, connect
from nairi_async.cluster.schema import LOCKS, TEXT_LOCKS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from nairi_async.cluster.database import Connection, Database

# Seconds between beats, and for which one may take.
_BEAT: Final = 1.0
_BEAT_TIMEOUT: Final = 4.0
LEASE: Final = 6.0
"""Seconds after the beginning of an answered beat in which requests may leave; below what the server waits (8 s)."""
_OPENING_TIMEOUT: Final = 10.0
# Seconds between attempts to lock a text that another worker looks up.
_TEXT_WAIT: Final = 0.25


class Liveness:
    """One worker's life. Opened by `open`.

    Attributes:
        worker: The worker's id, which never comes again.
        lost: Done when the life is over for the others: the worker must let go of everything.
    """

    def __init__(self, connection: Connection, worker: int) -> None:
        self._connection = connection
        self.worker = worker
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._confirmed_at = now()
        self._beating = asyncio.Lock()
        self._task = asyncio.create_task(self._beat_on(), name="nairi-liveness")

    @classmethod
    async def open(cls, database: Database, base_url: str, capacity: int, per_second: float | None) -> Liveness:
        """Begin a life.

        Raises:
            PoolerError: the connection leads through a pooler.
            LedgerError: the database refuses it.
        """
        address = database.address
        with address.errors():
            connection = await connect(address)
            try:
                query = "SELECT nextval('nairi_worker_ids')::integer, pg_backend_pid()"
                async with asyncio.timeout(_OPENING_TIMEOUT):
                    await check_own_session(connection, address)
                    found = await (await connection.execute(query)).fetchone()
                    assert found is not None  # noqa: S101 - a sequence has a next value
                    worker, backend = int(found[0]), int(found[1])
                    await connection.execute("SELECT pg_advisory_lock(%s, %s)", (LOCKS, worker))
            except BaseException:
                await connection.close()
                raise

        async def register(other: Connection) -> bool:
            # From another session the lock must be refused. Through a pooler, sessions are not what they seem.
            query = "SELECT pg_try_advisory_xact_lock(%s, %s)"
            free = await (await other.execute(query, (LOCKS, worker))).fetchone()
            if free and free[0]:
                return False
            values = (worker, base_url, socket.gethostname(), os.getpid(), backend, capacity, per_second)
            query = (
                "INSERT INTO nairi_workers (id, base_url, host, pid, backend, capacity, per_second)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"
            )
            await other.execute(query, values)
            return True

        is_alone = False
        try:
            is_alone = await database.run(register)
            if not is_alone:
                # The session may have ended meanwhile, and its lock with it; that is no pooler's doing.
                with address.errors():
                    async with asyncio.timeout(_OPENING_TIMEOUT):
                        await connection.execute("SELECT 1")
        finally:
            if not is_alone:
                await connection.close()
        if not is_alone:
            raise PoolerError(POOLED, address.name)
        return cls(connection, worker)

    async def aclose(self) -> None:
        """End the life. Harmless when repeated."""
        self._task.cancel()
        await run_shielded(asyncio.wait((self._task,)))
        with suppress(Exception):
            await run_shielded(self._connection.close())

    async def confirm(self) -> bool:
        """Return whether a request may leave now; after a pause of the process, the server is asked first."""
        if now() - self._confirmed_at < LEASE and not self.lost.done():
            return True
        # In a task of its own: a cancelled statement would end the session.
        await undisturbed(asyncio.ensure_future(self._beat()))
        return not self.lost.done()

    @asynccontextmanager
    async def text_lock(self, key: int) -> AsyncGenerator[None]:
        """Hold the lock of a text, or go on without it when the life is over: then nothing can be stored."""
        lock, unlock = "SELECT pg_try_advisory_lock(%s, %s)", "SELECT pg_advisory_unlock(%s, %s)"
        asked = asyncio.ensure_future(self._execute(lock, key))
        try:
            # Once it is asked for, the answer is waited for: a lock that no one knows of would stay.
            await run_shielded(asyncio.wait((asked,)))
            while not asked.result():
                await asyncio.sleep(_TEXT_WAIT)
                asked = asyncio.ensure_future(self._execute(lock, key))
                await run_shielded(asyncio.wait((asked,)))
            yield
        finally:
            if asked.done() and not asked.cancelled() and asked.exception() is None and asked.result():
                await run_shielded(self._execute(unlock, key))

    async def _execute(self, query: LiteralString, key: int) -> bool:
        """Run a statement about a text's lock; true if it had an effect, or if the life is over."""
        async with self._beating:
            if self.lost.done():
                return True
            try:
                async with asyncio.timeout(_BEAT_TIMEOUT):
                    found = await (await self._connection.execute(query, (TEXT_LOCKS, key))).fetchone()
            except (psycopg.Error, OSError):
                self._lose()
                return True
            return bool(found and found[0])

    async def _beat_on(self) -> None:
        while not self.lost.done():
            await self._beat()
            await asyncio.sleep(_BEAT)

    async def _beat(self) -> None:
        async with self._beating:
            began = now()
            if self.lost.done() or began - self._confirmed_at < _BEAT / 2:
                return
            try:
                async with asyncio.timeout(_BEAT_TIMEOUT):
                    await self._connection.execute("SELECT 1")
            except (psycopg.Error, OSError):
                self._lose()
            else:
                self._confirmed_at = began

    def _lose(self) -> None:
        if not self.lost.done():
            self.lost.set_result(None)


def now() -> float:
    """Return seconds that pass while the machine sleeps as well, where it can say so."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
