"""A 404 for a turn that this session began seconds ago comes from a replica that lags: the turn is not given up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from nairi_async import InvalidArgumentError, NairiSession, NotFoundError, Turn, WatchTimeoutError
from nairi_async.testing import Say, Simulator, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.anyio


def lagging(
    simulator: Simulator, clock: VirtualClock, seconds: float, path: str = "/messages", method: str = "GET"
) -> None:
    """Let requests whose path holds `path` get 404 for so long from now on."""
    until = clock.monotonic() + seconds

    async def not_found(request: web.Request) -> web.StreamResponse | None:
        is_missed = request.method == method and path in request.path and clock.monotonic() < until
        return web.json_response({"error": "not found"}, status=404) if is_missed else None

    simulator.intercept = not_found


async def watched(nairi: NairiSession, target: Turn | str) -> str:
    return [message.content async for message in nairi.watch(target)][-1]


async def sent(nairi: NairiSession) -> str:
    return [message.content async for message in nairi.conversation("my-agent").send("go")][-1]


async def started(nairi: NairiSession, read: Callable[[Turn], Awaitable[str]]) -> str:
    return await read(await nairi.start("my-agent", "go"))


async def waited(nairi: NairiSession, turn: Turn) -> str:
    await nairi.wait(turn)
    return "done"


async def read_all(nairi: NairiSession, turn: Turn) -> str:
    await nairi.messages(turn.job_id)
    await nairi.message(turn.message_id)
    return "done"


async def replied(nairi: NairiSession, turn: Turn) -> str:
    return (await nairi.reply(turn)).text


async def asked(nairi: NairiSession) -> str:
    return (await nairi.ask("my-agent", "go")).text


async def asked_in_conversation(nairi: NairiSession) -> str:
    return (await nairi.conversation("my-agent").ask("go")).text


WAYS: dict[str, Callable[[NairiSession], Awaitable[str]]] = {
    "ask": asked,
    "Conversation.ask": asked_in_conversation,
    "Conversation.send": sent,
    "reply": lambda nairi: started(nairi, lambda turn: replied(nairi, turn)),
    "wait": lambda nairi: started(nairi, lambda turn: waited(nairi, turn)),
    "watch": lambda nairi: started(nairi, lambda turn: watched(nairi, turn)),
    "watch the conversation": lambda nairi: started(nairi, lambda turn: watched(nairi, turn.job_id)),
    "message and messages": lambda nairi: started(nairi, lambda turn: read_all(nairi, turn)),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_a_new_turn_that_is_not_found_yet_is_read_again(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock, way: Callable[[NairiSession], Awaitable[str]]
) -> None:
    """Two seconds of 404 after a start cost no turn, in any way of waiting for it, and few requests."""
    simulator.agent("my-agent", [Say("done", after=5)])
    lagging(simulator, clock, 2)
    assert await way(nairi) == "done"
    assert len(simulator.requests) < 20


async def test_a_new_prompt_of_an_old_conversation_may_lag_too(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock
) -> None:
    """A continued conversation whose new message is not found yet is not given up either."""
    simulator.agent("my-agent", [Say("done", after=5)])
    conversation = nairi.conversation("my-agent")
    await conversation.ask("go")
    await clock.sleep(100)
    lagging(simulator, clock, 2, "/messages/")
    assert (await conversation.ask("more")).text == "done"


async def test_a_prompt_for_a_new_conversation_that_is_not_found_is_sent_again(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock
) -> None:
    """A 404 refuses the prompt, so it is sent again while the conversation is new, and runs once."""
    turn = await nairi.start("my-agent", "go")
    lagging(simulator, clock, 2, "/continue", "POST")
    await nairi.continue_(turn.job_id, "more")
    assert [asked.prompt for asked in simulator.prompts] == ["go", "more"]
    lagging(simulator, clock, 1e6, "/continue", "POST")
    started_at = clock.monotonic()
    with pytest.raises(NotFoundError):
        await nairi.continue_(turn.job_id, "even more")
    assert clock.monotonic() - started_at < 20
    assert len(simulator.prompts) == 2


async def test_a_prompt_cancelled_before_it_is_sent_again_is_not_lost(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock
) -> None:
    """The service has refused it, so the conversation goes on at once."""
    conversation = nairi.conversation("my-agent")
    await conversation.ask("go")
    lagging(simulator, clock, 2, "/continue", "POST")
    asking = asyncio.create_task(conversation.ask("more"))
    await clock.sleep(1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert any(request.status == 404 for request in simulator.requests)
    assert await conversation.ask("more")
    simulator.assert_asked("go", "more")


async def test_what_is_not_found_for_long_is_raised(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock
) -> None:
    """The reads are bounded: the 404 is raised after seconds, and at once where the turn is not new any more."""
    turn = await nairi.start("my-agent", "go")
    lagging(simulator, clock, 1e6)
    started_at = clock.monotonic()
    with pytest.raises(NotFoundError):
        await nairi.reply(turn)
    assert 5 < clock.monotonic() - started_at < 20
    await clock.sleep(20)
    before = len(simulator.requests)
    with pytest.raises(NotFoundError):
        await nairi.reply(turn)
    assert len(simulator.requests) == before + 1


async def test_a_turn_of_another_session_that_is_not_found_is_an_error_at_once(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock
) -> None:
    """Only the session that began a turn knows that it exists."""
    turn = await nairi.start("my-agent", "go")
    async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock) as other:
        lagging(simulator, clock, 2)
        before = len(simulator.requests)
        with pytest.raises(NotFoundError):
            await other.reply(turn)
        assert len(simulator.requests) == before + 1


async def test_a_lag_does_not_outlast_the_timeout(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock
) -> None:
    """With a short timeout, the wait ends with the timeout, and the error is one of the two."""
    turn = await nairi.start("my-agent", "go")
    lagging(simulator, clock, 60)
    with pytest.raises((NotFoundError, WatchTimeoutError)):
        await nairi.reply(turn, timeout=2)
    assert clock.monotonic() <= 2.1


class TestForeignIds:
    """A turn or cursor of another conversation is an error that says so, not an empty result."""

    async def test_a_cursor_of_another_conversation(self, nairi: NairiSession) -> None:
        """`watch` raises at its first step, for a turn and for a whole conversation."""
        one, two = [await nairi.ask("my-agent", "go") for _ in range(2)]
        for target in (one.turn, one.turn.job_id):
            for cursor in (two.messages[-1].id, two.turn.message_id):
                with pytest.raises(InvalidArgumentError, match=two.turn.job_id):
                    await anext(nairi.watch(target, after=cursor))

    async def test_a_turn_whose_ids_do_not_belong_together(self, nairi: NairiSession) -> None:
        """`reply`, `wait` and `watch` of such a turn raise instead of giving an empty reply."""
        one, two = [(await nairi.ask("my-agent", "go")).turn for _ in range(2)]
        wrong = Turn(one.job_id, two.message_id)
        for call in (nairi.reply(wrong), nairi.wait(wrong), anext(nairi.watch(wrong))):
            with pytest.raises(InvalidArgumentError, match=two.job_id):
                await call
