"""Faults in a cluster, counted at the service: what ran twice, and what was lost.

    python benchmarks/soak_cluster.py [--minutes N] [--only NAME] [--prompts N]

Each row is a batch over two worker processes (`nairi-async worker`) and a PostgreSQL of its own (fsync on), while a
fault happens again and again. The simulator is a process of its own: a prompt takes up to 0.15 s to arrive, a turn 0.5
to 3 s, and the response up to 0.3 s to come back. With `--minutes` the whole table is repeated until the time is over.
Exit status 1 if anything ran twice or was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from attrs import define, field
from postgres import Postgres, running_postgres

from nairi_async.cluster import Cluster
from nairi_async.testing import Say, Simulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aiohttp import web

AGENT = "my-agent"
# Seconds for which a lost prompt is searched for; the simulator's prompts arrive within one.
SETTLE = 5.0
PAUSE = 12.0


async def serve(report: str) -> None:
    """Run the service until SIGTERM, and report what it was asked."""
    rnd = random.Random(1)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Simulator() as simulator:
        # Prompts that are called slow run for ten minutes.
        simulator.agent(
            AGENT,
            lambda prompt, _: [Say(f"Answer to {prompt}", after=600 if "Slow" in prompt else rnd.uniform(0.5, 3))],
        )

        async def before(request: web.Request) -> None:
            if request.method == "POST":
                await asyncio.sleep(rnd.uniform(0, 0.15))

        async def after(request: web.Request, _: web.StreamResponse) -> None:
            if request.method == "POST":
                await asyncio.sleep(rnd.uniform(0, 0.3))

        simulator.intercept, simulator.intercept_response = before, after
        print(simulator.url, flush=True)
        await stop.wait()
        seconds = Counter(int(one.at) for one in simulator.requests)
        document = {
            "prompts": Counter(one.prompt for one in simulator.prompts),
            "jobs": [one.job_id for one in simulator.prompts],
            "requests": len(simulator.requests),
            "worst_second": max(seconds.values(), default=0),
        }
        await asyncio.to_thread(Path(report).write_text, json.dumps(document), encoding="utf-8")


@define
class Field:
    """What a fault may reach."""

    postgres: Postgres
    database: str
    environment: dict[str, str]
    options: tuple[str, ...]
    workers: list[subprocess.Popen[bytes]] = field(factory=list)
    faults: int = 0
    rnd: random.Random = field(factory=lambda: random.Random(7))

    def start(self) -> subprocess.Popen[bytes]:
        """Start a worker."""
        words = ["worker", "--database", self.database, "--limit", "150", *self.options]
        log = os.open(os.environ.get("SOAK_LOG", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            return subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-m", "nairi_async", *words], env=self.environment, stderr=log
            )
        finally:
            os.close(log)

    def kill(self) -> None:
        """Kill a worker, and start another a moment later."""
        number = self.faults % len(self.workers)
        self.workers[number].kill()
        self.workers[number].wait()
        time.sleep(self.rnd.uniform(0, 2))
        self.workers[number] = self.start()

    def pause(self) -> None:
        """Stop a worker for longer than any timeout of the database."""
        victim = self.workers[self.faults % len(self.workers)]
        victim.send_signal(signal.SIGSTOP)
        time.sleep(PAUSE)
        victim.send_signal(signal.SIGCONT)

    def cut(self) -> None:
        """End the sessions that hold the locks of the workers, which notice with the next beat."""
        query = (
            "SELECT pg_terminate_backend(pid) FROM (SELECT DISTINCT pid FROM pg_locks"
            " WHERE locktype = 'advisory' AND classid = 1312901458 AND objid > 0) AS holders"
        )
        with contextlib.suppress(psycopg.Error), psycopg.connect(self.database, autocommit=True) as connection:
            connection.execute(query)

    def cut_all(self) -> None:
        """End all sessions of the workers."""
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'nairi_async'"
        with contextlib.suppress(psycopg.Error), psycopg.connect(self.database, autocommit=True) as connection:
            connection.execute(query)

    def crash(self) -> None:
        """Crash the database, as `pg_ctl stop -m immediate` does, and start it again."""
        self.postgres.crash()
        time.sleep(self.rnd.uniform(0, 2))
        self.postgres.start()

    def drain(self) -> None:
        """Stop a worker with SIGTERM, as a deployment does, and start another."""
        number = self.faults % len(self.workers)
        self.workers[number].terminate()
        self.workers[number].wait()
        self.workers[number] = self.start()


@define
class Scenario:
    """One row of the table."""

    name: str
    prompts: int
    fault: Callable[[Field], None] | None
    most: int
    every: float
    equal: int = 0
    """How many items have the same prompt; 0 for prompts that all differ."""
    per_second: float | None = None


SCENARIOS = (
    Scenario("SIGKILL", 2000, Field.kill, 24, 1.0),
    Scenario("SIGKILL, equal prompts", 600, Field.kill, 10, 1.5, equal=50),
    Scenario("SIGSTOP for 12 s", 800, Field.pause, 2, 3.0),
    Scenario("lock sessions cut", 1000, Field.cut, 6, 3.0),
    Scenario("all sessions cut", 1000, Field.cut_all, 6, 3.0),
    Scenario("PostgreSQL crashed", 1000, Field.crash, 3, 5.0),
    Scenario("SIGTERM", 1000, Field.drain, 6, 3.0),
    Scenario("60 requests a second", 400, None, 0, 0.0, per_second=60.0),
)


@contextlib.contextmanager
def service(report: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the simulator in a process of its own."""
    words = [sys.executable, __file__, "--serve", str(report)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - this very script
        try:
            yield process, (process.stdout.readline() if process.stdout else "").strip()
        finally:
            process.kill()


async def submit(database: str, url: str, texts: list[str]) -> None:
    """Submit a batch."""
    records = [{"id": str(number), "prompt": text} for number, text in enumerate(texts)]
    async with Cluster(database, base_url=url) as cluster:
        await cluster.submit("soak", AGENT, records, settle=SETTLE)


def run(postgres: Postgres, scenario: Scenario, count: int) -> dict[str, object]:
    """Run one row, and return what was counted."""
    database = postgres.database()
    report = Path(tempfile.mkdtemp()) / "report.json"
    texts = [f"Prompt {number % scenario.equal if scenario.equal else number}" for number in range(count)]
    with service(report) as (process, url):
        environment = {**os.environ, "NAIRI_BASE_URL": url, "NAIRI_API_KEY": "nr_simulator"}
        options = () if scenario.per_second is None else ("--requests-per-second", str(scenario.per_second))
        place = Field(postgres, database, environment, options)
        asyncio.run(submit(database, url, texts))
        began = time.monotonic()
        place.workers = [place.start(), place.start()]
        try:
            ended = follow(place, scenario, count)
        finally:
            for worker in place.workers:
                worker.terminate()
            for worker in place.workers:
                worker.wait()
        seconds = time.monotonic() - began
        process.terminate()
        process.wait()
    counted = json.loads(report.read_text(encoding="utf-8"))
    wanted = Counter(texts)
    with psycopg.connect(database) as connection:
        jobs = {job for (job,) in connection.execute("SELECT job_id FROM nairi_items WHERE state = 'done'")}
        doubtful = connection.execute("SELECT count(*) FROM nairi_items WHERE is_in_doubt").fetchone()
    return {
        "name": scenario.name,
        "prompts": count,
        "faults": place.faults,
        "twice": sum(max(0, asked - wanted[text]) for text, asked in counted["prompts"].items()),
        "lost": count - len(jobs & set(counted["jobs"])),
        "in doubt": doubtful[0] if doubtful else 0,
        "seconds": round(seconds, 1),
        "requests": counted["requests"],
        "worst second": counted["worst_second"],
        "ended": ended,
    }


def follow(place: Field, scenario: Scenario, count: int) -> int:
    """Cause faults until the batch has ended."""
    deadline = time.monotonic() + 420
    next_at = time.monotonic() + 8
    ended = 0
    while ended < count and time.monotonic() < deadline:
        time.sleep(0.25)
        # A worker that finds no database when it starts ends with an error; an orchestrator starts it again.
        place.workers = [place.start() if one.poll() is not None else one for one in place.workers]
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(place.database) as connection:
            found = connection.execute("SELECT done + failed FROM nairi_batches").fetchone()
            ended = found[0] if found else 0
        if scenario.fault is not None and place.faults < scenario.most and time.monotonic() > next_at:
            scenario.fault(place)
            place.faults += 1
            next_at = time.monotonic() + scenario.every * place.rnd.uniform(0.7, 1.3)
    return ended


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve")
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--only", default="")
    parser.add_argument("--prompts", type=int)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve))
        return 0
    is_bad = False
    until = time.monotonic() + 60 * options.minutes
    print("| fault | prompts | faults | ran twice | lost | in doubt | seconds | requests | worst second |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    while True:
        for scenario in SCENARIOS:
            if options.only not in scenario.name:
                continue
            with running_postgres("max_connections=200") as postgres:
                row = run(postgres, scenario, options.prompts or scenario.prompts)
            is_bad |= bool(row["twice"] or row["lost"])
            shown = ("name", "prompts", "faults", "twice", "lost", "in doubt", "seconds", "requests", "worst second")
            print("| " + " | ".join(str(row[name]) for name in shown) + " |", flush=True)
        if time.monotonic() >= until:
            return is_bad


if __name__ == "__main__":
    sys.exit(main())
