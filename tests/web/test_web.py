"""Event streams for browsers: their events, the order of these, and when the work behind them stops."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import os
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st
from sse import ServerEvent, parsed
from support import until

from nairi_async import (
    AgentNotFoundError,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    ConflictError,
    ConnectionFailedError,
    DecodeError,
    InvalidArgumentError,
    NairiError,
    NairiSession,
    NotFoundError,
    OutcomeUnknownError,
    RateLimitedError,
    RequestTimeoutError,
    ServerError,
    ServerOutcomeError,
    SessionClosedError,
    StatusError,
    TooManyStreamsError,
    TurnFailedError,
    UnknownBatchError,
    UnreadableOutcomeError,
    WatchTimeoutError,
)
from nairi_async.bots import visitor_message
from nairi_async.models import Message
from nairi_async.testing import Done, Fail, Notice, Say, Simulator, Step, Text, Tool, VirtualClock
from nairi_async.web import EventStream, EventStreams, error_json, http_status
from nairi_async.web.event_format import event, message_event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import web

    from nairi_async.dialogue import Dialogue, Dialogues

pytestmark = pytest.mark.anyio


@pytest.fixture
async def streams(clock: VirtualClock) -> AsyncIterator[EventStreams]:
    async with EventStreams(clock=clock) as running:
        yield running


async def events_of(stream: EventStream) -> list[ServerEvent]:
    return [event async for event in parsed(stream)]


def contents(events: list[ServerEvent]) -> list[str]:
    return [event.data["content"] for event in events if event.name == "message"]


def working_tasks() -> list[object]:
    """Return the names of the tasks behind streams, which pull the next event or wait for a heartbeat."""
    names = (getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks())
    return [name for name in names if name in {"_pull", "VirtualClock.sleep"}]


async def test_a_turn_as_events(nairi: NairiSession, simulator: Simulator, streams: EventStreams) -> None:
    """Messages come with their ids, activities without one, and the end with the turn's status."""
    simulator.agent("my-agent", [Tool("Bash", input="ls", seconds=60), Say("Two files."), Notice("PR #7")])
    turn = await nairi.start("my-agent", "What is there?")
    events = await events_of(streams.watch(nairi.watch(turn.job_id, progress=True)))
    assert contents(events) == ["What is there?", "Two files.", "PR #7"]
    assert all(event.last_id == event.data["id"] for event in events if event.name == "message")
    assert {"text": "Bash: ls", "tools": 0} in [
        {name: event.data[name] for name in ("text", "tools")} for event in events if event.name == "activity"
    ]
    assert (events[-1].name, events[-1].data) == ("end", {"status": "completed"})


async def test_the_first_bytes_come_at_once(nairi: NairiSession, simulator: Simulator, streams: EventStreams) -> None:
    """The time before a reconnection is sent before anything is read, and the headers with it."""
    stream = streams.watch(nairi.watch("job_1"))
    assert await anext(stream) == b"retry: 2000\n"
    assert simulator.requests == []


@pytest.mark.parametrize("cut", range(8))
async def test_a_browser_resumes_after_the_last_event(
    nairi: NairiSession, simulator: Simulator, streams: EventStreams, cut: int
) -> None:
    """After any break, `Last-Event-ID` as the watch's cursor loses no message and repeats none."""
    simulator.agent("my-agent", [Text("hm"), Say("one", after=5), Text("so", after=5), Say("two", after=5), "three"])
    turn = await nairi.start("my-agent", "go")
    seen: list[ServerEvent] = []
    async with streams.watch(nairi.watch(turn.job_id, progress=True)) as broken:
        async for event in parsed(broken):
            seen.append(event)
            if len(seen) > cut:
                break
    after = seen[-1].last_id or None
    seen += await events_of(streams.watch(nairi.watch(turn.job_id, after=after, progress=True)))
    assert contents(seen) == ["go", "one", "two", "three"]


