"""A conversation runs one turn at a time, in order, however many tasks ask."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from nairi_async import (
    InvalidArgumentError,
    NairiSession,
    OutcomeUnknownError,
    Prompt,
    RateLimitedError,
    RetryPolicy,
    TurnFailedError,
    WatchTimeoutError,
)
from nairi_async.testing import Done, Fail, Quirks, Say, Simulator

if TYPE_CHECKING:
    from nairi_async.dialogue import Dialogues
    from nairi_async.testing import VirtualClock

pytestmark = pytest.mark.anyio


async def test_prompts_continue_one_conversation(nairi: NairiSession, echo: Simulator) -> None:
    """The first prompt starts a conversation, the next continue it, and so does a resumed handle."""
    conversation = nairi.conversation("my-agent")
    assert conversation.job_id is None
    assert (await conversation.ask("a")).text == "1: a"
    assert (await conversation.ask("b")).text == "2: b"
    assert conversation.job_id is not None
    resumed = nairi.resume(conversation.job_id)
    assert (await resumed.ask("c")).text == "3: c"
    assert len({asked.job_id for asked in echo.prompts}) == 1


async def test_prompts_of_many_tasks_run_in_order(nairi: NairiSession, echo: Simulator) -> None:
    """Prompts of many tasks are sent one turn at a time, in the order of their calls, each with its own reply."""
    conversation = nairi.conversation("my-agent")
    replies = await asyncio.gather(*(conversation.ask(str(number)) for number in range(8)))
    assert [reply.text for reply in replies] == [f"{number + 1}: {number}" for number in range(8)]
    assert [asked.prompt for asked in echo.prompts] == [str(number) for number in range(8)]


async def test_send_watches_the_turn_it_begins(nairi: NairiSession, echo: Simulator) -> None:
    """`async for` over `send`, an awaited `send`, and `async with` all send the prompt once."""
    conversation = nairi.conversation("my-agent")
    assert [message.content async for message in conversation.send("a")] == ["1: a"]
    watch = await conversation.send("b")
    assert watch.turn == conversation.turn
    assert [asked.prompt for asked in echo.prompts] == ["a", "b"]
    assert [message.content async for message in watch] == ["2: b"]
    async with conversation.send("c") as watch:
        assert watch.turn is not None
        assert [message.content async for message in watch] == ["3: c"]
    assert len(echo.prompts) == 3


async def test_an_abandoned_watch_does_not_block_the_dialogue(nairi: NairiSession, echo: Simulator) -> None:
    """The next prompt waits for the end of the turn at the service, not for a reader of its messages."""
    conversation = nairi.conversation("my-agent")
    await conversation.send("a")
    assert (await conversation.ask("b")).text == "2: b"


async def test_a_failed_turn_does_not_end_the_dialogue(nairi: NairiSession, simulator: Simulator) -> None:
    """After TurnFailedError the next prompt is sent."""
    simulator.agent("my-agent", lambda prompt, _: [Fail("no")] if prompt == "a" else [Say("yes")])
    conversation = nairi.conversation("my-agent")
    with pytest.raises(TurnFailedError):
        await conversation.ask("a")
    assert (await conversation.ask("b")).text == "yes"


async def test_a_timeout_covers_the_turns_before(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock
) -> None:
    """A prompt that waits too long for its turn is not sent; the timeout is the whole wait."""
    simulator.agent("my-agent", [Done(after=100)])
    conversation = nairi.conversation("my-agent")
    await conversation.send("a")
    started_at = clock.monotonic()
    with pytest.raises(WatchTimeoutError):
        await conversation.ask("b", timeout=10)
    assert clock.monotonic() - started_at == pytest.approx(10)
    assert [asked.prompt for asked in simulator.prompts] == ["a"]


@pytest.mark.parametrize("steps", range(0, 60, 2))
async def test_a_cancelled_send_never_runs_a_prompt_twice(
    nairi: NairiSession, simulator: Simulator, steps: int
) -> None:
    """Cancelled anywhere, a prompt is sent at most once: the next step continues, or its outcome is unknown."""
    simulator.agent("my-agent", [Say("done", after=1)])
    conversation = nairi.conversation("my-agent")
    watch = conversation.send("a")
    task = asyncio.create_task(watch.__anext__())
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    try:
        seen = [message.content async for message in watch]
    except OutcomeUnknownError:
        assert len(simulator.prompts) <= 1
    else:
        assert seen == ["done"] or task.result().content == "done"
        assert len(simulator.prompts) == 1


async def test_a_lost_prompt_is_waited_for_before_the_next(simulator: Simulator, clock: VirtualClock) -> None:
    """After an unknown outcome nothing is sent until no turn of the conversation is running."""
    simulator.quirks = Quirks(overlapping="refuse")
    simulator.agent("my-agent", lambda prompt, _: [Say(f"re {prompt}", after=30)])
    policy = RetryPolicy(attempts=1)
    async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock, retry=policy) as nairi:
        conversation = nairi.conversation("my-agent")
        await conversation.ask("a")

        async def lost(request: web.Request, answer: web.StreamResponse) -> web.StreamResponse:
            if request.method == "POST":
                raise ConnectionResetError
            return answer

        simulator.intercept_response = lost
        watch = conversation.send("b")
        for _ in range(2):
            with pytest.raises(OutcomeUnknownError):
                await anext(watch)
        simulator.intercept_response = None
        assert (await conversation.ask("c")).text == "re c"
        assert [asked.prompt for asked in simulator.prompts] == ["a", "b", "c"]


async def test_bad_prompts_are_refused_at_the_call(nairi: NairiSession, simulator: Simulator) -> None:
    """`send` and `ask` check their arguments before anything is queued or sent."""
    conversation = nairi.conversation("my-agent")
    with pytest.raises(InvalidArgumentError):
        conversation.send("  ")
    with pytest.raises(InvalidArgumentError):
        await conversation.ask("a", attachment_ids=["x"] * 11)
    assert simulator.requests == []
    assert repr(conversation) == "Conversation(agent_id='my-agent', job_id=None)"


async def test_a_timeout_covers_the_prompt_itself(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock
) -> None:
    """A prompt that the service keeps refusing is not repeated beyond the timeout."""

    async def refuse(_: web.Request) -> web.StreamResponse:
        return web.json_response({"error": "slow down"}, status=429, headers={"Retry-After": "1"})

    simulator.intercept = refuse
    with pytest.raises(RateLimitedError):
        await nairi.ask("my-agent", "a", timeout=4)
    assert clock.monotonic() <= 4


async def test_a_prompt_whose_time_is_over_is_not_sent(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock
) -> None:
    """A prompt that waited longer than its timeout is not sent afterwards, and the error has no turn."""
    simulator.agent("my-agent", [Done(after=100)])
    conversation = nairi.conversation("my-agent")
    first = asyncio.create_task(conversation.ask("a"))
    await clock.sleep(1)
    second = asyncio.create_task(conversation.ask("b"))
    await clock.sleep(1)
    with pytest.raises(WatchTimeoutError, match="not sent") as late:
        await conversation.ask("c", timeout=5)
    assert late.value.turn is None
    await asyncio.gather(first, second)
    assert [asked.prompt for asked in simulator.prompts] == ["a", "b"]


async def test_a_closed_watch_sends_nothing(nairi: NairiSession, simulator: Simulator) -> None:
    """A prompt whose watch was closed before it was sent is not sent by awaiting the watch."""
    watch = nairi.conversation("my-agent").send("a")
    await watch.aclose()
    await watch
    assert simulator.requests == []


async def test_a_conversation_is_a_dialogue(nairi: NairiSession, simulator: Simulator) -> None:
    """Code that knows only `nairi_async.dialogue` can start a conversation, ask, and resume it by its id."""
    simulator.agent("my-agent", lambda prompt, _: [Say(f"re {prompt}")])

    async def chat(session: Dialogues) -> str:
        first = session.conversation("my-agent")
        await first.ask("one")
        assert first.id is not None
        return (await session.resume(first.id).ask("two")).text

    assert await chat(nairi) == "re two"


async def test_the_last_reply_is_found_from_another_handle(nairi: NairiSession, simulator: Simulator) -> None:
    """Another handle waits for the running turn, returns its reply, and leaves out one that is known."""
    simulator.agent("my-agent", lambda prompt, number: [Say(f"{number}: {prompt}", after=600)])
    conversation = nairi.conversation("my-agent")
    first = await conversation.ask("a")
    async with conversation.send("b"):
        resumed = nairi.resume(first.turn.job_id)
        with pytest.raises(WatchTimeoutError):
            await resumed.last_reply(timeout=5)
        last = await resumed.last_reply(after=first.turn.message_id)
    assert last is not None
    assert last.text == "2: b"
    assert await resumed.last_reply(after=last.turn.message_id) is None
    assert (await resumed.ask("c")).text == "3: c"
    simulator.agent("my-agent", [Fail("no")])
    with pytest.raises(TurnFailedError):
        await conversation.ask("d")
    with pytest.raises(TurnFailedError) as failed:
        await resumed.last_reply()
    assert failed.value.turn is not None


async def test_a_resumed_handle_waits_for_a_turn_of_its_session(nairi: NairiSession, simulator: Simulator) -> None:
    """A turn that the session began without the handle ends first: of `start`, or of an `ask_many` that gave it up."""
    simulator.quirks = Quirks(overlapping="refuse")
    simulator.agent("my-agent", lambda prompt, number: [Say(f"{number}: {prompt}", after=60)])
    turn = await nairi.start("my-agent", "a")
    assert (await nairi.resume(turn).ask("b")).text == "2: b"
    prompts = [Prompt(text, job_id=turn.job_id) for text in ("c", "d")]
    async with nairi.ask_many("my-agent", prompts, limit=1, timeout=40) as outcomes:
        errors = [outcome.error async for outcome in outcomes]
    assert [type(error) for error in errors] == [WatchTimeoutError, WatchTimeoutError]
    assert [asked.prompt for asked in simulator.prompts] == ["a", "b", "c", "d"]


async def test_a_conversation_that_has_not_begun_has_no_last_reply(nairi: NairiSession, simulator: Simulator) -> None:
    """It is known without a request; a bad id is refused."""
    assert await nairi.conversation("my-agent").last_reply() is None
    with pytest.raises(InvalidArgumentError):
        await nairi.conversation("my-agent").last_reply(after="two words")
    assert simulator.requests == []


async def test_a_dialogue_says_whether_a_turn_may_be_running(nairi: NairiSession, simulator: Simulator) -> None:
    """From the sending of a prompt to the end of its turn, however that end was seen; the id is known long before."""
    simulator.agent("my-agent", lambda prompt, _: [Fail("no", after=5)] if prompt == "fail" else [Done(after=5)])
    dialogue = nairi.conversation("my-agent")
    assert not dialogue.may_be_running
    asking = asyncio.create_task(dialogue.ask("a"))
    assert await asyncio.wait_for(dialogue.wait_for_id(), 5) == dialogue.id
    assert dialogue.may_be_running
    await asking
    assert not dialogue.may_be_running
    with pytest.raises(TurnFailedError):
        await dialogue.ask("fail")
    assert not dialogue.may_be_running
    async with dialogue.send("b") as watch:
        assert dialogue.may_be_running
        assert [message async for message in watch] == []
    assert not dialogue.may_be_running


@pytest.mark.parametrize("steps", range(0, 60, 3))
async def test_a_cancelled_prompt_is_known_to_run_or_not(nairi: NairiSession, simulator: Simulator, steps: int) -> None:
    """After a cancellation anywhere, a dialogue that says that nothing runs has sent nothing."""
    simulator.agent("my-agent", [Done(after=100)])
    dialogue = nairi.conversation("my-agent")
    task = asyncio.create_task(dialogue.ask("a"))
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    may_be_running = dialogue.may_be_running
    for _ in range(200):
        await asyncio.sleep(0)
    assert may_be_running or not simulator.prompts
