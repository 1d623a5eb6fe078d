"""A restarted bot: no prompt runs twice, no reply is lost."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from nairi_async import (
    AgentNotFoundError,
    NairiSession,
    OutcomeUnknownError,
    SessionClosedError,
)
from nairi_async.bots import (
    AlreadyAskedError,
    ChatPrompt,
    ChatReply,
    Chats,
    LostPrompt,
    MemoryStore,
    Record,
    SQLiteStore,
    StoreError,
)
from nairi_async.testing import AmigoQuirks, Done, Fail, Quirks, Simulator

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from aiohttp import web

    from nairi_async.amigo import AmigoSession
    from nairi_async.bots import Store
    from nairi_async.testing import AmigoSimulator, VirtualClock

pytestmark = pytest.mark.anyio


async def test_a_restart_goes_on_in_the_dialogue(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock, tmp_path: Path
) -> None:
    """The dialogues outlive the process; chats, and agents, do not mix."""
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
    """A key is accepted once, also across processes; the same key in another chat is another message."""
    store = MemoryStore()
    await Chats(nairi, "my-agent", store=store, clock=clock).ask("c", "a", key=1)
    with pytest.raises(AlreadyAskedError):
        await Chats(nairi, "my-agent", store=store, clock=clock).ask("c", "a", key="1")
    await Chats(nairi, "my-agent", store=store, clock=clock).ask("other", "a", key=1)
    assert len(echo.prompts) == 2


async def test_the_reply_to_a_prompt_that_comes_again_can_be_found(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock
) -> None:
    """The error names the dialogue, from which the reply can be read."""
    chats = Chats(nairi, "my-agent", clock=clock)
    await chats.ask("c", "a", key=1)
    with pytest.raises(AlreadyAskedError) as caught:
        await chats.ask("c", "a", key=1)
    assert caught.value.dialogue_id == echo.prompts[0].job_id == await chats.dialogue_id("c")
    reply = await nairi.resume(caught.value.dialogue_id).last_reply()
    assert reply is not None
    assert reply.text == "1: a"


async def test_virtual_time_stands_still_while_a_store_works(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock, tmp_path: Path
) -> None:
    """The work of a disk costs no virtual time, even while other tasks sleep, also over a restart."""

    class Slow(SQLiteStore):
        async def save(self, name: str, record: Record) -> None:
            await asyncio.to_thread(time.sleep, 0.02)
            await super().save(name, record)

    sleeper = asyncio.create_task(every_second(clock))
    for _ in range(2):
        async with Slow(tmp_path / "bot.sqlite") as store:
            before = clock.monotonic()
            await Chats(nairi, "my-agent", store=store, clock=clock).ask("c", "a")
            assert 5 <= clock.monotonic() - before < 12
    sleeper.cancel()
    assert len(echo.prompts) == 2


async def every_second(clock: VirtualClock) -> None:
    """Sleep for as long as the test lasts."""
    while True:
        await clock.sleep(1)


class CrashError(Exception):
    """The process has ended: nothing of it runs any more."""


class CrashingStore(MemoryStore):
    """A store whose process ends at the n-th save, before or after the record is on the disk."""

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
    """Each prompt runs at most once, at whichever save the process ends, although all messages are delivered again.

    After a restart no two turns of the chat run at once either: the service would refuse the second.
    """
    store = CrashingStore(at, written=written)
    for _ in range(2):
        chats = Chats(nairi, "my-agent", store=store, clock=clock)
        for prompt in ("a", "b"):
            with suppress(CrashError, AlreadyAskedError):
                await chats.ask("c", prompt, key=prompt)
            if store.is_dead:
                break
        store.is_dead, store.left = False, 0
    asked = [asked.prompt for asked in echo.prompts]
    # A process that ends between accepting a prompt and sending it leaves one that is never sent.
    lost = {1: ["b"], 4: ["a"]}.get(at, ["a", "b"]) if written else ["a", "b"]
    assert asked == lost


async def test_the_id_is_saved_while_the_first_turn_runs(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock
) -> None:
    """A process that ends during the first turn, which may last an hour, has not lost the dialogue."""
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
    # Another process waits for the running turn, and then the chat goes on.
    simulator.quirks = Quirks(overlapping="refuse")
    simulator.agent("my-agent", ["late"])
    assert (await Chats(nairi, "my-agent", store=store, clock=clock).ask("c", "b")).text == "late"
    assert clock.monotonic() >= 3600
    assert len({asked.job_id for asked in simulator.prompts}) == 1


class Died(BaseException):
    """The process has ended in the middle of something."""


@pytest.fixture
async def dying(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock
) -> Callable[[Store, str, str | None], Awaitable[None]]:
    """Return a function that asks in chat "c", and ends like a process while the turn runs or the reply is sent."""

    async def asked(store: Store, prompt: str, at: str | None) -> None:
        async def one() -> None:
            async with Chats(nairi, "my-agent", store=store, clock=clock).turn("c", prompt, key=prompt):
                if at == "sending":
                    raise Died

        call = asyncio.create_task(one())
        if at == "running":
            while prompt not in [asked.prompt for asked in simulator.prompts]:
                await clock.sleep(0.5)
            await clock.sleep(2)
            call.cancel()
        with suppress(Died, asyncio.CancelledError):
            await call

    return asked


@pytest.mark.parametrize("at", ["running", "sending"])
@pytest.mark.parametrize("before", [[], ["earlier"]], ids=["first", "later"])
async def test_a_reply_left_behind_is_handed_over(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock, *, dying: Any, before: list[str], at: str, tmp_path: Path
) -> None:
    """A process that ends while the turn runs, or while it sends the reply, leaves the reply to the next one, once.

    Prompts of the chat wait behind it meanwhile.
    """
    got: list[tuple[str, ...]] = []

    async def deliver(chat: str, reply: ChatReply) -> None:
        got.append((chat, *reply.pieces))

    async with SQLiteStore(tmp_path / "bot.sqlite") as store:
        for prompt in before:
            await dying(store, prompt, None)
        await dying(store, "a", at)
        chats = Chats(nairi, "my-agent", store=store, clock=clock)
        async with chats.recovering(deliver):
            got.append(("new", (await chats.ask("c", "b")).text))
        async with Chats(nairi, "my-agent", store=store, clock=clock).recovering(deliver):
            await clock.sleep(60)
    count = len(before) + 1
    assert got == [("c", f"{count}: a"), ("new", f"{count + 1}: b")]
    assert [asked.prompt for asked in echo.prompts] == [*before, "a", "b"]


async def test_a_prompt_that_was_not_sent_is_asked_by_the_next_process(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock
) -> None:
    """After a process that ended before its prompt was sent, the prompt is asked; the reply before it is not repeated.

    The same holds for the first prompt of a chat, which began no dialogue; other targets are left alone.
    """
    store = MemoryStore()
    await Chats(nairi, "my-agent", store=store, clock=clock).ask("c", "a")
    record = await store.load("my-agent c")
    assert record is not None
    now = clock.time()
    await store.save("my-agent c", record.with_prompt(ChatPrompt("b", "2", sent_after=now)))
    await store.save("another-agent c", record.with_prompt(ChatPrompt("b", "2")))
    await store.save("my-agent new", Record().with_prompt(ChatPrompt("x", "3", sent_after=now)))
    await store.save("my-agent vague", Record(is_open=True))
    got: list[tuple[str, str]] = []

    async def deliver(chat: str, reply: ChatReply) -> None:
        got.append((chat, reply.text))

    async with Chats(nairi, "my-agent", store=store, clock=clock).recovering(deliver):
        await clock.sleep(120)
    assert sorted(got) == [("c", "2: b"), ("new", "1: x")]
    assert await store.open_names() == ["another-agent c"]
    assert sorted(asked.prompt for asked in echo.prompts) == ["a", "b", "x"]


async def test_a_failed_delivery_is_logged_and_tried_again(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock, dying: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A platform's error is logged and the next process tries again; a failed turn is logged once."""
    store = MemoryStore()
    await dying(store, "a", "running")
    tries: list[str] = []

    async def refusing(chat: str, reply: ChatReply) -> None:
        tries.append(reply.text)
        raise RuntimeError("429")

    for _ in range(2):
        async with Chats(nairi, "my-agent", store=store, clock=clock).recovering(refusing):
            await clock.sleep(60)
    assert tries == ["1: a"] * 2
    assert "could not be given the reply from before a restart: RuntimeError('429')" in caplog.text
    echo.agent("my-agent", [Fail("no", after=5)])
    await dying(store, "b", "running")
    for _ in range(2):
        async with Chats(nairi, "my-agent", store=store, clock=clock).recovering(refusing):
            await clock.sleep(60)
    assert tries == ["1: a"] * 2
    assert caplog.text.count("gets no reply: its turn has failed") == 1


