"""A bot's process is killed with SIGKILL, and the next one takes over: no prompt twice, no reply lost."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections import Counter
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING

import pytest
from forking import PIPE, Forked, fork

from nairi_async import NairiSession
from nairi_async.bots import AlreadyAskedError, ChatReply, Chats, LostPrompt, SQLiteStore, StoreError
from nairi_async.testing import Quirks, Say, Simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aiohttp import web

pytestmark = pytest.mark.anyio

CHATS = 8
# Each chat asks two prompts at once: the second waits behind the first.
PROGRAM = f"""
import asyncio, sys
from nairi_async import NairiSession
from nairi_async.bots import Chats, SQLiteStore

async def main():
    async with NairiSession() as nairi, SQLiteStore(sys.argv[1]) as store:
        chats = Chats(nairi, "my-agent", store=store)
        async def talk(chat, number):
            files = [b"1"] if "-files" in sys.argv else []
            async with chats.turn(chat, f"{{number}}", key=f"{{chat}}-{{number}}", attachments=files):
                print("reply", flush=True)
                await asyncio.sleep(60)
        await asyncio.gather(*(talk(chat, n) for chat in range({CHATS}) for n in range(2)))

asyncio.run(main())
"""


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """In real time: the bot runs in another process. The service refuses two turns of a conversation at once."""
    async with Simulator(quirks=Quirks(overlapping="refuse")) as running:
        yield running.agent("my-agent", lambda prompt, turn: [Say(f"{turn}: {prompt}", after=0.3)])


@asynccontextmanager
async def bot(simulator: Simulator, path: Path, *options: str) -> AsyncIterator[Forked]:
    """Run the program during the block, then kill it."""
    environment = {**os.environ, **simulator.environment}
    process = await fork("-c", PROGRAM, str(path), *options, env=environment, stdout=PIPE)
    try:
        yield process
    finally:
        process.kill()
        await process.communicate()


async def until_accepted(simulator: Simulator, path: Path) -> None:
    """Wait until the first prompt of each chat has arrived, and the second is in the store."""
    waiting = """SELECT count(*) FROM chats WHERE record LIKE '%"waiting": [{%'"""
    async with asyncio.timeout(120):
        while True:
            await asyncio.sleep(0.01)
            if len(simulator.prompts) == CHATS:
                with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as store:
                    if store.execute(waiting).fetchone() == (CHATS,):
                        return


class Recovered:
    """What the next process hands over and reports."""

    def __init__(self) -> None:
        self.replies: Counter[tuple[str, str]] = Counter()
        self.lost: list[tuple[str, str, bool]] = []

    async def deliver(self, chat: str, reply: ChatReply) -> None:
        self.replies[chat, reply.text] += 1

    async def on_lost(self, chat: str, prompt: LostPrompt) -> None:
        self.lost.append((chat, prompt.text, prompt.may_have_run))


async def hold_start(request: web.Request, response: web.StreamResponse) -> web.StreamResponse | None:
    """Keep back the response to a first prompt."""
    if request.path.endswith("/start"):
        await asyncio.sleep(3600)
    return None


@pytest.mark.parametrize("options", [(), ("-files",)], ids=["texts", "files"])
@pytest.mark.parametrize("killed", ["before the response", "during the turn", "while sending"])
async def test_the_next_process_takes_over(
    simulator: Simulator, tmp_path: Path, killed: str, options: tuple[str, ...]
) -> None:
    """Eight chats, each with a prompt that runs and one that waits: sixteen replies in eight dialogues, each once.

    All chats have asked the same, so nothing but their number tells their conversations apart. Files of a prompt that
    waited die with the process: such a prompt is reported, and may be sent again.
    """
    path = tmp_path / "bot.sqlite"
    if killed == "before the response":
        simulator.intercept_response = hold_start
    async with bot(simulator, path, *options) as process:
        await until_accepted(simulator, path)
        with pytest.raises(StoreError, match="another process uses it"):
            await SQLiteStore(path, lock_timeout=0).__aenter__()
        if killed == "while sending":
            assert process.stdout is not None
            for _ in range(CHATS):
                await process.stdout.readline()
    simulator.intercept_response = None
    recovered = Recovered()
    numbers = ("0",) if options else ("0", "1")
    async with (
        NairiSession(simulator.api_key, base_url=simulator.url) as nairi,
        SQLiteStore(path) as store,
    ):
        chats = Chats(nairi, "my-agent", store=store)
        async with chats.recovering(recovered.deliver, recovered.on_lost):
            for chat in range(CHATS):
                with pytest.raises(AlreadyAskedError):
                    await chats.ask(chat, "0", key=f"{chat}-0")
            more = await asyncio.gather(*(chats.ask(chat, "more", key=f"{chat}-2") for chat in range(CHATS)))
        assert sorted(recovered.lost) == [(str(chat), "1", False) for chat in range(CHATS) if options]
        assert recovered.replies == {(str(chat), f"{int(n) + 1}: {n}"): 1 for chat in range(CHATS) for n in numbers}
        assert {reply.text for reply in more} == {f"{len(numbers) + 1}: more"}
        assert await store.open_names() == []
    by_job: dict[str, list[str]] = {}
    for asked in simulator.prompts:
        by_job.setdefault(asked.job_id, []).append(asked.prompt)
    assert list(by_job.values()) == [[*numbers, "more"]] * CHATS
