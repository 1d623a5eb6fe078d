"""Closing the session, or the pool that was lent to it, wakes everybody at once, with the outcome that is true."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import support
from amigo_sessions import ID, SIGNED_IN, session
from support import RawServer, answer

from nairi_async import ConflictError, InteractionUnknownError, RetryPolicy, SessionClosedError
from nairi_async.amigo import Limits
from nairi_async.clock import SystemClock
from nairi_async.testing.amigo import AmigoSimulator, Hang, Speak

if TYPE_CHECKING:
    from nairi_async import NairiSession
    from nairi_async.amigo import AmigoSession
    from nairi_async.testing import VirtualClock

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("lent", [False, True])
async def test_readers_and_waiters_are_woken(lent: bool) -> None:  # noqa: FBT001
    """A reader hears that its message was sent, waiters that theirs was not; at once in real time."""
    pool = aiohttp.ClientSession() if lent else None
    limits = Limits(messages=1, conversations=None, create=1, interact=None, finish=None)
    async with AmigoSimulator("Hello") as service:
        amigo = session(service.url, clock=SystemClock(), http=pool, limits=limits)
        async with amigo:
            dialogue = amigo.conversation(service.service_id)
            await dialogue.begin()
            service.service([Speak("one"), Hang()], service_id=service.service_id)
            stream = await dialogue.send("sent")
            assert len(await amigo.messages(str(dialogue.id))) == 1
            reading = asyncio.ensure_future(stream.reply())
            waiting = [
                asyncio.ensure_future(each)
                for each in (
                    dialogue.ask("in line"),
                    amigo.resume(str(dialogue.id)).finish(),
                    amigo.interact(str(dialogue.id), "in line too").reply(),
                    amigo.messages(str(dialogue.id)).__anext__(),
                    amigo.create_conversation(service.service_id, "held back by the limit").reply(),
                )
            ]
            await support.until(lambda: amigo.stats.waiting_calls == 2)
            started_at = time.monotonic()
            await (amigo.aclose() if pool is None else pool.close())
            outcomes: list[Any] = await asyncio.gather(reading, *waiting, return_exceptions=True)
            assert time.monotonic() - started_at < 10
        assert [type(each) for each in outcomes] == [InteractionUnknownError, *[SessionClosedError] * 5]
        assert [asked.message for asked in service.asked] == ["", "sent"]


async def test_a_pause_before_another_attempt_ends_with_the_session() -> None:
    """The session closes while a call waits to try again: it ends at once, and nothing more is sent."""
    refused = [answer(503, "{}")] * 3
    async with RawServer(SIGNED_IN, *refused) as server:
        amigo = session(server.url, clock=SystemClock(), retry=RetryPolicy(wait_initial=60, wait_max=60))
        async with amigo:
            call = asyncio.ensure_future(amigo.messages(ID).__anext__())
            await support.until(lambda: amigo.stats.retries == 1)
        with pytest.raises(SessionClosedError):
            await asyncio.wait_for(call, 10)
        assert amigo.stats.requests == 2


async def test_waiting_for_an_id_that_never_comes_ends_with_the_session(
    amigo: AmigoSession, nairi: NairiSession
) -> None:
    """The dialogues of both services say that their session was closed."""
    waiting = [
        asyncio.ensure_future(dialogue.wait_for_id()) for dialogue in (amigo.conversation(ID), nairi.conversation("a"))
    ]
    await asyncio.sleep(0)
    await amigo.aclose()
    await nairi.aclose()
    outcomes = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)
    assert [type(outcome) for outcome in outcomes] == [SessionClosedError, SessionClosedError]


async def test_closing_in_another_loop_is_refused(amigo: AmigoSession, nairi: NairiSession) -> None:
    """While the session's own loop runs: its calls go on."""
    for one in (amigo, nairi):
        with pytest.raises(SessionClosedError, match="close it there"):
            await asyncio.to_thread(asyncio.run, one.aclose())
    assert await nairi.agents()
    assert await amigo.services()


# Another process.


async def test_a_process_that_has_ended_leaves_a_turn_that_is_waited_for(
    service: AmigoSimulator, clock: VirtualClock
) -> None:
    """The first call after a restart waits for the turn that still runs, up to `idle_timeout`."""
    async with session(service.url, clock=clock) as amigo:
        dialogue = amigo.conversation(service.service_id)
        await dialogue.begin()
        service.service([Speak("one two three", every=50)], service_id=service.service_id)
        await anext(await dialogue.send("a"))
    service.service("Fine.", service_id=service.service_id)
    async with session(service.url, clock=clock) as amigo:
        handle = amigo.resume(str(dialogue.id))
        assert (await handle.ask("b")).text == "Fine."
        assert clock.monotonic() >= 90
        await handle.finish()
    async with session(service.url, clock=clock) as amigo:
        handle = amigo.resume(str(dialogue.id))
        with pytest.raises(ConflictError):
            await handle.ask("c")
        assert handle.is_completed


@pytest.mark.parametrize("status", [400, 403, 503])
async def test_many_prompts_go_on_when_tidying_up_is_refused(
    status: int, amigo: AmigoSession, service: AmigoSimulator
) -> None:
    """A conversation that could not be finished is tried again before each prompt, and never forgotten."""
    service.refuse(status, on="finish", times=20)
    outcomes = [outcome async for outcome in amigo.ask_many(service.service_id, ["a", "b"])]
    assert [outcome.error is None for outcome in outcomes] == [True, False]
    service.forgive()
    outcomes = [outcome async for outcome in amigo.ask_many(service.service_id, ["c", "d"])]
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert [asked.message for asked in service.asked] == ["a", "c", "d"]
    assert [row.is_finished async for row in amigo.conversations()] == [True] * 3
