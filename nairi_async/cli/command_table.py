"""What the command line understands, as data: the parser and the completion scripts are both made from it."""

from __future__ import annotations

import argparse
from typing import Any, Final, NoReturn

from attrs import field, frozen

import nairi_async
from nairi_async._core.checks import DEFAULT_TIMEOUT
from nairi_async._nairi.delivery.reconciler import SETTLING_TIME
from nairi_async._nairi.listing.listing import JOB_STATUSES
from nairi_async._nairi.listing.paging import SORTS

PROGRAM: Final = "nairi-async"
SHELLS: Final = ("bash", "fish", "zsh")
"""Shells for which there is a completion script."""
_HIGHEST_PORT: Final = 65535


@frozen(init=False)
class Argument:
    """An option, or a positional argument, of a command."""

    names: tuple[str, ...]
    """Several names only for an option, each with its dashes."""
    help: str
    settings: dict[str, Any] = field(eq=False)
    """Further keywords of `ArgumentParser.add_argument`."""

    def __init__(self, *names: str, help: str, **settings: Any) -> None:  # noqa: A002 - as argparse calls it
        self.__attrs_init__(names, help, settings)  # pyright: ignore[reportAttributeAccessIssue] - attrs makes it

    @property
    def is_option(self) -> bool:
        """Whether it is named on the command line."""
        return self.names[0].startswith("-")

    @property
    def takes_value(self) -> bool:
        """Whether a value follows the option."""
        return self.settings.get("action") not in {"help", "store_true", _ShowVersion}

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that it takes, if they are a closed set."""
        return tuple(self.settings.get("choices", ()))

    @property
    def summary(self) -> str:
        """The help text with its default value filled in."""
        return self.help % {"default": self.settings.get("default")}


@frozen
class Command:
    """A command."""

    name: str
    run: str
    """Its function, as `module:name` below this package: a module is imported only when its command runs."""
    summary: str
    """One line for the list of commands."""
    description: str
    arguments: tuple[Argument, ...]

    @property
    def options(self) -> tuple[Argument, ...]:
        """Its options, in the order of the help."""
        return (HELP, *(argument for argument in self.arguments if argument.is_option))

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of its positional arguments, if they are a closed set."""
        return tuple(value for argument in self.arguments if not argument.is_option for value in argument.choices)


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {count}")
    return count


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= _HIGHEST_PORT:
        raise argparse.ArgumentTypeError(f"{port} is not a port: 0 to {_HIGHEST_PORT}")
    return port


