"""`nairi-async batch`: many prompts from JSON lines, with a ledger from which the same command goes on."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import stat
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nairi_async._core.checks import DEFAULT_TIMEOUT
from nairi_async._core.json_body import json_line
from nairi_async._nairi.delivery.reconciler import SETTLING_TIME
from nairi_async.batch import Batch, JsonLines, read_status
from nairi_async.batch.documents import encode_result, output_line
from nairi_async.cli.command_table import PROGRAM
from nairi_async.cli.conversation import open_session
from nairi_async.cli.formatting import clean, one_line
from nairi_async.cli.progress_bar import ProgressBar, summary
from nairi_async.cli.screen import Screen
from nairi_async.cli.threaded_reader import ThreadedReader
from nairi_async.clock import SystemClock
from nairi_async.errors import InvalidArgumentError, LedgerError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Generator
    from types import FrameType
    from typing import Any, BinaryIO

    from nairi_async._nairi.session import NairiSession
    from nairi_async.batch import BatchOutcome, BatchStatus

_STDIN: Final = "-"
_FAILED: Final = 3
_OPEN: Final = 5
_INTERRUPTED: Final = 130


def batch(options: Namespace) -> int:
    """Run the command `batch`."""
    if options.status:
        return _show_status(options)
    if options.prompts is None or options.agent is None:
        raise InvalidArgumentError("give PROMPTS and --agent, or --status")
    session = open_session(options)
    stream = _open(options.prompts)
    try:
        _check_apart(stream, options)
        return asyncio.run(_batch(session, stream, options))
    except (asyncio.CancelledError, KeyboardInterrupt):
        _show_next_command(Screen.on(sys.stderr), options)
        return _INTERRUPTED
    finally:
        if options.prompts != _STDIN:
            stream.close()


async def _batch(session: NairiSession, stream: BinaryIO, options: Namespace) -> int:
    err = Screen.on(sys.stderr)
    lines = JsonLines(stream)
    is_file, size = _file_size(stream)
    run = Batch(
        session,
        options.agent,
        lines if is_file else ThreadedReader(lines),
        ledger=options.ledger,
        output=options.output,
        limit=options.limit,
        ask_mode=options.ask_mode,
        timeout=options.timeout,
        on_unknown=options.on_unknown,
        retry_failed=options.retry_failed,
        settle=options.settle,
    )

    def total() -> float | None:
        if lines.total is not None:
            return lines.total
        return lines.items_read * size / lines.bytes_read if size and lines.bytes_read else None

    is_open = False
    async with session:
        try:
            async with run as outcomes:
                is_open = True
                progress = ProgressBar(err, SystemClock(), lambda: run.status, total)
                with _interrupts(run, progress) as interrupted:
                    await _print(outcomes, progress, options)
        except LedgerError:
            # A ledger that cannot be opened would refuse the same command again.
            if is_open:
                _show_next_command(err, options)
            raise
    status = await asyncio.to_thread(read_status, options.ledger)
    err.show(_final_summary(status), "bold")
    if status.unusable:
        err.show(_advice(status.unusable), "red")
    if interrupted():
        _show_next_command(err, options)
        return _INTERRUPTED
    if status.open:
        _show_next_command(err, options)
        return _OPEN
    if status.failed:
        err.show(f"To ask again what failed: {_command(options)} --retry-failed", "dim")
    return _FAILED if status.failed or status.unusable else 0


async def _print(outcomes: Batch, progress: ProgressBar, options: Namespace) -> None:
    """Print the outcomes."""
    out = Screen.on(sys.stdout)
    async with progress.running():
        async for outcome in outcomes:
            if options.output is None and outcome.is_final:
                out.show(_output_line(outcome))
            if outcome.error is not None:
                progress.show(f"{_label(outcome)}  {one_line(str(outcome.error))}", "red")


def _label(outcome: BatchOutcome) -> str:
    if isinstance(outcome.error, InvalidArgumentError) and outcome.turn is None and not outcome.is_final:
        # Named by its line: its id may be missing, or belong to another record.
        return f"unusable  line {outcome.place}"
    return f"{'failed' if outcome.is_final else 'open'}  {one_line(outcome.id)}"


def _output_line(outcome: BatchOutcome) -> str:
    result = outcome.reply or outcome.error
    assert result is not None  # noqa: S101 - an outcome has one of them
    return output_line(outcome.id, encode_result(outcome.turn, result)).decode().rstrip("\n")


@contextmanager
def _interrupts(run: Batch, progress: ProgressBar) -> Generator[Callable[[], bool]]:
    """Handle Ctrl-C and SIGTERM: the first stops sending, the second stops at once, the third is the system's own."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    count = 0

    def interrupt() -> None:
        if count == 1:
            run.stop()
            progress.is_stopping = True
            progress.show("\nStopping: recording the prompts on their way. Ctrl-C again stops at once.", "yellow")
        elif task is not None:
            task.cancel()

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count > 1:
            signal.signal(number, before[number])
        loop.call_soon_threadsafe(interrupt)

    # The loop has handlers of its own, but not on Windows.
    before: dict[int, Any] = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: count > 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show_status(options: Namespace) -> int:
    status = read_status(options.ledger)
    out = Screen.on(sys.stdout)
    if options.json:
        out.show(json_line(status))
        return 0
    facts = (
        ("agent", status.agent_id),
        ("service", status.base_url),
        ("done", f"{status.done:,}"),
        ("failed", f"{status.failed:,}"),
        ("running", f"{status.running:,}"),
        ("sending", f"{status.sending:,}" + (" (in doubt)" if status.sending and not status.is_active else "")),
        ("unsent", f"{status.unsent:,} (of those read so far)"),
        ("unusable", f"{status.unusable:,} (of those read by the latest run)"),
        ("cost", f"${status.cost_usd:f}"),
        ("active", "yes" if status.is_active else "no"),
    )
    for name, fact in facts:
        out.show(clean(f"{name:<9} {fact}"))
    return 0


