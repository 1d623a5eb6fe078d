"""Conversations in a web application: what an agent says, as Server-Sent Events, for any framework.

`EventStreams` holds the open streams of one application process. Each `EventStream` is an async iterator of bytes
that goes into the streaming response of FastAPI, Starlette, aiohttp.web or another framework. Whole applications,
tested with the real frameworks, are in the repository under `tests/recipes`: `fastapi_app.py`, `aiohttp_app.py`,
`dialogue_app.py` (Starlette, for both services) and `chat.html`, a page in one file without a build.

```python
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from nairi_async import NairiSession, Turn
from nairi_async.testing import Simulator
from nairi_async.web import EventStreams


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with NairiSession() as app.state.nairi, EventStreams() as app.state.streams:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/ask")
async def ask(request: Request, prompt: str) -> StreamingResponse:
    dialogue = request.app.state.nairi.conversation("my-agent")
    stream = request.app.state.streams.ask(dialogue, prompt)
    return StreamingResponse(stream, headers=stream.headers)


@app.post("/start")
async def start(request: Request, prompt: str) -> str:
    turn: Turn = await request.app.state.nairi.start("my-agent", prompt)
    return turn.job_id


@app.get("/events/{job_id}")  # for an `EventSource`: it sends the id of the last event that it got
async def events(request: Request, job_id: str) -> StreamingResponse:
    watch = request.app.state.nairi.watch(job_id, after=request.headers.get("Last-Event-ID"))
    stream = request.app.state.streams.watch(watch)
    return StreamingResponse(stream, await stream.open(), headers=stream.headers)


def test_the_app(nairi_environment: Simulator) -> None:
    nairi_environment.agent("my-agent", "Refunded.")
    with TestClient(app) as client:
        answer = client.post("/ask", params={"prompt": "Refund cus_123."}).text
        job_id = client.post("/start", params={"prompt": "Refund cus_456."}).json()
        messages = client.get(f"/events/{job_id}").text
    assert "event: answer" in answer and "Refunded." in answer
    assert "event: message" in messages and "Refunded." in messages
```

* **Resuming.** The id of each event is the cursor of the watch, so a browser that loses its connection resumes behind
  the last message it got.
* **A browser that leaves stops the polling at once**, and many browsers on one conversation share the reads.
* **A deploy ends at once**, open streams or not. uvicorn alone waits for open responses before it informs the
  application of the shutdown; `EventStreams` hears the signal first and ends them, and browsers resume in the next
  process.
* **Errors have a status** (`http_status`) and a JSON form (`error_json`) with a sentence for people. Except for 400 and
  404, no text of the service reaches the browser; it goes to the log `nairi_async.web`.
* **A status before the stream.** `await stream.open()` gives 200, or 204 if nothing is left behind the cursor, and
  raises what fails for good. A standard `EventSource` reconnects after every end of a stream: after `end` and after
  `failure` too, unless the page closes it. It gives up at every other status, so 204 ends it, and a page that met 429
  or 503 makes a new one.
* **Events**: `message` (with an id), `activity`, `end`, `failure`; `answer` in place of `message` for a whole reply. A
  comment and the reconnection time are no blocks of their own, since some clients take them for empty events.
* **Bounds**: `EventStreams(max_streams=…)` open streams for each process; then `TooManyStreamsError`, a 503.
* **A POST that takes minutes**: `EventStreams.ask` sends a prompt and its reply as events, so that no proxy gives up
  waiting, and a client that leaves ends the polling. It works with any dialogue of `nairi_async.dialogue`.

What servers and browsers really do, seen by running each in November 2026, and what is done about it here:

| what | what it does | what is done |
| --- | --- | --- |
| uvicorn 0.54.0 | waits for open streams without end; a second SIGTERM changes nothing | streams end at the signal |
| | `--timeout-graceful-shutdown`: the lifespan's shutdown runs under open streams | the same |
| Starlette 1.10.0 | a client that leaves is a cancellation within 10 ms | the polling stops |
| FastAPI 0.165.0 | its own events: the one before an exception never arrives | a failure is an event, not raised |
| Chromium 156: `EventSource` | gives up for good after 204, 429, 500 or 503 | 204 says so; `chat.html` opens anew |
| | tries again after a cut; drops the event that was cut | its id resumes behind the last whole one |
| httpx-sse 0.4.3, aiosseclient 0.1.8 | take a comment alone for an empty event | a comment is no block of its own |

Who reaches your application spends your organisation's money: check who may start a conversation, and who may read
which.
"""

from __future__ import annotations

from nairi_async.web.error_responses import error_json, http_status
from nairi_async.web.event_stream import EventStream
from nairi_async.web.event_streams import EventStreams

__all__ = ["EventStream", "EventStreams", "error_json", "http_status"]
