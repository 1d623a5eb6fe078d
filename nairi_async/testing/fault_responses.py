"""What a request with a fault gets instead of its plain response."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeAlias

from aiohttp import hdrs, web
from attrs import evolve, frozen

from nairi_async.clock import Clock
from nairi_async.testing.clock import stalled
from nairi_async.testing.faults import Fault, FaultPlan
from nairi_async.testing.json_bodies import RefusedError, error_response

if TYPE_CHECKING:
    from nairi_async.testing.quirks import Quirks


_IS_TRUNCATED: Final = web.ResponseKey("nairi_async.is_truncated", bool)


def is_truncated(response: web.StreamResponse) -> bool:
    """Return whether a response stands, in memory, for one whose body breaks off."""
    return _IS_TRUNCATED in response


Respond: TypeAlias = Callable[[], Awaitable[web.StreamResponse]]

# 408 and 425 too: gateways send them for a slow response, so they do not prove that the service has not acted.
_ERRORS: Final = (500, 502, 503, 504, 408, 425)
_PIECES: Final = 8


def quirks_with_fault(fault: Fault, plan: FaultPlan, quirks: Quirks) -> Quirks:
    """Return the quirks of a service for one request with a fault."""
    match fault.kind:
        case "stale":
            return evolve(quirks, stale_by=plan.lag, stale_every=1)
        case "late":
            return evolve(quirks, late_by=plan.lag, late_every=2)
        case "reordered":
            return evolve(quirks, order="shuffled", order_seed=fault.roll)
        case "repeated":
            return evolve(quirks, repeat_every=2)
        case _:
            return quirks


@frozen
class FaultyResponse:
    """The response to one request with a fault."""

    fault: Fault
    plan: FaultPlan
    clock: Clock
    skew: float
    """Seconds by which the service's clock, as this request sees it, is ahead of `clock`."""

    async def respond(self, request: web.Request, respond: Respond) -> web.StreamResponse:
        """Return a response in place of the one from `respond`, or made from it.

        Raises:
            ConnectionResetError: the connection is to be cut.
        """
        return await self._before() or await self._after(request, await respond())

    async def _before(self) -> web.StreamResponse | None:
        match self.fault.kind:
            case "reset before":
                raise ConnectionResetError
            case "hang before":
                await _hang(self.clock)
            case "error before":
                return self._error_page()
            case "rate limited":
                return _refuse(429, f"{self.plan.retry_after:g}")
            case "rate limited until":
                # HTTP dates have whole seconds: rounded up, so that the date is not earlier than planned.
                until = math.ceil(self.clock.time() + self.skew + self.plan.retry_after)
                return _refuse(429, formatdate(until, usegmt=True))
            case "unavailable":
                return _refuse(503, f"{self.plan.retry_after:g}")
            case _:
                pass
        return None

    async def _after(self, request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        match self.fault.kind:
            case "reset after":
                raise ConnectionResetError
            case "hang after":
                await _hang(self.clock)
            case "error after":
                return self._error_page()
            case "garbled":
                return _same_head(response, web.Response(body=_body(response)[: len(_body(response)) // 2]))
            case "truncated":
                return await _truncated(request, response)
            case "slow":
                return await self._slow(request, response)
            case _:
                pass
        return response

    def _error_page(self) -> web.Response:
        status = HTTPStatus(_ERRORS[self.fault.roll % len(_ERRORS)])
        page = f"<html><head><title>{status.phrase}</title></head><body><h1>{status} {status.phrase}</h1></body></html>"
        return web.Response(text=page, status=status, content_type="text/html")

    async def _slow(self, request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        if request.transport is None:
            # In memory: the response arrives as a whole.
            with stalled(self.clock):
                await self.clock.sleep(self.plan.slow_for)
            return response
        body = _body(response)
        stream = await _open_stream(request, response)
        size = max(1, math.ceil(len(body) / _PIECES))
        for begin in range(0, len(body), size):
            with stalled(self.clock):
                await self.clock.sleep(self.plan.slow_for / _PIECES)
            await stream.write(body[begin : begin + size])
        return stream


async def _hang(clock: Clock) -> None:
    """Wait until the client disconnects or the simulator closes: either cancels the handler."""
    with stalled(clock):
        await clock.sleep(math.inf)


def _refuse(status: int, retry_after: str) -> web.Response:
    return error_response(RefusedError(status, "try again later", {hdrs.RETRY_AFTER: retry_after}))


def _body(response: web.StreamResponse) -> bytes:
    body = response.body if isinstance(response, web.Response) else None
    return bytes(body) if isinstance(body, bytes | bytearray) else b""


def _same_head(response: web.StreamResponse, other: web.StreamResponse) -> web.StreamResponse:
    """Give another response the same status and headers; return it."""
    other.set_status(response.status)
    for name in (hdrs.CONTENT_TYPE, hdrs.DATE):
        if name in response.headers:
            other.headers[name] = response.headers[name]
    return other


async def _open_stream(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    stream = _same_head(response, web.StreamResponse())
    stream.content_length = len(_body(response))
    await stream.prepare(request)
    return stream


async def _truncated(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    if request.transport is None:
        truncated = _same_head(response, web.Response())
        truncated[_IS_TRUNCATED] = True
        return truncated
    body = _body(response)
    stream = await _open_stream(request, response)
    await stream.write(body[: len(body) // 2])
    # `close` and not `abort`, so that the client receives what was written.
    request.transport.close()
    return stream
