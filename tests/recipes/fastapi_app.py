"""A chat with an agent, served by FastAPI: `uvicorn fastapi_app:app`."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, TypedDict, cast

from fastapi import Body, Depends, FastAPI, Header, Request
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse

from nairi_async import NairiError, NairiSession
from nairi_async.web import EventStreams, error_json, http_status

AGENT = "my-agent"
PAGE = Path(__file__).with_name("chat.html")


class Services(TypedDict):
    nairi: NairiSession
    streams: EventStreams


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[Services]:
    async with NairiSession() as nairi, EventStreams() as streams:  # NAIRI_API_KEY
        yield {"nairi": nairi, "streams": streams}


def the_nairi(request: Request) -> NairiSession:
    return cast("NairiSession", request.state.nairi)


def the_streams(request: Request) -> EventStreams:
    return cast("EventStreams", request.state.streams)


app = FastAPI(lifespan=lifespan)
Nairi = Annotated[NairiSession, Depends(the_nairi)]
Streams = Annotated[EventStreams, Depends(the_streams)]
Prompt = Annotated[str, Body(embed=True)]


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(PAGE)


# Each visitor may see each conversation here: who may see which is your application's to say.
@app.post("/chats", status_code=201)
async def start(prompt: Prompt, nairi: Nairi) -> dict[str, str]:
    turn = await nairi.start(AGENT, prompt)
    return {"job_id": turn.job_id, "message_id": turn.message_id}


@app.post("/chats/{job_id}", status_code=201)
async def go_on(job_id: str, prompt: Prompt, nairi: Nairi) -> dict[str, str]:
    turn = await nairi.continue_(job_id, prompt)
    return {"job_id": turn.job_id, "message_id": turn.message_id}


@app.get("/chats/{job_id}/events")
async def events(
    job_id: str,
    nairi: Nairi,
    streams: Streams,
    after: str | None = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> StreamingResponse:
    stream = streams.watch(nairi.watch(job_id, after=last_event_id or after, progress=True))
    return StreamingResponse(stream, headers=stream.headers)


@app.exception_handler(NairiError)
async def failed(request: Request, error: NairiError) -> JSONResponse:
    return JSONResponse(error_json(error), http_status(error))
