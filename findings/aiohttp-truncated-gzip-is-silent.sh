#!/usr/bin/env bash
# aiohttp's client: a gzip body that ends early inside correct HTTP framing is a short body, and no error.
#
# Most expect: gzip carries a checksum and a length at its end, so a decompressing client notices that they are missing,
#   and raises. For `deflate` aiohttp does.
# What happens: `await response.read()` returns the beginning of the text. Content-Length matches what came (a proxy that
#   lost its upstream may produce that), so nothing else notices either. Only a format with an end of its own, such as
#   JSON, tells.
# Versions: aiohttp 3.14.5, Python 3.11 and newer.
# Source: seen by running; RFC 1952, section 2.3.1 describes the trailer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet aiohttp==3.14.5
cat >"$folder/try.py" <<'PYTHON'
import asyncio
import gzip
import zlib

import aiohttp

TEXT = b"".join(b"line %d\n" % number for number in range(2000))
BODIES = {"gzip": gzip.compress(TEXT), "deflate": zlib.compress(TEXT)}


async def read(encoding):
    short = BODIES[encoding][:-200]

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(short)}\r\n\r\n"
        writer.write(head.encode() + short)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, aiohttp.ClientSession() as http:
        try:
            async with http.get(f"http://127.0.0.1:{port}/") as response:
                body = await response.read()
        except aiohttp.ClientError as error:
            return f"refused with {type(error).__name__}"
    return "short" if body != TEXT and TEXT.startswith(body) else "whole"


async def main():
    seen = {encoding: await read(encoding) for encoding in BODIES}
    print("a body without its last 200 bytes is:", seen)
    assert seen == {"gzip": "short", "deflate": "refused with ClientResponseError"}, "it has changed"


asyncio.run(main())
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
