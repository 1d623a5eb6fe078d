"""Checks of arguments, before any request: each function returns the value as the library uses it, or raises."""

# Annotations are not postponed here: attrs passes those of converters on to modules that do not know their names.
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from nairi_async.clock import Clock, SystemClock
from nairi_async.errors import ConfigurationError, InvalidArgumentError
from nairi_async.typing import Duration

DEFAULT_TIMEOUT: Final = 6 * 3600.0
"""The `timeout=` of polling calls, in seconds, for a turn that runs: the time that it is `queued` does not count."""

MAX_ATTACHMENTS: Final = 10
"""Attachment ids that one prompt may carry: https://nairi.ai/docs/api/attachments."""
# What every id of the service looks like; only others are checked character by character.
_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9_-]+")


def seconds(value: Duration) -> float:
    """Return a duration in seconds; the attrs converter of every setting that is a duration."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if not _is_number(value):
        raise ConfigurationError(f"a duration must be a number of seconds or a timedelta, not {type(value).__name__}")
    try:
        return float(value)
    except OverflowError as error:
        raise ConfigurationError("the duration is too long to be a number of seconds") from error


def positive(name: str, value: float, *, or_zero: bool = False, or_infinite: bool = False) -> None:
    """Raise `ConfigurationError`, with the name of the setting, unless it is a positive quantity."""
    if not _is_number(value):
        raise ConfigurationError(f"{name} must be a number, not {type(value).__name__}")
    if math.isnan(value) or value < 0 or (value == 0 and not or_zero) or (math.isinf(value) and not or_infinite):
        raise ConfigurationError(f"{name} must be a {'non-negative' if or_zero else 'positive'} number, got {value}")


def whole(name: str, value: object) -> int:
    """Return a count of at least one; the error has the name of the setting."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{name} must be a whole number of at least 1, got {value!r}")
    return value


def part(name: str, value: object, kind: str, *methods: str) -> None:
    """Raise `ConfigurationError`, with the name of the setting, unless it is an object that has these methods."""
    missing = [method for method in methods if not callable(getattr(value, method, None))]
    if isinstance(value, type) or missing:
        given = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise ConfigurationError(f"{name} must be a {kind}, with {', '.join(missing or methods)}, not {given}")


def instance(name: str, value: object, kind: type) -> None:
    """Raise `ConfigurationError`, with the name of the setting, unless it is of a class."""
    if not isinstance(value, kind):
        raise ConfigurationError(f"{name} must be a {kind.__name__}, not {type(value).__name__}")


def clock(value: Clock | None) -> Clock:
    """Return the clock of a setting: by default the machine's."""
    if value is None:
        return SystemClock()
    part("clock", value, "Clock", "monotonic", "time", "sleep", "timeout", "idle_timeout")
    return value


def limit(value: object, name: str = "limit") -> int:
    """Return a number of things, at least one."""
    try:
        return whole(name, value)
    except ConfigurationError as error:
        raise InvalidArgumentError(error.message) from error


def timeout(value: Duration | None, name: str = "timeout") -> float:
    """Return the `timeout=` of a polling call in seconds; `None` becomes `math.inf`, which is no limit."""
    if value is None:
        return math.inf
    try:
        bound = seconds(value)
        positive(name, bound, or_zero=True, or_infinite=True)
    except ConfigurationError as error:
        raise InvalidArgumentError(error.message) from error
    return bound


def identifier(name: str, value: object) -> str:
    """Return an id or slug that can stand in a path; ids are opaque, so only what cannot be one is refused."""
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{name} must be a string, not {type(value).__name__}")
    # The first look takes a tenth of the time of the second, and nearly all ids pass it.
    if (value.isascii() and value.isidentifier()) or _PLAIN_ID.fullmatch(value):
        return value
    if not value or value in {".", ".."} or any(_cannot_be_in_id(character) for character in value):
        raise InvalidArgumentError(
            f"{name} {value[:80]!r} cannot be an id: it is empty, a dot, or holds white space or control characters"
        )
    return value


def is_storable(text: str) -> bool:
    """Return whether every database can store a text: without a zero byte, and without half a character."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def prompt(value: object) -> str:
    """Return a prompt that is not blank; the service refuses blank ones."""
    if not isinstance(value, str):
        raise InvalidArgumentError(f"a prompt must be a string, not {type(value).__name__}")
    if not value.strip():
        raise InvalidArgumentError("the prompt is blank")
    return value


def attachment_ids(value: Iterable[str]) -> tuple[str, ...]:
    """Return the ids of attachments, at most `MAX_ATTACHMENTS`."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise InvalidArgumentError("attachment_ids must be a sequence of ids, not a single value")
    ids = tuple(identifier("attachment id", entry) for entry in value)
    if len(ids) > MAX_ATTACHMENTS:
        raise InvalidArgumentError(f"{len(ids)} attachments: the service takes at most {MAX_ATTACHMENTS}")
    return ids


def time(name: str, value: object) -> datetime:
    """Return a time that has a time zone, in UTC."""
    if not isinstance(value, datetime):
        raise InvalidArgumentError(f"{name} must be a datetime, not {type(value).__name__}")
    if value.tzinfo is None:
        raise InvalidArgumentError(f"{name} has no time zone; the service's times are in UTC: datetime.now(UTC)")
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise InvalidArgumentError(f"{name} is outside the range of UTC") from error


def flag(name: str, value: object) -> bool:
    """Return True or False; other values that count as true or false are refused."""
    if not isinstance(value, bool):
        raise InvalidArgumentError(f"{name} must be True or False, not {value!r}")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cannot_be_in_id(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) in {"Cc", "Cs"}
