#!/usr/bin/env bash
# slack_sdk: a new AsyncWebClient posts a message again when the response to it was lost, so the text stands there twice.
#
# Most expect: `chat.postMessage` is sent once; if the connection breaks before the response, the call raises, and the
#   program decides. Slack documents no key that would make a second post harmless.
# What happens: the default list of retry handlers holds one for connection errors, which repeats every call, posts
#   included. Appending a handler of one's own keeps it; only `retry_handlers=[…]` replaces it.
# Versions: slack_sdk 3.48.0, aiohttp 3.14.5.
# Source: `slack_sdk/http_retry/builtin_async_handlers.py` (`async_default_handlers`); seen by running.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet slack-sdk==3.48.0 aiohttp==3.14.5
cat >"$folder/try.py" <<'PYTHON'
import asyncio

from aiohttp import web
from slack_sdk.web.async_client import AsyncWebClient


async def posts(**options):
    """How often a platform gets a message, if it takes the first and the connection breaks before its response."""
    taken = []

    async def post(request):
        taken.append(await request.read())
        if len(taken) == 1:
            request.transport.close()
        return web.json_response({"ok": True, "ts": "1.0", "channel": "C1"})

    app = web.Application()
    app.router.add_post("/chat.postMessage", post)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    client = AsyncWebClient(token="xoxb-none", base_url=f"http://127.0.0.1:{runner.addresses[0][1]}/", **options)
    try:
        await client.chat_postMessage(channel="C1", text="Your refund is on its way.")
        ended = "returned as if posted once"
    except Exception as error:
        ended = f"raised {type(error).__name__}"
    await runner.cleanup()
    return len(taken), ended


async def main():
    default, replaced = await posts(), await posts(retry_handlers=[])
    print(f"default handlers: posted {default[0]} times, the call {default[1]}")
    print(f"retry_handlers=[]: posted {replaced[0]} times, the call {replaced[1]}")
    assert default[0] == 2 and default[1].startswith("returned"), "it has changed"
    assert replaced[0] == 1 and replaced[1].startswith("raised"), "it has changed"


asyncio.run(main())
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
