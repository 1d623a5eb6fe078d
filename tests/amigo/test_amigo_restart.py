"""The reply to a message that a process had sent when it ended."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import support
from amigo_sessions import session

from nairi_async import InteractionUnknownError, InvalidArgumentError, WatchTimeoutError
from nairi_async.amigo import AmigoReply
from nairi_async.bots import Chats, MemoryStore
from nairi_async.testing.amigo import AmigoQuirks, AmigoSimulator, Complete, Cut, Hang, Speak

if TYPE_CHECKING:
    from nairi_async.amigo import AmigoSession
    from nairi_async.testing import VirtualClock

pytestmark = pytest.mark.anyio


async def restarted(service: AmigoSimulator, clock: VirtualClock, message: str) -> tuple[AmigoReply, str]:
    """Have one turn, then send a message in a session that ends at once; return that reply, and the conversation."""
    amigo = session(service.url, clock=clock)
    async with amigo:
        dialogue = amigo.conversation(service.service_id)
        first = await dialogue.ask("first")
        service.service([Speak("one"), Complete(after=200)], service_id=service.service_id)
        stream = await dialogue.send(message)
        assert stream.is_sent
    return first, str(dialogue.id)


@pytest.mark.parametrize("kept", ["keep", "void"])
async def test_a_lost_reply_is_found_after_a_restart_if_it_was_kept(kept: Any, clock: VirtualClock) -> None:
    """The service goes on for minutes: the reply is waited for. Where it kept nothing, that is never `None`."""
    async with AmigoSimulator("First.", clock=clock, quirks=AmigoQuirks(disconnect=kept)) as service:
        first, conversation_id = await restarted(service, clock, "second")
        async with session(service.url, clock=clock) as amigo:
            dialogue = amigo.resume(conversation_id)
            before = clock.monotonic()
            if kept == "keep":
                reply = await dialogue.last_reply(after=first)
                assert reply is not None
                assert (reply.text, reply.user_message) == ("one", "second")
                assert await dialogue.last_reply() == reply
                assert clock.monotonic() - before < 250
            else:
                with pytest.raises(InteractionUnknownError, match="no newer message"):
                    await dialogue.last_reply(after=first.message_id)
                assert 290 < clock.monotonic() - before < 310
                with pytest.raises(WatchTimeoutError):
                    await dialogue.last_reply(after=first, timeout=5)
            assert [asked.message for asked in service.asked] == ["first", "second"]


async def test_the_last_reply_is_none_only_when_that_is_certain(
    amigo: AmigoSession, service: AmigoSimulator, clock: VirtualClock
) -> None:
    """Once the conversation is over, nothing is waited for; until then another process may have spoken."""
    dialogue = amigo.conversation(service.service_id)
    assert await dialogue.last_reply() is None
    reply = await dialogue.ask("Hi")
    assert (await dialogue.last_reply() or reply).message_id == reply.message_id
    with pytest.raises(InteractionUnknownError):
        await dialogue.last_reply(after=reply)
    assert 290 < clock.monotonic() < 310
    await dialogue.finish()
    async with session(service.url, clock=clock) as other:
        handle = other.resume(str(dialogue.id))
        assert await handle.last_reply(after=reply) is None
        found = await handle.last_reply()
        assert found is not None
        assert found.text == reply.text
        assert handle.is_completed
    assert clock.monotonic() < 330
    for wrong in (7, "no id", AmigoReply(text="nothing is named")):
        with pytest.raises(InvalidArgumentError):
            await dialogue.last_reply(after=wrong)  # type: ignore[arg-type]


async def test_the_last_reply_waits_for_a_turn_of_its_own_session(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """A turn that was left is found; one that is being read is waited for."""
    dialogue = amigo.conversation(service.service_id)
    first = await dialogue.ask("Hi")
    service.service([Speak("a b", every=20), Cut(), Complete(after=40)], service_id=service.service_id)
    with pytest.raises(InteractionUnknownError):
        await dialogue.ask("cut")
    found = await dialogue.last_reply(after=first)
    assert found is not None
    assert found.user_message == "cut"
    service.service([Speak("c d", every=20)], service_id=service.service_id)
    asking = asyncio.ensure_future(dialogue.ask("whole"))
    await asyncio.sleep(0)
    assert await amigo.resume(str(dialogue.id)).last_reply(after=found) == await asking


async def test_a_timeout_is_in_virtual_time(amigo: AmigoSession, service: AmigoSimulator, clock: VirtualClock) -> None:
    """A stream that is silent, one that speaks for too long, and a wait in line end after virtual seconds."""
    service.service([Speak("a"), Hang()], service_id=service.service_id)
    stream = amigo.create_conversation(service.service_id, timeout=100)
    with pytest.raises(WatchTimeoutError):
        await stream.reply()
    assert clock.monotonic() == pytest.approx(100, abs=1)
    service.quirks = AmigoQuirks(one_unfinished=False)
    service.service([Speak("a b c d e f", every=30)], service_id=service.service_id)
    held = amigo.create_conversation(service.service_id, timeout=100)
    with pytest.raises(WatchTimeoutError):
        await held.reply()
    assert clock.monotonic() == pytest.approx(200, abs=1)
    first = await amigo.create_conversation(service.service_id)
    await anext(first)
    waiting = asyncio.ensure_future(amigo.interact(first.conversation_id or "", "b", timeout=40).reply())
    await first.reply()
    with pytest.raises(WatchTimeoutError):
        await waiting
    assert len(service.asked) == 3


async def test_a_bot_sends_the_reply_that_a_restart_lost(service: AmigoSimulator, clock: VirtualClock) -> None:
    """Ended in the middle of a turn, the bot delivers its reply afterwards, and asks nothing twice."""
    store = MemoryStore()
    async with session(service.url, clock=clock) as amigo:
        chats = Chats(amigo, service.service_id, store=store, clock=clock)
        await chats.ask("c", "a")
        service.service([Speak("Late."), Complete(after=100)], service_id=service.service_id)
        asking = asyncio.ensure_future(chats.ask("c", "b", key=2))
        await support.until(lambda: len(service.asked) == 2)
        asking.cancel()
        await asyncio.wait([asking])
    delivered: list[tuple[str, str]] = []

    async def deliver(chat: str, reply: Any) -> None:
        delivered.append((chat, reply.text))

    async def on_lost(chat: str, prompt: Any) -> None:
        raise AssertionError(chat)

    async with session(service.url, clock=clock) as amigo:
        chats = Chats(amigo, service.service_id, store=store, clock=clock)
        async with chats.recovering(deliver, on_lost):
            await clock.sleep(400)
    assert delivered == [("c", "Late.")]
    assert [asked.message for asked in service.asked] == ["a", "b"]
