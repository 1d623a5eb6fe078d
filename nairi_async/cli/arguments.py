"""What commands are made of: arguments as data, and those that several commands share."""

from __future__ import annotations

import argparse
from typing import Any, Final, NoReturn

from attrs import field

import nairi_async
from nairi_async._core.checks import DEFAULT_TIMEOUT
from nairi_async._core.records import frozen

PROGRAM: Final = "nairi-async"
_HIGHEST_PORT: Final = 65535
_LARGEST_FACTOR: Final = 1e6


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
        """The help text with its values filled in."""
        return self.help % {"default": None, **self.settings}


@frozen
class Command:
    """A command."""

    name: str
    run: str | None
    """Its function, as `module:name` below this package: a module is imported only when its command runs."""
    summary: str
    """One line for the list of commands."""
    description: str
    arguments: tuple[Argument, ...] = ()
    commands: tuple[Command, ...] = ()
    """The commands below it, of which one must be named."""

    @property
    def options(self) -> tuple[Argument, ...]:
        """Its options, in the order of the help, and those of the commands below it."""
        given = [argument for argument in self.arguments if argument.is_option]
        below = [argument for command in self.commands for argument in command.options]
        return tuple({argument.names: argument for argument in (HELP, *given, *below)}.values())

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of its positional arguments, if they are a closed set: the commands below it, or words."""
        words = [value for argument in self.arguments if not argument.is_option for value in argument.choices]
        return (*(command.name for command in self.commands), *words)


def count(text: str) -> int:
    """Read a number of things, at least one."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def share(text: str) -> float:
    """Read a number between 0 and 1."""
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return number


def factor(text: str) -> float:
    """Read a positive number."""
    number = float(text)
    if not 0 < number <= _LARGEST_FACTOR:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def port(text: str) -> int:
    """Read the number of a port."""
    number = int(text)
    if not 0 <= number <= _HIGHEST_PORT:
        raise argparse.ArgumentTypeError(f"{number} is not a port: 0 to {_HIGHEST_PORT}")
    return number


def plain_url(text: str) -> str:
    """Read a URL without user name and password, which would stand in reports of local variables."""
    if "@" in text.partition("?")[0]:
        # The text is not quoted: a password would be in it.
        raise argparse.ArgumentTypeError("it holds a user name or password; the key is in the environment")
    return text


class _ShowVersion(argparse.Action):
    """Read the version only when it is asked for: that is slow, and a source tree that is not installed has none."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(f"{PROGRAM} {nairi_async.__version__}")  # noqa: T201 - as argparse's own action does
        parser.exit()


HELP: Final = Argument("-h", "--help", help="show this help and exit", action="help")
_VERBOSE: Final = "show every request, retry and poll on standard error"
_LOG_FILE: Final = "append the same, with times, to a file"
PROGRAM_OPTIONS: Final = (
    HELP,
    Argument("--version", help="show the version and exit", action=_ShowVersion, nargs=0),
    Argument("-v", "--verbose", help=_VERBOSE, action="store_true"),
    Argument("--log-file", help=_LOG_FILE, metavar="FILE"),
)

AGENT: Final = Argument("agent", help="slug or id of the agent", metavar="AGENT")
JOB: Final = Argument("job", help="id of the conversation", metavar="JOB")
ASK_MODE: Final = Argument("--ask-mode", help="let the agent read only, without tools", action="store_true")
# Without a default of their own: it would replace what stands in front of the command.
LOGGING: Final = (
    Argument("-v", "--verbose", help=_VERBOSE, action="store_true", default=argparse.SUPPRESS),
    Argument("--log-file", help=_LOG_FILE, metavar="FILE", default=argparse.SUPPRESS),
)
CONNECTION: Final = (
    Argument(
        "--base-url",
        help="URL of the service; else NAIRI_BASE_URL, else the real service",
        type=plain_url,
        metavar="URL",
    ),
    *LOGGING,
)
"""The options of every command that speaks to the service."""
PROMPT: Final = Argument("prompt", help="the prompt, in quotes; - reads it from standard input", metavar="PROMPT")
ATTACHMENTS: Final = (
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
)
PROGRESS: Final = Argument("--progress", help="show what the agent is doing", action="store_true")
TIMEOUT: Final = Argument(
    "--timeout",
    help="how long to wait (default: 6 hours); the turn itself continues",
    type=float,
    default=DEFAULT_TIMEOUT,
    metavar="SECONDS",
)


def json_option(of: str) -> Argument:
    """Return the option `--json` of a command that prints these."""
    return Argument("--json", help=f"print {of} as one line of JSON", action="store_true")
