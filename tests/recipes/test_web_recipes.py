"""The web recipes run with their real framework on its real server."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import math
import re
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from amigo_dialogue import SERVICE
from serving import RECIPES, Served, served
from sse import ServerEvent, parsed

from nairi_async import NairiSession
from nairi_async.testing import AmigoSimulator, Done, Say, Simulator, Tool
from nairi_async.testing.amigo import Speak

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.anyio

JSON = {"Content-Type": "application/json"}
APPS = pytest.mark.parametrize("recipe", ["fastapi_app", "aiohttp_app"])


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """Simulate the service in real time: the recipe runs in another process."""
    async with Simulator() as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """Keep cookies of addresses too, as a browser does."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        yield session


async def posted(http: aiohttp.ClientSession, url: str, document: object) -> tuple[int, Any]:
    async with http.post(url, json=document) as response:
        return response.status, await response.json()


async def started(http: aiohttp.ClientSession, app: Served) -> str:
    """Start a conversation, and return the URL of its events."""
    status, document = await posted(http, f"{app.url}/chats", {"prompt": "hello"})
    assert (status, sorted(document)) == (201, ["job_id", "message_id"])
    return f"{app.url}/chats/{document['job_id']}/events"


async def events_of(http: aiohttp.ClientSession, url: str, last_id: str = "") -> list[ServerEvent]:
    """Return all events of a stream, which has to end."""
    async with http.get(url, headers={"Last-Event-ID": last_id} if last_id else {}) as response:
        assert response.content_type == "text/event-stream"
        return [event async for event in parsed(response.content)]


def contents(events: list[ServerEvent]) -> list[str]:
    return [event.data["content"] for event in events if event.name == "message"]


@APPS
async def test_a_chat_from_prompt_to_shutdown(simulator: Simulator, http: aiohttp.ClientSession, recipe: str) -> None:
    """Page, start, events, resumption, errors, a browser that leaves, and a deploy with an open stream work."""
    simulator.agent("my-agent", [Tool("Bash", input="ls", seconds=1), Say("one"), Say("two", after=0.2)])
    async with served(recipe, simulator) as app:
        async with http.get(app.url) as response:
            assert (response.status, response.content_type) == (200, "text/html")
        url = await started(http, app)

        pool = await asyncio.gather(*(events_of(http, url) for _ in range(8)))
        for events in pool:
            assert contents(events) == ["hello", "one", "two"]
            assert (events[-1].name, events[-1].data) == ("end", {"status": "completed"})
            # A stream that begins late on a busy machine shows no activity.
            assert {event.name for event in events} <= {"message", "activity", "end"}
        # One browser alone takes about six reads of this turn.
        assert len(simulator.requests) < 8 * 3

        ids = [event.last_id for event in pool[0] if event.name == "message"]
        resumed = await asyncio.gather(
            events_of(http, url, ids[0]),
            events_of(http, f"{url}?after={ids[1]}"),
            events_of(http, f"{url}?after={ids[0]}", ids[1]),
        )
        assert [contents(events) for events in resumed] == [["one", "two"], ["two"], ["two"]]

        assert (await posted(http, f"{app.url}/chats", {"prompt": " "}))[0] == 400
        async with http.get(f"{url}?after={ids[-1]}") as response:
            assert response.status == 204

        simulator.agent("my-agent", [Done(after=math.inf)])
        assert (await posted(http, url.removesuffix("/events"), {"prompt": "more"}))[0] == 201
        await disconnect(http, url, simulator)

        async with http.get(f"{url}?after={ids[-1]}") as response:
            assert await anext(aiter(parsed(response.content)))
            started_at = time.monotonic()
            await app.shut_down()
            rest = [event async for event in parsed(response.content)]
        assert "end" not in {event.name for event in rest}
        assert time.monotonic() - started_at < 15


async def disconnect(http: aiohttp.ClientSession, url: str, simulator: Simulator) -> None:
    """Watch for a moment, then break the connection: no further request follows."""
    async with http.get(url) as response:
        assert await anext(aiter(parsed(response.content)))
        response.close()
    # Sooner or later two seconds pass without one; the test's own timeout is the limit.
    count = -1
    while count != len(simulator.requests):
        count = len(simulator.requests)
        await asyncio.sleep(2.0)


