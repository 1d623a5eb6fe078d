"""A Discord bot: every channel, thread and direct chat is one conversation with the agent."""

# Everyone who shares a server with the bot can talk to it, and each message spends your organisation's money.

import asyncio
import io
import os
import secrets

import discord

from nairi_async import NairiError, NairiSession, SessionClosedError
from nairi_async.bots import AlreadyAskedError, ChatReply, Chats, File, LostPrompt, SQLiteStore, visitor_message


class AgentBot(discord.Client):
    def __init__(self, chats: Chats) -> None:
        intents = discord.Intents(guilds=True, messages=True, message_content=True)
        # What an agent writes notifies no one, not even as @everyone.
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
                await self.send(message.channel.id, reply)
        except (AlreadyAskedError, SessionClosedError):
            pass  # Discord delivered the message twice; or the bot is stopping, and the next process replies.
        except NairiError as error:
            await message.reply(f"That did not work. {visitor_message(error)}")

    async def send(self, chat: str | int, reply: ChatReply) -> None:
        channel = self.get_partial_messageable(int(chat))
        # discord.py sends again after a 500, 502 or 504; by the nonce Discord recognises a message that it has.
        for piece in reply.pieces:
            await channel.send(piece, nonce=secrets.token_hex(8))
        for file in await reply.attachments():
            await channel.send(file=discord.File(io.BytesIO(file.data), file.filename), nonce=secrets.token_hex(8))

    async def send_lost(self, chat: str | int, lost: LostPrompt) -> None:
        advice = "The agent may have received it all the same." if lost.may_have_run else "Please send it again."
        await self.get_partial_messageable(int(chat)).send(f"There is no reply to “{lost.text:.100}”. {advice}")


async def main() -> None:
    async with NairiSession() as nairi, SQLiteStore("discord.sqlite") as store:
        chats = Chats(nairi, "my-agent", store=store, limit=2000)
        async with AgentBot(chats) as bot:
            await bot.login(os.environ["DISCORD_TOKEN"])
            async with chats.recovering(bot.send, bot.send_lost):  # what a process before this one left unanswered
                await bot.connect()


if __name__ == "__main__":
    asyncio.run(main())
