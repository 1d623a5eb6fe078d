"""A batch whose process is killed at random instants and run again until it is done, counted at the service.

Run `python benchmarks/soak_batch.py --minutes 5`: rounds of one batch each, as `nairi-async batch` in processes of its
own, in real time and with SIGKILL, each round with another seed and other quirks of a service that breaks every fourth
request. With `--cancelled` the process goes on: its batch is cancelled once or often, by a task or a scope, stopped, or
ended by a ledger that another program holds, and run again with the same session, in virtual time. It prints a table of
`benchmarks/README.md` and each wrong line, and exits with 1 if anything was lost or run twice.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import sqlite3
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

import anyio
from attrs import asdict, define, evolve
from soak import QUIRKS, RATE, faults

from nairi_async import LedgerError, NairiSession
from nairi_async._core import sqlite_file
from nairi_async.batch import Batch, read_status
from nairi_async.testing import FaultPlan, Quirks, Say, Simulator, VirtualClock
from nairi_async.testing.faults import FAULT_KINDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Sequence

    from aiohttp import web

    from nairi_async.batch import BatchStatus

# The command waits half a minute for an answer that hangs; prompts that are held until the kill stand for those.
KINDS: Final = tuple(kind for kind in FAULT_KINDS if not kind.startswith("hang"))
LOSSES: Final = ("run_twice", "lost", "lines_missing", "lines_doubled", "ended_wrongly")
# Seconds for which a lost prompt is looked for; the service never lags that much.
SETTLE: Final = 2.0
# Runs after the last kill, in which what could not be decided is looked at again.
_RUNS: Final = 5
# Generous: only what hangs takes this long.
_TIMEOUT: Final = 120


@define(kw_only=True)
class Counted:
    """What the service and the output of all runs together show."""

    prompts: int = 0
    kills: int = 0
    requests: int = 0
    faulty: int = 0
    in_doubt: int = 0
    """Prompts that were on their way when their process was killed, over all kills."""
    undecided: int = 0
    """Prompts that the last run reported as undecided."""
    run_twice: int = 0
    """Prompts that ran more than once, each time too often counted."""
    lost: int = 0
    """Prompts that never ran, and of which no run said so."""
    lines_missing: int = 0
    """Items without a line in the output that are not undecided."""
    lines_doubled: int = 0
    """Lines too many in the output, or with another item's reply."""
    ended_wrongly: int = 0
    """Last runs whose exit status is not what their outcome is."""

    def add(self, other: Counted) -> None:
        """Count another batch as well."""
        for name, count in asdict(other).items():
            setattr(self, name, getattr(self, name) + count)

    def judge(self, prompts: Sequence[str], ran: Counter[str], output: Path, left: BatchStatus, status: int) -> None:
        """Compare what ran, the output and the last run's report with what was sent; print each wrong line."""
        wanted = Counter(prompts)
        lines = [json.loads(line) for line in output.read_text().splitlines()]
        right = Counter[str]()
        for line in lines:
            if line.get("text") == f"re {prompts[int(line['id'])]}":
                right[line["id"]] += 1
            else:
                print(f"wrong, for {prompts[int(line['id'])]!r}: {json.dumps(line)}", file=sys.stderr)
        jobs = Counter(line.get("job_id") for line in lines)
        self.undecided = left.sending
        self.run_twice = (ran - wanted).total()
        self.lost = max(0, (wanted - ran).total() - left.sending)
        self.lines_missing = len(prompts) - len(right) - left.sending
        self.lines_doubled = len(lines) - len(right) + len(lines) - len(jobs)
        self.ended_wrongly = int(status != (5 if left.open else 0))

    @property
    def losses(self) -> dict[str, int]:
        """What must not be, as far as it was."""
        return {name: getattr(self, name) for name in LOSSES if getattr(self, name)}


