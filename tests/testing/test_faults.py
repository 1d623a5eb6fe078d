from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from simulated import running

from nairi_async import NairiSession, OutcomeUnknownError, RequestTimeoutError, RetryPolicy
from nairi_async.testing import FaultPlan, Notice, Say, Simulator, VirtualClock
from nairi_async.testing.faults import FAULT_KINDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nairi_async.testing.faults import FaultKind

pytestmark = pytest.mark.anyio
START = "/api/public/v1/conversations/start"
LIST = "/api/public/v1/conversations/job_1/messages"


def plan(*script: FaultKind | None, **options: Any) -> FaultPlan:
    return FaultPlan(script=script, **options)


@asynccontextmanager
async def faced(faults: FaultPlan) -> AsyncIterator[tuple[Simulator, NairiSession, VirtualClock]]:
    """Run a session without retries on a service with faults, both in virtual time."""
    clock = VirtualClock()
    async with (
        Simulator(clock=clock, faults=faults) as simulator,
        NairiSession(simulator.api_key, base_url=simulator.url, clock=clock, retry=RetryPolicy(attempts=1)) as nairi,
    ):
        yield simulator, nairi, clock


# The plan.


def test_a_draw_follows_from_seed_path_and_number_alone() -> None:
    """Equal plans fail the same requests in the same way, in any order of requests; other seeds others."""
    asked = [("POST", START, nth) for nth in range(200)] + [("GET", LIST, nth) for nth in range(200)]
    first = [FaultPlan(seed=7, rate=0.25).draw(*one) for one in asked]
    again = [FaultPlan(seed=7, rate=0.25).draw(*one) for one in reversed(asked)]
    assert first == list(reversed(again))
    assert first != [FaultPlan(seed=8, rate=0.25).draw(*one) for one in asked]


def test_a_rate_is_the_share_of_all_requests_and_every_kind_comes() -> None:
    """A quarter of the reads of lists fails, in each of the ways; prompts never in the ways of lists."""
    plan = FaultPlan(rate=0.25)
    drawn = Counter(fault.kind for nth in range(4000) if (fault := plan.draw("GET", LIST, nth)))
    assert 900 < sum(drawn.values()) < 1100
    assert set(drawn) == set(FAULT_KINDS)
    drawn = Counter(fault.kind for nth in range(4000) if (fault := plan.draw("POST", START, nth)))
    assert 900 < sum(drawn.values()) < 1100
    assert set(FAULT_KINDS) - set(drawn) == {"stale", "late", "reordered", "repeated"}


def test_rates_of_kinds_are_their_shares() -> None:
    """Kinds with a rate of their own come that often, and no others."""
    plan = FaultPlan(rates={"hang after": 0.5, "slow": 0.1})
    drawn = Counter(fault.kind for nth in range(2000) if (fault := plan.draw("POST", START, nth)))
    assert set(drawn) == {"hang after", "slow"}
    assert 900 < drawn["hang after"] < 1100


def test_no_plan_is_no_fault() -> None:
    """The plan without settings fails no request."""
    assert not any(FaultPlan().draw("GET", LIST, nth) for nth in range(1000))


@pytest.mark.parametrize(
    "settings",
    [
        {"rate": -0.1},
        {"rate": 1.1},
        {"rate": 0.1, "rates": {"slow": 0.1}},
        {"rates": {"slow": 0.6, "stale": 0.6}},
        {"rates": {"slow": -0.1}},
        {"rates": {"no such kind": 0.1}},
        {"script": ["slow", "no such kind"]},
        {"seed": "7"},
        {"retry_after": -1},
        {"slow_for": 0},
    ],
)
def test_impossible_plans_are_refused(settings: dict[str, Any]) -> None:
    """A plan that cannot be carried out is an error where it is made."""
    with pytest.raises((ValueError, TypeError)):
        FaultPlan(**settings)


# The faults.