async def test_heartbeats_fill_a_long_pause(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock, streams: EventStreams
) -> None:
    """At most the heartbeat's time passes without a byte, and heartbeats cost no request."""
    simulator.agent("my-agent", [Say("done", after=600)])
    turn = await nairi.start("my-agent", "go")
    gaps, last = [], clock.monotonic()
    async for _ in streams.watch(nairi.watch(turn)):
        gaps.append(clock.monotonic() - last)
        last = clock.monotonic()
    assert max(gaps) <= 15
    assert len(gaps) > 30
    with_heartbeats = len(simulator.requests)
    turn = await nairi.start("my-agent", "again")
    assert [message.content async for message in nairi.watch(turn)] == ["done"]
    assert with_heartbeats <= 1.5 * (len(simulator.requests) - with_heartbeats)


async def test_a_heartbeat_interrupts_no_read(simulator: Simulator) -> None:
    """A service that takes longer to respond than a heartbeat is read once, not again with each heartbeat."""
    has_beaten = asyncio.Event()

    async def slow(request: web.Request) -> None:
        await has_beaten.wait()

    async with (
        NairiSession(simulator.api_key, base_url=simulator.url) as nairi,
        EventStreams(heartbeat=0.01, retry=timedelta(seconds=5)) as streams,
    ):
        turn = await nairi.start("my-agent", "go")
        simulator.intercept = slow
        simulator.agent("my-agent", "done")
        chunks = []
        async for chunk in streams.watch(nairi.watch(turn.job_id)):
            chunks.append(chunk)
            if chunks.count(b":\n") == 5:
                has_beaten.set()
            if b"message" in chunk:
                break
    assert chunks[0] == b"retry: 5000\n"
    assert chunks.count(b":\n") >= 5
    assert len(simulator.requests) == 2


async def test_of_many_activities_at_once_the_last_is_sent(
    nairi: NairiSession, simulator: Simulator, streams: EventStreams
) -> None:
    """A page that opens late is not sent line by line what the agent did before."""
    simulator.agent("my-agent", [*(Step(f"step {number}") for number in range(300)), Done(after=5)])
    turn = await nairi.start("my-agent", "go")
    events = await events_of(streams.watch(nairi.watch(turn.job_id, progress=True)))
    assert [event.data["text"] for event in events if event.name == "activity"] == ["step: step 299"]


async def test_cancelling_the_reader_stops_the_polling(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock, streams: EventStreams
) -> None:
    """Frameworks cancel the response of a browser that has gone: no request follows, and no task is left."""
    simulator.agent("my-agent", [Done(after=math.inf)])
    turn = await nairi.start("my-agent", "go")
    stream = streams.watch(nairi.watch(turn))
    reader = asyncio.create_task(events_of(stream))
    await until(lambda: len(simulator.requests) > 3)
    reader.cancel()
    await asyncio.wait({reader})
    assert reader.cancelled()
    await until(lambda: not working_tasks())
    count = len(simulator.requests)
    await clock.sleep(600)
    assert len(simulator.requests) == count
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_stream_that_is_dropped_stops_too(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock, streams: EventStreams
) -> None:
    """A stream that the framework drops between two heartbeats, without closing it, stops its work."""
    simulator.agent("my-agent", [Done(after=math.inf)])
    turn = await nairi.start("my-agent", "go")
    stream = streams.watch(nairi.watch(turn))
    while await anext(stream) != b":\n":
        pass
    del stream
    gc.collect()
    await until(lambda: not working_tasks())
    count = len(simulator.requests)
    await clock.sleep(600)
    assert len(simulator.requests) == count


async def test_a_slow_reader_slows_the_polling(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock, streams: EventStreams
) -> None:
    """At most one event is read ahead: a browser on a slow connection does not fill the memory."""
    simulator.agent("my-agent", [*(Say(f"{number}", after=60) for number in range(20))])
    turn = await nairi.start("my-agent", "go")
    stream = streams.watch(nairi.watch(turn))
    while b"message" not in await anext(stream):
        pass
    count = len(simulator.requests)
    await clock.sleep(600)
    assert len(simulator.requests) == count
    await stream.aclose()


