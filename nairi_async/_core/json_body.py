"""JSON bodies, whichever service sends them: bounded, exact, and told as one kind of error where they cannot be read.

Figures are exact (`Decimal`), what is no figure reads as none, and a body that would take many times its size in memory
is refused before it is decoded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NoReturn

from attrs import asdict

from nairi_async.errors import DecodeError

if TYPE_CHECKING:
    from attrs import AttrsInstance

EXCERPT: Final = 200
"""Characters of a foreign body that an error repeats."""
# Taken from a body before secrets are taken out of it: cut first, half a key would go unnoticed.
_QUOTED: Final = 16 * EXCERPT

# Python refuses to read numbers of thousands of digits; one of them must not cost the rest of the answer.
_MOST_DIGITS: Final = 400
# A timeline as large as an answer may be has fewer values and entries. Tiny ones in such numbers would take a hundred
# times the memory of the body, and minutes.
_MOST_VALUES: Final = 2_000_000
MOST_ENTRIES: Final = 200_000
"""Messages, or rows, that one answer may have."""
_STRING: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
Raw = Mapping[str, Any]
"""A JSON object as it was read."""


def encode(document: Mapping[str, Any]) -> bytes:
    """A body of JSON, in ASCII."""
    return json.dumps(document, ensure_ascii=True, separators=(",", ":")).encode("ascii")


def json_line(model: AttrsInstance) -> str:
    """Return a model as one line of ASCII JSON, for the command line and for browsers.

    Times and decimals become strings. `Progress.raw` is left out: the content of the message is the same text.
    """
    document = asdict(model, filter=lambda attribute, _: attribute.name != "raw")
    return json.dumps(document, default=_as_text, ensure_ascii=True)


def _as_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def decode_error(body: bytes) -> str:
    """The text of an error answer: the documented `{"error": text}`, else the beginning of the body as it is."""
    try:
        raw = decode(body)
    except DecodeError:
        return excerpt(body)
    told = raw.get("error") if isinstance(raw, dict) else None
    return _one_line(told[:_QUOTED]) if isinstance(told, str) else excerpt(body)


def excerpt(body: bytes) -> str:
    """The beginning of a body, on one line, longer than an error message should have it: see `shortened`."""
    return _one_line(body[:_QUOTED].decode("utf-8", "replace"))


def shortened(text: str) -> str:
    """A text of the service, without secrets by now, as an error message repeats it."""
    return text[:EXCERPT]


def _one_line(text: str) -> str:
    """Without line ends and whatever else is not seen: errors are logged, and logs are looked at in terminals."""
    return "".join(character if character.isprintable() else "\ufffd" for character in " ".join(text.split()))


def is_heavy(text: str, position: int = 0, *, most: int = _MOST_VALUES) -> bool:
    """Whether JSON, from a position on, would take many times more memory than it has characters."""
    if len(text) - position <= most or _values(text, position) <= most:
        return False
    # Quotes that no backslash precedes begin or end a string; so many strings would take long to leave out.
    quotes = text.count('"', position) - text.count('\\"', position)
    if not quotes or quotes > most:
        return True
    return _values(_STRING.sub("", text[position:]), 0) > most


def _values(text: str, position: int) -> int:
    """Values in JSON, or more: what is written in strings counts as well."""
    return sum(text.count(mark, position) for mark in ",[{")


def _integer(digits: str) -> int | None:
    """A whole number, unless it has more digits than anything that is counted."""
    return int(digits) if len(digits) < _MOST_DIGITS else None


def _no_number(_word: str) -> None:
    """NaN and Infinity are not JSON; as a figure they mean nothing."""


DECODER: Final = json.JSONDecoder(parse_float=Decimal, parse_int=_integer, parse_constant=_no_number)
"""Reads JSON as the service means it: exact figures, and none where there is none."""
FLOAT_DECODER: Final = json.JSONDecoder(parse_int=_integer, parse_constant=_no_number)
"""The same with `float` for fractions, where what came is handed over as it is."""


def decode(body: bytes, decoder: json.JSONDecoder = DECODER) -> Any:
    """The value of a body; `DecodeError` where it is not JSON, or too heavy."""
    # ArithmeticError: a number that Decimal refuses. RecursionError: nesting deeper than any real answer.
    try:
        text = body.decode(json.detect_encoding(body), "surrogatepass")
        if is_heavy(text):
            raise ValueError(f"more than {_MOST_VALUES:,} values")  # noqa: TRY301 - told as what json raises is
        return decoder.decode(text)
    except (ValueError, ArithmeticError, RecursionError) as error:
        # Retold, because the original would hold on to the whole body.
        cause = ValueError(f"{type(error).__name__}: {error}"[:EXCERPT])
    raise _unreadable("not JSON", body) from cause


def decode_object(body: bytes, decoder: json.JSONDecoder = DECODER) -> Raw:
    """The object of a body; `DecodeError` where it is something else."""
    raw = decode(body, decoder)
    if not isinstance(raw, dict):
        refuse("not a JSON object", body)
    return raw


def objects(raw: object, body: bytes) -> list[Raw]:
    """The entries of a list of objects; `DecodeError` where it is none, or too long."""
    if not isinstance(raw, list) or not all(isinstance(entry, dict) for entry in raw):
        refuse("not the documented list", body)
    if len(raw) > MOST_ENTRIES:
        refuse(f"more than {MOST_ENTRIES:,} entries", body)
    return raw


def refuse(reason: str, body: bytes, cause: BaseException | None = None) -> NoReturn:
    """Raise the `DecodeError` of a body that cannot be used."""
    raise _unreadable(reason, body) from cause


def _unreadable(reason: str, body: bytes) -> DecodeError:
    return DecodeError(f"the answer cannot be read: {reason}", excerpt=excerpt(body))


def text_of(raw: object) -> str:
    """A string as it is; nothing as nothing; anything else as its JSON, so that it is seen and not dropped."""
    if isinstance(raw, str):
        return raw
    try:
        return "" if raw is None else json.dumps(raw, default=str)
    except RecursionError:  # Nested deeper than can be printed: the message still counts.
        return ""


def parse_time(raw: object) -> datetime | None:
    """RFC 3339; a time without an offset is taken as UTC, which is what the service writes."""
    if not isinstance(raw, str):
        return None
    try:
        time = datetime.fromisoformat(raw)
        if not MINYEAR < time.year < MAXYEAR:
            # With an offset, the ends of the calendar may lie outside of it.
            return time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
