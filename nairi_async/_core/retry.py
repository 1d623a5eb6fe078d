"""Whether and when a failed request is repeated, as plain functions: no clock, no I/O."""

from __future__ import annotations

import math
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from attrs import field

from nairi_async._core import checks
from nairi_async._core.records import frozen
from nairi_async.errors import (
    ConnectionFailedError,
    DecodeError,
    NairiError,
    RateLimitedError,
    RequestTimeoutError,
    ServerError,
    StatusError,
)

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

# By 408 and 425 the sender asks for the same request again. They do not prove that a prompt did not run.
_REPEAT_REQUESTED: Final = frozenset({408, 425})
# First wait, in seconds, for a service that is busy: a sooner request would get the same status, and count as one.
_BUSY_WAIT: Final = 1.0
# A method or protocol version that is not supported now will not be supported in a second.
_PERMANENT: Final = frozenset({501, 505})
_UNAVAILABLE: Final = 503


@frozen(kw_only=True)
class RetryPolicy:
    """How long and how often a request is tried. The waits between attempts have full jitter.

    What may be tried again is not a setting: reads always, prompts only when they provably did not run. Durations are
    seconds, as a number or a `timedelta`.

    Args:
        attempts: (6) Attempts in all, including the first.
        total: (120) Time after the first attempt until which another may begin; `math.inf` for no limit.
        wait_initial: (0.5) Upper bound of the first wait; it doubles with each attempt.
        wait_max: (10) Upper bound of every wait.
        retry_after_max: (60) Longest `Retry-After` to obey; a longer one raises the error at once.

    Raises:
        ConfigurationError: a setting is not a number, or out of bounds.
    """

    attempts: int = 6
    """Attempts in all, including the first."""
    total: float = field(default=120.0, converter=checks.seconds)
    """Seconds after the first attempt until which another may begin."""
    wait_initial: float = field(default=0.5, converter=checks.seconds)
    """Upper bound of the first wait, in seconds; it doubles with each attempt."""
    wait_max: float = field(default=10.0, converter=checks.seconds)
    """Upper bound of every wait, in seconds."""
    retry_after_max: float = field(default=60.0, converter=checks.seconds)
    """Longest `Retry-After` to obey, in seconds; a longer one raises the error at once."""

    def __attrs_post_init__(self) -> None:
        checks.whole("attempts", self.attempts)
        checks.positive("total", self.total, or_zero=True, or_infinite=True)
        checks.positive("wait_initial", self.wait_initial, or_zero=True)
        checks.positive("wait_max", self.wait_max, or_zero=True)
        checks.positive("retry_after_max", self.retry_after_max, or_zero=True)


def is_transient(
    error: NairiError, *, idempotent: bool, unreadable: bool = False, busy_statuses: Container[int] = ()
) -> bool:
    """Return whether the same request may be sent again after this error.

    `idempotent` and `busy_statuses` are the request's. With `unreadable`, an unreadable response is a transient fault,
    as it is for watching.
    """
    if isinstance(error, ConnectionFailedError) and error.is_permanent:
        return False
    if isinstance(error, ConnectionFailedError | RequestTimeoutError):
        return idempotent or not error.sent
    if is_refusal(error, busy_statuses):
        return True
    if isinstance(error, ServerError):
        return idempotent and error.status not in _PERMANENT
    if isinstance(error, StatusError):
        return idempotent and error.status in _REPEAT_REQUESTED
    return isinstance(error, DecodeError) and idempotent and unreadable


def is_refusal(error: NairiError, busy_statuses: Container[int] = ()) -> bool:
    """Return whether the service said that it did not accept the request: 429, 503 with `Retry-After`, a busy status.

    A 503 without `Retry-After` may come from a proxy that had already forwarded the request.
    """
    if isinstance(error, RateLimitedError) or (isinstance(error, StatusError) and error.status in busy_statuses):
        return True
    return isinstance(error, ServerError) and error.status == _UNAVAILABLE and error.retry_after is not None


def delay_before_retry(
    policy: RetryPolicy,
    error: NairiError,
    *,
    attempt: int,
    elapsed: float,
    jitter: float,
    busy_statuses: Container[int] = (),
) -> float | None:
    """Return the seconds to wait before the next attempt, or `None` to give up.

    `attempt` counts from 1 and has just failed, `elapsed` seconds after the first began; `jitter` is in [0, 1). After
    one of `busy_statuses` the first wait is about a second, and each further one twice as long.
    """
    if attempt >= policy.attempts:
        return None
    retry_after = error.retry_after if isinstance(error, StatusError) else None
    if retry_after is not None and retry_after > policy.retry_after_max:
        return None
    # Bounded here, because the power would overflow; 64 doublings exceed any wait.
    doublings = 2.0 ** min(attempt - 1, 64)
    if isinstance(error, StatusError) and error.status in busy_statuses:
        wait = min(policy.wait_max, (0.75 + jitter / 2) * _BUSY_WAIT * doublings)
    else:
        wait = jitter * min(policy.wait_max, policy.wait_initial * doublings)
    delay = wait + (retry_after or 0.0)
    return delay if elapsed + delay <= policy.total else None


def parse_retry_after(text: str | None, now: float) -> float | None:
    """Return the seconds from `now` (Unix time) that a `Retry-After` header asks for; `None` if it is of no use.

    It may be a number of seconds, whole or not, or an HTTP date. The past, and what is not finite, is ignored.
    """
    if text is None:
        return None
    try:
        wait = float(text)
    except ValueError:
        date = parse_date(text)
        if date is None:
            return None
        wait = date - now
    return wait if math.isfinite(wait) and wait >= 0 else None


def seconds_until_reset(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds until an exhausted `X-RateLimit-*` window ends; `None` if it is not, or there is no header.

    `now` is Unix time. The response's own `Date` takes its place where there is one, because clocks differ.
    """
    remaining, reset = headers.get("X-RateLimit-Remaining"), headers.get("X-RateLimit-Reset")
    if remaining is None or reset is None or remaining.strip() != "0":
        return None
    try:
        end = float(reset)
    except ValueError:
        return None
    date = parse_date(headers.get("Date"))
    wait = end - (now if date is None else date)
    return wait if math.isfinite(wait) and wait > 0 else None


def parse_date(text: str | None) -> float | None:
    """Return an HTTP date as Unix time; `None` if it is not one."""
    try:
        date = parsedate_to_datetime(text or "")
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError):
        return None
