from __future__ import annotations

import asyncio
import json
import math
from collections import Counter, defaultdict
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING

import pytest
import support
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from nairi_async import NairiSession, RequestTimeoutError, RetryPolicy
from nairi_async._core.rate_limits import RateGate, RateLimiter, ScopedThrottles
from nairi_async._core.request import Request
from nairi_async.testing import Simulator, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Sequence

gaps = st.lists(st.floats(min_value=0, max_value=10), min_size=1, max_size=50)
waits = st.floats(min_value=0.001, max_value=100)


@given(gaps, st.floats(min_value=0.1, max_value=1000))
def test_the_rate_is_never_exceeded(arrivals: Sequence[float], rate: float) -> None:
    """However calls arrive, they leave in order and at least the spacing of the rate apart."""
    gate, now, leaving = RateGate(rate), 0.0, []
    for gap in arrivals:
        now += gap
        now += gate.time_until_next(now)
        gate.record_request(now)
        leaving.append(now)
    assert all(later - earlier >= 1 / rate - 1e-9 for earlier, later in pairwise(leaving))


@given(gaps)
def test_no_rate_is_no_wait(arrivals: Sequence[float]) -> None:
    """Without a rate no call waits."""
    gate = RateGate(None)
    for index in range(len(arrivals)):
        now = sum(arrivals[:index])
        assert gate.time_until_next(now) == 0
        gate.record_request(now)


@given(waits, waits, st.floats(min_value=0, max_value=1, exclude_max=True))
def test_the_longest_throttling_holds(first: float, second: float, jitter: float) -> None:
    """Nothing passes before the end of the longest throttling, and everything soon after it."""
    gate, end = RateGate(None), max(first, second)
    gate.throttle(0, first)
    gate.throttle(0, second)
    assert end <= gate.time_until_restart(0, jitter) <= end * 1.25
    assert gate.time_until_restart(end, jitter) == 0


@pytest.mark.anyio
async def test_at_most_so_many_at_once() -> None:
    """At most as many calls as connections hold a slot at once, and each call gets one."""
    limiter, inside, most = RateLimiter(VirtualClock(), lambda: 0.5, connections=3), 0, 0

    async def call() -> None:
        nonlocal inside, most
        async with support.slot(limiter, math.inf):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(call() for _ in range(20)))
    assert (inside, most, limiter.waiting) == (0, 3, 0)


