"""One truth for each conversation, whichever handle, task or process asks."""

from __future__ import annotations

import asyncio
import gc
import threading
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

import pytest
import support
from amigo_sessions import ID, SIGNED_IN, TAKEN, chunked, lines, session
from support import Act, Drip, RawServer

from nairi_async import (
    ConflictError,
    InteractionUnknownError,
    InteractionVoidError,
    InvalidArgumentError,
    NairiError,
    OutcomeUnknownError,
    SessionClosedError,
    WatchTimeoutError,
)
from nairi_async.amigo import InteractionComplete
from nairi_async.testing.amigo import AmigoSimulator, Complete, Cut, Error, Hang, Speak

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from nairi_async.amigo import AmigoConversation, AmigoSession, AmigoStream
    from nairi_async.amigo.conversation_locks import ConversationLock
    from nairi_async.testing import VirtualClock

pytestmark = pytest.mark.anyio


async def begun(amigo: AmigoSession, service: AmigoSimulator) -> AmigoConversation:
    """Return a conversation that the agent has begun."""
    dialogue = amigo.conversation(service.service_id)
    await dialogue.begin()
    return dialogue


async def stopped(stream: AmigoStream) -> None:
    """Read the first event, and leave."""
    async with stream:
        await anext(stream)


# After a stop.


async def test_the_next_call_waits_for_a_turn_that_was_stopped(
    amigo: AmigoSession, service: AmigoSimulator, clock: VirtualClock
) -> None:
    """Whichever handle speaks next waits for the rest of the turn, and is not refused."""
    dialogue = await begun(amigo, service)
    service.service([Speak("one two", every=60), Complete(after=60)], service_id=service.service_id)
    await stopped(dialogue.send("a"))
    service.service("Fine.", service_id=service.service_id)
    assert (await amigo.resume(str(dialogue.id)).ask("b")).text == "Fine."
    assert clock.monotonic() >= 100
    service.service([Speak("one two", every=60), Complete(after=60)], service_id=service.service_id)
    await stopped(amigo.interact(str(dialogue.id), "c"))
    service.service("Fine.", service_id=service.service_id)
    assert (await amigo.interact(str(dialogue.id), "d").reply()).text == "Fine."
    assert [asked.message for asked in service.asked] == ["", "a", "b", "c", "d"]


@pytest.mark.parametrize("handle", ["same", "resumed", "session"])
async def test_finishing_waits_for_a_turn_that_was_stopped(
    handle: str, amigo: AmigoSession, service: AmigoSimulator, clock: VirtualClock
) -> None:
    """A busy conversation is never reported as finished; once it is quiet, it is finished."""
    dialogue = await begun(amigo, service)
    service.service([Speak("one two", every=30), Complete(after=30)], service_id=service.service_id)
    await stopped(dialogue.send("a"))
    if handle == "session":
        await amigo.finish(str(dialogue.id))
    else:
        await (dialogue if handle == "same" else amigo.resume(str(dialogue.id))).finish()
    assert clock.monotonic() >= 50
    assert [row.is_finished async for row in amigo.conversations()] == [True]
    assert dialogue.is_completed
    assert (await amigo.conversation(service.service_id).begin()).text


async def test_a_conversation_that_stays_busy_is_not_finished(
    amigo: AmigoSession, service: AmigoSimulator, clock: VirtualClock
) -> None:
    """After the idle timeout the conflict is raised, and the conversation does not count as completed."""
    dialogue = await begun(amigo, service)
    service.service([Speak("one two", every=400), Complete(after=400)], service_id=service.service_id)
    await stopped(dialogue.send("a"))
    with pytest.raises(ConflictError):
        await dialogue.finish()
    assert 250 < clock.monotonic() <= 310
    assert not dialogue.is_completed


