"""A 404 for a turn that this session began seconds ago comes from a replica that lags: the turn is not given up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from nairi_async import InvalidArgumentError, NairiSession, NotFoundError, Turn, WatchTimeoutError
from nairi_async.testing import Done, Quirks, Say, Simulator, VirtualClock, in_memory_session

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


LISTED: dict[str, Callable[[NairiSession], Awaitable[str]]] = {
    **{way: WAYS[way] for way in ("ask", "Conversation.ask", "Conversation.send", "reply", "watch")},
    "watch the conversation": WAYS["watch the conversation"],
    "watch, then reply": lambda nairi: started(nairi, lambda turn: replied_after(nairi, turn)),
    "last_reply": lambda nairi: started(nairi, lambda turn: last_replied(nairi, turn)),
}


async def replied_after(nairi: NairiSession, turn: Turn) -> str:
    watch = nairi.watch(turn)
    async for _ in watch:
        pass
    return (await watch.reply()).text


async def last_replied(nairi: NairiSession, turn: Turn) -> str:
    reply = await nairi.resume(turn).last_reply()
    return reply.text if reply is not None else ""


@pytest.mark.parametrize("way", LISTED.values(), ids=LISTED)
async def test_a_reply_that_is_listed_long_after_the_end_is_not_lost(
    clock: VirtualClock, way: Callable[[NairiSession], Awaitable[str]]
) -> None:
    """Lists that are twenty seconds older than the status, and show replies a moment after the end, cost no reply."""
    simulator = Simulator(clock=clock, quirks=Quirks(list_lag=20.0, late_by=0.9, late_every=1))
    simulator.agent("my-agent", [Say("more", after=2), Say("done", after=3)])
    async with in_memory_session(simulator) as nairi:
        assert (await way(nairi)).endswith("done")
        assert clock.monotonic() < 5 + 2 + 30
        assert len(simulator.requests) < 40


async def test_a_list_that_stays_older_than_the_end_is_an_error_and_not_an_empty_reply(clock: VirtualClock) -> None:
    """After half a minute, or at the timeout, a typed error says that the turn has ended; reading again goes on."""
    simulator = Simulator(clock=clock, quirks=Quirks(list_lag=90.0))
    simulator.agent("my-agent", lambda prompt, _: [Say("x" * 400_000 if prompt == "heavy" else "done", after=5)])
    async with in_memory_session(simulator) as nairi:
        # In a heavy conversation also a watch reads the status by itself.
        heavy = await nairi.start("my-agent", "heavy")
        await clock.sleep(100)
        started_at = clock.monotonic()
        turn = await nairi.continue_(heavy, "go")
        watch, replies = nairi.watch(turn), asyncio.create_task(nairi.reply(turn, timeout=8))
        with pytest.raises(WatchTimeoutError, match="has ended") as caught:
            await anext(watch)
        assert (caught.value.turn, caught.value.status) == (turn, "completed")
        assert 30 < clock.monotonic() - started_at < 45
        assert isinstance(replies.exception(), WatchTimeoutError)
        with pytest.raises(WatchTimeoutError, match="has ended"):
            await nairi.reply(turn)
        await clock.sleep(40)
        assert [message.content async for message in watch] == ["done"]
        assert (await nairi.reply(turn)).text == "done"
        assert len(simulator.requests) < 80


@pytest.mark.parametrize("is_listed", [True, False])
async def test_what_a_current_list_lacks_is_not_waited_for(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock, *, is_listed: bool
) -> None:
    """A turn without a reply ends after the settling time, and a list that always calls it pending costs no reply."""
    simulator.agent("my-agent", [Say("done", after=5)] if not is_listed else [Done(after=5)])

    async def rewrite(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        if is_listed or not request.path.endswith("/messages"):
            return response
        assert isinstance(response, web.Response)
        assert isinstance(response.body, bytes)
        return web.Response(body=response.body.replace(b"completed", b"pending", 1), content_type="application/json")

    simulator.intercept_response = rewrite
    reply = await nairi.ask("my-agent", "go")
    assert (reply.text, clock.monotonic() < 10) == (("", True) if is_listed else ("done", False))
