"""The seam to aiohttp: sends one request once, and turns each failure into one of ours."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import aiohttp
from yarl import URL

from nairi_async._core.aiohttp_bodies import (
    AiohttpResponseStream,
    JsonPayload,
    StreamingPayload,
    make_payload,
    read_body,
    received_body,
)
from nairi_async._core.aiohttp_failures import explain, hide_headers
from nairi_async._core.aiohttp_session import UNBOUNDED, make_session
from nairi_async._core.closing import run_shielded
from nairi_async._core.failures import drop_frames
from nairi_async._core.json_body import EXCERPT, one_line, shortened
from nairi_async._core.request import Response, is_success
from nairi_async.clock import LoopTimeout
from nairi_async.errors import (
    ConfigurationError,
    ConnectionFailedError,
    NairiError,
    RequestTimeoutError,
    SessionClosedError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping
    from ssl import SSLContext

    from nairi_async._core.proxies import Proxy
    from nairi_async._core.request import CallState, Credentials, Request, StreamingBody
    from nairi_async._core.service import Service
    from nairi_async.clock import Clock


class AiohttpTransport:
    """Sends single requests over an aiohttp session that it made, or that the caller lent."""

    def __init__(
        self,
        service: Service,
        base_url: str,
        credentials: Credentials,
        clock: Clock,
        *,
        lent: aiohttp.ClientSession | None,
        connections: int,
        proxy: Proxy | None = None,
        tls: SSLContext | None = None,
    ) -> None:
        if lent is not None and not isinstance(lent, aiohttp.ClientSession):
            raise ConfigurationError(f"http must be an aiohttp.ClientSession, not {type(lent).__name__}")
        self.service = service
        self.base_url = base_url
        self.credentials = credentials
        self._clock = clock
        self._lent = lent
        self._connections = connections
        self._proxy = proxy
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False
        self._settings: dict[str, Any] = {}
        if lent is not None:
            # Its own may contradict ours.
            self._settings = {"timeout": UNBOUNDED, "raise_for_status": False}
        elif proxy is not None:
            self._settings = {"proxy": proxy.url, "proxy_headers": proxy.headers()}

    @property
    def connections(self) -> int:
        """Requests that can be under way at once: the pool of a lent session may be smaller than `max_connections`."""
        pool = self._lent.connector if self._lent is not None else None
        bounds = (pool.limit, pool.limit_per_host) if pool is not None else ()
        return min([self._connections, *(bound for bound in bounds if bound > 0)])

    def redact(self, text: str) -> str:
        """Return a text from outside without the credentials, those of the proxy included."""
        text = self.credentials.redact(text)
        return text if self._proxy is None else self._proxy.redact(text)

    def quote(self, text: str, *, limit: int = EXCERPT) -> str:
        """Return a text from outside as an error may quote it: without secrets, short, and on one line.

        Secrets go first, because half of one would not be found in a shortened text.
        """
        return one_line(shortened(self.redact(text), limit))

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent, from the loop that opened it."""
        return self._session is not None

    def open(self) -> None:
        """Make the aiohttp session, unless one was lent. Call it on the event loop that will send requests."""
        if self._is_closed or self._session is not None:
            state = "closed" if self._is_closed else "open"
            raise SessionClosedError(f"the session is {state} already; make a new one")
        if self._lent is not None and self._lent.closed:
            raise SessionClosedError("the aiohttp session given as http= is closed")
        self._loop = asyncio.get_running_loop()
        self._session = self._lent or make_session(
            self.base_url, connections=self._connections, tls=self._tls, has_proxy=self._proxy is not None
        )

    async def aclose(self) -> None:
        """Close the session that was made here; a lent one stays open. Harmless when repeated."""
        session, self._session, self._is_closed = self._session, None, True
        if session is not None and session is not self._lent:
            await run_shielded(session.close())

    async def send(self, request: Request, state: CallState, timeout: float) -> Response:
        """Send a request once and return the response of any status, within `timeout` seconds.

        The body of a success that is read as it arrives (`request.idle_timeout`) is left to its stream: there `timeout`
        bounds the time until the request is written, and `idle_timeout` the wait for the response and for each piece.

        Raises:
            SessionClosedError: not open. That it is used on its own event loop is checked by `check_open`.
            ConnectionFailedError, RequestTimeoutError: no whole response; `sent` says whether the request had left.
            DecodeError: the response body is larger than `request.max_body`.
        """
        session, outer = self._session, sys.exception()
        if session is None or self._lent is not None:
            # It may have been closed while the call waited for a permit.
            self.check_open()
        assert session is not None  # noqa: S101 - checked, which type checkers cannot see
        idle_timeout = request.idle_timeout
        until_written = None if idle_timeout is None else LoopTimeout(timeout)
        # A request without a body is complete with its headers, so it counts as sent from the start.
        state.write_started = request.body is None
        body = None if request.body is None else self._payload(request, request.body, state, until_written)
        if request.address is None:
            query = f"?{request.query}" if request.query else ""
            request.address = URL(f"{self.base_url}{request.path}{query}", encoded=True)
        try:
            async with self._clock.timeout(timeout + (idle_timeout or 0.0)):
                if until_written is not None:
                    async with until_written:
                        return await self._open_stream(session, request, state, body)
                response = await self._exchange(session, request, body)
                content = received_body(response, request, is_traced=self._lent is not None)
                if content is None:
                    content = await read_body(response, request)
                return Response(response.status, response.headers, content)
        except BaseException as error:
            failure = body.failure if isinstance(body, StreamingPayload) else None
            # The frames of aiohttp hold the headers, and so the key, in local variables.
            drop_frames(error, outer, failure)
            if isinstance(error, TimeoutError):
                # First, because aiohttp's timeouts are client errors and OSErrors as well.
                waited = idle_timeout if idle_timeout is not None and state.write_started else timeout
                raise RequestTimeoutError(
                    f"no whole response within {waited:.3g} s", request.method, request.path, state.write_started
                ) from error
            if not isinstance(error, aiohttp.ClientError | OSError | ValueError) or isinstance(error, NairiError):
                raise
            if failure is not None:
                raise failure from failure.__cause__
            # aiohttp raises ValueError for settings of a lent session that contradict ours.
            self._raise_failure(request, state, error)

    def _payload(
        self, request: Request, body: bytes | StreamingBody, state: CallState, until_written: LoopTimeout | None
    ) -> JsonPayload | StreamingPayload:
        def on_write() -> None:
            state.write_started = True
            if until_written is not None and request.idle_timeout is not None:
                until_written.restart(request.idle_timeout)

        return make_payload(body, on_write)

    def _exchange(
        self, session: aiohttp.ClientSession, request: Request, body: JsonPayload | StreamingPayload | None
    ) -> Awaitable[aiohttp.ClientResponse]:
        return session.request(
            request.method,
            request.address,
            data=body,
            headers=self._headers(request),
            allow_redirects=False,
            **self._settings,
        )

    async def _open_stream(
        self,
        session: aiohttp.ClientSession,
        request: Request,
        state: CallState,
        body: JsonPayload | StreamingPayload | None,
    ) -> Response:
        response = await self._exchange(session, request, body)
        if is_success(response.status):
            stream = AiohttpResponseStream(
                response, request, self._clock, lambda error: self._raise_failure(request, state, error)
            )
            return Response(response.status, response.headers, b"", stream)
        return Response(response.status, response.headers, await read_body(response, request))

    def check_open(self) -> None:
        """Refuse use before opening, after closing, or from another event loop.

        Raises:
            SessionClosedError: requests cannot be sent.
        """
        if self._session is None:
            raise SessionClosedError(
                "the session is closed" if self._is_closed else "the session is not open yet; use it in `async with`"
            )
        if asyncio.get_running_loop() is not self._loop:
            raise SessionClosedError("the session belongs to another event loop; make one session per loop")
        if self._lent is not None and self._lent.closed:
            raise SessionClosedError("the aiohttp session given as http= was closed by its owner")

    def _headers(self, request: Request) -> Mapping[str, str]:
        """Return the headers. The caller keeps them in no variable: the key in them would stand in tracebacks."""
        headers = (request.credentials or self.credentials).headers()
        if self._proxy is not None and self.base_url.startswith("http:"):
            # Without a tunnel the proxy reads the request itself.
            headers = {**headers, **self._proxy.headers()}
        return {**headers, **request.headers} if request.headers else headers

    def _raise_failure(self, request: Request, state: CallState, error: Exception) -> NoReturn:
        """Raise a failure of aiohttp as one of ours, without the credentials."""
        proxy_url = self._proxy.url if self._proxy is not None else None
        failure = explain(error, self.service, self.base_url, proxy_url)
        hide_headers(error)
        if self._is_closed and (request.idempotent or not state.write_started):
            raise SessionClosedError("the session was closed while a request was under way") from error
        raise ConnectionFailedError(
            f"connection failed: {self.quote(failure.reason)}",
            request.method,
            request.path,
            state.write_started and not failure.is_unsent,
            failure.is_permanent,
            failure.hint,
        ) from error
