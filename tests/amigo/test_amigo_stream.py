from __future__ import annotations

import asyncio
import copy
import gc
import pickle
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
import support
from aiohttp import web
from amigo_sessions import COMPLETE, ERROR, ID, PIECE, SIGNED_IN, TAKEN, chunked, lines, session
from support import Act, Drip, Last, RawServer, answer, refusal

from nairi_async import (
    AuthenticationError,
    BadRequestError,
    ConflictError,
    ConnectionFailedError,
    DecodeError,
    InteractionUnknownError,
    InteractionVoidError,
    NairiError,
    NotFoundError,
    OutcomeUnknownError,
    RetryPolicy,
    ServerError,
    ServerOutcomeError,
    SessionClosedError,
    StatusError,
    UnreadableOutcomeError,
    WatchTimeoutError,
)
from nairi_async.amigo import (
    AmigoSession,
    ConversationCreated,
    InteractionComplete,
    NewMessage,
    UnknownEvent,
    UserMessageAvailable,
)
from nairi_async.amigo.interaction import MAX_LINE
from nairi_async.testing import VirtualClock
from nairi_async.testing.amigo import AmigoQuirks, AmigoSimulator, Complete, Cut, Error, Hang, Line, Speak

if TYPE_CHECKING:
    from collections.abc import Callable

    from support import Step

    from nairi_async._core.request import CallState, Request, Response

pytestmark = pytest.mark.anyio


async def begun(amigo: AmigoSession, service: AmigoSimulator) -> str:
    """Return the id of a conversation that the agent has begun."""
    reply = await amigo.create_conversation(service.service_id).reply()
    assert reply.conversation_id is not None
    return reply.conversation_id