async def test_many_browsers_share_the_reads(nairi: NairiSession, simulator: Simulator, streams: EventStreams) -> None:
    """Fifty browsers that watch one conversation cost less than two separate watches, and each gets everything."""
    simulator.agent("my-agent", [Say("one", after=60), Say("two", after=60)])
    turn = await nairi.start("my-agent", "go")
    assert contents(await events_of(streams.watch(nairi.watch(turn.job_id)))) == ["go", "one", "two"]
    alone = len(simulator.requests)
    turn = await nairi.start("my-agent", "go")
    pool = await asyncio.gather(*(events_of(streams.watch(nairi.watch(turn.job_id))) for _ in range(50)))
    assert all(contents(events) == ["go", "one", "two"] for events in pool)
    assert len(simulator.requests) - alone < 2 * alone


async def test_a_shutdown_ends_all_streams(nairi: NairiSession, simulator: Simulator, streams: EventStreams) -> None:
    """Open streams end at once, without an `end`, so that browsers resume elsewhere; later ones end at once too."""
    simulator.agent("my-agent", [Done(after=math.inf)])
    turn = await nairi.start("my-agent", "go")
    readers = [asyncio.create_task(events_of(streams.watch(nairi.watch(turn.job_id)))) for _ in range(3)]
    await until(lambda: len(simulator.requests) > 3)
    streams.end()
    for events in await asyncio.gather(*readers):
        assert [event.name for event in events] == ["message"]
    assert [chunk async for chunk in streams.watch(nairi.watch(turn))] == []


async def test_leaving_the_streams_ends_them(nairi: NairiSession, simulator: Simulator, clock: VirtualClock) -> None:
    """An application that ends before its responses leaves no task behind them."""
    simulator.agent("my-agent", [Done(after=math.inf)])
    turn = await nairi.start("my-agent", "go")
    async with EventStreams(clock=clock) as streams:
        reader = asyncio.create_task(events_of(streams.watch(nairi.watch(turn))))
        await until(lambda: len(simulator.requests) > 3)
        assert working_tasks()
    assert await reader == []
    await until(lambda: not working_tasks())


