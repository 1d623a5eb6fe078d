"""Chats on a service that fails: a prompt waits until it is known what became of the one before."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from attrs import evolve
from support import SetClock

from nairi_async import (
    InvalidArgumentError,
    NairiSession,
    OutcomeUnknownError,
    ServerError,
    SessionClosedError,
    WatchTimeoutError,
)
from nairi_async.bots import (
    AlreadyAskedError,
    ChatPrompt,
    ChatReply,
    Chats,
    LostPrompt,
    MemoryStore,
    Record,
    StoreError,
)
from nairi_async.testing import Quirks

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from nairi_async.dialogue import Answer
    from nairi_async.testing import Simulator, VirtualClock
    from nairi_async.typing import Duration

pytestmark = pytest.mark.anyio


class Delivered:
    """The replies that a recovery handed over, and the prompts that it reported."""

    def __init__(self) -> None:
        self.replies: list[str] = []
        self.lost: list[str] = []

    async def deliver(self, _chat: str, reply: ChatReply) -> None:
        self.replies.append(reply.text)

    async def on_lost(self, _chat: str, prompt: LostPrompt) -> None:
        self.lost.append(prompt.text)


async def left_waiting(nairi: NairiSession, clock: VirtualClock, *prompts: str) -> MemoryStore:
    """Return the store of a process that ended while prompts waited in chat "c", behind one that was answered."""
    store = MemoryStore()
    await Chats(nairi, "my-agent", store=store, clock=clock).ask("c", "a")
    record = await store.load("my-agent c")
    assert record is not None
    for prompt in prompts:
        record = record.with_waiting(ChatPrompt(prompt, prompt))
    await store.save("my-agent c", record)
    return store


@pytest.mark.parametrize("arrives", [True, False], ids=["it ran", "it never arrived"])
async def test_a_recovered_prompt_whose_response_is_lost_is_settled_before_the_next(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock, *, arrives: bool
) -> None:
    """The next prompt is asked when it is known what became of it: each has its own reply, in order, and runs once."""
    store, delivered = await left_waiting(nairi, clock, "b", "c"), Delivered()
    failures = [1]

    async def gateway(request: web.Request, *_response: web.StreamResponse) -> web.StreamResponse | None:
        return web.Response(status=502) if request.method == "POST" and failures and failures.pop() else None

    if arrives:
        echo.intercept_response = gateway
    else:
        echo.intercept = gateway
    chats = Chats(nairi, "my-agent", store=store, clock=clock)
    async with chats.recovering(delivered.deliver, delivered.on_lost):
        await clock.sleep(300)
    assert (delivered.replies, delivered.lost) == (["2: b", "3: c"], [])
    assert [asked.prompt for asked in echo.prompts] == ["a", "b", "c"]
    assert await store.open_names() == []


async def test_new_prompts_wait_while_the_service_cannot_say_what_became_of_a_prompt(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock
) -> None:
    """A service that fails for some minutes changes neither the order of the replies nor their number."""
    store, delivered = await left_waiting(nairi, clock, "c"), Delivered()
    record = await store.load("my-agent c")
    assert record is not None
    await store.save("my-agent c", record.with_prompt(ChatPrompt("b", "b", sent_after=clock.time())))
    fails_until = clock.monotonic() + 200

    async def gateway(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=502) if request.method == "GET" and clock.monotonic() < fails_until else None

    echo.intercept = gateway
    chats = Chats(nairi, "my-agent", store=store, clock=clock)
    async with chats.recovering(delivered.deliver, delivered.on_lost):
        delivered.replies.append((await chats.ask("c", "d", key="d")).text)
    assert (delivered.replies, delivered.lost) == (["2: b", "3: c", "4: d"], [])


async def test_a_replica_that_does_not_know_a_new_dialogue_loses_no_reply(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock
) -> None:
    """A 404 for what an earlier process began a moment ago is looked at again; a new prompt waits for it as well."""
    store, delivered = MemoryStore(), Delivered()
    turn = await nairi.start("my-agent", "a")
    prompt = ChatPrompt("a", "a", sent_after=clock.time())
    await store.save("my-agent c", Record(turn.job_id, is_open=True, prompt=prompt))
    knows_from = clock.monotonic() + 20

    async def lag(request: web.Request) -> web.StreamResponse | None:
        is_unknown = request.method == "GET" and clock.monotonic() < knows_from
        return web.json_response({"error": "not found"}, status=404) if is_unknown else None

    echo.intercept = lag
    async with NairiSession(echo.api_key, base_url=echo.url, clock=clock) as later:
        chats = Chats(later, "my-agent", store=store, clock=clock)
        async with chats.recovering(delivered.deliver, delivered.on_lost):
            delivered.replies.append((await chats.ask("c", "b", key="b")).text)
    assert (delivered.replies, delivered.lost) == (["1: a", "2: b"], [])


@pytest.mark.parametrize("has_arrived", [True, False])
async def test_a_session_that_is_closed_meanwhile_runs_nothing_twice(
    echo: Simulator, clock: VirtualClock, *, has_arrived: bool
) -> None:
    """A prompt whose turn runs when the session is closed is kept for the next process; one that had to wait is not."""
    store, delivered = MemoryStore(), Delivered()
    async with NairiSession(echo.api_key, base_url=echo.url, clock=clock, max_connections=1) as nairi:
        if not has_arrived:
            nairi._executor.limiter.throttle(60.0)
        asking = asyncio.create_task(Chats(nairi, "my-agent", store=store, clock=clock).ask("c", "a", key="a"))
        await clock.sleep(0.5)
    with pytest.raises(SessionClosedError):
        await asking
    assert len(echo.prompts) == has_arrived
    async with NairiSession(echo.api_key, base_url=echo.url, clock=clock) as nairi:
        chats = Chats(nairi, "my-agent", store=store, clock=clock)
        async with chats.recovering(delivered.deliver, delivered.on_lost):
            if has_arrived:
                with pytest.raises(AlreadyAskedError):
                    await chats.ask("c", "a", key="a")
                await clock.sleep(60)
            else:
                delivered.replies.append((await chats.ask("c", "a", key="a")).text)
    assert (delivered.replies, delivered.lost, len(echo.prompts)) == (["1: a"], [], 1)


async def outage(nairi: NairiSession, echo: Simulator, clock: VirtualClock, seconds: float) -> MemoryStore:
    """Return a store with an open prompt "b" and a waiting one "c", on a service whose reads fail for some time."""
    store = await left_waiting(nairi, clock, "c")
    record = await store.load("my-agent c")
    assert record is not None
    await store.save("my-agent c", record.with_prompt(ChatPrompt("b", "b", sent_after=clock.time())))
    fails_until = clock.monotonic() + seconds

    async def gateway(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=502) if request.method == "GET" and clock.monotonic() < fails_until else None

    echo.intercept = gateway
    return store


async def test_a_new_prompt_never_overtakes_those_of_an_earlier_process(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock
) -> None:
    """While it cannot be known what became of them it is refused and keeps no key; afterwards it comes behind them."""
    store, delivered = await outage(nairi, echo, clock, 1200), Delivered()
    chats = Chats(nairi, "my-agent", store=store, clock=clock)
    async with chats.recovering(delivered.deliver, delivered.on_lost):
        for _ in range(2):
            with pytest.raises(ServerError):
                await chats.ask("c", "d", key="d")
        echo.intercept = None
        delivered.replies.append((await chats.ask("c", "d", key="d")).text)
    assert (delivered.replies, delivered.lost) == (["2: b", "3: c", "4: d"], [])
    assert await store.open_names() == []


async def test_a_chat_is_recovered_after_an_outage_even_if_it_is_silent(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock
) -> None:
    """After the first five minutes the service is asked every ten; new prompts need not come for that."""
    store, delivered = await outage(nairi, echo, clock, 3000), Delivered()
    async with Chats(nairi, "my-agent", store=store, clock=clock).recovering(delivered.deliver, delivered.on_lost):
        await clock.sleep(4500)
    assert (delivered.replies, delivered.lost) == (["2: b", "3: c"], [])


async def test_a_waiting_prompt_that_the_service_refuses_for_now_is_asked_later(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock
) -> None:
    """A service in maintenance loses none of the prompts that waited, nor the one whose request never arrived."""
    store, delivered = await outage(nairi, echo, clock, 0), Delivered()
    back_at = clock.monotonic() + 240

    async def maintenance(request: web.Request) -> web.StreamResponse | None:
        is_away = request.method == "POST" and clock.monotonic() < back_at
        return web.Response(status=503, headers={"Retry-After": "5"}) if is_away else None

    echo.intercept = maintenance
    async with Chats(nairi, "my-agent", store=store, clock=clock).recovering(delivered.deliver, delivered.on_lost):
        await clock.sleep(900)
    assert (delivered.replies, delivered.lost) == (["2: b", "3: c"], [])


async def test_a_reply_that_the_platform_refuses_twice_does_not_hold_up_the_chat(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock
) -> None:
    """The next prompt tries once more, then the loss is reported, and those that waited come before the new prompt."""
    store, delivered = await outage(nairi, echo, clock, 0), Delivered()
    refused: list[str] = []

    async def deliver(chat: str, reply: ChatReply) -> None:
        if reply.text == "2: b":
            refused.append(chat)
            raise ConnectionError
        await delivered.deliver(chat, reply)

    chats = Chats(nairi, "my-agent", store=store, clock=clock)
    async with chats.recovering(deliver, delivered.on_lost):
        await clock.sleep(300)
        assert (refused, delivered.replies) == (["c"], [])
        delivered.replies.append((await chats.ask("c", "d", key="d")).text)
    assert (refused, delivered.replies, delivered.lost) == (["c", "c"], ["3: c", "4: d"], ["b"])
    assert [asked.prompt for asked in echo.prompts] == ["a", "b", "c", "d"]


async def test_prompts_with_the_same_text_and_no_key_are_told_apart(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock
) -> None:
    """One that is cancelled takes no other with it, and each that is left by a process is asked once."""
    store, delivered = MemoryStore(), Delivered()
    chats = Chats(nairi, "my-agent", store=store, clock=clock)
    calls = [asyncio.create_task(chats.ask("c", "same")) for _ in range(4)]
    await clock.sleep(1)
    record = await store.load("my-agent c")
    assert record is not None
    waiting = record.waiting
    assert len({prompt.id for prompt in waiting}) == 3
    calls[2].cancel()
    await asyncio.wait([calls[2]])
    record = await store.load("my-agent c")
    assert record is not None
    assert record.waiting == (waiting[0], waiting[2])
    await asyncio.gather(*calls, return_exceptions=True)
    # A process ended here: what waited is asked behind what ran, once each.
    await store.save("my-agent c", record)
    async with Chats(nairi, "my-agent", store=store, clock=clock).recovering(delivered.deliver, delivered.on_lost):
        await clock.sleep(600)
    assert len(echo.prompts) == 3 + 2
    assert await store.open_names() == []


async def test_the_next_prompt_waits_for_one_that_may_still_arrive(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock
) -> None:
    """In a process that goes on, a prompt that its dialogue does not show may still be under way: both keep order."""
    chats = Chats(nairi, "my-agent", clock=clock)
    await chats.ask("c", "a")
    failures = [1]

    async def gateway(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=502) if request.method == "POST" and failures and failures.pop() else None

    async def arrive() -> None:
        await clock.sleep(20)
        await nairi.resume(echo.prompts[0].job_id).ask("b")

    echo.intercept = gateway
    with pytest.raises(ServerError):
        await chats.ask("c", "b")
    reply, _ = await asyncio.gather(chats.ask("c", "c"), arrive())
    assert reply.text == "3: c"
    assert [asked.prompt for asked in echo.prompts] == ["a", "b", "c"]


@pytest.mark.parametrize("is_first", [True, False], ids=["start", "continue"])
@pytest.mark.parametrize(("ahead", "pause"), [((0, 3600), 0), ((0, -3600), 0), ((-3600, 0), 0), ((3600, 0), 900)])
async def test_a_clock_that_is_set_between_two_processes_runs_no_prompt_twice(
    echo: Simulator, clock: VirtualClock, ahead: tuple[float, float], pause: float, *, is_first: bool
) -> None:
    """A prompt that arrives late is waited for and found, whatever the machine's clock shows by then."""
    store, delivered, lost = MemoryStore(), Delivered(), list[str]()

    async def gateway(request: web.Request) -> web.StreamResponse | None:
        if request.method != "POST" or b"hello" not in await request.read():
            return None
        lost.append(request.path)
        return web.Response(status=502)

    machine: Any = SetClock(clock, ahead[0])
    async with NairiSession(echo.api_key, base_url=echo.url, clock=machine) as nairi:
        chats = Chats(nairi, "my-agent", store=store, clock=machine)
        if not is_first:
            await chats.ask("c", "first")
        echo.intercept = gateway
        with pytest.raises(OutcomeUnknownError):
            await chats.ask("c", "hello", key="k")
    echo.intercept = None

    async def arrive(service: NairiSession) -> None:
        await clock.sleep(20)
        await (service.start("my-agent", "hello") if is_first else service.continue_(echo.prompts[0].job_id, "hello"))

    machine.ahead = ahead[1]
    async with (
        NairiSession(echo.api_key, base_url=echo.url, clock=clock) as network,
        NairiSession(echo.api_key, base_url=echo.url, clock=machine) as nairi,
    ):
        chats = Chats(nairi, "my-agent", store=store, clock=machine)
        arriving = asyncio.create_task(arrive(network))
        await clock.sleep(pause)
        async with chats.recovering(delivered.deliver, delivered.on_lost):
            await asyncio.gather(arriving, clock.sleep(300))
    assert (len(lost), [one.prompt for one in echo.prompts]) == (1, ["first"] * (not is_first) + ["hello"])
    assert (delivered.replies, delivered.lost) == ([f"{2 - is_first}: hello"], [])


