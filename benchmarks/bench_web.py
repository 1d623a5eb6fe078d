"""The cost of a web application that shows a conversation to many browsers: the recipes, compared with bare aiohttp.

    python benchmarks/bench_web.py

Real servers, a real (simulated) service, real time: about three minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
from attrs import define

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from serving import RECIPES, Served, served

from nairi_async.testing import Done, Say, Simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BROWSERS = 20
TURN = 20.0
# Seconds after which a deploy is aborted; supervisors send SIGKILL after 10 (docker) to 90 s (systemd).
SHUTDOWN_TIMEOUT = 10.0


@define
class Row:
    """The measurements of one application."""

    recipe: str
    lines: int = 0
    requests: int = 0
    """For one turn that all browsers watch, the prompt included."""
    after: int = 0
    """Requests in the ten seconds after the last browser has left."""
    resumed: int = 0
    """Messages sent again to a browser that reconnects with `Last-Event-ID`."""
    deploy: float = math.inf
    """Seconds from SIGTERM to the end of the process, with one stream open."""


def lines_of(recipe: str) -> int:
    """Count the lines of a recipe without empty ones, comments and the docstring."""
    lines = [line.strip() for line in (RECIPES / f"{recipe}.py").read_text().splitlines()]
    return sum(1 for line in lines if line and not line.startswith(("#", '"""')))


async def messages(response: aiohttp.ClientResponse) -> AsyncIterator[str]:
    """Yield the ids of a stream's messages."""
    async for line in response.content:
        if line.startswith(b'data: {"id"'):
            yield line.split(b'"')[3].decode()


def browser() -> aiohttp.ClientSession:
    """Make a client that keeps cookies, as a browser does."""
    return aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))


async def start(http: aiohttp.ClientSession, app: Served) -> str:
    """Start a conversation; return the URL of its events."""
    async with http.post(f"{app.url}/chats", json={"prompt": "hello"}) as response:
        return f"{app.url}/chats/{(await response.json())['job_id']}/events"


async def watch(http: aiohttp.ClientSession, url: str, last_id: str = "") -> list[str]:
    """Read a stream to its end, as a browser does; return the ids of its messages."""
    async with http.get(url, headers={"Last-Event-ID": last_id} if last_id else {}) as response:
        return [message_id async for message_id in messages(response)]


async def measure(recipe: str) -> Row:
    """Serve one application to some browsers, and measure it."""
    row = Row(recipe, lines_of(recipe))
    async with Simulator() as simulator, browser() as http, contextlib.AsyncExitStack() as stack:
        app = await stack.enter_async_context(served(recipe, simulator))
        simulator.agent("my-agent", [Say("one", after=TURN / 2), Say("two", after=TURN / 2)])
        url = await start(http, app)
        pool = await asyncio.gather(*(watch(http, url) for _ in range(BROWSERS)))
        if any(len(ids) != 3 for ids in pool):
            raise RuntimeError("a browser missed a message, or got one twice")
        row.requests = len(simulator.requests)
        row.resumed = len(await watch(http, url, pool[0][-1]))

        simulator.agent("my-agent", [Done(after=math.inf)])
        url = await start(http, app)
        responses = [await http.get(url) for _ in range(BROWSERS)]
        await asyncio.sleep(3)
        for response in responses:
            response.close()
        await asyncio.sleep(0.1)
        before = len(simulator.requests)
        await asyncio.sleep(10)
        row.after = len(simulator.requests) - before

        async with http.get(url):
            await asyncio.sleep(3)
            started_at = time.monotonic()
            app.process.terminate()
            try:
                await asyncio.wait_for(app.process.wait(), SHUTDOWN_TIMEOUT)
                row.deploy = time.monotonic() - started_at
            except TimeoutError:
                app.process.kill()
    return row


async def main() -> None:
    """Print the table."""
    print("| application | lines | requests, 20 browsers | after they left | sent again | deploy, s |")
    print("| --- | --- | --- | --- | --- | --- |")
    for recipe in ("bare_fastapi", "fastapi_app", "bare_aiohttp", "aiohttp_app"):
        row = await measure(recipe)
        deploy = f"{row.deploy:.1f}" if row.deploy < math.inf else f"> {SHUTDOWN_TIMEOUT:.0f}, killed"
        print(f"| `{recipe}` | {row.lines} | {row.requests} | {row.after} | {row.resumed} | {deploy} |", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
