"""When to try again, as plain functions: no clock, no input, no output (design section 6)."""

from __future__ import annotations

import math
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from attrs import field, frozen

from nairi_async._core import checks
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

# 408 and 425 ask in so many words for the same request again.
_ASKED_AGAIN: Final = frozenset({408, 425})
# Seconds for which a service that is still at work is let alone at first: sooner it says the same, at the limit's cost.
_BUSY_WAIT: Final = 1.0
# A method or protocol version that is not supported will not be supported a second later.
_LASTING: Final = frozenset({501, 505})
_UNAVAILABLE: Final = 503


@frozen(kw_only=True)
class RetryPolicy:
    """How long and how often a request is tried; full jitter between the attempts.

    What may be tried again is not a setting: reads always; prompts only when they provably did not run. Durations are
    seconds, as a number or a `timedelta`.

    Args:
        attempts: (6) Attempts in all, the first included.
        total: (120) The time after the first attempt at which the last one may begin; `math.inf` for no bound.
        wait_initial: (0.5) Upper bound of the first wait; it doubles with each attempt.
        wait_max: (10) Upper bound of every wait.
        retry_after_max: (60) The longest `Retry-After` that is waited for; a longer one is raised at once.

    Raises:
        ConfigurationError: a setting is no number, or out of bounds.
    """

    attempts: int = 6
    """Attempts in all, the first included."""
    total: float = field(default=120.0, converter=checks.seconds)
    """Seconds after the first attempt at which the last one may begin."""
    wait_initial: float = field(default=0.5, converter=checks.seconds)
    """Upper bound of the first wait, in seconds; it doubles with each attempt."""
    wait_max: float = field(default=10.0, converter=checks.seconds)
    """Upper bound of every wait, in seconds."""
    retry_after_max: float = field(default=60.0, converter=checks.seconds)
    """Longest `Retry-After` that is waited for, in seconds; a longer one is raised at once."""

    def __attrs_post_init__(self) -> None:
        checks.whole("attempts", self.attempts)
        checks.positive("total", self.total, or_zero=True, or_infinite=True)
        checks.positive("wait_initial", self.wait_initial, or_zero=True)
        checks.positive("wait_max", self.wait_max, or_zero=True)
        checks.positive("retry_after_max", self.retry_after_max, or_zero=True)


def is_transient(
    error: NairiError, *, idempotent: bool, unreadable: bool = False, busy_statuses: Container[int] = ()
) -> bool:
    """Whether the same request may be sent again after this.

    `repeatable` and `busy_statuses` are the request's; `unreadable` counts an unreadable answer as a passing fault, as
    watching does.
    """
    if isinstance(error, ConnectionFailedError) and error.is_lasting:
        return False
    if isinstance(error, ConnectionFailedError | RequestTimeoutError):
        return idempotent or not error.sent
    if is_refusal(error, busy_statuses):
        return True
    if isinstance(error, ServerError):
        return idempotent and error.status not in _LASTING
    if isinstance(error, StatusError):
        return idempotent and error.status in _ASKED_AGAIN
    return isinstance(error, DecodeError) and idempotent and unreadable


def is_refusal(error: NairiError, busy_statuses: Container[int] = ()) -> bool:
    """Whether the service said that it did not take the request: 429, 503 with a time to come back, its own words.

    A 503 without `Retry-After` may come from a proxy that had already passed the request on.
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
    """Seconds to wait before the next attempt, or `None` to give up.

    `attempt` counts from 1 and has just failed, `elapsed` seconds after the first began; `jitter` is in [0, 1).
    `busy_statuses` are the request's statuses for a service that is still at work: about a second, then twice as long.
    """
    if attempt >= policy.attempts:
        return None
    retry_after = error.retry_after if isinstance(error, StatusError) else None
    if retry_after is not None and retry_after > policy.retry_after_max:
        return None
    # min() before the power would overflow: 64 doublings exceed any wait that is allowed.
    doublings = 2.0 ** min(attempt - 1, 64)
    if isinstance(error, StatusError) and error.status in busy_statuses:
        wait = min(policy.wait_max, (0.75 + jitter / 2) * _BUSY_WAIT * doublings)
    else:
        wait = jitter * min(policy.wait_max, policy.wait_initial * doublings)
    delay = wait + (retry_after or 0.0)
    return delay if elapsed + delay <= policy.total else None


def parse_retry_after(text: str | None, now: float) -> float | None:
    """Seconds from `now` (Unix time) that a `Retry-After` header asks for; `None` if it says nothing usable.

    Seconds, whole or not, and HTTP dates are understood; the past and what is not finite are ignored.
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
    """Seconds until a used-up `X-RateLimit-*` window ends; `None` while something is left, or nothing is said.

    `now` is Unix time; the service's own `Date` is taken instead, where there is one, since clocks differ.
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
    """An HTTP date as Unix time; `None` if it is none."""
    try:
        date = parsedate_to_datetime(text or "")
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError):
        return None