@pytest.mark.anyio
async def test_a_call_that_fails_releases_its_slot() -> None:
    """An error inside a slot releases it."""
    limiter = RateLimiter(VirtualClock(), lambda: 0.5, connections=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            async with support.slot(limiter, math.inf):
                raise ZeroDivisionError
    async with support.slot(limiter, math.inf):
        assert limiter.waiting == 0


@pytest.mark.anyio
async def test_a_cancelled_waiter_holds_no_slot() -> None:
    """A call that is cancelled while it waits for a connection keeps no slot and does not delay others."""
    limiter, order = RateLimiter(VirtualClock(), lambda: 0.5, connections=1), []
    release = asyncio.Event()

    async def call(name: str) -> None:
        async with support.slot(limiter, math.inf):
            order.append(name)
            await release.wait()

    async with asyncio.TaskGroup() as group:
        _, cancelled, _ = [group.create_task(call(name)) for name in "abc"]
        await support.until(lambda: limiter.waiting == 2)
        cancelled.cancel()
        release.set()
    assert (order, limiter.waiting) == (["a", "c"], 0)


@pytest.mark.anyio
async def test_cancelled_waiters_leave_the_rate_to_others() -> None:
    """Calls that were cancelled while the rate held them back do not delay the next call."""
    clock = VirtualClock()
    limiter = RateLimiter(clock, lambda: 0.5, connections=100, per_second=1)

    async def call() -> None:
        async with support.slot(limiter, math.inf):
            pass

    await call()
    tasks = [asyncio.create_task(call()) for _ in range(50)]
    await support.until(lambda: limiter.waiting == 50)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    before = clock.monotonic()
    await call()
    assert clock.monotonic() - before <= 2


@pytest.mark.anyio
async def test_a_call_cancelled_by_the_rate_releases_its_connection() -> None:
    """A call that is cancelled while the rate holds it back does not keep the connection that it had taken."""
    clock = VirtualClock()
    limiter = RateLimiter(clock, lambda: 0.5, connections=1, per_second=1)
    async with support.slot(limiter, math.inf):
        pass
    call = asyncio.create_task(limiter.acquire(math.inf))
    await support.until(lambda: limiter.waiting)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    async with support.slot(limiter, math.inf):
        assert (limiter.in_use, limiter.available, limiter.waiting) == (1, 0, 0)


@pytest.mark.anyio
async def test_the_rate_holds_for_calls_that_waited_for_a_connection() -> None:
    """Calls that queue up behind a slow one leave no faster than the rate when it ends."""
    clock, left = VirtualClock(), list[float]()
    limiter = RateLimiter(clock, lambda: 0.5, connections=1, per_second=1)

    async def call(seconds: float) -> None:
        async with support.slot(limiter, math.inf):
            left.append(clock.monotonic())
            await clock.sleep(seconds)

    await asyncio.gather(call(10), *(call(0) for _ in range(4)))
    assert all(later - earlier >= 1 - 1e-9 for earlier, later in pairwise(left))


@pytest.mark.anyio
async def test_a_deadline_bounds_the_wait_while_throttled() -> None:
    """Throttling that lasts longer than the deadline ends the wait at the deadline, as a timeout."""
    clock = VirtualClock()
    limiter = RateLimiter(clock, lambda: 0.5, connections=1)
    limiter.throttle(60)
    with pytest.raises(TimeoutError):
        async with support.slot(limiter, 5.0):
            pytest.fail("the limiter was throttled")
    assert clock.monotonic() == 5.0


@pytest.mark.anyio
async def test_calls_beyond_the_connections_start_again_staggered_too() -> None:
    """After throttling, waiting calls restart evenly over a quarter of its time, however few connections there are."""
    clock, left, seed = VirtualClock(), list[float](), Random(1)
    limiter = RateLimiter(clock, seed.random, connections=10)
    limiter.throttle(60)

    async def call() -> None:
        async with support.slot(limiter, math.inf):
            left.append(clock.monotonic())

    await asyncio.gather(*(call() for _ in range(300)))
    assert min(left) >= 60
    assert max(left) <= 75
    by_second = Counter(int(moment) for moment in left)
    assert max(by_second.values()) < 3 * 300 / 15


@pytest.mark.anyio
async def test_calls_beyond_the_connections_keep_their_deadlines_while_throttled() -> None:
    """Throttling beyond the deadline ends every wait at the deadline, not only those of calls with a connection."""
    clock = VirtualClock()
    limiter = RateLimiter(clock, lambda: 0.5, connections=2)
    limiter.throttle(60)

    async def call() -> None:
        async with support.slot(limiter, 5.0):
            pytest.fail("the limiter was throttled")

    ended = await asyncio.gather(*(call() for _ in range(10)), return_exceptions=True)
    assert {type(error) for error in ended} == {TimeoutError}
    assert clock.monotonic() == 5.0


@pytest.mark.anyio
async def test_prompts_and_reads_take_turns() -> None:
    """Prompts that are still to be sent do not hold up the polls of those that run, nor the other way round."""
    clock = VirtualClock()
    async with Simulator(clock=clock) as service:
        async with NairiSession(service.api_key, base_url=service.url, clock=clock, max_connections=1) as nairi:
            turn = await nairi.start("my-agent", "first")
            prompts = [asyncio.create_task(nairi.start("my-agent", f"prompt {number}")) for number in range(30)]
            reads = [asyncio.create_task(nairi.message(turn.message_id)) for _ in range(3)]
            await asyncio.gather(*prompts, *reads)
        # The first prompt took the free connection, and the next one waited first.
        assert [request.method for request in service.requests][3:8] == ["GET", "POST", "GET", "POST", "GET"]


@pytest.mark.anyio
@pytest.mark.parametrize("seed", range(10))
async def test_reads_stand_in_line_before_they_are_begun(seed: int) -> None:
    """Of many reads few wait for a permit, in order, and none is stranded, also when others are cancelled.

    A throttled session lets all of them go on, so that each draws a time of its own to restart.
    """
    random, clock = Random(seed), VirtualClock()
    limiter, most, order = RateLimiter(clock, random.random, connections=3), 0, list[int]()

    async def poll(number: int) -> None:
        nonlocal most
        if limiter.is_crowded:
            await limiter.stand_in_line()
        order.append(number)
        if random.random() < 0.3:
            return
        async with support.slot(limiter, math.inf):
            most = max(most, limiter.waiting)
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(poll(number)) for number in range(60)]
    for task in random.sample(tasks, 20):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.wait(tasks)
    assert (order, limiter.in_use, limiter.waiting, limiter.is_crowded) == (sorted(order), 0, 0, False)
    assert len(order) >= 40
    assert most <= 9
    tasks = [asyncio.create_task(poll(number)) for number in range(60)]
    await asyncio.sleep(0)
    limiter.throttle(10.0)
    await asyncio.sleep(0)
    assert (len(order) >= 100, limiter.is_crowded) == (True, False)
    await asyncio.wait(tasks)
    assert (limiter.in_use, limiter.waiting, limiter.is_crowded) == (0, 0, False)


