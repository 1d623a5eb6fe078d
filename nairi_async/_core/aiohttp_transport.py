"""The only place that knows aiohttp: one attempt at one request, and the three shapes of its failures."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, NoReturn

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from nairi_async._core.request import Request, Response, StreamingBody, is_success
from nairi_async.errors import (
    ConfigurationError,
    ConnectionFailedError,
    DecodeError,
    RequestTimeoutError,
    SessionClosedError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nairi_async._core.request import Credentials, Sink
    from nairi_async.clock import Clock

# The whole attempt is bounded once, by our own clock: aiohttp's own limits would add a timer to each request.
_UNBOUNDED: Final = aiohttp.ClientTimeout(total=None)
_JSON: Final = "application/json"
# Enough of an error page to tell what it is.
_MAX_ERROR_BODY: Final = 64 * 1024


class AiohttpTransport:
    """Sends single requests over an aiohttp session that it made, or that the caller lent."""

    def __init__(
        self,
        base_url: str,
        credentials: Credentials,
        clock: Clock,
        *,
        lent: aiohttp.ClientSession | None,
        connections: int,
    ) -> None:
        if lent is not None and not isinstance(lent, aiohttp.ClientSession):
            raise ConfigurationError(f"http is an aiohttp.ClientSession, not {type(lent).__name__}")
        self._base_url = base_url
        self.credentials = credentials
        self._clock = clock
        self._lent = lent
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False

    @property
    def connections(self) -> int:
        """Requests that can be under way at once: a lent pool may be smaller than what was asked for."""
        pool = self._lent.connector if self._lent is not None else None
        bounds = (pool.limit, pool.limit_per_host) if pool is not None else ()
        return min([self._connections, *(bound for bound in bounds if bound > 0)])

    def redact(self, text: str) -> str:
        """A text from outside, without the credentials."""
        return self.credentials.redact(text)

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
            middlewares=(_once,),
        )

    async def aclose(self) -> None:
        """Close what was made here; a lent session stays open. Harmless when repeated."""
        session, self._session, self._is_closed = self._session, None, True
        if session is not None and session is not self._lent:
            await session.close()

    async def send(self, request: Request, timeout: float) -> Response:
        """One attempt, within `timeout` seconds: the whole answer, whatever its status.

        Of an answer that is read as it comes (`request.silence`) only its beginning, and of its errors all: there
        `timeout` bounds the connecting, and the silence each wait.

        Raises:
            SessionClosedError: not open, or open on another event loop.
            ConnectionFailedError, RequestTimeoutError: no whole answer; `sent` says whether the request had left.
            DecodeError: the answer is larger than `request.max_body`.
        """
        session = self._require_session()
        body = _payload(request)
        # A request without a body is complete with its headers, so it counts as given away from the start.
        request.write_started = body is None
        if request.address is None:
            query = f"?{request.query}" if request.query else ""
            request.address = URL(f"{self._base_url}{request.path}{query}", encoded=True)
        try:
            # Of one that is read as it comes it bounds the beginning; each wait after it has a bound of its own.
            async with self._clock.timeout(timeout + (request.idle_timeout or 0.0)):
                answer = await session.request(
                    request.method,
                    request.address,
                    data=body,
                    headers=self._headers(request),
                    timeout=_UNBOUNDED
                    if request.idle_timeout is None
                    else _idle_timeout(timeout, request.idle_timeout),
                    allow_redirects=False,
                    raise_for_status=False,
                )
                if request.idle_timeout is not None and is_success(answer.status):
                    return Response(
                        answer.status, answer.headers, b"", _ResponseStream(self, request, answer, self._clock)
                    )
                try:
                    content = await _read(answer, request)
                finally:
                    # Whatever was not read is not worth reading: this closes such a connection, and keeps the others.
                    answer.release()
        except TimeoutError as error:
            # First, because aiohttp's timeouts are client errors and OSErrors as well.
            idle_timeout = (
                request.idle_timeout if request.idle_timeout is not None and request.write_started else timeout
            )
            raise RequestTimeoutError(
                f"no whole answer within {idle_timeout:.3g} s", *_where(request), request.write_started
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(body, _StreamingPayload) and body.failure is not None:
                raise body.failure from body.failure.__cause__
            # A ValueError is aiohttp's answer to settings of a lent session that do not go with ours.
            self.raise_failure(request, error)
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

    def _headers(self, request: Request) -> Mapping[str, str]:
        """What goes with a request; in no variable of the frames that a traceback keeps, because the key is in it."""
        headers = (request.credentials or self.credentials).headers()
        return {**headers, **request.headers} if request.headers else headers

    def raise_failure(self, request: Request, error: Exception) -> NoReturn:
        """Raise a failure of aiohttp as one of ours, without the credentials."""
        _hide_headers(error)
        if self._is_closed and (request.idempotent or not request.write_started):
            raise SessionClosedError("the session was closed while a request was under way") from error
        # aiohttp's connector errors say that no connection was made, with or without a body to tell it by.
        sent = request.write_started and not isinstance(error, aiohttp.ClientConnectorError | ValueError)
        reason = self.redact(str(error)) or type(error).__name__
        is_lasting = isinstance(error, aiohttp.ClientConnectorCertificateError | ValueError)
        raise ConnectionFailedError(f"connection failed: {reason}", *_where(request), sent, is_lasting) from error


class _ResponseStream:
    """A successful answer that is read as it comes; it holds its connection until its end."""

    def __init__(
        self, client: AiohttpTransport, request: Request, answer: aiohttp.ClientResponse, clock: Clock
    ) -> None:
        self._client = client
        self._request = request
        self._answer = answer
        assert request.idle_timeout is not None  # noqa: S101 - that is what asks for it
        self._idle_timeout = clock.idle_timeout(request.idle_timeout, self._give_up)
        self._size = 0
        connection = answer.connection
        if connection is not None and connection.protocol is not None:
            # aiohttp would set a new timer at each piece, and leave the old one among the loop's until its time.
            connection.protocol.read_timeout = None

    async def read(self) -> bytes:
        content = self._answer.content
        self._idle_timeout.begin()
        try:
            piece = await content.readany()
        except (aiohttp.ClientError, OSError, ValueError, RuntimeError) as error:
            # A RuntimeError is aiohttp's answer where the session was closed meanwhile.
            piece = _arrived_before(content)
            if not piece:
                self._raise(error)
        finally:
            self._idle_timeout.end()
        self._size += len(piece)
        if self._size > self._request.max_body:
            raise DecodeError(f"the answer is larger than {self._request.max_body} bytes", *_where(self._request))
        return piece

    def close(self) -> None:
        self._idle_timeout.close()
        # Of an answer that was read to its end this keeps the connection.
        self._answer.close()

    def _give_up(self) -> None:
        """End a wait that has lasted too long."""
        self._answer.content.set_exception(aiohttp.SocketTimeoutError("silence"))

    def _raise(self, error: Exception) -> NoReturn:
        if isinstance(error, TimeoutError):
            told = f"nothing came for {self._request.idle_timeout:.3g} s"
            raise RequestTimeoutError(told, *_where(self._request), sent=True) from error
        self._client.raise_failure(self._request, error)


def _arrived_before(content: aiohttp.StreamReader) -> bytes:
    """What had come before the connection broke, and was not read: aiohttp would keep it back.

    It may be the very event that says how a turn ended.
    """
    failure = content.exception()
    if failure is None:
        return b""
    content._exception = None  # noqa: SLF001 - there is no other way to it
    try:
        return content.read_nowait()
    finally:
        content.set_exception(failure)


def _idle_timeout(connecting: float, idle_timeout: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=connecting, sock_read=idle_timeout)


class _BrokenError(aiohttp.ClientError):
    """A connection broke; under this name aiohttp does not send the request again by itself."""


async def _once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """One attempt is one request: how often to try, and how long to wait in between, is the retry policy's business."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _BrokenError(str(error) or type(error).__name__) from error


