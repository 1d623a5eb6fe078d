"""Real counterparts for the tests of the transport: servers that misbehave on demand, and sessions that face them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import itertools
import json
import secrets
import socket
import struct
import sys
import time
from contextlib import asynccontextmanager
from enum import Enum
from typing import TYPE_CHECKING, Any

from aiohttp import web
from attrs import frozen

from nairi_async import NairiSession
from nairi_async._core.aiohttp_transport import AiohttpTransport
from nairi_async._core.api_key import ApiKey
from nairi_async._nairi.service import SERVICE
from nairi_async.clock import SystemClock
from nairi_async.testing.clock import VirtualClock

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from types import TracebackType
    from typing import Self

    from nairi_async._core.rate_limits import RateLimiter

_QUICK_PASSES = 500
KEY = "nr_01JQ-a-key-that-nobody-may-see"
PREFIX = "/api/public/v1"
STARTED = b'{"job_id":"job_1","message_id":"cmsg_1"}'
MESSAGE = b'{"id":"cmsg_1","job_id":"job_1","role":"user","status":"completed","content":"Hello"}'


class Lazy:
    """The classes of a module that is imported when the first of them is used: every worker imports all tests."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if not name[0].isupper():
            raise AttributeError(name)  # pytest looks for its marks on everything
        return getattr(imported(self._name), name)


def imported(name: str) -> Any:
    """Import a large module, and keep it out of each later garbage collection, which takes a second with it."""
    is_new = name not in sys.modules
    module = importlib.import_module(name)
    if is_new:
        gc.collect()
        gc.freeze()
    return module


@asynccontextmanager
async def slot(limiter: RateLimiter, deadline: float, bucket: str | None = None) -> AsyncIterator[None]:
    """Hold a permit in a block, taken as the executor does it."""
    if not limiter.acquire_now(limiter._clock.monotonic(), bucket):
        await limiter.acquire(deadline, bucket)
    try:
        yield
    finally:
        limiter.release(bucket)


class SetClock:
    """The clock of a machine whose date can be set: so many seconds ahead of the service's."""

    def __init__(self, clock: VirtualClock, ahead: float = 0.0) -> None:
        self._clock, self.ahead = clock, ahead

    def time(self) -> float:
        return self._clock.time() + self.ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clock, name)


class Act(Enum):
    """What a `RawServer` does instead of a response."""

    CLOSE_UNREAD = "close the connection before anything is read from it"
    RESET_UNREAD = "reset the connection before anything is read from it"
    CLOSE = "read the request, then close"
    RESET = "read the request, then reset"
    HANG = "read the request, then say nothing"
    ECHO = "send back what was received, which is not HTTP, and close"


_UNREAD = (Act.CLOSE_UNREAD, Act.RESET_UNREAD)


@frozen
class Drip:
    """A response that comes a byte at a time."""

    answer: bytes
    interval: float


@frozen
class Last:
    """A response, or the beginning of one, after which the connection is closed."""

    answer: bytes


Step = bytes | Act | Drip | Last


@frozen
class Seen:
    """A request as it came over the wire."""

    head: str
    body: bytes

    @property
    def line(self) -> str:
        return self.head.split("\r\n", 1)[0]


