"""Checks of arguments before any request: each function returns the value as it is sent, or raises.

The bounds are those of https://api.amigo.ai/v1/openapi.json.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from nairi_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_AGE: Final = 300.0
"""Seconds after which the delivery of a webhook is refused: the vendor's own client allows as many."""
MAX_TAGS: Final = 20
"""Tags that a conversation may have."""
FORMATS: Final = ("text", "voice")
"""Formats of a message."""
MESSAGE_TYPES: Final = ("user-message", "agent-message", "agent-inner-thought", "external-event")
"""Types of messages that can be listed."""
_ID: Final = re.compile(r"[a-f0-9]{24}")
_WORDS: Final = re.compile(r"[\w\s]+")
_LONGEST_VALUE: Final = 100

ExternalEvents = Iterable[tuple[datetime, str]]
"""Events to put into the conversation before a message, oldest first: when each happened, and what."""


def identifier(name: str, value: object) -> str:
    """Check the id of a service, conversation, message or interaction: 24 lower-case hexadecimal digits."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        shown = repr(value)[:80]
        raise InvalidArgumentError(f"{name} must be an id of 24 hexadecimal digits in lower case, got {shown}")
    return value


def user_identifier(name: str, value: object) -> str:
    """Check the id of a user: a plain text, of which the service documents no form, sent in a header and in a path."""
    if not isinstance(value, str) or not value or not value.isascii() or not value.isprintable() or " " in value:
        raise InvalidArgumentError(f"{name} must be a text without spaces, control and non-ASCII characters")
    return value


def text(name: str, value: object) -> str:
    """Check a text that is not blank; the service trims it."""
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{name} must be a string, not {type(value).__name__}")
    if not value.strip():
        raise InvalidArgumentError(f"{name} is blank")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"{name} holds a lone surrogate, which cannot be sent") from error
    return value


def optional_text(name: str, value: object) -> str | None:
    """Check a text that may be left out."""
    return None if value is None else text(name, value)


def one_of(name: str, value: object, allowed: Sequence[str]) -> str:
    """Check that a value is one of those that the service knows."""
    if value not in allowed:
        raise InvalidArgumentError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    return str(value)


def some_of(name: str, value: object, allowed: Sequence[str]) -> tuple[str, ...]:
    """Check several such values; a single one need not be in a list."""
    return tuple(one_of(name, entry, allowed) for entry in _entries(name, value))


def identifiers(name: str, value: object) -> tuple[str, ...]:
    """Check several ids; a single one need not be in a list."""
    return tuple(identifier(name, entry) for entry in _entries(name, value))


def texts(name: str, value: object) -> tuple[str, ...]:
    """Check several texts; a single one need not be in a list."""
    return tuple(text(name, entry) for entry in _entries(name, value))


def number(name: str, value: object, most: int) -> int:
    """Check a whole number from 1 to the highest that the service allows."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InvalidArgumentError(f"{name} must be a whole number from 1 to {most}, got {value!r}")
    return value


def tags(value: object, *, is_update: bool = False) -> dict[str, str | None]:
    """Check at most 20 tags: names of word characters and spaces, each with a value or `None`."""
    if not isinstance(value, Mapping):
        raise InvalidArgumentError(f"tags must be a mapping of names to values, not {type(value).__name__}")
    if len(value) > MAX_TAGS:
        raise InvalidArgumentError(f"{len(value)} tags: a conversation has at most {MAX_TAGS}")
    checked: dict[str, str | None] = {}
    for key, entry in value.items():
        _words("the name of a tag", key)
        if entry is not None:
            _tag_value(entry, is_update=is_update)
        checked[key] = entry
    return checked


def tag_names(value: object) -> list[str]:
    """Check the names of tags, and return each once."""
    names = list(dict.fromkeys(_entries("deletes", value)))
    for name in names:
        _words("the name of a tag", name)
    return names


def tag_filter(value: Mapping[str, str | None] | Iterable[str]) -> list[str]:
    """Return the filters for tags: names with their value, `"*"` for any and `None` for none; or names alone."""
    if isinstance(value, Mapping):
        checked = tags({name: None if wanted == "*" else wanted for name, wanted in value.items()})
        return [f"{name}:{'*' if value[name] == '*' else checked[name] or ''}" for name in checked]
    return [f"{name}:*" for name in tag_names(value)]


def external_events(value: object, now: float) -> tuple[tuple[str, str], ...]:
    """Check events before a message, and return their times and texts as they are sent.

    Times must be aware, in the past and in order. `now` is Unix time, the latest that the service's clock may show.
    """
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise InvalidArgumentError("external_events must be a sequence of pairs of a datetime and a text")
    checked: list[tuple[str, str]] = []
    before: datetime | None = None
    for entry in value:
        if not isinstance(entry, tuple | list) or len(entry) != 2:  # noqa: PLR2004 - a pair
            raise InvalidArgumentError("each of external_events must be a pair of a datetime and a text")
        at, content = _event_time(entry[0], now), text("the text of an event", entry[1])
        if before is not None and at < before:
            raise InvalidArgumentError("external_events must be in order, the oldest first")
        before = at
        checked.append((at.isoformat(), content))
    return tuple(checked)


def _event_time(value: object, now: float) -> datetime:
    if not isinstance(value, datetime):
        raise InvalidArgumentError(f"the time of an event must be a datetime, not {type(value).__name__}")
    if value.tzinfo is None or value.utcoffset() is None:
        raise InvalidArgumentError("the time of an event must have a time zone, such as datetime.UTC")
    try:
        at = value.astimezone(UTC)
    except OverflowError as error:
        raise InvalidArgumentError("the time of an event is out of the range of UTC") from error
    if at.timestamp() > now:
        raise InvalidArgumentError(f"the time of an event must not lie in the future: {value.isoformat()}")
    return at


def _words(name: str, value: object) -> None:
    if not isinstance(value, str) or not _WORDS.fullmatch(value):
        raise InvalidArgumentError(f"{name} may have letters, digits, _ and spaces, got {value!r}")


def _tag_value(value: object, *, is_update: bool) -> None:
    if is_update:
        _words("the value of a tag", value)
    elif not isinstance(value, str) or not 1 <= len(value) <= _LONGEST_VALUE:
        raise InvalidArgumentError(f"the value of a tag must have 1 to {_LONGEST_VALUE} characters, got {value!r}")


def _entries(name: str, value: object) -> tuple[Any, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, bytes | Mapping) or not isinstance(value, Iterable):
        raise InvalidArgumentError(f"{name} must be one or more strings, not {type(value).__name__}")
    return tuple(value)