class _Body(aiohttp.BytesPayload):
    """A JSON body that notes when it is handed to a connection.

    Until then the service cannot have run the request, whatever went wrong: the proof that a prompt may be sent again.
    """

    def __init__(self, request: Request, body: bytes) -> None:
        super().__init__(body, content_type=_JSON)
        self._request = request

    async def write_with_length(self, writer: Any, content_length: int | None) -> None:
        self._request.write_started = True
        await super().write_with_length(writer, content_length)

    async def write(self, writer: Any) -> None:
        self._request.write_started = True
        await super().write(writer)


class _StreamingPayload(aiohttp.Payload):
    """A body that is produced while it is sent, and notes when that begins."""

    _autoclose = True

    def __init__(self, request: Request, stream: StreamingBody) -> None:
        super().__init__(stream, content_type=stream.content_type)
        self._request = request
        self._stream = stream

    @property
    def size(self) -> int | None:
        return self._stream.size

    @property
    def failure(self) -> Exception | None:
        return self._stream.failure

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002 - aiohttp's signature
        raise TypeError("a stream is sent, not shown")

    async def write_with_length(self, writer: Any, content_length: int | None) -> None:  # noqa: ARG002 - as above
        # A stream keeps to the length that it announced, or fails.
        await self.write(writer)

    async def write(self, writer: Any) -> None:
        self._request.write_started = True
        async with aclosing(self._stream.chunks()) as chunks:
            async for chunk in chunks:
                await writer.write(chunk)


def _payload(request: Request) -> aiohttp.Payload | None:
    if request.body is None:
        return None
    return _Body(request, request.body) if isinstance(request.body, bytes) else _StreamingPayload(request, request.body)


async def _read(answer: aiohttp.ClientResponse, request: Request) -> bytes:
    """The body; of an error its beginning; refused as soon as more than the limit has come, decompressed."""
    limit = request.max_body if answer.ok else _MAX_ERROR_BODY
    if request.sink is not None and answer.ok:
        return await _pour(answer, request, request.sink())
    length = answer.content_length
    if length is not None and length > limit and answer.ok:
        answer.close()
        raise _too_large(request, limit)
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
    if size > limit and answer.ok:
        raise _too_large(request, limit)
    return b"".join(chunks)[:limit]


async def _pour(answer: aiohttp.ClientResponse, request: Request, sink: Sink) -> bytes:
    """Give the body to what takes it, within the same limit; nothing of it is left here."""
    size = 0
    async for chunk in answer.content.iter_any():
        size += len(chunk)
        if size > request.max_body:
            answer.close()
            raise _too_large(request, request.max_body)
        if not sink.write(chunk):
            answer.close()
            break
    return b""


def _too_large(request: Request, limit: int) -> DecodeError:
    return DecodeError(f"the answer is larger than {limit} bytes", *_where(request))


def _where(request: Request) -> tuple[str, str]:
    return request.method, request.path


def _hide_headers(error: BaseException) -> None:
    """Take headers, and so the key, out of an aiohttp error that will be the cause of ours.

    The request's stand in its fields; what the service sent, which may repeat them, in its message and its own cause.
    """
    if isinstance(error, aiohttp.ClientResponseError):
        hidden = error.request_info._replace(headers=CIMultiDictProxy(CIMultiDict()))
        error.request_info = hidden
        error.args = (hidden, ())
        error.message = "the answer is not HTTP"
        error.headers = None
        error.__cause__ = error.__context__ = None
