"""A Telegram bot: every chat, and every topic of a group, is one conversation with the agent."""

import asyncio
import os

from aiogram import Bot, Dispatcher, F
from aiogram.filters import Command
from aiogram.types import BufferedInputFile, Message
from aiogram.utils.chat_action import ChatActionSender

from nairi_async import NairiError, NairiSession
from nairi_async.bots import AlreadyAskedError, Chats, File, SQLiteStore, utf16_length


def chat_of(message: Message) -> str:
    return f"{message.chat.id} {message.message_thread_id or ''}"


async def begin_anew(message: Message, chats: Chats) -> None:
    await chats.forget(chat_of(message))
    await message.answer("Let us begin anew.")


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
            for piece in reply.pieces:
                await message.answer(piece)
            for file in await reply.attachments():
                await message.answer_document(BufferedInputFile(file.data, file.filename))
    except AlreadyAskedError:
        pass  # Telegram delivered the message twice.
    except NairiError as error:
        await message.reply(f"That did not work: {error}")


def dispatcher(chats: Chats) -> Dispatcher:
    routes = Dispatcher(chats=chats)
    routes.message.register(begin_anew, Command("new"))
    routes.message.register(talk, F.text | F.document)
    return routes


async def main() -> None:
    async with NairiSession() as nairi, SQLiteStore("telegram.sqlite") as store:
        chats = Chats(nairi, "my-agent", store=store, limit=4096, length=utf16_length)
        await dispatcher(chats).start_polling(Bot(os.environ["TELEGRAM_TOKEN"]))


if __name__ == "__main__":
    asyncio.run(main())