async def killed(
    directory: Path, *, count: int, kills: int, seed: int, rate: float = 0.0, quirks: Quirks | None = None
) -> Counted:
    """Run a batch of so many prompts, several of them word for word the same, with so many kills."""
    choice = Random(seed)
    # Equal ones stand together, so that they are on their way together.
    prompts = [f"prompt {number - number % 3 if number % 10 < 3 else number}" for number in range(count)]
    source, ledger, output = (directory / name for name in ("prompts.jsonl", "run.sqlite", "replies.jsonl"))
    records = [{"id": str(number), "prompt": prompt} for number, prompt in enumerate(prompts)]
    source.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    words = (str(source), "--agent", "my-agent", "--ledger", str(ledger), "--output", str(output))
    asked, sent, gone = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def linger(request: web.Request, *_: object) -> None:
        """Time to be killed in, while a prompt is on its way and while its answer is."""
        asked.set()
        if request.method == "POST":
            sent.set()
            await gone.wait()
            await asyncio.sleep(choice.uniform(0, 0.06))

    counted = Counted(prompts=count, kills=kills)
    plan = FaultPlan(seed=seed, rates=dict.fromkeys(KINDS, rate / len(KINDS)), retry_after=0.5, slow_for=0.5, lag=0.3)
    async with Simulator(faults=plan, quirks=quirks or Quirks(), seed=seed) as simulator:
        simulator.agent("my-agent", lambda prompt, _: [Say(f"re {prompt}", after=choice.uniform(0, 0.4))])
        simulator.intercept = simulator.intercept_response = linger
        environment = {**os.environ, "NAIRI_BASE_URL": simulator.url, "NAIRI_API_KEY": simulator.api_key}

        async def run() -> asyncio.subprocess.Process:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", "nairi_async", "batch", *words, "--limit", "15", "--settle", str(SETTLE),
                env=environment, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip

        for number in range(kills):
            # Every second time the first prompt has no answer before the process is killed.
            is_held = number % 2 == 0
            asked.clear()
            sent.clear()
            if is_held:
                gone.clear()
            else:
                gone.set()
            process = await run()
            # From the first request on: before it nothing is at stake. There may be nothing left to do as well.
            await _first(process.wait(), (sent if is_held else asked).wait())
            if not is_held:
                await asyncio.sleep(choice.uniform(0, 1.0 if rate else 0.3))
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            counted.in_doubt += read_status(ledger).sending
        gone.set()
        for _ in range(_RUNS):
            process = await run()
            status = await asyncio.wait_for(process.wait(), _TIMEOUT + count)
            if not (left := read_status(ledger)).open:
                break
        ran = Counter(entry.prompt for entry in simulator.prompts)
        counted.requests = len(simulator.requests)
        counted.faulty = sum(request.fault is not None for request in simulator.requests)
    counted.judge(prompts, ran, output, left, status)
    return counted


