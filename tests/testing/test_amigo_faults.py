"""AmigoSession against everything that the simulator can do to it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nairi_async.amigo import AmigoSession, ConversationCreated, InteractionComplete, Limits, NewMessage, UnknownEvent
from nairi_async.errors import (
    AuthenticationError,
    BadRequestError,
    ConflictError,
    DecodeError,
    InteractionUnknownError,
    InteractionVoidError,
    NairiError,
    OutcomeUnknownError,
    RateLimitedError,
    ServerError,
)
from nairi_async.testing import VirtualClock
from nairi_async.testing.amigo import (
    Action,
    AmigoQuirks,
    AmigoSimulator,
    Complete,
    Cut,
    Error,
    Hang,
    Line,
    Speak,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from nairi_async.amigo import AmigoReply, Event

pytestmark = pytest.mark.anyio

SCRIPT = (
    Line({"type": "brand-new", "n": 1}),
    Action("tool-call-started", {"tool_id": "t"}),
    Speak("Ünïcode \u2028 and \u0085 and 🎉 stay", after=1.0, every=0.5),
)
TEXT = "Ünïcode \u2028 and \u0085 and 🎉 stay"


@asynccontextmanager
async def talking(*script: Any, options: dict[str, Any] | None = None, **simulated: Any) -> AsyncIterator[Any]:
    """Run a session on a simulator, both in virtual time."""
    clock = VirtualClock()
    async with AmigoSimulator(script or "Hello", clock=clock, **simulated) as simulator:
        settings: dict[str, Any] = {**simulator.settings, "limits": Limits.none(), "clock": clock, **(options or {})}
        async with AmigoSession(**settings) as session:
            yield simulator, session


async def begin(simulator: AmigoSimulator, session: AmigoSession) -> AmigoReply:
    """Begin a conversation, and read it to its end."""
    return await session.create_conversation(simulator.service_id).reply()


async def events(simulator: AmigoSimulator, session: AmigoSession) -> list[Event]:
    """Return the events of a new conversation."""
    async with session.create_conversation(simulator.service_id) as stream:
        return [event async for event in stream]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("last_newline", [True, False])
@pytest.mark.parametrize("chunks", [1, 7, 10**6, None])
async def test_no_chunking_changes_what_arrives(line_end: Any, chunks: int | None, *, last_newline: bool) -> None:
    """A byte at a time or all at once, with any line end: the same events, none lost, none joined."""
    quirks = AmigoQuirks(chunks=chunks, line_end=line_end, last_newline=last_newline)
    async with talking(*SCRIPT, quirks=quirks) as (simulator, session):
        received = await events(simulator, session)
        assert [event.type for event in received[:3]] == ["conversation-created", "brand-new", "current-agent-action"]
        assert "".join(event.message for event in received if isinstance(event, NewMessage)) == TEXT
        assert isinstance(received[-1], InteractionComplete)
        assert received[-1].full_message == TEXT


async def test_a_boundary_at_every_byte() -> None:
    """Cut in two at each place of the body in turn, the reply is whole."""
    place, size = 0, 1

    def halves(data: bytes) -> Iterable[bytes]:
        nonlocal size
        size = len(data)
        return data[:place], data[place:]

    script = (Line({"type": "brand-new"}), Speak("é\u2028🎉", pieces=1))
    quirks = AmigoQuirks(chunks=halves, line_end="\r\n", one_unfinished=False)
    async with talking(*script, quirks=quirks) as (simulator, session):
        while place < size:
            assert (await begin(simulator, session)).text == "é\u2028🎉"
            place += 1
        assert len(simulator.saved) == size > 400


@given(cuts=st.lists(st.integers(1, 40), min_size=1, max_size=30))
@settings(max_examples=10)
def test_any_chunking(cuts: list[int]) -> None:
    """Any pieces of the body give the same events."""

    def pieces(data: bytes) -> Iterable[bytes]:
        at = 0
        while at < len(data):
            size = cuts[at % len(cuts)]
            yield data[at : at + size]
            at += size

    async def main() -> None:
        async with talking(*SCRIPT, quirks=AmigoQuirks(chunks=pieces)) as (simulator, session):
            assert (await begin(simulator, session)).text == TEXT

    asyncio.run(main())


async def test_the_documentations_example_works() -> None:
    """Its events lack most of what the schema requires, and the reply is whole all the same."""
    quirks = AmigoQuirks(events="example", create_code=200, unknown_fields=True)
    async with talking(Speak("Hi there!"), quirks=quirks) as (simulator, session):
        reply = await begin(simulator, session)
        assert reply.text == "Hi there!"
        assert reply.conversation_id == simulator.asked[0].conversation_id


async def test_user_message_in_a_create_stream() -> None:
    """A user message in a create stream is reported, though the schema has none there."""
    async with talking(quirks=AmigoQuirks(user_message_in_create=True)) as (simulator, session):
        reply = await session.create_conversation(simulator.service_id, "Hi").reply()
        assert (reply.user_message, reply.text) == ("Hi", "Hello")


# For each ending of a turn: its script, the caller's error (`None`: a reply), and the number of saved turns.
ENDINGS: dict[str, tuple[list[Any], type[NairiError] | None, int]] = {
    "complete": ([Speak("Hi")], None, 1),
    "complete, and the conversation as well": ([Speak("Hi"), Complete(ends=True)], None, 1),
    "void": ([Speak("Hi"), Error(500, "no")], InteractionVoidError, 0),
    "void before all": ([Error(500, "no")], InteractionVoidError, 0),
    "saved, processing failed": ([Speak("Hi"), Complete(), Error(500, "late")], None, 1),
    "ends early": ([Speak("Hi"), Cut(clean=True)], InteractionUnknownError, 1),
    "breaks in mid-stream": ([Speak("Hi"), Cut()], InteractionUnknownError, 1),
    "breaks in mid-stream and is void": ([Speak("Hi"), Cut(), Error()], InteractionUnknownError, 0),
    "breaks before the first event": ([Cut()], InteractionUnknownError, 1),
    "breaks inside a line": ([Speak("Hi"), Line(b'{"type":"new-mess'), Cut()], InteractionUnknownError, 1),
    "breaks after completion": ([Speak("Hi"), Complete(), Cut()], None, 1),
    "garbage": ([Line("<html>oops</html>"), Speak("Hi")], None, 1),
    "bytes that are no text": ([Line(b"\xff\xfe\x00{"), Speak("Hi")], None, 1),
    "a list, a number, null": ([Line("[]"), Line("7"), Line("null"), Speak("Hi")], None, 1),
    "blank lines": ([Line(""), Line("  "), Speak("Hi")], None, 1),
    "an event without a type": ([Line({"message": "?"}), Speak("Hi")], None, 1),
    "fields of odd types": ([Line({"type": "current-agent-action", "action": 7}), Speak("Hi")], None, 1),
    "a huge line": ([Line({"type": "padding", "text": "x" * 3_000_000}), Speak("Hi")], None, 1),
    "a line without an end": ([Line("x" * 17_000_000), Speak("Hi")], DecodeError, 1),
    "deep nesting": ([Line("[" * 100_000), Speak("Hi")], None, 1),
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_endings(ending: str) -> None:
    """Each ending is distinguished: as a reply, or as its own error that carries the conversation."""
    script, expected, saved = ENDINGS[ending]
    async with talking(*script) as (simulator, session):
        if expected is None:
            assert (await begin(simulator, session)).text == "Hi"
        else:
            with pytest.raises(expected):
                await begin(simulator, session)
        assert [len(simulator.asked), len(simulator.saved)] == [1, saved]


@pytest.mark.parametrize("ending", ["ends early", "breaks in mid-stream", "breaks in mid-stream and is void"])
async def test_what_broke_off_is_settled(ending: str) -> None:
    """The messages show whether the turn is saved; it is never sent again."""
    script, _, saved = ENDINGS[ending]
    async with talking() as (simulator, session):
        conversation_id = (await begin(simulator, session)).conversation_id
        simulator.service(script, service_id=simulator.service_id)
        stream = session.interact(conversation_id, "Go on")
        with pytest.raises(InteractionUnknownError):
            await stream.reply()
        if not saved:
            # Its absence proves something only when the service is done with the conversation.
            with pytest.raises(InteractionUnknownError):
                await stream.settle(timeout=30)
            await session.finish(str(conversation_id))
        settled = await stream.settle(timeout=30)
        assert (settled.text if settled else None) == ("Hi" if saved else None)
        assert [asked.message for asked in simulator.asked] == ["", "Go on"]


async def test_silence_is_bounded() -> None:
    """A stream that falls silent ends as an unknown outcome."""
    async with talking(Speak("Hi"), Hang(), options={"idle_timeout": 0.1}) as (simulator, session):
        with pytest.raises(InteractionUnknownError):
            await begin(simulator, session)
        assert simulator.saved == []


REFUSALS = {400: BadRequestError, 401: AuthenticationError, 409: ConflictError, 429: RateLimitedError, 500: ServerError}


@pytest.mark.parametrize("status", REFUSALS)
@pytest.mark.parametrize("body", ["detail", "message", "text", "empty"])
async def test_refusals_are_typed(status: int, body: Any) -> None:
    """Each status is its own error, for any form of body; nothing has run."""
    async with talking(quirks=AmigoQuirks(error_body=body)) as (simulator, session):
        simulator.refuse(status, "no such luck", on="create", times=50)
        with pytest.raises(REFUSALS[status]) as caught:
            await begin(simulator, session)
        assert isinstance(caught.value, NairiError)
        assert simulator.asked == []
        if body != "empty":
            assert "no such luck" in str(caught.value)


@pytest.mark.parametrize("status", [429, 503])
async def test_a_refusal_that_says_when_is_waited_for(status: int) -> None:
    """With `Retry-After` a refused prompt is sent again after that time, and runs once."""
    async with talking() as (simulator, session):
        simulator.refuse(status, on="create", retry_after=7)
        begun = simulator.requests
        await begin(simulator, session)
        tries = [seen for seen in begun if seen.path.endswith("/conversation/")]
        assert [seen.status for seen in tries] == [status, 201]
        assert tries[1].at - tries[0].at >= 7
        assert len(simulator.asked) == 1


@pytest.mark.parametrize(
    ("plan", "ran"),
    [
        (lambda simulator: simulator.cut(on="create"), 0),
        (lambda simulator: simulator.cut(on="create", processed=True), 1),
        (lambda simulator: simulator.hang(on="create"), 0),
    ],
    ids=["cut before", "cut after", "hang"],
)
async def test_an_answer_that_never_comes(plan: Callable[[AmigoSimulator], None], ran: int) -> None:
    """Whether it ran is unknown, so it is not sent again."""
    async with talking(options={"request_timeout": 0.2, "idle_timeout": 0.2}) as (simulator, session):
        plan(simulator)
        with pytest.raises(OutcomeUnknownError):
            await begin(simulator, session)
        assert len(simulator.asked) == ran
        assert sum(seen.path.endswith("/conversation/") for seen in simulator.requests) <= 1


async def test_reads_are_tried_again() -> None:
    """A listing survives a cut, a 503 and an expired token."""
    async with talking() as (simulator, session):
        reply = await begin(simulator, session)
        simulator.cut(on="messages")
        simulator.refuse(503, on="messages")
        # A token that is seconds old is not replaced for a 401.
        session._executor.clock.advance(31)
        simulator.expire_tokens()
        received = [message.message async for message in session.messages(reply.conversation_id)]
        assert received == ["Hello"]
        assert simulator.sign_ins == 2


async def test_the_documented_limits_are_kept() -> None:
    """Ten conversations in a row are paced to five a minute, and none is refused."""
    quirks = AmigoQuirks(limits="organization", one_unfinished=False)
    async with talking(quirks=quirks, options={"limits": Limits()}) as (simulator, session):
        for _ in range(10):
            await begin(simulator, session)
        assert {seen.status for seen in simulator.requests} == {200, 201}
        begun = [asked.at for asked in simulator.asked]
        assert all(later - earlier >= 60 for earlier, later in zip(begun, begun[5:], strict=False))


async def test_events_keep_what_is_not_known() -> None:
    """Unknown events come through with all that they hold."""
    async with talking(Line({"type": "brand-new", "n": [1]}), Speak("Hi")) as (simulator, session):
        received = await events(simulator, session)
        assert isinstance(received[0], ConversationCreated)
        assert isinstance(received[1], UnknownEvent)
        assert received[1].raw == {"type": "brand-new", "n": [1]}
