#!/usr/bin/env bash
# uvicorn: with a limit on the graceful shutdown, the application is shut down while responses still run.
#
# Most expect: SIGTERM stops new requests, open responses end or are cancelled after `--timeout-graceful-shutdown`, and
#   then the lifespan's shutdown closes what they have used: the connection pool, the client, the files.
# What happens: once the time is over, the lifespan's shutdown begins first, and gets as far as its first wait before a
#   response hears of its cancellation; nothing waits for the responses' `finally` blocks. What they clean up with, a
#   database connection for example, may be closed already.
# Versions: uvicorn 0.54.0, starlette 1.10.0, Python 3.11 and newer.
# Source: seen by running; https://www.uvicorn.org/server-behavior/#graceful-process-shutdown
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet uvicorn==0.54.0 starlette==1.10.0
cat >"$folder/try.py" <<'PYTHON'
import asyncio
import contextlib

import uvicorn
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

happened = []


@contextlib.asynccontextmanager
async def lifespan(_):
    yield
    happened.append("the pool is closed")


async def numbers():
    try:
        while True:
            yield b"0"
            await asyncio.sleep(0.02)
    finally:
        happened.append("the response cleans up")


app = Starlette(routes=[Route("/", lambda _: StreamingResponse(numbers()))], lifespan=lifespan)


async def main():
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=1))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    server.should_exit = True  # what SIGTERM sets
    drained = asyncio.create_task(reader.read())
    await asyncio.gather(serving, drained, return_exceptions=True)
    writer.close()
    print(", then ".join(happened))
    assert happened == ["the pool is closed", "the response cleans up"], "it has changed"


asyncio.run(main())
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
