"""Sessions on a simulator without sockets: they behave as over HTTP."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from attrs import evolve

from nairi_async import NairiError, NairiSession, OutcomeUnknownError, RetryPolicy
from nairi_async.errors import ConnectionFailedError, NotFoundError, SessionClosedError, StatusError
from nairi_async.testing import FaultPlan, Quirks, Say, Simulator, VirtualClock, in_memory_session
from nairi_async.testing.faults import FAULT_KINDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nairi_async.testing.faults import FaultKind

pytestmark = pytest.mark.anyio
AGENT = "my-agent"
WAYS = pytest.mark.parametrize("way", ["memory", "http"])


@asynccontextmanager
async def opened(way: str, *, settings: dict[str, Any] | None = None, **options: Any) -> AsyncIterator[Any]:
    """Open a session on a simulator, in virtual time, over HTTP or in memory."""
    clock = VirtualClock()
    simulator = Simulator(clock=clock, agents={AGENT: [Say("done", after=600)]}, **options)
    if way == "memory":
        async with in_memory_session(simulator, **(settings or {})) as nairi:
            yield simulator, nairi
        return
    async with (
        simulator,
        NairiSession(simulator.api_key, base_url=simulator.url, clock=clock, **(settings or {})) as nairi,
    ):
        yield simulator, nairi


async def use(nairi: NairiSession) -> list[str]:
    """Use one call of each kind; return what it gives, or its error."""
    results = []

    async def note(call: Any) -> None:
        try:
            results.append(str(await call))
        except (StatusError, OutcomeUnknownError) as error:
            results.append(f"{type(error).__name__} {error}")

    await note(nairi.ask(AGENT, "Hello"))
    conversation = nairi.conversation(AGENT)
    await note(conversation.ask("one"))
    await note(conversation.ask("two"))
    attachment_id = await nairi.upload(b"\x00\r\n--x\xff", filename="a b.bin")
    await note(nairi.download(attachment_id))
    await note(nairi.start(AGENT, "with a file", attachment_ids=[attachment_id]))
    await note(nairi.agents())
    await note(nairi.agent("nobody"))
    await note(nairi.messages("job_unknown"))
    results.extend([str(one) async for one in nairi.conversations(AGENT)])
    return results


async def test_listings_are_read_in_memory_too() -> None:
    """Many turns of one agent are announced by its listing, so that few are polled for."""
    simulator = Simulator(clock=VirtualClock(), agents={AGENT: [Say("done", after=60)]})
    async with in_memory_session(simulator) as nairi:
        assert all([one.reply async for one in nairi.ask_many(AGENT, map(str, range(60)), limit=20)])
    assert len([seen for seen in simulator.requests if "/agents/" in seen.path and seen.status == 200]) > 10


async def test_everything_is_as_over_http() -> None:
    """Results, errors and the requests that the simulator records are the same in both ways."""
    seen = []
    for way in ("memory", "http"):
        random.seed(1)
        async with opened(way, quirks=Quirks(unknown_fields=True)) as (simulator, nairi):
            results = await use(nairi)
            uploads = [one for one in simulator.requests if one.path.endswith("attachments")]
            assert [one.request_bytes > 100 for one in uploads] == [True]
            requests = [evolve(one, request_bytes=0) if one in uploads else one for one in simulator.requests]
            seen.append((results, requests, simulator.prompts))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("kind", FAULT_KINDS)
async def test_each_fault_is_as_over_http(kind: FaultKind) -> None:
    """A fault gives the same result, error and time in both ways."""
    seen = []
    for way in ("memory", "http"):
        random.seed(1)
        options: dict[str, Any] = {
            "faults": FaultPlan(script=[None, kind, kind]),
            "settings": {"retry": RetryPolicy(attempts=3)},
        }
        async with opened(way, **options) as (simulator, nairi):
            await nairi.agents()
            try:
                result = str(await nairi.start(AGENT, "Hello"))
            except NairiError as error:
                result = type(error).__name__
            try:
                result += str(await nairi.agents())
            except NairiError as error:
                result += type(error).__name__
            statuses = [(one.status, one.fault) for one in simulator.requests]
            seen.append((result, statuses, len(simulator.prompts)))
    assert seen[0] == seen[1]


@WAYS
async def test_hooks_see_the_request(way: str) -> None:
    """A hook reads method, path, query, headers and body, and its response or its error is what the session gets."""
    async with opened(way, settings={"retry": RetryPolicy(attempts=1)}) as (simulator, nairi):
        seen: list[Any] = []

        async def hook(request: web.Request) -> web.Response | None:
            body = await request.json() if request.method == "POST" else await request.text()
            seen.append((request.method, request.path, dict(request.query), request.content_type, body))
            return web.json_response({"error": "no"}, status=403) if request.method == "GET" else None

        simulator.intercept = hook
        await nairi.start(AGENT, "Hello")
        with pytest.raises(StatusError, match="403 no"):
            await anext(aiter(nairi.conversations(AGENT, status=["active"])))
        assert seen[0][:2] == ("POST", "/api/public/v1/conversations/start")
        assert (seen[0][3], seen[0][4]["prompt"]) == ("application/json", "Hello")
        assert seen[1][2]["status"] == "active"

        async def broken(_request: web.Request) -> web.Response:
            raise LookupError("an error of the test")

        simulator.intercept = broken
        with pytest.raises(StatusError) as caught:
            await nairi.agents()
        assert caught.value.status == 500


async def test_a_request_that_does_not_arrive_has_not_run() -> None:
    """`travel` stands before the request and before the response: a prompt is sent again only after the first."""
    simulator = Simulator(clock=VirtualClock())
    trips: list[int] = []

    async def travel() -> None:
        trips.append(1)
        if len(trips) in {1, 5}:
            raise ConnectionResetError

    async with in_memory_session(simulator, travel=travel) as nairi:
        await nairi.start(AGENT, "one")
        assert [one.prompt for one in simulator.prompts] == ["one"]
        with pytest.raises(OutcomeUnknownError):
            await nairi.start(AGENT, "two")
        assert [one.prompt for one in simulator.prompts] == ["one", "two"]


async def test_a_session_in_memory_has_the_life_of_a_session() -> None:
    """Before, after and on another loop it refuses; an unknown path is a 404 and a wrong method a 405."""
    simulator = Simulator(clock=VirtualClock())
    nairi = in_memory_session(simulator)
    with pytest.raises(SessionClosedError):
        await nairi.agents()
    async with nairi:
        with pytest.raises(NotFoundError):
            await nairi.message("cmsg_unknown")
        with pytest.raises(SessionClosedError):
            await asyncio.to_thread(asyncio.run, nairi.agents())
    with pytest.raises(SessionClosedError):
        await nairi.agents()
    with pytest.raises(ConnectionFailedError):
        async with in_memory_session(simulator, travel=_refuse, retry=RetryPolicy(attempts=1)) as other:
            await other.agents()


async def _refuse() -> None:
    raise ConnectionResetError
