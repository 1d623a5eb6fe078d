"""For comparison: a chat served by aiohttp.web, with aiohttp's client alone, as a loop that polls every 2 seconds."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
from aiohttp import web

AGENT = "my-agent"
PAGE = Path(__file__).with_name("chat.html")
API = os.environ.get("NAIRI_BASE_URL", "https://api.nairi.ai") + "/api/public/v1"
HEADERS = {"Authorization": f"Bearer {os.environ['NAIRI_API_KEY']}"}
HTTP = web.AppKey("HTTP", aiohttp.ClientSession)
routes = web.RouteTableDef()


async def client(app: web.Application) -> AsyncIterator[None]:
    async with aiohttp.ClientSession(headers=HEADERS, raise_for_status=True) as app[HTTP]:
        yield


@routes.get("/")
async def page(request: web.Request) -> web.FileResponse:
    return web.FileResponse(PAGE)


@routes.post("/chats")
async def start(request: web.Request) -> web.Response:
    body = {"agent_id": AGENT, "prompt": (await request.json())["prompt"]}
    async with request.app[HTTP].post(f"{API}/conversations/start", json=body) as response:
        return web.json_response(await response.json(), status=201)


@routes.post("/chats/{job_id}")
async def go_on(request: web.Request) -> web.Response:
    body = {"prompt": (await request.json())["prompt"]}
    url = f"{API}/conversations/{request.match_info['job_id']}/continue"
    async with request.app[HTTP].post(url, json=body) as response:
        return web.json_response(await response.json(), status=201)


@routes.get("/chats/{job_id}/events")
async def events(request: web.Request) -> web.StreamResponse:
    stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await stream.prepare(request)
    seen: set[str] = set()
    while True:
        url = f"{API}/conversations/{request.match_info['job_id']}/messages"
        async with request.app[HTTP].get(url) as response:
            messages = (await response.json())["messages"]
        for message in messages:
            if message["role"] == "progress" or message["id"] in seen:
                continue
            seen.add(message["id"])
            await stream.write(f"event: message\ndata: {json.dumps(message)}\n\n".encode())
        users = [message for message in messages if message["role"] == "user"]
        if all(message["status"] in {"completed", "failed"} for message in users):
            await stream.write(f"event: end\ndata: {json.dumps({'status': users[-1]['status']})}\n\n".encode())
            return stream
        await asyncio.sleep(2)


def application() -> web.Application:
    app = web.Application()
    app.cleanup_ctx.append(client)
    app.add_routes(routes)
    return app


if __name__ == "__main__":
    web.run_app(application(), port=int(os.environ.get("PORT", "8000")))
