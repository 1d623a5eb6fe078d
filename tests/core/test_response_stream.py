"""Responses that are read as they arrive, over the transport alone."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import support
from support import Act, Last, RawServer, answer

from nairi_async import ConnectionFailedError, DecodeError, RequestTimeoutError
from nairi_async._core.request import CallState, Request

if TYPE_CHECKING:
    from nairi_async._core.aiohttp_transport import AiohttpTransport
    from nairi_async._core.request import ResponseStream

pytestmark = pytest.mark.anyio

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def opened(http: AiohttpTransport, **options: float) -> ResponseStream:
    """Return the stream of a response that has begun."""
    request = Request(method="POST", path="/stream", body=b"{}", **{"idle_timeout": 5.0, **options})  # type: ignore[arg-type]
    response = await http.send(request, CallState(), 5.0)
    assert response.stream is not None
    return response.stream


async def test_what_arrived_before_a_break_is_read_first() -> None:
    """Data that arrived before the connection broke is delivered, and the break is raised by the next read.

    It may be the event that says how a turn ended. aiohttp would withhold it: this test fails if aiohttp no longer lets
    go of an exception by `StreamReader.set_exception(None)`.
    """
    async with RawServer(Last(HEAD + b"5\r\nevent\r\n")) as server, support.client(server.url) as http:
        stream = await opened(http)
        content = stream._response.content  # type: ignore[attr-defined]
        await support.until(lambda: content.exception() is not None)
        assert await stream.read() == b"event"
        for _ in range(2):
            with pytest.raises(ConnectionFailedError):
                await stream.read()
        stream.close()


async def test_a_wait_for_data_is_bounded_and_a_timeout() -> None:
    """A read without data for longer than `idle_timeout` is a timeout that says so."""
    async with RawServer(HEAD + b"5\r\nevent\r\n", Act.HANG) as server, support.client(server.url) as http:
        stream = await opened(http, idle_timeout=0.3)
        assert await stream.read() == b"event"
        with pytest.raises(RequestTimeoutError, match=r"no data came for 0\.3 s") as caught:
            await stream.read()
        assert caught.value.sent
        stream.close()


async def test_the_wait_for_a_response_is_bounded_from_the_writing_on() -> None:
    """Once the request is written, the response may take `idle_timeout`, not the time for connecting as well."""
    async with RawServer(Act.HANG) as server, support.client(server.url) as http:
        request, state = Request(method="POST", path="/stream", body=b"{}", idle_timeout=0.3), CallState()
        with pytest.raises(RequestTimeoutError, match=r"no whole response within 0\.3 s") as caught:
            await http.send(request, state, 30.0)
    assert caught.value.sent
    assert state.write_started


async def test_a_stream_is_bounded_in_size() -> None:
    """More than the request's limit is a decode error."""
    async with RawServer(answer(200, 100 * b"x")) as server, support.client(server.url) as http:
        stream = await opened(http, max_body=50)
        with pytest.raises(DecodeError, match="larger than 50 bytes"):
            await stream.read()
        stream.close()


async def test_a_stream_read_to_its_end_leaves_its_connection() -> None:
    """The connection of a stream that was read to its end serves the next request."""
    async with RawServer(answer(200, b"event")) as server, support.client(server.url) as http:
        for _ in range(2):
            stream = await opened(http)
            assert (await stream.read(), await stream.read()) == (b"event", b"")
            stream.close()
        assert (len(server.seen), server.connections) == (2, 1)


async def test_other_tasks_run_between_the_pieces_of_a_flood() -> None:
    """Much data that is there already is read in pieces, with a turn for other tasks in between."""
    flood = 1_000_000 * b"x"
    async with RawServer(answer(200, flood)) as server, support.client(server.url) as http:
        stream, turns, pieces = await opened(http), 0, []

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        while piece := await stream.read():
            pieces.append((len(piece), turns))
        counting.cancel()
        stream.close()
    assert sum(size for size, _ in pieces) == len(flood)
    assert max(size for size, _ in pieces) <= 64 * 1024
    assert all(before < after for (size, before), (_, after) in pairwise(pieces) if size == 64 * 1024)