async def test_a_bot_that_stops_while_it_recovers_loses_nothing(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock, dying: Any
) -> None:
    """No task outlives the block, and the next process finds the reply."""
    store = MemoryStore()
    await dying(store, "a", "running")

    async def deliver(chat: str, reply: ChatReply) -> None:
        raise AssertionError("too early")

    chats = Chats(nairi, "my-agent", store=store, clock=clock)
    async with chats.recovering(deliver):
        assert len(chats._queues) == 1
    assert not [task for task in asyncio.all_tasks() if "Chats." in repr(task)]
    assert await store.open_names() == ["my-agent c"]


async def test_a_reply_that_the_platform_refused_is_kept(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock
) -> None:
    """An error in the block is raised; the reply stays open for the next process, unless the chat speaks first."""
    store = MemoryStore()
    chats = Chats(nairi, "my-agent", store=store, clock=clock)
    with pytest.raises(RuntimeError, match="429"):
        async with chats.turn("c", "a"):
            raise RuntimeError("429")
    assert await store.open_names() == ["my-agent c"]
    assert (await chats.ask("c", "b")).text == "2: b"
    assert await store.open_names() == []


async def test_a_refused_prompt_may_come_again(clock: VirtualClock) -> None:
    """A prompt that provably did not run keeps no key, and leaves the chat as it was."""
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
    """If it is unknown whether a prompt runs, its key stays taken, and the next prompt waits for it."""
    await chats.ask("c", "a")

    async def lost(request: web.Request, answer: web.StreamResponse) -> web.StreamResponse | None:
        if request.method == "POST":
            raise ConnectionResetError
        return None

    echo.intercept_response = lost
    with pytest.raises(OutcomeUnknownError):
        await chats.ask("c", "b", key=2)
    echo.intercept_response = None
    with pytest.raises(AlreadyAskedError):
        await chats.ask("c", "b", key=2)
    assert (await chats.ask("c", "c")).text == "3: c"
    assert [asked.prompt for asked in echo.prompts] == ["a", "b", "c"]


