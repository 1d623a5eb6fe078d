"""JSON bodies of all services: bounded, exact, and always a `DecodeError` where they cannot be read.

Fractions are exact (`Decimal`), NaN and Infinity read as `None`, and a body that would take many times its size in
memory is refused before it is decoded.
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
"""Characters of a response body that an error quotes."""
# Characters that are kept until secrets are removed: in a shorter text, half a key would go unnoticed.
_QUOTED: Final = 16 * EXCERPT

# Digits of a number that is written without an exponent.
_MOST_DIGITS: Final = 40
# Python refuses to read numbers of thousands of digits; one of them must not cost the rest of the body.
_MAX_DIGITS: Final = 400
# Tiny values take up to a hundred times their size, and up to a microsecond each. A conversation of tens of thousands
# of messages has fewer.
MAX_VALUES: Final = 500_000
TOO_MANY: Final = f"more than {MAX_VALUES:,} values"
MOST_ENTRIES: Final = 50_000
"""Messages, or rows, that one response may have: what is done about each takes several microseconds."""
_STRING: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
Raw = Mapping[str, Any]
"""A JSON object as it was read."""


def encode(document: Mapping[str, Any]) -> bytes:
    """Return a JSON body, in ASCII."""
    return json.dumps(document, ensure_ascii=True, separators=(",", ":")).encode("ascii")


def plain_decimal(number: Decimal) -> str:
    """Return a number without an exponent, unless that would take very many digits."""
    return f"{number:f}" if abs(number.adjusted()) < _MOST_DIGITS else str(number)


def json_line(model: AttrsInstance) -> str:
    """Return a model as one line of ASCII JSON, for the command line and for browsers.

    Times and decimals become strings. `Progress.raw` is left out: the content of the message is the same text.
    """
    document = asdict(model, filter=lambda attribute, _: attribute.name != "raw")
    return json.dumps(document, default=_as_text, ensure_ascii=True)


def _as_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def decode_error(body: bytes) -> str:
    """Return the text of an error response: the documented `{"error": text}`, else the beginning of the body."""
    try:
        raw = decode(body)
    except DecodeError:
        return excerpt(body)
    text = raw.get("error") if isinstance(raw, dict) else None
    return one_line(text[:_QUOTED]) if isinstance(text, str) else excerpt(body)


def excerpt(body: bytes) -> str:
    """Return the beginning of a body on one line, longer than an error message quotes it: see `shortened`."""
    return one_line(body[:_QUOTED].decode("utf-8", "replace"))


def shortened(text: str, limit: int = EXCERPT) -> str:
    """Return a text of the service, from which secrets were removed, as an error message quotes it."""
    return text[:limit]


def one_line(text: str) -> str:
    """Return a text without line ends and invisible characters: errors are logged, and logs are read in terminals."""
    return "".join(character if character.isprintable() else "\ufffd" for character in " ".join(text.split()))


def is_heavy(text: str, position: int = 0, *, most: int = MAX_VALUES) -> bool:
    """Return whether JSON, from a position on, would take many times more memory than it has characters."""
    if len(text) - position <= most or _values(text, position) <= most:
        return False
    # Quotes that no backslash precedes begin or end a string; so many strings would take long to leave out.
    quotes = text.count('"', position) - text.count('\\"', position)
    if not quotes or quotes > most:
        return True
    return _values(_STRING.sub("", text[position:]), 0) > most


def _values(text: str, position: int) -> int:
    """Return the number of values in JSON, or more: what is written in strings counts as well."""
    return sum(text.count(mark, position) for mark in ",[{")


def _integer(digits: str) -> int | None:
    """Return a whole number, or `None` for one with more digits than anything that is counted."""
    return int(digits) if len(digits) < _MAX_DIGITS else None


def _no_number(_word: str) -> None:
    """Read NaN and Infinity, which are not JSON, as `None`."""


DECODER: Final = json.JSONDecoder(parse_float=Decimal, parse_int=_integer, parse_constant=_no_number)
"""Decodes JSON with exact fractions, and without NaN and Infinity."""
FLOAT_DECODER: Final = json.JSONDecoder(parse_int=_integer, parse_constant=_no_number)
"""The same with `float` for fractions, for values that are passed on as received."""


def decode(body: bytes, decoder: json.JSONDecoder = DECODER) -> Any:
    """Return the value of a body; raise `DecodeError` where it is not JSON, or would take too much memory."""
    # ArithmeticError: a number that Decimal refuses. RecursionError: nesting deeper than any real answer.
    try:
        text = body.decode(_encoding(body), "surrogatepass")
        if len(text) > MAX_VALUES and is_heavy(text):
            raise ValueError(TOO_MANY)  # noqa: TRY301 - handled like what json raises
        return _value(text, decoder)
    except (ValueError, ArithmeticError, RecursionError) as error:
        # A new error, because the original refers to the whole body.
        cause = ValueError(f"{type(error).__name__}: {error}"[:EXCERPT])
    raise _unreadable("not JSON", body) from cause


def _value(text: str, decoder: json.JSONDecoder) -> Any:
    """Return the value of a text. `decode` looks for white space around it, which takes longer than a small body."""
    if text[:1] == "{":
        value, end = decoder.raw_decode(text)
        if end == len(text) or not text[end:].strip(" \t\r\n"):
            return value
    return decoder.decode(text)


def _encoding(body: bytes) -> str:
    """Return the encoding of JSON. Nearly all bodies are objects in UTF-8, which the first two bytes show."""
    return "utf-8" if body[:1] == b"{" and body[1:2] != b"\0" else json.detect_encoding(body)


def decode_object(body: bytes, decoder: json.JSONDecoder = DECODER) -> Raw:
    """Return the object of a body; raise `DecodeError` where it is something else."""
    raw = decode(body, decoder)
    if not isinstance(raw, dict):
        refuse("not a JSON object", body)
    return raw


def objects(raw: object, body: bytes) -> list[Raw]:
    """Return the entries of a list of objects; raise `DecodeError` where it is something else, or too long."""
    if not isinstance(raw, list) or not all(isinstance(entry, dict) for entry in raw):
        refuse("not the documented list", body)
    if len(raw) > MOST_ENTRIES:
        refuse(f"more than {MOST_ENTRIES:,} entries", body)
    return raw


def refuse(reason: str, body: bytes, cause: BaseException | None = None) -> NoReturn:
    """Raise the `DecodeError` of a body that cannot be used."""
    raise _unreadable(reason, body) from cause


def _unreadable(reason: str, body: bytes) -> DecodeError:
    return DecodeError(f"the response cannot be read: {reason}", excerpt=excerpt(body))


def text_of(raw: object) -> str:
    """Return a string as it is, `None` as an empty one, and anything else as JSON, so that it is shown."""
    if isinstance(raw, str):
        return raw
    try:
        return "" if raw is None else json.dumps(raw, default=str)
    except RecursionError:  # Nested deeper than can be printed; the message is delivered without it.
        return ""


def parse_time(raw: object) -> datetime | None:
    """Read an RFC 3339 time, `None` where it is none; a time without an offset is in UTC, as the services write it."""
    if not isinstance(raw, str):
        return None
    try:
        time = datetime.fromisoformat(raw)
        if not MINYEAR < time.year < MAXYEAR:
            # An offset may move a time at either end of the calendar out of it.
            return time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
