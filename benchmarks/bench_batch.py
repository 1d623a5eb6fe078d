"""What a ledger costs, how soon a batch goes on after a restart, and what kills lose.

    python benchmarks/bench_batch.py            # the tables, about two minutes
    python benchmarks/bench_batch.py --kills 50 # instead: a batch that is killed so often, counted at the service

The service runs in a process of its own; the ledger lies in the directory for temporary files, or in `--directory`.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from attrs import asdict

from nairi_async import NairiSession, Polling, Turn
from nairi_async.batch import Batch, BatchItem
from nairi_async.batch.ledger import Ledger
from nairi_async.batch.writer import Writer
from nairi_async.clock import SystemClock
from nairi_async.testing import Say, Simulator

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from killing import killed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

AGENT = "my-agent"
ASKED = 2_000
LIMIT = 200
LEDGER_ITEMS = 20_000
RESTARTED = 10_000
ROUNDS = 3


def _serve(pipe: Any) -> None:
    async def main() -> None:
        async with Simulator() as simulator:
            simulator.agent(AGENT, lambda prompt, _: [Say("Done.", after=3600 if prompt.startswith("slow") else 0)])
            pipe.send((simulator.url, simulator.api_key))
            await asyncio.to_thread(pipe.recv)

    asyncio.run(main())


@contextmanager
def service() -> Iterator[tuple[str, str]]:
    """The simulated service in a process of its own: URL and key."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,), daemon=True)
    process.start()
    try:
        yield here.recv()
    finally:
        here.send(None)
        process.join(5)
        process.kill()


def session(url: str, key: str) -> NairiSession:
    """A session that looks seldom: what is measured is the ledger."""
    return NairiSession(key, base_url=url, polling=Polling(delay=0.5))


async def ledger_alone(directory: Path, at_once: int, count: int) -> tuple[float, float]:
    """Items a second through claim, turn and end, so many at once; and processor time of each in microseconds."""
    path = directory / f"alone-{at_once}.sqlite"
    writer = await Writer.open(path, AGENT, None, SystemClock())
    numbers = iter(range(1, count + 1))

    async def work() -> None:
        for number in numbers:
            entry = await writer.call(partial(Ledger.claim, item=BatchItem(f"prompt {number}", place=number), now=0.0))
            assert entry is not None  # noqa: S101 - it is new
            turn = Turn(f"job_{number}", f"cmsg_{number}")
            await writer.call(partial(Ledger.running, number=entry.number, turn=turn))
            finish = partial(Ledger.finish, document='{"messages":[]}', is_done=True, cost=None)
            await writer.call(partial(finish, number=entry.number))

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(at_once)))
    took, used = time.perf_counter() - began, time.process_time() - cpu
    await writer.aclose()
    path.unlink()
    return count / took, used / count * 1e6


async def asking(url: str, key: str, directory: Path, kind: str) -> tuple[float, float]:
    """Seconds and processor seconds of this process for all prompts, with or without a ledger."""
    prompts = (f"prompt {number}" for number in range(ASKED))
    async with session(url, key) as nairi:
        began, cpu = time.perf_counter(), time.process_time()
        if kind == "ask_many":
            async for outcome in nairi.ask_many(AGENT, prompts, limit=LIMIT):
                assert outcome.reply  # noqa: S101 - what is measured must work
        else:
            output = directory / "replies.jsonl" if kind == "Batch with output" else None
            ledger = directory / "asking.sqlite"
            async with Batch(nairi, AGENT, prompts, ledger=ledger, output=output, limit=LIMIT) as outcomes:
                async for ended in outcomes:
                    assert ended.reply  # noqa: S101 - as above
            ledger.unlink()
            (directory / "replies.jsonl").unlink(missing_ok=True)
        return time.perf_counter() - began, time.process_time() - cpu


