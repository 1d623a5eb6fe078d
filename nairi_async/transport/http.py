"""The only place that knows aiohttp: one attempt at one request, and the three shapes of its failures."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NoReturn

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from nairi_async.errors import ConnectionFailedError, DecodeError, RequestTimeoutError, SessionClosedError
from nairi_async.transport.exchange import Request, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nairi_async.clock import Clock

# The whole attempt is bounded once, by our own clock: aiohttp's own limits would add a timer to each request.
_UNBOUNDED: Final = aiohttp.ClientTimeout(total=None)
_JSON: Final = "application/json"
# Enough of an error page to tell what it is.
_MAX_ERROR_BODY: Final = 64 * 1024


class HttpClient:
    """Sends single requests over an aiohttp session that it made, or that the caller lent."""

    def __init__(
        self,
        base_url: str,
        headers: Callable[[], Mapping[str, str]],
        clock: Clock,
        *,
        lent: aiohttp.ClientSession | None,
        connections: int,
    ) -> None:
        self._base_url = base_url
        self._headers = headers
        self._clock = clock
        self._lent = lent
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent, from the loop that opened it."""
        return self._session is not None

    def open(self) -> None:
        """Make the aiohttp session, unless one was lent; must be called on the event loop that will use it."""
        if self._is_closed or self._session is not None:
            state = "closed" if self._is_closed else "open"
            raise SessionClosedError(f"the session is {state} already; make a new one")
        if self._lent is not None and self._lent.closed:
            raise SessionClosedError("the aiohttp session given as http= is closed")
        self._loop = asyncio.get_running_loop()
        self._session = self._lent or aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=_UNBOUNDED,
        )

    async def aclose(self) -> None:
        """Close what was made here; a lent session stays open. Harmless when repeated."""
        session, self._session, self._is_closed = self._session, None, True
        if session is not None and session is not self._lent:
            await session.close()

    async def send(self, request: Request, timeout: float) -> Response:
        """One attempt, within `timeout` seconds: the whole answer, whatever its status.

        Raises:
            SessionClosedError: not open, or open on another event loop.
            ConnectionFailedError, RequestTimeoutError: no whole answer; `sent` says whether the request had left.
            DecodeError: the answer is larger than `request.max_body`.
        """
        session = self._require_session()
        body = None if request.body is None else _Body(request)
        # A request without a body is complete with its headers, so it counts as given away from the start.
        request.handed_over = body is None
        if request.address is None:
            query = f"?{request.query}" if request.query else ""
            request.address = URL(f"{self._base_url}{request.path}{query}", encoded=True)
        try:
            async with self._clock.timeout(timeout):
                answer = await session.request(
                    request.method,
                    request.address,
                    data=body,
                    headers=self._headers(),
                    timeout=_UNBOUNDED,
                    allow_redirects=False,
                    raise_for_status=False,
                )
                try:
                    content = await _read(answer, request)
                finally:
                    # Whatever was not read is not worth reading: this closes such a connection, and keeps the others.
                    answer.release()
        except TimeoutError as error:
            # First, because aiohttp's timeouts are client errors and OSErrors as well.
            raise RequestTimeoutError(
                f"no whole answer within {timeout:.3g} s", *_where(request), request.handed_over
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            self._raise_failure(request, error)
        return Response(answer.status, answer.headers, content)

    def _require_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise SessionClosedError(
                "the session is closed" if self._is_closed else "the session is not open yet; use it in `async with`"
            )
        if asyncio.get_running_loop() is not self._loop:
            raise SessionClosedError("the session belongs to another event loop; make one session per loop")
        if self._session.closed:
            raise SessionClosedError("the aiohttp session given as http= was closed by its owner")
        return self._session

    def _raise_failure(self, request: Request, error: aiohttp.ClientError | OSError) -> NoReturn:
        _hide_headers(error)
        if self._is_closed and (request.repeatable or not request.handed_over):
            raise SessionClosedError("the session was closed while a request was under way") from error
        # aiohttp's connector errors say that no connection was made, with or without a body to tell it by.
        sent = request.handed_over and not isinstance(error, aiohttp.ClientConnectorError)
        reason = str(error) or type(error).__name__
        raise ConnectionFailedError(f"connection failed: {reason}", *_where(request), sent) from error


class _Body(aiohttp.BytesPayload):
    """A JSON body that notes when it is handed to a connection.

    Until then the service cannot have run the request, whatever went wrong: the proof that a prompt may be sent again.
    """

    def __init__(self, request: Request) -> None:
        super().__init__(request.body or b"", content_type=_JSON)
        self._request = request

    async def write_with_length(self, writer: Any, content_length: int | None) -> None:
        self._request.handed_over = True
        await super().write_with_length(writer, content_length)

    async def write(self, writer: Any) -> None:
        self._request.handed_over = True
        await super().write(writer)


async def _read(answer: aiohttp.ClientResponse, request: Request) -> bytes:
    """The body; of an error its beginning; refused as soon as more than the limit has come, decompressed."""
    limit = request.max_body if answer.ok else _MAX_ERROR_BODY
    length = answer.content_length
    if length is not None and length <= limit and "Content-Encoding" not in answer.headers:
        return await answer.read()
    chunks: list[bytes] = []
    size = 0
    async for chunk in answer.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            answer.close()
            break
    content = b"".join(chunks)
    if size > limit and answer.ok:
        raise DecodeError(f"the answer is larger than {limit} bytes", *_where(request))
    return content[:limit]


def _where(request: Request) -> tuple[str, str]:
    return request.method, request.path


def _hide_headers(error: BaseException) -> None:
    """Take the request's headers, and so the key, out of an aiohttp error that will be the cause of ours."""
    if isinstance(error, aiohttp.ClientResponseError):
        hidden = error.request_info._replace(headers=CIMultiDictProxy(CIMultiDict()))
        error.request_info = hidden
        error.args = (hidden, ())
