"""A Slack bot: every thread is one conversation with the agent, begun by naming the bot or by a direct message."""

import asyncio
import os
from functools import partial
from typing import Any

import aiohttp
from slack_bolt.adapter.socket_mode.aiohttp import AsyncSocketModeHandler
from slack_bolt.app.async_app import AsyncApp
from slack_bolt.context.async_context import AsyncBoltContext
from slack_sdk.http_retry.builtin_async_handlers import AsyncRateLimitErrorRetryHandler
from slack_sdk.web.async_client import AsyncWebClient

from nairi_async import NairiError, NairiSession, SessionClosedError
from nairi_async.bots import AlreadyAskedError, ChatReply, Chats, File, SQLiteStore


async def download(url: str, token: str | None) -> bytes:
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers) as http, http.get(url) as answer:
        answer.raise_for_status()
        return await answer.read()


async def send(client: AsyncWebClient, chat: str, reply: ChatReply) -> None:
    channel, thread = chat.split()
    for piece in reply.pieces:
        await client.chat_postMessage(channel=channel, thread_ts=thread, markdown_text=piece)
    for file in await reply.attachments():
        await client.files_upload_v2(channel=channel, thread_ts=thread, content=file.data, filename=file.filename)


def register(app: AsyncApp, chats: Chats) -> None:
    @app.event("app_mention")
    @app.event("message")
    async def talk(event: dict[str, Any], client: AsyncWebClient, context: AsyncBoltContext) -> None:
        is_direct = event.get("channel_type") == "im"
        if event.get("bot_id") or event.get("subtype", "file_share") != "file_share":
            return
        if event["type"] == "message" and not is_direct:
            return  # In channels only what names the bot, which comes as an app_mention as well.
        channel, thread = event["channel"], event.get("thread_ts", event["ts"])

        async def typing() -> None:
            await client.assistant_threads_setStatus(channel_id=channel, thread_ts=thread, status="is thinking…")

        def fetch(file: dict[str, Any]) -> File:
            return File(file["name"], lambda: download(file["url_private"], client.token))

        prompt = event.get("text", "").replace(f"<@{context.bot_user_id}>", "").strip()
        try:
            async with chats.turn(
                f"{channel} {thread}",
                prompt or "See the attached files.",
                key=event["ts"],
                attachments=[fetch(file) for file in event.get("files", ())],
                typing=typing,
            ) as reply:
                await send(client, f"{channel} {thread}", reply)
        except (AlreadyAskedError, SessionClosedError):
            pass  # Slack delivered the event twice; or the bot is stopping, and the next process answers.
        except NairiError as error:
            await client.chat_postMessage(channel=channel, thread_ts=thread, text=f"That did not work: {error}")


async def main() -> None:
    app = AsyncApp(token=os.environ["SLACK_BOT_TOKEN"])
    app.client.retry_handlers.append(AsyncRateLimitErrorRetryHandler(max_retry_count=5))
    async with NairiSession() as nairi, SQLiteStore("slack.sqlite") as store:
        chats = Chats(nairi, "my-agent", store=store, limit=12_000, typing_every=60)
        register(app, chats)
        socket = AsyncSocketModeHandler(app, os.environ["SLACK_APP_TOKEN"])
        try:
            async with chats.recovering(partial(send, app.client)):  # what a process before this one left unanswered
                await socket.start_async()  # type: ignore[no-untyped-call]  # Bolt leaves these two untyped.
        finally:
            await socket.close_async()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    asyncio.run(main())
