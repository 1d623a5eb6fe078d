"""What `nairi-async batch` reports of a batch: its status, the check of its records, the command that resumes it."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nairi_async._core.checks import DEFAULT_TIMEOUT
from nairi_async._core.json_body import json_line, plain_decimal
from nairi_async._core.private_files import resolved_path
from nairi_async._nairi.delivery.search_window import SETTLING_TIME
from nairi_async.batch import BatchItem, read_status
from nairi_async.batch.documents import outcome_line
from nairi_async.batch.source_check import SourceCheck
from nairi_async.cli.arguments import PROGRAM
from nairi_async.cli.formatting import clean, one_line, outcome_label
from nairi_async.cli.progress_bar import summary
from nairi_async.cli.screen import Screen

if TYPE_CHECKING:
    from argparse import Namespace

    from nairi_async.batch import BatchOutcome, BatchStatus, JsonLines, UnusableItem


def show_status(options: Namespace) -> None:
    """Print how far a batch is."""
    status = read_status(options.ledger)
    out = Screen.on(sys.stdout)
    if options.json:
        out.show(json_line(status))
        return
    facts = (
        ("agent", status.agent_id),
        ("service", status.base_url),
        ("done", f"{status.done:,}"),
        ("failed", f"{status.failed:,}"),
        ("running", f"{status.running:,}"),
        ("sending", f"{status.sending:,}" + (" (in doubt)" if status.sending and not status.is_active else "")),
        ("unsent", f"{status.unsent:,} (of those read so far)"),
        ("unusable", f"{status.unusable:,} (of those read by the latest run)"),
        ("cost", f"${plain_decimal(status.cost_usd)}"),
        ("active", "yes" if status.is_active else "no"),
    )
    for name, fact in facts:
        out.show(clean(f"{name:<9} {fact}"))


def show_check(lines: JsonLines, options: Namespace) -> bool:
    """Check all records, and print what is wrong with them; return whether all can be sent, and there are any.

    Raises:
        LedgerError: the records do not continue the ledger, or it cannot be read.
    """
    out, err = Screen.on(sys.stdout), Screen.on(sys.stderr)
    directory = None if options.attachments_from is None else resolved_path(options.attachments_from)
    check = SourceCheck(None if options.ledger is None else resolved_path(options.ledger), directory)
    missing = 0
    try:
        for given in lines:
            problem = check.problem(given)
            if problem is None and (error := _missing_file(given)) is not None:
                missing += 1
                err.show(clean(f"unusable  line {given.place}  {error}"), "red")
            elif problem is not None:
                err.show(f"{outcome_label(problem)}  {one_line(str(problem.error))}", "red")
        check.check_continuation()
    finally:
        check.close()
    unusable = check.unusable + missing
    if options.json:
        out.show(json.dumps({"records": check.records, "known": check.known, "unusable": unusable}))
    else:
        out.show(f"{check.records:,} records: {check.known:,} in the ledger, {unusable:,} cannot be used.")
    if unusable:
        err.show(how_to_correct(unusable), "red")
    elif not check.records:
        err.show("It has no records: is it the right file?", "red")
    return check.records > 0 and not unusable


def reply_line(outcome: BatchOutcome) -> bytes:
    """Return the line of JSON for an outcome, as a batch's output file has it."""
    result = outcome.reply or outcome.error
    assert result is not None  # noqa: S101 - an outcome has one of them
    return outcome_line(outcome.id, outcome.turn, result, outcome.replies, outcome.fields)


def final_summary(status: BatchStatus) -> str:
    """Return how a run ended."""
    facts = [summary(status)]
    facts += [f"{status.running:,} still running"] if status.running else []
    facts += [f"{status.sending:,} in doubt"] if status.sending else []
    facts += [f"{status.unsent:,} not asked"] if status.unsent else []
    return ", ".join(facts) + "."


def how_to_correct(unusable: int) -> str:
    """Return what to do about records that cannot be sent."""
    if unusable == 1:
        return "1 record cannot be used: correct it, and run the same command again."
    return f"{unusable:,} records cannot be used: correct them, and run the same command again."


def next_command(options: Namespace) -> str:
    """Return the command that resumes the batch."""
    words = [PROGRAM, "batch", options.prompts, "--agent", options.agent, "--ledger", options.ledger]
    words += ["--format", options.format] if options.format is not None else []
    words += ["--output", options.output] if options.output is not None else []
    words += ["--attachments-from", options.attachments_from] if options.attachments_from is not None else []
    words += ["--limit", str(options.limit)]
    words += ["--ask-mode"] if options.ask_mode else []
    words += ["--timeout", f"{options.timeout:g}"] if options.timeout != DEFAULT_TIMEOUT else []
    words += ["--on-unknown", options.on_unknown] if options.on_unknown != "reconcile" else []
    words += ["--settle", f"{options.settle:g}"] if options.settle != SETTLING_TIME else []
    words += ["--base-url", options.base_url] if options.base_url is not None else []
    return clean(shlex.join(words))


def _missing_file(item: BatchItem | UnusableItem) -> str | None:
    """Return what is wrong with the attachments of a record, if one of them is not a file."""
    if isinstance(item, BatchItem):
        for path in item.attachments:
            if not Path(path).is_file():
                return f"the attachment {path!r} is not a file"
    return None
