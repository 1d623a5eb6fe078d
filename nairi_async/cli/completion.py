"""`nairi-async completion`: the table of commands, as a script for a shell."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Final

from nairi_async.cli.arguments import PROGRAM, PROGRAM_OPTIONS
from nairi_async.cli.command_table import COMMANDS
from nairi_async.cli.screen import Screen

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterable

    from nairi_async.cli.arguments import Argument, Command

_FUNCTION: Final = "_nairi_async"


def completion(options: Namespace) -> None:
    """Run the command `completion`."""
    Screen.on(sys.stdout).show(script(options.shell))


def script(shell: str) -> str:
    """Return the completion script for `bash`, `zsh` or `fish`."""
    return _SCRIPTS[shell]()


def _names(options: Iterable[Argument]) -> str:
    return " ".join(name for option in options for name in option.names)


def _bash() -> str:
    values = {
        name: option.choices
        for command in COMMANDS
        for option in command.options
        for name in option.names
        if option.choices
    }
    lines = [
        f"{_FUNCTION}() {{",
        '  local word command="" current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}" words=""',
        '  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do',
        '    case "$word" in -*) ;; *) command="$word"; break ;; esac',
        "  done",
        '  case "$command" in',
        f'    "") words="{" ".join(command.name for command in COMMANDS)} {_names(PROGRAM_OPTIONS)}" ;;',
        *(f'    {command.name}) words="{_names(command.options)}" ;;' for command in COMMANDS),
        "  esac",
        '  if [[ -n "$command" && "$current" != -* ]]; then words=""; fi',
        '  case "$command $current" in',
        *(f'    "{command.name} "*) words="{" ".join(command.choices)}" ;;' for command in COMMANDS if command.choices),
        "  esac",
        '  case "$previous" in',
        *(f'    {name}) words="{" ".join(choices)}" ;;' for name, choices in values.items()),
        "  esac",
        # Without words of ours, -o default completes file names. No mapfile: the bash of macOS does not have it.
        '  COMPREPLY=($(compgen -W "$words" -- "$current"))',
        "}",
        f"complete -o default -F {_FUNCTION} {PROGRAM}",
    ]
    return "\n".join(lines)


def _zsh() -> str:
    def specifications(option: Argument) -> list[str]:
        summary = option.summary.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")
        if option.choices:
            value = f":value:({' '.join(option.choices)})"
        else:
            value = ":value:_files" if option.takes_value else ""
        return [shlex.quote(f"{name}[{summary}]{value}") for name in option.names]

    def positional(command: Command) -> str:
        return shlex.quote(f"*:argument:({' '.join(command.choices)})" if command.choices else "*:argument:_files")

    def arguments(options: Iterable[Argument]) -> str:
        return " ".join(part for option in options for part in specifications(option))

    described = " ".join(
        shlex.quote(f"{command.name}:{command.summary.replace(':', chr(92) + ':')}") for command in COMMANDS
    )
    lines = [
        f"#compdef {PROGRAM}",
        f"{_FUNCTION}() {{",
        "  local context state state_descr line",
        "  typeset -A opt_args",
        f"  _arguments -C {arguments(PROGRAM_OPTIONS)} '1:command:->command' '*::argument:->argument'",
        '  case "$state" in',
        "    command)",
        f"      local -a commands=({described})",
        "      _describe command commands ;;",
        "    argument)",
        '      case "$line[1]" in',
        *(
            f"        {command.name}) _arguments {arguments(command.options)} {positional(command)} ;;"
            for command in COMMANDS
        ),
        "      esac ;;",
        "  esac",
        "}",
        # As a file of the function path the script is called at once; sourced, it registers its function.
        f'if [[ "$funcstack[1]" == {_FUNCTION} ]]; then {_FUNCTION} "$@"; else compdef {_FUNCTION} {PROGRAM}; fi',
    ]
    return "\n".join(lines)


def _fish() -> str:
    def quoted(text: str) -> str:
        escaped = text.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"

    def line(option: Argument, condition: str) -> str:
        flags = [
            f"-l {name.removeprefix('--')}" if name.startswith("--") else f"-s {name.removeprefix('-')}"
            for name in option.names
        ]
        if option.choices:
            value = [f"-x -a {quoted(' '.join(option.choices))}"]
        else:
            value = ["-r"] if option.takes_value else []
        return " ".join(["complete -c", PROGRAM, "-n", condition, *flags, *value, "-d", quoted(option.summary)])

    lines = [line(option, "__fish_use_subcommand") for option in PROGRAM_OPTIONS]
    for command in COMMANDS:
        description = quoted(command.summary)
        lines.append(f"complete -c {PROGRAM} -f -n __fish_use_subcommand -a {command.name} -d {description}")
        condition = quoted(f"__fish_seen_subcommand_from {command.name}")
        lines += [line(option, condition) for option in command.options]
        if command.choices:
            lines.append(f"complete -c {PROGRAM} -f -n {condition} -a {quoted(' '.join(command.choices))}")
    return "\n".join(lines)


_SCRIPTS: Final[dict[str, Callable[[], str]]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
