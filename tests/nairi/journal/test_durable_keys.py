"""Durable keys: the same key gives the same turn, in every process that uses the journal; nothing is asked twice."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from attrs import frozen
from support import SetClock, until

from nairi_async import (
    ConfigurationError,
    InvalidArgumentError,
    JournalError,
    NairiSession,
    NotFoundError,
    OutcomeUnknownError,
    Prompt,
    RateLimitedError,
    ReplyFormatError,
    SessionClosedError,
    Turn,
)
from nairi_async.testing import Say, Simulator, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

pytestmark = pytest.mark.anyio

AGENT = "my-agent"


@pytest.fixture
def echo(simulator: Simulator) -> Simulator:
    return simulator.agent(AGENT, lambda prompt, _: [Say(f"re {prompt}", after=5)])


@pytest.fixture
def process(echo: Simulator, clock: VirtualClock, tmp_path: Path) -> Callable[..., NairiSession]:
    """Return what makes a session as the next process would: it knows nothing but the journal."""

    def make(**settings: Any) -> NairiSession:
        path = tmp_path / "run.sqlite"
        return NairiSession(echo.api_key, **{"base_url": echo.url, "journal": path, "clock": clock, **settings})

    return make


def cut(request: web.Request, *_: object) -> Any:
    """Cut the connection of each prompt; as `intercept` before it runs, as `intercept_response` behind it."""

    async def answer() -> None:
        if request.method == "POST" and "attachments" not in request.path:
            await request.read()
            raise ConnectionResetError

    return answer()


def texts(simulator: Simulator) -> list[str]:
    return [one.prompt for one in simulator.prompts]


async def test_the_same_key_gives_the_same_turn(process: Callable[..., NairiSession], echo: Simulator) -> None:
    """In this session and in later ones, from every call, without a request for what the journal knows."""
    async with process() as nairi:
        first = await nairi.start(AGENT, "hello", key="a", attachments=[b"file"])
        more = await nairi.continue_(first, "more", key="b")
        replied = await nairi.ask(AGENT, "question", key="c")
        assert await nairi.start(AGENT, "hello", key="a", attachments=[b"file"]) == first
    asked = len(echo.requests)
    async with process() as nairi:
        assert await nairi.start(AGENT, "hello", key="a", attachments=[b"file"]) == first
        assert await nairi.continue_(first.job_id, "more", key="b") == more
        assert await nairi.start(AGENT, "question", key="c") == replied.turn
        assert len(echo.requests) == asked
        assert (await nairi.ask(AGENT, "question", key="c")).text == "re question"
    assert texts(echo) == ["hello", "more", "question"]


async def test_a_conversation_is_resumed_by_its_keys(process: Callable[..., NairiSession], echo: Simulator) -> None:
    """The handle becomes that of its first key's conversation; new prompts wait for what still runs there."""
    async with process() as nairi:
        conversation = nairi.conversation(AGENT)
        await conversation.ask("one", key="1")
        running = await nairi.continue_(conversation.turn or "", "two", key="2")
    async with process() as nairi:
        conversation = nairi.conversation(AGENT)
        assert (await conversation.ask("one", key="1")).text == "re one"
        third = await conversation.ask("three", key="3")
        assert (conversation.job_id, third.turn.job_id) == (running.job_id, running.job_id)
        # Whichever key comes first.
        other = nairi.conversation(AGENT)
        assert (await other.ask("two", key="2")).turn == running
        assert (await other.ask("one", key="1")).text == "re one"
    assert texts(echo) == ["one", "two", "three"]
    ends = [one.at for one in echo.prompts]
    assert ends[2] - ends[1] >= 5


OTHERS: dict[str, Callable[[NairiSession, Turn], Awaitable[Any]]] = {
    "text": lambda nairi, _: nairi.start(AGENT, "other", key="a"),
    "agent": lambda nairi, _: nairi.start("another-agent", "hello", key="a"),
    "mode": lambda nairi, _: nairi.start(AGENT, "hello", key="a", ask_mode=True),
    "bytes": lambda nairi, _: nairi.start(AGENT, "hello", key="a", attachments=[b"other"]),
    "path": lambda nairi, _: nairi.start(AGENT, "hello", key="a", attachments=["other.txt"]),
    "ids": lambda nairi, _: nairi.start(AGENT, "hello", key="a", attachment_ids=["att_1"]),
    "continuation": lambda nairi, turn: nairi.continue_(turn, "hello", key="a"),
    "conversation": lambda nairi, _: nairi.continue_("job_2", "more", key="b"),
    "start": lambda nairi, _: nairi.start(AGENT, "more", key="b"),
    "ask": lambda nairi, _: nairi.conversation(AGENT).ask("other", key="a"),
    "other handle": lambda nairi, _: nairi.resume("job_2").ask("more", key="b"),
}


