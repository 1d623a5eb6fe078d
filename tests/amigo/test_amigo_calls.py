from __future__ import annotations

import io
import json
import wave
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
import support
from aiohttp import web
from amigo_sessions import COMPLETE, ID, SIGNED_IN, TAKEN, chunked, lines, session
from hypothesis import given
from hypothesis import strategies as st
from support import Act, RawServer, answer

from nairi_async import (
    BadRequestError,
    DecodeError,
    InvalidArgumentError,
    NairiError,
    NotFoundError,
    OutcomeUnknownError,
    RequestTimeoutError,
    RetryPolicy,
)
from nairi_async.amigo import AmigoMessage, ConversationInfo, Insights, Starter, VersionSetInfo, wire
from nairi_async.testing.amigo import AmigoQuirks, AmigoSimulator, Think

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from nairi_async.amigo import AmigoSession
    from nairi_async.testing import VirtualClock

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 3, 31, 23, 33, tzinfo=UTC)
"""Before the virtual clock begins."""


def wav(rate: int = 16000, channels: int = 1, width: int = 2, frames: int = 100) -> bytes:
    """Return a recording of silence."""
    file = io.BytesIO()
    with wave.open(file, "wb") as audio:
        audio.setnchannels(channels)
        audio.setsampwidth(width)
        audio.setframerate(rate)
        audio.writeframes(bytes(channels * width * frames))
    return file.getvalue()


MP3 = b"\xff\xfb\x90\x64" + bytes(100)


async def begun(amigo: AmigoSession, service: AmigoSimulator) -> str:
    """Return the id of a conversation that the agent has begun."""
    return (await amigo.create_conversation(service.service_id).reply()).conversation_id or ""


# Interactions on the wire.


