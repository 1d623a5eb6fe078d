"""A Slack bot: every thread is one conversation with the agent, begun by naming the bot or by a direct message."""

# Everyone in the workspace can talk to the bot, and each message spends your organisation's money.

import asyncio
import html
import os
from functools import partial
from typing import Any

import aiohttp
from slack_bolt.adapter.socket_mode.aiohttp import AsyncSocketModeHandler
from slack_bolt.app.async_app import AsyncApp
from slack_bolt.context.async_context import AsyncBoltContext
from slack_sdk.http_retry.builtin_async_handlers import AsyncRateLimitErrorRetryHandler
from slack_sdk.web.async_client import AsyncWebClient

from nairi_async import InvalidArgumentError, NairiError, NairiSession, SessionClosedError
from nairi_async.bots import AlreadyAskedError, ChatReply, Chats, File, LostPrompt, SQLiteStore, Store, visitor_message

# The only host that gets the bot's token: an event may name a file at any address.
FILES = "https://files.slack.com/"
MAX_FILE = 50 * 1024 * 1024


def escaped(text: str) -> str:
    """Escape what Slack would read as a mention of the channel, or as a link under another label."""
    return html.escape(text, quote=False)


def escaped_length(text: str) -> int:
    return len(escaped(text))


async def download(url: str, token: str | None) -> bytes:
    headers = {"Authorization": f"Bearer {token}"}
    content = bytearray()
    async with aiohttp.ClientSession(headers=headers) as http, http.get(url, allow_redirects=False) as response:
        if response.status != 200:
            raise InvalidArgumentError("A file could not be fetched from Slack.")
        async for chunk in response.content.iter_any():
            content += chunk
            if len(content) > MAX_FILE:
                raise InvalidArgumentError("A file is too large for the agent.")
    return bytes(content)


async def send(client: AsyncWebClient, chat: str, reply: ChatReply) -> None:
    channel, thread = chat.split()
    for piece in reply.pieces:
        await client.chat_postMessage(channel=channel, thread_ts=thread, markdown_text=escaped(piece))
    for file in await reply.attachments():
        await client.files_upload_v2(channel=channel, thread_ts=thread, content=file.data, filename=file.filename)


async def send_lost(client: AsyncWebClient, chat: str, lost: LostPrompt) -> None:
    channel, thread = chat.split()
    advice = "The agent may have received it all the same." if lost.may_have_run else "Please send it again."
    text = escaped(f"There is no reply to “{lost.text:.100}”. {advice}")
    await client.chat_postMessage(channel=channel, thread_ts=thread, text=text)


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
            return File(file["name"], partial(download, file["url_private"], client.token))

        prompt = event.get("text", "").replace(f"<@{context.bot_user_id}>", "").strip()
        shared = event.get("files", ())
        files = [file for file in shared if file.get("url_private", "").startswith(FILES)]
        try:
            async with chats.turn(
                f"{channel} {thread}",
                prompt or "See the attached files.",
                key=event["ts"],
                attachments=map(fetch, files),
                typing=typing,
            ) as reply:
                await send(client, f"{channel} {thread}", reply)
                if len(files) < len(shared):
                    note = "Only files that are uploaded to Slack reach the agent: others were left out."
                    await client.chat_postMessage(channel=channel, thread_ts=thread, text=note)
        except (AlreadyAskedError, SessionClosedError):
            pass  # Slack delivered the event twice; or the bot is stopping, and the next process replies.
        except NairiError as error:
            text = f"That did not work. {escaped(visitor_message(error))}"
            await client.chat_postMessage(channel=channel, thread_ts=thread, text=text)


async def run(nairi: NairiSession, store: Store) -> None:
    app = AsyncApp(token=os.environ["SLACK_BOT_TOKEN"])
    # In place of the default, which posts a message again when the response is lost: the text would appear twice.
    app.client.retry_handlers[:] = [AsyncRateLimitErrorRetryHandler(max_retry_count=5)]
    chats = Chats(nairi, "my-agent", store=store, limit=12_000, length=escaped_length, typing_every=60)
    register(app, chats)
    socket = AsyncSocketModeHandler(app, os.environ["SLACK_APP_TOKEN"])
    try:
        # What another process left unanswered: one before this one, or one of several.
        async with chats.recovering(partial(send, app.client), partial(send_lost, app.client)):
            await socket.start_async()  # type: ignore[no-untyped-call]  # Bolt leaves these two untyped.
    finally:
        await socket.close_async()  # type: ignore[no-untyped-call]


async def main() -> None:
    async with NairiSession() as nairi, SQLiteStore("slack.sqlite") as store:
        await run(nairi, store)


if __name__ == "__main__":
    asyncio.run(main())
