"""Random handles, stops, cancellations, restarts and failures, each from one seed, in virtual time."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Any

import pytest
from amigo_sessions import session

from nairi_async import (
    InteractionUnknownError,
    InteractionVoidError,
    InvalidArgumentError,
    NairiError,
    OutcomeUnknownError,
    SessionClosedError,
)
from nairi_async.testing import VirtualClock
from nairi_async.testing.amigo import AmigoSimulator, Complete, Cut, Error, Speak

pytestmark = pytest.mark.anyio


class Talk:
    """One conversation, in which random callers speak through random handles."""

    def __init__(self, seed: int, service: AmigoSimulator, clock: VirtualClock) -> None:
        self.random = random.Random(seed)
        self.service = service
        self.clock = clock
        self.outcomes: dict[str, str] = {}
        service.service(lambda *_: self.script(), service_id=service.service_id)

    def script(self) -> list[Any]:
        """Return what the service does in one turn, for no longer than the idle timeout."""
        pause = self.random.choice([0.0, 0.1, 1.0, 20.0, 60.0])
        late = self.random.choice([0.0, 3.0, 40.0, 150.0])
        return self.random.choice(
            [
                [Speak("one two three", every=pause)],
                [Cut(after=pause), Speak("late", after=late)],
                [Speak("one two", every=pause), Cut(), Complete(after=late)],
                [Speak("x"), Error(500)],
                [Speak("x"), Complete(), Error(500, after=pause)],
            ]
        )

    async def open(self) -> None:
        """Open a session, and know nothing of the one before."""
        self.amigo = await session(self.service.url, clock=self.clock).__aenter__()

    async def begin(self) -> str:
        """Begin the conversation, and return its id."""
        await self.open()
        dialogue = self.amigo.conversation(self.service.service_id)
        while dialogue.id is None or not self.service.saved:
            with suppress(NairiError):
                await (dialogue.begin() if dialogue.id is None else dialogue.ask(f"begin {self.random.random()}"))
            with suppress(InteractionUnknownError):
                await dialogue.settle(timeout=400)
        return dialogue.id

    async def speak(self, conversation_id: str, text: str) -> None:
        """Say something in a random way, and note what the library says became of it."""
        dialogue = self.amigo.resume(conversation_id)
        way = self.random.choice(["reply", "leave", "cancel"])
        stream = dialogue.send(text) if self.random.random() < 0.5 else self.amigo.interact(conversation_id, text)
        self.outcomes[text] = "unknown"
        with suppress(OutcomeUnknownError, SessionClosedError, asyncio.CancelledError):
            try:
                if way == "leave":
                    async with stream:
                        await anext(stream)
                elif way == "cancel":
                    await self.cancelled(stream)
                else:
                    await stream.reply()
                    self.outcomes[text] = "saved"
            except InteractionVoidError:
                self.outcomes[text] = "void"
        if self.outcomes[text] == "unknown":
            with suppress(InteractionUnknownError, SessionClosedError):
                reply = await stream.settle(timeout=self.random.choice([5, 60, 600]))
                self.outcomes[text] = "saved" if reply is not None else "not kept"
                assert reply is None or reply.user_message in {None, text}

    async def cancelled(self, stream: Any) -> None:
        """Read a reply, and be cancelled at a random step of the loop."""
        reading = asyncio.ensure_future(stream.reply())
        for _ in range(self.random.choice([0, 1, 2, 5, 10, 20, 40, 80])):
            await asyncio.sleep(0)
        reading.cancel()
        await reading


@pytest.mark.parametrize("seed", range(25))
async def test_nothing_is_said_twice_lost_or_claimed_wrongly(seed: int) -> None:
    """What the library says of a message is true, and no call of its own making is refused."""
    clock = VirtualClock()
    async with AmigoSimulator(clock=clock) as service:
        talk = Talk(seed, service, clock)
        conversation_id = await talk.begin()
        for part in range(4):
            texts = [f"message {part}.{number}" for number in range(talk.random.randrange(1, 4))]
            speaking = [asyncio.ensure_future(talk.speak(conversation_id, text)) for text in texts]
            if talk.random.random() < 0.2:
                for _ in range(talk.random.randrange(200)):
                    await asyncio.sleep(0)
                await talk.amigo.aclose()
                closed_at = clock.monotonic()
                await asyncio.gather(*speaking)
                assert clock.monotonic() - closed_at < 1
                await talk.open()
                await talk.amigo.resume(conversation_id).settle()
            await asyncio.gather(*speaking)
        dialogue = talk.amigo.resume(conversation_id)
        with suppress(InvalidArgumentError):
            await dialogue.finish()
        assert dialogue.is_completed
        assert [row.is_finished async for row in talk.amigo.conversations(id=conversation_id)] == [True]
        kept = [row.message async for row in talk.amigo.messages(conversation_id, message_type="user-message")]
        await talk.amigo.aclose()
    asked = [each.message for each in service.asked]
    assert len(asked) == len(set(asked)) or asked.count("") > 1
    for text, outcome in talk.outcomes.items():
        assert asked.count(text) <= 1
        assert outcome == "unknown" or (text in kept) == (outcome == "saved"), (text, outcome)


@pytest.mark.parametrize("seed", range(8))
async def test_a_restart_finds_every_reply_that_was_kept(seed: int) -> None:
    """The process ends at a random step of a turn; the next one finds its reply if there is one, and sends nothing."""
    clock = VirtualClock()
    async with AmigoSimulator(clock=clock) as service:
        talk = Talk(seed, service, clock)
        conversation_id = await talk.begin()
        last = await talk.amigo.resume(conversation_id).last_reply()
        found: list[str] = []
        texts = [f"message {number}" for number in range(4)]
        for text in texts:
            asking = asyncio.ensure_future(talk.amigo.resume(conversation_id).ask(text))
            for _ in range(talk.random.randrange(120)):
                await asyncio.sleep(0)
            await talk.amigo.aclose()
            await asyncio.wait([asking])
            asking.exception()
            await talk.open()
            with suppress(InteractionUnknownError):
                reply = await talk.amigo.resume(conversation_id).last_reply(after=last)
                if reply is not None:
                    assert reply.user_message is not None
                    found.append(reply.user_message)
                    last = reply
        kept = [row.message async for row in talk.amigo.messages(conversation_id, message_type="user-message")]
        assert [text for text in kept if text in texts] == found
        assert [asked.message for asked in service.asked if asked.message in texts] == [
            text for text in texts if text in {asked.message for asked in service.asked}
        ]
        await talk.amigo.aclose()
