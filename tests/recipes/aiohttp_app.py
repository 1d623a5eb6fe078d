"""A chat with an agent, served by aiohttp.web: `python aiohttp_app.py`."""

# Whoever reaches this application spends your organisation's money, with all tools of the agent: put a sign-in in front
# of it before others can reach it. A visitor sees and continues only the conversations that the visitor began here.

import hmac
import json
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from nairi_async import NairiError, NairiSession
from nairi_async.web import EventStreams, error_json, http_status

AGENT = "my-agent"
PAGE = Path(__file__).with_name("chat.html")
HOSTS = os.environ.get("HOSTS", "127.0.0.1 localhost").split()
# Signs the cookies that prove who began a conversation. Set it, or they are void after a restart.
SECRET = os.environ.get("SECRET", secrets.token_hex()).encode()
MAX_BODY = 64 * 1024
NAIRI = web.AppKey("NAIRI", NairiSession)
STREAMS = web.AppKey("STREAMS", EventStreams)
routes = web.RouteTableDef()


async def services(app: web.Application) -> AsyncIterator[None]:
    async with NairiSession() as app[NAIRI], EventStreams(max_streams=200) as app[STREAMS]:  # NAIRI_API_KEY
        yield


@routes.get("/")
async def page(request: web.Request) -> web.FileResponse:
    return web.FileResponse(PAGE, headers={"Content-Security-Policy": "frame-ancestors 'none'"})


async def prompt_of(request: web.Request) -> str:
    """Read the prompt; refuse what a page of another website can send."""
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="The body must be application/json.")
    origin = request.headers.get("Origin")
    if origin is not None and origin.partition("://")[2] != request.host:
        raise web.HTTPForbidden(text="The request comes from another website.")
    try:
        match json.loads(await request.read()):
            case {"prompt": str(prompt)}:
                return prompt
            case _:
                pass
    except (ValueError, RecursionError):
        pass
    raise web.HTTPBadRequest(text="A prompt is needed.")


def proof(job_id: str) -> bytes:
    return hmac.digest(SECRET, job_id.encode(errors="surrogatepass"), "sha256").hex().encode()


def own_job(request: web.Request) -> str:
    job_id = request.match_info["job_id"]
    if not hmac.compare_digest(request.cookies.get("proof_of_start", "").encode(errors="surrogatepass"), proof(job_id)):
        raise web.HTTPNotFound(text="You have no such conversation.")
    return job_id


@routes.post("/chats")
async def start(request: web.Request) -> web.Response:
    turn = await request.app[NAIRI].start(AGENT, await prompt_of(request))
    response = web.json_response({"job_id": turn.job_id, "message_id": turn.message_id}, status=201)
    response.set_cookie(
        "proof_of_start", proof(turn.job_id).decode(), max_age=30 * 86400, path=f"/chats/{turn.job_id}",
        httponly=True, samesite="Strict", secure=request.secure,
    )  # fmt: skip
    return response


@routes.post("/chats/{job_id}")
async def continue_chat(request: web.Request) -> web.Response:
    turn = await request.app[NAIRI].continue_(own_job(request), await prompt_of(request))
    return web.json_response({"job_id": turn.job_id, "message_id": turn.message_id}, status=201)


@routes.get("/chats/{job_id}/events")
async def events(request: web.Request) -> web.StreamResponse:
    after = request.headers.get("Last-Event-ID") or request.query.get("after")
    watch = request.app[NAIRI].watch(own_job(request), after=after, progress=True)
    async with request.app[STREAMS].watch(watch) as stream:
        if await stream.open() == 204:
            return web.Response(status=204)
        response = web.StreamResponse(headers=stream.headers)
        await response.prepare(request)
        with suppress(ConnectionResetError):  # the browser has left
            async for data in stream:
                await response.write(data)
    return response


@web.middleware
async def failures(request: web.Request, handler: Handler) -> web.StreamResponse:
    host, _, port = request.host.rpartition(":")
    if (host if port.isdecimal() else request.host) not in HOSTS:
        raise web.HTTPMisdirectedRequest(text="This application has another name.")
    try:
        return await handler(request)
    except NairiError as error:
        return web.json_response(error_json(error), status=http_status(error))


def application() -> web.Application:
    app = web.Application(middlewares=[failures], client_max_size=MAX_BODY)
    app.cleanup_ctx.append(services)
    app.add_routes(routes)
    return app


if __name__ == "__main__":
    # With `handler_cancellation`, a browser that goes away ends its handler, and with it the polling.
    port = int(os.environ.get("PORT", "8000"))
    web.run_app(application(), host="127.0.0.1", port=port, handler_cancellation=True)