async def test_what_a_conversation_begins_with(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """Version set, tags and test traffic reach the service; the filter of actions does too."""
    reply = await amigo.create_conversation(
        service.service_id,
        "Hi",
        service_version_set_name="release",
        tags={"team a": "x", "b": None},
        is_test=True,
        current_agent_action_type="^$",
    ).reply()
    rows = [row async for row in amigo.conversations(id=reply.conversation_id or "")]
    assert [row.tags for row in rows] == [{"team a": "x", "b": None}]
    assert service.asked[0].actions == "^$"


async def test_the_body_of_a_new_conversation_holds_what_was_given() -> None:
    """Defaults are left out, so that the service's own hold."""
    async with RawServer(SIGNED_IN, chunked(lines(COMPLETE))) as server, session(server.url) as amigo:
        await amigo.create_conversation(ID).reply()
        await amigo.create_conversation(
            ID, "Hi", initial_message_type="external-event", service_version_set_name="edge", is_test=True
        ).reply()
    plain, full = [json.loads(seen.body) for seen in server.seen[1:]]
    assert plain == {"service_id": ID}
    assert full == {
        "service_id": ID,
        "service_version_set_name": "edge",
        "is_test": True,
        "initial_message": "Hi",
        "initial_message_type": "external-event",
    }
    head = server.seen[1].head
    assert head.startswith("POST /v1/simulated/conversation/?response_format=text HTTP/1.1")
    assert "Accept: application/x-ndjson\r\n" in head
    assert "Content-Type: application/json\r\n" in head


async def test_an_interaction_is_a_form_as_documented() -> None:
    """The header is exactly what the service matches; the parts are those of the documentation."""
    async with RawServer(SIGNED_IN, chunked(lines(TAKEN, COMPLETE))) as server, session(server.url) as amigo:
        await amigo.interact(ID, "Hallo Welt \u2713", current_agent_action_type="^tool+").reply()
    seen = server.seen[1]
    assert seen.line == (
        f"POST /v1/simulated/conversation/{ID}/interact"
        "?request_format=text&response_format=text&current_agent_action_type=%5Etool%2B HTTP/1.1"
    )
    header = next(line for line in seen.head.split("\r\n") if line.startswith("Content-Type"))
    boundary = header.removeprefix("Content-Type: multipart/form-data; boundary=")
    assert boundary.isalnum()
    parts = seen.body.split(f"--{boundary}".encode())
    assert b'name="initial_message_type"\r\n\r\nuser-message\r\n' in parts[1]
    assert b'name="recorded_message"; filename="message.txt"\r\nContent-Type: text/plain; charset=utf-8' in parts[2]
    assert parts[2].endswith("\r\n\r\nHallo Welt \u2713\r\n".encode())
    assert parts[3] == b"--\r\n"


async def test_events_come_before_the_message(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """Each event keeps its text and its time, in any time zone."""
    conversation = await begun(amigo, service)
    times = [NOW - timedelta(days=1), (NOW - timedelta(hours=1)).astimezone(timezone(timedelta(hours=9)))]
    said = ["parcel left\r\n--x", "parcel arrived \u2713"]
    await amigo.interact(
        conversation, "Where is it?", external_events=zip(times, said, strict=True), message_type="user-message"
    ).reply()
    assert service.asked[-1].events == tuple(zip(said, times, strict=True))


@pytest.mark.parametrize("data", [wav(), wav(44100, width=4), wav(4000), MP3, b"ID3" + MP3])
@pytest.mark.parametrize("kind", ["bytes", "path", "file"])
async def test_a_recording_is_sent_as_it_is(
    data: bytes, kind: str, amigo: AmigoSession, service: AmigoSimulator, tmp_path: Path
) -> None:
    """Bytes, a path and an open file are recognised, described and sent unchanged."""
    path = tmp_path / "recording"
    path.write_bytes(data)
    conversation = await begun(amigo, service)
    with path.open("rb") as file:
        source: Any = {"bytes": data, "path": path, "file": file}[kind]
        reply = await amigo.interact(conversation, voice=source, response_format="voice").reply()
    assert service.asked[-1].audio == data
    assert reply.user_message == f"{len(data)} bytes of audio"
    assert len(reply.audio) > 100


# Other endpoints.


async def test_lists_are_read_page_by_page(clock: VirtualClock) -> None:
    """Pages are fetched as the iteration needs them, with the same filters, and every row comes once."""
    quirks = AmigoQuirks(one_unfinished=False)
    async with AmigoSimulator("Hi", clock=clock, quirks=quirks) as service, session(service.url, clock=clock) as amigo:
        ids = []
        for _ in range(7):
            ids.append((await amigo.create_conversation(service.service_id).reply()).conversation_id)
            clock.advance(1.0)
        before = amigo.stats.requests
        listing = amigo.conversations(service_id=service.service_id, sort_by="+created_at", page_size=3)
        first = await anext(listing)
        assert amigo.stats.requests == before + 1
        assert isinstance(first, ConversationInfo)
        assert [first.id, *[row.id async for row in listing]] == ids
        assert amigo.stats.requests == before + 3
        assert [row.id async for row in amigo.conversations(sort_by="-created_at", page_size=2)] == ids[::-1]
        assert [row async for row in amigo.conversations(is_finished=True)] == []


async def test_a_row_of_the_list_is_typed(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """Every documented field is there, with its type."""
    conversation = await begun(amigo, service)
    (row,) = [row async for row in amigo.conversations(user_id="simulated-user", is_finished=False)]
    assert (row.id, row.service_id, row.user_id) == (conversation, service.service_id, "simulated-user")
    assert (row.is_finished, row.num_messages) == (False, 1)
    assert row.created_at is not None
    assert row.created_at.tzinfo is not None
    assert isinstance(row.version_set_info, VersionSetInfo)
    assert row.version_set_info.agent_version_info is not None


async def test_messages_are_filtered_and_typed(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """The messages of a conversation come oldest first; inner thoughts only where asked for."""
    service.service(["Hello", Think("hm")], service_id=service.service_id)
    conversation = await begun(amigo, service)
    reply = await amigo.interact(conversation, "Hi").reply()
    rows = [row async for row in amigo.messages(conversation, page_size=2)]
    assert [(row.message_type, row.message) for row in rows] == [
        ("agent-message", "Hello"),
        ("user-message", "Hi"),
        ("agent-message", "Hello"),
    ]
    assert isinstance(rows[0], AmigoMessage)
    thoughts = amigo.messages(conversation, message_type="agent-inner-thought", sort_by=("-created_at",))
    assert [row.message async for row in thoughts] == ["hm", "hm"]
    mine = amigo.messages(conversation, interaction_id=reply.interaction_id or "", id=reply.message_id or "")
    assert [row.id async for row in mine] == [reply.message_id]


async def test_a_plus_is_encoded() -> None:
    """The sign of a sort key reaches the service as a plus, and a filter by tag as documented."""
    page = answer(200, '{"conversations": [], "has_more": false, "continuation_token": null}')
    async with RawServer(SIGNED_IN, page) as server, session(server.url) as amigo:
        tags = {"team a": "x", "b": "*", "c": None}
        assert [row async for row in amigo.conversations(sort_by="+created_at", tags=tags)] == []
        assert [row async for row in amigo.conversations(tags="b")] == []
    assert "tag=team%20a%3Ax&tag=b%3A%2A&tag=c%3A&sort_by=%2Bcreated_at&limit=150" in server.lines[1]
    assert "?tag=b%3A%2A&limit=150 " in server.lines[2]


@pytest.mark.parametrize(
    "page",
    [
        {"conversations": [], "has_more": True, "continuation_token": 1},
        {"conversations": [{"id": "a"}], "has_more": True, "continuation_token": 0},
        {"conversations": [], "has_more": True},
        {"conversations": None},
        {"has_more": False},
        [],
        7,
    ],
)
async def test_a_list_without_end_or_form_is_refused(page: Any) -> None:
    """A service whose pages never end, or have another shape, is a typed error soon."""
    async with RawServer(SIGNED_IN, answer(200, json.dumps(page))) as server, session(server.url) as amigo:
        with pytest.raises(DecodeError):
            [row async for row in amigo.conversations()]
        assert len(server.seen) < 8


async def test_finishing(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """A conversation is finished once; again it is a typed conflict."""
    conversation = await begun(amigo, service)
    await amigo.finish(conversation)
    assert [row.is_finished async for row in amigo.conversations(id=conversation)] == [True]
    with pytest.raises(NairiError, match="409"):
        await amigo.finish(conversation)


async def test_finishing_without_an_answer_is_unknown() -> None:
    """Finishing is not repeated behind the caller's back."""
    async with RawServer(SIGNED_IN, Act.CLOSE) as server, session(server.url) as amigo:
        with pytest.raises(OutcomeUnknownError, match="whether the conversation is finished"):
            await amigo.finish(ID)
        assert len(server.seen) == 2


async def test_tags_are_changed(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """Tags are set and deleted, and found by."""
    conversation = await begun(amigo, service)
    await amigo.change_tags(conversation, {"a": "x", "b": None, "c d": "y"})
    await amigo.change_tags(conversation, deletes=("a", "a"))
    (row,) = [row async for row in amigo.conversations(tags={"b": None, "c d": "*"})]
    assert row.tags == {"b": None, "c d": "y"}


async def test_suggestions_and_insights(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """What the models suggest, and what the agent had in mind."""
    service.service("Hello", service_id=service.service_id, recommended=["Yes", "No"])
    reply = await amigo.create_conversation(service.service_id, "Hi").reply()
    conversation, interaction = reply.conversation_id or "", reply.interaction_id or ""
    assert await amigo.recommended_responses(conversation, interaction, context="be brief") == ("Yes", "No")
    assert isinstance(await amigo.insights(conversation, interaction), Insights)
    starters = await amigo.starters(service.service_id, ["health"], "Be kind.", min_count=2, max_count=3)
    assert 2 <= len(starters) <= 3
    assert isinstance(starters[0], Starter)
    assert starters[0].prompt


async def test_the_insights_of_a_whole_conversation(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """Each interaction once, oldest first; one that is not known is raised and then left out."""
    dialogue = amigo.conversation(service.service_id)
    replies = [await dialogue.ask(text) for text in ("a", "b", "c")]
    service.refuse(404, on="insights")
    insights = amigo.conversation_insights(str(dialogue.id))
    with pytest.raises(NotFoundError):
        await anext(insights)
    found = [(interaction, each.current_state_name) async for interaction, each in insights]
    assert found == [(reply.interaction_id, "main") for reply in replies[1:]]


async def test_the_source_of_a_voice_message(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """A voice message has an address; one of text is refused by the service. The address is in no repr."""
    conversation = await begun(amigo, service)
    reply = await amigo.interact(conversation, voice=wav()).reply()
    source = await amigo.message_source(conversation, reply.user_message_id or "", long_lived=True)
    assert source.content_type == "audio/wav"
    assert source.url
    assert source.url not in repr(source)
    with pytest.raises(BadRequestError):
        await amigo.message_source(conversation, reply.message_id or "")


async def test_a_slow_model_has_its_time(clock: VirtualClock) -> None:
    """Calls that run a model, and finishing, are not cut at the timeout of a plain read."""

    async def handler(request: web.BaseRequest) -> web.Response:
        if "signin" not in request.path:
            with clock.stalled():
                await clock.sleep(50)
        body = {"id_token": "x", "recommended_responses": ["a"], "prompts": [], "messages": [], "has_more": False}
        return web.json_response(body)

    async with (
        support.serve(handler) as url,
        session(url, clock=clock, retry=RetryPolicy(attempts=1)) as amigo,
    ):
        await amigo.finish(ID)
        assert await amigo.recommended_responses(ID, ID) == ("a",)
        assert await amigo.starters(ID, "a", "b") == ()
        with pytest.raises(RequestTimeoutError):
            [row async for row in amigo.messages(ID)]


# Bad input.


BAD_IDS: list[Any] = ["", "x", ID.upper(), ID[:-1], f"{ID}0", f"{ID}\n", "../" + ID[3:], None, 7, b"x"]
WITH_ID: dict[str, Callable[[AmigoSession, Any], Any]] = {
    "create": lambda amigo, value: amigo.create_conversation(value),
    "interact": lambda amigo, value: amigo.interact(value, "Hi"),
    "finish": lambda amigo, value: amigo.finish(value),
    "messages": lambda amigo, value: amigo.messages(value),
    "message id": lambda amigo, value: amigo.messages(ID, id=[value]),
    "interaction id": lambda amigo, value: amigo.messages(ID, interaction_id=[value]),
    "listed service": lambda amigo, value: amigo.conversations(service_id=[value]),
    "listed id": lambda amigo, value: amigo.conversations(id=[value]),
    "source": lambda amigo, value: amigo.message_source(value, ID),
    "source message": lambda amigo, value: amigo.message_source(ID, value),
    "tags": lambda amigo, value: amigo.change_tags(value, {"a": "b"}),
    "recommend": lambda amigo, value: amigo.recommended_responses(ID, value),
    "insights": lambda amigo, value: amigo.insights(value, ID),
    "starters": lambda amigo, value: amigo.starters(value, "a", "b"),
    "conversation": lambda amigo, value: amigo.conversation(value),
    "resume": lambda amigo, value: amigo.resume(value),
    "unfinished": lambda amigo, value: amigo.unfinished(value),
    "ask": lambda amigo, value: amigo.ask(value, "Hi"),
    "ask_many": lambda amigo, value: amigo.ask_many(value, ["Hi"]),
}


async def refused(call: Callable[[AmigoSession], Any]) -> str:
    """Return what a call is refused with, before any request."""
    async with RawServer(Act.CLOSE) as server, session(server.url) as amigo:
        with pytest.raises(InvalidArgumentError) as caught:
            await _run(call(amigo))
        assert server.connections == 0
    return caught.value.message


async def _run(result: Awaitable[Any]) -> None:
    await result


@pytest.mark.parametrize("call", WITH_ID.values(), ids=WITH_ID)
async def test_ids_that_are_none(call: Callable[[AmigoSession, Any], Any]) -> None:
    """What is not 24 hexadecimal digits is refused before any request."""
    for value in BAD_IDS:
        assert "24 hexadecimal digits" in await refused(lambda amigo, value=value: call(amigo, value))  # type: ignore[misc]


FUTURE = datetime(2099, 1, 1, tzinfo=UTC)
BAD_CALLS: list[tuple[str, Callable[[AmigoSession], Any]]] = [
    ("blank", lambda amigo: amigo.interact(ID, " \n")),
    ("blank", lambda amigo: amigo.create_conversation(ID, "")),
    ("a string", lambda amigo: amigo.interact(ID, 7)),  # type: ignore[arg-type]
    ("lone surrogate", lambda amigo: amigo.interact(ID, "\ud800")),
    ("not both", lambda amigo: amigo.interact(ID)),
    ("not both", lambda amigo: amigo.interact(ID, "Hi", voice=wav())),
    ("got 'skip'", lambda amigo: amigo.interact(ID, "Hi", message_type="skip")),  # type: ignore[arg-type]
    ("initial_message_type", lambda amigo: amigo.create_conversation(ID, "Hi", initial_message_type="agent")),  # type: ignore[arg-type]
    ("response_format", lambda amigo: amigo.interact(ID, "Hi", response_format="smell")),  # type: ignore[arg-type]
    ("current_agent_action_type", lambda amigo: amigo.interact(ID, "Hi", current_agent_action_type="")),
    ("service_version_set_name", lambda amigo: amigo.create_conversation(ID, service_version_set_name=" ")),
    ("is_test", lambda amigo: amigo.create_conversation(ID, is_test=1)),  # type: ignore[arg-type]
    ("timeout", lambda amigo: amigo.interact(ID, "Hi", timeout=-1)),
    ("21 tags", lambda amigo: amigo.create_conversation(ID, tags={f"t{n}": "x" for n in range(21)})),
    ("the name of a tag", lambda amigo: amigo.create_conversation(ID, tags={"a-b": "x"})),
    ("the value of a tag", lambda amigo: amigo.create_conversation(ID, tags={"a": "x" * 101})),
    ("the value of a tag", lambda amigo: amigo.create_conversation(ID, tags={"a": ""})),
    ("the value of a tag", lambda amigo: amigo.change_tags(ID, {"a": "x!"})),
    ("a mapping", lambda amigo: amigo.create_conversation(ID, tags=["a"])),  # type: ignore[arg-type]
    ("no tag", lambda amigo: amigo.change_tags(ID)),
    ("at once: a", lambda amigo: amigo.change_tags(ID, {"a": "x"}, deletes="a")),
    ("sequence of pairs", lambda amigo: amigo.interact(ID, "Hi", external_events="x")),  # type: ignore[arg-type]
    ("each of external_events", lambda amigo: amigo.interact(ID, "Hi", external_events=[(NOW,)])),  # type: ignore[list-item]
    ("a datetime", lambda amigo: amigo.interact(ID, "Hi", external_events=[("now", "x")])),  # type: ignore[list-item]
    (
        "must have a time zone",
        lambda amigo: amigo.interact(ID, "Hi", external_events=[(NOW.replace(tzinfo=None), "x")]),
    ),
    ("in the future", lambda amigo: amigo.interact(ID, "Hi", external_events=[(FUTURE, "x")])),
    (
        "out of the range",
        lambda amigo: amigo.interact(
            ID, "Hi", external_events=[(datetime.min.replace(tzinfo=timezone(timedelta(hours=9))), "x")]
        ),
    ),
    ("the text of an event", lambda amigo: amigo.interact(ID, "Hi", external_events=[(NOW, " ")])),
    (
        "must be in order",
        lambda amigo: amigo.interact(ID, "Hi", external_events=[(NOW, "b"), (NOW - timedelta(1), "a")]),
    ),
    ("sort_by", lambda amigo: amigo.conversations(sort_by="created_at")),  # type: ignore[arg-type]
    ("page_size", lambda amigo: amigo.conversations(page_size=151)),
    ("page_size", lambda amigo: amigo.messages(ID, page_size=0)),
    ("message_type", lambda amigo: amigo.messages(ID, message_type=["user"])),  # type: ignore[list-item]
    ("one or more", lambda amigo: amigo.messages(ID, message_type=7)),  # type: ignore[arg-type]
    ("is_finished", lambda amigo: amigo.conversations(is_finished="yes")),  # type: ignore[arg-type]
    ("facet", lambda amigo: amigo.starters(ID, [], "x")),
    ("generation_instructions", lambda amigo: amigo.starters(ID, "a", "")),
    ("min_count", lambda amigo: amigo.starters(ID, "a", "b", min_count=0)),
    ("more than max_count", lambda amigo: amigo.starters(ID, "a", "b", min_count=3, max_count=2)),
    ("context", lambda amigo: amigo.recommended_responses(ID, ID, context=" ")),
    ("prompt is blank", lambda amigo: amigo.ask(ID, " ")),
    ("prompts must be an iterable", lambda amigo: amigo.ask_many(ID, "Hi")),
    ("blank", lambda amigo: amigo.resume(ID).send(" ")),
]


@pytest.mark.parametrize(("words", "call"), BAD_CALLS, ids=range(len(BAD_CALLS)))
async def test_arguments_that_no_request_could_carry(words: str, call: Callable[[AmigoSession], Any]) -> None:
    """A bad argument is refused, with its name, before any request."""
    assert words in await refused(call)


@pytest.mark.parametrize(
    ("words", "data"),
    [
        ("empty", b""),
        ("neither WAV nor MP3", b"OggS" + bytes(100)),
        ("neither WAV nor MP3", b"fLaC" + bytes(100)),
        ("2 channels", wav(channels=2)),
        ("1 bytes", wav(width=1)),
        ("48000 Hz", wav(48000)),
        ("3999 Hz", wav(3999)),
        ("without plain PCM samples", wav()[:20]),
        ("No such file", "/nowhere/recording.wav"),
        ("a path, bytes", 7),
    ],
)
async def test_recordings_that_the_service_does_not_take(words: str, data: Any) -> None:
    """A recording is checked before anything of it is sent."""
    async with RawServer(SIGNED_IN) as server, session(server.url) as amigo:
        with pytest.raises(InvalidArgumentError, match=words):
            await amigo.interact(ID, voice=data)
        assert server.connections == 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["conversations", "messages", "prompts", "id", "tags", "has_more"]), inner)
    ),
    max_leaves=10,
)
DECODERS = [
    wire.decode_conversations,
    wire.decode_messages,
    wire.decode_source,
    wire.decode_insights,
    wire.decode_recommended,
    wire.decode_starters,
    wire.decode_token,
]


@pytest.mark.parametrize("decode", DECODERS)
@given(body=st.binary(max_size=50) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_answer_is_read_or_refused(decode: Callable[[bytes], object], body: bytes) -> None:
    """For any body, a decoder gives a value or a `DecodeError`."""
    with suppress(DecodeError):
        decode(body)