@pytest.mark.anyio
async def test_reads_stand_in_line_only_as_long_as_others_are_under_way() -> None:
    """If all other reads are cancelled at once, those that hold a permit and those that wait for one, the line goes on.

    It goes on as well where reads that never stand in line keep all permits taken, and as many waiting, without end.
    """
    limiter = RateLimiter(VirtualClock(), lambda: 0.5, connections=2)

    async def in_line() -> None:
        assert limiter.is_crowded
        await limiter.stand_in_line()

    async def repeat() -> None:
        while True:
            async with support.slot(limiter, math.inf):
                await asyncio.sleep(0)

    async def hold() -> None:
        async with support.slot(limiter, math.inf):
            await asyncio.Event().wait()

    for call, is_ended in (hold, True), (repeat, False):
        others = [asyncio.create_task(call()) for _ in range(6)]
        await asyncio.sleep(0)
        line = [asyncio.create_task(in_line()) for _ in range(5)]
        await asyncio.sleep(0)
        for other in others if is_ended else ():
            other.cancel()
        passes = 0
        while not all(read.done() for read in line):
            assert (passes := passes + 1) < 1000
            await asyncio.sleep(0)
        for other in others:
            other.cancel()
        await asyncio.wait(others)
    assert (limiter.in_use, limiter.waiting, limiter.is_crowded) == (0, 0, False)


@pytest.mark.anyio
async def test_waiting_for_a_connection_costs_no_request_time() -> None:
    """Of five calls over one connection, each has the whole request timeout to itself."""
    clock = VirtualClock()

    async def slow(request: web.BaseRequest) -> web.Response:
        with clock.stalled():
            await clock.sleep(20)
        return web.Response(body=support.MESSAGE)

    once = RetryPolicy(attempts=1)
    async with (
        support.serve(slow) as url,
        support.session(url, clock=clock, max_connections=1, request_timeout=30, retry=once) as nairi,
    ):
        assert len(await asyncio.gather(*(nairi.message(f"cmsg_{n}") for n in range(5)))) == 5


@pytest.mark.anyio
async def test_waiting_behind_a_limit_costs_no_attempts() -> None:
    """A call that was throttled for longer than retries may take is still tried again when it fails."""
    clock = VirtualClock()
    steps = (support.answer(500, "oops"), support.answer(200, support.MESSAGE))
    async with (
        support.RawServer(*steps) as server,
        support.session(server.url, clock=clock, retry=RetryPolicy(total=10)) as nairi,
    ):
        nairi._executor.limiter.throttle(60)
        assert (await nairi.message("cmsg_1")).id == "cmsg_1"
        assert len(server.seen) == 2


@pytest.mark.anyio
async def test_a_read_whose_time_is_over_is_not_sent() -> None:
    """Where no connection is free until the deadline, nothing is sent, and the error says why."""
    clock = VirtualClock()
    request = Request(method="GET", path="/agents")
    async with support.RawServer(support.answer(200)) as server, support.session(server.url, clock=clock) as nairi:
        executor = nairi._executor
        executor.limiter = RateLimiter(clock, lambda: 0.5, connections=1)
        async with support.slot(executor.limiter, math.inf):
            late = asyncio.create_task(executor.call(request, bytes, deadline=5.0))
            await support.until(lambda: executor.limiter.waiting)
            clock.advance(60)
        with pytest.raises(RequestTimeoutError, match="no connection was free in time") as caught:
            await late
        assert not caught.value.sent
        assert server.seen == []


class Limited:
    """A service that refuses its first request and records, in virtual time, when each came."""

    def __init__(self, clock: VirtualClock, *headers: tuple[str, str]) -> None:
        self.received_at: list[float] = []
        self._clock = clock
        self._headers = dict(headers)

    async def __call__(self, _request: web.BaseRequest) -> web.Response:
        self.received_at.append(self._clock.monotonic())
        if len(self.received_at) == 1:
            return web.json_response({"error": "slow down"}, status=429, headers=self._headers)
        return web.Response(body=support.MESSAGE)


@pytest.mark.anyio
async def test_retry_after_holds_back_calls_that_come_later() -> None:
    """A `Retry-After` of one response throttles the session: calls made meanwhile leave after it."""
    clock = VirtualClock()
    service = Limited(clock, ("Retry-After", "30"))
    async with support.serve(service) as url, support.session(url, clock=clock) as nairi:
        refused = asyncio.create_task(nairi.message("cmsg_1"))
        await support.until(nairi._executor.limiter.is_throttled)
        await asyncio.gather(refused, *(nairi.message(f"cmsg_{n}") for n in range(10)))
    assert len(service.received_at) == 12
    assert all(30 <= received_at <= 60 for received_at in service.received_at[1:])