@APPS
async def test_nobody_spends_or_reads_unasked(simulator: Simulator, http: aiohttp.ClientSession, recipe: str) -> None:
    """Other websites, other visitors, other conversations of the organisation and large bodies are refused."""
    simulator.agent("my-agent", "hello")
    simulator.agent("other-agent", "secret")
    async with served(recipe, simulator) as app, NairiSession(simulator.api_key, base_url=simulator.url) as nairi:
        chats = f"{app.url}/chats"
        for body, headers, expected in [
            (b'{"prompt": "x"}', {"Content-Type": "text/plain"}, {415}),
            (b"prompt=x", {"Content-Type": "application/x-www-form-urlencoded"}, {415}),
            (b'{"prompt": "x"}', {**JSON, "Origin": "https://example.com"}, {403}),
            (b'{"prompt": "x"}', {**JSON, "Origin": "null"}, {403}),
            (b'{"prompt": "x"}', {**JSON, "Origin": "http://["}, {403}),
            (b'{"prompt": "x"}', {**JSON, "Host": "example.com"}, {400, 421}),
            (b'{"prompt": "x"}', {**JSON, "Host": "[::1"}, {400, 421}),
            (b"{", JSON, {400}),
            (b"{", {"Content-Type": "Application/JSON; charset=none"}, {400}),
            (b"[" * 60_000, JSON, {400}),
            (b'{"prompt": 7}', JSON, {400}),
            (b'{"prompt": "%s"}' % (b"x" * 1_000_000), JSON, {413}),
        ]:
            async with http.post(chats, data=body, headers=headers) as response:
                assert response.status in expected, (body[:20], headers)
        assert simulator.prompts == []
        url = await started(http, app)
        turn = await nairi.start("other-agent", "x")
        other = url.replace(url.split("/")[-2], turn.job_id)
        async with aiohttp.ClientSession() as stranger:
            for visitor, address in [(http, other), (stranger, url), (stranger, other)]:
                async with visitor.get(address) as response:
                    assert response.status == 404
                async with visitor.post(address.removesuffix("/events"), json={"prompt": "y"}) as response:
                    assert response.status == 404
        for path in ("/docs", "/redoc", "/openapi.json"):
            async with http.get(app.url + path) as response:
                assert response.status == 404
        async with http.get(app.url) as response:
            assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
    assert len(simulator.prompts) == 2


def test_the_page_needs_nothing_else() -> None:
    """The page is one file: no build, no fonts, scripts or pictures from elsewhere."""
    text = (RECIPES / "chat.html").read_text()
    assert "EventSource(" in text


@pytest.mark.parametrize("tag", ["style", "script"])
def test_the_page_runs_its_own_code_only(tag: str) -> None:
    """The policy names the page's style and script by their hashes, and allows no other base or form target."""
    text = (RECIPES / "chat.html").read_text()
    (body,) = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
    assert f"{tag}-src 'sha256-{digest}'" in text, f"put sha256-{digest} into the page's Content-Security-Policy"
    assert "unsafe-inline" not in text
    assert "base-uri 'none'; form-action 'none'" in text


def test_the_page_loads_nothing() -> None:
    """No address stands in the page but the name of the format of its pictures."""
    text = (RECIPES / "chat.html").read_text()
    assert "://" not in text.replace("http://www.w3.org/2000/svg", "")


def nairi_service() -> Simulator:
    return Simulator(agents={"my-agent": lambda prompt, turn: [Say(f"{turn}: {prompt}", after=0.1)]})


def amigo_service() -> AmigoSimulator:
    service = AmigoSimulator()
    service.service(lambda message, turn: [Speak(f"{turn}: {message}", after=0.1)], service_id=SERVICE)
    return service


@pytest.mark.parametrize(("recipe", "service"), [("dialogue_app", nairi_service), ("amigo_dialogue", amigo_service)])
async def test_one_recipe_for_any_dialogue(
    recipe: str, service: Callable[[], Simulator | AmigoSimulator], http: aiohttp.ClientSession
) -> None:
    """The shared protocol carries a prompt, its reply, and a second prompt in the same dialogue."""
    async with service() as simulator, served(recipe, simulator) as app:
        asked: dict[str, str] = {"prompt": "hello"}
        for number in (1, 2):
            async with http.post(f"{app.url}/ask", json=asked) as response:
                answer, end = [event async for event in parsed(response.content)]
            assert (answer.name, answer.data["text"], end.name) == ("answer", f"{number}: hello", "end")
            asked["id"] = answer.data["id"]
        assert (await posted(http, f"{app.url}/ask", {"prompt": " "}))[0] == 400
        bare = asked["id"].rpartition(".")[0]
        for body, headers, expected in [
            ({"prompt": "x", "id": bare}, JSON, 404),
            ({"prompt": "x", "id": f"{bare}.{'0' * 64}"}, JSON, 404),
            ({"prompt": "x", "id": "\ud800.x"}, JSON, 404),
            ({"prompt": "x"}, {"Content-Type": "text/plain"}, 415),
            ({"prompt": "x"}, {**JSON, "Origin": "https://example.com"}, 403),
            ({"prompt": "x"}, {**JSON, "Host": "example.com"}, 400),
            ({"prompt": "x" * 1_000_000}, JSON, 413),
            ([], JSON, 400),
        ]:
            async with http.post(f"{app.url}/ask", data=json.dumps(body), headers=headers) as response:
                assert response.status == expected
