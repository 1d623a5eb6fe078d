#!/usr/bin/env bash
# aiohttp's client: an error with `status` 400, although the server's response said 200.
#
# Most expect: `ClientResponseError.status` is the status that the server sent, so a 4xx means "the request was at fault, do
#   not repeat it", and a response that the client cannot read is another kind of error.
# What happens: what the parser refuses in a response is a `ClientResponseError` (or a class below it) whose status is 400,
#   although "200 OK" arrived: a header of 9,000 bytes, or a content coding whose package is missing. A retry by status, a
#   metric by status, and an alert on 4xx all blame the request, and the server's log shows only successes.
# Versions: aiohttp 3.14.5 without Brotli, Python 3.11 and newer.
# Source: seen by running; https://docs.aiohttp.org/en/stable/client_reference.html#aiohttp.ClientResponseError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet aiohttp==3.14.5
cat >"$folder/try.py" <<'PYTHON'
import asyncio

import aiohttp

# An empty stream of Brotli is the one byte 0x3B.
RESPONSES = {
    "a long header": b"HTTP/1.1 200 OK\r\nX-Note: " + b"x" * 9000 + b"\r\nContent-Length: 0\r\n\r\n",
    "Brotli": b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 1\r\n\r\n\x3b",
    "a plain response": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
}


async def status(response):
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, aiohttp.ClientSession(headers={"Accept-Encoding": "br"}) as http:
        try:
            async with http.get(f"http://127.0.0.1:{port}/") as received:
                await received.read()
                return received.status
        except aiohttp.ClientResponseError as error:
            return f"error {error.status}"


async def main():
    seen = {name: await status(response) for name, response in RESPONSES.items()}
    print("the server sent 200 each time, the client saw:", seen)
    assert seen == {"a long header": "error 400", "Brotli": "error 400", "a plain response": 200}, "it has changed"


asyncio.run(main())
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
