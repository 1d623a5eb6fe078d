"""`Chats`: one dialogue for each chat, prompts in order, files, typing indicators, refusals."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import amigo_sessions
import pytest
import support

from nairi_async import (
    InteractionVoidError,
    InvalidArgumentError,
    NairiSession,
    TurnFailedError,
    WatchTimeoutError,
)
from nairi_async.bots import (
    AlreadyAskedError,
    ChatBusyError,
    ChatPrompt,
    ChatReply,
    Chats,
    File,
    MemoryStore,
    Record,
)
from nairi_async.testing import Done, Fail, Say, Simulator
from nairi_async.testing.amigo import AmigoQuirks, AmigoSimulator, Complete, Error, Speak

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from nairi_async.amigo import AmigoSession
    from nairi_async.testing import VirtualClock
    from nairi_async.typing import Duration

pytestmark = pytest.mark.anyio


async def test_a_chat_is_one_dialogue_in_order_and_chats_run_at_once(
    chats: Chats, echo: Simulator, clock: VirtualClock
) -> None:
    """Prompts of a chat run in the order of the calls, in one dialogue; four chats take no longer than one."""
    calls = [chats.ask(chat, f"{chat}.{number}") for number in range(3) for chat in range(4)]
    replies = await asyncio.gather(*calls)
    assert [reply.text for reply in replies] == [
        f"{number + 1}: {chat}.{number}" for number in range(3) for chat in range(4)
    ]
    assert len({asked.job_id for asked in echo.prompts}) == 4
    assert clock.monotonic() < 30
    assert {await chats.dialogue_id(chat) for chat in range(4)} == {asked.job_id for asked in echo.prompts}
    assert len(chats._queues) == 0


async def test_a_long_reply_comes_in_pieces(nairi: NairiSession, simulator: Simulator, clock: VirtualClock) -> None:
    """Pieces keep to the platform's limit; an agent that says nothing gives none."""
    simulator.agent("my-agent", lambda prompt, _: [Done()] if prompt == "quiet" else ["word " * 30])
    chats = Chats(nairi, "my-agent", limit=40, clock=clock)
    reply = await chats.ask("c", "talk")
    assert [len(piece) <= 40 for piece in reply.pieces] == [True] * 4
    assert " ".join(reply.pieces) == reply.text.strip()
    assert (await chats.ask("c", "quiet")).pieces == ()


async def test_files_go_both_ways(chats: Chats, simulator: Simulator) -> None:
    """A platform's file is downloaded when its prompt's turn has come; the agent's files come with the reply."""
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
    sent = [simulator._state.find_file(file) for file in simulator.prompts[0].attachment_ids]
    assert [(file.filename, file.data) for file in sent] == [("table.csv", b"a,b\n1,2\n"), ("note.txt", b"soon")]
    assert [(file.filename, file.data) for file in await reply.attachments()] == [("chart.png", b"\x89PNG")]


async def test_virtual_time_stands_still_while_a_file_is_read(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock, tmp_path: Path
) -> None:
    """A thread reads it, and takes none of the time that a test of a bot, or of a session, gives the whole call."""
    path = tmp_path / "table.csv"
    path.write_bytes(b"a,b\n1,2\n")
    chats = Chats(nairi, "my-agent", clock=clock, timeout=30)
    for number in range(1, 6):
        assert (await chats.ask("c", "a", attachments=[path])).text == f"{number}: a"
        assert (await nairi.ask("my-agent", "a", attachments=[path], timeout=30)).text == "1: a"
    assert clock.monotonic() < 5 * 30


@pytest.mark.parametrize("content", [None, 5, "text"])
async def test_an_invalid_file_is_refused(content: bytes) -> None:
    """A file has a name, and bytes or a function that fetches them."""
    with pytest.raises(InvalidArgumentError):
        File("a.txt", content)
    with pytest.raises(InvalidArgumentError):
        File("", b"")

    async def text() -> bytes:
        return "no bytes"  # type: ignore[return-value]

    with pytest.raises(InvalidArgumentError, match="returned str"):
        await File("a.txt", text).read()


