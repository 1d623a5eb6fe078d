"""What the library costs compared with aiohttp: import, one request, a growing timeline, a waiting conversation.

    python benchmarks/bench_micro.py

Each figure is the median of several rounds in which both sides take turns, so that only ratios are compared.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import subprocess
import sys
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import aiohttp
from child_process import child
from instruction_service import MESSAGE

from nairi_async import NairiSession, Polling, Turn
from nairi_async._nairi import wire
from nairi_async._nairi.incremental_decoder import IncrementalDecoder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ROUNDS = 7
BODY = json.dumps(MESSAGE).encode()
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
LOCATION = "/messages/cmsg_01KRK1V475HBTME8QJQMAPWK16"


def _serve(pipe: Any) -> None:
    """Run the leanest possible server, in a process of its own: the same response to everything."""

    class Same(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport: Any = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(ANSWER * data.count(b"\r\n\r\n"))

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Same, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(pipe.recv)

    asyncio.run(main())


async def _many(call: Callable[[], Awaitable[object]], count: int, at_once: int) -> float:
    """Return the CPU microseconds for each of so many calls."""

    async def worker() -> None:
        for _ in range(count // at_once):
            await call()

    gc.collect()
    started_at = time.process_time()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    return (time.process_time() - started_at) / count * 1e6


async def requests(port: int) -> list[tuple[str, float, float]]:
    """Compare a small typed read with bare aiohttp and json."""
    url = f"http://127.0.0.1:{port}"
    rows = []
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=100)) as http,
        NairiSession("nr_key", base_url=url) as nairi,
    ):
        headers = {"Authorization": "Bearer nr_key"}

        async def bare() -> object:
            async with http.get(f"{url}/api/public/v1{LOCATION}", headers=headers) as answer:
                return json.loads(await answer.read())

        poll = nairi._context.reads.message(MESSAGE["id"])  # noqa: SLF001 - the read that polling makes

        async def typed() -> object:
            return await nairi.message(MESSAGE["id"])

        async def polled() -> object:
            return await poll.since(time.monotonic(), deadline=float("inf"))

        for name, ours, at_once in (("one typed read", typed, 100), ("one unchanged poll", polled, 1)):
            mine, theirs = [], []
            for _ in range(ROUNDS):
                theirs.append(await _many(bare, 2000, at_once))
                mine.append(await _many(ours, 2000, at_once))
            rows.append((f"{name}, {at_once} at once, us CPU", statistics.median(mine), statistics.median(theirs)))
    return rows


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


async def waiting(port: int) -> tuple[str, float, float]:
    """Measure the memory of a conversation between two polls, and of a task that only sleeps."""
    count = 5000
    polling = Polling(delay=300, first=8, maximum=300)
    async with NairiSession("nr_key", base_url=f"http://127.0.0.1:{port}", polling=polling) as nairi:
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


def importing() -> list[tuple[str, float, float]]:
    """Measure time and memory of the import, and of aiohttp's."""
    code = (
        "import time; began = time.perf_counter(); import {0}; took = time.perf_counter() - began; "
        "print(took, int(open('/proc/self/statm').read().split()[1]) * 4096)"
    )
    seen: dict[str, list[tuple[float, float]]] = {"nairi_async": [], "aiohttp": []}
    for _ in range(ROUNDS):
        for module, found in seen.items():
            printed = subprocess.run(  # noqa: S603 - our own interpreter
                [sys.executable, "-c", code.format(module)], capture_output=True, text=True, check=True
            ).stdout.split()
            found.append((float(printed[0]), float(printed[1])))
    time_, memory = (
        [statistics.median(entry[part] for entry in seen[module]) for module in ("nairi_async", "aiohttp")]
        for part in (0, 1)
    )
    return [
        ("import, ms", time_[0] * 1e3, time_[1] * 1e3),
        ("import, memory of the process in MB", memory[0] / 2**20, memory[1] / 2**20),
    ]


def main() -> None:
    """Print one table: ours, the other, and the ratio."""
    print(f"{'':<42}{'ours':>10}{'bare':>10}{'ratio':>8}")
    with child(_serve) as pipe:
        port = pipe.recv()
        rows = [*importing(), *asyncio.run(requests(port)), growing(), asyncio.run(waiting(port))]
    for name, mine, theirs in rows:
        print(f"{name:<42}{mine:>10.1f}{theirs:>10.1f}{mine / theirs:>8.2f}")


if __name__ == "__main__":
    main()
