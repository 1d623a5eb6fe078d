"""Find the one JSON value in the text of a reply."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_FENCE: Final = re.compile(
    r"^[ \t]*(`{3,}|~{3,})[ \t]*(?:json)?[ \t]*\n(.*?)\n[ \t]*\1[ \t]*$", re.DOTALL | re.MULTILINE | re.IGNORECASE
)
# Braces in prose or code that are not JSON: each costs a time that grows with the length of the text.
_MAX_FAILURES: Final = 1000
# An array must begin a line: in the middle of one, `[1]` is more likely to be a reference.
_START: Final = re.compile(r"\{|^[ \t]*\[", re.MULTILINE)


class NoSuchValueError(ValueError):
    """The text has no JSON value, or several, or the value does not fit the type."""


def find_json(text: str, *, exact: bool = False) -> Any:
    """Return the one JSON value of a text: the whole text, one fenced block, or one object or array in the prose.

    Args:
        text: The text.
        exact: Read fractions as `Decimal`, not as `float`.

    Raises:
        NoSuchValueError: there is none, or more than one.
    """
    decoder = json.JSONDecoder(parse_float=Decimal if exact else None, parse_constant=_refuse_constant)
    try:
        values = list(_values(text.strip(), decoder))
    except RecursionError:
        raise NoSuchValueError("the JSON value is nested too deeply") from None
    if not values:
        raise NoSuchValueError("it has no JSON value")
    if len(values) > 1:
        raise NoSuchValueError(f"it has {len(values)} JSON values, and one is needed")
    return values[0]


def _values(text: str, decoder: json.JSONDecoder) -> Iterator[Any]:
    try:
        yield decoder.decode(text)
    except ValueError:
        pass
    else:
        return
    blocks = [match[2] for match in _FENCE.finditer(text)]
    found = False
    for block in blocks:
        try:
            value = decoder.decode(block)
        except ValueError:
            continue
        found = True
        yield value
    if not found:
        yield from _embedded(text, decoder)


def _embedded(text: str, decoder: json.JSONDecoder) -> Iterator[Any]:
    """Yield the objects and arrays in prose; what was read before a failure is not read again."""
    position = failures = 0
    while failures < _MAX_FAILURES and (match := _START.search(text, position)):
        start = match.end() - 1
        try:
            value, position = decoder.raw_decode(text, start)
        except ValueError as error:
            position = max(match.end(), getattr(error, "pos", 0))
            failures += 1
        else:
            yield value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
