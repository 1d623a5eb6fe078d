from __future__ import annotations

import asyncio
import math
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import pytest
from amigo_sessions import ID, SIGNED_IN, session
from hypothesis import given
from hypothesis import strategies as st
from support import RawServer, answer, refusal, slot

from nairi_async import RateLimitedError, RetryPolicy
from nairi_async._core.rate_limits import WINDOW, RateLimiter, SlidingWindow
from nairi_async._core.retry import seconds_until_reset
from nairi_async.amigo import Limits
from nairi_async.testing import VirtualClock
from nairi_async.testing.amigo import AmigoQuirks, AmigoSimulator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nairi_async.amigo import AmigoSession

EMPTY = '{"conversations": [], "has_more": false, "continuation_token": null}'


async def listed(amigo: AmigoSession) -> list[Any]:
    return [row async for row in amigo.conversations()]


# Moments that a float holds exactly, so that "a minute later" is neither just before nor just after it.
GAPS = st.integers(min_value=0, max_value=800).map(lambda eighths: eighths / 8)


@given(st.lists(GAPS, min_size=1, max_size=60), st.integers(min_value=1, max_value=10))
def test_no_minute_has_more_than_the_limit(gaps: Sequence[float], limit: int) -> None:
    """However calls arrive, no minute sees more than the limit, and none waits while there is room."""
    window, now = SlidingWindow(limit), 0.0
    left: list[float] = []
    for gap in gaps:
        now += gap
        wait = window.time_until_next(now)
        if wait:
            assert sum(at > now - WINDOW for at in left) == limit
        now += wait
        window.record_request(now)
        left.append(now)
    assert all(later - earlier >= 60 for earlier, later in zip(left, left[limit:], strict=False))


def test_no_limit_is_no_wait() -> None:
    """Without a limit no call waits."""
    window = SlidingWindow(None)
    for _ in range(100):
        window.record_request(0.0)
    assert window.time_until_next(0.0) == 0


@pytest.mark.parametrize(
    ("remaining", "reset", "date", "wait"),
    [
        ("0", "1030", None, 30.0),
        (" 0 ", "1030.5", None, 30.5),
        ("0", "1030", formatdate(1010, usegmt=True), 20.0),
        ("0", "990", None, None),
        ("1", "1030", None, None),
        ("0", "soon", None, None),
        ("0", "inf", None, None),
        ("0", None, None, None),
        (None, "1030", None, None),
    ],
)
def test_a_used_up_window_is_waited_for(remaining: Any, reset: Any, date: Any, wait: float | None) -> None:
    """Headers that say that nothing is left hold calls back until the window ends, by the service's clock."""
    given_headers = {"X-RateLimit-Remaining": remaining, "X-RateLimit-Reset": reset, "Date": date}
    headers = {name: value for name, value in given_headers.items() if value is not None}
    assert seconds_until_reset(headers, now=1000.0) == wait


@pytest.mark.anyio
async def test_calls_are_paced_by_endpoint(clock: VirtualClock) -> None:
    """Against a service that enforces its limits, no call is refused, however many are made at once."""
    async with (
        AmigoSimulator("Hi", clock=clock, quirks=AmigoQuirks(limits="organization", one_unfinished=False)) as service,
        session(service.url, clock=clock, limits=None) as amigo,
    ):
        streams = [amigo.create_conversation(service.service_id) for _ in range(17)]
        lists = [asyncio.ensure_future(listed(amigo)) for _ in range(10)]
        await asyncio.gather(*lists)
        assert clock.monotonic() < 1
        await asyncio.gather(*(stream.reply() for stream in streams))
        assert clock.monotonic() >= 180
        assert amigo.stats.retries == 0
        assert amigo.stats.waiting_calls == 0


@pytest.mark.anyio
async def test_a_limit_of_one_endpoint_holds_no_other() -> None:
    """A `Retry-After` holds back the calls to its own endpoint, and no others."""
    clock = VirtualClock()
    messages = answer(200, '{"messages": [], "has_more": false}')
    steps = (SIGNED_IN, refusal(429, "slow", "Retry-After: 30"), messages, answer(200, EMPTY))
    async with RawServer(*steps) as server, session(server.url, clock=clock) as amigo:
        waiting = asyncio.ensure_future(listed(amigo))
        while len(server.seen) < 2:  # noqa: ASYNC110 - a server's list sets no event
            await asyncio.sleep(0)
        assert [row async for row in amigo.messages(ID)] == []
        assert clock.monotonic() < 30
        assert await waiting == []
        assert clock.monotonic() >= 30