@pytest.mark.anyio
async def test_retry_after_holds_back_calls_that_wait_for_a_connection() -> None:
    """A call that was queued before the refusal does not run into the limit either."""
    clock = VirtualClock()
    service = Limited(clock, ("Retry-After", "30"))
    async with support.serve(service) as url, support.session(url, clock=clock, max_connections=1) as nairi:
        await asyncio.gather(*(nairi.message(f"cmsg_{n}") for n in range(4)))
    assert len(service.received_at) == 5
    assert all(received_at >= 30 for received_at in service.received_at[1:])


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 20), waits), max_size=30))
def test_a_refusal_slows_its_scope_and_a_second_one_everything(refusals: list[tuple[int, float, float]]) -> None:
    """A scope waits for the longest of its refusals; a refusal is everyone's if another scope is held back then."""
    throttles, ends, now = ScopedThrottles(), defaultdict[str, float](float), 0.0
    for number, gap, seconds in refusals:
        now += gap
        scope = f"agent-{number}"
        is_elsewhere = any(end > now for name, end in ends.items() if name != scope)
        assert throttles.throttle(now, seconds, scope) == is_elsewhere
        ends[scope] = max(ends[scope], now + seconds)
        for name, end in ends.items():
            assert throttles.is_throttled(now, name) == (end > now)
            assert throttles.time_until_restart(now, 0.0, name) == pytest.approx(max(0.0, end - now))


class BusyAgents:
    """A service whose agents refuse their first start; it records, in virtual time, what came when."""

    def __init__(self, clock: VirtualClock, busy: Sequence[str]) -> None:
        self.received_at: dict[str, list[float]] = {}
        self._clock = clock
        self._busy = list(busy)

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        agent = json.loads(await request.read())["agent_id"] if request.method == "POST" else "a read"
        self.received_at.setdefault(agent, []).append(self._clock.monotonic())
        if agent in self._busy:
            self._busy.remove(agent)
            return web.json_response({"error": "slow down"}, status=429, headers={"Retry-After": "30"})
        return web.Response(body=support.STARTED if request.method == "POST" else support.MESSAGE)


@pytest.mark.anyio
@pytest.mark.parametrize("options", [{}, {"max_connections": 1}, {"requests_per_second": 100.0}], ids=str)
async def test_an_agent_that_refuses_a_start_slows_its_own_starts(options: dict[str, float]) -> None:
    """Starts at that agent wait until `Retry-After` is over; other agents and reads do not notice."""
    clock = VirtualClock()
    service = BusyAgents(clock, ["busy"])
    async with support.serve(service) as url, support.session(url, clock=clock, **options) as nairi:
        refused = asyncio.create_task(nairi.start("busy", "Hello"))
        await support.until(lambda: nairi._executor.limiter._scopes.is_throttled(clock.monotonic(), "busy"))
        later = [nairi.start("busy", f"Hello {number}") for number in range(3)]
        others = [nairi.start("quick", "Hello"), nairi.message("cmsg_1")]
        await asyncio.gather(refused, *later, *others)
    assert len(service.received_at["busy"]) == 5
    assert all(30 <= at <= 60 for at in service.received_at["busy"][1:])
    assert max(service.received_at["quick"] + service.received_at["a read"]) < 1


@pytest.mark.anyio
async def test_a_second_agent_that_refuses_slows_everything() -> None:
    """A limit that two agents meet is taken for the key's: reads wait too."""
    clock = VirtualClock()
    service = BusyAgents(clock, ["one", "other"])
    async with support.serve(service) as url, support.session(url, clock=clock) as nairi:
        refused = [asyncio.create_task(nairi.start(agent, "Hello")) for agent in ("one", "other")]
        await support.until(nairi._executor.limiter.is_throttled)
        await asyncio.gather(*refused, nairi.message("cmsg_1"))
    assert service.received_at["a read"][0] >= 30


@pytest.mark.anyio
async def test_requests_per_second_spaces_requests() -> None:
    """With `requests_per_second=2`, requests leave half a second apart."""
    clock = VirtualClock()
    service = Limited(clock)
    async with support.serve(service) as url, support.session(url, clock=clock, requests_per_second=2) as nairi:
        await asyncio.gather(*(nairi.message(f"cmsg_{n}") for n in range(6)))
    assert all(later - earlier >= 0.5 - 1e-9 for earlier, later in pairwise(service.received_at))