class _ShowVersion(argparse.Action):
    """Read the version only when it is asked for: that is slow, and a source tree that is not installed has none."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(f"{PROGRAM} {nairi_async.__version__}")  # noqa: T201 - as argparse's own action does
        parser.exit()


HELP: Final = Argument("-h", "--help", help="show this help and exit", action="help")
PROGRAM_OPTIONS: Final = (
    HELP,
    Argument("--version", help="show the version and exit", action=_ShowVersion, nargs=0),
)

_AGENT: Final = Argument("agent", help="slug or id of the agent", metavar="AGENT")
_JOB: Final = Argument("job", help="id of the conversation", metavar="JOB")
_ASK_MODE: Final = Argument("--ask-mode", help="let the agent read only, without tools", action="store_true")
_BASE_URL: Final = Argument(
    "--base-url", help="URL of the service; else NAIRI_BASE_URL, else the real service", metavar="URL"
)
_PROGRESS: Final = Argument("--progress", help="show what the agent is doing", action="store_true")
_TIMEOUT: Final = Argument(
    "--timeout",
    help="how long to wait (default: 6 hours); the turn itself continues",
    type=float,
    default=DEFAULT_TIMEOUT,
    metavar="SECONDS",
)


def _json(of: str) -> Argument:
    return Argument("--json", help=f"print {of} as one line of JSON", action="store_true")


COMMANDS: Final = (
    Command(
        "demo",
        "demo:demo",
        "show a conversation, without a key or an account",
        "Show a conversation of two turns with a simulated agent, and how to have one with the real service.",
        (Argument("--fast", help="run in virtual time: the whole demo in a moment", action="store_true"),),
    ),
    Command(
        "ask",
        "conversation:ask",
        "send a prompt and print the reply",
        "Send a prompt. The reply's text goes to standard output, everything else to standard error.",
        (
            _AGENT,
            Argument("prompt", help="the prompt, in quotes; - reads it from standard input", metavar="PROMPT"),
            _ASK_MODE,
            Argument(
                "--attachment-id",
                help="an uploaded file; may be repeated",
                dest="attachment_ids",
                action="append",
                default=[],
                metavar="ID",
            ),
            Argument(
                "--attach",
                help="a file to upload first; may be repeated",
                dest="attachments",
                action="append",
                default=[],
                metavar="FILE",
            ),
            _PROGRESS,
            _TIMEOUT,
            _json("the reply"),
            _BASE_URL,
        ),
    ),
    Command(
        "watch",
        "conversation:watch",
        "print the messages of a conversation as they come",
        "Print the messages of a conversation as they come, and at the end the command that continues from there.",
        (
            _JOB,
            Argument("--after", help="print only what follows this message", metavar="ID"),
            Argument("--follow", help="go on after the last turn has ended", action="store_true"),
            _PROGRESS,
            _TIMEOUT,
            _json("each message"),
            _BASE_URL,
        ),
    ),
    Command(
        "simulate",
        "simulate:simulate",
        "run the simulated service until Ctrl-C",
        "Run a simulated service on this machine until Ctrl-C or SIGTERM.",
        (
            Argument("--host", help="address to listen on (%(default)s)", default="127.0.0.1"),
            Argument("--port", help="port to listen on (0: any free one)", type=_port, default=0),
            Argument("--api-key", help="the key to accept, not a real one (%(default)s)", default="nr_simulator"),
        ),
    ),
    Command(
        "agents",
        "resources:agents",
        "list the agents of the organisation",
        "List the agents of the organisation: slug, id, name, description.",
        (_json("each agent"), _BASE_URL),
    ),
    Command(
        "conversations",
        "resources:conversations",
        "list the conversations of an agent",
        "List the conversations of an agent: id, status, time of the last change. Pages are read as they are printed.",
        (
            _AGENT,
            Argument(
                "--status",
                help="list only these; may be repeated",
                action="append",
                default=[],
                choices=JOB_STATUSES,
            ),
            Argument("--sort", help="the order (%(default)s)", default="created_at_desc", choices=SORTS),
            Argument("--limit", help="stop after so many", type=_count, metavar="N"),
            _json("each conversation"),
            _BASE_URL,
        ),
    ),
    Command(
        "messages",
        "resources:messages",
        "print the messages of a conversation as they are now",
        "Print the messages of a conversation as they are now, oldest first.",
        (
            _JOB,
            Argument("--progress", help="include what the agent was doing", action="store_true"),
            _json("each message"),
            _BASE_URL,
        ),
    ),
    Command(
        "upload",
        "resources:upload",
        "upload files and print their ids",
        "Upload files. Each row is the id, for --attachment-id, and the name.",
        (
            Argument("files", help="a file; - reads standard input", metavar="FILE", nargs="+"),
            Argument("--filename", help="the name to store instead of the file's own", metavar="NAME"),
            _json("each id"),
            _BASE_URL,
        ),
    ),
    Command(
        "download",
        "resources:download",
        "download files",
        "Download files into a directory and print their paths, or write one file to standard output.",
        (
            Argument("ids", help="id of a file", metavar="ID", nargs="+"),
            Argument("--directory", help="where to write (the current one)", metavar="DIR", default="."),
            Argument("--overwrite", help="replace files that exist", action="store_true"),
            Argument("--stdout", help="write the file to standard output instead", action="store_true"),
            _json("each path"),
            _BASE_URL,
        ),
    ),
    Command(
        "batch",
        "batch:batch",
        "send many prompts, and go on where an earlier run ended",
        "Send all prompts of a file, and go on where an earlier run ended. Replies go to --output, else they are"
        ' printed. Each line of the file is a JSON string, or an object with "prompt" and optionally "id" and'
        ' "attachments" (paths).',
        (
            Argument("prompts", help="file of JSON lines; - reads standard input", metavar="PROMPTS", nargs="?"),
            Argument("--agent", help="slug or id of the agent", metavar="AGENT"),
            Argument("--ledger", help="the file that records prompts and outcomes", metavar="FILE"),
            Argument("--output", help="append each outcome, once, as a line of JSON", metavar="FILE"),
            Argument(
                "--attachments-from",
                help="refuse attachments outside of this directory; without it the records may name any file that you"
                " can read, so give it if they come from others",
                metavar="DIR",
            ),
            Argument("--limit", help="conversations at once (%(default)s)", type=_count, default=100, metavar="N"),
            _ASK_MODE,
            Argument(
                "--timeout",
                help="how long to wait for each turn (default: 6 hours)",
                type=float,
                default=DEFAULT_TIMEOUT,
                metavar="SECONDS",
            ),
            Argument("--retry-failed", help="send again what ended without a reply", action="store_true"),
            Argument(
                "--on-unknown",
                help="look up prompts whose response was lost, or only report them (%(default)s)",
                choices=("reconcile", "report"),
                default="reconcile",
            ),
            Argument(
                "--settle",
                help="how long to look for them (%(default)s)",
                type=float,
                default=SETTLING_TIME,
                metavar="SECONDS",
            ),
            Argument("--status", help="show how far a batch is, and send nothing", action="store_true"),
            Argument("--check", help="check all records, and send nothing", action="store_true"),
            _json("the status or the check"),
            _BASE_URL,
        ),
    ),
    Command(
        "completion",
        "completion:completion",
        "print a script that completes commands in a shell",
        "Print a script that completes commands and options; source it from the shell's start-up file.",
        (Argument("shell", help="the shell", choices=SHELLS),),
    ),
)
"""All commands, in the order of the help."""
