"""For comparison: a chat served by FastAPI, with aiohttp's client alone, as a loop that polls every 2 seconds."""

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import aiohttp
from fastapi import Body, FastAPI, Request
from fastapi.responses import FileResponse, StreamingResponse

AGENT = "my-agent"
PAGE = Path(__file__).with_name("chat.html")
API = os.environ.get("NAIRI_BASE_URL", "https://api.nairi.ai") + "/api/public/v1"
HEADERS = {"Authorization": f"Bearer {os.environ['NAIRI_API_KEY']}"}
Prompt = Annotated[str, Body(embed=True)]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, aiohttp.ClientSession]]:
    async with aiohttp.ClientSession(headers=HEADERS, raise_for_status=True) as http:
        yield {"http": http}


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(PAGE)


@app.post("/chats", status_code=201)
async def start(prompt: Prompt, request: Request) -> Any:
    body = {"agent_id": AGENT, "prompt": prompt}
    async with request.state.http.post(f"{API}/conversations/start", json=body) as response:
        return await response.json()


@app.post("/chats/{job_id}", status_code=201)
async def go_on(job_id: str, prompt: Prompt, request: Request) -> Any:
    async with request.state.http.post(f"{API}/conversations/{job_id}/continue", json={"prompt": prompt}) as response:
        return await response.json()


async def polled(http: aiohttp.ClientSession, job_id: str) -> AsyncGenerator[str]:
    seen: set[str] = set()
    while True:
        async with http.get(f"{API}/conversations/{job_id}/messages") as response:
            messages = (await response.json())["messages"]
        for message in messages:
            if message["role"] == "progress" or message["id"] in seen:
                continue
            seen.add(message["id"])
            yield f"event: message\ndata: {json.dumps(message)}\n\n"
        users = [message for message in messages if message["role"] == "user"]
        if all(message["status"] in {"completed", "failed"} for message in users):
            yield f"event: end\ndata: {json.dumps({'status': users[-1]['status']})}\n\n"
            return
        await asyncio.sleep(2)


@app.get("/chats/{job_id}/events")
async def events(job_id: str, request: Request) -> StreamingResponse:
    return StreamingResponse(polled(request.state.http, job_id), media_type="text/event-stream")
