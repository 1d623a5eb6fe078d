"""`nairi-async batch`: many prompts from JSON lines, with a ledger from which the same command resumes."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nairi_async.batch import Batch, CsvRows, JsonLines, TextLines, read_status
from nairi_async.cli import cluster, exit_status, log_handler
from nairi_async.cli.batch_reports import (
    final_summary,
    how_to_correct,
    next_command,
    reply_line,
    show_check,
    show_status,
)
from nairi_async.cli.connection import open_session
from nairi_async.cli.formatting import one_line, outcome_label
from nairi_async.cli.interrupts import interrupts
from nairi_async.cli.progress_bar import ProgressBar
from nairi_async.cli.screen import Screen
from nairi_async.cli.threaded_reader import ThreadedReader
from nairi_async.clock import SystemClock
from nairi_async.errors import InvalidArgumentError, LedgerError, OtherPromptsError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable
    from typing import BinaryIO

    from nairi_async._nairi.session import NairiSession

_STDIN: Final = "-"


def batch(options: Namespace) -> int:
    """Run the command `batch`."""
    if options.database is not None and not options.check:
        return _on_database(options)
    _check_options(options)
    if options.status:
        show_status(options)
        return 0
    session = None if options.check else open_session(options)
    stream = _open(options.prompts)
    try:
        _check_apart(stream, options)
        if session is None:
            return 0 if show_check(_records(stream, options), options) else exit_status.FAILED
        return asyncio.run(_batch(session, stream, options))
    except (asyncio.CancelledError, KeyboardInterrupt):
        if session is not None:
            _show_next_command(Screen.on(sys.stderr), options)
        return exit_status.INTERRUPTED
    finally:
        if options.prompts != _STDIN:
            stream.close()


def _on_database(options: Namespace) -> int:
    if options.status:
        return cluster.show_status(options)
    if options.prompts is None:
        raise InvalidArgumentError("PROMPTS must be given")
    stream = _open(options.prompts)
    try:
        _check_apart(stream, options)
        return cluster.submit_and_follow(_records(stream, options), options)
    finally:
        if options.prompts != _STDIN:
            stream.close()


def _check_options(options: Namespace) -> None:
    if options.name is not None:
        raise InvalidArgumentError("--name goes with --database: a ledger is a batch of its own")
    if options.json and not (options.status or options.check):
        raise InvalidArgumentError("--json goes with --status or --check: replies are lines of JSON without it")
    if options.status:
        required: dict[str, object] = {"--ledger": options.ledger}
    elif options.check:
        required = {"PROMPTS": options.prompts}
    else:
        required = {"PROMPTS": options.prompts, "--agent": options.agent, "--ledger": options.ledger}
    if missing := [name for name, value in required.items() if value is None]:
        raise InvalidArgumentError(f"{' and '.join(missing)} must be given")


async def _batch(session: NairiSession, stream: BinaryIO, options: Namespace) -> int:
    err = Screen.on(sys.stderr)
    lines = _records(stream, options)
    run = Batch(
        session,
        options.agent,
        lines if lines.is_rereadable else ThreadedReader(lines),
        ledger=options.ledger,
        output=options.output,
        attachments_from=options.attachments_from,
        limit=options.limit,
        ask_mode=options.ask_mode,
        timeout=options.timeout,
        on_unknown=options.on_unknown,
        retry_failed=options.retry_failed,
        settle=options.settle,
    )
    is_open = False
    async with session:
        try:
            async with run as outcomes:
                is_open = True
                progress = ProgressBar(err, SystemClock(), lambda: run.status, lambda: lines.total)
                with interrupts(_stopper(run, progress), handled=2) as interrupted:
                    await _print(outcomes, progress, options)
        except LedgerError as error:
            # A ledger that cannot be opened, or that holds other prompts, would refuse the same command again.
            if is_open and not isinstance(error, OtherPromptsError):
                _show_next_command(err, options)
            raise
    status = await asyncio.to_thread(read_status, options.ledger)
    err.show(final_summary(status), "bold")
    if status.unusable:
        err.show(how_to_correct(status.unusable), "red")
    if interrupted():
        _show_next_command(err, options)
        return exit_status.INTERRUPTED
    if status.open:
        _show_next_command(err, options)
        return exit_status.OPEN
    if status.failed:
        err.show(f"To ask again what failed: {next_command(options)} --retry-failed", "dim")
    return exit_status.FAILED if status.failed or status.unusable else 0


async def _print(outcomes: Batch, progress: ProgressBar, options: Namespace) -> None:
    """Print the outcomes."""
    out = Screen.on(sys.stdout)
    loop = asyncio.get_running_loop()

    def show_log(text: str, *styles: str) -> None:
        # Other threads log as well.
        loop.call_soon_threadsafe(progress.show, text, *styles)

    with log_handler.shown_by(show_log):
        async with progress.running():
            async for outcome in outcomes:
                if options.output is None and outcome.is_final:
                    out.show(reply_line(outcome).decode().rstrip("\n"))
                if outcome.error is not None:
                    progress.show(f"{outcome_label(outcome)}  {one_line(str(outcome.error))}", "red")


def _stopper(run: Batch, progress: ProgressBar) -> Callable[[int], None]:
    """Return what handles signals: the first stops sending, the second stops the task that calls this at once."""
    task = asyncio.current_task()

    def stop(count: int) -> None:
        if count == 1:
            run.stop()
            progress.is_stopping = True
            progress.show("\nStopping: recording the prompts being sent. Ctrl-C again stops at once.", "yellow")
        elif task is not None:
            task.cancel()

    return stop


def _show_next_command(screen: Screen, options: Namespace) -> None:
    screen.show(f"Nothing is lost. To go on: {next_command(options)}", "dim")


def _records(stream: BinaryIO, options: Namespace) -> JsonLines:
    """Return the records of a file in its format."""
    kinds = {"json": JsonLines, "csv": CsvRows, "text": TextLines}
    by_name = {".csv": CsvRows, ".tsv": CsvRows, ".txt": TextLines}
    kind = by_name.get(Path(options.prompts).suffix.lower(), JsonLines)
    return (kind if options.format is None else kinds[options.format])(stream)


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
