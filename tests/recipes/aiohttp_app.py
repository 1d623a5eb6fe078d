"""A chat with an agent, served by aiohttp.web: `python aiohttp_app.py`."""

import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from nairi_async import NairiError, NairiSession
from nairi_async.web import EventStreams, error_json, http_status

AGENT = "my-agent"
PAGE = Path(__file__).with_name("chat.html")
NAIRI = web.AppKey("NAIRI", NairiSession)
STREAMS = web.AppKey("STREAMS", EventStreams)
routes = web.RouteTableDef()


async def services(app: web.Application) -> AsyncIterator[None]:
    async with NairiSession() as app[NAIRI], EventStreams() as app[STREAMS]:  # NAIRI_API_KEY
        yield


@routes.get("/")
async def page(request: web.Request) -> web.FileResponse:
    return web.FileResponse(PAGE)


async def prompt_of(request: web.Request) -> str:
    match await request.json():
        case {"prompt": str(prompt)}:
            return prompt
        case _:
            raise web.HTTPBadRequest(text="a prompt is needed")


# Each visitor may see each conversation here: who may see which is your application's to say.
@routes.post("/chats")
async def start(request: web.Request) -> web.Response:
    turn = await request.app[NAIRI].start(AGENT, await prompt_of(request))
    return web.json_response({"job_id": turn.job_id, "message_id": turn.message_id}, status=201)


@routes.post("/chats/{job_id}")
async def go_on(request: web.Request) -> web.Response:
    turn = await request.app[NAIRI].continue_(request.match_info["job_id"], await prompt_of(request))
    return web.json_response({"job_id": turn.job_id, "message_id": turn.message_id}, status=201)


@routes.get("/chats/{job_id}/events")
async def events(request: web.Request) -> web.StreamResponse:
    after = request.headers.get("Last-Event-ID") or request.query.get("after")
    watch = request.app[NAIRI].watch(request.match_info["job_id"], after=after, progress=True)
    async with request.app[STREAMS].watch(watch) as stream:
        response = web.StreamResponse(headers=stream.headers)
        await response.prepare(request)
        with suppress(ConnectionResetError):  # the browser has left
            async for data in stream:
                await response.write(data)
    return response


@web.middleware
async def failures(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except NairiError as error:
        return web.json_response(error_json(error), status=http_status(error))


def application() -> web.Application:
    app = web.Application(middlewares=[failures])
    app.cleanup_ctx.append(services)
    app.add_routes(routes)
    return app


if __name__ == "__main__":
    # With `handler_cancellation`, a browser that goes away ends its handler, and with it the polling.
    web.run_app(application(), port=int(os.environ.get("PORT", "8000")), handler_cancellation=True)
