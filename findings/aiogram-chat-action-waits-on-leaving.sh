#!/usr/bin/env bash
# aiogram: leaving `ChatActionSender` waits for the action that is in flight, and a timeout around it waits as well.
#
# Most expect: the sender is a task in the background; when the body has ended, or a timeout has struck, the task is
#   cancelled and the handler goes on. A slow "typing" costs nothing.
# What happens: leaving lets the request end and waits for it. If Telegram takes two seconds to take the "typing…", a body
#   of no time at all takes two seconds, and so does a timeout of a tenth of a second around it.
# Versions: aiogram 3.31.0, Python 3.11 to 3.14.
# Source: seen by running; https://docs.aiogram.dev/en/latest/utils/chat_action.html
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet aiogram==3.31.0
cat >"$folder/try.py" <<'PYTHON'
import asyncio
import time

from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.utils.chat_action import ChatActionSender
from aiohttp import web

SLOW = 2.0


async def typing(_):
    await asyncio.sleep(SLOW)
    return web.json_response({"ok": True, "result": True})


async def seconds(bot, limit):
    before = time.monotonic()
    try:
        async with asyncio.timeout(limit), ChatActionSender.typing(1, bot):
            await asyncio.sleep(0.05 if limit is None else 60)
    except TimeoutError:
        pass
    return time.monotonic() - before


async def main():
    app = web.Application()
    app.router.add_post("/{path:.*}", typing)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server = TelegramAPIServer.from_base(f"http://127.0.0.1:{runner.addresses[0][1]}")
    async with Bot("1:token", session=AiohttpSession(api=server)) as bot:
        body, limited = await seconds(bot, None), await seconds(bot, 0.1)
    await runner.cleanup()
    print(f"an action of {SLOW} s: a body of 0.05 s took {body:.1f} s, one limited to 0.1 s took {limited:.1f} s")
    assert body > SLOW - 0.2, "it has changed"
    assert limited > SLOW - 0.2, "it has changed"


asyncio.run(main())
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
