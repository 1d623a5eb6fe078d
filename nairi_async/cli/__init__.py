"""The command line `nairi-async`: what it understands, and how each run ends."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final, NoReturn, TextIO

import nairi_async
from nairi_async._nairi.delivery.reconciler import SETTLING_TIME
from nairi_async._nairi.listing.listing import JOB_STATUSES
from nairi_async._nairi.listing.paging import SORTS
from nairi_async.cli.completion import SHELLS, completion
from nairi_async.cli.output import PROGRAM, error_line, watch_command
from nairi_async.cli.style import Screen
from nairi_async.cli.surface import agents, conversations, download, messages, upload
from nairi_async.cli.talk import ask, watch
from nairi_async.errors import (
    ConfigurationError,
    InvalidArgumentError,
    NairiError,
    TurnFailedError,
    WatchTimeoutError,
)

_Run = Callable[[argparse.Namespace], int | None]
_HIGHEST_PORT: Final = 65535
# What a shell reports of a program that was ended by SIGINT and by SIGPIPE.
_INTERRUPTED: Final = 130
_BROKEN_PIPE: Final = 141

_EXAMPLES: Final = """\
examples:
  nairi-async demo
  nairi-async ask refund-agent "Refund the failed charge for cus_123." > reply.txt
  git diff | nairi-async ask reviewer - --ask-mode --progress
  nairi-async watch JOB --json | jq -r .content
  nairi-async upload report.pdf | cut -f 1
  nairi-async batch prompts.jsonl --agent AGENT --ledger run.sqlite --output replies.jsonl
  source <(nairi-async completion bash)

environment:
  NAIRI_API_KEY    the organisation's public key (nr_...); never an argument, which other users could see
  NAIRI_BASE_URL   another service than the real one, such as the one that "nairi-async simulate" runs

exit status:
  0 done   1 error   2 wrong usage or settings   3 the agent's turn, or some of a batch, failed   4 timeout
  5 some of a batch have not ended: the same command goes on   130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        try:
            return _run(argv)
        finally:
            # Here, not at the interpreter's end, where a pipe that broke would leave a complaint.
            if sys.stdout is not None:
                sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        _give_up(sys.stdout, sys.stderr)
        return _BROKEN_PIPE
    except OSError as error:
        _give_up(sys.stdout)
        Screen.on(sys.stderr).show(error_line(error), "red")
        return 1


def _run(argv: Sequence[str] | None) -> int:
    options = _parser().parse_args(argv)
    try:
        status: int | None = options.run(options)
    except NairiError as error:
        err = Screen.on(sys.stderr)
        err.show(error_line(error), "red")
        if error.turn is not None:
            again = watch_command(error.turn.job_id, error.turn.message_id, options.base_url)
            err.show(f"To see what the agent did: {again}", "dim")
        return _status(error)
    return status or 0


def _status(error: NairiError) -> int:
    match error:
        case ConfigurationError() | InvalidArgumentError():
            return 2
        case TurnFailedError():
            return 3
        case WatchTimeoutError():
            return 4
        case _:
            return 1


def _give_up(*streams: TextIO | None) -> None:
    """Let the interpreter's last flush of these streams go nowhere, since nothing can be written on them."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        if stream is not None:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class _Version(argparse.Action):
    """Looks the version up only when it is asked for, since a source tree that is not installed has none."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        Screen.on(sys.stdout).show(f"{PROGRAM} {nairi_async.__version__}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        PROGRAM,
        description="Conversations with Nairi agents: ask, watch, or try it out against a simulated service.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    command = _command(commands, "demo", _later("demo"), "see a conversation happen, without a key or an account")
    command.add_argument("--fast", action="store_true", help="in virtual time: the whole demo in a moment")

    command = _command(commands, "ask", ask, "send a prompt and print the reply")
    command.add_argument("agent", metavar="AGENT", help="slug or id of the agent")
    command.add_argument("prompt", metavar="PROMPT", help="what to say; - reads it from standard input")
    command.add_argument("--ask-mode", action="store_true", help="let the agent read only, without tools")
    command.add_argument(
        "--attachment-id", dest="attachment_ids", action="append", default=[], metavar="ID", help="an uploaded file"
    )
    command.add_argument(
        "--attach", dest="attachments", action="append", default=[], metavar="FILE", help="a file to upload first"
    )
    _add_polling(command, json_of="the reply")

    command = _command(commands, "watch", watch, "print the messages of a conversation as they come")
    command.add_argument("job", metavar="JOB", help="id of the conversation")
    command.add_argument("--after", metavar="ID", help="only what follows this message")
    command.add_argument("--follow", action="store_true", help="go on after the last turn has ended")
    _add_polling(command, json_of="each message")

    command = _command(commands, "simulate", _later("simulate"), "run the simulated service until Ctrl-C")
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    command.add_argument("--port", type=_port, default=0, help="port to listen on (0: any free one)")
    command.add_argument("--api-key", default="nr_simulator", help="the key to let in, no real one (%(default)s)")
    _add_surface(commands)
    _add_batch(commands)

    command = _command(commands, "completion", completion, "print a script that completes commands in a shell")
    command.add_argument("shell", choices=sorted(SHELLS), help="the shell")
    command.set_defaults(parser=parser)
    return parser


