"""What every request passes: the record, the hooks for faults, the key, and one shape for all errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import TYPE_CHECKING, TypeAlias

from aiohttp import hdrs, web
from attrs import define, field, frozen

from nairi_async.testing.answers import refusal
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


@define
class Gate:
    """The middleware in front of all handlers."""

    world: World
    clock: Clock
    api_key: str
    requests: list[Seen] = field(factory=list)
    intercept: Intercept | None = None
    intercept_answer: InterceptAnswer | None = None

    @web.middleware
    async def admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request, and record it."""
        at = self.clock.time()
        response: web.StreamResponse | None = None
        try:
            answered = response = await self._hooked(request, handler)
        except ConnectionResetError:
            return _cut(request)
        finally:
            self.requests.append(_seen(request, response, at))
        if not answered.prepared:
            answered.headers.setdefault(hdrs.DATE, formatdate(at + self.world.quirks.clock_skew, usegmt=True))
        return answered

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


def _seen(request: web.Request, response: web.StreamResponse | None, at: float) -> Seen:
    body = response.body if isinstance(response, web.Response) else None
    return Seen(
        request.method,
        request.rel_url.raw_path,
        response.status if response else 0,
        at,
        request.content.total_bytes,
        len(body) if isinstance(body, bytes | bytearray) else 0,
        request.rel_url.raw_query_string,
    )