@pytest.mark.parametrize("is_handled", [True, False])
async def test_a_signal_ends_streams_and_reaches_the_former_handler(*, is_handled: bool) -> None:
    """The server's own handler is called too, and restored afterwards; an ignored signal stays ignored."""
    received: list[int] = []
    before = signal.signal(
        signal.SIGUSR1, (lambda number, _: received.append(number)) if is_handled else signal.SIG_IGN
    )
    installed = signal.getsignal(signal.SIGUSR1)
    try:
        async with EventStreams(signals=[signal.SIGUSR1]) as streams:
            stream = streams.ask(_Echo("waits"), "hello")
            reader = asyncio.create_task(events_of(stream))
            await asyncio.sleep(0)
            os.kill(os.getpid(), signal.SIGUSR1)
            assert await reader == []
        assert received == ([signal.SIGUSR1] if is_handled else [])
        assert signal.getsignal(signal.SIGUSR1) is installed
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_signal_without_a_handler_ends_the_process() -> None:
    """If no handler is installed, a signal has its default effect."""
    code = """
import asyncio, os, signal
from nairi_async.web import EventStreams
async def main():
    async with EventStreams():
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(30)
asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False)  # noqa: S603 - our own interpreter
    assert ended.returncode == -signal.SIGTERM


async def test_a_later_handler_stays() -> None:
    """A handler that was installed meanwhile is not replaced at the end."""
    before = signal.getsignal(signal.SIGUSR1)
    try:
        async with EventStreams(signals=[signal.SIGUSR1]):
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_outside_of_the_main_thread_no_signal_is_touched() -> None:
    """Python allows handlers only in the main thread; elsewhere streams work without them."""

    async def enter() -> object:
        async with EventStreams():
            return signal.getsignal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []
    thread = threading.Thread(target=lambda: seen.append(asyncio.run(enter())))
    thread.start()
    thread.join()
    assert seen == [before]


async def test_an_error_becomes_a_failure(nairi: NairiSession, simulator: Simulator, streams: EventStreams) -> None:
    """A failed turn, a missing conversation and an exceeded timeout each end the stream with one `failure`."""
    simulator.agent("my-agent", [Say("half of it"), Fail("out of memory")])
    turn = await nairi.start("my-agent", "go")
    events = await events_of(streams.watch(nairi.watch(turn)))
    assert contents(events)[0] == "half of it"
    assert events[-1].name == "failure"
    assert events[-1].data["error"] == "TurnFailedError"
    assert events[-1].data["message"] == "The agent could not finish this turn."
    assert not events[-1].data["transient"]
    events = await events_of(streams.watch(nairi.watch("job_01M7Z095SH19EPQAMMAQHYE1M2")))
    assert [(event.name, event.data["status"]) for event in events] == [("failure", 404)]
    simulator.agent("my-agent", [Done(after=math.inf)])
    turn = await nairi.start("my-agent", "go")
    events = await events_of(streams.watch(nairi.watch(turn, timeout=5)))
    assert [(event.data["error"], event.data["transient"]) for event in events] == [("WatchTimeoutError", True)]


async def test_a_lasting_failure_is_a_status(nairi: NairiSession, simulator: Simulator, streams: EventStreams) -> None:
    """A failure before the first event is raised by `open`: an `EventSource` that reconnects after one gives up."""
    simulator.agent("my-agent", [Fail("out of memory")])
    turn = await nairi.start("my-agent", "go")
    events = await events_of(streams.watch(nairi.watch(turn)))
    assert [event.name for event in events] == ["message", "failure"]
    for watch in (nairi.watch("job_01M7Z095SH19EPQAMMAQHYE1M2"), nairi.watch(turn, after=events[0].last_id)):
        stream = streams.watch(watch)
        with pytest.raises((NotFoundError, TurnFailedError)):
            await stream.open()
        assert [chunk async for chunk in stream] == []
    await until(lambda: not working_tasks())


async def test_a_failure_that_may_pass_is_an_event(
    nairi: NairiSession, simulator: Simulator, streams: EventStreams
) -> None:
    """A browser gives up at any status but 200: it reconnects by itself only after a stream."""
    simulator.agent("my-agent", [Done(after=math.inf)])
    turn = await nairi.start("my-agent", "go")
    stream = streams.watch(nairi.watch(turn, timeout=1))
    assert await stream.open() == 200
    assert [(event.name, event.data["transient"]) for event in await events_of(stream)] == [("failure", True)]


async def test_nothing_left_behind_the_cursor_is_204(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock, streams: EventStreams
) -> None:
    """A standard `EventSource` that reconnects after the end stops there; one with something left goes on."""
    simulator.agent("my-agent", [Say("one"), Say("two")])
    turn = await nairi.start("my-agent", "go")
    first = streams.watch(nairi.watch(turn.job_id))
    assert await first.open() == 200
    ids = [event.last_id for event in await events_of(first) if event.name == "message"]
    assert len(ids) == 3
    assert await streams.watch(nairi.watch(turn.job_id, after=ids[-1])).open() == 204
    stream = streams.watch(nairi.watch(turn.job_id, after=ids[1]))
    assert await stream.open() == 200
    assert contents(await events_of(stream)) == ["two"]
    simulator.agent("my-agent", [Say("late", after=60)])
    turn = await nairi.continue_(turn, "more")
    stream = streams.watch(nairi.watch(turn.job_id, after=turn.message_id))
    before = clock.monotonic()
    assert await stream.open() == 200
    assert clock.monotonic() - before <= 2
    assert contents(await events_of(stream)) == ["late"]


async def test_open_streams_are_bounded(nairi: NairiSession, simulator: Simulator, clock: VirtualClock) -> None:
    """One more than `max_streams` is refused with 503; a stream that has ended makes room."""
    async with EventStreams(max_streams=2, clock=clock) as streams:
        first = [streams.watch(nairi.watch("job_1")) for _ in range(2)]
        with pytest.raises(TooManyStreamsError) as caught:
            streams.watch(nairi.watch("job_1"))
        assert http_status(caught.value) == 503
        await first[0].aclose()
        assert "1 open" in repr(streams)
        streams.watch(nairi.watch("job_1"))


async def test_only_events_end_with_an_empty_line(
    nairi: NairiSession, simulator: Simulator, streams: EventStreams
) -> None:
    """Some clients take every block for an event, even a comment or the reconnection time."""
    simulator.agent("my-agent", [Say("one", after=40)])
    turn = await nairi.start("my-agent", "go")
    sent = b"".join([chunk async for chunk in streams.watch(nairi.watch(turn))]).decode()
    assert ":\n" in sent
    assert all("data: " in block for block in sent.removesuffix("\n\n").split("\n\n"))


@frozen
class _Answer:
    text: str


class _Echo:
    """A dialogue of another service."""

    may_be_running = False

    def __init__(self, dialogue_id: str | None = None) -> None:
        self.id = dialogue_id

    async def wait_for_id(self) -> str:
        assert self.id is not None
        return self.id

    async def ask(self, prompt: str, *, timeout: float | timedelta | None = None) -> _Answer:  # noqa: ARG002
        if self.id == "waits":
            await asyncio.Event().wait()
        if self.id == "fails":
            raise ConnectionFailedError("no answer")
        self.id = "dialogue_1"
        return _Answer(f"re {prompt}")


class _Echoes:
    def conversation(self, _target: str, /) -> Dialogue:
        return _Echo()

    def resume(self, dialogue_id: str, /) -> Dialogue:
        return _Echo(dialogue_id)


async def test_a_reply_of_any_service(nairi: NairiSession, simulator: Simulator, streams: EventStreams) -> None:
    """A prompt to a dialogue with any service gives its text and the dialogue's id."""
    simulator.agent("my-agent", lambda prompt, _: [Say(f"re {prompt}", after=60)])
    sessions: list[Dialogues] = [nairi, _Echoes()]
    for dialogues in sessions:
        dialogue = dialogues.conversation("my-agent")
        events = await events_of(streams.ask(dialogue, "hello"))
        assert [event.name for event in events] == ["answer", "end"]
        assert events[0].data == {"id": dialogue.id, "text": "re hello"}
    events = await events_of(streams.ask(_Echo("fails"), "hello"))
    assert [(event.name, event.data["transient"]) for event in events] == [("failure", True)]


