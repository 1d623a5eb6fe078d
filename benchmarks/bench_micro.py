"""What the library costs besides requests: memory of its import and of a conversation that waits, a growing timeline.

    python benchmarks/bench_micro.py

What one request costs, and the time of the import, is counted in instructions: `bench_instructions.py`.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import time
import tracemalloc
from typing import TYPE_CHECKING

from instruction_service import MESSAGE, serve

from nairi_async import NairiSession, Polling, Turn
from nairi_async._nairi import wire
from nairi_async._nairi.incremental_decoder import IncrementalDecoder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ROUNDS = 7


def growing() -> tuple[str, float, float]:
    """Measure all reads of a conversation that grows to 2,000 messages, one read for every ten."""
    messages = [{**MESSAGE, "id": f"cmsg_{number:026}", "content": "x" * 250} for number in range(2000)]
    bodies = [json.dumps({"messages": messages[:count]}).encode() for count in range(10, 2001, 10)]
    mine, theirs = [], []
    for _ in range(3):
        started_at = time.process_time()
        for body in bodies:
            wire.decode_timeline(body)
        theirs.append(time.process_time() - started_at)
        started_at, decoder = time.process_time(), IncrementalDecoder()
        for body in bodies:
            decoder.decode(body)
        mine.append(time.process_time() - started_at)
    return "growing to 2,000 messages, ms CPU", statistics.median(mine) * 1e3, statistics.median(theirs) * 1e3


async def waiting(url: str) -> tuple[str, float, float]:
    """Measure the memory of a conversation between two polls, and of a task that only sleeps."""
    count = 5000
    polling = Polling(delay=300, first=8, maximum=300)
    async with NairiSession("nr_key", base_url=url, polling=polling) as nairi:
        turns = [Turn(MESSAGE["job_id"], f"cmsg_{number:026}") for number in range(count)]

        async def grown(work: Callable[[int], Awaitable[object]], polls: int) -> float:
            gc.collect()
            before, _ = tracemalloc.get_traced_memory()
            tasks = [asyncio.ensure_future(work(number)) for number in range(count)]
            await asyncio.sleep(0)
            while nairi.stats.polls < polls or nairi.stats.waiting_calls:  # noqa: ASYNC110 - the session has no event for it
                await asyncio.sleep(0.5)
            gc.collect()
            size = (tracemalloc.get_traced_memory()[0] - before) / count
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return size

        # What was allocated, not what is resident: freed memory that is used again would favour the second measurement.
        await asyncio.gather(*(nairi.message(MESSAGE["id"]) for _ in range(count)))
        tracemalloc.start()
        theirs = await grown(lambda _: asyncio.sleep(600), 0)
        mine = await grown(lambda number: nairi.wait(turns[number]), count)
        tracemalloc.stop()
    return "a waiting conversation, KB", mine / 1024, theirs / 1024


def importing() -> tuple[str, float, float]:
    """Measure the memory of a process that imports a session, and of one that imports aiohttp."""

    def resident(statement: str) -> float:
        code = f"{statement}; print(open('/proc/self/statm').read().split()[1])"
        sizes = [
            int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)  # noqa: S603 - our own interpreter
            for _ in range(ROUNDS)
        ]
        return statistics.median(sizes) * os.sysconf("SC_PAGE_SIZE") / 2**20

    mine, theirs = resident("from nairi_async import NairiSession"), resident("import aiohttp")
    return "a process that imports it, MB", mine, theirs


def main() -> None:
    """Print one table: ours, the other, and the ratio."""
    print(f"{'':<42}{'ours':>10}{'bare':>10}{'ratio':>8}")
    with serve() as url:
        rows = [importing(), growing(), asyncio.run(waiting(url))]
    for name, mine, theirs in rows:
        print(f"{name:<42}{mine:>10.1f}{theirs:>10.1f}{mine / theirs:>8.2f}")


if __name__ == "__main__":
    main()
