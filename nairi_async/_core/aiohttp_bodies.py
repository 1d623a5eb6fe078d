"""Bodies over aiohttp: what a request carries, and a response body read whole, into a sink, or as it arrives."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final, NoReturn

import aiohttp
from aiohttp import hdrs

from nairi_async._core.failures import drop_frames
from nairi_async._core.request import is_success
from nairi_async.errors import DecodeError, RequestTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nairi_async._core.request import Request, Sink, StreamingBody
    from nairi_async.clock import Clock

    OnWrite = Callable[[], object]

_JSON: Final = "application/json"
# Bytes of a body that are written at a time.
_PIECE: Final = 256 * 1024
# Bytes of a stream at a time: thousands of events, each of which takes microseconds.
_MAX_READ: Final = 64 * 1024
# Bytes above which a body is not read by aiohttp, which has all of it twice for a moment.
_LARGE: Final = 1024 * 1024
# Enough of an error page to recognise it.
_MAX_ERROR_BODY: Final = 64 * 1024


class JsonPayload(aiohttp.Payload):
    """A JSON body that calls `on_write` when it is handed to a connection.

    Before that the service cannot have run the request: the proof that it may be sent again. The body is written in
    pieces, so that a prompt of megabytes does not hold up the event loop.
    """

    def __init__(self, body: bytes, on_write: OnWrite) -> None:
        super().__init__(body, content_type=_JSON)
        self._body = body
        self._on_write = on_write

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return len(self._body)

    @property
    def autoclose(self) -> bool:
        """That aiohttp need not close it."""
        return True

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the text: aiohttp calls this to show a body."""
        return self._body.decode(encoding, errors)

    async def write_with_length(self, writer: Any, content_length: int | None) -> None:  # noqa: ARG002 - its own length
        """Write the body."""
        await self.write(writer)

    async def write(self, writer: Any) -> None:
        """Write the body."""
        self._on_write()
        if len(self._body) <= _PIECE:
            await writer.write(self._body)
            return
        for start in range(0, len(self._body), _PIECE):
            await writer.write(self._body[start : start + _PIECE])


class StreamingPayload(aiohttp.Payload):
    """A body that is produced while it is sent, and calls `on_write` when that begins."""

    def __init__(self, body: StreamingBody, on_write: OnWrite) -> None:
        super().__init__(body, content_type=body.content_type)
        self._body = body
        self._on_write = on_write

    @property
    def size(self) -> int | None:
        """Its length in bytes, where it is known."""
        return self._body.size

    @property
    def autoclose(self) -> bool:
        """That aiohttp need not close it: its pieces are closed where they are written."""
        return True

    @property
    def failure(self) -> Exception | None:
        """The error that stopped its production."""
        return self._body.failure

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002 - aiohttp's signature
        """Refuse: aiohttp calls this to show a body."""
        raise TypeError("a stream can be sent, not shown")

    async def write_with_length(self, writer: Any, content_length: int | None) -> None:  # noqa: ARG002 - as above
        """Write the body: a stream keeps to the length that it announced, or fails."""
        await self.write(writer)

    async def write(self, writer: Any) -> None:
        """Write the body."""
        self._on_write()
        async with aclosing(self._body.chunks()) as chunks:
            async for chunk in chunks:
                await writer.write(chunk)


def make_payload(body: bytes | StreamingBody, on_write: OnWrite) -> JsonPayload | StreamingPayload:
    """Return a body for one attempt; `on_write` is called when it is handed to a connection."""
    return JsonPayload(body, on_write) if isinstance(body, bytes) else StreamingPayload(body, on_write)


def received_body(response: aiohttp.ClientResponse, request: Request, *, is_traced: bool) -> bytes | None:
    """Return a body that came together with its headers, as small ones do; `None` for one that must be awaited.

    The connection is released already. `is_traced` says whether aiohttp's session may have hooks, which are called only
    with what is awaited.
    """
    content = response.content
    if is_traced or not content.is_eof() or content.exception() is not None:
        return None
    if content.total_bytes > request.max_body or request.sink is not None or not is_success(response.status):
        return None
    return content.read_nowait()


