"""The rate of all workers together: a token for each request, polls included, from one row of the database.

The row holds the next free moment. A worker takes moments as far as a quarter of a second ahead, and a request leaves
at its moment. A moment that is over when its request wakes up is given up, since the next ones belong to others: a
worker that was paused sends no burst.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

from nairi_async._core.closing import run_shielded
from nairi_async._core.records import define
from nairi_async.cluster.row import ClaimLostError
from nairi_async.errors import LedgerError

if TYPE_CHECKING:
    from nairi_async.clock import Clock
    from nairi_async.cluster.database import Connection, Database
    from nairi_async.cluster.liveness import Liveness

# Seconds that moments are taken ahead, and by which a request may miss its moment.
_AHEAD: Final = 0.25
_LATENESS: Final = 0.04
_RETRY: Final = 0.05
_FOREVER: Final = 1e6
_QUERY: Final = (
    "UPDATE nairi_rates SET next = greatest(next, clock_timestamp()) + make_interval(secs => %s)"
    " WHERE base_url = %s AND next < clock_timestamp() + make_interval(secs => %s)"
    " RETURNING extract(epoch FROM next - clock_timestamp())::float8"
)


@define(eq=False)
class Gate:
    """What must hold before a request leaves: the worker lives, and the shared rate has a moment for it."""

    clock: Clock
    liveness: Liveness
    pace: SharedRate | None

    async def wait(self, deadline: float) -> None:
        """Wait for it.

        Raises:
            ClaimLostError: the worker's lock was lost.
            TimeoutError: the deadline comes first.
        """
        if self.pace is not None:
            await self.pace.wait(deadline - self.clock.monotonic())
        # Afterwards, since it may have been a long wait.
        if not await self.liveness.confirm():
            raise ClaimLostError


class SharedRate:
    """The moments of one worker's requests. Use it in `async with`."""

    def __init__(self, database: Database, base_url: str, per_second: float) -> None:
        self._database, self._base_url = database, base_url
        self._spacing = 1.0 / per_second
        self._waiting: deque[asyncio.Future[float]] = deque()
        self._has_waiting = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        async def insert(connection: Connection) -> None:
            query = "INSERT INTO nairi_rates VALUES (%s, clock_timestamp()) ON CONFLICT DO NOTHING"
            await connection.execute(query, (self._base_url,))

        await self._database.run(insert)
        self._task = asyncio.create_task(self._hand_out(), name="nairi-pace")

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None  # noqa: S101 - entered before
        self._task.cancel()
        await run_shielded(asyncio.wait((self._task,)))

    async def wait(self, timeout: float) -> None:
        """Wait for a moment at which a request may leave.

        Raises:
            TimeoutError: there is none within so many seconds.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout if timeout < _FOREVER else None):
            is_first_try = True
            while True:
                moment: asyncio.Future[float] = loop.create_future()
                if is_first_try:
                    self._waiting.append(moment)
                else:
                    self._waiting.appendleft(moment)
                self._has_waiting.set()
                at = await moment
                if at > loop.time():
                    await asyncio.sleep(at - loop.time())
                if loop.time() - at <= _LATENESS:
                    return
                is_first_try = False

    async def _hand_out(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._has_waiting.wait()
            while self._waiting and self._waiting[0].done():
                self._waiting.popleft()
            if not self._waiting:
                self._has_waiting.clear()
                continue
            count = min(len(self._waiting), max(1, int(_AHEAD / self._spacing / 2)))
            try:
                wait = await self._database.run(partial(self._take, count))
            except LedgerError:
                wait = None
            if wait is None:
                await asyncio.sleep(_RETRY)
                continue
            # The last of them is this far away; the moments before it are evenly spaced.
            last = loop.time() + wait - self._spacing
            for place in range(count):
                while self._waiting and self._waiting[0].done():
                    self._waiting.popleft()
                if self._waiting:
                    self._waiting.popleft().set_result(last - (count - 1 - place) * self._spacing)

    async def _take(self, count: int, connection: Connection) -> float | None:
        values = (count * self._spacing, self._base_url, _AHEAD)
        found = await (await connection.execute(_QUERY, values)).fetchone()
        return None if found is None else float(found[0])
