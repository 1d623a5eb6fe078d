"""Who reads a stream: a conversation is free as soon as all that read it have ended, and never before."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest

from nairi_async import InteractionUnknownError, InvalidArgumentError
from nairi_async.testing.amigo import AmigoSimulator, Hang, Speak

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from nairi_async.amigo import AmigoConversation, AmigoSession, AmigoStream
    from nairi_async.amigo.events import Event
    from nairi_async.testing import VirtualClock

pytestmark = pytest.mark.anyio


@pytest.fixture
async def dialogue(amigo: AmigoSession, service: AmigoSimulator) -> AmigoConversation:
    """Open a conversation that the agent has begun."""
    dialogue = amigo.conversation(service.service_id)
    await dialogue.begin()
    return dialogue


async def _own_step(stream: AmigoStream) -> Event:
    """Take one step, as a program of the user's may in a task of its own."""
    return await anext(stream)


async def _reader(stream: AmigoStream) -> None:
    async for _ in stream:
        pass


async def _wait_for(stream: AmigoStream) -> None:
    with suppress(StopAsyncIteration):
        while True:
            await asyncio.wait_for(anext(stream), 60)


async def _between_steps(stream: AmigoStream) -> None:
    await asyncio.wait_for(anext(stream), 60)
    await asyncio.Event().wait()


async def _in_turns(stream: AmigoStream) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(_reader(stream))


async def _producer(stream: AmigoStream) -> None:
    send, receive = anyio.create_memory_object_stream[object](0)
    async with anyio.create_task_group() as group, send, receive:
        group.start_soon(_pass_on, stream, send.send)
        while True:
            await receive.receive()


async def _pass_on(stream: AmigoStream, send: Callable[[object], Awaitable[None]]) -> None:
    async for event in stream:
        await send(event)


async def _generator(stream: AmigoStream, kept: list[AsyncGenerator[Event]]) -> None:
    async def events() -> AsyncGenerator[Event]:
        async for event in stream:
            yield event

    kept.append(events())
    with suppress(StopAsyncIteration):
        while True:
            await anext(kept[-1])


@pytest.mark.parametrize(
    "read",
    [_reader, _wait_for, _between_steps, _in_turns, _producer, partial(_generator, kept=[]), _own_step],
    ids=["for", "wait_for", "between steps", "in turns", "producer", "generator", "one step"],
)
@pytest.mark.parametrize("is_first", [False, True], ids=["speaking", "silent"])
async def test_what_was_read_by_tasks_that_have_ended_is_let_go_of(
    read: Callable[[AmigoStream], Awaitable[None]],
    is_first: bool,  # noqa: FBT001
    dialogue: AmigoConversation,
    service: AmigoSimulator,
    clock: VirtualClock,
) -> None:
    """However they read it, and although the stream is still referred to by the task that made it."""
    service.service([Hang()] if is_first else [Speak("one two three"), Hang()], service_id=service.service_id)
    stream = dialogue.send("a")
    reading = asyncio.ensure_future(read(stream))
    await asyncio.wait([asyncio.ensure_future(clock.sleep(10))])
    reading.cancel()
    await asyncio.wait([reading])
    service.service("Fine.", service_id=service.service_id)
    start = clock.monotonic()
    assert (await asyncio.create_task(dialogue.ask("b"))).text == "Fine."
    assert clock.monotonic() <= start + 10 + 2  # the grace, and a conflict while the service gives up
    with pytest.raises(InteractionUnknownError, match="before its end"):
        await stream.reply()


async def _steps(stream: AmigoStream, step: Callable[[], Awaitable[Event]]) -> AsyncIterator[Event]:
    with suppress(StopAsyncIteration):
        while True:
            yield await step()


@pytest.mark.parametrize("way", ["for", "wait_for", "by hand", "resumed", "own step", "one has ended"])
async def test_a_stream_whose_reader_lives_is_not_taken_away(
    way: str, dialogue: AmigoConversation, service: AmigoSimulator, clock: VirtualClock
) -> None:
    """However it takes its steps, and however long it deals with each, another call waits for the end."""
    service.service([Speak("one two three four", every=2)], service_id=service.service_id)
    stream, seen, has_begun = dialogue.send("a"), list[str](), asyncio.Event()

    async def resumed() -> Event:
        while True:
            with suppress(TimeoutError):
                return await asyncio.wait_for(anext(stream), 0.001)

    async def read(pauses: list[float]) -> None:
        step: dict[str, Callable[[], Awaitable[Event]]] = {
            "wait_for": lambda: asyncio.wait_for(anext(stream), 60),
            "by hand": lambda: asyncio.create_task(anext(stream)),
            "resumed": resumed,
            "own step": lambda: asyncio.create_task(_own_step(stream)),
        }
        async for event in _steps(stream, step.get(way, stream.__anext__)):
            seen.append(event.type)
            has_begun.set()
            await clock.sleep(pauses.pop() if len(pauses) > 1 else pauses[0])

    if way == "one has ended":
        seen += [(await asyncio.create_task(_own_step(stream))).type]
    # Who takes its steps in tasks of its own has five seconds for the first pause.
    reading = asyncio.create_task(read([60, 3, 3]))
    await has_begun.wait()
    asking = asyncio.create_task(dialogue.ask("b"))
    await reading
    assert seen[0] == "user-message-available"
    assert seen[-1] == "interaction-complete"
    assert (await asking).text


@pytest.mark.parametrize("way", ["step", "opening"])
async def test_a_step_in_a_task_of_its_own_is_a_step_of_the_task_that_asked_for_it(
    way: str, dialogue: AmigoConversation
) -> None:
    """`asyncio.wait_for` ran it so before Python 3.12; a call that would wait for its own reader is refused anyway."""
    async with dialogue.send("a") as stream:
        await (asyncio.create_task(anext(stream)) if way == "step" else asyncio.wait_for(stream, 60))
        with pytest.raises(InvalidArgumentError, match="aclose"):
            await dialogue.finish()
    await dialogue.finish()


async def test_a_task_that_hands_its_stream_over_can_speak_behind_it(
    dialogue: AmigoConversation, service: AmigoSimulator
) -> None:
    """Who made a stream does not read it for that: its next call waits for the task that does."""
    service.service([Speak("one two three", every=2)], service_id=service.service_id)
    stream = dialogue.send("a")
    reading = asyncio.create_task(stream.reply())
    await asyncio.sleep(0)
    assert (await dialogue.ask("b")).text
    assert reading.done()
