"""A bot's chats: one dialogue each, in order, over restarts, and no prompt twice."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from nairi_async import (
    AgentNotFoundError,
    ConfigurationError,
    InvalidArgumentError,
    NairiSession,
    OutcomeUnknownError,
    TurnFailedError,
    WatchTimeoutError,
)
from nairi_async.bots import AlreadyAskedError, Chats, File, MemoryStore, Record, SQLiteStore, StoreError
from nairi_async.testing import Done, Fail, Quirks, Say, Simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aiohttp import web

    from nairi_async.checks import Duration
    from nairi_async.testing import VirtualClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def echo(simulator: Simulator) -> Simulator:
    """An agent that needs five seconds, in a service that refuses a prompt while another turn runs."""
    simulator.quirks = Quirks(overlapping="refuse")
    return simulator.agent("my-agent", lambda prompt, number: [Say(f"{number}: {prompt}", after=5)])


@pytest.fixture
def chats(nairi: NairiSession, clock: VirtualClock) -> Chats:
    return Chats(nairi, "my-agent", clock=clock)


async def test_a_chat_is_one_dialogue_in_order_and_chats_run_at_once(
    chats: Chats, echo: Simulator, clock: VirtualClock
) -> None:
    """Three prompts of each of four chats: in the order of the calls in one dialogue, and no longer than one chat."""
    calls = [chats.ask(chat, f"{chat}.{number}") for number in range(3) for chat in range(4)]
    replies = await asyncio.gather(*calls)
    assert [reply.text for reply in replies] == [
        f"{number + 1}: {chat}.{number}" for number in range(3) for chat in range(4)
    ]
    assert len({asked.job_id for asked in echo.prompts}) == 4
    assert clock.monotonic() < 30
    assert {await chats.dialogue_id(chat) for chat in range(4)} == {asked.job_id for asked in echo.prompts}
    assert chats._lines == {}


async def test_a_long_reply_comes_in_pieces(nairi: NairiSession, simulator: Simulator, clock: VirtualClock) -> None:
    """The pieces are within the platform's limit; an agent that says nothing gives none."""
    simulator.agent("my-agent", lambda prompt, _: [Done()] if prompt == "quiet" else ["word " * 30])
    chats = Chats(nairi, "my-agent", limit=40, clock=clock)
    reply = await chats.ask("c", "talk")
    assert [len(piece) <= 40 for piece in reply.pieces] == [True] * 4
    assert " ".join(reply.pieces) == reply.text.strip()
    assert (await chats.ask("c", "quiet")).pieces == ()


async def test_files_go_both_ways(chats: Chats, simulator: Simulator) -> None:
    """A download of the platform is fetched when its prompt's turn has come; the agent's files come with the reply."""
    made = simulator.attachment("chart.png", b"\x89PNG")
    simulator.agent("my-agent", [Say("Here.", attachment_ids=[made])])
    fetched: list[str] = []

    async def download() -> bytes:
        fetched.append("table.csv")
        return b"a,b\n1,2\n"

    file = File("table.csv", download)
    assert fetched == []
    reply = await chats.ask("c", "Draw this.", attachments=[file, File("note.txt", b"soon")])
    assert fetched == ["table.csv"]
    sent = [simulator._world.find_file(file) for file in simulator.prompts[0].attachment_ids]
    assert [(file.filename, file.data) for file in sent] == [("table.csv", b"a,b\n1,2\n"), ("note.txt", b"soon")]
    assert [(file.filename, file.data) for file in await reply.attachments()] == [("chart.png", b"\x89PNG")]


@pytest.mark.parametrize("content", [None, 5, "text"])
async def test_a_file_that_is_none_is_refused(content: bytes) -> None:
    """A file has a name, and bytes or a function that gets them."""
    with pytest.raises(InvalidArgumentError):
        File("a.txt", content)
    with pytest.raises(InvalidArgumentError):
        File("", b"")

    async def text() -> bytes:
        return "no bytes"  # type: ignore[return-value]

    with pytest.raises(InvalidArgumentError, match="gave str"):
        await File("a.txt", text).read()


async def test_typing_is_shown_again_until_the_end(chats: Chats, echo: Simulator, clock: VirtualClock) -> None:
    """A function is awaited at once and every four seconds while the turn runs, and not after it."""
    moments: list[float] = []

    async def typing() -> None:
        moments.append(clock.monotonic())

    await chats.ask("c", "a", typing=typing)
    assert [round(later - earlier) for earlier, later in pairwise(moments)] == [4] * (len(moments) - 1)
    assert len(moments) >= 2
    count = len(moments)
    await clock.sleep(60)
    assert len(moments) == count


