"""`ask_many` and `watch_many`: bounded, lazy and fair; a failure affects one turn only."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from nairi_async import (
    InvalidArgumentError,
    NairiSession,
    Prompt,
    PromptOutcome,
    SessionClosedError,
    Turn,
    TurnFailedError,
    WatchTimeoutError,
)
from nairi_async.testing import Done, Fail, Quirks, Say, Simulator, Thinking

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from nairi_async.testing import VirtualClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def echo(simulator: Simulator) -> Simulator:
    """Add an agent that replies after as many seconds as the prompt says, and fails for 13."""

    def script(prompt: str, _: int) -> list[Say | Fail]:
        return [Fail("unlucky", after=1)] if prompt == "13" else [Say(f"re {prompt}", after=1 + int(prompt))]

    return simulator.agent("my-agent", script)


async def test_outcomes_come_as_each_ends(nairi: NairiSession, echo: Simulator) -> None:
    """Each outcome names its prompt, its index and its turn; outcomes come in the order in which turns end."""
    outcomes = [outcome async for outcome in nairi.ask_many("my-agent", ["50", "5", "20"])]
    assert [(outcome.index, outcome.prompt) for outcome in outcomes] == [(1, "5"), (2, "20"), (0, "50")]
    assert [outcome.reply.text for outcome in outcomes if outcome.reply] == ["re 5", "re 20", "re 50"]
    assert {outcome.turn.message_id for outcome in outcomes if outcome.turn} == {
        asked.message_id for asked in echo.prompts
    }


async def test_a_failure_affects_no_other_prompt(nairi: NairiSession, echo: Simulator) -> None:
    """A failed turn and a bad prompt are errors in their own outcomes; the others have replies."""
    outcomes = {outcome.prompt: outcome async for outcome in nairi.ask_many("my-agent", ["1", "13", " ", "2"])}
    assert isinstance(outcomes["13"].error, TurnFailedError)
    assert outcomes["13"].turn is not None
    assert isinstance(outcomes[" "].error, InvalidArgumentError)
    assert [outcomes[prompt].error for prompt in "12"] == [None, None]


async def test_a_timeout_affects_one_prompt_only(nairi: NairiSession, echo: Simulator) -> None:
    """A prompt that takes too long ends with its error and its turn, and the others go on."""
    outcomes = {outcome.prompt: outcome async for outcome in nairi.ask_many("my-agent", ["100", "1"], timeout=20)}
    assert isinstance(outcomes["100"].error, WatchTimeoutError)
    assert outcomes["100"].turn is not None
    assert outcomes["1"].reply is not None


async def test_prompts_are_read_lazily_and_within_the_limit(nairi: NairiSession, echo: Simulator) -> None:
    """Of a million prompts only those that fit into the limit are read, however slow the consumer is."""
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        for _ in range(1_000_000):
            taken += 1
            yield "1"

    outcomes = nairi.ask_many("my-agent", endless(), limit=7)
    assert taken == 0
    for count in range(1, 20):
        await anext(outcomes)
        assert taken <= count + 7
    await outcomes.aclose()
    assert len(echo.prompts) <= 27
    assert [outcome async for outcome in outcomes] == []


async def test_reprs_say_how_far_things_are(nairi: NairiSession, echo: Simulator) -> None:
    """`repr` of the iterators shows what runs and what waits to be read."""
    outcomes = nairi.ask_many("my-agent", ["1", "50"])
    assert repr(outcomes) == "<AskMany: nothing sent yet>"
    await anext(outcomes)
    assert repr(outcomes) == "<AskMany: 1 prompts running, 0 outcomes to read>"
    await outcomes.aclose()
    assert repr(outcomes) == "<AskMany: closed>"
    listing = nairi.conversations("my-agent")
    assert repr(listing) == "<ConversationListing of 'my-agent': 0 conversations read, more to read>"
    assert len([row async for row in listing]) == 2
    assert repr(listing) == "<ConversationListing of 'my-agent': 2 conversations read, at the end>"
    assert repr(nairi.sync("my-agent")) == "<Sync of 'my-agent': 0 conversations read, more to read>"


async def test_prompts_may_come_from_an_async_source(nairi: NairiSession, echo: Simulator, clock: VirtualClock) -> None:
    """A slow source does not delay outcomes, and its error is raised after all of them."""

    async def slow() -> AsyncIterator[str]:
        yield "1"
        await clock.sleep(100)
        yield "2"
        raise LookupError("the source broke")

    outcomes = nairi.ask_many("my-agent", slow())
    assert (await anext(outcomes)).prompt == "1"
    assert clock.monotonic() < 10
    assert (await anext(outcomes)).prompt == "2"
    with pytest.raises(LookupError):
        await anext(outcomes)
    with pytest.raises(StopAsyncIteration):
        await anext(outcomes)


@pytest.mark.parametrize("way", ["break", "aclose", "async with"])
async def test_no_task_survives_the_iteration(nairi: NairiSession, echo: Simulator, way: str) -> None:
    """After `break`, `aclose()` or the end of the block, all tasks end at once."""
    before = asyncio.all_tasks()
    if way == "async with":
        async with nairi.ask_many("my-agent", ["1", "500", "900"]) as outcomes:
            await anext(outcomes)
    elif way == "aclose":
        outcomes = nairi.ask_many("my-agent", ["1", "500", "900"])
        await anext(outcomes)
        await outcomes.aclose()
    else:
        async for _ in nairi.ask_many("my-agent", ["1", "500", "900"]):
            break
    ours = {task for task in asyncio.all_tasks() - before if "fan_out" in repr(task) or "many" in repr(task)}
    _, pending = await asyncio.wait(ours, timeout=10) if ours else (ours, set())
    assert pending == set()


async def test_leaving_at_once_leaves_nothing_unawaited(
    nairi: NairiSession, echo: Simulator, recwarn: pytest.WarningsRecorder
) -> None:
    """However early the loop is left, no coroutine stays unawaited."""
    for passes in range(6):
        asking = nairi.ask_many("my-agent", ["1", "2", "3"])
        step = asyncio.ensure_future(anext(asking))
        for _ in range(passes):
            await asyncio.sleep(0)
        await asking.aclose()
        step.cancel()
        with suppress(asyncio.CancelledError, StopAsyncIteration):
            await step
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []


async def test_a_cancelled_step_loses_no_outcome(nairi: NairiSession, echo: Simulator) -> None:
    """`wait_for` around a step may time out repeatedly; every outcome still comes once."""
    outcomes = nairi.ask_many("my-agent", [str(number) for number in range(10)])
    seen: list[str] = []
    seconds = 0.001
    while len(seen) < 10:
        try:
            seen.append((await asyncio.wait_for(anext(outcomes), seconds)).prompt)
        except TimeoutError:
            seconds *= 1.05  # on a slow machine a step takes longer
    assert sorted(seen) == sorted(str(number) for number in range(10))


async def test_watch_many_gives_each_message_with_its_turn(nairi: NairiSession, echo: Simulator) -> None:
    """All messages of all turns come once; a turn that failed is in `errors` and affects no other."""
    turns = [await nairi.start("my-agent", prompt) for prompt in ("3", "13", "1")]
    async with nairi.watch_many([*turns, turns[0]]) as stream:
        seen = [(turn, message.content) async for turn, message in stream]
    assert sorted(content for _, content in seen) == ["nairid encountered error: unlucky", "re 1", "re 3"]
    assert dict(seen)[turns[0]] == "re 3"
    assert list(stream.errors) == [turns[1]]
    assert isinstance(stream.errors[turns[1]], TurnFailedError)


async def test_leaving_watch_many_ends_its_tasks(nairi: NairiSession, simulator: Simulator) -> None:
    """After the block no task polls."""
    simulator.agent("my-agent", [Say("one"), Done(after=10_000)])
    turns = [await nairi.start("my-agent", "go") for _ in range(5)]
    before = asyncio.all_tasks()
    async with nairi.watch_many(turns) as stream:
        await anext(stream)
    assert not {task for task in asyncio.all_tasks() - before if "fan_out" in repr(task) or "many" in repr(task)}


async def test_watch_many_must_be_open(nairi: NairiSession, echo: Simulator) -> None:
    """Before `async with`, after it, and opened twice: each is a SessionClosedError; a closed stream has ended."""
    turn = await nairi.start("my-agent", "1")
    stream = nairi.watch_many([turn])
    with pytest.raises(SessionClosedError, match="not open yet"):
        await anext(stream)
    with pytest.raises(SessionClosedError, match="not open yet"):
        stream.add(turn)
    async with stream:
        pass
    with pytest.raises(SessionClosedError, match="closed"):
        stream.add(turn)
    with pytest.raises(SessionClosedError, match="opened before"):
        await stream.__aenter__()
    assert [item async for item in stream] == []
    assert repr(stream) == "<WatchMany: closed, 0 turns running, 0 failed>"


async def test_turns_are_added_while_others_are_watched(nairi: NairiSession, echo: Simulator) -> None:
    """A turn may be added while the stream runs, and after it has ended: the iteration goes on."""
    first = await nairi.start("my-agent", "5")
    seen: list[str] = []
    async with nairi.watch_many() as stream:
        assert [item async for item in stream] == []
        stream.add(first)
        async for _, message in stream:
            seen.append(message.content)
            if len(seen) == 1:
                stream.add(first)
                stream.add(await nairi.start("my-agent", "7"))
        stream.add(await nairi.start("my-agent", "1"))
        seen += [message.content async for _, message in stream]
    assert seen == ["re 5", "re 7", "re 1"]


async def test_cursors_name_what_was_handed_over(nairi: NairiSession, simulator: Simulator) -> None:
    """Another stream continues at the cursors; a turn that is watched again continues where its watch ended."""
    simulator.agent("my-agent", [Say("one"), Say("two"), Say("three", after=100)])
    turn = await nairi.start("my-agent", "go")
    async with nairi.watch_many([turn]) as stream:
        _, message = await anext(stream)
        assert stream.cursors == {turn: message.id}
    async with nairi.watch_many([turn], after=stream.cursors, timeout=50) as rest:
        assert [message.content async for _, message in rest] == ["two"]
        assert isinstance(rest.errors[turn], WatchTimeoutError)
        rest.add(turn)
        assert rest.errors == {}
        with suppress(StopAsyncIteration):
            while True:
                assert (await anext(rest))[1].content == "three"
                break


async def test_conversations_are_watched_by_their_ids(nairi: NairiSession, echo: Simulator) -> None:
    """A job id stands for the whole conversation, user messages included; cursors and errors have the same keys."""
    first = await nairi.start("my-agent", "1")
    await nairi.wait(first)
    running = await nairi.continue_(first, "5")
    alone = await nairi.start("my-agent", "3")
    targets: list[Turn | str] = [first.job_id, alone, "job_gone"]
    async with nairi.watch_many(targets, after={first.job_id: first.message_id}) as stream:
        seen = [(target, message.content) async for target, message in stream]
        assert sorted(content for target, content in seen if target == first.job_id) == ["5", "re 1", "re 5"]
        assert [content for target, content in seen if target == alone] == ["re 3"]
        assert list(stream.errors) == ["job_gone"]
        stream.add(running.job_id, after=running.message_id)
        assert [message.content async for _, message in stream] == ["re 5"]


async def test_following_ends_with_the_stream(nairi: NairiSession, echo: Simulator, clock: VirtualClock) -> None:
    """With `follow` a stream goes on over turns that begin later, until it is closed."""
    first = await nairi.start("my-agent", "1")
    seen = []
    async with nairi.watch_many([first.job_id], follow=True) as stream:
        async for _, message in stream:
            seen.append(message.content)
            if message.content == "re 1":
                await clock.sleep(100)
                await nairi.continue_(first, "2")
            if message.content == "re 2":
                await stream.aclose()
    assert seen == ["1", "re 1", "2", "re 2"]


async def test_watch_many_gives_progress_on_demand(nairi: NairiSession, simulator: Simulator) -> None:
    """Progress messages come with `progress=True` only."""
    simulator.agent("my-agent", [Thinking("hm"), Say("done", after=10)])
    turn = await nairi.start("my-agent", "go")
    for progress, roles in ((False, {"assistant"}), (True, {"progress", "assistant"})):
        async with nairi.watch_many([turn], progress=progress) as stream:
            assert {message.role async for _, message in stream} == roles


async def test_closing_ends_a_waiting_consumer(nairi: NairiSession, simulator: Simulator) -> None:
    """`aclose` in one task ends the iteration that waits in another."""
    simulator.agent("my-agent", [Done(after=10_000)])
    async with nairi.watch_many([await nairi.start("my-agent", "go")]) as stream:
        waiting = asyncio.create_task(anext(stream, None))
        await asyncio.sleep(0)
        await stream.aclose()
        assert await waiting is None


async def test_an_outcome_is_its_reply_or_raises_its_error(nairi: NairiSession, echo: Simulator) -> None:
    """`result` returns the reply, and raises the error of a prompt that failed."""
    outcomes = {outcome.prompt: outcome async for outcome in nairi.ask_many("my-agent", ["1", "13"])}
    assert outcomes["1"].result().text == "re 1"
    with pytest.raises(TurnFailedError):
        outcomes["13"].result()
    assert all(isinstance(outcome, PromptOutcome) for outcome in outcomes.values())


async def test_hundreds_at_once(nairi: NairiSession, simulator: Simulator) -> None:
    """Five hundred prompts at once are each sent and answered once."""
    simulator.agent("my-agent", lambda prompt, _: [Say(prompt, after=3 + int(prompt) % 7)])
    prompts = [str(number) for number in range(500)]
    replies = [outcome.reply.text async for outcome in nairi.ask_many("my-agent", prompts, limit=500) if outcome.reply]
    assert sorted(replies) == sorted(prompts)
    assert len(simulator.prompts) == 500


@pytest.mark.parametrize("limit", [0, -1, 1.5, "3", True])
async def test_bad_limits_and_prompts_are_refused(nairi: NairiSession, limit: object) -> None:
    """A limit must be a whole number of at least one; a single string is refused as an iterable of prompts."""
    with pytest.raises(InvalidArgumentError):
        nairi.ask_many("my-agent", ["a"], limit=limit)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError):
        nairi.ask_many("my-agent", "a single prompt")
    with pytest.raises(InvalidArgumentError):
        nairi.watch_many(["job 1"])
    with pytest.raises(InvalidArgumentError):
        nairi.watch_many("job_1")
    with pytest.raises(InvalidArgumentError):
        nairi.watch_many([7])  # type: ignore[type-var]


async def test_prompts_have_keys_files_and_conversations(nairi: NairiSession, simulator: Simulator) -> None:
    """A key comes back in the outcome; prompts of one conversation are sent in order, one turn at a time."""
    simulator.quirks = Quirks(overlapping="refuse")
    simulator.agent("my-agent", lambda prompt, number: [Say(f"{number}: {prompt}", after=5)])
    first = await nairi.ask("my-agent", "begin")
    prompts: list[str | Prompt] = [
        Prompt("a", key="A", job_id=first.turn),
        "plain",
        Prompt("b", job_id=first.turn.job_id),
        Prompt("c", attachments=[b"x"]),
    ]
    outcomes = {outcome.prompt: outcome async for outcome in nairi.ask_many("my-agent", prompts)}
    assert [outcome.result().text for outcome in map(outcomes.get, ["a", "b", "plain", "c"]) if outcome] == [
        "2: a",
        "3: b",
        "1: plain",
        "1: c",
    ]
    assert (outcomes["a"].key, outcomes["b"].key) == ("A", None)
    (asked,) = (asked for asked in simulator.prompts if asked.prompt == "c")
    assert len(asked.attachment_ids) == 1


@pytest.mark.parametrize(
    "given",
    [
        Prompt("  "),
        Prompt("a", job_id="a b"),
        Prompt("a", key=7),  # type: ignore[arg-type]
        Prompt("a", attachments=[7]),  # type: ignore[list-item]
        7,
        None,
    ],
)
async def test_a_bad_prompt_is_an_error_in_its_outcome(nairi: NairiSession, simulator: Simulator, given: Any) -> None:
    """It affects no other prompt."""
    outcomes = {outcome.index: outcome async for outcome in nairi.ask_many("my-agent", [given, "b"])}
    assert isinstance(outcomes[0].error, InvalidArgumentError)
    assert outcomes[1].error is None
    assert [asked.prompt for asked in simulator.prompts] == ["b"]


@pytest.mark.parametrize("files", ["report.csv", b"x", 7])
def test_a_single_file_is_no_list_of_files(files: Any) -> None:
    """A path that stands alone would be read letter by letter."""
    with pytest.raises(InvalidArgumentError, match="iterable of files"):
        Prompt("a", attachments=files)