class LateStore(MemoryStore):
    """A store that returns some time after the record was saved."""

    async def save(self, name: str, record: Record) -> None:
        await super().save(name, record)
        for _ in range(5):
            await asyncio.sleep(0)


async def asked_again(chats: Chats) -> list[str]:
    """Cancel prompts, each one step of the loop later, ask them again, and return the replies; empty if refused."""
    replies = []
    for passes in range(60):
        task = asyncio.create_task(chats.ask(passes, f"prompt {passes}", key=1))
        for _ in range(passes):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        try:
            replies.append((await chats.ask(passes, f"prompt {passes}", key=1)).text)
        except AlreadyAskedError:
            replies.append("")
    return replies


async def test_a_prompt_that_was_cancelled_before_it_left_may_come_again(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock
) -> None:
    """Cancelled at any step, a prompt never runs twice, and its key stays free until it may have been sent."""
    replies = await asked_again(Chats(nairi, "my-agent", store=LateStore(), clock=clock))
    asked = [one.prompt for one in echo.prompts]
    assert len(asked) == len(set(asked))
    # Saving alone takes five steps, a new connection some more.
    assert all(replies[:6])
    assert any(replies[6:])
    assert not any(replies[-5:])


async def test_a_prompt_to_amigo_that_was_cancelled_before_it_left_may_come_again(
    amigo: AmigoSession, service: AmigoSimulator, clock: VirtualClock
) -> None:
    """The same holds for Amigo, in a service that lets one user have many conversations."""
    service.quirks = AmigoQuirks(one_unfinished=False)
    replies = await asked_again(Chats(amigo, service.service_id, store=LateStore(), clock=clock))
    asked = [one.message for one in service.asked]
    assert len(asked) == len(set(asked))
    assert all(replies[:6])
    assert any(replies[6:])
    assert not any(replies[-5:])