async def read_body(response: aiohttp.ClientResponse, request: Request) -> bytes:
    """Read a whole body, or the beginning of that of an error; more than the limit is refused, decompressed.

    The connection is released: kept if the body was read to its end, closed otherwise.
    """
    is_wanted = is_success(response.status)
    limit = request.max_body if is_wanted else _MAX_ERROR_BODY
    sink = request.sink if is_wanted else None
    length = response.content_length
    is_plain = hdrs.CONTENT_ENCODING not in response.headers
    if length is not None and length <= min(limit, _LARGE) and sink is None and is_plain:
        # The usual case.
        return await response.read()
    try:
        if length is not None and length > limit and is_wanted:
            response.close()
            raise _too_large(request)
        if sink is not None:
            return await _pour(response, request, sink())
        return await _collect(response, request, limit, is_wanted=is_wanted)
    finally:
        response.release()


async def _collect(response: aiohttp.ClientResponse, request: Request, limit: int, *, is_wanted: bool) -> bytes:
    """Read a body that is large, or whose length is not known before, without a copy of it."""
    chunks, size = BytesIO(), 0
    async for chunk in response.content.iter_any():
        size += chunks.write(chunk)
        if size > limit:
            response.close()
            break
    if size > limit and is_wanted:
        raise _too_large(request)
    return chunks.getvalue()[:limit]


async def _pour(response: aiohttp.ClientResponse, request: Request, sink: Sink) -> bytes:
    """Give the body to a sink, within the same limit; return what is left here, which is nothing."""
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > request.max_body:
            response.close()
            raise _too_large(request)
        if not sink.write(chunk):
            response.close()
            break
    return b""


class AiohttpResponseStream:
    """The body of a success, read as it arrives. It holds its connection until its end."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        request: Request,
        clock: Clock,
        raise_failure: Callable[[Exception], NoReturn],
    ) -> None:
        assert request.idle_timeout is not None  # noqa: S101 - only such a request is read as it arrives
        self._response = response
        self._request = request
        self._raise_failure = raise_failure
        self._idle_timeout = clock.idle_timeout(request.idle_timeout, self._expire)
        self._size = 0
        self._is_more_there = False

    async def read(self) -> bytes:
        """Read the next piece; empty at the end."""
        content = self._response.content
        outer = sys.exception()
        if self._is_more_there:
            # The next piece may be there as well, without a wait: other tasks have their turn between two.
            await asyncio.sleep(0)
        self._idle_timeout.begin()
        try:
            piece = await content.read(_MAX_READ)
        except (aiohttp.ClientError, OSError, ValueError, RuntimeError) as error:
            drop_frames(error, outer)
            # aiohttp raises RuntimeError where the session was closed meanwhile.
            piece = _read_what_arrived_before(content)
            if not piece:
                self._raise(error)
        finally:
            self._idle_timeout.end()
        self._size += len(piece)
        self._is_more_there = len(piece) == _MAX_READ
        if self._size > self._request.max_body:
            raise _too_large(self._request)
        return piece

    def close(self) -> None:
        """Release the connection."""
        self._idle_timeout.close()
        # A body that was read to its end leaves its connection to the next request.
        self._response.close()

    def _expire(self) -> None:
        """End the wait for data that has lasted too long."""
        self._response.content.set_exception(aiohttp.SocketTimeoutError("no data"))

    def _raise(self, error: Exception) -> NoReturn:
        if isinstance(error, TimeoutError):
            raise RequestTimeoutError(
                f"no data came for {self._request.idle_timeout:.3g} s",
                self._request.method,
                self._request.path,
                sent=True,
            ) from error
        self._raise_failure(error)


def _read_what_arrived_before(content: aiohttp.StreamReader) -> bytes:
    """Read what arrived before the connection broke, which aiohttp would withhold.

    It may be the very event that says how a turn ended.
    """
    failure = content.exception()
    if failure is None:
        return b""
    # Declared for exceptions only; a test proves that aiohttp takes `None` back.
    content.set_exception(None)  # type: ignore[arg-type]
    try:
        return content.read_nowait()
    finally:
        content.set_exception(failure)


def _too_large(request: Request) -> DecodeError:
    return DecodeError(f"the response body is larger than {request.max_body} bytes", request.method, request.path)
