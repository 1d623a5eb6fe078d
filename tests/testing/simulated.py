"""A running simulator in virtual time with a plain HTTP client, and one in a thread for blocking clients."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import aiohttp
from attrs import frozen
from yarl import URL

from nairi_async.testing import Simulator, VirtualClock
from nairi_async.testing.server import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

START = "/conversations/start"
UNKNOWN = "01KRK1V46BXS73CSNK2VR35NPJ"
AnyServer = TypeVar("AnyServer", bound=Server)


@frozen
class Service:
    simulator: Simulator
    clock: VirtualClock
    http: aiohttp.ClientSession

    async def call(self, method: str, path: str, expect: int = 200, **options: Any) -> Any:
        """Return the JSON of a response with the expected status; the path is sent unchanged."""
        url = URL(f"{self.simulator.url}/api/public/v1{path}", encoded=True)
        async with self.http.request(method, url, **options) as response:
            body = await response.json()
            assert response.status == expect, body
            return body

    async def refused(self, method: str, path: str, expect: int, **options: Any) -> str:
        """Return the text of an error, the only field of its body."""
        body = await self.call(method, path, expect, **options)
        assert body == {"error": str(body["error"])}
        return str(body["error"])

    async def start(self, prompt: str = "Hello", agent: str = "my-agent", expect: int = 201) -> tuple[str, str]:
        """Return the ids of a new job and of its user message."""
        body = await self.call("POST", START, expect, json={"agent_id": agent, "prompt": prompt})
        return body["job_id"], body["message_id"]

    async def upload(self, data: bytes, filename: str = "notes.txt") -> str:
        """Upload a file after a part that the service ignores, and return the id."""
        form = aiohttp.FormData()
        form.add_field("comment", "ignored")
        form.add_field("file", data, filename=filename)
        return str((await self.call("POST", "/attachments", 201, data=form))["attachment_id"])

    async def messages(self, job_id: str) -> list[dict[str, Any]]:
        body = await self.call("GET", f"/conversations/{job_id}/messages")
        return list(body["messages"])

    async def texts(self, job_id: str) -> list[str]:
        return [message["content"] for message in await self.messages(job_id)]

    async def status(self, message_id: str) -> str:
        message = await self.call("GET", f"/messages/{message_id}")
        return str(message["status"])

    async def listed(self, query: str = "", agent: str = "my-agent") -> list[dict[str, Any]]:
        body = await self.call("GET", f"/agents/{agent}/conversations{query}")
        return list(body["conversations"])


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[Service]:
    """Run a simulator made with these options, in virtual time that moves only by `clock.advance`."""
    clock = VirtualClock()
    simulator = Simulator(clock=clock, **options)
    headers = {"Authorization": f"Bearer {simulator.api_key}"}
    async with simulator, aiohttp.ClientSession(headers=headers) as http:
        yield Service(simulator, clock, http)


class SimulatorThread(threading.Thread, Generic[AnyServer]):
    """Runs a simulator in an event loop of its own, for a client that blocks."""

    def __init__(self, simulator: AnyServer) -> None:
        super().__init__(daemon=True)
        self.simulator = simulator
        self._up = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._close = asyncio.Event()

    def run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        async with self.simulator:
            self._up.set()
            await self._close.wait()

    def __enter__(self) -> AnyServer:
        self.start()
        assert self._up.wait(10)
        return self.simulator

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._close.set)
        self.join(10)
        assert not self.is_alive()