def _final_summary(status: BatchStatus) -> str:
    facts = [summary(status)]
    facts += [f"{status.running:,} still running"] if status.running else []
    facts += [f"{status.sending:,} in doubt"] if status.sending else []
    facts += [f"{status.unsent:,} not asked"] if status.unsent else []
    return ", ".join(facts) + "."


def _advice(unusable: int) -> str:
    if unusable == 1:
        return "1 record cannot be used: correct it, and run the same command again."
    return f"{unusable:,} records cannot be used: correct them, and run the same command again."


def _show_next_command(screen: Screen, options: Namespace) -> None:
    screen.show(f"Nothing is lost. To go on: {_command(options)}", "dim")


def _command(options: Namespace) -> str:
    words = [PROGRAM, "batch", options.prompts, "--agent", options.agent, "--ledger", options.ledger]
    words += ["--output", options.output] if options.output is not None else []
    words += ["--limit", str(options.limit)]
    words += ["--ask-mode"] if options.ask_mode else []
    words += ["--timeout", f"{options.timeout:g}"] if options.timeout != DEFAULT_TIMEOUT else []
    words += ["--on-unknown", options.on_unknown] if options.on_unknown != "reconcile" else []
    words += ["--settle", f"{options.settle:g}"] if options.settle != SETTLING_TIME else []
    words += ["--base-url", options.base_url] if options.base_url is not None else []
    return clean(shlex.join(words))


def _open(name: str) -> BinaryIO:
    if name == _STDIN:
        if sys.stdin is None:
            raise InvalidArgumentError("standard input is closed")
        # A reader of our own, which is never closed: the reading thread may hold it until the process ends.
        return open(sys.stdin.fileno(), "rb", closefd=False)
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise InvalidArgumentError(f"cannot read {name!r}: {error.strerror}") from error


def _check_apart(stream: BinaryIO, options: Namespace) -> None:
    """Refuse to read prompts from a file that the batch writes to: each reply would become a prompt, endlessly."""
    source = os.fstat(stream.fileno())
    for name in (options.output, options.ledger):
        if name is not None and Path(name).exists() and os.path.samestat(source, Path(name).stat()):
            raise InvalidArgumentError(f"{name!r} cannot be both read and written: name another file")
    with suppress(OSError, AttributeError):
        if stat.S_ISREG(source.st_mode) and os.path.samestat(source, os.fstat(sys.stdout.fileno())):
            raise InvalidArgumentError("standard output is the file of the prompts: name another --output")


def _file_size(stream: BinaryIO) -> tuple[bool, int]:
    """Return whether the stream is a file, whose reads never wait, and its size."""
    found = os.fstat(stream.fileno())
    return stat.S_ISREG(found.st_mode), found.st_size
