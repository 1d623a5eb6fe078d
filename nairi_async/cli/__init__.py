"""The command `nairi-async`: conversations from a shell.

A reply goes to standard output, everything else to standard error. `--json` prints one object a line, in the fields of
the Python models. `nairi-async COMMAND --help` lists the options; on a narrow terminal wide tables are stacked.

```console
$ nairi-async demo --fast
$ nairi-async ask my-agent "Which charges failed?" --progress
$ nairi-async continue JOB "And yesterday?"
$ nairi-async chat my-agent --job JOB
$ nairi-async watch JOB --json
$ nairi-async messages JOB
$ nairi-async conversations my-agent --limit 10
$ nairi-async agents
$ nairi-async upload report.pdf
$ nairi-async download ID --directory copies
$ nairi-async batch prompts.csv --check
$ nairi-async batch prompts.csv --agent my-agent --ledger run.sqlite --output replies.jsonl
$ nairi-async batch --status --ledger run.sqlite
$ nairi-async amigo services
$ nairi-async amigo create SERVICE "Where is my order?"
$ nairi-async amigo ask CONVERSATION "And the other one?"
$ nairi-async amigo messages CONVERSATION
$ nairi-async amigo finish CONVERSATION
$ nairi-async amigo list
$ nairi-async completion bash
```

**chat** takes a prompt a line; a backslash at the end of a line goes on in the next. It shows what the agent does.
Ctrl-C stops the wait, and not the turn: an empty line waits again, and a further prompt is sent once the agent is done.
Ctrl-D, or Ctrl-C at the prompt, ends it and prints the command that goes on with the conversation, on any machine.

**simulate** plays either service for programs in any language: `--script FILE` says what each agent does (the format is
in `help(nairi_async.testing)`), `--amigo` plays Amigo, `--slow` takes twenty times as long, `--faults` lets a tenth of
the requests fail, `--concurrency 1` lets each agent run one turn at a time, `--strict-agents` refuses unknown agents.

**Environment.** The key is in `NAIRI_API_KEY`, or in a file that `NAIRI_API_KEY_FILE` names: one line, which only you
can read (0600). A file that others can write is refused. `NAIRI_BASE_URL` names another service. `HTTPS_PROXY` and
`NO_PROXY` say the way out, `SSL_CERT_FILE` who is trusted. Amigo has `AMIGO_API_KEY` (or `AMIGO_API_KEY_FILE`),
`AMIGO_API_KEY_ID`, `AMIGO_USER_ID`, `AMIGO_ORGANIZATION_ID` and `AMIGO_BASE_URL`.

**Logs.** `--verbose` shows each request, retry and poll on standard error, `--log-file FILE` appends them with their
times; a file that it makes is yours alone, one that exists keeps its permissions. Neither holds a key or a prompt.
Without them, warnings are shown.

**Exit status.**

| status | meaning |
| --- | --- |
| 0 | done |
| 1 | error: the service refused, or could not be reached |
| 2 | wrong usage or settings; nothing was sent |
| 3 | the agent's turn failed; of a batch, some failed, or records cannot be used |
| 4 | timeout: the turn goes on |
| 5 | of a batch, some have not ended: the same command resumes |
| 130 | interrupted by Ctrl-C |
| 141 | the reader of the output is gone |
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Final, NoReturn, TextIO

from nairi_async.cli import exit_status, log_handler
from nairi_async.cli.arguments import HELP, PROGRAM, PROGRAM_OPTIONS, Command
from nairi_async.cli.command_table import COMMANDS
from nairi_async.cli.formatting import error_line, watch_command
from nairi_async.cli.screen import Screen
from nairi_async.errors import (
    ConfigurationError,
    InvalidArgumentError,
    NairiError,
    TurnFailedError,
    WatchTimeoutError,
)

# User name and password of a URL.
_USER: Final = re.compile(r"(?<=://)\S*@")
_Run = Callable[[argparse.Namespace], int | None]

_EXAMPLES: Final = """\
examples:
  nairi-async demo
  nairi-async ask my-agent "Which charges failed?" > reply.txt
  git diff | nairi-async ask reviewer - --ask-mode --progress
  nairi-async watch JOB --json | jq -r .content
  nairi-async upload report.pdf | cut -f 1
  nairi-async batch prompts.csv --agent A --ledger run.sqlite
  source <(nairi-async completion bash)
