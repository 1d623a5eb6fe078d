"""A Telegram bot: every chat, and every topic of a group, is one conversation with the agent."""

# Anyone on Telegram can write to a bot, and each message spends your organisation's money: it serves the users whom
# TELEGRAM_USERS names, by their ids.

import asyncio
import os
from functools import partial
from typing import Any

from aiogram import Bot, Dispatcher
from aiogram.client.session.middlewares.base import NextRequestMiddlewareType
from aiogram.exceptions import TelegramRetryAfter
from aiogram.filters import Command
from aiogram.methods import SendChatAction
from aiogram.methods.base import Response, TelegramMethod, TelegramType
from aiogram.types import BufferedInputFile, Message
from aiogram.utils.chat_action import ChatActionSender

from nairi_async import NairiError, NairiSession, SessionClosedError
from nairi_async.bots import (
    AlreadyAskedError,
    ChatReply,
    Chats,
    File,
    LostPrompt,
    SQLiteStore,
    utf16_length,
    visitor_message,
)


def chat_of(message: Message) -> str:
    return f"{message.chat.id} {message.message_thread_id or ''}"


async def send(bot: Bot, chat: str, reply: ChatReply) -> None:
    number, _, topic = chat.partition(" ")
    where: dict[str, Any] = {"chat_id": int(number), "message_thread_id": int(topic) if topic else None}
    for piece in reply.pieces:
        await bot.send_message(text=piece, **where)
    for file in await reply.attachments():
        await bot.send_document(document=BufferedInputFile(file.data, file.filename), **where)


async def send_lost(bot: Bot, chat: str, lost: LostPrompt) -> None:
    number, _, topic = chat.partition(" ")
    advice = "The agent may have received it all the same." if lost.may_have_run else "Please send it again."
    text = f"There is no reply to “{lost.text:.100}”. {advice}"
    await bot.send_message(int(number), text, message_thread_id=int(topic) if topic else None)


async def wait_for_limits(
    make_request: NextRequestMiddlewareType[TelegramType], bot: Bot, method: TelegramMethod[TelegramType]
) -> Response[TelegramType]:
    while True:
        try:
            return await make_request(bot, method)
        except TelegramRetryAfter as limit:
            if isinstance(method, SendChatAction):
                raise  # A typing indicator that comes late is worth nothing.
            await asyncio.sleep(limit.retry_after)


async def start_over(message: Message, chats: Chats) -> None:
    await chats.forget(chat_of(message))
    await message.answer("Let us start over.")


async def talk(message: Message, bot: Bot, chats: Chats) -> None:
    files = []
    if document := message.document:

        async def download() -> bytes:
            fetched = await bot.download(document)
            return fetched.read() if fetched else b""

        files.append(File(document.file_name or "file", download))
    try:
        async with chats.turn(
            chat_of(message),
            message.text or message.caption or "See the attached file.",
            key=message.message_id,
            attachments=files,
            typing=ChatActionSender.typing(message.chat.id, bot, message.message_thread_id),
        ) as reply:
            await send(bot, chat_of(message), reply)
    except (AlreadyAskedError, SessionClosedError):
        pass  # Telegram delivered the message twice; or the bot is stopping, and the next process replies.
    except NairiError as error:
        await message.reply(f"That did not work. {visitor_message(error)}")


def dispatcher(chats: Chats, users: set[int]) -> Dispatcher:
    # Filters that are no coroutines, such as aiogram's `F.text`, run in threads: messages would overtake each other.
    async def is_user(message: Message) -> bool:
        return message.from_user is not None and message.from_user.id in users

    async def is_prompt(message: Message) -> bool:
        return message.text is not None or message.document is not None

    routes = Dispatcher(chats=chats)
    routes.message.filter(is_user)
    routes.message.register(start_over, Command("new"))
    routes.message.register(talk, is_prompt)
    return routes


async def main() -> None:
    users = {int(user) for user in os.environ["TELEGRAM_USERS"].split()}
    async with NairiSession() as nairi, SQLiteStore("telegram.sqlite") as store:
        chats = Chats(nairi, "my-agent", store=store, limit=4096, length=utf16_length)
        bot = Bot(os.environ["TELEGRAM_TOKEN"])
        bot.session.middleware(wait_for_limits)
        # What a process before this one left unanswered.
        async with chats.recovering(partial(send, bot), partial(send_lost, bot)):
            await dispatcher(chats, users).start_polling(bot)


if __name__ == "__main__":
    asyncio.run(main())