@asynccontextmanager
async def interrupting(random: Random, outcomes: Batch, ledger: Path) -> AsyncIterator[None]:
    """Interrupt the block in one of the ways in which a process goes on, after a random number of passes."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in a task
    way = random.choice(("cancel", "cancel often", "scope", "stop", "held ledger"))
    held: list[sqlite3.Connection] = []

    async def interrupt() -> None:
        for _ in range(int(3000 * random.random() ** 2)):
            await asyncio.sleep(0)
        if way == "stop":
            outcomes.stop()
        elif way == "held ledger":
            held.append(sqlite3.connect(ledger, isolation_level=None, timeout=5))
            held[0].execute("BEGIN IMMEDIATE")
        elif way == "scope":
            scope.cancel()
        else:
            for _ in range(1 if way == "cancel" else 4):
                task.cancel()
                await asyncio.sleep(0)

    with anyio.CancelScope() as scope:
        interrupting = asyncio.create_task(interrupt())
        try:
            yield
        finally:
            interrupting.cancel()
            await asyncio.wait([interrupting])
            for connection in held:
                connection.close()


async def cancelled(
    directory: Path, *, count: int, kills: int, seed: int, rate: float = 0.0, quirks: Quirks | None = None
) -> Counted:
    """Run a batch in one process, in virtual time and with one session, interrupted so often, and then to its end."""
    random, clock, quirks = Random(seed), VirtualClock(), quirks or Quirks()
    prompts = [f"prompt {number - number % 3 if number % 10 < 3 else number}" for number in range(count)]
    ledger, output = directory / "run.sqlite", directory / "replies.jsonl"
    records = [{"id": str(number), "prompt": prompt} for number, prompt in enumerate(prompts)]
    counted = Counted(prompts=count, kills=kills)
    plan = evolve(faults(seed, rate, quirks, retry_after=0.5), lag=0.3)
    async with Simulator(clock=clock, faults=plan, quirks=quirks, seed=seed) as simulator:
        simulator.agent("my-agent", lambda prompt, _: [Say(f"re {prompt}", after=random.uniform(0, 5))])
        async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock) as nairi:

            def batch() -> Batch:
                return Batch(nairi, "my-agent", records, ledger=ledger, output=output, limit=15, settle=SETTLE)

            async def interrupted() -> None:
                with suppress(LedgerError):
                    async with batch() as outcomes, interrupting(random, outcomes, ledger):
                        async for _ in outcomes:
                            pass

            for _ in range(kills):
                # Another program that holds the ledger is waited for in real time.
                with patch.object(sqlite_file, "_BUSY_TIMEOUT", 0.02):
                    await asyncio.wait([asyncio.create_task(interrupted())])
                counted.in_doubt += read_status(ledger).sending if ledger.exists() else 0
            for _ in range(_RUNS):
                async with batch() as outcomes:
                    async for _outcome in outcomes:
                        pass
                if not (left := read_status(ledger)).open:
                    break
        ran = Counter(entry.prompt for entry in simulator.prompts)
        counted.requests = len(simulator.requests)
        counted.faulty = sum(request.fault is not None for request in simulator.requests)
    counted.judge(prompts, ran, output, left, 5 if left.open else 0)
    return counted


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait for the first of some events."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    ended, _ = await asyncio.wait(tasks, timeout=_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert ended, "the process neither asks nor ends"  # noqa: S101 - nothing else can be done about it


def main() -> int:
    """Go on for so long, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1, help="of the first round (%(default)s)")
    parser.add_argument("--rate", type=float, default=RATE, help="share of the requests that go wrong (%(default)s)")
    parser.add_argument("--prompts", type=int, default=120, help="of each round (%(default)s)")
    parser.add_argument("--kills", type=int, default=10, help="of each round (%(default)s)")
    parser.add_argument("--cancelled", action="store_true", help="in one process that goes on, in virtual time")
    options = parser.parse_args()
    total, until = Counted(), time.monotonic() + 60 * options.minutes
    for number in itertools.count():
        seed = options.seed + number
        quirks = QUIRKS[seed % len(QUIRKS)]
        with TemporaryDirectory() as directory:
            round_ = (cancelled if options.cancelled else killed)(
                Path(directory),
                count=options.prompts,
                kills=options.kills,
                seed=seed,
                rate=options.rate,
                quirks=quirks,
            )
            counted = asyncio.run(round_)
        if counted.losses:
            print(f"seed {seed}: {counted.losses}", file=sys.stderr)
        total.add(counted)
        if time.monotonic() > until:
            break
    how = "cancelled" if options.cancelled else "killed"
    print(f"| batches {how} and run again | count |", "| --- | --- |", sep="\n")
    for name, count in asdict(total).items():
        print(f"| {name.replace('_', ' ')} | {count:,} |")
    print(f"\n{number + 1} batches, {total.faulty / max(1, total.requests):.0%} of the requests faulty")
    return 1 if total.losses else 0


if __name__ == "__main__":
    sys.exit(main())
