"""`nairi-async completion`: what the parser understands, as a script for a shell."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import TYPE_CHECKING, Final

from attrs import frozen

from nairi_async.cli.output import PROGRAM
from nairi_async.cli.style import Screen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_FUNCTION: Final = "_nairi_async"


@frozen
class Word:
    """Something that can be typed: an option or a command."""

    names: tuple[str, ...]
    told: str
    takes_value: bool = False
    choices: tuple[str, ...] = ()


@frozen
class Command:
    """A command with its options."""

    word: Word
    options: tuple[Word, ...]
    values: tuple[str, ...] = ()
    """What may stand as its argument, where that is a closed set."""


def completion(options: argparse.Namespace) -> None:
    """Print a script that completes commands and options; source it from the shell's start-up file."""
    Screen.on(sys.stdout).show(script(options.parser, options.shell))


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for `bash`, `zsh` or `fish`."""
    return SHELLS[shell](_options(parser), _commands(parser))


def _commands(parser: argparse.ArgumentParser) -> tuple[Command, ...]:
    found = []
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to ask what a parser knows
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - as above
            told = {choice.dest: choice.help or "" for choice in action._choices_actions}  # noqa: SLF001 - as above
            found += [
                Command(Word((name,), told.get(name, "")), _options(command), _values(command))
                for name, command in action.choices.items()
            ]
    return tuple(found)


def _values(parser: argparse.ArgumentParser) -> tuple[str, ...]:
    positional = (action for action in parser._actions if not action.option_strings)  # noqa: SLF001 - as above
    return tuple(str(choice) for action in positional for choice in action.choices or ())


def _options(parser: argparse.ArgumentParser) -> tuple[Word, ...]:
    return tuple(
        Word(
            tuple(action.option_strings),
            (action.help or "") % {**vars(action), "prog": PROGRAM},
            action.nargs != 0,
            tuple(str(choice) for choice in action.choices or ()),
        )
        for action in parser._actions  # noqa: SLF001 - as above
        if action.option_strings
    )


def _names(words: Sequence[Word]) -> str:
    return " ".join(name for word in words for name in word.names)


def _bash(options: Sequence[Word], commands: Sequence[Command]) -> str:
    values = {
        name: word.choices for command in commands for word in command.options for name in word.names if word.choices
    }
    lines = [
        f"{_FUNCTION}() {{",
        '  local word command="" current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}" words=""',
        '  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do',
        '    case "$word" in -*) ;; *) command="$word"; break ;; esac',
        "  done",
        '  case "$command" in',
        f'    "") words="{" ".join(command.word.names[0] for command in commands)} {_names(options)}" ;;',
        *(f'    {command.word.names[0]}) words="{_names(command.options)}" ;;' for command in commands),
        "  esac",
        '  if [[ -n "$command" && "$current" != -* ]]; then words=""; fi',
        '  case "$command $current" in',
        *(
            f'    "{command.word.names[0]} "*) words="{" ".join(command.values)}" ;;'
            for command in commands
            if command.values
        ),
        "  esac",
        '  case "$previous" in',
        *(f'    {name}) words="{" ".join(choices)}" ;;' for name, choices in values.items()),
        "  esac",
        # Without words of ours, -o default completes file names. No mapfile: the bash of macOS does not know it.
        '  COMPREPLY=($(compgen -W "$words" -- "$current"))',
        "}",
        f"complete -o default -F {_FUNCTION} {PROGRAM}",
    ]
    return "\n".join(lines)


def _zsh(options: Sequence[Word], commands: Sequence[Command]) -> str:
    def argument(word: Word) -> list[str]:
        told = word.told.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")
        value = f":value:({' '.join(word.choices)})" if word.choices else ":value:_files" if word.takes_value else ""
        return [shlex.quote(f"{name}[{told}]{value}") for name in word.names]

    def positional(command: Command) -> str:
        return shlex.quote(f"*:argument:({' '.join(command.values)})" if command.values else "*:argument:_files")

    def arguments(words: Sequence[Word]) -> str:
        return " ".join(part for word in words for part in argument(word))

    described = " ".join(
        shlex.quote(f"{command.word.names[0]}:{command.word.told.replace(':', chr(92) + ':')}") for command in commands
    )
    lines = [
        f"#compdef {PROGRAM}",
        f"{_FUNCTION}() {{",
        "  local context state state_descr line",
        "  typeset -A opt_args",
        f"  _arguments -C {arguments(options)} '1:command:->command' '*::argument:->argument'",
        '  case "$state" in',
        "    command)",
        f"      local -a commands=({described})",
        "      _describe command commands ;;",
        "    argument)",
        '      case "$line[1]" in',
        *(
            f"        {command.word.names[0]}) _arguments {arguments(command.options)} {positional(command)} ;;"
            for command in commands
        ),
        "      esac ;;",
        "  esac",
        "}",
        # Read as a file of the function path it is called at once; sourced, it is registered.
        f'if [[ "$funcstack[1]" == {_FUNCTION} ]]; then {_FUNCTION} "$@"; else compdef {_FUNCTION} {PROGRAM}; fi',
    ]
    return "\n".join(lines)


def _fish(options: Sequence[Word], commands: Sequence[Command]) -> str:
    def quoted(text: str) -> str:
        escaped = text.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"

    def option(word: Word, condition: str) -> str:
        flags = [
            f"-l {name.removeprefix('--')}" if name.startswith("--") else f"-s {name.removeprefix('-')}"
            for name in word.names
        ]
        value = [f"-x -a {quoted(' '.join(word.choices))}"] if word.choices else ["-r"] if word.takes_value else []
        return " ".join(["complete -c", PROGRAM, "-n", condition, *flags, *value, "-d", quoted(word.told)])

    lines = [option(word, "__fish_use_subcommand") for word in options]
    for command in commands:
        name = command.word.names[0]
        lines.append(f"complete -c {PROGRAM} -f -n __fish_use_subcommand -a {name} -d {quoted(command.word.told)}")
        seen = quoted(f"__fish_seen_subcommand_from {name}")
        lines += [option(word, seen) for word in command.options]
        if command.values:
            lines.append(f"complete -c {PROGRAM} -f -n {seen} -a {quoted(' '.join(command.values))}")
    return "\n".join(lines)


SHELLS: Final[dict[str, Callable[[Sequence[Word], Sequence[Command]], str]]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}
"""The shells that a script can be made for."""
