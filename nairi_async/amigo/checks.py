"""Arguments are checked here, before any request: each function returns the value as it is sent, or raises."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from nairi_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_TAGS: Final = 20
"""Tags that a conversation may have (api: create, tags)."""
FORMATS: Final = ("text", "voice")
"""Forms of a message (api: create)."""
MESSAGE_TYPES: Final = ("user-message", "agent-message", "agent-inner-thought", "external-event")
"""Types of messages that can be asked for (api: list messages)."""
_ID: Final = re.compile(r"[a-f0-9]{24}")
_WORDS: Final = re.compile(r"[\w\s]+")
_LONGEST_VALUE: Final = 100

ExternalEvents = Iterable[tuple[datetime, str]]
"""Events to put into the conversation before a message, oldest first: when each happened, and what."""


def identifier(name: str, value: object) -> str:
    """The id of a service, conversation, message or interaction: 24 lower-case hexadecimal digits (api: ids)."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        shown = repr(value)[:80]
        raise InvalidArgumentError(f"{name} is {shown}: an id of 24 hexadecimal digits in lower case is needed")
    return value


def text(name: str, value: object) -> str:
    """A text that says something; the service trims it."""
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{name} is a string, not {type(value).__name__}")
    if not value.strip():
        raise InvalidArgumentError(f"{name} is blank")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"{name} holds half of a character, which cannot be sent") from error
    return value


def optional_text(name: str, value: object) -> str | None:
    """The same, or nothing."""
    return None if value is None else text(name, value)


def one_of(name: str, value: object, allowed: Sequence[str]) -> str:
    """One of the words that the service knows."""
    if value not in allowed:
        raise InvalidArgumentError(f"{name} is {value!r}: one of {', '.join(allowed)} is needed")
    return str(value)


def some_of(name: str, value: object, allowed: Sequence[str]) -> tuple[str, ...]:
    """Some of the words that the service knows; a single one may stand alone."""
    return tuple(one_of(name, entry, allowed) for entry in _entries(name, value))


def identifiers(name: str, value: object) -> tuple[str, ...]:
    """Some ids; a single one may stand alone."""
    return tuple(identifier(name, entry) for entry in _entries(name, value))


def texts(name: str, value: object) -> tuple[str, ...]:
    """Some texts; a single one may stand alone."""
    return tuple(text(name, entry) for entry in _entries(name, value))


def number(name: str, value: object, most: int) -> int:
    """A whole number from 1 to the most that the service allows."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InvalidArgumentError(f"{name} is {value!r}: a whole number from 1 to {most} is needed")
    return value


def tags(value: object, *, is_update: bool = False) -> dict[str, str | None]:
    """At most 20 tags, whose keys are words, with a value each, or none (api: create, tags)."""
    if not isinstance(value, Mapping):
        raise InvalidArgumentError(f"tags is a mapping of names to values, not {type(value).__name__}")
    if len(value) > MAX_TAGS:
        raise InvalidArgumentError(f"{len(value)} tags: a conversation has at most {MAX_TAGS}")
    checked: dict[str, str | None] = {}
    for key, said in value.items():
        _words("the name of a tag", key)
        if said is not None:
            _tag_value(said, is_update=is_update)
        checked[key] = said
    return checked


def tag_names(value: object) -> list[str]:
    """The names of tags, each once."""
    names = list(dict.fromkeys(_entries("deletes", value)))
    for name in names:
        _words("the name of a tag", name)
    return names


def external_events(value: object, now: float) -> tuple[tuple[str, str], ...]:
    """Events and their times, as they are sent; times are aware, in the past, and in order (api: interact).

    `now` is Unix time, the latest that the service's clock may show.
    """
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise InvalidArgumentError("events is a sequence of pairs: a datetime and a text")
    checked: list[tuple[str, str]] = []
    before: datetime | None = None
    for entry in value:
        if not isinstance(entry, tuple | list) or len(entry) != 2:  # noqa: PLR2004 - a pair
            raise InvalidArgumentError(
                "each of events is a pair of a datetime and a text: none may be without the other"
            )
        moment, said = _moment(entry[0], now), text("the text of an event", entry[1])
        if before is not None and moment < before:
            raise InvalidArgumentError("events are not in order: the oldest comes first")
        before = moment
        checked.append((moment.isoformat(), said))
    return tuple(checked)


def _moment(value: object, now: float) -> datetime:
    if not isinstance(value, datetime):
        raise InvalidArgumentError(f"the time of an event is a datetime, not {type(value).__name__}")
    if value.tzinfo is None or value.utcoffset() is None:
        raise InvalidArgumentError("the time of an event has no time zone")
    try:
        moment = value.astimezone(UTC)
    except OverflowError as error:
        raise InvalidArgumentError("the time of an event is out of the range of UTC") from error
    if moment.timestamp() > now:
        raise InvalidArgumentError(f"the time of an event is in the future: {value.isoformat()}")
    return moment


def _words(name: str, value: object) -> None:
    if not isinstance(value, str) or not _WORDS.fullmatch(value):
        raise InvalidArgumentError(f"{name} is {value!r}: letters, digits, _ and spaces are allowed")


def _tag_value(value: object, *, is_update: bool) -> None:
    if is_update:
        _words("the value of a tag", value)
    elif not isinstance(value, str) or not 1 <= len(value) <= _LONGEST_VALUE:
        raise InvalidArgumentError(f"the value of a tag is {value!r}: 1 to {_LONGEST_VALUE} characters are needed")


def _entries(name: str, value: object) -> tuple[Any, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, bytes | Mapping) or not isinstance(value, Iterable):
        raise InvalidArgumentError(f"{name} is one or more strings, not {type(value).__name__}")
    return tuple(value)
