"""Scripts of agents in a file of JSON, for `nairi-async simulate --script` and for tests in other languages."""

from __future__ import annotations

import json
import math
import re
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from attrs import NOTHING, Attribute, fields_dict, frozen

from nairi_async.testing import script
from nairi_async.testing.amigo import script as amigo_script
from nairi_async.testing.script import ScriptStep

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from attrs import AttrsInstance

    from nairi_async.testing.script import Script, Steps

    _Path = tuple[str | int, ...]

_SPACE: Final = re.compile(r"[ \t\r\n]*")
_NEVER: Final = "never"
_NAIRI: Final = (
    script.Say, script.Notice, script.Text, script.Thinking, script.Step, script.Subagent, script.Tool,
    script.Progress, script.Done, script.Fail,
)  # fmt: skip
_AMIGO: Final = (
    amigo_script.Speak, amigo_script.Think, amigo_script.Action, amigo_script.Line, amigo_script.Complete,
    amigo_script.Error, amigo_script.Cut, amigo_script.Hang,
)  # fmt: skip


class ScriptFileError(ValueError):
    """A file of scripts cannot be read. The text begins with the file, the line and the column."""


def load_scripts(path: str | os.PathLike[str]) -> dict[str, Script]:
    """Return the scripts of a file, by agent: `Simulator(agents=load_scripts("agents.json"))`.

    The file holds one JSON object; its keys are slugs of agents. A script is a text, which is the reply; a list of
    steps; `{"turns": [script, ...]}`, one for each turn of a conversation, the last one also for all that follow; or
    `{"prompts": {"text": script, ...}}`, of which the first counts whose text the prompt contains. A step is a text, or
    an object that begins with the name of a step of `nairi_async.testing` in lower case, and has its other settings:

        {"my-agent": [{"tool": "Bash", "input": "ls", "seconds": 2}, {"say": "Done.", "after": 1}],
         "broken": {"turns": ["Hello.", [{"fail": "out of disk", "after": 3}]]},
         "endless": [{"step": "Thinking"}, {"done": true, "after": "never"}]}

    Raises:
        ScriptFileError: the file cannot be read, or something in it is not a script.
    """
    return _load(path, _Reader(_NAIRI, script.steps_of))


def load_amigo_scripts(path: str | os.PathLike[str]) -> dict[str, Script]:
    """Return the scripts of a file, by the name of the service, for `AmigoSimulator.service`; see `load_scripts`.

    The steps are those of `nairi_async.testing.amigo`: `{"speak": "Hello.", "after": 1}`, `{"cut": true}`.

    Raises:
        ScriptFileError: as for `load_scripts`.
    """
    return _load(path, _Reader(_AMIGO, amigo_script.steps_of))


def slowed(given: Script, factor: float) -> Script:
    """Return a script in which everything takes `factor` times as long."""

    def script(prompt: str, turn_number: int) -> Steps:
        steps = given(prompt, turn_number) if callable(given) else given
        return [_slowed(step, factor) for step in ((steps,) if isinstance(steps, str) else steps)]

    return script


def _slowed(step: ScriptStep | str, factor: float) -> ScriptStep | str:
    if isinstance(step, str):
        return step
    named = {name: getattr(step, name) for name in _attributes(type(step))}
    return type(step)(**{name: value * factor if name in _DURATIONS else value for name, value in named.items()})


_TEXTS: Final = frozenset({"text", "name", "summary", "type"})
_DURATIONS: Final = frozenset({"after", "seconds", "unfinished_for", "every"})


