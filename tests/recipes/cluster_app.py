"""A view of a cluster in replicas: `uvicorn cluster_app:app`, any of which can watch any conversation."""

# It shows every conversation of the cluster to everyone who reaches it: put a sign-in in front of it.

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, TypedDict

from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from nairi_async import NairiError, NairiSession
from nairi_async.cluster import Cluster
from nairi_async.web import EventStreams, error_json, http_status

HOSTS = os.environ.get("HOSTS", "127.0.0.1 localhost").split()


class Services(TypedDict):
    nairi: NairiSession
    cluster: Cluster
    streams: EventStreams


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[Services]:
    cluster, streams = Cluster(os.environ["DATABASE"]), EventStreams(max_streams=200)
    async with NairiSession() as nairi, cluster, streams:
        yield {"nairi": nairi, "cluster": cluster, "streams": streams}


def the_services(request: Request) -> Services:
    state = request.state
    return {"nairi": state.nairi, "cluster": state.cluster, "streams": state.streams}


app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)
Given = Annotated[Services, Depends(the_services)]


@app.get("/batches")
async def batches(given: Given) -> list[dict[str, str | int]]:
    statuses = await given["cluster"].batches()
    return [{"name": one.name, "open": one.open, "done": one.done, "failed": one.failed} for one in statuses]


@app.get("/batches/{name}/{item:path}/events", response_model=None)
async def events(
    name: str, item: str, given: Given, after: str | None = None, last_event_id: Annotated[str | None, Header()] = None
) -> Response:
    batch = await given["cluster"].batch(name)
    turn = await batch.turn(item)
    if turn is None:
        raise HTTPException(404, "There is no such conversation yet.")
    watch = given["nairi"].watch(turn.job_id, after=last_event_id or after, progress=True)
    stream = given["streams"].watch(watch)
    if await stream.open() == 204:
        return Response(status_code=204)
    return StreamingResponse(stream, headers=stream.headers)


@app.exception_handler(NairiError)
async def failed(request: Request, error: NairiError) -> JSONResponse:
    return JSONResponse(error_json(error), http_status(error))