@pytest.mark.anyio
async def test_a_refusal_without_headers_holds_its_endpoint_for_a_minute() -> None:
    """No header says when the limit is over, but it is one per minute: the call is not given up after seconds."""
    clock = VirtualClock()
    steps = (SIGNED_IN, refusal(429, "slow"), answer(200, EMPTY), answer(200, '{"messages": [], "has_more": false}'))
    async with RawServer(*steps) as server, session(server.url, clock=clock) as amigo:
        assert await listed(amigo) == []
        assert 60 <= clock.monotonic() < 80
        assert [row async for row in amigo.messages(ID)] == []
        assert len(server.seen) == 4


@pytest.mark.anyio
async def test_headers_of_a_success_hold_the_next_call_back() -> None:
    """A window that is used up by others of the organisation is waited for, not run into."""
    clock = VirtualClock()
    reset = f"X-RateLimit-Reset: {clock.time() + 25:.0f}"
    used_up = answer(200, EMPTY, "X-RateLimit-Limit: 15", "X-RateLimit-Remaining: 0", reset)
    async with RawServer(SIGNED_IN, used_up, answer(200, EMPTY)) as server, session(server.url, clock=clock) as amigo:
        await listed(amigo)
        await listed(amigo)
        assert clock.monotonic() >= 24
        assert len(server.seen) == 3


@pytest.mark.anyio
async def test_a_wait_beyond_the_policy_is_raised() -> None:
    """A `Retry-After` beyond the policy is the caller's to wait for."""
    steps = (SIGNED_IN, refusal(429, "slow", "Retry-After: 3600"))
    async with RawServer(*steps) as server, session(server.url, retry=RetryPolicy(retry_after_max=60)) as amigo:
        with pytest.raises(RateLimitedError) as caught:
            await listed(amigo)
        assert caught.value.retry_after == 3600


@pytest.mark.anyio
async def test_waiting_for_a_turn_is_not_trying() -> None:
    """A call that waited long for its endpoint still has all of its attempts."""
    clock = VirtualClock()
    steps = (SIGNED_IN, answer(200, EMPTY), answer(200, EMPTY), refusal(503, "busy"), answer(200, EMPTY))
    options: dict[str, Any] = {"clock": clock, "limits": Limits(conversations=1), "retry": RetryPolicy(total=100.0)}
    async with RawServer(*steps) as server, session(server.url, **options) as amigo:
        await asyncio.gather(*(listed(amigo) for _ in range(3)))
        assert len(server.seen) == 5
        assert clock.monotonic() >= 180


@pytest.mark.anyio
async def test_waiting_for_a_bucket_holds_no_connection() -> None:
    """While one endpoint's calls wait for the next minute, the only connection serves another's."""
    clock = VirtualClock()
    limiter = RateLimiter(clock, lambda: 0.5, connections=1, buckets={"a": 1, "b": None})
    async with slot(limiter, math.inf, "a"):
        pass
    waiting = asyncio.ensure_future(limiter.acquire(math.inf, "a"))
    await asyncio.sleep(0)
    async with slot(limiter, math.inf, "b"):
        assert clock.monotonic() == 0
    await waiting
    assert clock.monotonic() >= 60
    limiter.release()


@pytest.mark.anyio
async def test_a_cancelled_call_leaves_its_bucket() -> None:
    """A call that is cancelled in its bucket delays no other, and takes no place in the window."""
    clock = VirtualClock()
    limiter = RateLimiter(clock, lambda: 0.5, connections=1, buckets={"a": 2})
    async with slot(limiter, math.inf, "a"):
        waiting = [asyncio.ensure_future(limiter.acquire(math.inf, "a")) for _ in range(2)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
    await waiting[1]
    assert clock.monotonic() == 0
    assert limiter.waiting == 0
