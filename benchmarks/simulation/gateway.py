"""A gateway in front of the service that answers in its place, and replicas that do not know a new turn yet."""

from __future__ import annotations

import re
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

if TYPE_CHECKING:
    from simulation.process import Universe

# A prompt's own text, and not the replies that quote it.
_PROMPT: Final = re.compile(rb'"content":"((?:(?:chat|talk) \d+ )?prompt \d+")')
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

    universe.before.append(before)
    universe.after.append(after)


def install_edits(universe: Universe) -> None:
    """Let the service change the texts of prompts, and date its responses by another clock than its messages."""
    chance = universe.plan.random("edits")
    prefix = chance.choice((b"", b"[api] ", b"&lt;b&gt;"))
    ahead = chance.choice((0.0, 0.0, 45.0, -45.0))

    async def after(_request: web.Request, response: web.StreamResponse) -> None:
        if prefix and isinstance(response, web.Response) and isinstance(response.body, bytes):
            response.body = _PROMPT.sub(rb'"content":"' + prefix + rb"\1", response.body)
        if ahead:
            now = universe.clock.time() + universe.simulator.quirks.clock_skew
            response.headers[hdrs.DATE] = formatdate(now + ahead, usegmt=True)

    universe.after.append(after)


def _is_new(universe: Universe, path: str, lag: float) -> bool:
    """Return whether a path names a turn that was accepted less than `lag` seconds ago."""
    now, prompts = universe.clock.time(), universe.simulator.prompts
    new = [one for one in prompts[-20:] if now - one.at < lag]
    if any(one.message_id in path for one in new):
        return True
    # A replica that does not know the newest prompt of a conversation yet knows the conversation from the one before.
    return any(one.job_id in path and sum(other.job_id == one.job_id for other in prompts) == 1 for one in new)