@pytest.mark.parametrize("call", OTHERS.values(), ids=OTHERS)
async def test_a_key_belongs_to_one_prompt(
    process: Callable[..., NairiSession], echo: Simulator, call: Callable[[NairiSession, Turn], Awaitable[Any]]
) -> None:
    """Used for another prompt, agent, conversation or files, it is refused before any request."""
    async with process() as nairi:
        turn = await nairi.start(AGENT, "hello", key="a", attachments=[b"file"])
        await nairi.continue_(turn, "more", key="b")
    asked = len(echo.requests)
    async with process() as nairi:
        with pytest.raises(InvalidArgumentError, match="was used for another prompt"):
            await call(nairi, turn)
    assert len(echo.requests) == asked


@pytest.mark.parametrize("key", ["", "  ", 7, b"a", "x" * 1025, "\ud800"])
async def test_keys_are_checked(process: Callable[..., NairiSession], echo: Simulator, key: Any) -> None:
    """A key is a string that is not blank, not endless, and can be stored."""
    async with process() as nairi:
        with pytest.raises(InvalidArgumentError, match="key"):
            await nairi.start(AGENT, "hello", key=key)
    assert echo.requests == []


async def test_a_key_needs_an_open_journal(
    nairi: NairiSession, echo: Simulator, process: Callable[..., NairiSession]
) -> None:
    """Without `journal=` it is refused; before and after `async with` the session says that it is not open."""
    for call in (
        nairi.start(AGENT, "a", key="k"),
        nairi.continue_("job_1", "a", key="k"),
        nairi.ask(AGENT, "a", key="k"),
    ):
        with pytest.raises(InvalidArgumentError, match="needs a journal"):
            await call
    session = process()
    with pytest.raises(SessionClosedError, match="not open yet"):
        await session.start(AGENT, "a", key="k")
    async with session:
        pass
    with pytest.raises(SessionClosedError, match="closed"):
        await session.start(AGENT, "a", key="k")
    with pytest.raises(ConfigurationError, match="journal"):
        process(journal=7)
    assert echo.requests == []


@frozen
class Case:
    """What became of a prompt whose response was lost, and who asks."""

    has_arrived: bool
    continues: bool
    in_new_process: bool


CASES = [Case(*(bool(number & bit) for bit in (1, 2, 4))) for number in range(8)]


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_a_lost_response_is_looked_up(
    process: Callable[..., NairiSession], echo: Simulator, clock: VirtualClock, case: Case
) -> None:
    """The call says that it does not know; the next one with the key finds the turn, or sends what did not arrive."""
    async with process() as nairi:
        first = await nairi.start(AGENT, "hello", key="first")
        await nairi.wait(first)

        def send(session: NairiSession) -> Awaitable[Turn]:
            if case.continues:
                return session.continue_(first, "lost", key="k")
            return session.start(AGENT, "lost", key="k")

        setattr(echo, "intercept_response" if case.has_arrived else "intercept", cut)
        with pytest.raises(OutcomeUnknownError):
            await send(nairi)
        echo.intercept = echo.intercept_response = None
        lost_at = clock.monotonic()
        if not case.in_new_process:
            turn = await send(nairi)
    if case.in_new_process:
        async with process() as nairi:
            turn = await send(nairi)
    assert texts(echo) == ["hello", "lost"]
    assert echo.prompts[-1].message_id == turn.message_id
    assert (clock.monotonic() - lost_at > 59) is not case.has_arrived


@pytest.mark.parametrize("ahead", [-86_400.0, 86_400.0])
async def test_a_clock_that_is_set_loses_no_turn(
    process: Callable[..., NairiSession], echo: Simulator, clock: VirtualClock, ahead: float
) -> None:
    """A prompt whose response was lost is found although the machine's clock was set between loss and lookup."""
    machine = SetClock(clock)
    machine.ahead = -ahead
    async with process(clock=machine) as nairi:
        echo.intercept_response = cut
        with pytest.raises(OutcomeUnknownError):
            await nairi.start(AGENT, "hello", key="a")
        echo.intercept_response = None
        machine.ahead = ahead
        turn = await nairi.start(AGENT, "hello", key="a")
    assert [one.message_id for one in echo.prompts] == [turn.message_id]