@pytest.mark.parametrize(("kind", "ran"), [("reset before", 0), ("reset after", 1)])
async def test_a_cut_connection(kind: FaultKind, ran: int) -> None:
    """The connection is cut before or after the prompt was taken; either way there is no response."""
    async with running(faults=plan(kind)) as service:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await service.start()
        assert len(service.simulator.prompts) == ran
        assert [(seen.status, seen.fault) for seen in service.simulator.requests] == [(0, kind)]
        await service.start()


@pytest.mark.parametrize(("kind", "ran"), [("hang before", 0), ("hang after", 1)])
async def test_a_hang_lasts_the_timeout_of_the_client_in_virtual_time(kind: FaultKind, ran: int) -> None:
    """A prompt that is never answered ends at the request's timeout, in milliseconds of real time."""
    async with faced(plan(kind)) as (simulator, nairi, clock):
        with pytest.raises(OutcomeUnknownError):
            await nairi.start("my-agent", "Hello")
        assert clock.monotonic() == 30.0
        assert len(simulator.prompts) == ran


async def test_a_hang_does_not_hasten_others() -> None:
    """Virtual time does not run away from requests in flight while another one hangs."""
    async with faced(plan("hang after", where="POST")) as (_, nairi, clock):
        hanging = asyncio.create_task(nairi.start("my-agent", "Hello"))
        agents = [await nairi.agents() for _ in range(20)]
        assert len(agents) == 20
        assert clock.monotonic() <= 30.0
        with pytest.raises(OutcomeUnknownError):
            await hanging


async def test_a_hang_in_real_time_ends_with_the_client() -> None:
    """Without a virtual clock the client's timeout is the end of it too, and the simulator closes at once."""
    async with (
        Simulator(faults=plan("hang before")) as simulator,
        NairiSession(
            simulator.api_key, base_url=simulator.url, request_timeout=0.05, retry=RetryPolicy(attempts=1)
        ) as nairi,
    ):
        with pytest.raises(RequestTimeoutError):
            await nairi.agents()


@pytest.mark.parametrize(("kind", "ran"), [("error before", 0), ("error after", 1)])
async def test_an_error_page(kind: FaultKind, ran: int) -> None:
    """A gateway answers with HTML, before or after the prompt was taken, without saying which."""
    async with running(faults=plan(kind)) as service:
        url = service.simulator.url + START
        async with service.http.post(url, json={"agent_id": "my-agent", "prompt": "p"}) as response:
            assert response.status in {408, 425, 500, 502, 503, 504}
            assert "Retry-After" not in response.headers
            assert (response.content_type, (await response.text())[:6]) == ("text/html", "<html>")
        assert len(service.simulator.prompts) == ran


async def test_every_status_of_a_gateway_comes() -> None:
    """The status of an error page changes from one to the next; 408 and 425 are among them."""
    async with running(faults=FaultPlan(script=["error before"] * 6)) as service:
        for _ in range(6):
            async with service.http.get(service.simulator.url + "/api/public/v1/agents"):
                pass
        assert {seen.status for seen in service.simulator.requests} == {408, 425, 500, 502, 503, 504}


@pytest.mark.parametrize(("kind", "status"), [("rate limited", 429), ("rate limited until", 429), ("unavailable", 503)])
async def test_a_refusal_says_when_to_come_back(kind: FaultKind, status: int) -> None:
    """A refused request did nothing; `Retry-After` is in seconds, or a date that is not early."""
    async with running(faults=plan(kind, retry_after=7)) as service:
        url = service.simulator.url + START
        async with service.http.post(url, json={"agent_id": "my-agent", "prompt": "p"}) as response:
            assert response.status == status
            retry_after = response.headers["Retry-After"]
        assert service.simulator.prompts == []
        if kind == "rate limited until":
            wait = parsedate_to_datetime(retry_after).timestamp() - service.clock.time()
            assert 7 <= wait <= 8
        else:
            assert retry_after == "7"


