"""Sending a turn as newline-delimited JSON, in whatever pieces the quirks cut it."""

from __future__ import annotations

import asyncio
import itertools
import math
from typing import TYPE_CHECKING

from aiohttp import web

from nairi_async.testing.amigo.caller import executor
from nairi_async.testing.clock import stalled

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nairi_async.clock import Clock
    from nairi_async.testing.amigo.quirks import AmigoQuirks
    from nairi_async.testing.amigo.turn import Emission, Turn
    from nairi_async.testing.amigo.world import Conversation

# Passes of the event loop after which what was written has been read by a client in the same loop.
_PASSES = 2


class _ClientGoneError(ConnectionResetError):
    """The client has closed its connection; for the server that is no error of its own."""


async def send(
    request: web.Request,
    conversation: Conversation,
    turn: Turn,
    clock: Clock,
    quirks: AmigoQuirks,
    *,
    status: int,
) -> web.StreamResponse:
    """Stream a turn as it happens; the connection counts as open until its last byte is sent."""
    response = web.StreamResponse(status=status, headers=executor.get().headers)
    response.content_type = "application/x-ndjson"
    conversation.streams += 1
    try:
        if executor.get().is_lost:
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
    """Send what is due at one moment; return whether the stream goes on."""
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
    """Cut what is due; an empty piece would end the body."""
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
    """Cut the connection once what was written has left."""
    if request.transport is not None:
        request.transport.close()
