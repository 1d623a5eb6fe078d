"""What a cluster costs: CPU for each item in workers and database, workers side by side, memory, a kill, a backlog.

    python benchmarks/bench_cluster.py [--items N] [--waiting N] [--backlog N]

It prints one table, and takes about six minutes on two quiet cores.

The service, each worker and PostgreSQL (fsync on) are processes of their own. The same prompts run through the SQLite
batch as well: the difference is what the cluster costs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import psycopg
from postgres import Postgres, running_postgres
from soak_cluster import AGENT, service

from nairi_async.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Sequence

_TICK = os.sysconf("SC_CLK_TCK")


def show(what: str, figures: str) -> None:
    """Print a row of the table."""
    print(f"| {what} | {figures} |", flush=True)


def cpu_of(pid: int, *, with_ended: bool = False) -> float:
    """Return the CPU seconds of a process, and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return sum(int(fields[place]) for place in ((11, 12, 13, 14) if with_ended else (11, 12))) / _TICK


def cpu_of_server(postgres: Postgres) -> float:
    """Return the CPU seconds of the server with all of its processes."""
    assert postgres.process is not None  # noqa: S101 - it runs
    pid = postgres.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    return cpu_of(pid, with_ended=True) + sum(cpu_of(int(child)) for child in children)


def memory_of(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def start(environment: dict[str, str], *words: str) -> subprocess.Popen[bytes]:
    """Start a command."""
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "nairi_async", *words],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


async def submit(database: str, url: str, texts: Sequence[str]) -> float:
    """Submit prompts, and return how long that took."""
    began = time.monotonic()
    async with Cluster(database, base_url=url) as cluster:
        await cluster.submit("bench", AGENT, [{"id": str(n), "prompt": text} for n, text in enumerate(texts)])
    return time.monotonic() - began


def ended(connection: psycopg.Connection[tuple[int]]) -> int:
    """Return how many prompts have ended."""
    found = connection.execute("SELECT coalesce(sum(done + failed), 0)::bigint FROM nairi_batches").fetchone()
    return found[0] if found else 0


def bench_sqlite(environment: dict[str, str], texts: Sequence[str]) -> None:
    """Run the prompts through the batch with a ledger."""
    home = Path(tempfile.mkdtemp())
    prompts = home / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
    began, before = time.monotonic(), os.times().children_user + os.times().children_system
    words = ("batch", str(prompts), "--agent", AGENT, "--ledger", str(home / "run.sqlite"), "--limit", "150")
    start(environment, *words, "--output", str(home / "out.jsonl")).wait()
    cpu = os.times().children_user + os.times().children_system - before
    rate = len(texts) / (time.monotonic() - began)
    show("SQLite batch", f"{rate:.0f} items/s, {1000 * cpu / len(texts):.2f} ms of CPU an item")


def bench_workers(postgres: Postgres, environment: dict[str, str], texts: Sequence[str], count: int) -> None:
    """Run the prompts over some workers."""
    database = postgres.database()
    seconds = asyncio.run(submit(database, environment["NAIRI_BASE_URL"], texts))
    server = cpu_of_server(postgres)
    began = time.monotonic()
    workers = [start(environment, "worker", "--database", database, "--limit", "150") for _ in range(count)]
    # One connection: to begin one costs the server more than an item.
    with psycopg.connect(database, autocommit=True) as connection:
        while ended(connection) < len(texts):
            time.sleep(0.2)
    seconds_in_all = time.monotonic() - began
    cpu = sum(cpu_of(worker.pid) for worker in workers)
    server = cpu_of_server(postgres) - server
    for worker in workers:
        worker.terminate()
        worker.wait()
    show(
        f"{count} worker{'s' * (count > 1)}",
        f"{len(texts) / seconds_in_all:.0f} items/s, {1000 * cpu / len(texts):.2f} ms of CPU an item in workers"
        f" (their start included), {1000 * server / len(texts):.2f} ms in PostgreSQL; submitted in {seconds:.1f} s",
    )


def bench_waiting(postgres: Postgres, environment: dict[str, str], count: int) -> None:
    """Let one worker wait for many conversations; then kill it, and see when another goes on."""
    database = postgres.database()
    asyncio.run(submit(database, environment["NAIRI_BASE_URL"], [f"Slow {number}" for number in range(count)]))
    words = ("worker", "--database", database, "--limit", str(count))
    worker = start(environment, *words)
    with psycopg.connect(database, autocommit=True) as connection:
        query = "SELECT count(*) FROM nairi_items WHERE state = 'running'"
        deadline = time.monotonic() + 600
        running = 0
        while running < count and time.monotonic() < deadline:
            time.sleep(0.5)
            running = (connection.execute(query).fetchone() or (0,))[0]
        show(f"{running:,} waiting in one worker", f"{memory_of(worker.pid):.0f} MB")
        other = start(environment, *words)
        while (connection.execute("SELECT count(*) FROM nairi_workers").fetchone() or (0,))[0] < 2:
            time.sleep(0.05)
        worker.kill()
        killed_at = time.monotonic()
        query = "SELECT count(*) FROM nairi_items WHERE owner = (SELECT max(id) FROM nairi_workers)"
        taken = first = 0.0
        while taken < running and time.monotonic() < killed_at + 120:
            time.sleep(0.1)
            taken = (connection.execute(query).fetchone() or (0,))[0]
            first = first or (time.monotonic() - killed_at if taken else 0.0)
        text = f"the first go on after {first:.1f} s, all {taken:,} after {time.monotonic() - killed_at:.1f} s"
        show("that worker killed", f"{text}; {memory_of(other.pid):.0f} MB in the other then")
    worker.wait()
    other.kill()
    other.wait()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--waiting", type=int, default=10_000)
    parser.add_argument("--backlog", type=int, default=100_000)
    options = parser.parse_args()
    report = Path(tempfile.mkdtemp()) / "report.json"
    texts = [f"Prompt {number}" for number in range(options.items)]
    load = os.getloadavg()[0]
    print(f"| {options.items:,} prompts, load of the machine {load:.1f} | measured |\n| --- | --- |", flush=True)
    with service(report) as (_, url), running_postgres("max_connections=200") as postgres:
        environment = {**os.environ, "NAIRI_BASE_URL": url, "NAIRI_API_KEY": "nr_simulator"}
        bench_sqlite(environment, texts)
        for count in (1, 2, 4):
            bench_workers(postgres, environment, texts, count)
        bench_waiting(postgres, environment, options.waiting)
        backlog = postgres.database()
        seconds = asyncio.run(submit(backlog, url, [f"Prompt {number}" for number in range(options.backlog)]))
        size = postgres.execute("SELECT pg_database_size(current_database())", backlog.rpartition("/")[2])[0][0]
        each = int(str(size)) / options.backlog
        show(f"a backlog of {options.backlog:,}", f"submitted in {seconds:.1f} s, {each:.0f} bytes each")


if __name__ == "__main__":
    main()