async def test_no_prompt_waits_in_vain_for_the_services_time(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock
) -> None:
    """If the service does not say what time it is, a prompt is sent when half of its time is over at the latest."""
    sent_at = []

    async def hang(request: web.Request) -> None:
        if request.method == "POST":
            sent_at.append(clock.monotonic())
        elif "/agents" in request.path:
            with clock.stalled():
                await clock.sleep(1000)

    echo.intercept = hang
    assert (await Chats(nairi, "my-agent", clock=clock).ask("c", "a", timeout=16)).text == "1: a"
    assert sent_at == [8.0]


@pytest.mark.parametrize("fault", ["refused", "hanging", "silent", "cancelled"])
async def test_chats_ask_for_the_services_time_together(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock, fault: str
) -> None:
    """Chats that begin at once ask once, for ten seconds at most, also if the service refuses or states no time."""
    asked, sent_at, is_asked, is_cancelled = 0, list[float](), asyncio.Event(), asyncio.Event()
    undated = {"Date": ""} if fault == "silent" else {}

    async def answer(request: web.Request) -> web.Response | None:
        nonlocal asked
        if request.method == "POST":
            sent_at.append(clock.monotonic())
            return web.Response(status=400, headers=undated)
        asked += 1
        is_asked.set()
        if fault == "cancelled":
            await is_cancelled.wait()
        if fault == "hanging":
            with clock.stalled():
                await clock.sleep(1000)
        return web.Response(status=500 if fault == "refused" else 200, headers=undated)

    echo.intercept, chats = answer, Chats(nairi, "my-agent", clock=clock)
    for chat in ("a", "b"):
        asking = [asyncio.create_task(chats.ask(f"{chat}{number}", "a")) for number in range(5)]
        await is_asked.wait()
        if fault == "cancelled" and chat == "a":
            asking[0].cancel()
            await asyncio.wait(asking[:1])
            is_cancelled.set()
        await asyncio.gather(*asking, return_exceptions=True)
    assert asked == (2 if fault == "cancelled" else 1)
    assert set(sent_at) == {10.0 if fault == "hanging" else 0.0}