async def test_typing_is_shown_again_until_the_end(chats: Chats, echo: Simulator, clock: VirtualClock) -> None:
    """A function is awaited at once, then every four seconds while the turn runs, and not afterwards."""
    shown_at: list[float] = []

    async def typing() -> None:
        shown_at.append(clock.monotonic())

    await chats.ask("c", "a", typing=typing)
    assert [round(later - earlier) for earlier, later in pairwise(shown_at)] == [4] * (len(shown_at) - 1)
    assert len(shown_at) >= 2
    count = len(shown_at)
    await clock.sleep(60)
    assert len(shown_at) == count


async def test_typing_may_be_a_context_manager(chats: Chats, echo: Simulator) -> None:
    """The platform's own is entered, and left when the turn has ended, even if the turn failed."""
    events: list[str] = []

    @asynccontextmanager
    async def typing() -> AsyncIterator[None]:
        events.append("begin")
        try:
            yield
        finally:
            events.append(f"end after {len(echo.prompts)}")

    await chats.ask("c", "a", typing=typing())
    echo.agent("my-agent", [Fail("no")])
    with pytest.raises(TurnFailedError):
        await chats.ask("c", "b", typing=typing())
    assert events == ["begin", "end after 1", "begin", "end after 2"]


@pytest.mark.parametrize("where", ["call", "enter", "exit"])
async def test_a_failing_indicator_costs_no_reply(
    chats: Chats, echo: Simulator, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    """An error that the platform raises for its indicator is logged, and the turn goes on."""

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


@pytest.mark.parametrize("kind", ["function", "enters late", "leaves late"])
async def test_a_turn_never_waits_for_its_indicator(
    chats: Chats, echo: Simulator, clock: VirtualClock, kind: str
) -> None:
    """A platform that takes a minute to show or hide the indicator delays neither the prompt nor the reply."""

    class Late:
        async def __aenter__(self) -> None:
            if kind == "enters late":
                await clock.sleep(60)

        async def __aexit__(self, *of: object) -> None:
            await clock.sleep(60)

    async def late() -> None:
        await clock.sleep(60)

    await chats.ask("c", "a", typing=late if kind == "function" else Late())
    assert clock.monotonic() < 10
    assert len(echo.prompts) == 1


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


async def test_as_many_keys_are_kept_as_are_stated(chats: Chats, simulator: Simulator) -> None:
    """The record of a chat does not grow without limit."""
    record = Record()
    for number in range(150):
        record = record.with_prompt(ChatPrompt("a", str(number)))
    assert record.keys == tuple(map(str, range(50, 150)))


async def test_a_flood_is_turned_away(nairi: NairiSession, echo: Simulator, clock: VirtualClock) -> None:
    """One prompt runs, the permitted number waits, and more are refused with advice; a refused key stays free."""
    chats = Chats(nairi, "my-agent", max_waiting=2, clock=clock)
    calls = [chats.ask("c", str(number), key=number) for number in range(50)]
    outcomes = await asyncio.gather(*calls, chats.ask("other", "x"), return_exceptions=True)
    assert [reply.text for reply in outcomes if isinstance(reply, ChatReply)] == ["1: 0", "2: 1", "3: 2", "1: x"]
    busy = [str(error) for error in outcomes if isinstance(error, ChatBusyError)]
    assert len(busy) == 47
    assert "please wait for a reply" in busy[0]
    assert (await chats.ask("c", "late", key=49)).text == "4: late"


async def test_a_timeout_covers_the_prompts_before(chats: Chats, echo: Simulator) -> None:
    """A prompt whose turn comes too late is not sent; the next prompt waits for a turn that outlasts its timeout."""
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
    """The next prompt begins a new dialogue; a key that was accepted before it is still refused."""
    await chats.forget("c")
    await chats.ask("c", "a", key=1)
    await chats.forget("c")
    assert await chats.dialogue_id("c") is None
    with pytest.raises(AlreadyAskedError):
        await chats.ask("c", "a", key=1)
    assert (await chats.ask("c", "b")).text == "1: b"


class PlainAnswer:
    def __init__(self, text: str) -> None:
        self.text = text


class PlainDialogue:
    """What `nairi_async.dialogue` asks for, and nothing more."""

    may_be_running = False

    def __init__(self, id: str | None) -> None:  # noqa: A002
        self.id = id
        self._begun = asyncio.Event()

    async def wait_for_id(self) -> str:
        while self.id is None:
            await self._begun.wait()
        return self.id

    async def ask(self, prompt: str, *, timeout: Duration | None = None) -> PlainAnswer:
        self.id = self.id or "dialogue-1"
        self._begun.set()
        return PlainAnswer(f"{prompt} within {timeout}")


class PlainService:
    """A service without files, whose dialogues cannot wait for a turn of another process."""

    def conversation(self, target: str, /) -> PlainDialogue:
        assert target == "service"
        return PlainDialogue(None)

    def resume(self, id: str, /) -> PlainDialogue:  # noqa: A002
        return PlainDialogue(id)


async def test_any_service_with_dialogues_will_do() -> None:
    """The protocol is enough; attachments are refused before anything is sent, and their key stays free."""
    store = MemoryStore()
    chats = Chats(PlainService(), "service", store=store)
    reply = await chats.ask("c", "a", timeout=float("inf"))
    assert (reply.pieces, await reply.attachments()) == (("a within None",), ())
    await store.save("service c", Record("dialogue-1", is_open=True))
    assert (await chats.ask("c", "b", timeout=None)).text == "b within None"
    with pytest.raises(InvalidArgumentError, match="no attachments"):
        await chats.ask("c", "b", attachments=[b"1"], key=1)
    await chats.ask("c", "b", key=1)


async def test_a_dialogue_that_the_agent_has_ended_is_followed_by_another(
    amigo: AmigoSession, service: AmigoSimulator, clock: VirtualClock
) -> None:
    """Amigo's agents end conversations: the chat continues in a new one, even after a crash at that moment."""
    service.service(lambda message, _: [Speak(f"Bye, {message}."), Complete(ends=True)], service_id=service.service_id)
    store = MemoryStore()
    chats = Chats(amigo, service.service_id, store=store, clock=clock)
    assert [(await chats.ask("c", name)).text for name in ("Ann", "Bob")] == ["Bye, Ann.", "Bye, Bob."]
    assert await chats.dialogue_id("c") is None
    await store.save(f"{service.service_id} c", Record(service.asked[-1].conversation_id, is_open=True))
    assert (await chats.ask("c", "Cleo")).text == "Bye, Cleo."
    assert len({asked.conversation_id for asked in service.asked}) == 3


async def test_a_turn_of_amigo_that_was_cut_off_is_waited_for(
    amigo: AmigoSession, service: AmigoSimulator, clock: VirtualClock
) -> None:
    """After a restart the service may still be at work: the chat's next prompt waits instead of being refused."""
    store = MemoryStore()
    chats = Chats(amigo, service.service_id, store=store, clock=clock)
    await chats.ask("c", "a")
    service.service([Speak("Late.", after=1)], service_id=service.service_id)
    cut_off = asyncio.ensure_future(chats.ask("c", "b"))
    await support.until(lambda: len(service.asked) == 2)
    cut_off.cancel()
    with suppress(asyncio.CancelledError):
        await cut_off
    service.refuse(409, "a related operation is in progress", on="interact")
    assert (await Chats(amigo, service.service_id, store=store, clock=clock).ask("c", "c")).text == "Late."


@pytest.mark.parametrize("failed_create", ["gone", "kept"])
async def test_a_first_turn_that_is_void_may_be_repeated(
    failed_create: Literal["gone", "kept"], clock: VirtualClock
) -> None:
    """The chat goes on whether or not Amigo keeps a conversation whose first turn failed."""
    quirks = AmigoQuirks(failed_create=failed_create)
    async with (
        AmigoSimulator([Error(503)], clock=clock, quirks=quirks) as service,
        amigo_sessions.session(service.url, clock=clock) as amigo,
    ):
        chats = Chats(amigo, service.service_id, clock=clock)
        with pytest.raises(InteractionVoidError):
            await chats.ask("c", "Hi", key=1)
        service.service("Fine.", service_id=service.service_id)
        assert [(await chats.ask("c", "Hi", key=key)).text for key in (1, 2)] == ["Fine.", "Fine."]


@pytest.mark.parametrize(
    "arguments",
    [
        {"chat": ""},
        {"chat": None},
        {"chat": True},
        {"chat": "\ud800"},
        {"chat": "a\0b"},
        {"prompt": " "},
        {"key": ""},
        {"key": 1.5},
        {"timeout": -1},
    ],
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
    """An invalid limit, target or timeout is refused at construction."""
    with pytest.raises(InvalidArgumentError):
        Chats(nairi, **{"target": "my-agent", **settings})  # type: ignore[arg-type]
