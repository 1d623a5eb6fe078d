"""What the ledger of a batch costs, and how soon a batch goes on after a restart.

Run `python benchmarks/bench_batch.py`; it takes some minutes. The service runs in a process of its own; the ledger lies
in the directory for temporary files, or in `--directory`.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from child_process import child

from nairi_async import NairiSession, Polling, Turn
from nairi_async.batch import Batch, BatchItem
from nairi_async.batch.ledger import Ledger
from nairi_async.batch.writer import Writer
from nairi_async.clock import SystemClock
from nairi_async.testing import Say, Simulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

AGENT = "my-agent"
PROMPTS = 2_000
LIMIT = 200
LEDGER_ITEMS = 20_000
RESTARTED = 10_000
ROUNDS = 3
PAIRED_ROUNDS = 6


def _serve(pipe: Any) -> None:
    async def main() -> None:
        async with Simulator() as simulator:
            simulator.agent(AGENT, lambda prompt, _: [Say("Done.", after=3600 if prompt.startswith("slow") else 0)])
            pipe.send((simulator.url, simulator.api_key))
            await asyncio.to_thread(pipe.recv)

    asyncio.run(main())


@contextmanager
def service() -> Iterator[tuple[str, str]]:
    """Run the simulated service in a process of its own; yield its URL and key."""
    with child(_serve) as pipe:
        yield pipe.recv()


def session(url: str, key: str) -> NairiSession:
    """Return a session that polls seldom, since the ledger is measured."""
    return NairiSession(key, base_url=url, polling=Polling(delay=0.5))


async def ledger_alone(directory: Path, at_once: int, count: int) -> tuple[float, float]:
    """Items a second through claim, turn and end, so many at once; and processor time of each in microseconds."""
    path = directory / f"alone-{at_once}.sqlite"
    writer = await Writer.open(path, AGENT, None, SystemClock())
    numbers = iter(range(1, count + 1))

    async def work() -> None:
        for number in numbers:
            entry = await writer.submit(
                partial(Ledger.claim, item=BatchItem(f"prompt {number}", place=number), now=0.0)
            )
            assert entry is not None  # noqa: S101 - it is new
            turn = Turn(f"job_{number}", f"cmsg_{number}")
            await writer.submit(partial(Ledger.mark_running, number=entry.number, turn=turn))
            finish = partial(Ledger.finish, document='{"messages":[]}', is_done=True, cost=None)
            await writer.submit(partial(finish, number=entry.number))

    started_at, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(at_once)))
    took, used = time.perf_counter() - started_at, time.process_time() - cpu
    await writer.aclose()
    path.unlink()
    return count / took, used / count * 1e6


async def asking(url: str, key: str, directory: Path, kind: str) -> tuple[float, float, int]:
    """Seconds, processor seconds of this process, and requests for all prompts, with or without a ledger."""
    prompts = (f"prompt {number}" for number in range(PROMPTS))
    async with session(url, key) as nairi:
        started_at, cpu = time.perf_counter(), time.process_time()
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
        return time.perf_counter() - started_at, time.process_time() - cpu, nairi.stats.requests


async def until(condition: Callable[[], object]) -> float:
    """Check a condition, for which there is no event, until it holds; return the time."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    return time.perf_counter()


async def restart_running(url: str, key: str, directory: Path) -> list[float]:
    """Seconds from the opening of a ledger until all its turns, which run, are waited for."""
    ledger, taken = directory / "running.sqlite", []
    slow = [f"slow {number}" for number in range(RESTARTED)]
    async with session(url, key) as nairi, Batch(nairi, AGENT, slow, ledger=ledger, limit=RESTARTED) as outcomes:
        await until(lambda: outcomes.status.running == RESTARTED)
    for _ in range(ROUNDS):
        async with session(url, key) as nairi:
            started_at = time.perf_counter()
            async with Batch(nairi, AGENT, [], ledger=ledger, limit=RESTARTED) as outcomes:
                taken.append(await until(lambda: outcomes.status.running == RESTARTED) - started_at)
    return taken


async def restart_ended(url: str, key: str, directory: Path) -> list[float]:
    """Seconds from the opening of a ledger until the first prompt leaves that is not in it; all others have ended."""
    ledger, taken = directory / "ended.sqlite", []
    writer = await Writer.open(ledger, AGENT, None, SystemClock(), base_url=f"{url}/api/public/v1")

    def fill(ledger: Ledger) -> None:
        for number in range(1, RESTARTED + 1):
            ledger.claim(BatchItem(f"prompt {number}", place=number), 0.0)
            ledger.finish(number, '{"messages":[],"turn":["job_1","cmsg_1"]}', is_done=True, cost=None)
        ledger.handled = RESTARTED

    await writer.submit(fill)
    await writer.aclose()
    for round_ in range(ROUNDS):
        known = RESTARTED + round_
        prompts = (f"prompt {number}" for number in range(1, known + 2))
        async with session(url, key) as nairi:
            started_at = time.perf_counter()
            async with Batch(nairi, AGENT, prompts, ledger=ledger, limit=LIMIT) as outcomes:
                left = await until(lambda: outcomes.status.sending or outcomes.status.done > known)  # noqa: B023
                taken.append(left - started_at)
                async for _ in outcomes:
                    pass
    return taken


async def table(directory: Path) -> None:
    """Print everything; each figure is the median of the rounds."""
    print("| what | result | of each item |", "| --- | --- | --- |", sep="\n")
    for at_once, count in ((1, 500), (LIMIT, LEDGER_ITEMS)):
        rounds = [await ledger_alone(directory, at_once, count) for _ in range(ROUNDS)]
        rate, used = map(median, zip(*rounds, strict=True))
        print(f"| ledger alone, {at_once} at once | {rate:,.0f} items a second | {used:.0f} us CPU |", flush=True)
    with service() as (url, key):
        kinds = ("ask_many", "Batch", "Batch with output")
        taken = {kind: [] for kind in kinds}  # type: dict[str, list[tuple[float, float, int]]]
        for round_ in range(PAIRED_ROUNDS):
            # In turn: what else runs on the machine is then no advantage of the same one each time.
            for kind in (*kinds[round_ % 3 :], *kinds[: round_ % 3]):
                taken[kind].append(await asking(url, key, directory, kind))
        for kind in kinds:
            took, used, requests = map(median, zip(*taken[kind], strict=True))
            each = f"{used / PROMPTS * 1e6:,.0f} us CPU, {requests / PROMPTS:.2f} requests"
            ratio = median(own[1] / bare[1] for own, bare in zip(taken[kind], taken["ask_many"], strict=True))
            what = f"{PROMPTS:,} prompts, {LIMIT} at once, `{kind}`"
            print(f"| {what} | {took:.1f} s | {each}, {ratio:.2f} of `ask_many` |", flush=True)
    with service() as (url, key):
        for name, restart in (
            ("turns that run, until all are waited for", restart_running),
            ("items that have ended, until the next prompt leaves", restart_ended),
        ):
            took = median(await restart(url, key, directory))
            each = f"{took / RESTARTED * 1e6:,.0f} us"
            print(f"| restart with {RESTARTED:,} {name} | {took:.2f} s | {each} |", flush=True)


def main() -> None:
    """Parse the arguments, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", help="where the ledgers lie")
    options = parser.parse_args()
    with TemporaryDirectory(dir=options.directory) as directory:
        asyncio.run(table(Path(directory)))


if __name__ == "__main__":
    main()