async def test_a_prompt_that_waited_and_cannot_be_sent_keeps_no_key(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock
) -> None:
    """Its file cannot be read, or it is cancelled at its upload: it may come again, and no other process asks it."""
    store = MemoryStore()
    chats = Chats(nairi, "my-agent", store=store, clock=clock)

    async def endless() -> AsyncGenerator[bytes]:
        reading.set()
        await asyncio.Event().wait()
        yield b""

    for files in ([io.BytesIO()], [endless()]):
        reading, first = asyncio.Event(), asyncio.create_task(chats.ask("c", "a"))
        await clock.sleep(0.5)
        second = asyncio.create_task(chats.ask("c", "b", key="b", attachments=files, timeout=None))
        await first
        await asyncio.wait([second, asyncio.create_task(reading.wait())], return_when="FIRST_COMPLETED")
        second.cancel()
        with pytest.raises((InvalidArgumentError, asyncio.CancelledError)):
            await second
        assert await store.open_names() == []
    assert (await chats.ask("c", "b", key="b")).text == "3: b"
    assert [one.prompt for one in echo.prompts] == ["a", "a", "b"]


async def test_a_prompt_that_waited_for_a_lookup_in_vain_keeps_no_key(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock
) -> None:
    """It was not sent, and its caller knows: the next process does not ask it, and it may come again."""
    store = await left_waiting(nairi, clock)
    record = await store.load("my-agent c")
    assert record is not None
    before = record.with_prompt(ChatPrompt("b", "b", sent_after=clock.time()))
    await store.save("my-agent c", before)

    async def gateway(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=502) if request.method == "GET" else None

    echo.intercept = gateway
    chats = Chats(nairi, "my-agent", store=store, clock=clock)
    with pytest.raises(ServerError):
        await chats.ask("c", "c", key="c")
    assert await store.load("my-agent c") == before
    echo.intercept = None
    assert (await chats.ask("c", "c", key="c")).text == "2: c"


