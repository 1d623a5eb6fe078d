"""Chats in PostgreSQL: bots in several replicas, of which one at a time answers a chat.

One session with the database holds the locks of the chats that are busy here, and stores their records. What it stores
is therefore proof that it still holds the locks. If the session is lost, the chats that were busy cannot be stored any
more, and their replies are not handed over: another replica recovers them.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

from nairi_async._core.closing import run_shielded
from nairi_async._core.concealed import Concealed
from nairi_async.bots.store import Record
from nairi_async.cluster.address import FAULTS, Address
from nairi_async.cluster.database import PATIENCE, check_own_session, connect, passes_by_itself
from nairi_async.cluster.schema import CHAT_LOCKS, check_schema
from nairi_async.errors import LedgerError, SessionClosedError, StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType
    from typing import Self

    from nairi_async.cluster.database import Connection

_T = TypeVar("_T")
# Seconds between attempts to get the lock of a chat, and to open a session again.
_LOCK_INTERVAL: Final = 0.25
# Seconds for one statement, before the session is given up.
_TIMEOUT: Final = 30.0


class PostgresStore:
    """Records of chats in a PostgreSQL database, used with `async with`; for `nairi_async.bots.Chats`.

    Any number of replicas use it. A chat is busy in one of them at a time: a prompt for a chat that another replica
    answers waits until that has ended, and sees its record, so that a message that two replicas receive is answered
    once (give its `key`). A replica that ends, is killed or is cut off frees its chats within seconds. `recovering`
    takes over what others left at its start, once they have let go of it.

    A saved record survives a crash of the database. The database may be the one of a `Cluster`.

    Args:
        url: As for `Cluster`.

    Raises:
        ConfigurationError: the URL is not valid.
        StoreError: on entering and in each call: the database cannot be used.
        SessionClosedError: used outside of `async with`; or the lock of the chat was lost.
    """

    def __init__(self, url: str) -> None:
        # As in `Cluster`: the name is cleared, because a traceback may show local variables.
        database, url = Concealed(url), ""
        self._address = Address.of(database)
        self._connection: Connection | None = None
        self._using = asyncio.Lock()
        self._session = 0
        """The number of the session; a new one holds none of the locks of the one before."""
        self._held: dict[str, int] = {}
        """The chats that are busy here, and the session that holds their locks."""
        self._releasing: set[asyncio.Task[None]] = set()
        self._is_open = self._was_open = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        # Also for one that `__init__` refused: a traceback that shows local variables calls this.
        address = getattr(self, "_address", None)
        return f"PostgresStore({getattr(address, 'name', '')!r})"

    async def __aenter__(self) -> Self:
        self._is_open, self._loop = True, asyncio.get_running_loop()
        try:
            await self._shielded(self._execute(_nothing))
        except BaseException:
            self._is_open = False
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_open = False
        await run_shielded(self._close())

    async def acquire(self, name: str) -> None:
        """Wait until no other replica has the chat, and keep others from it until `release`."""
        while not await self._shielded(self._try_acquire(name)):  # noqa: ASYNC110 - PostgreSQL announces no free lock
            await asyncio.sleep(_LOCK_INTERVAL)

    def release(self, name: str) -> None:
        """Let other replicas have the chat. Harmless if it was not acquired."""
        if (session := self._held.pop(name, None)) is None or not self._is_open:
            return
        # Calls run in order, so that a following `acquire` comes after it.
        task = asyncio.get_running_loop().create_task(self._release(name, session))
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)

    async def load(self, name: str) -> Record | None:
        """Return the record that was saved last under that name; `None` if there is none."""

        async def read(connection: Connection) -> str | None:
            found = await connection.execute("SELECT record FROM nairi_chats WHERE name = %s", (name,))
            row = await found.fetchone()
            return None if row is None else str(row[0])

        stored = await self._shielded(self._execute(read, name))
        try:
            return None if stored is None else Record.from_dict(json.loads(stored))
        except (TypeError, ValueError) as error:
            raise StoreError(f"the store {self._address.name} cannot be used: {error}") from error

    async def save(self, name: str, record: Record) -> None:
        """Save a record, replacing an earlier one of that name; it survives a crash when this returns."""
        values = (name, record.dialogue_id, record.is_unfinished, json.dumps(record.to_dict()))

        async def write(connection: Connection) -> None:
            query = (
                "INSERT INTO nairi_chats VALUES (%s, %s, %s, %s) ON CONFLICT (name) DO UPDATE SET"
                " dialogue_id = excluded.dialogue_id, is_unfinished = excluded.is_unfinished, record = excluded.record"
            )
            await connection.execute(query, values)

        await self._shielded(self._execute(write, name))

    async def open_names(self) -> list[str]:
        """Return the names of all records that are `is_unfinished`."""

        async def read(connection: Connection) -> list[str]:
            found = await connection.execute("SELECT name FROM nairi_chats WHERE is_unfinished ORDER BY name")
            return [name for (name,) in await found.fetchall()]

        return await self._shielded(self._execute(read))

    async def dialogue_ids(self) -> set[str]:
        """Return the dialogue ids of all records."""

        async def read(connection: Connection) -> set[str]:
            found = await connection.execute("SELECT dialogue_id FROM nairi_chats WHERE dialogue_id IS NOT NULL")
            return {dialogue_id for (dialogue_id,) in await found.fetchall()}

        return await self._shielded(self._execute(read))

    async def _try_acquire(self, name: str) -> bool:
        async def lock(connection: Connection) -> bool:
            if self._held.get(name) == self._session:
                # Taken by a call that was cancelled. Twice taken, it would have to be released twice.
                return True
            found = await connection.execute("SELECT pg_try_advisory_lock(%s, hashtext(%s))", (CHAT_LOCKS, name))
            row = await found.fetchone()
            if row and row[0]:
                self._held[name] = self._session
                return True
            return False

        return await self._execute(lock)

    async def _release(self, name: str, session: int) -> None:
        async def unlock(connection: Connection) -> None:
            if session == self._session:
                await connection.execute("SELECT pg_advisory_unlock(%s, hashtext(%s))", (CHAT_LOCKS, name))

        # With the session the lock is gone as well.
        with suppress(StoreError, SessionClosedError):
            await self._execute(unlock)

    async def _shielded(self, work: Awaitable[_T]) -> _T:
        """Wait for a statement in a task of its own: psycopg closes the session of one that is cancelled."""
        where = None
        if not self._is_open:
            where = "the store is not open: use it in `async with PostgresStore(…) as store:`"
        elif self._loop is not asyncio.get_running_loop():
            where = "the store was opened in another event loop: open one in each loop"
        if where is not None:
            if asyncio.iscoroutine(work):
                work.close()
            raise SessionClosedError(where)
        return await run_shielded(work)

    async def _execute(self, work: Callable[[Connection], Awaitable[_T]], chat: str | None = None) -> _T:
        """Run statements, one caller after another; for a chat that is busy here, only in the session of its lock."""
        loop = asyncio.get_running_loop()
        until, wait = loop.time() + PATIENCE, 0.05
        async with self._using:
            while True:
                if chat is not None and self._held.get(chat, self._session) != self._session:
                    raise SessionClosedError("the lock of the chat was lost: another replica goes on with it")
                try:
                    async with asyncio.timeout(_TIMEOUT):
                        return await work(await self._connected())
                except FAULTS as error:
                    does_pass = passes_by_itself(error)
                    is_over = not does_pass or loop.time() > until or not (self._is_open and self._was_open)
                    explained = self._address.explained(error) if is_over else None
                    # A full disk, or a right that is missing, leaves the session and its locks as they are.
                    if does_pass:
                        await self._drop()
                if explained is not None:
                    # Outside of the handler: the original could repeat the password in a traceback.
                    raise StoreError(str(explained))
                await asyncio.sleep(wait)
                wait = min(2 * wait, 2.0)

    async def _connected(self) -> Connection:
        if self._connection is None:
            connection = await connect(self._address)
            try:
                await check_schema(connection, self._address)
                await check_own_session(connection, self._address)
            except BaseException as error:
                await connection.close()
                if isinstance(error, LedgerError):
                    raise StoreError(str(error)) from error
                raise
            self._connection, self._was_open = connection, True
        return self._connection

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._session += 1
        if connection is not None:
            with suppress(Exception):
                await connection.close()

    async def _close(self) -> None:
        if self._releasing:
            await asyncio.wait(self._releasing)
        async with self._using:
            await self._drop()
        self._held.clear()


async def _nothing(connection: Any) -> None:
    """Need nothing but a session."""
