"""Count requests and bytes of a synchronisation of 10,000 conversations, one in a hundred of which changed.

Run `python benchmarks/bench_sync.py`; it takes about a minute. Everything goes over HTTP to a simulated service, in
virtual time; requests and bytes are counted by the service.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from nairi_async import NairiSession
from nairi_async.testing import Simulator, VirtualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

    from nairi_async import Checkpoint, ConversationSummary

COUNT = 10_000
CHANGED = COUNT // 100
AGENT = "my-agent"


async def counted(simulator: Simulator, name: str, rows: AsyncIterable[ConversationSummary], expected: int) -> None:
    """Read all rows, and print the requests and bytes."""
    before = len(simulator.requests)
    found = {row.id async for row in rows}
    requests = simulator.requests[before:]
    size = sum(request.response_bytes for request in requests)
    print(f"{name:<44}{len(found):>8}{expected:>10}{len(requests):>10}{size / 1024:>10.0f}")


async def change(nairi: NairiSession, clock: VirtualClock, jobs: list[str]) -> None:
    """Continue some conversations, a minute apart."""
    for job in jobs:
        await nairi.continue_(job, "More")
        clock.advance(60)


async def main() -> None:
    """Print the table."""
    clock = VirtualClock()
    choice = random.Random(1)
    async with (
        Simulator(clock=clock) as simulator,
        NairiSession(simulator.api_key, base_url=simulator.url, clock=clock) as nairi,
    ):
        simulator.agent(AGENT, "Done.")
        jobs = []
        for _ in range(COUNT):
            jobs.append((await nairi.start(AGENT, "Go")).job_id)
            clock.advance(60)
        print(f"{'10,000 conversations':<44}{'found':>8}{'expected':>10}{'requests':>10}{'KiB':>10}")
        first = nairi.sync(AGENT)
        await counted(simulator, "first synchronisation", first, COUNT)
        checkpoint: Checkpoint = first.checkpoint
        await counted(simulator, "nothing changed", nairi.sync(AGENT, since=checkpoint), 0)
        await change(nairi, clock, choice.sample(jobs, CHANGED))
        second = nairi.sync(AGENT, since=checkpoint)
        await counted(simulator, "1 % changed", second, CHANGED)
        await change(nairi, clock, choice.sample(jobs, 1))
        await counted(simulator, "one changed", nairi.sync(AGENT, since=second.checkpoint), 1)
        await counted(simulator, "reading the whole list instead", nairi.conversations(AGENT), COUNT)


if __name__ == "__main__":
    asyncio.run(main())