async def test_a_store_that_fails_loses_no_prompt_that_waits(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock
) -> None:
    """A recovered prompt that could not be saved was not sent: the next process asks it, and it is not reported."""

    class Full(MemoryStore):
        is_full = True

        async def save(self, name: str, record: Record) -> None:
            if self.is_full:
                raise StoreError("the disk is full")
            await super().save(name, record)

    record = await (await left_waiting(nairi, clock, "b")).load("my-agent c")
    assert record is not None
    store, delivered = Full(), Delivered()
    await MemoryStore.save(store, "my-agent c", record)
    for _ in range(2):
        chats = Chats(nairi, "my-agent", store=store, clock=clock)
        async with chats.recovering(delivered.deliver, delivered.on_lost):
            await clock.sleep(120)
        store.is_full = False
    assert (delivered.replies, delivered.lost) == (["2: b"], [])
    assert [asked.prompt for asked in echo.prompts] == ["a", "b"]


@pytest.mark.parametrize("listing", [False, True], ids=["no listing", "more candidates than prompts"])
async def test_first_prompts_that_cannot_be_found_are_reported_soon(
    simulator: Simulator, clock: VirtualClock, *, listing: bool
) -> None:
    """Ten chats that began with the same words, on a service that cannot tell which conversation is whose.

    Each is reported once, within some minutes and not one after another, and then goes on.
    """
    simulator.quirks = Quirks(listing=listing)
    store, delivered = MemoryStore(), Delivered()
    prompt = ChatPrompt("hello", sent_after=clock.time() - 1)
    for number in range(10):
        record = Record().with_prompt(evolve(prompt, id=str(number))).with_waiting(ChatPrompt(f"more {number}"))
        await store.save(f"my-agent {number}", record)
    async with (
        NairiSession(simulator.api_key, base_url=simulator.url, clock=clock) as strangers,
        NairiSession(simulator.api_key, base_url=simulator.url, clock=clock) as nairi,
    ):
        for _ in range(20):
            await strangers.start("my-agent", "hello")
        async with Chats(nairi, "my-agent", store=store, clock=clock).recovering(delivered.deliver, delivered.on_lost):
            await clock.sleep(200)
    assert delivered.lost == ["hello"] * 10
    assert len(delivered.replies) == 10
    assert [asked.prompt for asked in simulator.prompts].count("hello") == 20
    assert await store.open_names() == []


class NamedAtOnce:
    """A session whose service names a dialogue before any other task runs; its turns last for an hour."""

    may_be_running = True

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.id: str | None = None

    def conversation(self, _target: str, /) -> NamedAtOnce:
        return self

    def resume(self, id: str, /) -> NamedAtOnce:  # noqa: A002 - the protocol's word
        self.id = id
        return self

    async def wait_for_id(self) -> str:
        assert self.id is not None
        return self.id

    async def ask(self, _prompt: str, *, timeout: Duration | None = None) -> Answer:
        self.id = "named"
        await self._clock.sleep(3600)
        raise WatchTimeoutError(f"no reply within {timeout}")


async def test_an_id_that_is_known_at_once_is_saved(clock: VirtualClock) -> None:
    """The record has the dialogue's id during the first turn, however early the service names it."""
    store = MemoryStore()
    call = asyncio.create_task(Chats(NamedAtOnce(clock), "my-agent", store=store, clock=clock).ask("c", "a"))
    await clock.sleep(60)
    record = await store.load("my-agent c")
    assert record is not None
    assert record.dialogue_id == "named"
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