async def test_closing_the_stream_of_a_reply_stops_the_polling(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock, streams: EventStreams
) -> None:
    """A browser that goes away ends the polling for its reply; the turn itself goes on at the service."""
    simulator.agent("my-agent", [Say("late", after=3600)])
    async with streams.ask(nairi.conversation("my-agent"), "hello") as stream:
        while await anext(stream) != b":\n":
            pass
    count = len(simulator.requests)
    await clock.sleep(600)
    assert len(simulator.requests) == count


@given(content=st.text(), message_id=st.text())
def test_no_content_breaks_out_of_an_event(content: str, message_id: str) -> None:
    """Any message is one event with one data line, and an id that cannot be sent is left out."""
    message = Message(id=message_id, job_id="job_1", role="assistant", status="completed", content=content)
    *ids, name, data, end, nothing = message_event(message).decode().split("\n")
    can_be_sent = message_id.isascii() and message_id.isprintable() and message_id != ""
    assert ids == ([f"id: {message_id}"] if can_be_sent else [])
    assert (name, end, nothing) == ("event: message", "", "")
    assert json.loads(data.removeprefix("data: "))["content"] == content


def test_an_event_without_an_id_keeps_the_last_one() -> None:
    """An event has no id field rather than an empty one, which would make the browser forget its position."""
    assert event("activity", "{}") == b"event: activity\ndata: {}\n\n"


