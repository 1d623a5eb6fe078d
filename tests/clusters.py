"""A cluster in one process: several workers, each with a session and connections of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from attrs import define

from nairi_async import NairiSession, Polling
from nairi_async.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

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
        async with asyncio.timeout(20):
            while len(self.simulator.prompts) < count:  # noqa: ASYNC110 - the service tells nobody
                await asyncio.sleep(0.02)