async def restart(url: str, key: str, directory: Path) -> list[tuple[str, float]]:
    """Seconds from the opening of a ledger to going on: with turns that run, and with items that have ended."""
    rows: list[tuple[str, float]] = []

    async def until(condition: Callable[[], object]) -> float:
        """Look often: what is waited for sets no event. Returns the time."""
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        return time.perf_counter()

    running, ended = directory / "running.sqlite", directory / "ended.sqlite"
    slow = [f"slow {number}" for number in range(RESTARTED)]
    async with session(url, key) as nairi, Batch(nairi, AGENT, slow, ledger=running, limit=RESTARTED) as outcomes:
        await until(lambda: outcomes.status.running == RESTARTED)
    async with session(url, key) as nairi:
        began = time.perf_counter()
        async with Batch(nairi, AGENT, [], ledger=running, limit=RESTARTED) as outcomes:
            ready = await until(lambda: outcomes.status.running == RESTARTED)
            rows.append(("all turns that run are waited for", ready - began))
    writer = await Writer.open(ended, AGENT, None, SystemClock())

    def fill(ledger: Ledger) -> None:
        for number in range(1, RESTARTED + 1):
            ledger.claim(BatchItem(f"prompt {number}", place=number), 0.0)
            ledger.finish(number, '{"messages":[],"turn":["job_1","cmsg_1"]}', is_done=True, cost=None)
        ledger.handed_over = RESTARTED

    await writer.call(fill)
    await writer.aclose()
    prompts = (f"prompt {number}" for number in range(1, RESTARTED + 2))
    async with session(url, key) as nairi:
        began = time.perf_counter()
        async with Batch(nairi, AGENT, prompts, ledger=ended, limit=LIMIT) as outcomes:
            ready = await until(lambda: outcomes.status.sending or outcomes.status.done > RESTARTED)
            rows.append(("all that have ended are passed over, and the next prompt leaves", ready - began))
    return rows


async def tables(directory: Path) -> None:
    """Print everything."""
    print(f"{'ledger alone':<64}{'items/s':>12}{'us CPU each':>12}")
    for at_once, count in ((1, 500), (LIMIT, LEDGER_ITEMS)):
        rounds = [await ledger_alone(directory, at_once, count) for _ in range(ROUNDS)]
        rate, used = sorted(rounds)[ROUNDS // 2]
        print(f"{f'{at_once} at once':<64}{rate:>12,.0f}{used:>12.0f}")
    with service() as (url, key):
        print(f"\n{f'{ASKED:,} prompts, {LIMIT} at once, answered at once':<64}{'s':>12}{'ms CPU each':>12}")
        kinds = ("ask_many", "Batch", "Batch with output")
        taken = {kind: [] for kind in kinds}  # type: dict[str, list[tuple[float, float]]]
        for _ in range(ROUNDS):
            for kind in kinds:
                taken[kind].append(await asking(url, key, directory, kind))
        for kind in kinds:
            took, used = sorted(taken[kind])[ROUNDS // 2]
            print(f"{kind:<64}{took:>12.1f}{used / ASKED * 1e3:>12.2f}")
    with service() as (url, key):
        print(f"\n{f'restart with {RESTARTED:,} items':<64}{'s':>12}")
        for name, took in await restart(url, key, directory):
            print(f"{name:<64}{took:>12.2f}")


def main() -> None:
    """Parse the arguments, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, help="kill a batch so often, and count what was lost")
    parser.add_argument("--seed", type=int, default=1, help="of the instants (%(default)s)")
    parser.add_argument("--directory", help="where the ledgers lie")
    options = parser.parse_args()
    with TemporaryDirectory(dir=options.directory) as directory:
        if options.kills is None:
            asyncio.run(tables(Path(directory)))
            return
        counted = asyncio.run(killed(Path(directory), count=options.kills * 15, kills=options.kills, seed=options.seed))
    for name, count in asdict(counted).items():
        print(f"{name.replace('_', ' '):<20}{count:>8,}")
    sys.exit(bool(counted.twice or counted.lost or counted.lines_missing or counted.lines_doubled or counted.status))


if __name__ == "__main__":
    main()