async def test_a_reply_is_not_lost_to_a_full_disk(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A store that fails after the turn is only logged; one that fails before it keeps the prompt from being sent."""

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


async def test_a_reply_is_not_handed_over_after_the_store_was_closed(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock, tmp_path: Path
) -> None:
    """A handler that outlives its program's store sends nothing: the next process sends the reply, once."""
    async with SQLiteStore(tmp_path / "bot.sqlite") as store:
        call = asyncio.create_task(Chats(nairi, "my-agent", store=store, clock=clock).ask("c", "a", key=1))
        waiting = asyncio.create_task(Chats(nairi, "my-agent", store=store, clock=clock).ask("d", "b", key=1))
        while len(echo.prompts) < 2:
            await clock.sleep(0.5)
    for late in (call, waiting):
        with pytest.raises(SessionClosedError):
            await late
    got: list[tuple[str, str]] = []

    async def deliver(chat: str, reply: ChatReply) -> None:
        got.append((chat, reply.text))

    async with (
        SQLiteStore(tmp_path / "bot.sqlite") as store,
        Chats(nairi, "my-agent", store=store, clock=clock).recovering(deliver),
    ):
        await clock.sleep(60)
    assert sorted(got) == [("c", "1: a"), ("d", "1: b")]


async def test_a_chat_never_gets_the_dialogue_of_another(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock
) -> None:
    """Two chats began with the same words, one of them in vain: it is not taken into the other's conversation."""
    store = MemoryStore()
    await Chats(nairi, "my-agent", store=store, clock=clock).ask("c", "hello")
    sent = ChatPrompt("hello", "1", sent_after=clock.time() - 6)
    await store.save("my-agent d", Record().with_prompt(sent))
    got: list[tuple[str, str]] = []

    async def deliver(chat: str, reply: ChatReply) -> None:
        got.append((chat, reply.text))

    async with (
        NairiSession(echo.api_key, base_url=echo.url, clock=clock) as later,
        Chats(later, "my-agent", store=store, clock=clock).recovering(deliver),
    ):
        await clock.sleep(120)
    assert got == [("d", "1: hello")]
    assert len({asked.job_id for asked in echo.prompts}) == 2


async def test_a_first_prompt_whose_response_was_lost_is_found_before_the_next(chats: Chats, echo: Simulator) -> None:
    """In a process that goes on, the chat continues the conversation that the gateway's error hid."""

    async def lost(request: web.Request, response: web.StreamResponse) -> web.StreamResponse | None:
        if request.path.endswith("/start"):
            raise ConnectionResetError
        return None

    echo.intercept_response = lost
    with pytest.raises(OutcomeUnknownError):
        await chats.ask("c", "a", key=1)
    assert (await chats.ask("c", "b")).text == "2: b"
    assert len({asked.job_id for asked in echo.prompts}) == 1


async def test_what_cannot_be_looked_up_is_reported(
    amigo: AmigoSession, service: AmigoSimulator, clock: VirtualClock
) -> None:
    """Amigo does not list what it did not keep: the bot hears so once, and the chat goes on."""
    store = MemoryStore()
    chats = Chats(amigo, service.service_id, store=store, clock=clock)
    await chats.ask("c", "a")
    name = f"{service.service_id} c"
    record = await store.load(name)
    assert record is not None
    await store.save(name, record.with_prompt(ChatPrompt("b", "2", sent_after=clock.time())))
    lost: list[tuple[str, str, bool]] = []

    async def deliver(chat: str, reply: ChatReply) -> None:
        raise AssertionError("there is no reply")

    async def on_lost(chat: str, prompt: LostPrompt) -> None:
        lost.append((chat, prompt.text, prompt.may_have_run))

    for _ in range(2):
        chats = Chats(amigo, service.service_id, store=store, clock=clock)
        async with chats.recovering(deliver, on_lost):
            await clock.sleep(400)
    assert lost == [("c", "b", True)]
    await chats.ask("c", "c")
