#!/usr/bin/env bash
# FastAPI's own Server-Sent Events: an event that is yielded directly before an exception never arrives.
#
# Most expect: a generator that yields an event and then fails has sent that event; the client sees it, and then the
#   connection break off. A plain streaming response behaves so.
# What happens: with `fastapi.sse.EventSourceResponse` the last event before the exception is not sent. With
#   `StreamingResponse` and the same text it is. So "send the error as an event, then raise" tells the client nothing.
# Versions: fastapi 0.165.0, starlette 1.10.0, uvicorn 0.54.0, Python 3.11 and newer.
# Source: seen by running; https://fastapi.tiangolo.com/tutorial/server-sent-events/ does not mention it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet fastapi==0.165.0 starlette==1.10.0 uvicorn==0.54.0
cat >"$folder/try.py" <<'PYTHON'
import asyncio
import contextlib
import logging
import socket

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

app = FastAPI()


@app.get("/own", response_class=EventSourceResponse)
async def own():
    yield ServerSentEvent(data="first")
    await asyncio.sleep(0.2)
    yield ServerSentEvent(data="last")
    raise RuntimeError("the work failed")


@app.get("/plain")
async def plain():
    async def events():
        yield 'data: "first"\n\n'
        await asyncio.sleep(0.2)
        yield 'data: "last"\n\n'
        raise RuntimeError("the work failed")

    return StreamingResponse(events(), media_type="text/event-stream")


async def get(port, path):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    body = await reader.read()
    writer.close()
    return [word for word in ("first", "last") if f'data: "{word}"'.encode() in body]


async def main():
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.05)
    port = listener.getsockname()[1]
    seen = {path: await get(port, path) for path in ("/own", "/plain")}
    server.should_exit = True
    with contextlib.suppress(Exception):
        await serving
    print("events that arrived:", seen)
    assert seen == {"/own": ["first"], "/plain": ["first", "last"]}, "the behaviour has changed"


logging.disable(logging.CRITICAL)
asyncio.run(main())
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
