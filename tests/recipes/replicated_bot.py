"""A Slack bot in replicas: start it as often as you like, on any machines, over one PostgreSQL database."""

# Slack gives each event to one of the connected processes, and again to any of them if it was not confirmed. A chat is
# answered by one process at a time, and a message once: its `ts` is the key, which all of them see.
#
# To deploy, start the new process, then stop the old one. The new one replies to what the old one could not.

import asyncio
import os

from slack_bot import run

from nairi_async import NairiSession
from nairi_async.cluster import PostgresStore


async def main() -> None:
    async with NairiSession() as nairi, PostgresStore(os.environ["DATABASE"]) as store:
        await run(nairi, store)


if __name__ == "__main__":
    asyncio.run(main())
