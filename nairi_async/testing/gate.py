"""What every request passes: the record, the hooks for faults, the key, and one shape for all errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import TYPE_CHECKING, TypeAlias

from aiohttp import hdrs, web
from attrs import define, field, frozen

from nairi_async.testing.answers import refusal
from nairi_async.testing.faults import Fault, FaultKind, FaultPlan, Faults
from nairi_async.testing.quirks import quirks_met
from nairi_async.testing.spoiling import Spoiling, spoilt_quirks
from nairi_async.testing.world import RefusedError, World

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

    from nairi_async.clock import Clock

Intercept: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse | None]]
InterceptAnswer: TypeAlias = Callable[[web.Request, web.StreamResponse], Awaitable[web.StreamResponse | None]]

_KEPT_HEADERS = (hdrs.ALLOW,)


@frozen
class Seen:
    """A request that reached the simulator, with what it got."""

    method: str
    """HTTP method."""
    path: str
    """As it was sent, percent-encoding included, without the query."""
    status: int
    """HTTP status; 0 if the connection was cut instead of answered."""
    at: float
    """When it arrived, in seconds since the epoch on the simulator's clock."""
    request_bytes: int
    """Size of the body that was read, without headers."""
    response_bytes: int
    """Size of the body, without headers; 0 for a stream of a hook."""
    query: str = ""
    """As it was sent, without the question mark."""
    fault: FaultKind | None = None
    """What the simulator's `FaultPlan` made go wrong with it."""


@define
class Gate:
    """The middleware in front of all handlers."""

    world: World
    clock: Clock
    api_key: str
    requests: list[Seen] = field(factory=list)
    faults: Faults = field(factory=lambda: Faults(FaultPlan()))
    intercept: Intercept | None = None
    intercept_answer: InterceptAnswer | None = None

    @web.middleware
    async def admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request, and record it."""
        at = self.clock.time()
        response: web.StreamResponse | None = None
        fault = self.faults.next(request.method, request.rel_url.raw_path)
        try:
            answered = response = await self._spoilt(fault, request, handler)
        except ConnectionResetError:
            return _cut(request)
        finally:
            self.requests.append(_seen(request, response, at, fault))
        return answered

    async def _spoilt(self, fault: Fault | None, request: web.Request, handler: Handler) -> web.StreamResponse:
        plan, quirks = self.faults.plan, self.world.quirks
        skew = quirks.clock_skew + (fault.skew(plan) if fault is not None else 0.0)
        quirks_met.set(quirks if fault is None else spoilt_quirks(fault, plan, quirks))

        async def work() -> web.StreamResponse:
            return self._dated(await self._hooked(request, handler), skew)

        if fault is None:
            return await work()
        return self._dated(await Spoiling(fault, plan, self.clock, skew).answer(request, work), skew)

    def _dated(self, response: web.StreamResponse, skew: float) -> web.StreamResponse:
        if not response.prepared:
            response.headers.setdefault(hdrs.DATE, formatdate(self.clock.time() + skew, usegmt=True))
        return response

    async def _hooked(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        early = await self.intercept(request) if self.intercept else None
        if early is not None:
            return early
        response = await self._handled(request, handler)
        changed = await self.intercept_answer(request, response) if self.intercept_answer else None
        return response if changed is None else changed

    async def _handled(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._check_key(request)
            return await handler(request)
        except RefusedError as error:
            return refusal(error.status, error.text)
        except web.RequestPayloadError:
            response = refusal(400, "invalid request body")
            response.force_close()
            return response
        except web.HTTPException as error:
            response = refusal(error.status, error.reason.lower())
            response.headers.update({name: error.headers[name] for name in _KEPT_HEADERS if name in error.headers})
            return response

    def _check_key(self, request: web.Request) -> None:
        scheme, _, key = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() != "bearer" or key.strip() != self.api_key:
            raise RefusedError(401, "invalid API key")


def _cut(request: web.Request) -> web.Response:
    """Cut the connection; the answer that the server goes on to write reaches nobody."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _seen(request: web.Request, response: web.StreamResponse | None, at: float, fault: Fault | None) -> Seen:
    body = response.body if isinstance(response, web.Response) else None
    return Seen(
        request.method,
        request.rel_url.raw_path,
        response.status if response else 0,
        at,
        request.content.total_bytes,
        len(body) if isinstance(body, bytes | bytearray) else 0,
        request.rel_url.raw_query_string,
        None if fault is None else fault.kind,
    )