async def test_typing_may_be_a_context_manager(chats: Chats, echo: Simulator) -> None:
    """The platform's own is entered, and left when the turn has ended, whatever came of it."""
    told: list[str] = []

    @asynccontextmanager
    async def typing() -> AsyncIterator[None]:
        told.append("begin")
        try:
            yield
        finally:
            told.append(f"end after {len(echo.prompts)}")

    await chats.ask("c", "a", typing=typing())
    echo.agent("my-agent", [Fail("no")])
    with pytest.raises(TurnFailedError):
        await chats.ask("c", "b", typing=typing())
    assert told == ["begin", "end after 1", "begin", "end after 2"]


@pytest.mark.parametrize("where", ["call", "enter", "exit"])
async def test_a_failing_indicator_costs_no_reply(
    chats: Chats, echo: Simulator, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    """What a platform raises over its indicator is logged, and the turn goes on."""

    class Broken:
        async def __aenter__(self) -> None:
            if where == "enter":
                raise RuntimeError("no rights")

        async def __aexit__(self, *of: object) -> None:
            raise RuntimeError("no rights")

    async def broken() -> None:
        raise RuntimeError("no rights")

    reply = await chats.ask("c", "a", typing=broken if where == "call" else Broken())
    assert reply.text == "1: a"
    assert [record.message for record in caplog.records] == ["the typing indicator failed: RuntimeError('no rights')"]


async def test_a_cancelled_prompt_ends_its_indicator(chats: Chats, echo: Simulator) -> None:
    """No task outlives the call."""

    async def typing() -> None:
        shown.set()

    shown = asyncio.Event()
    before = asyncio.all_tasks()
    call = asyncio.create_task(chats.ask("c", "a", typing=typing))
    await shown.wait()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert {
        task for task in asyncio.all_tasks() - before if "chats" in repr(task) or "_repeated" in repr(task)
    } == set()


async def test_a_restart_goes_on_in_the_dialogue(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock, tmp_path: Path
) -> None:
    """The mapping outlives the process; chats, and agents, do not mix."""
    for number in range(3):
        async with SQLiteStore(tmp_path / "bot.sqlite") as store:
            chats = Chats(nairi, "my-agent", store=store, clock=clock)
            assert (await chats.ask(7, "a")).text == f"{number + 1}: a"
            assert (await chats.ask("other", "a")).text == f"{number + 1}: a"
            other = Chats(nairi, "other-agent", store=store, clock=clock)
            assert (await other.dialogue_id(7) is None) == (number == 0)
            await other.ask(7, "a")
    assert len({asked.job_id for asked in echo.prompts}) == 3


async def test_a_prompt_that_comes_again_is_not_run_again(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock
) -> None:
    """A key is taken on once, also by the process after this one; prompts without a key are never the same."""
    store = MemoryStore()
    await Chats(nairi, "my-agent", store=store, clock=clock).ask("c", "a", key=1)
    with pytest.raises(AlreadyAskedError):
        await Chats(nairi, "my-agent", store=store, clock=clock).ask("c", "a", key="1")
    await Chats(nairi, "my-agent", store=store, clock=clock).ask("other", "a", key=1)
    assert len(echo.prompts) == 2


async def test_as_many_keys_are_kept_as_are_stated(chats: Chats, simulator: Simulator) -> None:
    """The record of a chat does not grow for ever."""
    record = Record()
    for number in range(150):
        record = record.asking(str(number))
    assert record.keys == tuple(map(str, range(50, 150)))


class CrashError(Exception):
    """The process is gone: nothing of it runs any more."""


class CrashErroringStore(MemoryStore):
    """A store whose process dies at the n-th save, before or after it is on the disk."""

    def __init__(self, at: int, *, written: bool) -> None:
        super().__init__()
        self.left, self.written, self.is_dead = at, written, False

    async def save(self, name: str, record: Record) -> None:
        self.left -= 1
        if self.left == 0 or self.is_dead:
            if self.written and not self.is_dead:
                await super().save(name, record)
            self.is_dead = True
            raise CrashError
        await super().save(name, record)


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("at", range(1, 7))
async def test_no_crash_runs_a_prompt_twice(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock, at: int, *, written: bool
) -> None:
    """Whenever the process dies, and although the platform delivers all messages again, each prompt runs at most once.

    After a restart nothing runs side by side either: the service would refuse it.
    """
    store = CrashErroringStore(at, written=written)
    for _ in range(2):
        chats = Chats(nairi, "my-agent", store=store, clock=clock)
        for prompt in ("a", "b"):
            with suppress(CrashError, AlreadyAskedError):
                await chats.ask("c", prompt, key=prompt)
            if store.is_dead:
                break
        store.is_dead, store.left = False, 0
    asked = [asked.prompt for asked in echo.prompts]
    # Died between taking a prompt on and sending it, a process leaves one that is never sent: at most once.
    lost = {1: ["b"], 4: ["a"]}.get(at, ["a", "b"]) if written else ["a", "b"]
    assert asked == lost


async def test_the_id_is_saved_while_the_first_turn_runs(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock
) -> None:
    """A process that dies in the midst of the first turn, which may last an hour, has not lost the dialogue."""
    simulator.agent("my-agent", ["early", Done(after=3600)])
    store = MemoryStore()
    chats = Chats(nairi, "my-agent", store=store, clock=clock)
    call = asyncio.create_task(chats.ask("c", "a"))
    while clock.monotonic() < 100:
        await clock.sleep(1)
    assert simulator.prompts
    assert await chats.dialogue_id("c") == simulator.prompts[0].job_id
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    # Another process: what runs is waited for, and then the chat goes on.
    simulator.quirks = Quirks(overlapping="refuse")
    simulator.agent("my-agent", ["late"])
    assert (await Chats(nairi, "my-agent", store=store, clock=clock).ask("c", "b")).text == "late"
    assert clock.monotonic() >= 3600
    assert len({asked.job_id for asked in simulator.prompts}) == 1


async def test_a_refused_prompt_may_come_again(clock: VirtualClock) -> None:
    """What provably did not run keeps no key, and leaves the chat as it was."""
    async with (
        Simulator(clock=clock, strict_agents=True) as simulator,
        NairiSession(simulator.api_key, base_url=simulator.url, clock=clock) as session,
    ):
        chats = Chats(session, "later", clock=clock)
        with pytest.raises(AgentNotFoundError):
            await chats.ask("c", "a", key=1)
        simulator.agent("later", "yes")
        assert (await chats.ask("c", "a", key=1)).text == "yes"


async def test_a_prompt_in_doubt_is_not_run_again(chats: Chats, echo: Simulator) -> None:
    """Where nobody knows whether it runs, its key stays taken, and the next prompt waits for what may run."""
    await chats.ask("c", "a")

    async def lost(request: web.Request, answer: web.StreamResponse) -> web.StreamResponse | None:
        if request.method == "POST":
            raise ConnectionResetError
        return None

    echo.intercept_answer = lost
    with pytest.raises(OutcomeUnknownError):
        await chats.ask("c", "b", key=2)
    echo.intercept_answer = None
    with pytest.raises(AlreadyAskedError):
        await chats.ask("c", "b", key=2)
    assert (await chats.ask("c", "c")).text == "3: c"
    assert [asked.prompt for asked in echo.prompts] == ["a", "b", "c"]


async def test_a_timeout_covers_the_prompts_before(chats: Chats, echo: Simulator) -> None:
    """A prompt whose turn comes too late is not sent; one whose turn lasts too long still runs, and is waited for."""
    first = asyncio.create_task(chats.ask("c", "a"))
    await asyncio.sleep(0)
    with pytest.raises(WatchTimeoutError, match="not sent"):
        await chats.ask("c", "b", timeout=2)
    assert (await first).text == "1: a"
    with pytest.raises(WatchTimeoutError):
        await chats.ask("c", "c", timeout=2)
    assert (await chats.ask("c", "d", timeout=60)).text == "3: d"
    assert [asked.prompt for asked in echo.prompts] == ["a", "c", "d"]


async def test_forget_begins_another_dialogue(chats: Chats, echo: Simulator) -> None:
    """After it the agent knows nothing of what was said; what was asked before is still not run again."""
    await chats.forget("c")
    await chats.ask("c", "a", key=1)
    await chats.forget("c")
    assert await chats.dialogue_id("c") is None
    with pytest.raises(AlreadyAskedError):
        await chats.ask("c", "a", key=1)
    assert (await chats.ask("c", "b")).text == "1: b"


async def test_a_reply_is_not_lost_to_a_full_disk(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be saved after the turn is logged; what cannot be saved before it keeps the prompt from leaving."""

    class Full(MemoryStore):
        is_full = False

        async def save(self, name: str, record: Record) -> None:
            if self.is_full:
                raise StoreError("disk full")
            await super().save(name, record)
            self.is_full = True

    store = Full()
    chats = Chats(nairi, "my-agent", store=store, clock=clock)
    assert (await chats.ask("c", "a")).text == "1: a"
    assert "disk full" in caplog.text
    with pytest.raises(StoreError):
        await chats.ask("c", "b")
    assert len(echo.prompts) == 1


class PlainAnswer:
    def __init__(self, text: str) -> None:
        self.text = text


class PlainDialogue:
    """What `nairi_async.dialogue` asks for, and nothing more."""

    def __init__(self, id: str | None) -> None:  # noqa: A002
        self.id = id

    async def ask(self, prompt: str, *, timeout: Duration | None = None) -> PlainAnswer:
        self.id = self.id or "dialogue-1"
        return PlainAnswer(f"{prompt} within {timeout}")


class PlainService:
    """A service that knows neither files nor how to wait for a turn of another process."""

    def conversation(self, target: str, /) -> PlainDialogue:
        assert target == "service"
        return PlainDialogue(None)

    def resume(self, id: str, /) -> PlainDialogue:  # noqa: A002
        return PlainDialogue(id)


async def test_any_service_with_dialogues_will_do() -> None:
    """The protocol is enough; attachments are refused before anything is sent."""
    store = MemoryStore()
    chats = Chats(PlainService(), "service", store=store)
    reply = await chats.ask("c", "a", timeout=float("inf"))
    assert (reply.pieces, await reply.attachments()) == (("a within None",), ())
    await store.save("service c", Record("dialogue-1", is_open=True))
    assert (await chats.ask("c", "b")).text == "b within None"
    with pytest.raises(InvalidArgumentError, match="no attachments"):
        await chats.ask("c", "b", attachments=[b"1"], key=1)
    await chats.ask("c", "b", key=1)


@pytest.mark.parametrize(
    "arguments",
    [{"chat": ""}, {"chat": None}, {"chat": True}, {"prompt": " "}, {"key": ""}, {"key": 1.5}, {"timeout": -1}],
    ids=str,
)
async def test_bad_arguments_are_refused(chats: Chats, simulator: Simulator, arguments: dict[str, object]) -> None:
    """A clear error before anything is read, written or sent."""
    given: dict[str, object] = {"chat": "c", "prompt": "a", **arguments}
    with pytest.raises(InvalidArgumentError):
        await chats.ask(**given)  # type: ignore[arg-type]
    assert simulator.requests == []


@pytest.mark.parametrize("settings", [{"limit": 5}, {"target": "two words"}, {"timeout": "soon"}], ids=str)
async def test_bad_settings_are_refused(nairi: NairiSession, settings: dict[str, object]) -> None:
    """A limit, target or timeout that cannot be used is known at construction."""
    with pytest.raises(InvalidArgumentError):
        Chats(nairi, **{"target": "my-agent", **settings})  # type: ignore[arg-type]


# The SQLite form.


async def test_records_come_back_as_they_were_saved(tmp_path: Path) -> None:
    """The latest record of each name, for every later process."""
    path = tmp_path / "bot.sqlite"
    records = {"a 1": Record("job_1", is_open=True, keys=("1", "\u00e9'")), "a 2": Record()}
    async with SQLiteStore(path) as store:
        assert await store.load("a 1") is None
        await store.save("a 1", Record("job_0"))
        for name, record in records.items():
            await store.save(name, record)
    async with SQLiteStore(path) as store:
        assert {name: await store.load(name) for name in records} == records
    assert repr(store) == f"SQLiteStore({str(path)!r})"


async def test_a_store_is_used_while_open(tmp_path: Path) -> None:
    """Outside of `async with` it says so."""
    store = SQLiteStore(tmp_path / "bot.sqlite")
    with pytest.raises(ConfigurationError, match="async with"):
        await store.load("a")
    async with store:
        assert await store.load("a") is None
    with pytest.raises(ConfigurationError, match="async with"):
        await store.save("a", Record())


@pytest.mark.parametrize("kind", ["no database", "another program's", "a directory", "no directory"])
async def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path: Path, kind: str) -> None:
    """A clear error, and not a byte of it is changed."""
    path = tmp_path / "bot.sqlite"
    if kind == "no database":
        path.write_bytes(b"something else entirely" * 100)
    elif kind == "another program's":
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE chats (mine)")
        connection.close()
    elif kind == "a directory":
        path.mkdir()
    else:
        path = tmp_path / "missing" / "bot.sqlite"
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(StoreError, match="cannot be used"):
        async with SQLiteStore(path):
            pass
    assert (path.read_bytes() if path.is_file() else None) == before


async def test_a_busy_file_does_not_block_the_loop(tmp_path: Path) -> None:
    """While another process holds the file, the call waits and everything else goes on."""
    path = tmp_path / "bot.sqlite"
    async with SQLiteStore(path) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        save = asyncio.create_task(store.save("a", Record("job_1")))
        longest, last = 0.0, time.perf_counter()
        for _ in range(20):
            await asyncio.sleep(0.005)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        assert not save.done()
        assert longest < 1
        other.execute("COMMIT")
        other.close()
        await save
        assert await store.load("a") == Record("job_1")
