"""A gateway in front of the service that answers in its place, and replicas that do not know a new turn yet."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from simulation.process import Universe

_STATUSES: Final = (408, 425, 502, 504)


def install(universe: Universe) -> None:
    """Let a share of the requests end in a gateway's page, before or after the service has worked."""
    chance = universe.plan.random("gateway")
    rate = chance.choice((0.03, 0.1, 0.2))
    lag = chance.choice((0.0, 0.0, 1.0, 3.0))

    def page() -> web.Response:
        status = HTTPStatus(chance.choice(_STATUSES))
        return web.Response(text=f"<html><h1>{status}</h1></html>", status=status, content_type="text/html")

    async def before(request: web.Request) -> web.Response | None:
        if universe.is_calm:
            return None
        if lag and request.method == "GET" and _is_new(universe, request.path, lag) and chance.random() < 0.5:
            return web.json_response({"error": "not found"}, status=404)
        return page() if chance.random() < rate / 2 else None

    async def after(_request: web.Request, _response: web.StreamResponse) -> web.Response | None:
        return page() if not universe.is_calm and chance.random() < rate / 2 else None

    universe.simulator.intercept, universe.simulator.intercept_response = before, after


def _is_new(universe: Universe, path: str, lag: float) -> bool:
    """Return whether a path names a turn that was accepted less than `lag` seconds ago."""
    now = universe.clock.time()
    return any(
        now - one.at < lag and (one.message_id in path or one.job_id in path)
        for one in universe.simulator.prompts[-20:]
    )