async def test_a_truncated_body() -> None:
    """The head promises more than comes."""
    async with running(faults=plan("truncated")) as service:
        with pytest.raises(aiohttp.ClientPayloadError):
            await service.start()
        assert len(service.simulator.prompts) == 1


async def test_a_garbled_body() -> None:
    """A complete response of the right type, with half of the JSON."""
    async with running(faults=plan("garbled")) as service:
        with pytest.raises(json.JSONDecodeError):
            await service.start()
        assert len(service.simulator.prompts) == 1


async def test_a_slow_body() -> None:
    """All of it comes, in virtual time within a timeout that is longer, and not within a shorter one."""
    async with faced(plan("slow", "slow", slow_for=20)) as (_, nairi, clock):
        await nairi.start("my-agent", "Hello")
        assert clock.monotonic() == pytest.approx(20)
    async with faced(plan("slow", slow_for=40)) as (simulator, nairi, clock):
        with pytest.raises(OutcomeUnknownError):
            await nairi.start("my-agent", "Hello")
        assert clock.monotonic() == 30.0
        assert len(simulator.prompts) == 1


async def test_a_stale_read() -> None:
    """One read shows the world of `lag` seconds ago, the next one shows it as it is."""
    async with running(faults=plan(None, "stale", lag=5), agents={"my-agent": [Say("Hi", after=10)]}) as service:
        job_id, message_id = await service.start()
        service.clock.advance(12)
        assert await service.status(message_id) == "pending"
        assert await service.status(message_id) == "completed"
        assert await service.texts(job_id) == ["Hello", "Hi"]


async def test_late_messages() -> None:
    """For `lag` seconds a list lacks some messages although it shows later ones; never a user's."""
    script = [Notice(f"n{n}") for n in range(20)]
    async with running(faults=plan(None, "late", "late", None, lag=5), agents={"my-agent": script}) as service:
        job_id, _ = await service.start()
        first = await service.texts(job_id)
        assert 1 < len(first) < 21
        assert first[0] == "Hello"
        assert await service.texts(job_id) == first
        assert len(await service.texts(job_id)) == 21


async def test_reordered_and_repeated_lists() -> None:
    """A list of messages comes in another order, then with messages twice, then as it is."""
    script = [Notice(f"n{n}") for n in range(9)]
    async with running(faults=plan(None, "reordered", "repeated"), agents={"my-agent": script}) as service:
        job_id, _ = await service.start()
        reordered, repeated = await service.texts(job_id), await service.texts(job_id)
        plain = await service.texts(job_id)
        assert reordered != plain
        assert sorted(reordered) == sorted(plain)
        assert (len(plain), len(repeated), set(repeated)) == (10, 15, set(plain))


async def test_a_skewed_clock() -> None:
    """One response has a `Date` that is `skew` seconds off."""
    async with running(faults=plan(None, "skewed", skew=3600)) as service:
        _, message_id = await service.start()
        url = f"{service.simulator.url}/api/public/v1/messages/{message_id}"
        dates = []
        for _ in range(2):
            async with service.http.get(url) as response:
                dates.append(parsedate_to_datetime(response.headers["Date"]).timestamp())
        assert abs(dates[0] - dates[1]) == 3600
        assert dates[1] == int(service.clock.time())


async def test_a_plan_can_be_confined_and_replaced() -> None:
    """`where` leaves other requests alone; a new plan begins anew; hooks go on working."""
    async with running(faults=plan("reset after", where=r"^POST .*/start$")) as service:
        await service.call("GET", "/agents")
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await service.start()
        service.simulator.faults = plan("unavailable")
        assert await service.refused("GET", "/agents", 503)
        await service.call("GET", "/agents")
        assert service.simulator.faults.script == ("unavailable",)
        assert [seen.fault for seen in service.simulator.requests] == [None, "reset after", "unavailable", None]