class RawServer:
    """A TCP server that plays one step for each request, and repeats the last step."""

    def __init__(self, *steps: Step, ssl: ssl.SSLContext | None = None) -> None:
        self.seen: list[Seen] = []
        self.connections = 0
        self._steps = list(steps)
        self._ssl = ssl
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def tasks(self) -> set[asyncio.Task[Any]]:
        """One for each open connection."""
        return set(self._tasks)

    @property
    def lines(self) -> list[str]:
        return [seen.line for seen in self.seen]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        scheme = "https" if self._ssl else "http"
        self.url = f"{scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        try:
            # Cancelled only by our own exit; some Pythons report a handler that ends so.
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                if self._ssl is not None:
                    # Not left to the server: asyncio reports a refused handshake as an error of the loop.
                    await writer.start_tls(self._ssl)
                await self._converse(reader, writer)
        finally:
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        goes_on = True
        while goes_on:
            if self._steps[0] not in _UNREAD:
                self.seen.append(await _request(reader))
            goes_on = await self._play(self._take(), writer)
            await writer.drain()

    async def _play(self, step: Step, writer: asyncio.StreamWriter) -> bool:
        """Do what the step says, and return whether the connection can be used again."""
        match step:
            case Act.RESET | Act.RESET_UNREAD:
                _reset(writer)
            case Act.HANG:
                await asyncio.Event().wait()
            case Act.ECHO:
                writer.write(self.seen[-1].head.encode() + self.seen[-1].body)
            case Drip(answer, interval):
                for byte in answer:
                    if writer.is_closing():
                        break
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(interval)
            case Last(answer) | (bytes() as answer):
                writer.write(answer)
        return isinstance(step, bytes)

    def _take(self) -> Step:
        return self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]


async def _request(reader: asyncio.StreamReader) -> Seen:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    length = next((line[15:] for line in head.split("\r\n") if line.lower().startswith("content-length:")), "0")
    return Seen(head, await reader.readexactly(int(length)))


def _reset(writer: asyncio.StreamWriter) -> None:
    """Reset the connection."""
    raw: socket.socket = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def answer(status: int = 200, body: bytes | str = b"", *headers: str) -> bytes:
    """Return a whole HTTP response."""
    content = body.encode() if isinstance(body, str) else body
    lines = (f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(content)}", *headers)
    return "\r\n".join((*lines, "", "")).encode() + content


def refusal(status: int, text: str, *headers: str) -> bytes:
    """Return an error response of the documented shape."""
    return answer(status, json.dumps({"error": text}), *headers)


@asynccontextmanager
async def serve(handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """Serve every path with one aiohttp handler, and yield the server's URL."""
    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def session(url: str, **options: Any) -> NairiSession:
    """Return a session that faces a test server and waits in virtual time."""
    return NairiSession(KEY, base_url=url, **{"clock": VirtualClock(), **options})


@asynccontextmanager
async def client(url: str) -> AsyncIterator[AiohttpTransport]:
    """Yield the bare transport, which sends single requests."""
    http = AiohttpTransport(SERVICE, url, ApiKey(KEY), SystemClock(), lent=None, connections=2)
    http.open()
    try:
        yield http
    finally:
        await http.aclose()


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until a condition is true; the test's own timeout is the limit.

    The condition is looked at in each pass of the loop: a state that comes and goes again is not missed.
    """
    for passes in itertools.count():
        if condition():
            return
        if passes > _QUICK_PASSES:
            # What takes longer happens in another process or thread, which needs the core.
            time.sleep(0.0005)  # noqa: ASYNC251 - a sleeping task would miss passes
        await asyncio.sleep(0)


def free_port() -> int:
    """Return a port on which no server listens.

    Systems give ports from 32768 on to clients and to servers that want any: one of those could be taken meanwhile.
    """
    while True:
        # Not `random`, which has the same seed in each worker.
        port = 15_000 + secrets.randbelow(15_000)
        with socket.socket() as bound, contextlib.suppress(OSError):
            bound.bind(("127.0.0.1", port))
            return port


def chain(error: BaseException) -> Iterator[BaseException]:
    """Walk an error and everything that led to it."""
    pending, met = [error], set[int]()
    while pending:
        current = pending.pop()
        if id(current) not in met:
            met.add(id(current))
            yield current
            pending += [link for link in (current.__cause__, current.__context__) if link is not None]


def parts(whole: object) -> Iterator[object]:
    """Yield an object of this library and everything that its attributes reach, each once."""
    pending, met = [whole], set[int]()
    while pending:
        part = pending.pop()
        if id(part) in met:
            continue
        met.add(id(part))
        yield part
        if type(part).__module__.startswith("nairi_async"):
            pending += [value for value in getattr(part, "__dict__", {}).values() if not isinstance(value, str)]
