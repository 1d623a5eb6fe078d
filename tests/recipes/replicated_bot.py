"""A Slack bot in replicas: start it as often as you like, on any machines, over one PostgreSQL database."""

# Slack gives each event to one of the connected processes, and again to any of them if it was not confirmed. A chat is
# answered by one process at a time, and a message once: its `ts` is the key, which all of them see.
#
# To deploy, start the new process, then stop the old one. The new one replies to what the old one could not.

import asyncio
import os
from functools import partial

from slack_bolt.adapter.socket_mode.aiohttp import AsyncSocketModeHandler
from slack_bolt.app.async_app import AsyncApp
from slack_bot import escaped_length, register, send, send_lost
from slack_sdk.http_retry.builtin_async_handlers import AsyncRateLimitErrorRetryHandler

from nairi_async import NairiSession
from nairi_async.bots import Chats
from nairi_async.cluster import PostgresStore


async def main() -> None:
    app = AsyncApp(token=os.environ["SLACK_BOT_TOKEN"])
    app.client.retry_handlers[:] = [AsyncRateLimitErrorRetryHandler(max_retry_count=5)]
    async with NairiSession() as nairi, PostgresStore(os.environ["DATABASE"]) as store:
        chats = Chats(nairi, "my-agent", store=store, limit=12_000, length=escaped_length, typing_every=60)
        register(app, chats)
        socket = AsyncSocketModeHandler(app, os.environ["SLACK_APP_TOKEN"])
        try:
            # What another process leaves unanswered, as soon as it lets go of it.
            async with chats.recovering(partial(send, app.client), partial(send_lost, app.client)):
                await socket.start_async()  # type: ignore[no-untyped-call]  # Bolt leaves these two untyped.
        finally:
            await socket.close_async()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    asyncio.run(main())