async def test_every_handle_knows_that_a_conversation_is_over(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """Finished through one handle, or ended by the agent, it is over for all of them, and costs no request."""
    dialogue = await begun(amigo, service)
    other = amigo.resume(str(dialogue.id))
    await dialogue.finish()
    assert other.is_completed
    requests = amigo.stats.requests
    with pytest.raises(InvalidArgumentError, match="is over"):
        await other.ask("Hi")
    await other.finish()
    assert amigo.stats.requests == requests


async def test_a_handle_that_was_resumed_before_the_id_was_known_takes_its_turn(
    amigo: AmigoSession, service: AmigoSimulator
) -> None:
    """Where two handles turn out to be of one conversation, they have one line from then on."""
    service.service([Speak("one two three", every=5)], service_id=service.service_id)
    stream = await amigo.create_conversation(service.service_id, "a")
    other = amigo.resume(service.asked[0].conversation_id)
    asking = asyncio.ensure_future(other.ask("b"))
    assert (await stream.reply()).text == "one two three"
    service.service("Fine.", service_id=service.service_id)
    assert (await asking).text
    assert [asked.message for asked in service.asked] == ["a", "b"]


async def test_a_stray_id_does_not_move_a_stream() -> None:
    """An interaction stays in its conversation, whichever id a stray event names."""
    stray = chunked(lines({"type": "conversation-created", "conversation_id": "x"}))
    async with RawServer(SIGNED_IN, stray) as server, session(server.url) as amigo:
        stream = amigo.interact(ID, "Hi")
        with pytest.raises(InteractionUnknownError):
            await stream.reply()
        assert stream.conversation_id == ID


# Nothing waits on itself.


@pytest.mark.parametrize("call", ["finish", "session finish", "settle", "ask", "interact"])
async def test_a_call_from_the_reader_of_the_conversation_is_refused_at_once(
    call: str, amigo: AmigoSession, service: AmigoSimulator
) -> None:
    """A task that reads a stream would wait for itself; the error says what to do, and the stream goes on."""
    dialogue = await begun(amigo, service)
    id_ = str(dialogue.id)
    calls: dict[str, Any] = {
        "finish": dialogue.finish,
        "session finish": lambda: amigo.finish(id_),
        "settle": dialogue.settle,
        "ask": lambda: dialogue.ask("b"),
        "interact": lambda: amigo.interact(id_, "b").reply(),
    }
    async with dialogue.send("a") as stream:
        await anext(stream)
        with pytest.raises(InvalidArgumentError, match="aclose"):
            await calls[call]()
        assert (await stream.reply()).text == 'You said: "a"'
    assert (await dialogue.ask("b")).text


async def test_a_reader_can_finish_at_the_last_event(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """Where the interaction is complete, the rest of the stream is read first, and still handed over."""
    service.service(["Hello.", Complete(), Error(500, "no analysis", after=3.0)], service_id=service.service_id)
    dialogue = amigo.conversation(service.service_id)
    seen = []
    async for event in dialogue.send("Hi"):
        seen.append(event.type)
        if isinstance(event, InteractionComplete):
            await dialogue.finish()
    assert seen[-2:] == ["interaction-complete", "error"]
    assert dialogue.is_completed
    assert [row.is_finished async for row in amigo.conversations()] == [True]


async def test_a_task_that_has_ended_lets_go_of_the_stream_that_it_alone_read(
    amigo: AmigoSession, service: AmigoSimulator, clock: VirtualClock
) -> None:
    """A stream that is still referred to, though nothing can read it any more, does not hold its conversation."""
    dialogue = await begun(amigo, service)
    service.service([Speak("one two three four", every=1)], service_id=service.service_id)
    stream = dialogue.send("a")

    async def read() -> None:
        async for event in stream:
            if event.raw.get("sequence_number") == 2:
                raise ZeroDivisionError

    async def read_on() -> None:
        async for _ in stream:
            pass

    reading = asyncio.ensure_future(read())
    waiting = asyncio.ensure_future(dialogue.ask("b"))
    await asyncio.wait([reading])
    service.service("Fine.", service_id=service.service_id)
    assert (await waiting).text == "Fine."
    assert clock.monotonic() < 60
    assert isinstance(reading.exception(), ZeroDivisionError)
    with pytest.raises(InteractionUnknownError, match="closed before its end"):
        await read_on()


@pytest.mark.parametrize("steps", [1, 3, 5, 8])
async def test_a_prompt_that_was_cancelled_does_not_hold_its_conversation(
    steps: int, amigo: AmigoSession, service: AmigoSimulator, clock: VirtualClock
) -> None:
    """Also before its stream has begun, and while the cancelled task is still referred to."""
    dialogue = await begun(amigo, service)
    asking = asyncio.ensure_future(dialogue.ask("a"))
    for _ in range(steps):
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    assert (await amigo.resume(str(dialogue.id)).ask("b", timeout=1000)).text
    assert clock.monotonic() < 300


async def _iterate(stream: AmigoStream) -> None:
    async for _ in stream:
        pass


async def _enter(stream: AmigoStream) -> None:
    async with stream:
        await _iterate(stream)


READERS: dict[str, Callable[[AmigoStream], Coroutine[Any, Any, object]]] = {
    "reply": lambda stream: stream.reply(),
    "iterate": _iterate,
    "enter": _enter,
}


@pytest.mark.parametrize("steps", [1, 3, 9, 20])
@pytest.mark.parametrize("way", READERS)
async def test_a_stream_whose_reader_was_cancelled_does_not_hold_its_conversation(
    way: str, steps: int, amigo: AmigoSession, service: AmigoSimulator, clock: VirtualClock
) -> None:
    """At any moment, also before the response begins, and while the task and its stream are still referred to."""
    dialogue = await begun(amigo, service)
    service.service([Speak("one two", every=40, after=40)], service_id=service.service_id)
    stream = dialogue.send("a")
    reading = asyncio.ensure_future(READERS[way](stream))
    for step in range(steps + 2):
        if step >= steps:  # twice
            reading.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([reading])
    service.service("Fine.", service_id=service.service_id)
    assert (await amigo.resume(str(dialogue.id)).ask("b", timeout=1000)).text == "Fine."
    assert clock.monotonic() < 300
    assert [each.message for each in service.asked].count("a") <= 1
    with pytest.raises((InteractionUnknownError, InteractionVoidError)) if stream.is_sent else nullcontext():
        await stream.reply()
    assert amigo.stats.free_connections == 100


async def test_a_step_that_was_cut_off_in_a_task_of_its_own_can_be_resumed(
    amigo: AmigoSession, service: AmigoSimulator, clock: VirtualClock
) -> None:
    """A timeout around each step loses no event to a call that waits for its turn."""
    dialogue = await begun(amigo, service)
    service.service([Speak("one two", every=4, after=4)], service_id=service.service_id)
    stream, seen = dialogue.send("a"), []
    asking = None
    while True:
        step = asyncio.create_task(anext(stream))
        await asyncio.wait([step, asyncio.ensure_future(clock.sleep(1))], return_when="FIRST_COMPLETED")
        step.cancel()
        try:
            seen.append(await step)
        except asyncio.CancelledError:
            asking = asking or asyncio.ensure_future(amigo.resume(str(dialogue.id)).ask("b"))
        except StopAsyncIteration:
            break
    assert "".join(event.raw.get("message", "") for event in seen) == "one two"
    assert asking is not None
    assert (await asking).text


async def test_a_stream_whose_timeout_is_over_does_not_hold_its_conversation(
    amigo: AmigoSession, service: AmigoSimulator, clock: VirtualClock
) -> None:
    """No step of it can be taken any more, so that its reader need not leave it."""
    dialogue = await begun(amigo, service)
    service.service([Speak("one two", every=60)], service_id=service.service_id)
    stream = dialogue.send("a", timeout=50)
    for _ in range(2):
        with pytest.raises(WatchTimeoutError):
            await _iterate(stream)
    service.service("Fine.", service_id=service.service_id)
    assert (await dialogue.ask("b")).text == "Fine."
    assert clock.monotonic() < 300


async def test_the_handler_of_a_timeout_can_look_what_became_of_the_prompt(
    amigo: AmigoSession, service: AmigoSimulator
) -> None:
    """Where no response has begun, the error's own frames do not hold the conversation either."""
    dialogue = await begun(amigo, service)
    service.hang(on="interact")
    try:
        await dialogue.ask("a", timeout=5)
    except WatchTimeoutError:
        await dialogue.finish()
    assert dialogue.is_completed


# Closing.


async def test_closing_the_session_wakes_all_that_wait() -> None:
    """A reader, a message in line and one under way end at once, each with what is true of it."""
    async with RawServer(SIGNED_IN, Drip(chunked(lines(TAKEN)), 0.001), Act.HANG) as server:
        amigo = session(server.url)
        async with amigo:
            reading = asyncio.ensure_future(amigo.interact(ID, "a").reply())
            await support.until(lambda: len(server.seen) == 2)
            in_line = asyncio.ensure_future(amigo.interact(ID, "b").reply())
            other = asyncio.ensure_future(amigo.interact(ID[::-1], "c").reply())
            await support.until(lambda: len(server.seen) == 3)
        async with asyncio.timeout(10):
            results = await asyncio.gather(reading, in_line, other, return_exceptions=True)
    assert [type(result) for result in results] == [
        InteractionUnknownError,
        SessionClosedError,
        InteractionUnknownError,
    ]


async def test_a_stream_collected_in_another_thread_wakes_the_next_turn() -> None:
    """A finaliser that runs in another thread frees connection and turn through the loop."""
    async with AmigoSimulator([Speak("one"), Hang()]) as service, session(service.url) as amigo:
        stream = amigo.create_conversation(service.service_id, "a")
        await anext(stream)
        await anext(stream)
        lock = amigo._locks.of(str(stream.conversation_id))
        waiting = asyncio.ensure_future(_turn(lock))
        await asyncio.sleep(0)
        box = [stream]
        del stream

        def collect() -> None:
            box.clear()
            gc.collect()

        thread = threading.Thread(target=collect)
        thread.start()
        async with asyncio.timeout(5):
            await waiting
        thread.join()
        assert amigo.stats.free_connections == 100


async def _turn(lock: ConversationLock) -> None:
    async with await lock.reserve():
        pass


# What is said of turns that broke off.


async def test_another_turns_reply_is_not_taken(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """Of two equal messages, the reply of the one that was answered does not pass for the one that was lost."""
    dialogue = await begun(amigo, service)
    service.cut(on="interact")
    lost = dialogue.send("yes")
    with pytest.raises(OutcomeUnknownError):
        await lost.reply()
    answered = await amigo.interact(str(dialogue.id), "yes").reply()
    assert answered.text
    assert await lost.settle(timeout=20) is None


async def test_two_equal_messages_that_were_both_saved_are_distinguished_by_their_order(
    amigo: AmigoSession, service: AmigoSimulator
) -> None:
    """The service runs one at a time and in order, so two replies for two lost messages leave no doubt."""
    dialogue = await begun(amigo, service)
    service.service(lambda _, number: f"reply {number}", service_id=service.service_id)
    streams = []
    for _ in range(2):
        service.cut(on="interact", processed=True)
        streams.append(dialogue.send("yes"))
        with pytest.raises(OutcomeUnknownError):
            await streams[-1].reply()
    replies = [await stream.settle(timeout=60) for stream in streams]
    ids = [asked.interaction_id for asked in service.asked[1:]]
    assert [reply.interaction_id if reply else None for reply in replies] == ids


async def test_of_two_equal_messages_the_one_that_still_runs_is_awaited(
    amigo: AmigoSession, service: AmigoSimulator, clock: VirtualClock
) -> None:
    """One reply may be either's, until both are saved."""
    dialogue = await begun(amigo, service)
    streams = []
    for after in (0.0, 20.0):
        service.service([Speak(f"after {after}", after=after)], service_id=service.service_id)
        service.cut(on="interact", processed=True)
        streams.append(dialogue.send("yes"))
        with pytest.raises(OutcomeUnknownError):
            await streams[-1].reply()
    cut_at = clock.monotonic()
    replies = [await stream.settle(timeout=60) for stream in streams]
    assert [reply.text if reply else None for reply in replies] == ["after 0.0", "after 20.0"]
    assert 20 <= clock.monotonic() - cut_at < 60


@pytest.mark.parametrize("seed", range(6))
async def test_the_state_is_the_same_through_all_handles(
    seed: int, amigo: AmigoSession, service: AmigoSimulator
) -> None:
    """After any way of failing, all handles of a conversation agree, and the next prompt is answered."""
    dialogue = await begun(amigo, service)
    other = amigo.resume(str(dialogue.id))
    faults: list[Any] = [
        lambda: service.service([Cut(), Speak("x", after=9)], service_id=service.service_id),
        lambda: service.service([Speak("x"), Error(500)], service_id=service.service_id),
        lambda: service.cut(on="interact"),
        lambda: service.cut(on="interact", processed=True),
        lambda: service.refuse(403, on="interact"),
        lambda: service.service([Speak("x"), Complete(), Error(500)], service_id=service.service_id),
    ]
    faults[seed]()
    with suppress(NairiError):
        await dialogue.ask("a")
    assert (dialogue.id, dialogue.may_be_running, dialogue.is_completed) == (
        other.id,
        other.may_be_running,
        other.is_completed,
    )
    service.service("Fine.", service_id=service.service_id)
    assert (await other.ask("b")).text == "Fine."
    assert not dialogue.may_be_running or seed in {0, 2, 3}
    await dialogue.finish()
    assert other.is_completed


async def test_a_task_keeps_nothing_of_the_streams_that_it_has_read(
    amigo: AmigoSession, service: AmigoSimulator
) -> None:
    """A bot's task reads streams for months."""
    dialogue = await begun(amigo, service)
    task: Any = asyncio.current_task()
    before = len(task._callbacks or ())
    for _ in range(3):
        await dialogue.ask("a")
        stream = dialogue.send("a")
        assert [event async for event in stream]
        assert await anext(stream, None) is None
    async with dialogue.send("a") as stream:
        await anext(stream)
        during = len(task._callbacks or ())
        for _ in range(3):
            with pytest.raises(InvalidArgumentError):
                await dialogue.ask("b")
            with pytest.raises(InvalidArgumentError):
                await anext(dialogue.send("b"))
        assert len(task._callbacks or ()) == during
    assert len(task._callbacks or ()) == before
