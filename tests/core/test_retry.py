from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nairi_async import (
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    ConflictError,
    ConnectionFailedError,
    DecodeError,
    NairiError,
    NotFoundError,
    OutcomeUnknownError,
    PermissionDeniedError,
    RateLimitedError,
    RequestTimeoutError,
    RetryPolicy,
    ServerError,
    SessionClosedError,
    StatusError,
)
from nairi_async._core.retry import delay_before_retry, is_refusal, is_transient, parse_retry_after

NOW = 1_775_000_000.0
HUGE = pytest.param(10**400, id="more than a float can hold")
DURATIONS = ("total", "wait_initial", "wait_max", "retry_after_max")

lengths = st.floats(min_value=0, max_value=1e6)
policies = st.builds(
    RetryPolicy,
    attempts=st.integers(min_value=1, max_value=10_000),
    total=lengths,
    wait_initial=lengths,
    wait_max=lengths,
    retry_after_max=lengths,
)
jitters = st.floats(min_value=0, max_value=1, exclude_max=True)
errors = st.one_of(
    st.just(ConnectionFailedError("broken")),
    st.builds(RateLimitedError, st.just(429), st.just("slow down"), st.none() | lengths),
)


@pytest.mark.parametrize("value", [0, -1, 1.0, 2.5, True, "3", None, math.inf])
def test_attempts_are_a_count(value: Any) -> None:
    """`attempts` must be a whole number of at least one; the error names it."""
    with pytest.raises(ConfigurationError, match="attempts"):
        RetryPolicy(attempts=value)


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize(
    "value", [-1, -0.001, math.nan, -math.inf, timedelta(seconds=-1), "1", None, True, [1], 10**400]
)
def test_durations_are_lengths_of_time(name: str, value: Any) -> None:
    """A duration that is not a length of time is a configuration error."""
    with pytest.raises(ConfigurationError):
        RetryPolicy(**{name: value})


@pytest.mark.parametrize("name", DURATIONS)
def test_durations_may_be_timedeltas(name: str) -> None:
    """A timedelta means the same as its seconds."""
    assert RetryPolicy(**{name: timedelta(milliseconds=1500)}) == RetryPolicy(**{name: 1.5})  # type: ignore[arg-type]


def test_a_policy_cannot_be_changed() -> None:
    """A policy is frozen, so sessions can share one."""
    with pytest.raises(AttributeError):
        RetryPolicy().attempts = 7  # type: ignore[misc]


def test_a_busy_service_is_asked_again_after_a_second() -> None:
    """The first wait is about a second, and each further one about twice as long, within the policy."""
    policy, busy = RetryPolicy(attempts=7), ConflictError(409, "x")
    for jitter, factor in [(0.0, 0.75), (0.5, 1.0)]:
        delays = [
            delay_before_retry(policy, busy, attempt=attempt, elapsed=0, jitter=jitter, busy_statuses={409})
            for attempt in range(1, 7)
        ]
        assert delays == [min(10.0, factor * seconds) for seconds in (1, 2, 4, 8, 16, 32)]


@given(policies, errors, st.integers(min_value=1, max_value=20_000), lengths, jitters)
def test_waits_stay_within_the_policy(
    policy: RetryPolicy, error: NairiError, attempt: int, elapsed: float, jitter: float
) -> None:
    """No wait is negative, exceeds its bounds, or begins an attempt outside the attempt and time limits."""
    delay = delay_before_retry(
        policy,
        error,
        attempt=attempt,
        elapsed=elapsed,
        jitter=jitter,
        busy_statuses={error.status, 409} if isinstance(error, StatusError) and attempt % 2 else (),
    )
    asked = error.retry_after or 0.0 if isinstance(error, StatusError) else 0.0
    if attempt >= policy.attempts or asked > policy.retry_after_max:
        assert delay is None
    if delay is not None:
        assert asked <= delay <= asked + policy.wait_max
        assert elapsed + delay <= policy.total


@given(st.integers(min_value=1, max_value=5), jitters)
def test_waits_double_under_full_jitter(attempt: int, jitter: float) -> None:
    """The wait is drawn evenly between 0 and a bound that doubles with each attempt."""
    policy = RetryPolicy(wait_initial=0.5, wait_max=1e9)
    broken = ConnectionFailedError("broken")
    delay = delay_before_retry(policy, broken, attempt=attempt, elapsed=0, jitter=jitter)
    assert delay == pytest.approx(jitter * 0.5 * 2 ** (attempt - 1))


