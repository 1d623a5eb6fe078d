"""A cluster in one process: several workers, each with a session and connections of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import psycopg
from attrs import define

from nairi_async import NairiSession, Polling
from nairi_async.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Self

    from nairi_async.testing import Simulator

AGENT = "my-agent"


@define
class Field:
    """A simulated service, and the database of the cluster that works with it."""

    simulator: Simulator
    database: str

    def cluster(self) -> Cluster:
        return Cluster(self.database, base_url=self.simulator.url)

    def session(self) -> NairiSession:
        url = self.simulator.url
        return NairiSession(self.simulator.api_key, base_url=url, polling=Polling(delay=0.1))

    @asynccontextmanager
    async def worker(self, **options: Any) -> AsyncIterator[tuple[Cluster, asyncio.Task[int]]]:
        """Run a worker in the block, and stop it at its end."""
        async with self.cluster() as cluster, self.session() as session:
            task = asyncio.create_task(cluster.work(session, **options))
            try:
                yield cluster, task
            finally:
                cluster.stop()
                await task

    @property
    def asked(self) -> Counter[str]:
        return Counter(one.prompt for one in self.simulator.prompts)

    async def until_asked(self, count: int) -> None:
        """Wait until the service has so many prompts."""
        async with asyncio.timeout(120):
            while len(self.simulator.prompts) < count:  # noqa: ASYNC110 - the service tells nobody
                await asyncio.sleep(0.02)

    async def until_stored(self, count: int) -> None:
        """Wait until the service has so many prompts, all that were claimed, and the database has their turns.

        A worker that is killed then leaves no prompt in doubt, which would be looked up for a minute.
        """
        await self.until_asked(count)
        query = "SELECT FROM nairi_items WHERE state = 'sending'"
        with psycopg.connect(self.database, autocommit=True) as connection:
            async with asyncio.timeout(120):
                while connection.execute(query).fetchone() is not None:  # noqa: ASYNC110 - in a database
                    await asyncio.sleep(0.02)


class CuttingProxy:
    """A way to a server on which every so many answers a connection drops, before the answer arrives."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._answers = self.cuts = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.port = 0
        self.every = 0
        """How many; 0 for a way that holds."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with suppress(OSError):
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
            self._writers += [writer, to_server]
            await asyncio.gather(self._send(reader, to_server), self._answer(from_server, to_server, writer))

    async def _send(self, reader: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while asked := await reader.read(65536):
                to_server.write(asked)
        to_server.close()

    async def _answer(
        self, from_server: asyncio.StreamReader, to_server: asyncio.StreamWriter, writer: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while answer := await from_server.read(65536):
                self._answers += 1
                if self.every and self._answers % self.every == 0:
                    self.cuts += 1
                    break
                writer.write(answer)
        writer.close()
        to_server.close()