async def test_no_prompt_waits_in_vain_for_the_services_time(
    process: Callable[..., NairiSession], echo: Simulator, clock: VirtualClock
) -> None:
    """If the service does not say what time it is, half of the prompt's own time is spent on it, and no more."""
    sent_at = list[float]()

    async def hang(request: web.Request) -> None:
        if request.method == "POST":
            sent_at.append(clock.monotonic())
        elif request.path.endswith(AGENT):
            with clock.stalled():
                await clock.sleep(1000)

    echo.intercept = hang
    async with process() as nairi:
        assert (await nairi.ask(AGENT, "hello", key="a", timeout=16)).text == "re hello"
    assert sent_at == [8.0]


async def test_reconcile_looks_up_and_sends_in_one_call(process: Callable[..., NairiSession], echo: Simulator) -> None:
    """With `on_unknown="reconcile"` a keyed prompt is looked up at once, and sent if it provably did not run."""
    left = 2

    async def lose(request: web.Request) -> None:
        nonlocal left
        if request.method == "POST" and left:
            left -= 1
            await cut(request)

    echo.intercept = lose
    async with process() as nairi:
        turn = await nairi.start(AGENT, "hello", key="k", on_unknown="reconcile")
        left = 9
        with pytest.raises(OutcomeUnknownError):
            await nairi.start(AGENT, "never", key="never", on_unknown="reconcile")
    assert [one.message_id for one in echo.prompts] == [turn.message_id]


async def test_identical_lost_prompts_have_a_turn_each(process: Callable[..., NairiSession], echo: Simulator) -> None:
    """Prompts with one text and several keys are found one by one; a twin without a key keeps its own turn."""
    async with process() as nairi:
        first = await nairi.start(AGENT, "hello", key="first")
        twin = await nairi.start(AGENT, "same")
        echo.intercept_response = cut
        lost = [nairi.start(AGENT, "same", key=f"start {number}") for number in range(3)]
        lost += [nairi.continue_(first, "same", key=f"continue {number}") for number in range(3)]
        assert {type(one) for one in await asyncio.gather(*lost, return_exceptions=True)} == {OutcomeUnknownError}
        echo.intercept_response = None
        calls = [nairi.start(AGENT, "same", key=f"start {number}") for number in range(3)]
        calls += [nairi.continue_(first, "same", key=f"continue {number}") for number in range(3)]
        found = await asyncio.gather(*calls)
    assert len({turn.message_id for turn in (*found, twin, first)}) == 8
    assert len(echo.prompts) == 8


async def test_calls_with_one_key_at_once_send_one_prompt(
    process: Callable[..., NairiSession], echo: Simulator
) -> None:
    """The second waits for the first, and gets its turn; another prompt under that key is refused."""
    async with process() as nairi:
        calls = [nairi.start(AGENT, "hello", key="k") for _ in range(5)]
        *turns, other = await asyncio.gather(*calls, nairi.start(AGENT, "other", key="k"), return_exceptions=True)
        assert len(set(map(str, turns))) == 1
        assert isinstance(other, InvalidArgumentError)
    assert texts(echo) == ["hello"]


@pytest.mark.parametrize("status", [404, 429])
async def test_a_refused_prompt_frees_its_key(
    process: Callable[..., NairiSession], echo: Simulator, status: int
) -> None:
    """It did not run, so the key may be used again, at once and for another prompt."""

    async def refuse(request: web.Request) -> web.Response | None:
        return web.json_response({"error": "no"}, status=status) if request.method == "POST" else None

    echo.intercept = refuse
    async with process() as nairi:
        with pytest.raises((RateLimitedError, NotFoundError)):
            await nairi.start(AGENT, "hello", key="k")
        echo.intercept = None
        await nairi.start(AGENT, "other", key="k")
    assert texts(echo) == ["other"]