@pytest.mark.parametrize(
    ("error", "status", "is_transient"),
    [
        (InvalidArgumentError("blank"), 400, False),
        (NotFoundError(404, "no such job"), 404, False),
        (ConflictError(409, "another call runs"), 409, False),
        (StatusError(422, "not a text"), 400, False),
        (AuthenticationError(401, "invalid API key"), 502, False),
        (RateLimitedError(429, "slow down"), 503, True),
        (SessionClosedError("closed"), 503, True),
        (RequestTimeoutError("too slow"), 504, True),
        (WatchTimeoutError("over"), 504, True),
        (ConnectionFailedError("refused"), 502, True),
        (DecodeError("no JSON"), 502, True),
        (OutcomeUnknownError("lost"), 502, False),
        (ServerOutcomeError("lost", 503, retry_after=1), 502, False),
        (UnreadableOutcomeError("no JSON"), 502, False),
        (TurnFailedError("broken"), 502, False),
        (UnknownBatchError("there is no batch", "host-7"), 404, False),
    ],
)
def test_errors_as_a_browser_sees_them(error: Any, status: int, is_transient: bool) -> None:  # noqa: FBT001
    """The status says whose fault it was, never that the visitor is not signed in; `transient` advises to try again."""
    assert http_status(error) == status
    document = error_json(error)
    assert (document["status"], document["transient"]) == (status, is_transient)
    json.dumps(document)


@pytest.mark.parametrize(
    ("error", "is_shown"),
    [
        (InvalidArgumentError("the prompt is blank"), True),
        (BadRequestError(400, "the prompt is too long"), True),
        (NotFoundError(404, "no such job"), True),
        (AuthenticationError(401, "key of /srv/app"), False),
        (ConflictError(409, "at host-7"), False),
        (RateLimitedError(429, "pool host-7"), False),
        (ServerError(500, "Traceback: /srv/app.py"), False),
        (ConnectionFailedError("10.0.0.7:8080 refused"), False),
        (RequestTimeoutError("10.0.0.7:8080"), False),
        (OutcomeUnknownError("POST /start"), False),
        (TurnFailedError("Traceback: /srv/agent.py"), False),
        (UnknownBatchError("there is no batch", "host-7"), False),
        (DecodeError("<html>host-7"), False),
        (ConfigurationError("NAIRI_API_KEY"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_people_are_told_names_nothing_of_the_service(
    error: NairiError,
    is_shown: bool,  # noqa: FBT001
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Outside of what they have sent themselves, people read one sentence for each class; the text goes to the log."""
    document = error_json(error)
    told = visitor_message(error)
    assert (document["message"] == str(error)) is is_shown
    assert (told == str(error)) is is_shown
    assert told.endswith(".") is not is_shown
    assert (str(error) in caplog.text) is not is_shown


@pytest.mark.parametrize(
    "error",
    [
        BadRequestError(400, "the prompt is too long", None, "POST", "/acme/conversation/"),
        AgentNotFoundError(404, "no such agent", None, "GET", "/acme/agents/x", close_names=("acme-billing",)),
    ],
)
def test_what_people_are_told_names_neither_paths_nor_other_agents(error: StatusError) -> None:
    """Paths hold the ids of organisation and conversation; names that are close are advice for the developer."""
    assert "acme" in str(error)
    assert visitor_message(error) == error_json(error)["message"] == f"{error.status} {error.message}"


@pytest.mark.parametrize("options", [{"heartbeat": 0}, {"heartbeat": "15"}, {"retry": -1}, {"heartbeat": math.inf}])
def test_bad_settings_are_refused(options: Any) -> None:
    """Invalid settings are refused at construction."""
    with pytest.raises(ConfigurationError):
        EventStreams(**options)


async def test_a_blank_prompt_is_refused_before_anything_is_sent(streams: EventStreams) -> None:
    """A blank prompt is refused while the application can still respond with a status."""
    with pytest.raises(InvalidArgumentError):
        streams.ask(_Echo(), " ")
