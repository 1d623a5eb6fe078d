"""Requests to a simulator without sockets: the transport of a session calls the handlers of the service directly."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast
from urllib.parse import unquote

import aiohttp
from aiohttp import hdrs, web
from attrs import frozen
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from nairi_async._core.aiohttp_transport import AiohttpTransport
from nairi_async._core.request import Response, is_success
from nairi_async._nairi.session import NairiSession
from nairi_async.errors import (
    ConfigurationError,
    ConnectionFailedError,
    DecodeError,
    NairiError,
    RequestTimeoutError,
    SessionClosedError,
)
from nairi_async.testing.fault_responses import is_truncated

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nairi_async._core.request import CallState, Request
    from nairi_async.clock import Clock
    from nairi_async.testing.middleware import Middleware
    from nairi_async.testing.simulator import Simulator

_Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
# A name that is never resolved, as reserved by RFC 2606.
_URL: Final = "https://simulator.invalid"
_PARAMETER: Final = re.compile(r"\{(\w+)(?::([^}]*))?\}")

log: logging.Logger = logging.getLogger("nairi_async.testing")


def in_memory_session(
    simulator: Simulator, *, travel: Callable[[], Awaitable[None]] | None = None, **settings: Any
) -> NairiSession:
    """Return a session that reaches a simulator in memory, without sockets; the simulator need not be running.

        simulator = Simulator(clock=VirtualClock())
        async with in_memory_session(simulator) as nairi:
            await nairi.ask("my-agent", "Hello")

    It behaves as over HTTP, faults and hooks included; a hook gets a request with those attributes of an
    `aiohttp.web.Request` that do not need a connection. The session and the simulator share one clock.

    Args:
        simulator: The service.
        travel: Awaited before each request reaches the service, and again before its response comes back; it may wait,
            or raise `ConnectionResetError`. A request that does not arrive has provably not run.
        settings: Settings of `NairiSession`, such as `polling=`.
    """
    settings = {"base_url": _URL, "clock": simulator._clock, **settings}  # noqa: SLF001 - parts of one package
    session = NairiSession(simulator.api_key, **settings)
    service = InMemoryService(simulator._routes, simulator._middleware)  # noqa: SLF001 - as above
    transport = InMemoryTransport(session._http, settings["clock"], service, travel)  # noqa: SLF001 - as above
    session._http = transport  # noqa: SLF001 - as above
    session._executor.replace_transport(transport)  # noqa: SLF001 - as above
    return session


class InMemoryRequest:
    """What handlers and hooks use of an `aiohttp.web.Request`, for a request that was never on a connection."""

    transport: Final = None
    """There is no connection that could be cut: handlers raise `ConnectionResetError` instead."""

    def __init__(self, method: str, url: URL, headers: Mapping[str, str], body: bytes) -> None:
        self.method = method
        self.rel_url: URL = url
        self.url: URL = url
        self.headers: CIMultiDictProxy[str] = CIMultiDictProxy(CIMultiDict(headers))
        self.match_info: dict[str, str] = {}
        self._body = body

    @property
    def path(self) -> str:
        """The decoded path."""
        return self.rel_url.path

    @property
    def query(self) -> Mapping[str, str]:
        """The decoded query."""
        return self.rel_url.query

    @property
    def content_type(self) -> str:
        """The media type, without its parameters."""
        return self.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip()

    @property
    def content(self) -> InMemoryRequest:
        """Stands for the stream of the body, of which only the size is used."""
        return self

    @property
    def total_bytes(self) -> int:
        """Size of the body."""
        return len(self._body)

    async def read(self) -> bytes:
        """Return the body."""
        return self._body

    async def text(self) -> str:
        """Return the body as text."""
        return self._body.decode()

    async def json(self) -> Any:
        """Return the body, decoded from JSON."""
        return json.loads(self._body)

    async def multipart(self) -> aiohttp.MultipartReader:
        """Return a reader of the parts of a form."""
        return aiohttp.MultipartReader(self.headers, cast("aiohttp.StreamReader", _Body(self._body)))


class _Body:
    """What a `MultipartReader` uses of the stream of a body."""

    def __init__(self, body: bytes) -> None:
        self._rest = body

    async def read(self, size: int = -1) -> bytes:
        size = len(self._rest) if size < 0 else size
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece

    async def readline(self, *, max_line_length: int | None = None) -> bytes:  # noqa: ARG002 - aiohttp's signature
        return await self.read(self._rest.find(b"\n") + 1 or -1)

    def at_eof(self) -> bool:
        return not self._rest

    def unread_data(self, data: bytes) -> None:
        self._rest = data + self._rest


@frozen
class _Route:
    method: str
    pattern: re.Pattern[str]
    handler: _Handler


class InMemoryService:
    """Answers requests by the routes of a simulator, through the same middleware as its HTTP server."""

    def __init__(self, routes: Iterable[web.RouteDef], middleware: Middleware) -> None:
        self._routes = [_Route(one.method, _pattern(one.path), cast("_Handler", one.handler)) for one in routes]
        self._middleware = middleware
        self._find = lru_cache(maxsize=4096)(self._match)

    async def handle(self, request: InMemoryRequest) -> web.StreamResponse:
        """Return the response to a request.

        Raises:
            ConnectionResetError: the connection is cut.
        """
        handler, request.match_info = self._find(request.method, request.rel_url.raw_path)
        return await self._middleware.respond(cast("web.Request", request), handler)

    def _match(self, method: str, path: str) -> tuple[_Handler, dict[str, str]]:
        for route in self._routes:
            if route.method == method and (match := route.pattern.fullmatch(path)) is not None:
                return route.handler, {name: unquote(value) for name, value in match.groupdict().items()}
        allowed = [route.method for route in self._routes if route.pattern.fullmatch(path) is not None]
        refused = web.HTTPMethodNotAllowed(method, allowed) if allowed else web.HTTPNotFound()

        async def refuse(_request: web.Request) -> web.StreamResponse:
            raise refused

        return refuse, {}


def _pattern(path: str) -> re.Pattern[str]:
    """Translate the path of a route, such as `/agents/{agent_id:.+}`, to a regular expression."""
    parts: list[str] = []
    end = 0
    for match in _PARAMETER.finditer(path):
        parts += [re.escape(path[end : match.start()]), f"(?P<{match[1]}>{match[2] or '[^/]+'})"]
        end = match.end()
    return re.compile("".join(parts) + re.escape(path[end:]))


class InMemoryTransport(AiohttpTransport):
    """Takes the place of a session's transport, and hands each request to a simulator in the same event loop.

    `travel` is awaited before a request reaches the service and again before its response comes back.
    """

    def __init__(
        self,
        replaced: AiohttpTransport,
        clock: Clock,
        service: InMemoryService,
        travel: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(
            replaced.service,
            replaced.base_url,
            replaced.credentials,
            clock,
            lent=None,
            connections=replaced.connections,
        )
        self._simulated, self._travel = service, travel
        self._is_open = False

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent, from the loop that opened it."""
        return self._is_open

    def open(self) -> None:
        """Allow requests from the running event loop."""
        if self._is_closed or self._is_open:
            state = "closed" if self._is_closed else "open"
            raise SessionClosedError(f"the session is {state} already; make a new one")
        self._loop, self._is_open = asyncio.get_running_loop(), True

    async def aclose(self) -> None:
        """Refuse further requests. Harmless when repeated."""
        self._is_open, self._is_closed = False, True

    async def send(self, request: Request, state: CallState, timeout: float) -> Response:
        """Send a request once and return the response, of any status, within `timeout` seconds.

        Raises:
            SessionClosedError: not open, or open on another event loop.
            ConnectionFailedError, RequestTimeoutError: no whole response; `sent` says whether the request had left.
            DecodeError: the response body is larger than `request.max_body`.
        """
        self.check_open()
        if request.idle_timeout is not None:
            raise ConfigurationError("a session in memory has no responses that are read as they arrive; use a server")
        state.write_started = request.body is None
        where = (request.method, request.path)
        try:
            async with self._clock.timeout(timeout):
                if self._travel is not None:
                    await self._travel()
                incoming = await self._incoming(request, state)
                response = await self._respond(incoming)
                if is_truncated(response):
                    raise ConnectionResetError  # noqa: TRY301 - as a real connection would
                if self._travel is not None:
                    await self._travel()
        except NairiError:
            raise
        except TimeoutError as error:
            raise RequestTimeoutError(
                f"no whole response within {timeout:.3g} s", *where, state.write_started
            ) from error
        except ConnectionResetError as error:
            if self._is_closed and request.idempotent:
                raise SessionClosedError("the session was closed while a request was under way") from error
            raise ConnectionFailedError("connection failed: reset", *where, state.write_started) from error
        body = response.body if isinstance(response, web.Response) else None
        return _delivered(request, response, bytes(body) if isinstance(body, bytes | bytearray) else b"")

    async def _incoming(self, request: Request, state: CallState) -> InMemoryRequest:
        if request.address is None:
            query = f"?{request.query}" if request.query else ""
            request.address = URL(f"{self.base_url}{request.path}{query}", encoded=True)
        headers = {**(request.credentials or self.credentials).headers(), **(request.headers or {})}
        body = request.body
        state.write_started = True
        if body is not None and not isinstance(body, bytes):
            headers[hdrs.CONTENT_TYPE] = body.content_type
            body = b"".join([chunk async for chunk in body.chunks()])
        elif body is not None:
            headers[hdrs.CONTENT_TYPE] = "application/json"
        return InMemoryRequest(request.method, request.address, headers, body or b"")

    async def _respond(self, incoming: InMemoryRequest) -> web.StreamResponse:
        try:
            return await self._simulated.handle(incoming)
        except (ConnectionResetError, TimeoutError):
            raise
        except Exception:
            # As a server does it with an error of a hook or of a handler.
            log.exception("the simulator failed on %s %s", incoming.method, incoming.rel_url.raw_path)
            return web.Response(status=HTTPStatus.INTERNAL_SERVER_ERROR, text="500 Internal Server Error")

    def check_open(self) -> None:
        """Refuse use before opening, after closing, or from another event loop.

        Raises:
            SessionClosedError: requests cannot be sent.
        """
        if not self._is_open:
            raise SessionClosedError(
                "the session is closed" if self._is_closed else "the session is not open yet; use it in `async with`"
            )
        if asyncio.get_running_loop() is not self._loop:
            raise SessionClosedError("the session belongs to another event loop; make one session per loop")


def _delivered(request: Request, response: web.StreamResponse, body: bytes) -> Response:
    """Return the response as the session sees it: within its bounds, and poured where a sink takes it."""
    if is_success(response.status):
        if len(body) > request.max_body:
            raise DecodeError(f"the response is larger than {request.max_body} bytes", request.method, request.path)
        if request.sink is not None:
            request.sink().write(body)
            body = b""
    return Response(response.status, response.headers, body)
