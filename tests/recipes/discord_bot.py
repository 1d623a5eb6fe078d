"""A Discord bot: every channel, thread and direct chat is one conversation with the agent."""

import asyncio
import io
import os

import discord

from nairi_async import NairiError, NairiSession
from nairi_async.bots import AlreadyAskedError, Chats, File, SQLiteStore


class AgentBot(discord.Client):
    def __init__(self, chats: Chats) -> None:
        intents = discord.Intents(guilds=True, messages=True, message_content=True)
        # What an agent writes rings nobody's bell, not even as @everyone.
        super().__init__(intents=intents, allowed_mentions=discord.AllowedMentions.none())
        self.chats = chats

    async def on_message(self, message: discord.Message) -> None:
        assert self.user
        if message.author.bot or not (message.guild is None or self.user in message.mentions):
            return
        try:
            async with self.chats.turn(
                message.channel.id,
                message.content.replace(self.user.mention, "").strip() or "See the attached files.",
                key=message.id,
                attachments=[File(file.filename, file.read) for file in message.attachments],
                typing=message.channel.typing(),
            ) as reply:
                for piece in reply.pieces:
                    await message.channel.send(piece)
                for file in await reply.attachments():
                    await message.channel.send(file=discord.File(io.BytesIO(file.data), file.filename))
        except AlreadyAskedError:
            pass  # Discord delivered the message twice.
        except NairiError as error:
            await message.reply(f"That did not work: {error}")


async def main() -> None:
    async with (
        NairiSession() as nairi,
        SQLiteStore("discord.sqlite") as store,
        AgentBot(Chats(nairi, "my-agent", store=store, limit=2000)) as bot,
    ):
        await bot.start(os.environ["DISCORD_TOKEN"])


if __name__ == "__main__":
    asyncio.run(main())
