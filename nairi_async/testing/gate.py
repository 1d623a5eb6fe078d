"""What every request passes: the record, the hooks for faults, the key, and one shape for all errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import TYPE_CHECKING, Protocol, TypeAlias

from aiohttp import hdrs, web
from attrs import define, field, frozen

from nairi_async.testing.fault_responses import Spoiling
from nairi_async.testing.faults import Fault, FaultKind, FaultPlan, Faults
from nairi_async.testing.refused import RefusedError

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


class House(Protocol):
    """What stands behind a gate and decides who is let in, and how a no is worded."""

    async def handled(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request that may come in; refuse others."""
        ...

    def refusal(self, error: RefusedError) -> web.Response:
        """The answer that says no."""
        ...

    def meet(self, fault: Fault | None, plan: FaultPlan, /) -> float:
        """Be ready for a request with which this goes wrong; returns seconds that `Date` is ahead of the clock."""
        ...


@define
class Gate:
    """The middleware in front of all handlers."""

    house: House
    clock: Clock
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
        plan = self.faults.plan
        skew = self.house.meet(fault, plan)

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
            return await self.house.handled(request, handler)
        except RefusedError as error:
            return self.house.refusal(error)
        except web.RequestPayloadError:
            response = self.house.refusal(RefusedError(400, "invalid request body"))
            response.force_close()
            return response
        except web.HTTPException as error:
            kept = {str(name): error.headers[name] for name in _KEPT_HEADERS if name in error.headers}
            return self.house.refusal(RefusedError(error.status, error.reason.lower(), kept))


def bearer(request: web.Request) -> str:
    """Return the token of the request's authorization; empty if it has none."""
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _cut(request: web.Request) -> web.Response:
    """Cut the connection; the answer that the server goes on to write reaches nobody."""
    if request.transport is not None and not request.transport.is_closing():
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