async def test_a_message_of_someone_else_keeps_a_lookup_undecided(
    process: Callable[..., NairiSession], echo: Simulator, nairi: NairiSession
) -> None:
    """A prompt of unknown origin in the conversation may be the lost one in another form: the error names it."""
    async with process() as keyed:
        first = await keyed.start(AGENT, "hello", key="first")
        echo.intercept = cut
        with pytest.raises(OutcomeUnknownError):
            await keyed.continue_(first, "lost", key="k")
        echo.intercept = None
        foreign = await nairi.continue_(first, "from another program")
        with pytest.raises(OutcomeUnknownError) as caught:
            await keyed.continue_(first, "lost", key="k")
    assert [turn.message_id for turn in caught.value.candidates] == [foreign.message_id]
    assert "lost" not in texts(echo)


@pytest.mark.parametrize("times", [1, 2])
async def test_a_cancelled_call_can_be_repeated(
    process: Callable[..., NairiSession], echo: Simulator, times: int
) -> None:
    """Cancelled once or twice at any step, the call leaves what the next one needs: the prompt runs once."""
    async with process() as nairi:
        for passes in range(0, 60, 3):
            call = asyncio.create_task(nairi.start(AGENT, f"prompt {passes}", key=f"{passes}", attachments=[b"x"]))
            for _ in range(passes):
                await asyncio.sleep(0)
            for _ in range(times):
                call.cancel()
                await asyncio.sleep(0)
            await asyncio.wait([call])
        for passes in range(0, 60, 3):
            await nairi.start(AGENT, f"prompt {passes}", key=f"{passes}", attachments=[b"x"])
    assert sorted(texts(echo)) == sorted(f"prompt {passes}" for passes in range(0, 60, 3))


async def test_prompts_of_ask_many_keep_their_keys(process: Callable[..., NairiSession], echo: Simulator) -> None:
    """With a journal the keys of `Prompt`s are durable; the next process gets the same turns and replies."""
    prompts = [Prompt(f"prompt {number}", key=str(number)) for number in range(5)]
    seen = []
    for _ in range(2):
        async with process() as nairi:
            outcomes = [outcome async for outcome in nairi.ask_many(AGENT, prompts)]
        seen.append({outcome.key: (outcome.turn, outcome.result().text) for outcome in outcomes})
    assert seen[0] == seen[1]
    assert len(echo.prompts) == 5


async def test_repairs_have_keys_as_well(process: Callable[..., NairiSession], echo: Simulator) -> None:
    """What `ask(into=, repair=)` sends by itself is asked once, too, also where two keys differ only at their ends."""
    echo.agent(AGENT, lambda _, number: [Say("7" if number == 1 else "[7]", after=5)])
    for _ in range(2):
        async with process() as nairi:
            for end in ("1", "2"):
                key = "k" * 1023 + end
                assert (await nairi.ask(AGENT, "a list", key=key, into=list[int], repair=1)).value == [7]
    assert len(echo.prompts) == 4


async def test_a_key_takes_no_more_repairs_for_another_type(
    process: Callable[..., NairiSession], echo: Simulator
) -> None:
    """What a repair says depends on the type and the version; those of earlier calls are read again, and count."""
    texts_of = ["no number", "[7]", '{"a": 7}']
    echo.agent(AGENT, lambda _, number: [Say(texts_of[number - 1], after=5)])
    async with process() as nairi:
        assert (await nairi.ask(AGENT, "a list", key="k", into=list[int], repair=1)).value == [7]
    async with process() as nairi:
        with pytest.raises(ReplyFormatError) as caught:
            await nairi.ask(AGENT, "a list", key="k", into=dict[str, int], repair=1)
        assert caught.value.reply.text == "[7]"
        assert (await nairi.ask(AGENT, "a list", key="k", into=list[float], repair=1)).value == [7.0]
        assert len(echo.prompts) == 2
    echo.intercept_response = cut
    async with process() as nairi:
        with pytest.raises(OutcomeUnknownError):
            await nairi.ask(AGENT, "a list", key="k", into=dict[str, int], repair=2)
    echo.intercept_response = None
    async with process() as nairi:
        # The lost repair is found by the text that it had.
        assert (await nairi.ask(AGENT, "a list", key="k", into=dict[str, float], repair=2)).value == {"a": 7.0}
        with pytest.raises(InvalidArgumentError, match="used for another prompt"):
            await nairi.start(AGENT, "a prompt of one's own", key="k/repair-1")
    assert len(echo.prompts) == 3