def _load(path: str | os.PathLike[str], reader: _Reader) -> dict[str, Script]:
    name = Path(path).name
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ScriptFileError(f"{name}:1:1: not UTF-8 text") from error
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ScriptFileError(f"{name} cannot be read: {reason}") from error
    try:
        document = json.loads(text)
        positions = _Positions(text)
    except json.JSONDecodeError as error:
        raise ScriptFileError(f"{name}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from error
    except RecursionError as error:
        raise ScriptFileError(f"{name}:1:1: nested too deeply") from error
    try:
        _check(document, positions)
        return {key: reader.script(value, (key,)) for key, value in document.items()}
    except _WrongError as error:
        line, column = positions.of(error.path)
        raise ScriptFileError(f"{name}:{line}:{column}: {error.text}") from error


def _check(document: object, positions: _Positions) -> None:
    if positions.repeated is not None:
        raise _WrongError(positions.repeated, "the key is there twice")
    if not isinstance(document, dict) or not document:
        raise _WrongError((), "expected an object with a script for each agent or service")


class _WrongError(Exception):
    """Something in the document is not a script."""

    def __init__(self, path: _Path, text: str) -> None:
        super().__init__(path, text)
        self.path, self.text = path, text


class _Positions:
    """Where each value of a JSON document stands; the document is known to be JSON."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._decoder = json.JSONDecoder()
        self._found: dict[_Path, int] = {}
        self.repeated: _Path | None = None
        self._walk(0, ())

    def of(self, path: _Path) -> tuple[int, int]:
        """Return line and column of a value, both from 1."""
        at = self._found[path]
        return self._text.count("\n", 0, at) + 1, at - self._text.rfind("\n", 0, at)

    def _walk(self, at: int, path: _Path) -> int:
        at = self._skip(at)
        if path in self._found:
            self.repeated = path
        self._found[path] = at
        opening = self._text[at]
        if opening not in "{[":
            return self._decoder.raw_decode(self._text, at)[1]
        at, number = self._skip(at + 1), 0
        while self._text[at] not in "}]":
            key: str | int = number
            if opening == "{":
                key, at = self._decoder.raw_decode(self._text, at)
                at = self._skip(at) + 1
            at, number = self._skip(self._walk(at, (*path, key))), number + 1
            at = self._skip(at + 1) if self._text[at] == "," else at
        return at + 1

    def _skip(self, at: int) -> int:
        found = _SPACE.match(self._text, at)
        return at if found is None else found.end()


@frozen
class _Reader:
    """Makes scripts of JSON, with the steps of one service."""

    kinds: tuple[type[ScriptStep], ...]
    steps_of: Any
    """Checks the order of the steps."""

    def script(self, given: object, path: _Path) -> Script:
        match given:
            case str():
                return given
            case list():
                return self._steps(given, path)
            case {"turns": list(turns), **rest} if turns and not rest:
                return _by_turn([self.script(one, (*path, "turns", at)) for at, one in enumerate(turns)])
            case {"prompts": dict(prompts), **rest} if prompts and not rest:
                return _by_prompt({key: self.script(one, (*path, "prompts", key)) for key, one in prompts.items()})
            case _:
                text = 'a script is a text, a list of steps, {"turns": [script, ...]} or {"prompts": {"text": script}}'
                raise _WrongError(path, text)

    def _steps(self, given: list[Any], path: _Path) -> Steps:
        steps = [self._step(one, (*path, at)) for at, one in enumerate(given)]
        try:
            self.steps_of(steps, "", 1)
        except (TypeError, ValueError) as error:
            raise _WrongError(path, str(error)) from error
        return steps

    def _step(self, given: object, path: _Path) -> ScriptStep | str:
        if isinstance(given, str):
            return given
        named = {kind.__name__.lower(): kind for kind in self.kinds}
        if not isinstance(given, dict) or not given:
            raise _WrongError(path, f"a step is a text, or an object with one of {', '.join(named)}")
        name = next((key for key in given if key in named), None)
        if name is None:
            raise _WrongError(path, f"unknown step {_misspelt(next(iter(given)), named)}")
        kind = named[name]
        settings = dict(_setting(kind, key, value, (*path, key), is_name=key == name) for key, value in given.items())
        settings.pop("", None)
        try:
            return kind(**settings)
        except (TypeError, ValueError) as error:
            raise _WrongError(path, f"{name}: {error.args[0] if error.args else error}") from error


def _attributes(kind: type[ScriptStep]) -> dict[str, Attribute[Any]]:
    """Return the settings of a step."""
    return fields_dict(cast("type[AttrsInstance]", kind))


def _setting(kind: type[ScriptStep], key: str, value: object, path: _Path, *, is_name: bool) -> tuple[str, object]:
    """Return the name and the value of a setting; an empty name if the value says nothing, as in `{"cut": true}`."""
    attributes = _attributes(kind)
    first = next((one for one in attributes.values() if not one.kw_only and one.name != "after"), None)
    if not is_name:
        known = {name: one for name, one in attributes.items() if one is not first}
        if key not in known:
            raise _WrongError(path, f"{kind.__name__.lower()} has no setting {_misspelt(key, known)}")
        return key, _value(known[key], value, path)
    if value is True and (first is None or first.default is not NOTHING):
        return "", None
    if first is None:
        raise _WrongError(path, f"write {json.dumps({key: True})[1:-1]}")
    return first.name, _value(first, value, path)


def _value(attribute: Attribute[Any], value: object, path: _Path) -> object:
    """Return the value of a setting, of the type that its default has."""
    if attribute.name in _DURATIONS:
        if value == _NEVER and attribute.name == "after":
            return math.inf
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise _WrongError(path, f'{attribute.name} must be seconds, at least 0, or "never" in "after"')
        return float(value)
    expected = str if attribute.name in _TEXTS else type(attribute.default)
    if expected in {str, bool} and not isinstance(value, expected):
        raise _WrongError(path, f"{attribute.name} must be {'true or false' if expected is bool else 'a text'}")
    return value


def _misspelt(key: str, known: Mapping[str, object]) -> str:
    likely = get_close_matches(key, known, 1)
    return f"{key!r}: did you mean {likely[0]!r}?" if likely else f"{key!r}: known are {', '.join(known)}"


def _by_turn(scripts: list[Script]) -> Script:
    def script(prompt: str, turn_number: int) -> Steps:
        return _played(scripts[min(turn_number, len(scripts)) - 1], prompt, turn_number)

    return script


def _by_prompt(scripts: dict[str, Script]) -> Script:
    def script(prompt: str, turn_number: int) -> Steps:
        found = next((one for text, one in scripts.items() if text in prompt), "No script for this prompt.")
        return _played(found, prompt, turn_number)

    return script


def _played(script: Script, prompt: str, turn_number: int) -> Steps:
    return script(prompt, turn_number) if callable(script) else script