async def test_the_agent_speaks_first(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """Without a first message the events are those of a greeting, and the stream names what it is."""
    async with amigo.create_conversation(service.service_id) as stream:
        seen = [event async for event in stream]
    assert [type(seen[0]), type(seen[1]), type(seen[-1])] == [ConversationCreated, NewMessage, InteractionComplete]
    assert stream.conversation_id == service.asked[0].conversation_id
    assert stream.interaction_id == service.asked[0].interaction_id
    assert (stream.is_saved, stream.is_ended, service.asked[0].kind) == (True, True, None)


@pytest.mark.parametrize("kind", ["user-message", "external-event"])
async def test_a_first_message_of_either_kind(amigo: AmigoSession, service: AmigoSimulator, kind: Any) -> None:
    """A user or an event can begin a conversation; the service gets it as it was said."""
    reply = await amigo.create_conversation(service.service_id, "A parcel came", initial_message_type=kind).reply()
    assert reply.text == 'You said: "A parcel came"'
    assert [(asked.kind, asked.message) for asked in service.asked] == [(kind, "A parcel came")]


async def test_a_message_is_answered(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """A message in a conversation streams its reply, for any characters."""
    said = 'Wo ist "mein" Paket?\r\n\u2028--boundary\x00 \U0001f4e6'
    async with amigo.interact(await begun(amigo, service), said) as stream:
        seen = [event async for event in stream]
    assert isinstance(seen[0], UserMessageAvailable)
    assert seen[0].user_message == said
    reply = await stream.reply()
    assert (reply.text, reply.user_message) == (f'You said: "{said}"', said)


@pytest.mark.parametrize("chunks", [1, 2, 7, 1000])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
async def test_a_stream_is_the_same_however_it_is_cut(chunks: int, line_end: Any, clock: VirtualClock) -> None:
    """Chunk boundaries at every byte, either line end and a missing last newline change nothing."""
    quirks = AmigoQuirks(chunks=chunks, line_end=line_end, last_newline=False, unknown_fields=True)
    async with AmigoSimulator(clock=clock, quirks=quirks) as service, session(service.url, clock=clock) as amigo:
        reply = await amigo.create_conversation(service.service_id, "a\u2028b").reply()
    assert reply.text == 'You said: "a\u2028b"'


async def test_the_documented_example_stream(clock: VirtualClock) -> None:
    """The example of the documentation, which does not fit its schema, is read."""
    quirks = AmigoQuirks(events="example", create_code=200)
    async with AmigoSimulator("Hi there!", clock=clock, quirks=quirks) as service, session(service.url) as amigo:
        reply = await amigo.create_conversation(service.service_id).reply()
    assert (reply.text, reply.conversation_id) == ("Hi there!", service.asked[0].conversation_id)


async def test_a_reply_that_is_saved_is_not_late(clock: VirtualClock) -> None:
    """A timeout that is over after `interaction-complete` costs nothing: the reply is there."""
    script = [Speak("Done."), Complete(), Hang()]
    async with AmigoSimulator(script, clock=clock) as service, session(service.url, clock=clock) as amigo:
        stream = amigo.create_conversation(service.service_id, timeout=20)
        assert (await stream.reply()).text == "Done."
        assert clock.monotonic() == 20
        assert amigo.stats.free_connections == 100


async def test_a_void_interaction_is_void_however_its_stream_is_left() -> None:
    """Left after its `error` event, it is still what the service said, and nothing has to be looked up."""
    script = [Speak("Le"), Error(503, "no model today")]
    async with AmigoSimulator(script, clock=VirtualClock()) as service, session(service.url) as amigo:
        async with amigo.create_conversation(service.service_id) as stream:
            while (await anext(stream)).type != "error":
                pass
        with pytest.raises(InteractionVoidError, match="no model today"):
            await stream.reply()
        requests = amigo.stats.requests
        assert await stream.settle() is None
        assert amigo.stats.requests == requests


# When it is sent.


async def test_nothing_is_sent_before_entering(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """Making a stream sends nothing; entering, awaiting or the first step does, once."""
    streams = [amigo.create_conversation(service.service_id, str(n)) for n in range(3)]
    await asyncio.sleep(0)
    assert not service.asked
    async with streams[0] as entered:
        await support.until(lambda: len(service.asked) == 1)
        assert (await entered.reply()).text
    await amigo.finish(entered.conversation_id or "")
    awaited = await streams[1]
    assert len(service.asked) == 2
    await awaited
    await awaited.reply()
    await amigo.finish(awaited.conversation_id or "")
    assert isinstance(await anext(streams[2]), ConversationCreated)
    await streams[2].reply()
    assert [asked.message for asked in service.asked] == ["0", "1", "2"]


async def test_a_refused_stream_is_raised_on_entering(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """What refuses the request is raised where it is sent, typed, with the conversation; it can be tried again."""
    conversation = await begun(amigo, service)
    service.refuse(404, "no such conversation", on="interact")
    stream = amigo.interact(conversation, "Hi")
    with pytest.raises(NotFoundError, match="no such conversation") as caught:
        await stream
    assert caught.value.conversation_id == conversation
    assert caught.value.path == f"/simulated/conversation/{conversation}/interact"
    assert (await stream.reply()).text == 'You said: "Hi"'


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, BadRequestError), (401, AuthenticationError), (409, ConflictError), (422, NairiError), (403, NairiError)],
)
async def test_refusals_are_typed_with_their_text(
    status: int, kind: type[NairiError], amigo: AmigoSession, service: AmigoSimulator
) -> None:
    """A status that is not success is its typed error, with the service's own words."""
    conversation = await begun(amigo, service)
    service.refuse(status, "not like this", on="interact", times=2)
    with pytest.raises(kind, match=f"{status}.*not like this"):
        await amigo.interact(conversation, "Hi")
    assert len(service.asked) == 1


@pytest.mark.parametrize("status", [429, 409])
async def test_a_new_conversation_is_tried_again_where_it_was_refused(
    status: int, amigo: AmigoSession, service: AmigoSimulator
) -> None:
    """A rate limit, and a conflict at the beginning, mean that nothing ran: the prompt is sent again."""
    service.refuse(status, on="create", times=2)
    assert (await amigo.create_conversation(service.service_id, "Hi").reply()).text
    assert len(service.asked) == 1


# How it ends.


async def test_an_error_before_completion_is_void(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """All events are handed over, then the typed error comes, again and again; the same words can be sent anew."""
    conversation = await begun(amigo, service)
    service.service([Speak("Let me"), Error(503, "no model today")], service_id=service.service_id)
    stream, seen = amigo.interact(conversation, "Hi"), []

    async def read() -> None:
        async for event in stream:
            seen.append(event.type)  # noqa: PERF401 - the iteration raises

    with pytest.raises(InteractionVoidError, match="no model today") as caught:
        await read()
    assert seen[-1] == "error"
    assert (caught.value.status, caught.value.conversation_id) == (503, conversation)
    for _ in range(2):
        with pytest.raises(InteractionVoidError):
            await anext(stream)
    with pytest.raises(InteractionVoidError):
        await stream.reply()
    service.service("Fine.", service_id=service.service_id)
    assert (await amigo.interact(conversation, "Hi").reply()).text == "Fine."


async def test_an_error_after_completion_is_a_warning(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """The interaction counts; the reply says that the post-processing failed."""
    service.service(["Done.", Complete(), Error(500, "no analysis")], service_id=service.service_id)
    async with amigo.create_conversation(service.service_id) as stream:
        assert [event.type async for event in stream][-1] == "error"
        reply = await stream.reply()
    assert reply.text == "Done."
    assert reply.warning is not None
    assert reply.warning.error_description == "no analysis"


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("said", [(), ("Let me",)])
async def test_a_stream_that_breaks_off_is_never_silent(
    clean: Any, said: Any, amigo: AmigoSession, service: AmigoSimulator
) -> None:
    """A body that ends without a word about the outcome is an unknown outcome; it is not sent again."""
    service.service([*said, Cut(clean=clean), Complete()], service_id=service.service_id)
    stream = amigo.create_conversation(service.service_id, "Hi")
    for _ in range(2):
        with pytest.raises(InteractionUnknownError, match="whether the interaction is saved is not known") as caught:
            [event async for event in stream]
    assert isinstance(caught.value.__cause__, ConnectionFailedError) != clean
    assert caught.value.conversation_id == service.asked[0].conversation_id
    assert len(service.asked) == 1


async def test_what_came_before_a_break_counts() -> None:
    """An interaction whose completion came is saved, though the connection broke in the same moment."""
    body = chunked(lines(TAKEN, PIECE, COMPLETE), is_whole=False)
    async with RawServer(SIGNED_IN, Last(body)) as server, session(server.url) as amigo:
        stream = await amigo.interact(ID, "Hi")
        await support.until(lambda: not server.tasks)
        assert [event.type async for event in stream] == [TAKEN["type"], PIECE["type"], COMPLETE["type"]]
        assert (await stream.reply()).text == "Let me check."


async def test_a_last_event_without_its_newline_counts_before_a_break() -> None:
    """A completion that came whole is believed, though the connection broke before its newline."""
    body = chunked(lines(TAKEN, PIECE, COMPLETE).rstrip(b"\n"), is_whole=False)
    async with RawServer(SIGNED_IN, Last(body)) as server, session(server.url) as amigo:
        stream = amigo.interact(ID, "Hi")
        assert (await stream.reply()).text == "Let me check."
        assert stream.is_ended


async def test_half_a_line_is_not_an_event() -> None:
    """Of a completion that was cut in the middle nothing is believed."""
    body = chunked(lines(TAKEN, PIECE) + lines(COMPLETE)[:40], is_whole=False)
    async with RawServer(SIGNED_IN, Last(body)) as server, session(server.url) as amigo:
        with pytest.raises(InteractionUnknownError):
            await amigo.interact(ID, "Hi").reply()


@pytest.mark.parametrize("fault", [Act.CLOSE, Act.RESET, Last(b"HTTP/1.1 200 OK\r\nContent-Le")])
async def test_no_answer_at_all_is_unknown(fault: Step) -> None:
    """A message that left, and was not answered, is reported and not sent again."""
    async with RawServer(SIGNED_IN, fault) as server, session(server.url) as amigo:
        stream = amigo.interact(ID, "Hi")
        for _ in range(2):
            with pytest.raises(OutcomeUnknownError) as caught:
                await stream
        assert caught.value.conversation_id == ID
        assert len(server.seen) == 2


async def test_a_server_error_is_unknown_and_typed() -> None:
    """A 5xx that is no refusal says nothing about the interaction."""
    async with RawServer(SIGNED_IN, refusal(502, "bad gateway")) as server, session(server.url) as amigo:
        with pytest.raises(ServerOutcomeError, match="bad gateway"):
            await amigo.interact(ID, "Hi").reply()
        assert len(server.seen) == 2


async def test_no_connection_is_tried_again_and_then_typed() -> None:
    """Where nothing was sent, nothing is unknown."""
    async with session(f"http://127.0.0.1:{support.free_port()}", retry=RetryPolicy(attempts=2)) as amigo:
        with pytest.raises(ConnectionFailedError) as caught:
            await amigo.interact(ID, "Hi").reply()
    assert not caught.value.sent


async def test_a_page_in_place_of_a_stream_is_unreadable() -> None:
    """A success that is no stream of events is an unknown outcome, and shows its beginning."""
    async with RawServer(SIGNED_IN, answer(200, "<html>please log in</html>")) as server, session(server.url) as amigo:
        with pytest.raises(UnreadableOutcomeError, match="please log in") as caught:
            await amigo.interact(ID, "Hi").reply()
    assert isinstance(caught.value, DecodeError)


async def test_a_redirect_in_place_of_a_stream_holds_nothing() -> None:
    """A response that is no stream releases its connection, for any status."""
    redirect = answer(302, "elsewhere")
    async with RawServer(SIGNED_IN, redirect) as server, session(server.url, max_connections=1) as amigo:
        for _ in range(3):
            with pytest.raises(StatusError, match="which is not followed"):
                await amigo.interact(ID, "Hi").reply()
        assert amigo.stats.free_connections == 1


async def test_an_event_without_end_is_refused() -> None:
    """A line beyond the limit ends the stream with a typed error, in bounded memory."""
    async with RawServer(SIGNED_IN, Last(chunked(b"x" * (MAX_LINE + 1)))) as server, session(server.url) as amigo:
        with pytest.raises(UnreadableOutcomeError, match="longer than"):
            await amigo.interact(ID, "Hi").reply()
        await support.until(lambda: not server.tasks)


async def test_lines_that_are_no_events_are_handed_over(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """A broken line and an unknown event cost neither the stream nor the reply."""
    script = [Line("not json"), Line({"type": "end-session", "x": 1}), Speak("Hello")]
    service.service(script, service_id=service.service_id)
    async with amigo.create_conversation(service.service_id) as stream:
        unknown = [event async for event in stream if isinstance(event, UnknownEvent)]
        assert (await stream.reply()).text == "Hello"
    assert [(event.type, event.text) for event in unknown] == [("", "not json"), ("end-session", "")]


# Waiting, cancelling, leaving.


async def test_a_silent_stream_breaks_off() -> None:
    """Silence beyond the session's bound is an unknown outcome that says so, and frees the connection."""
    async with AmigoSimulator([Speak("Let me"), Hang()]) as service, session(service.url, idle_timeout=0.3) as amigo:
        with pytest.raises(InteractionUnknownError, match=r"no data came for 0\.3 s"):
            await amigo.create_conversation(service.service_id).reply()
        assert amigo.stats.free_connections == 100


@pytest.mark.parametrize(("steps", "until"), [([Speak("b", after=600)], 300), ([Hang()], 300), ([Hang(after=9)], 300)])
async def test_silence_is_virtual_too(
    steps: list[Speak | Hang], until: float, amigo: AmigoSession, service: AmigoSimulator, clock: VirtualClock
) -> None:
    """With one virtual clock on both sides a silence of minutes is met at its very second, and costs no real one."""
    service.service([Speak("a"), *steps], service_id=service.service_id)
    with pytest.raises(InteractionUnknownError, match="no data came for 300 s"):
        await amigo.create_conversation(service.service_id).reply()
    assert clock.monotonic() == until


async def test_a_pause_within_the_silence_is_waited_for(
    amigo: AmigoSession, service: AmigoSimulator, clock: VirtualClock
) -> None:
    """Each event restarts the idle timeout, also while other streams wait, and an open one is not read."""
    unread = service.service([Speak("a"), Hang()])
    service.service([Speak("a b c", every=299), Complete(after=299)], service_id=service.service_id)
    async with amigo.create_conversation(unread) as stream:
        await anext(stream)
        assert (await amigo.create_conversation(service.service_id).reply()).text == "a b c"
        assert clock.monotonic() == 897
        # No time passes while a request is in flight.
        assert [row async for row in amigo.conversations()]
        assert clock.monotonic() == 897


async def test_blank_lines_are_no_data(amigo: AmigoSession, service: AmigoSimulator, clock: VirtualClock) -> None:
    """A service that sends nothing but blank lines does not hold a stream for longer than silence would."""
    blanks = [Line("", after=100) for _ in range(9)]
    service.service([Speak("a"), *blanks], service_id=service.service_id)
    with pytest.raises(InteractionUnknownError, match="blank lines came for 300 s"):
        await amigo.create_conversation(service.service_id).reply()
    assert clock.monotonic() == 300


async def test_a_request_that_hangs_is_given_up_in_virtual_time(
    amigo: AmigoSession, service: AmigoSimulator, clock: VirtualClock
) -> None:
    """The beginning of an answer may take as long as connecting and silence together."""
    service.hang(on="create")
    with pytest.raises(OutcomeUnknownError):
        await amigo.create_conversation(service.service_id).reply()
    assert clock.monotonic() == 330


async def test_silence_before_the_answer_is_bounded_too() -> None:
    """A service that takes the message and says nothing leaves the outcome unknown."""
    async with RawServer(SIGNED_IN, Act.HANG) as server, session(server.url, idle_timeout=0.3) as amigo:
        with pytest.raises(OutcomeUnknownError, match=r"0\.3 s"):
            await amigo.interact(ID, "Hi").reply()


async def test_a_cancelled_step_loses_nothing() -> None:
    """An iteration that times out again and again, in the middle of lines, gives every event once."""
    body = chunked(lines(TAKEN, PIECE, COMPLETE))
    async with RawServer(SIGNED_IN, Drip(body, 0.0005)) as server, session(server.url) as amigo:
        stream, seen, cancelled = await amigo.interact(ID, "Hi"), [], 0
        while True:
            try:
                event = await asyncio.wait_for(anext(stream), 0.002)
            except TimeoutError:
                cancelled += 1
            except StopAsyncIteration:
                break
            else:
                seen.append(event.type)
        assert cancelled > 3
        assert seen == [TAKEN["type"], PIECE["type"], COMPLETE["type"]]


async def test_a_cancellation_while_sending_loses_nothing() -> None:
    """A message that had left when its step was cancelled is not sent again, and its events come with the next step."""
    body = chunked(lines(TAKEN, PIECE, COMPLETE))
    async with RawServer(SIGNED_IN, Drip(body, 0.0005)) as server, session(server.url) as amigo:
        stream = amigo.interact(ID, "Hi")
        task = asyncio.ensure_future(anext(stream))
        await support.until(lambda: len(server.seen) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert stream.is_in_doubt
        assert [event.type async for event in stream] == [TAKEN["type"], PIECE["type"], COMPLETE["type"]]
        assert len(server.seen) == 2
        assert not amigo._locks.of(ID).holds


async def test_leaving_while_sending_is_unknown() -> None:
    """A message that had left when its stream was closed may be running, and holds neither connection nor turn."""
    async with RawServer(SIGNED_IN, Act.HANG) as server, session(server.url) as amigo:
        stream = amigo.interact(ID, "Hi")
        task = asyncio.ensure_future(anext(stream))
        await support.until(lambda: len(server.seen) == 2)
        await stream.aclose()
        with pytest.raises(InteractionUnknownError, match="closed"):
            await task
        assert not amigo._locks.of(ID).holds
        assert amigo.resume(ID).may_be_running
        await support.until(lambda: amigo.stats.free_connections == 100)


async def test_cancelled_before_sending_can_be_sent() -> None:
    """A message that waited for its turn when it was cancelled leaves at the next step."""
    async with RawServer(SIGNED_IN, chunked(lines(TAKEN, COMPLETE))) as server, session(server.url) as amigo:
        lock = amigo._locks.of(ID)
        stream = amigo.interact(ID, "Hi")
        # Held by another task: from Python 3.12 on `wait_for` runs what it waits for in the caller's own.
        async with await asyncio.create_task(lock.reserve()):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(stream), 0.01)
            assert not server.seen
        assert (await stream.reply()).text == "Let me check."


@pytest.mark.parametrize("leave", ["break", "with", "aclose", "error", "cancel"])
async def test_leaving_frees_connection_and_conversation_at_once(leave: str) -> None:
    """However a stream is left, its connection, its place and its conversation are free when it was."""
    async with AmigoSimulator([Speak("one"), Hang()]) as hanging, session(hanging.url, max_connections=2) as amigo:

        async def read() -> None:
            if leave == "break":
                async for _ in amigo.create_conversation(hanging.service_id):
                    break
                return
            stream = amigo.create_conversation(hanging.service_id)
            if leave == "aclose":
                await anext(stream)
                await stream.aclose()
                await stream.aclose()
                return
            async with stream:
                await anext(stream)
                if leave == "error":
                    raise ZeroDivisionError
                if leave == "cancel":
                    asyncio.current_task().cancel()  # type: ignore[union-attr]
                    await asyncio.sleep(0)

        fails = leave in {"error", "cancel"}
        with pytest.raises((ZeroDivisionError, asyncio.CancelledError)) if fails else nullcontext():
            await asyncio.ensure_future(read())
        assert amigo.stats.free_connections == 2
        assert not any(lock.holds for lock in amigo._locks._by_id.values())


async def test_leaving_is_no_error_of_the_simulator(
    amigo: AmigoSession, service: AmigoSimulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A test of leaving a stream finds no traceback of the server in the log."""

    async def gone(_response: object, _data: bytes) -> None:
        raise ConnectionResetError

    monkeypatch.setattr(web.StreamResponse, "write", gone)
    with pytest.raises(InteractionUnknownError):
        await amigo.create_conversation(service.service_id).reply()
    assert [record for record in caplog.records if record.name.startswith("aiohttp")] == []


async def test_closing_wakes_who_waits() -> None:
    """A task that waits for the next event is woken when another closes the stream, and does not take it for whole."""
    async with AmigoSimulator([Speak("one"), Hang()]) as service, session(service.url) as amigo:
        stream = await amigo.create_conversation(service.service_id)
        task = asyncio.ensure_future(_all(stream))
        await asyncio.sleep(0.02)
        await stream.aclose()
        for closed in (task, stream.reply(), _all(stream)):
            with pytest.raises(InteractionUnknownError, match="closed before its end"):
                await closed


async def test_closing_at_the_moment_of_the_answer_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the answer has come and its reader has not run yet, another task that closes the stream closes that too."""
    async with AmigoSimulator([Speak("one"), Hang()]) as service, session(service.url, max_connections=1) as amigo:
        stream = amigo.create_conversation(service.service_id)
        send = amigo._executor.http.send

        async def closed_meanwhile(request: Request, state: CallState, timeout: float) -> Response:
            response = await send(request, state, timeout)
            if response.stream is not None:

                def close() -> None:
                    with pytest.raises(StopIteration):
                        stream.aclose().send(None)

                asyncio.get_running_loop().call_soon(close)
            return response

        monkeypatch.setattr(amigo._executor.http, "send", closed_meanwhile)
        await stream
        assert amigo.stats.free_connections == 1
        with pytest.raises(InteractionUnknownError, match="closed before its end"):
            await stream.reply()


async def _all(stream: Any) -> list[Any]:
    return [event async for event in stream]


async def test_closing_wakes_who_waits_for_a_turn(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """A stream that is closed before its turn has come sends nothing."""
    conversation = await begun(amigo, service)
    stream = amigo.interact(conversation, "Hi")
    async with await amigo._locks.of(conversation).reserve():
        task = asyncio.ensure_future(_all(stream))
        await asyncio.sleep(0)
        await stream.aclose()
        for closed in (task, stream.reply()):
            with pytest.raises(InteractionVoidError, match="before anything was sent"):
                await closed
    assert len(service.asked) == 1


async def test_closing_the_session_ends_streams() -> None:
    """A stream of a session that was closed is an unknown outcome; one that was not sent says that it is closed."""
    async with AmigoSimulator([Speak("one"), Hang()]) as service:
        async with session(service.url) as amigo:
            stream = await amigo.create_conversation(service.service_id)
            await anext(stream)
        with pytest.raises(InteractionUnknownError):
            await _all(stream)
        with pytest.raises(SessionClosedError):
            await amigo.create_conversation(service.service_id)


async def test_a_timeout_bounds_the_whole_stream(clock: VirtualClock) -> None:
    """A stream with a timeout raises it, also in virtual time, and says which conversation goes on."""
    script = [Speak("one"), Hang()]
    async with AmigoSimulator(script, clock=clock) as service, session(service.url, clock=clock) as amigo:
        stream = await amigo.create_conversation(service.service_id, timeout=50)
        with pytest.raises(WatchTimeoutError, match="has not ended") as caught:
            await stream.reply()
        assert caught.value.conversation_id == service.asked[0].conversation_id
    async with RawServer(SIGNED_IN, Act.HANG) as server, session(server.url) as amigo:
        with pytest.raises(WatchTimeoutError, match="no stream has begun"):
            await amigo.interact(ID, "Hi", timeout=0.3)


async def test_an_abandoned_stream_leaves_no_trace(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """A stream that was never entered, or forgotten half read, warns of nothing and holds nothing."""
    amigo.create_conversation(service.service_id)
    stream = amigo.create_conversation(service.service_id)
    await anext(stream)
    del stream
    gc.collect()
    assert amigo.stats.free_connections == 100


async def test_two_tasks_share_a_stream(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """Each event goes to one of two readers."""
    stream = amigo.create_conversation(service.service_id)
    first, second = await asyncio.gather(_all(stream), _all(stream))
    assert len(first) + len(second) == 7


async def test_two_messages_of_one_conversation_go_one_after_another(
    amigo: AmigoSession, service: AmigoSimulator
) -> None:
    """The service takes one call at a time in a conversation, so the session does too, finishing included."""
    conversation = await begun(amigo, service)
    streams = [amigo.interact(conversation, str(n)) for n in range(4)]
    replies = await asyncio.gather(*(stream.reply() for stream in streams), amigo.finish(conversation))
    assert [asked.message for asked in service.asked] == ["", "0", "1", "2", "3"]
    assert [reply.text for reply in replies if reply is not None] == [f'You said: "{n}"' for n in range(4)]


async def test_many_streams_at_once(clock: VirtualClock) -> None:
    """Streams of many conversations are held at once, up to the stated connections; the others wait and fail not."""
    async with (
        AmigoSimulator("Hello", clock=clock, quirks=AmigoQuirks(one_unfinished=False)) as service,
        session(service.url, clock=clock, max_connections=20) as amigo,
    ):
        streams = [amigo.create_conversation(service.service_id, str(n)) for n in range(60)]
        held = await asyncio.gather(*streams[:20])
        assert len(service.asked) == 20
        replies = asyncio.gather(*(stream.reply() for stream in streams[20:]))
        for stream in held:
            await stream.reply()
        assert {reply.text for reply in await replies} == {"Hello"}


@pytest.mark.parametrize(
    "make",
    [
        lambda: InteractionVoidError("x", 500),
        lambda: InteractionUnknownError("x", "POST", "/a"),
        lambda: ConflictError(409, "x"),
    ],
)
def test_the_errors_survive_pickle_and_copy(make: Callable[[], NairiError]) -> None:
    """The conversation of an error comes along."""
    error = make()
    error.conversation_id = ID
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301 - our own
        assert (type(twin), str(twin), twin.conversation_id) == (type(error), str(error), ID)
    assert ServerError(500, "x").conversation_id is None


async def test_the_text_of_an_error_event_is_short_and_on_one_line() -> None:
    """What the service says in an error is quoted without escapes and line breaks, and not without end."""
    described = {**ERROR, "error_description": "no\nmodel\x1b[31m" + "x" * 10_000}
    async with RawServer(SIGNED_IN, chunked(lines(described))) as server, session(server.url) as amigo:
        with pytest.raises(InteractionVoidError, match="no model") as caught:
            await amigo.interact(ID, "Hi").reply()
    assert caught.value.message.isprintable()
    assert len(caught.value.message) <= 200


async def test_a_stream_shows_its_state(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """The repr of a stream and of its conversation says where they are."""
    dialogue = amigo.conversation(service.service_id)
    stream = dialogue.send("Hi")
    assert "not sent" in repr(stream)
    await stream.reply()
    assert f"{dialogue.id}: ended, complete" in repr(stream)
    assert "open" in repr(dialogue)
    await dialogue.finish()
    assert "over" in repr(dialogue)


async def test_an_error_event_shows_no_secret() -> None:
    """A description that repeats the token is passed on without it."""
    token = "eyJhbGciOi.a-token-that-nobody-may-see"
    body = chunked(lines({**ERROR, "error_description": f"Bearer {token} is bad"}))
    async with RawServer(SIGNED_IN, body) as server, session(server.url) as amigo:
        with pytest.raises(InteractionVoidError) as caught:
            await amigo.interact(ID, "Hi").reply()
    assert token not in str(caught.value)
