"""The middleware of the simulated services: record, faults, hooks, access, and one shape for all errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from email.utils import formatdate
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol, TypeAlias

from aiohttp import hdrs, web
from attrs import define, field, frozen

from nairi_async.testing.fault_responses import FaultyResponse
from nairi_async.testing.faults import Fault, FaultKind, FaultPlan, Faults
from nairi_async.testing.json_bodies import RefusedError

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

    from nairi_async.clock import Clock

Intercept: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse | None]]
InterceptResponse: TypeAlias = Callable[[web.Request, web.StreamResponse], Awaitable[web.StreamResponse | None]]

_COPIED_HEADERS = (hdrs.ALLOW,)


@frozen
class RecordedRequest:
    """A request that reached the simulator, with its response."""

    method: str
    """HTTP method."""
    path: str
    """As it was sent, percent-encoding included, without the query."""
    status: int
    """HTTP status of the response; 0 if the connection was cut instead."""
    at: float
    """When it arrived, in seconds since the epoch on the simulator's clock."""
    request_bytes: int
    """Size of the body that was read, without headers."""
    response_bytes: int
    """Size of the body, without headers; 0 for a stream of a hook."""
    query: str = ""
    """As it was sent, without the question mark."""
    fault: FaultKind | None = None
    """The fault that the simulator's `FaultPlan` drew for it."""


class AccessPolicy(Protocol):
    """Decides which requests a service lets in, and the form of its errors."""

    async def handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Return the handler's response to a request that is let in; refuse others."""
        ...

    def error_response(self, error: RefusedError) -> web.Response:
        """Return the response for an error."""
        ...

    def prepare(self, fault: Fault | None, plan: FaultPlan, /) -> float:
        """Set up the request under way for its fault; return the seconds by which its `Date` is ahead of the clock."""
        ...


@define
class Middleware:
    """Stands in front of all handlers."""

    access: AccessPolicy
    clock: Clock
    requests: list[RecordedRequest] = field(factory=list)
    faults: Faults = field(factory=lambda: Faults(FaultPlan()))
    intercept: Intercept | None = None
    intercept_response: InterceptResponse | None = None

    @web.middleware
    async def handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Return the response to a request of the HTTP server, or cut its connection."""
        try:
            return await self.respond(request, handler)
        except ConnectionResetError:
            return _cut(request)

    async def respond(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Return the response to a request, and record both.

        Raises:
            ConnectionResetError: the connection is to be cut.
        """
        at = self.clock.time()
        response: web.StreamResponse | None = None
        fault = self.faults.next(request.method, request.rel_url.raw_path)
        try:
            returned = response = await self._respond(fault, request, handler)
        finally:
            self.requests.append(_record(request, response, at, fault))
        return returned

    async def _respond(self, fault: Fault | None, request: web.Request, handler: Handler) -> web.StreamResponse:
        plan = self.faults.plan
        skew = self.access.prepare(fault, plan)

        async def respond() -> web.StreamResponse:
            return self._dated(await self._hooked(request, handler), skew)

        if fault is None:
            return await respond()
        return self._dated(await FaultyResponse(fault, plan, self.clock, skew).respond(request, respond), skew)

    def _dated(self, response: web.StreamResponse, skew: float) -> web.StreamResponse:
        if not response.prepared:
            response.headers.setdefault(hdrs.DATE, _http_date(int(self.clock.time() + skew)))
        return response

    async def _hooked(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        early = await self.intercept(request) if self.intercept else None
        if early is not None:
            return early
        response = await self._handled(request, handler)
        changed = await self.intercept_response(request, response) if self.intercept_response else None
        return response if changed is None else changed

    async def _handled(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if request.method == hdrs.METH_OPTIONS:
                return await _options(request, handler)
            return await self.access.handle(request, handler)
        except RefusedError as error:
            return self.access.error_response(error)
        except web.RequestPayloadError:
            response = self.access.error_response(RefusedError(400, "invalid request body"))
            response.force_close()
            return response
        except web.HTTPException as error:
            copied = {str(name): error.headers[name] for name in _COPIED_HEADERS if name in error.headers}
            return self.access.error_response(RefusedError(error.status, error.reason.lower(), copied))


async def _options(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Return the methods of an endpoint, as RFC 9110 defines OPTIONS; browsers send it without the key."""
    try:
        return await handler(request)
    except web.HTTPMethodNotAllowed as error:
        methods = {*error.allowed_methods, hdrs.METH_OPTIONS}
        return web.Response(status=204, headers={hdrs.ALLOW: ", ".join(sorted(methods))})


@lru_cache(maxsize=16)
def _http_date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


def bearer(request: web.Request) -> str:
    """Return the token of the request's authorization; empty if it has none."""
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _cut(request: web.Request) -> web.Response:
    """Cut the connection; the response, which aiohttp demands of a handler, is written to a closed transport."""
    if request.transport is not None and not request.transport.is_closing():
        request.transport.abort()
    return web.Response()


def _record(
    request: web.Request, response: web.StreamResponse | None, at: float, fault: Fault | None
) -> RecordedRequest:
    body = response.body if isinstance(response, web.Response) else None
    return RecordedRequest(
        request.method,
        request.rel_url.raw_path,
        response.status if response else 0,
        at,
        request.content.total_bytes,
        len(body) if isinstance(body, bytes | bytearray) else 0,
        request.rel_url.raw_query_string,
        None if fault is None else fault.kind,
    )