async def test_the_file_is_private_and_holds_no_prompt(
    process: Callable[..., NairiSession], echo: Simulator, tmp_path: Path
) -> None:
    """All files have mode 0600, and neither prompts nor the API key are in them."""
    before = os.umask(0)
    try:
        async with process() as nairi:
            await nairi.start(AGENT, "a secret matter", key="k")
            files = [tmp_path / name for name in os.listdir(tmp_path)]  # noqa: PTH208 - names are enough
            assert len(files) >= 3
            assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
            content = b"".join(file.read_bytes() for file in files if not file.name.endswith("-lock"))
    finally:
        os.umask(before)
    assert b"secret matter" not in content
    assert echo.api_key.encode() not in content


async def test_files_that_are_no_journal_are_refused(
    process: Callable[..., NairiSession], echo: Simulator, tmp_path: Path
) -> None:
    """A journal in use, of another service, of another program, writable by others, or nowhere: a JournalError each."""
    async with process():
        with pytest.raises(JournalError, match="another session of this process"):
            await process().__aenter__()
    with pytest.raises(JournalError, match="belongs to"):
        await process(base_url="https://api.example.com").__aenter__()
    (tmp_path / "text").write_text("no database, but a text that is longer than a header " * 10)
    with closing(sqlite3.connect(tmp_path / "foreign")) as foreign:
        foreign.execute("CREATE TABLE theirs (x)")
    (tmp_path / "planted").touch()
    (tmp_path / "planted").chmod(0o666)
    refused = {"text": "another kind of file", "foreign": "another program", "planted": "chmod", "no/dir": "directory"}
    for name, reason in refused.items():
        with pytest.raises(JournalError, match=reason):
            await process(journal=tmp_path / name).__aenter__()
    assert echo.requests == []


async def test_a_full_disk_costs_only_the_calls_meanwhile(
    process: Callable[..., NairiSession], echo: Simulator
) -> None:
    """What cannot be written is not sent; what ran and could not be recorded is found once there is space again."""
    async with process() as nairi:
        first = await nairi.start(AGENT, "hello", key="first")
        journal = nairi._keys._prompts._journal

        async def limit(pages: int) -> None:
            await journal.submit(lambda file: file._db.execute(f"PRAGMA max_page_count = {pages}").fetchone())

        await limit(1)
        with pytest.raises(JournalError, match="the disk is full") as full:
            await nairi.start(
                AGENT, "x" * 9000, key="k" * 1000, attachment_ids=[f"att_{'x' * 900}{n}" for n in range(9)]
            )
        assert full.value.turn is None
        assert texts(echo) == ["hello"]
        assert await nairi.start(AGENT, "hello", key="first") == first
        await limit(1 << 30)
        assert await nairi.continue_(first, "more", key="more") != first


async def test_a_turn_that_could_not_be_recorded_is_found_again(
    process: Callable[..., NairiSession], echo: Simulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file that a backup holds while the response comes: the error has the turn, and the next call returns it."""
    monkeypatch.setattr("nairi_async._core.sqlite_file._BUSY_TIMEOUT", 0.02)
    async with process() as nairi:
        first = await nairi.start(AGENT, "hello", key="first")
        with closing(sqlite3.connect(tmp_path / "run.sqlite", isolation_level=None)) as backup:

            async def hold(request: web.Request, _response: object) -> None:
                if request.method == "POST":
                    backup.execute("BEGIN IMMEDIATE")

            for continues in (False, True):
                echo.intercept_response = hold
                with pytest.raises(JournalError, match="locked by another program") as caught:
                    await (nairi.continue_(first, "k", key="c") if continues else nairi.start(AGENT, "k", key="s"))
                backup.execute("ROLLBACK")
                echo.intercept_response = None
                found = await (nairi.continue_(first, "k", key="c") if continues else nairi.start(AGENT, "k", key="s"))
                assert found == caught.value.turn
    assert texts(echo) == ["hello", "k", "k"]


async def test_closing_writes_what_was_received(process: Callable[..., NairiSession], echo: Simulator) -> None:
    """A session that is closed, even by a cancelled task, stores the turns that it received, and frees the file."""

    async def use() -> None:
        async with process() as nairi:
            await nairi.start(AGENT, "hello", key="k")
            await asyncio.Event().wait()

    using = asyncio.create_task(use())
    await until(lambda: echo.prompts)
    using.cancel()
    await asyncio.sleep(0)
    using.cancel()
    await asyncio.wait([using])
    async with process() as nairi:
        await nairi.start(AGENT, "hello", key="k")
    assert texts(echo) == ["hello"]
