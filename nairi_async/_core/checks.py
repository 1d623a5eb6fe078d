"""Arguments are checked here, before any request: each function returns the value as the library uses it, or raises."""

# Annotations are not postponed here: attrs passes those of its converters on to modules where their names mean nothing.
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from nairi_async.errors import ConfigurationError, InvalidArgumentError
from nairi_async.typing import Duration

DEFAULT_TIMEOUT: Final = 6 * 3600.0
"""The `timeout=` of polling calls, in seconds: a turn may run for an hour, and be queued before that."""

MAX_ATTACHMENTS: Final = 10
"""Attachment ids that one prompt may carry (api: attachments)."""
# What every id of the service looks like: the check of each character is for the others.
_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9_-]+")


def seconds(value: Duration) -> float:
    """A duration as seconds; attrs converter of every policy field that is one."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if not _is_number(value):
        raise ConfigurationError(f"a duration is a number of seconds or a timedelta, not {type(value).__name__}")
    try:
        return float(value)
    except OverflowError as error:
        raise ConfigurationError("a duration of that many seconds is no length of time") from error


def positive(name: str, value: float, *, or_zero: bool = False, or_infinite: bool = False) -> None:
    """Refuse what is no positive quantity, naming the setting."""
    if not _is_number(value):
        raise ConfigurationError(f"{name} is a number, not {type(value).__name__}")
    if math.isnan(value) or value < 0 or (value == 0 and not or_zero) or (math.isinf(value) and not or_infinite):
        raise ConfigurationError(f"{name} is {value}: a {'non-negative' if or_zero else 'positive'} number is needed")


def whole(name: str, value: object) -> int:
    """A count of at least one, naming the setting."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{name} is {value!r}: a whole number of at least 1 is needed")
    return value


def limit(value: object) -> int:
    """How many may go on at once."""
    try:
        return whole("limit", value)
    except ConfigurationError as error:
        raise InvalidArgumentError(error.message) from error


def timeout(value: Duration | None, name: str = "timeout") -> float:
    """Return the `timeout=` of a polling call in seconds; `None` becomes `math.inf`, which is no limit."""
    if value is None:
        return math.inf
    try:
        waited = seconds(value)
        positive(name, waited, or_zero=True, or_infinite=True)
    except ConfigurationError as error:
        raise InvalidArgumentError(error.message) from error
    return waited


def identifier(name: str, value: object) -> str:
    """An id or slug that can stand in a path; ids are opaque, so only what no id can be is refused."""
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{name} is a string, not {type(value).__name__}")
    if _PLAIN_ID.fullmatch(value):
        return value
    if not value or value in {".", ".."} or any(_unfit(character) for character in value):
        raise InvalidArgumentError(f"{name} {value[:80]!r} is no id: it is empty, a dot, or holds spaces or controls")
    return value


def prompt(value: object) -> str:
    """A prompt that says something (api: `prompt is required`)."""
    if not isinstance(value, str):
        raise InvalidArgumentError(f"a prompt is a string, not {type(value).__name__}")
    if not value.strip():
        raise InvalidArgumentError("the prompt is blank")
    return value


def attachment_ids(value: Iterable[str]) -> tuple[str, ...]:
    """At most ten ids (api: attachments)."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise InvalidArgumentError("attachment_ids is a sequence of ids, not a single value")
    ids = tuple(identifier("attachment id", entry) for entry in value)
    if len(ids) > MAX_ATTACHMENTS:
        raise InvalidArgumentError(f"{len(ids)} attachments: the service takes at most {MAX_ATTACHMENTS}")
    return ids


def time(name: str, value: object) -> datetime:
    """A time with a time zone, as UTC."""
    if not isinstance(value, datetime):
        raise InvalidArgumentError(f"{name} is a datetime, not {type(value).__name__}")
    if value.tzinfo is None:
        raise InvalidArgumentError(f"{name} has no time zone; the service's times are in UTC")
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise InvalidArgumentError(f"{name} is out of the range of UTC") from error


def flag(name: str, value: object) -> bool:
    """True or False and nothing that merely looks like it."""
    if not isinstance(value, bool):
        raise InvalidArgumentError(f"{name} is True or False, not {value!r}")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _unfit(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) in {"Cc", "Cs"}
