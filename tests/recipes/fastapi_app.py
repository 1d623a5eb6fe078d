"""A chat with an agent, served by FastAPI: `uvicorn fastapi_app:app`."""

# Whoever reaches this application spends your organisation's money, with all tools of the agent: put a sign-in in front
# of it before others can reach it. A visitor sees and continues only the conversations that the visitor began here.

import hmac
import json
import os
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, TypedDict, cast

from fastapi import Cookie, Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from nairi_async import NairiError, NairiSession
from nairi_async.web import EventStreams, error_json, http_status

AGENT = "my-agent"
PAGE = Path(__file__).with_name("chat.html")
HOSTS = os.environ.get("HOSTS", "127.0.0.1 localhost").split()
# Signs the cookies that prove who began a conversation. Set it, or they are void after a restart.
SECRET = os.environ.get("SECRET", secrets.token_hex()).encode()
MAX_BODY = 64 * 1024


class Services(TypedDict):
    nairi: NairiSession
    streams: EventStreams


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[Services]:
    async with NairiSession() as nairi, EventStreams(max_streams=200) as streams:  # NAIRI_API_KEY
        yield {"nairi": nairi, "streams": streams}


def the_nairi(request: Request) -> NairiSession:
    return cast("NairiSession", request.state.nairi)


def the_streams(request: Request) -> EventStreams:
    return cast("EventStreams", request.state.streams)


async def prompt_of(request: Request) -> str:
    """Read the prompt; refuse what a page of another website can send, and what is too large."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "The body must be application/json.")
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers["host"]:
        raise HTTPException(403, "The request comes from another website.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, "The message is too long.")
    try:
        match json.loads(body):
            case {"prompt": str(prompt)}:
                return prompt
            case _:
                pass
    except (ValueError, RecursionError):
        pass
    raise HTTPException(400, "A prompt is needed.")


def proof(job_id: str) -> bytes:
    return hmac.digest(SECRET, job_id.encode(), "sha256").hex().encode()


def own_job(job_id: str, proof_of_start: Annotated[str, Cookie()] = "") -> str:
    if not hmac.compare_digest(proof_of_start.encode(), proof(job_id)):
        raise HTTPException(404, "You have no such conversation.")
    return job_id


app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)
Nairi = Annotated[NairiSession, Depends(the_nairi)]
Streams = Annotated[EventStreams, Depends(the_streams)]
Prompt = Annotated[str, Depends(prompt_of)]
OwnJob = Annotated[str, Depends(own_job)]


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(PAGE, headers={"Content-Security-Policy": "frame-ancestors 'none'"})


@app.post("/chats", status_code=201)
async def start(prompt: Prompt, nairi: Nairi, request: Request, response: Response) -> dict[str, str]:
    turn = await nairi.start(AGENT, prompt)
    response.set_cookie(
        "proof_of_start", proof(turn.job_id).decode(), max_age=30 * 86400, path=f"/chats/{turn.job_id}",
        httponly=True, samesite="strict", secure=request.url.scheme == "https",
    )  # fmt: skip
    return {"job_id": turn.job_id, "message_id": turn.message_id}


@app.post("/chats/{job_id}", status_code=201)
async def continue_chat(job_id: OwnJob, prompt: Prompt, nairi: Nairi) -> dict[str, str]:
    turn = await nairi.continue_(job_id, prompt)
    return {"job_id": turn.job_id, "message_id": turn.message_id}


@app.get("/chats/{job_id}/events", response_model=None)
async def events(
    job_id: OwnJob,
    nairi: Nairi,
    streams: Streams,
    after: str | None = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    stream = streams.watch(nairi.watch(job_id, after=last_event_id or after, progress=True))
    if await stream.open() == 204:
        return Response(status_code=204)
    return StreamingResponse(stream, headers=stream.headers)


@app.exception_handler(NairiError)
async def failed(request: Request, error: NairiError) -> JSONResponse:
    return JSONResponse(error_json(error), http_status(error))
