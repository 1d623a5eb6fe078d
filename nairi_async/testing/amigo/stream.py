"""Streams a turn as newline-delimited JSON, cut into pieces as the quirks say."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING

from aiohttp import web
from attrs import field, frozen

from nairi_async.testing.clock import stalled

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nairi_async.clock import Clock
    from nairi_async.testing.amigo.quirks import AmigoQuirks
    from nairi_async.testing.amigo.state import Conversation
    from nairi_async.testing.amigo.timeline import Emission, Turn

# Passes of the event loop after which a client in the same loop has read what was written.
_PASSES = 2


@frozen
class RequestContext:
    """What the access policy has found out about a request."""

    user_id: str = ""
    """The user who signed in; empty for the sign-in itself."""
    headers: Mapping[str, str] = field(factory=dict)
    """Headers that the response has to carry."""
    response_lost: bool = False
    """Whether the connection is to be cut in place of the response."""


request_context: ContextVar[RequestContext] = ContextVar("request_context")
"""The context of the request under way: each has a task, or comes after others in the task of its connection."""


class _ClientGoneError(ConnectionResetError):
    """The client has closed its connection; for the server this is not an error."""


async def send(
    request: web.Request,
    conversation: Conversation,
    turn: Turn,
    clock: Clock,
    quirks: AmigoQuirks,
    *,
    status: int,
) -> web.StreamResponse:
    """Stream a turn as it happens; the conversation is busy until the last byte is sent."""
    context = request_context.get()
    response = web.StreamResponse(status=status, headers=context.headers)
    response.content_type = "application/x-ndjson"
    conversation.streams += 1
    try:
        if context.response_lost:
            raise ConnectionResetError
        await response.prepare(request)
        for at, emissions in itertools.groupby(turn.emissions, key=lambda one: one.at):
            await _until(at, clock)
            if not await _emit(request, response, list(emissions), clock, quirks):
                break
    except (asyncio.CancelledError, _ClientGoneError):
        if quirks.disconnect == "void" or turn.ended_at == math.inf:
            turn.void(clock.time())
        raise
    finally:
        conversation.streams -= 1
    await response.write_eof()
    return response


async def _until(at: float, clock: Clock) -> None:
    while (left := at - clock.time()) > 0:
        with stalled(clock, stream=True):
            await clock.sleep(left)


async def _emit(
    request: web.Request, response: web.StreamResponse, emissions: list[Emission], clock: Clock, quirks: AmigoQuirks
) -> bool:
    """Send what is due at one time; return whether the stream continues."""
    for kind, run in itertools.groupby(emissions, key=lambda one: one.kind):
        if kind == "end":
            return False
        if kind == "cut":
            _close(request)
            raise ConnectionResetError
        if kind == "hang":
            await _until(math.inf, clock)
        for piece in _pieces([one.data for one in run], quirks):
            await _write(response, piece)
            for _ in range(0 if quirks.chunks is None else _PASSES):
                await asyncio.sleep(0)
    return True


async def _write(response: web.StreamResponse, data: bytes) -> None:
    try:
        await response.write(data)
    except ConnectionResetError:
        raise _ClientGoneError from None


def _pieces(lines: list[bytes], quirks: AmigoQuirks) -> Iterable[bytes]:
    """Cut what is due into pieces, none of them empty: an empty piece would end the body."""
    chunks = quirks.chunks
    if chunks is None:
        return filter(None, lines)
    data = b"".join(lines)
    if isinstance(chunks, int):
        return _equal(data, chunks)
    return filter(None, chunks(data))


def _equal(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def _close(request: web.Request) -> None:
    """Close the connection after what was written has been sent."""
    if request.transport is not None:
        request.transport.close()