"""
_ENVIRONMENT: Final = {
    "NAIRI_API_KEY": "the organisation's public key (nr_...); not an option, which other users could see",
    "NAIRI_API_KEY_FILE": "instead of it, a file that holds the key and that only you can read",
    "NAIRI_BASE_URL": "another service than the real one, such as the one that `nairi-async simulate` runs",
    "HTTPS_PROXY": "URL of a proxy; NO_PROXY names the hosts that are reached without it",
    "SSL_CERT_FILE": "a file with the certificates of the authorities that are trusted",
    "NO_COLOR": "anything: print without colours",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        try:
            return _run(argv)
        finally:
            # Flushed here, since the interpreter would complain about a broken pipe at its end.
            if sys.stdout is not None:
                sys.stdout.flush()
    except KeyboardInterrupt:
        return exit_status.INTERRUPTED
    except BrokenPipeError:
        _discard(sys.stdout, sys.stderr)
        return exit_status.BROKEN_PIPE
    except OSError as error:
        _discard(sys.stdout)
        Screen.on(sys.stderr).show(error_line(error), "red")
        return exit_status.ERROR


def _run(argv: Sequence[str] | None) -> int:
    parser = _parser()
    options, unknown = parser.parse_known_args(argv)
    if options.run is None:
        _refuse_words(parser, unknown) if unknown else options.parser.print_help()
        return 0
    try:
        _refuse_unknown(parser, options, unknown)
        module, function = options.run.split(":")
        run: _Run = getattr(importlib.import_module(f"{__name__}.{module}"), function)
        with log_handler.logs(verbose=options.verbose, file=options.log_file):
            status = run(options)
    except NairiError as error:
        err = Screen.on(sys.stderr)
        err.show(error_line(error), "red")
        if error.turn is not None:
            again = watch_command(error.turn.job_id, error.turn.message_id, options.base_url)
            err.show(f"To see what the agent did: {again}", "dim")
        return _exit_status(error)
    return status or 0


def _refuse_unknown(parser: argparse.ArgumentParser, options: argparse.Namespace, unknown: Sequence[str]) -> None:
    if not unknown:
        return
    if hasattr(options, "prompt") and not any(word.startswith("-") for word in unknown):
        prompt = " ".join((options.prompt or "", *unknown))
        raise InvalidArgumentError(f'the prompt must be one argument; quote it: "{prompt}"')
    _refuse_words(parser, unknown)


def _refuse_words(parser: argparse.ArgumentParser, words: Sequence[str]) -> NoReturn:
    """Show what is not understood, without the password of a URL behind a misspelt option."""
    parser.error(f"unrecognized arguments: {_USER.sub('***@', ' '.join(words))}")


def _exit_status(error: NairiError) -> int:
    match error:
        case ConfigurationError() | InvalidArgumentError():
            return exit_status.USAGE
        case TurnFailedError():
            return exit_status.FAILED
        case WatchTimeoutError():
            return exit_status.TIMEOUT
        case _:
            return exit_status.ERROR


def _discard(*streams: TextIO | None) -> None:
    """Discard what the interpreter flushes at its end, since these streams cannot be written any more."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        if stream is not None:
            os.dup2(null, stream.fileno())
    os.close(null)


def _parser() -> argparse.ArgumentParser:
    """Make the parser from the table of commands."""
    parser = argparse.ArgumentParser(
        PROGRAM,
        description="Conversations with Nairi agents: ask, watch, or try a simulated service.",
        epilog=_epilog(shutil.get_terminal_size().columns - 2),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.set_defaults(run=None, parser=parser)
    for argument in PROGRAM_OPTIONS:
        parser.add_argument(*argument.names, help=argument.help, **argument.settings)
    _add_commands(parser, COMMANDS)
    return parser


def _add_commands(parser: argparse.ArgumentParser, commands: Sequence[Command]) -> None:
    parsers = parser.add_subparsers(metavar="COMMAND")
    for command in commands:
        added = parsers.add_parser(
            command.name, help=command.summary, description=command.description, allow_abbrev=False, add_help=False
        )
        added.set_defaults(run=command.run, parser=added, base_url=None)
        if command.commands:
            added.add_argument(*HELP.names, help=HELP.help, **HELP.settings)
            _add_commands(added, command.commands)
            continue
        for argument in (*command.options, *(one for one in command.arguments if not one.is_option)):
            added.add_argument(*argument.names, help=argument.help, **argument.settings)


def _epilog(columns: int) -> str:
    """Return what stands below the help: examples, variables, and statuses, as lines of at most so many columns."""
    parts = [_EXAMPLES]
    statuses = {str(status): meaning for status, meaning in exit_status.MEANINGS.items()}
    for title, rows in (("environment", _ENVIRONMENT), ("exit status", statuses)):
        label = max(map(len, rows)) + 4
        room, below = max(columns, label + 20), " " * label
        lines = [
            textwrap.fill(text, room, initial_indent=f"  {name}".ljust(label), subsequent_indent=below)
            for name, text in rows.items()
        ]
        parts.append("\n".join((f"{title}:", *lines, "")))
    return "\n".join(parts)