def _add_surface(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands around conversations."""
    command = _command(commands, "agents", agents, "list the agents of the organisation")
    _add_reading(command, json_of="each agent")

    command = _command(commands, "conversations", conversations, "list the conversations of an agent")
    command.add_argument("agent", metavar="AGENT", help="slug or id of the agent")
    command.add_argument(
        "--status", action="append", default=[], choices=JOB_STATUSES, help="only these; may be repeated"
    )
    command.add_argument("--sort", default="created_at_desc", choices=SORTS, help="the order (%(default)s)")
    command.add_argument("--limit", type=_count, metavar="N", help="stop after so many")
    _add_reading(command, json_of="each conversation")

    command = _command(commands, "messages", messages, "print the messages of a conversation as they are now")
    command.add_argument("job", metavar="JOB", help="id of the conversation")
    command.add_argument("--progress", action="store_true", help="include what the agent was doing")
    _add_reading(command, json_of="each message")

    command = _command(commands, "upload", upload, "upload files and print their ids")
    command.add_argument("files", metavar="FILE", nargs="+", help="a file; - reads standard input")
    command.add_argument("--filename", metavar="NAME", help="the name to store instead of the file's own")
    _add_reading(command, json_of="each id")

    command = _command(commands, "download", download, "download files")
    command.add_argument("ids", metavar="ID", nargs="+", help="id of an uploaded or made file")
    command.add_argument("--directory", metavar="DIR", default=".", help="where to write (the current one)")
    command.add_argument("--overwrite", action="store_true", help="replace files that are there")
    command.add_argument("--stdout", action="store_true", help="write the file to standard output instead")
    _add_reading(command, json_of="each path")


def _add_batch(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command for many prompts."""
    command = _command(commands, "batch", _later("batch"), "ask many prompts, and go on where an earlier run ended")
    command.add_argument("prompts", metavar="PROMPTS", nargs="?", help="file of JSON lines; - reads standard input")
    command.add_argument("--agent", metavar="AGENT", help="slug or id of the agent")
    command.add_argument("--ledger", metavar="FILE", required=True, help="what was asked and what came of it")
    command.add_argument("--output", metavar="FILE", help="append each reply once as a line of JSON")
    command.add_argument("--limit", type=_count, default=100, metavar="N", help="conversations at once (%(default)s)")
    command.add_argument("--ask-mode", action="store_true", help="let the agent read only, without tools")
    command.add_argument(
        "--timeout",
        type=float,
        default=nairi_async.DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help="how long to wait for each turn (default: 6 hours)",
    )
    command.add_argument("--retry-failed", action="store_true", help="ask again what had ended without a reply")
    command.add_argument(
        "--on-unknown",
        choices=("reconcile", "report"),
        default="reconcile",
        help="look for prompts whose answer was lost, or only report them (%(default)s)",
    )
    command.add_argument(
        "--settle", type=float, default=SETTLING_TIME, metavar="SECONDS", help="how long to look for them (%(default)s)"
    )
    command.add_argument("--status", action="store_true", help="show where a batch stands, and ask nothing")
    _add_reading(command, json_of="the status")


# What these commands need is slow to import, or not everywhere: not every Python was built with SQLite.
_LATER: Final = {
    "batch": """Ask all prompts of a file, and go on where an earlier run ended; replies go to --output or are printed.

    Each line of the file is a JSON string, or an object with "prompt" and, if wanted, "id" and "attachments" (paths).
    """,
    "demo": "Tell a conversation of two turns as it happens, and then how to have one with the real service.",
    "simulate": "Serve until Ctrl-C or SIGTERM, both of which are a normal end.",
}


def _later(name: str) -> _Run:
    """A command whose module is imported when it runs."""

    def run(options: argparse.Namespace) -> int | None:
        command: _Run = getattr(importlib.import_module(f"nairi_async.cli.{name}"), name)
        return command(options)

    run.__doc__ = _LATER[name]
    return run


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, run: _Run, told: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=told, description=run.__doc__, allow_abbrev=False)
    command.set_defaults(run=run, base_url=None)
    return command


def _add_polling(command: argparse.ArgumentParser, *, json_of: str) -> None:
    """Add what `ask` and `watch` have in common."""
    command.add_argument("--progress", action="store_true", help="show what the agent is doing")
    command.add_argument(
        "--timeout",
        type=float,
        default=nairi_async.DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help="how long to wait (default: 6 hours); the turn itself goes on",
    )
    _add_reading(command, json_of=json_of)


def _add_reading(command: argparse.ArgumentParser, *, json_of: str) -> None:
    """Add what every command that talks to the service has."""
    command.add_argument("--json", action="store_true", help=f"print {json_of} as one line of JSON")
    _add_service(command)


def _add_service(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--base-url", metavar="URL", help="where the service is; else NAIRI_BASE_URL, else the real one"
    )


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{count} is not a count: 1 or more")
    return count


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= _HIGHEST_PORT:
        raise argparse.ArgumentTypeError(f"{port} is not a port: 0 to {_HIGHEST_PORT}")
    return port
