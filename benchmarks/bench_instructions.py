"""Count the processor's instructions for each read, poll and event and for an import, compared with bare aiohttp.

    python benchmarks/bench_instructions.py                 # all rows: a few minutes
    python benchmarks/bench_instructions.py --check         # the rows that have a budget; fails above it
    python benchmarks/bench_instructions.py --only "poll"   # the rows whose name contains this

Needs valgrind. Its tool cachegrind counts the instructions of the client, which repeat to within 0.3 % on any machine,
where times do not. The service is a process of its own and is not counted. Each figure is the difference of two runs of
different length, divided by the difference of their lengths, so that imports, opening and closing do not count. An
import is counted in a process of its own, from compiled files, with the start of the interpreter.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import importlib.util
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from attrs import frozen
from instruction_service import MESSAGE, serve

from nairi_async import NairiSession

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from nairi_async._nairi.polling.shared_reads import SharedRead

    Work = Callable[[str, str, int], Coroutine[Any, Any, None]]

AT_ONCE = 20
"""Requests that are under way at the same time."""
_KEY = "nr_key"
_AMIGO = {"api_key": "key", "api_key_id": "key_id", "user_id": "user", "organization_id": "org"}
# What cachegrind says of each process at its end.
_TOTAL = re.compile(r"==(\d+)== I\s+refs:\s+([\d,]+)")
_AMIGO_SERVICE = "6610a1f2c1b3e4d5f6a7b8c0"


async def _repeat(calls: list[Callable[[], Awaitable[object]]], count: int) -> None:
    """Make each of these calls so many times, all at once."""

    async def worker(call: Callable[[], Awaitable[object]]) -> None:
        for _ in range(count):
            await call()

    await asyncio.gather(*map(worker, calls))


@asynccontextmanager
async def _bare() -> AsyncIterator[Callable[[str], Awaitable[Any]]]:
    """Give the read that people write, without this library."""
    headers = {"Authorization": f"Bearer {_KEY}"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=100)) as http:

        async def read(url: str) -> Any:
            async with http.get(url, headers=headers) as answer:
                return json.loads(await answer.read())

        yield read


async def bare_reads(url: str, _run: str, count: int) -> None:
    """Read one small message again and again."""
    async with _bare() as read:
        await _repeat([partial(read, f"{url}/api/public/v1/messages/{MESSAGE['id']}")] * AT_ONCE, count)


async def typed_reads(url: str, _run: str, count: int) -> None:
    """Do the same with this library."""
    async with NairiSession(_KEY, base_url=url) as nairi:
        await _repeat([partial(nairi.message, MESSAGE["id"])] * AT_ONCE, count)


async def unchanged_polls(url: str, _run: str, count: int) -> None:
    """Make the polls of turns that go on: the read of a message that is as it was."""
    async with NairiSession(_KEY, base_url=url) as nairi:
        reads = [nairi._context.reads.message(f"{MESSAGE['id']}{number}") for number in range(AT_ONCE)]  # noqa: SLF001
        await _repeat([partial(_poll, read) for read in reads], count)


async def bare_growing(url: str, run: str, count: int) -> None:
    """Read conversations that grow by one message with each read."""
    async with _bare() as read:
        urls = [f"{url}/api/public/v1/conversations/{run}{number}/messages" for number in range(AT_ONCE)]
        await _repeat([partial(read, url) for url in urls], count)


async def growing_polls(url: str, run: str, count: int) -> None:
    """Do the same with this library."""
    async with NairiSession(_KEY, base_url=url) as nairi:
        reads = [nairi._context.reads.timeline(f"{run}{number}") for number in range(AT_ONCE)]  # noqa: SLF001
        await _repeat([partial(_poll, read) for read in reads], count)


async def _poll(read: SharedRead[Any]) -> object:
    """Read anew, as a watcher does whose appointment has come."""
    return await read.since(time.monotonic(), deadline=math.inf)


def amigo_events(client_name: str, pace: str) -> Work:
    """Return the reading of one stream of so many events with one of the clients."""

    async def work(url: str, _run: str, count: int) -> None:
        from bench_amigo import client, consume  # noqa: PLC0415 - see `_import_clients`

        async with client(client_name, {**_AMIGO, "base_url": url}, _AMIGO_SERVICE) as talker:
            await consume(talker, f"{count} {pace}")

    return work


@frozen
class Row:
    """One line of the table."""

    name: str
    """What is counted."""
    sides: dict[str, Work]
    """The clients; the first is the floor that the others are compared with."""
    lengths: tuple[int, int]
    """Lengths of the two runs."""
    width: int = 1
    """How many of them one step of the length makes."""
    budget: float | None = None
    """The most that this library may take, as a multiple of the floor."""

    def each(self, short: int, long: int) -> float:
        """Return thousands of instructions for one of what is counted, from those of the two runs."""
        return (long - short) / (self.lengths[1] - self.lengths[0]) / self.width / 1000


def _amigo_row(name: str, pace: str, lengths: tuple[int, int]) -> Row:
    has_vendor = importlib.util.find_spec("amigo_sdk") is not None
    clients = ("bare", "ours", *(["vendor"] if has_vendor else []))
    return Row(name, {client: amigo_events(client, pace) for client in clients}, lengths)


ROWS = (
    Row("typed small read", {"bare": bare_reads, "ours": typed_reads}, (5, 25), AT_ONCE, budget=1.01),
    Row("unchanged poll", {"bare": bare_reads, "ours": unchanged_polls}, (5, 25), AT_ONCE, budget=0.88),
    Row("poll of 50 messages, one new", {"bare": bare_growing, "ours": growing_polls}, (5, 15), AT_ONCE),
    _amigo_row("Amigo event, pieces one by one", "apart", (20, 160)),
    _amigo_row("Amigo event, own chunks", "own", (500, 4000)),
    _amigo_row("Amigo event, 200 in a chunk", "together", (1000, 9000)),
)

IMPORTS = {
    "import of a session": ("from nairi_async import NairiSession", 1.14),
    "… and of an Amigo session": (
        "from nairi_async import NairiSession; from nairi_async.amigo import AmigoSession",
        1.22,
    ),
}
"""What a program imports, and the most that it may take, as a multiple of `import aiohttp`."""


def _import_clients(names: set[str]) -> None:
    """Import what only some rows need, before the forks, so that each is imported once."""
    if names:
        importlib.import_module("bench_amigo")
    if "vendor" in names:
        importlib.import_module("amigo_sdk.sdk_client")


def _run_all(url: str, names: list[str]) -> None:
    """Make all runs of these rows, each in a fork of this process, and print which process made which."""
    rows = [row for row in ROWS if row.name in names]
    _import_clients({side for row in rows for side in row.sides if "Amigo" in row.name})
    # What was imported would otherwise be walked again by each garbage collection.
    gc.collect()
    gc.freeze()
    # Rows may share their floor.
    made: dict[tuple[Work, int], int] = {}
    for row in rows:
        for (side, work), length in itertools.product(row.sides.items(), row.lengths):
            if (work, length) not in made:
                made[work, length] = _fork(work, url, f"{side}-{length}-", length)
            print(json.dumps([row.name, side, length, made[work, length]]), flush=True)


def _fork(work: Work, url: str, run: str, length: int) -> int:
    """Make one run in a process of its own, and return the process's id."""
    process = os.fork()
    if not process:
        asyncio.run(work(url, run, length))
        os._exit(0)
    _, status = os.waitpid(process, 0)
    if status:
        raise SystemExit(f"the run {run}{length} failed")
    return process