def test_a_retry_after_beyond_the_cap_is_not_waited_for() -> None:
    """The cap itself is waited for; a longer wait gives up at once."""
    policy = RetryPolicy(retry_after_max=60, total=math.inf)
    refusals = [RateLimitedError(429, "slow down", wait) for wait in (60.0, 60.1)]
    assert [delay_before_retry(policy, one, attempt=1, elapsed=0, jitter=0) for one in refusals] == [60.0, None]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("-inf", None),
        ("1e999", None),
        ("9" * 400, None),
        ("9" * 5000, None),
        ("\x00", None),
        ("Tue, 99 Foo 2026 99:99:99 GMT", None),
        ("Mon, 01 Jan 99999 00:00:00 GMT", None),
        ("Wed, 01 Jan 2020 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_read_or_ignored(text: str | None, seconds: float | None) -> None:
    """Seconds may have a fraction; a time in the past, or one that is not finite or readable, is ignored."""
    assert parse_retry_after(text, NOW) == seconds


@pytest.mark.parametrize(
    "written",
    [
        lambda date: format_datetime(date, usegmt=True),
        lambda date: date.strftime("%A, %d-%b-%y %H:%M:%S GMT"),
        lambda date: date.strftime("%a %b %d %H:%M:%S %Y"),
        lambda date: date.strftime("%a, %d %b %Y %H:%M:%S -0000"),
        lambda date: format_datetime(date + timedelta(hours=2)).replace("+0000", "+0200"),
    ],
    ids=["rfc 5322", "rfc 850", "asctime", "no zone", "offset"],
)
def test_retry_after_dates_are_understood(written: Any) -> None:
    """Every form of an HTTP date is understood as seconds from now."""
    date = datetime.fromtimestamp(NOW + 90, UTC)
    assert parse_retry_after(written(date), NOW) == 90.0


@given(st.text())
def test_retry_after_never_raises(text: str) -> None:
    """Any header gives a finite wait, or none."""
    seconds = parse_retry_after(text, NOW)
    assert seconds is None or (seconds >= 0 and math.isfinite(seconds))


def status(kind: type[StatusError], code: int, retry_after: float | None = None) -> StatusError:
    return kind(code, "text", retry_after)


@pytest.mark.parametrize(
    ("error", "reads", "prompts"),
    [
        (ConnectionFailedError("x", sent=False), True, True),
        (ConnectionFailedError("x", sent=True), True, False),
        (RequestTimeoutError("x", sent=False), True, True),
        (RequestTimeoutError("x", sent=True), True, False),
        (status(RateLimitedError, 429), True, True),
        (status(RateLimitedError, 429, 5.0), True, True),
        (status(ServerError, 503, 0.0), True, True),
        (status(ServerError, 503), True, False),
        (status(ServerError, 500), True, False),
        (status(ServerError, 500, 5.0), True, False),
        (status(ServerError, 502), True, False),
        (status(ServerError, 504), True, False),
        (status(ServerError, 501), False, False),
        (status(ServerError, 505), False, False),
        (status(StatusError, 408), True, False),
        (status(StatusError, 425), True, False),
        (status(StatusError, 302), False, False),
        (status(StatusError, 409), False, False),
        (status(BadRequestError, 400), False, False),
        (status(AuthenticationError, 401), False, False),
        (status(PermissionDeniedError, 403), False, False),
        (status(NotFoundError, 404), False, False),
        (DecodeError("x"), False, False),
        (OutcomeUnknownError("x"), False, False),
        (SessionClosedError("x"), False, False),
        (ConfigurationError("x"), False, False),
    ],
)
def test_what_is_tried_again(error: NairiError, *, reads: bool, prompts: bool) -> None:
    """Reads are tried again after transient faults; prompts only when they provably did not run."""
    assert is_transient(error, idempotent=True) is reads
    assert is_transient(error, idempotent=False) is prompts


def test_an_unreadable_response_is_transient_only_where_asked_for() -> None:
    """An unreadable response is a transient fault for watching, and never for a prompt."""
    unreadable = DecodeError("x")
    assert is_transient(unreadable, idempotent=True, unreadable=True)
    assert not is_transient(unreadable, idempotent=False, unreadable=True)


def test_what_counts_as_a_refusal() -> None:
    """Only 429, and 503 with `Retry-After`, say that the request was not accepted."""
    refusals = [status(RateLimitedError, 429), status(ServerError, 503, 1.0), status(ServerError, 503)]
    assert [is_refusal(error) for error in refusals] == [True, True, False]
    assert not is_refusal(ConnectionFailedError("x"))
