"""A session in hostile hands: cancelled twice, closed under its callers, on two loops, copied, given anything."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from nairi_async import (
    InvalidArgumentError,
    NairiSession,
    Outcome,
    Prompt,
    Reply,
    SessionClosedError,
    Turn,
    TurnFailedError,
)
from nairi_async.testing import Done, Fail, Quirks, Say, Simulator, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.anyio

TURN = Turn("job_1", "cmsg_1")
NOW = datetime.now(UTC)


@pytest.mark.parametrize("steps", range(0, 100, 5))
async def test_a_task_that_is_cancelled_twice_costs_no_other_its_turn(
    nairi: NairiSession, simulator: Simulator, steps: int
) -> None:
    """Of two tasks on one conversation one is cancelled three times, anywhere: the other has its reply."""
    simulator.quirks = Quirks(overlapping="refuse")
    simulator.agent("my-agent", lambda prompt, _: [Say(f"re {prompt}", after=3)])
    conversation = nairi.conversation("my-agent")
    first, second = (asyncio.create_task(conversation.ask(prompt)) for prompt in "ab")
    for _ in range(steps):
        await asyncio.sleep(0)
    for _ in range(3):
        first.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([first])
    assert (await second).text == "re b"
    assert (await conversation.ask("c")).text == "re c"
    asked = [prompt.prompt for prompt in simulator.prompts]
    assert asked in (["b", "c"], ["a", "b", "c"])


async def test_closing_the_session_ends_everything_that_waits(nairi: NairiSession, simulator: Simulator) -> None:
    """Watches, waits, queued prompts and bulk calls end with SessionClosedError, or have it as their outcome."""
    simulator.agent("my-agent", [Done(after=1000)])
    turn = await nairi.start("my-agent", "x")
    conversation = nairi.conversation("my-agent")

    async def watch_many() -> None:
        async with nairi.watch_many([turn]) as stream:
            assert [item async for item in stream] == []
            raise stream.errors[turn]

    async def ask_many() -> None:
        for outcome in [outcome async for outcome in nairi.ask_many("my-agent", ["a", "b"])]:
            assert isinstance(outcome.error, SessionClosedError)
        outcome.result()

    calls: list[Callable[[], Awaitable[object]]] = [
        watch_many,
        ask_many,
        lambda: anext(nairi.watch(turn)),
        lambda: conversation.ask("1"),
        lambda: conversation.ask("2"),
        lambda: nairi.wait(turn),
        lambda: nairi.reply(turn),
        lambda: nairi.resume(turn).last_reply(),
    ]
    tasks = [asyncio.ensure_future(call()) for call in calls]
    for _ in range(300):
        await asyncio.sleep(0)
    await nairi.aclose()
    done, pending = await asyncio.wait(tasks, timeout=10)
    assert pending == set()
    assert {type(task.exception()) for task in done} == {SessionClosedError}


def test_what_waits_in_one_loop_is_refused_in_another() -> None:
    """A conversation and a watch that are busy in one loop raise SessionClosedError in another, and never hang."""

    async def leave_busy() -> list[Callable[[], Awaitable[object]]]:
        clock = VirtualClock()
        simulator = await opened.enter_async_context(Simulator(clock=clock))
        session = NairiSession(simulator.api_key, base_url=simulator.url, clock=clock)
        nairi = await opened.enter_async_context(session)
        simulator.agent("my-agent", [Done(after=1000)])
        conversation = nairi.conversation("my-agent")
        watch, listing = conversation.send("a"), nairi.conversations("my-agent")
        left.extend(asyncio.ensure_future(call) for call in (anext(watch), conversation.ask("b"), anext(listing)))
        await asyncio.sleep(0)
        return [
            lambda: conversation.ask("c"),
            conversation.last_reply,
            lambda: anext(watch),
            lambda: anext(listing),
            lambda: nairi.ask("my-agent", "d"),
        ]

    async def use(calls: list[Callable[[], Awaitable[object]]]) -> None:
        for call in calls:
            with pytest.raises(SessionClosedError, match="another event loop"):
                await asyncio.wait_for(call(), 5)

    async def close() -> None:
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await opened.aclose()

    left: list[asyncio.Future[Any]] = []
    opened = AsyncExitStack()
    loop = asyncio.new_event_loop()
    calls = loop.run_until_complete(leave_busy())
    try:
        asyncio.run(use(calls))
    finally:
        loop.run_until_complete(close())
        loop.close()


async def test_two_consumers_share_the_messages_of_many_turns(nairi: NairiSession, simulator: Simulator) -> None:
    """Each message goes to one of them; a consumer that is cancelled while it waits takes none with it."""
    simulator.agent("my-agent", lambda prompt, _: [Say(f"re {prompt}", after=1 + int(prompt))])
    turns = [await nairi.start("my-agent", str(number)) for number in range(12)]
    seen: list[str] = []
    async with nairi.watch_many(turns) as stream:

        async def consume() -> None:
            async for _, message in stream:
                seen.append(message.content)

        consumers = [asyncio.create_task(consume()) for _ in range(2)]
        while len(seen) < 5:
            impatient = asyncio.create_task(anext(stream))
            await asyncio.sleep(0)
            impatient.cancel()
            result = (await asyncio.gather(impatient, return_exceptions=True))[0]
            seen += [result[1].content] if isinstance(result, tuple) else []
        await asyncio.gather(*consumers)
    assert sorted(seen) == sorted(f"re {number}" for number in range(12))


async def test_closing_inside_of_the_loop_ends_it(nairi: NairiSession, simulator: Simulator) -> None:
    """`aclose` in the body of `async for` ends the iteration of each kind of stream."""
    simulator.agent("my-agent", [Say("one"), Say("two"), Say("three", after=5)])
    turn = await nairi.start("my-agent", "x")
    outcomes = nairi.ask_many("my-agent", ["a", "b", "c"])
    async with nairi.watch_many([turn]) as many:
        for stream in (nairi.watch(turn), many, outcomes):
            count = 0
            async for _ in stream:
                count += 1
                await stream.aclose()
            assert count == 1


async def test_results_travel_and_handles_do_not(nairi: NairiSession, simulator: Simulator) -> None:
    """Replies and outcomes are pickled and copied, also with an error; a session and its handles are not."""
    simulator.agent("my-agent", lambda prompt, _: [Fail("no")] if prompt == "13" else [Say("yes")])
    for outcome in [outcome async for outcome in nairi.ask_many("my-agent", ["1", Prompt("13", key="k")])]:
        again: Outcome[Reply] = pickle.loads(pickle.dumps(outcome))  # noqa: S301 - made here
        assert (again.prompt, again.key, again.reply, again.turn) == (
            outcome.prompt,
            outcome.key,
            outcome.reply,
            outcome.turn,
        )
        assert copy.deepcopy(outcome).reply == outcome.reply
        if outcome.error is not None:
            with pytest.raises(TurnFailedError):
                again.result()
    conversation = nairi.conversation("my-agent")
    for handle in (nairi, conversation, nairi.watch(TURN), nairi.watch_many([TURN]), nairi.ask_many("a", ["b"])):
        with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
            pickle.dumps(handle)


async def test_a_session_may_be_subclassed(simulator: Simulator, clock: VirtualClock) -> None:
    """What a subclass overrides is used by those methods that are made of others."""

    class Terse(NairiSession):
        async def ask(self, agent_id: str, prompt: str, **options: Any) -> Any:
            return await super().ask(agent_id, f"{prompt} (in one word)", **options)

    simulator.agent("my-agent", lambda prompt, _: [Say(prompt)])
    async with Terse(simulator.api_key, base_url=simulator.url, clock=clock) as nairi:
        assert str(await nairi.ask("my-agent", "hi")) == "hi (in one word)"
        assert "Terse" in repr(nairi)


WRONG: list[Callable[[Any], Any]] = [
    lambda nairi: nairi.watch_many(None),
    lambda nairi: nairi.watch_many("job_1"),
    lambda nairi: nairi.watch_many([None]),
    lambda nairi: nairi.watch_many(TURN),
    lambda nairi: nairi.watch_many([TURN], after=["x"]),
    lambda nairi: nairi.watch_many([TURN], after={TURN: 5}),
    lambda nairi: nairi.watch_many([TURN], after={"job 1": "cmsg_1"}),
    lambda nairi: nairi.watch_many([TURN], progress=1),
    lambda nairi: nairi.watch_many([TURN], timeout="x"),
    lambda nairi: nairi.ask_many("a", None),
    lambda nairi: nairi.ask_many("a", Prompt("x")),
    lambda nairi: nairi.ask_many("a", b"abc"),
    lambda nairi: nairi.ask_many("a", {"a": 1}),
    lambda nairi: nairi.messages(None),
    lambda nairi: nairi.message(Turn),
    lambda nairi: nairi.attachments("x"),
    lambda nairi: nairi.conversations("a", status=5),
    lambda nairi: nairi.conversations("a", sort=b"x"),
    lambda nairi: nairi.sync("a", since={}),
    lambda nairi: nairi.ask("a", "p", attachments="path.txt"),
    lambda nairi: nairi.ask("a", "p", attachments=5),
    lambda nairi: nairi.ask("a", "p", into=()),
    lambda nairi: nairi.ask("a", "p", on_unknown=None),
    lambda nairi: nairi.resume(Reply),
    lambda nairi: nairi.conversation(None),
    lambda nairi: nairi.upload(5),
    lambda nairi: nairi.find_start("a", "p", sent_after=5),
    lambda nairi: nairi.find_start("a", "p", sent_after=NOW, exclude=5),
    lambda nairi: nairi.find_start("a", "p", sent_after=NOW, exclude="job_1"),
    lambda nairi: nairi.find_start("a", "p", sent_after=NOW, settled="x"),
    lambda nairi: nairi.download("a", attempt_timeout="x"),
    lambda nairi: nairi.watch("a", after=5),
    lambda nairi: nairi.resume("a").last_reply(after=5),
    lambda nairi: nairi.resume("a").send("x", progress=2),
]


@pytest.mark.parametrize("call", WRONG)
async def test_arguments_of_other_types_are_refused(nairi: NairiSession, simulator: Simulator, call: Any) -> None:
    """Callers are not all typed: what has another type is named in an error, before any request."""

    async def made() -> None:
        result = call(nairi)
        if inspect.isawaitable(result):
            await result

    with pytest.raises(InvalidArgumentError):
        await made()
    assert simulator.requests == []
