"""`nairi-async worker`, and `nairi-async batch` with `--database`: batches over many machines."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nairi_async._core.json_body import json_line, plain_decimal
from nairi_async._core.private_files import create_private
from nairi_async.batch.items import BatchItem
from nairi_async.cli import exit_status
from nairi_async.cli.batch_reports import reply_line
from nairi_async.cli.connection import open_session
from nairi_async.cli.formatting import clean, one_line, outcome_label
from nairi_async.cli.interrupts import interrupts
from nairi_async.cli.screen import Screen
from nairi_async.errors import ConfigurationError, InvalidArgumentError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Generator, Iterator

    from nairi_async.batch import JsonLines
    from nairi_async.cluster import Cluster, ClusterStatus

_MINUTE: Final = 60


def worker(options: Namespace) -> int:
    """Run the command `worker`."""
    if options.database is None:
        raise InvalidArgumentError("--database must be given")
    return asyncio.run(_work(options))


def submit_and_follow(records: JsonLines, options: Namespace) -> int:
    """Submit a file's prompts to a database, and print the outcomes until all have ended."""
    for name, value in (("--ledger", options.ledger), ("--attachments-from", options.attachments_from)):
        if value is not None:
            raise InvalidArgumentError(f"{name} does not go with --database")
    if missing := [name for name, value in (("--agent", options.agent), ("--name", options.name)) if value is None]:
        raise InvalidArgumentError(f"{' and '.join(missing)} must be given with --database")
    try:
        return asyncio.run(_follow(records, options))
    except (asyncio.CancelledError, KeyboardInterrupt):
        Screen.on(sys.stderr).show("The workers go on. Run the same command again to see the rest.", "dim")
        return exit_status.INTERRUPTED


def show_status(options: Namespace) -> int:
    """Print how far the batches of a database are, or the one that is named."""
    statuses = asyncio.run(_statuses(options))
    out = Screen.on(sys.stdout)
    for place, status in enumerate(statuses):
        if options.json:
            out.show(_status_line(status))
            continue
        if place:
            out.show("")
        for name, fact in _facts(status):
            out.show(clean(f"{name:<9} {fact}"))
    if not statuses:
        Screen.on(sys.stderr).show("No batch was submitted yet.", "dim")
    return 0


def _cluster(options: Namespace) -> Cluster:
    try:
        from nairi_async.cluster import Cluster as Opened  # noqa: PLC0415 - an extra, which other commands do without
    except ImportError as error:
        text = f"a database needs the extra: pip install 'nairi-async[cluster]' ({error})"
        raise ConfigurationError(text) from error
    return Opened(options.database.value, base_url=options.base_url)


async def _work(options: Namespace) -> int:
    err = Screen.on(sys.stderr)
    cluster = _cluster(options)
    async with open_session(options) as session, cluster:
        err.show(clean(f"Working on the batches of {cluster!r}. Ctrl-C hands on what runs."), "dim")

        def stop(_count: int) -> None:
            err.show("Stopping: recording the prompts being sent. Ctrl-C again stops at once.", "yellow")
            cluster.stop()

        with interrupts(stop):
            count = await cluster.work(
                session,
                limit=options.limit,
                requests_per_second=options.requests_per_second,
                concurrency=options.concurrency,
            )
        err.show(f"Stopped. {count:,} conversations were handed on; the other workers go on with them.", "dim")
    return 0


async def _follow(records: JsonLines, options: Namespace) -> int:
    out, err = Screen.on(sys.stdout), Screen.on(sys.stderr)
    async with _cluster(options) as cluster:
        batch = await cluster.submit(
            options.name,
            options.agent,
            _items(records),
            ask_mode=options.ask_mode,
            timeout=options.timeout,
            on_unknown=options.on_unknown,
            settle=options.settle,
            retry_failed=options.retry_failed,
        )
        status = await batch.status()
        err.show(clean(f"{options.name}: {status.open:,} open, {len(status.workers)} workers alive."), "dim")
        if not status.workers and status.open:
            err.show("No worker is alive: start `nairi-async worker` with the same --database.", "yellow")
        outcomes = batch.outcomes(options.reader)
        with _output(options.output) as write:
            async for outcome in outcomes:
                line = reply_line(outcome)
                write(line) if write else out.show(line.decode().rstrip("\n"))
                if outcome.error is not None:
                    err.show(f"{outcome_label(outcome)}  {one_line(str(outcome.error))}", "red")
        await outcomes.aclose()
        status = await batch.status()
    err.show(clean(f"{status.done:,} done, {status.failed:,} failed, ${plain_decimal(status.cost_usd)}."), "bold")
    return exit_status.OPEN if status.open else exit_status.FAILED if status.failed else 0


@contextmanager
def _output(name: str | None) -> Generator[Callable[[bytes], object] | None]:
    if name is None:
        yield None
        return
    try:
        # For its owner alone, as it holds replies.
        create_private(name)
        # Unbuffered: a line is in the file before the next outcome is asked for.
        file = Path(name).open("ab", buffering=0)  # noqa: SIM115 - closed below
    except OSError as error:
        raise InvalidArgumentError(f"cannot write {name!r}: {error.strerror}") from error
    with file:
        yield file.write


def _items(lines: JsonLines) -> Iterator[BatchItem]:
    for given in lines:
        if not isinstance(given, BatchItem):
            raise InvalidArgumentError(f"line {given.place}: {given.error}") from given.error
        yield given


async def _statuses(options: Namespace) -> list[ClusterStatus]:
    async with _cluster(options) as cluster:
        if options.name is not None:
            return [await (await cluster.batch(options.name)).status()]
        return await cluster.batches()


def _status_line(status: ClusterStatus) -> str:
    document = json.loads(json_line(status))
    return json.dumps({**document, "seconds_left": status.seconds_left})


def _facts(status: ClusterStatus) -> Iterator[tuple[str, str]]:
    yield "batch", status.name
    yield "agent", status.agent_id
    yield "service", status.base_url
    yield "done", f"{status.done:,}"
    yield "failed", f"{status.failed:,}"
    yield "running", f"{status.running:,}"
    yield "sending", f"{status.sending:,}" + (f" ({status.in_doubt:,} in doubt)" if status.in_doubt else "")
    yield "unsent", f"{status.unsent:,}"
    yield "cost", f"${plain_decimal(status.cost_usd)}"
    yield "speed", f"{status.per_minute:,.0f} a minute"
    left = status.seconds_left
    yield "left", "unknown" if left is None else f"{left / _MINUTE:,.0f} minutes"
    yield "workers", f"{len(status.workers)}"
    for one in status.workers:
        rate = "" if one.requests_per_second is None else f", {one.requests_per_second:g} requests a second in all"
        yield "", f"{one.host} process {one.pid}: {one.items:,} of {one.capacity:,} conversations{rate}"
