#!/usr/bin/env bash
# aiohttp's client: one call may be two requests, and then a client middleware runs twice within that call.
#
# Most expect: a client middleware wraps the request that the program made, so it runs once for each call: it is where
#   people count, log, time and add ids. A connection that the server closes without a response is an error.
# What happens: for GET, PUT and DELETE the client sends the request a second time by itself, over a new connection, and
#   enters the middlewares again: two starts, one call, nothing that says so. The first run of the middleware sees the
#   error, although the call succeeds. It happens on a brand-new connection as well, where no idle connection can be
#   to blame. A POST is sent once, and its error reaches the caller.
# Versions: aiohttp 3.14.5, Python 3.11 and newer.
# Source: seen by running; RFC 9110, section 9.2.2 says which methods may be repeated.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet aiohttp==3.14.5
cat >"$folder/try.py" <<'PYTHON'
import asyncio

import aiohttp


async def attempt(method):
    received, runs = [], []

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        received.append(method)
        if len(received) > 1:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()
        writer.close()

    async def count(request, handler):
        runs.append("started")
        try:
            response = await handler(request)
        except aiohttp.ClientError as error:
            runs.append(type(error).__name__)
            raise
        runs.append(response.status)
        return response

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, aiohttp.ClientSession(middlewares=[count]) as http:
        try:
            async with http.request(method, f"http://127.0.0.1:{port}/") as response:
                outcome = response.status
        except aiohttp.ClientError as error:
            outcome = type(error).__name__
    return outcome, len(received), runs


async def main():
    for method in ("GET", "PUT", "DELETE", "POST"):
        outcome, received, runs = await attempt(method)
        print(f"{method}: the caller got {outcome}, the server {received} request(s), the middleware saw {runs}")
        if method == "POST":
            assert (outcome, received) == ("ServerDisconnectedError", 1), "it has changed"
            assert runs == ["started", "ServerDisconnectedError"], "it has changed"
        else:
            assert (outcome, received) == (200, 2), "it has changed"
            assert runs == ["started", "ServerDisconnectedError", "started", 200], "it has changed"


asyncio.run(main())
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