# Forks after aiohttp's import, which all of them share.
_IMPORTING = """
import os, sys, aiohttp
for statement in sys.argv[1:]:
    process = os.fork()
    if not process:
        exec(statement)
        break
    os.waitpid(process, 0)
    print(process, flush=True)
"""


def count_imports(statements: list[str]) -> list[int]:
    """Return the instructions of interpreters that import aiohttp and run each of these statements."""
    python = (sys.executable, "-I", "-c", _IMPORTING, *statements)
    # Compiles what is not compiled yet.
    subprocess.run(python, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own interpreter
    tool = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    ran = subprocess.run([*tool, *python], env=environment, capture_output=True, text=True, check=True)  # noqa: S603 - as above
    totals = {int(process): int(total.replace(",", "")) for process, total in _TOTAL.findall(ran.stderr)}
    return [totals[int(process)] for process in ran.stdout.split()]


def count(url: str, rows: list[Row]) -> dict[tuple[str, str, int], int]:
    """Return the instructions of each run, by name of the row, client, and length."""
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch, "log")
        tool = (
            "valgrind",
            "--tool=cachegrind",
            "--cache-sim=no",
            "--cachegrind-out-file=/dev/null",
            f"--log-file={log}",
        )
        runs = (sys.executable, __file__, "--run", url, *(row.name for row in rows))
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        ran = subprocess.run([*tool, *runs], env=environment, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
        text = log.read_text()
    if ran.returncode:
        raise SystemExit(text)
    totals = {int(process): int(total.replace(",", "")) for process, total in _TOTAL.findall(text)}
    return {
        (name, side, length): totals[process]
        for name, side, length, process in map(json.loads, ran.stdout.splitlines())
    }


def main() -> None:
    """Print one table: thousands of instructions for each, and the ratio to the floor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="count the rows that have a budget, and fail above it")
    parser.add_argument("--only", default="", help="only rows whose name contains this text")
    parser.add_argument("--run", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        _run_all(options.run[0], options.run[1:])
        return
    if shutil.which("valgrind") is None:
        raise SystemExit("this needs valgrind")
    rows = [row for row in ROWS if options.only in row.name and not (options.check and row.budget is None)]
    with serve() as url:
        counted = count(url, rows) if rows else {}
    print(f"{'thousands of instructions':<32}{'bare':>9}{'ours':>9}{'ratio':>8}{'vendor':>9}{'ours / vendor':>15}")
    too_much = []
    for row in rows:
        each = {side: row.each(*(counted[row.name, side, length] for length in row.lengths)) for side in row.sides}
        ratio = each["ours"] / each["bare"]
        line = f"{row.name:<32}{each['bare']:>9.1f}{each['ours']:>9.1f}{ratio:>8.3f}"
        print(line + (f"{each['vendor']:>9.1f}{each['ours'] / each['vendor']:>15.3f}" if "vendor" in each else ""))
        if options.check and row.budget is not None and ratio > row.budget:
            too_much.append(f"{row.name}: {ratio:.3f}, where {row.budget} is allowed")
    if any(options.only in name for name in IMPORTS):
        bare, *ours = count_imports(["pass", *(statement for statement, _ in IMPORTS.values())])
        for (name, (_, budget)), instructions in zip(IMPORTS.items(), ours, strict=True):
            print(f"{name:<32}{bare / 1000:>9.0f}{instructions / 1000:>9.0f}{instructions / bare:>8.3f}")
            if options.check and instructions > budget * bare:
                too_much.append(f"{name}: {instructions / bare:.3f}, where {budget} is allowed")
    if too_much:
        raise SystemExit("\n".join(too_much))


if __name__ == "__main__":
    main()
