from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from simulated import START, running
from yarl import URL

from nairi_async.testing import AmigoSimulator, Quirks, RecordedRequest, Simulator

pytestmark = pytest.mark.anyio


async def test_requests_are_recorded() -> None:
    """`requests` records method, path and query as sent, status, time and sizes."""
    async with running() as service:
        listed = await service.call("GET", "/agents/a%2Fb/conversations?limit=1", 404)
        body = b'{"agent_id": "my-agent", "prompt": "p"}'
        await service.call("POST", START, 201, data=body)
        at, base = service.clock.time(), "/api/public/v1"
        first, second = service.simulator.requests
        assert first == RecordedRequest(
            "GET", f"{base}/agents/a%2Fb/conversations", 404, at, 0, len(str(listed)) - 1, "limit=1"
        )
        assert (second.status, second.request_bytes, second.response_bytes) == (201, len(body), 90)


async def test_intercept_answers_first() -> None:
    """A response from the hook is sent, and the service does not act; `None` lets the request through."""
    answers = [web.Response(status=503, text="busy"), None]

    async def hook(request: web.Request) -> web.Response | None:
        return answers.pop(0)

    async with running() as service:
        service.simulator.intercept = hook
        url = f"{service.simulator.url}/api/public/v1{START}"
        body = {"agent_id": "my-agent", "prompt": "p"}
        async with service.http.post(url, json=body) as response:
            assert (response.status, await response.text()) == (503, "busy")
        assert service.simulator.prompts == []
        await service.start()
        assert [seen.status for seen in service.simulator.requests] == [503, 201]


async def test_a_response_lost_on_its_way_back() -> None:
    """Cutting the connection after the work leaves the prompt running and the caller without a response."""

    async def cut(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        raise ConnectionResetError

    async with running() as service:
        service.simulator.intercept_response = cut
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await service.start()
        assert len(service.simulator.prompts) == 1
        assert [seen.status for seen in service.simulator.requests] == [0]
        service.simulator.intercept_response = None
        await service.start()


async def test_a_changed_response() -> None:
    """The hook after the work may replace the response."""

    async def change(request: web.Request, response: web.StreamResponse) -> web.StreamResponse | None:
        return web.json_response({"error": "odd"}, status=502)

    async with running() as service:
        service.simulator.intercept_response = change
        assert await service.refused("GET", "/agents", 502) == "odd"


async def test_closing_leaves_nothing_behind() -> None:
    """A simulator with a handler that hangs closes quickly, and no task of its own survives."""
    entered = asyncio.Event()

    async def hang(request: web.Request) -> None:
        entered.set()
        await asyncio.Event().wait()

    before = asyncio.all_tasks()
    async with aiohttp.ClientSession() as http:
        async with Simulator() as simulator:
            simulator.intercept = hang
            request = asyncio.create_task(http.post(simulator.url))
            await entered.wait()
            started_at = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - started_at < 20
        with pytest.raises(aiohttp.ClientConnectionError):
            await request
    assert asyncio.all_tasks() <= before


@pytest.mark.parametrize("simulated", [Simulator, AmigoSimulator])
async def test_a_server_whose_owner_is_cancelled_twice_is_closed(simulated: type[Simulator | AmigoSimulator]) -> None:
    """Each `cancel()` of the closing is remembered and raised once the port is free, and nothing runs on."""
    before = asyncio.all_tasks()
    simulator = simulated()
    is_open = asyncio.Event()

    async def serve() -> None:
        async with simulator:
            is_open.set()
            await asyncio.Event().wait()

    serving = asyncio.create_task(serve())
    await is_open.wait()
    url = URL(simulator.url)
    # An open connection: the closing waits for it.
    _, held = await asyncio.open_connection(url.host, url.port)
    for _ in range(3):
        serving.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([serving])
    held.close()
    assert asyncio.all_tasks() == before
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(url.host, url.port)


async def test_a_port_that_is_taken_leaves_nothing_behind() -> None:
    """The error of the operating system comes out, and the simulator can be entered once the port is free."""
    async with Simulator() as first:
        second = Simulator(port=URL(first.url).port or 0)
        with pytest.raises(OSError, match="address already in use"):
            await second.__aenter__()
    async with second as running_again:
        assert running_again.url == first.url


async def test_agent_can_be_changed_between_turns() -> None:
    """Registering a slug again changes its script for the turns to come; chained calls register several."""
    async with running() as service:
        simulator = service.simulator.agent("bot", "first", name="Bot").agent("other", "x", instances=3)
        job_id, _ = await service.start(agent="bot")
        simulator.agent("bot", "second", description="d")
        await service.call("POST", f"/conversations/{job_id}/continue", 201, json={"prompt": "p"})
        assert await service.texts(job_id) == ["Hello", "first", "p", "second"]
        bot = await service.call("GET", "/agents/bot")
        assert (bot["name"], bot["description"]) == ("Bot", "d")
        assert (await service.call("GET", "/agents/other"))["instances_count"] == 3


async def test_simulator_shows_how_it_is_set() -> None:
    """What was given at the start can be read back, and a fixed seed makes the ids repeatable."""
    ids = []
    for _ in range(2):
        async with running(seed=5, quirks=Quirks(start_code=200), api_key="nr_other") as service:
            assert service.simulator.quirks == Quirks(start_code=200)
            assert service.simulator.api_key == "nr_other"
            assert (service.simulator.intercept, service.simulator.intercept_response) == (None, None)
            ids.append(await service.start(expect=200))
    assert ids[0] == ids[1]


async def test_bad_arguments_are_refused_where_they_are_given() -> None:
    """A script that cannot run, and a status that no job ends with, are errors of the test that gives them."""
    simulator = Simulator()
    bad: Any = [17]
    with pytest.raises(TypeError):
        simulator.agent("bot", bad)
    status: Any = "active"
    with pytest.raises(ValueError, match="a job ends as one of"):
        simulator.job_status(simulator.foreign_job("my-agent"), status)


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "http://127.0.0.1:81"), ("::1", "http://[::1]:81")])
async def test_url(host: str, shown: str) -> None:
    """The URL has no path, and brackets around an IPv6 address."""
    assert Simulator(host=host, port=81).url == shown


async def test_the_client_sees_the_error_of_a_script() -> None:
    """The error of a user's own script is the text of the 500, not only a line in a log."""

    def broken(prompt: str, turn_number: int) -> str:
        raise LookupError(f"no line for {prompt!r} in turn {turn_number}")

    async with Simulator(agents={"broken": broken}) as simulator, aiohttp.ClientSession() as http:
        url = f"{simulator.url}/api/public/v1/conversations/start"
        headers = {"Authorization": f"Bearer {simulator.api_key}"}
        async with http.post(url, json={"agent_id": "broken", "prompt": "hi"}, headers=headers) as response:
            assert response.status == 500
            assert "no line for 'hi' in turn 1" in (await response.json())["error"]
