"""Harmful responses: typed errors in bounded time and memory, and no secret shown."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import time
import tracemalloc
from contextlib import asynccontextmanager
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import support
from aiohttp import web
from support import KEY, RawServer, answer, refusal

from nairi_async import (
    Activity,
    BadRequestError,
    DecodeError,
    NairiError,
    NairiSession,
    NotFoundError,
    RetryPolicy,
    ServerError,
    TurnFailedError,
)
from nairi_async._core import json_body
from nairi_async._nairi import wire
from nairi_async._nairi.agents import close_names
from nairi_async._nairi.incremental_decoder import IncrementalDecoder
from nairi_async._nairi.listing.paging import Paging
from nairi_async.models import Agent, ConversationSummary
from nairi_async.testing import Fail, Say, Simulator, Tool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.anyio

MANY = 2_100_000
ONCE = RetryPolicy(attempts=1)


def timeline(content: str) -> bytes:
    return b'{"messages":[{"id":"a","content":' + content.encode() + b"}]}"


# Small on the wire, large in memory.


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages":[' + MANY * b"{}," + b"{}]}",
        timeline("[" + MANY * "1.5," + "1]"),
        timeline("[" + MANY * "[]," + "1]"),
        timeline("[" + (MANY // 3) * '"a,",{},[],' + "1]"),
        timeline("[" + (MANY // 2) * "[[]]," + "1]"),
    ],
    ids=["objects", "numbers", "lists", "mixed", "nested"],
)
def test_millions_of_tiny_values_are_refused_unread(body: bytes) -> None:
    """A response with far more values than a conversation has is refused before it is decoded."""
    for decode in (wire.decode_timeline, IncrementalDecoder().decode):
        with pytest.raises(DecodeError) as caught:
            decode(body)
        assert "500,000 values" in str(caught.value.__cause__)


@pytest.mark.parametrize("text", [MANY * ",", MANY * "{[", MANY * '\\",'], ids=["commas", "brackets", "quotes"])
def test_what_is_written_in_a_text_is_no_value(text: str) -> None:
    """A long text full of commas and brackets, such as a table, is accepted."""
    body = json.dumps({"messages": [{"id": "a", "content": text}]}).encode()
    for decode in (wire.decode_timeline, IncrementalDecoder().decode):
        assert [message.content for message in decode(body)] == [text]


@pytest.mark.parametrize("body", [b'"' + MANY * b'\\"', MANY * b'",', MANY * b'"\\'], ids=["escaped", "open", "odd"])
def test_unbalanced_quotes_cost_no_more_than_others(body: bytes) -> None:
    """Counting the values of any body takes time proportional to its length."""
    started_at = time.process_time()
    with pytest.raises(DecodeError):
        wire.decode_timeline(body)
    assert time.process_time() - started_at < 5


def test_messages_without_number_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """No conversation has hundreds of thousands, and a model of each would stop the event loop for seconds."""
    monkeypatch.setattr(json_body, "MOST_ENTRIES", 1_000)
    entries = b",".join([b"{}"] * (json_body.MOST_ENTRIES + 1))
    for decode in (wire.decode_timeline, IncrementalDecoder().decode):
        with pytest.raises(DecodeError, match="1,000 entries"):
            decode(b'{"messages":[' + entries + b"]}")


async def test_a_body_that_says_that_it_is_too_large_is_not_read() -> None:
    """200 MB announced are refused with the head of the answer."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 200000000\r\n\r\n"
    async with RawServer(head) as server, support.session(server.url, retry=ONCE) as nairi:
        with pytest.raises(DecodeError, match="larger than"):
            await nairi.messages("job_1")


@asynccontextmanager
async def flooding(head: bytes, piece: bytes) -> AsyncIterator[str]:
    """Serve responses that never end."""

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head)
            while True:
                writer.write(piece)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        # The handlers end when the client's connections break.
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", 65536 * b" "),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + 65536 * b" " + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\n", 100 * b"X-Header: value\r\n"),
        (b"HTTP/1.1 200 OK\r\nX-Header: ", 10_000 * b"v"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", 100 * b"X-Trailer: value\r\n"),
        (b"", 100 * b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        (b"HTTP/1.1 500 Oops\r\nConnection: close\r\n\r\n", 65536 * b"x"),
    ],
    ids=["body", "chunks", "headers", "one header", "trailers", "early hints", "error page"],
)
async def test_an_answer_without_an_end_ends(head: bytes, piece: bytes) -> None:
    """Whichever part of a response never ends, the call ends within the timeout, in a typed error."""
    async with flooding(head, piece) as url, support.session(url, retry=ONCE, request_timeout=0.5) as nairi:
        tracemalloc.start()
        with pytest.raises(NairiError):
            await nairi.messages("job_1")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 200_000_000


# Values that break what is done with them later.


def test_figures_beyond_reason_are_no_cost() -> None:
    """Costs whose sum would overflow, or fill a screen with zeros, count as not reported; real ones are exact."""
    for figure in ("9e999999", '"9e999999"', "1e-999999", "-1e31"):
        body = b'{"id":"a","role":"assistant","input_tokens":1,"cost_usd":' + figure.encode() + b"}"
        usage = wire.decode_message(body).usage
        assert usage is not None
        assert usage.cost_usd is None
    usage = wire.decode_message(b'{"id":"a","role":"assistant","cost_usd":0.000000012345}').usage
    assert str(usage and usage.cost_usd) == "1.2345E-8"


async def test_a_cost_beyond_reason_does_not_cost_the_reply(nairi: NairiSession, simulator: Simulator) -> None:
    """The session's sums stay usable."""
    figures = [Say("a", usage={"cost_usd": "9e999999"}), Say("b", usage={"cost_usd": "9e999999"})]
    simulator.agent("my-agent", [*figures, Say("c", usage={"cost_usd": "0.5"})])
    reply = await nairi.ask("my-agent", "Hello")
    assert reply.text == "a\n\nb\n\nc"
    assert str(reply.usage and reply.usage.cost_usd) == "0.5"


@pytest.mark.parametrize("written", ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
async def test_the_ends_of_the_calendar_are_no_time(nairi: NairiSession, simulator: Simulator, written: str) -> None:
    """A list with dates at the end of the calendar is read, synchronised and watched all the same."""

    async def date(request: web.Request, response: web.StreamResponse) -> web.StreamResponse | None:
        if not request.path.endswith("/conversations") or not isinstance(response, web.Response):
            return None
        rows = json.loads(response.text or "")["conversations"]
        return web.json_response({"conversations": [{**row, "updated_at": written} for row in rows]})

    simulator.intercept_response = date
    simulator.agent("my-agent", [Say("Done.", after=100)])
    turns = [await nairi.start("my-agent", f"p{number}") for number in range(12)]
    replies = await asyncio.gather(*(nairi.reply(turn) for turn in turns))
    assert {reply.text for reply in replies} == {"Done."}
    sync = nairi.sync("my-agent")
    assert {row.id async for row in sync} == {turn.job_id for turn in turns}
    assert len([row async for row in nairi.sync("my-agent", since=sync.checkpoint)]) <= 12


@pytest.mark.parametrize("year", [MINYEAR, MAXYEAR])
def test_a_full_page_at_an_end_of_the_calendar_is_paged_behind(year: int) -> None:
    """The reading of a list goes on by offset where it cannot go on by time."""
    paging = Paging("updated_at_asc", limit=2)
    stamped = datetime(year, 1, 1, tzinfo=UTC)
    rows = [ConversationSummary(id=name, status="active", updated_at=stamped) for name in "ab"]
    assert paging.observe(rows) == rows
    assert not paging.is_finished
    assert paging.observe(rows[1:]) == []
    assert paging.is_finished


@pytest.mark.parametrize("depth", [60, 400, 900])
def test_progress_nested_beyond_reason_can_be_handled(depth: int) -> None:
    """A message that could be read can also be copied, pickled, compared and printed."""
    content = '{"progress_type":"step","x":' + depth * "[" + depth * "]" + "}"
    message = wire.decode_message(json.dumps({"id": "a", "role": "progress", "content": content}).encode())
    assert message.progress is not None
    assert message.content == content
    assert copy.deepcopy(message) == pickle.loads(pickle.dumps(message)) == message  # noqa: S301 - our own
    assert repr(message)


def test_subagents_of_subagents_without_end_make_a_tree_that_can_be_walked() -> None:
    """A chain of thousands of calls, each started by the one before, is cut into pieces, and none is missing."""
    events = [
        {
            "id": f"m{number}",
            "role": "progress",
            "content": json.dumps(
                {"progress_type": "tool_use", "tool_use_id": f"t{number}", "parent_tool_use_id": f"t{number - 1}"}
            ),
        }
        for number in range(2_000)
    ]
    activity = Activity.of(wire.decode_timeline(json.dumps({"messages": events}).encode(), progress=True))

    def size(nodes: Any) -> int:
        return sum(1 + size(node.children) for node in nodes)

    assert size(activity.tree) == 2_000


def test_agents_in_great_numbers_do_not_stop_the_event_loop() -> None:
    """Close names of an unknown agent are searched among a bounded number of names of bounded length."""
    agents = [Agent(id=str(number), name=50 * "ab" + str(number), agent_id=2_000 * "ab") for number in range(100_000)]
    started_at = time.process_time()
    assert close_names(50 * "ab", agents)
    assert time.process_time() - started_at < 5


# Texts that are shown.


ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eevil\u2066\r\nsecond line\x00"


@pytest.mark.parametrize(
    "body",
    [json.dumps({"error": ESCAPES}).encode(), ESCAPES.encode(), b"\x1b\x9b\xff" * 100],
    ids=["error", "page", "bytes"],
)
async def test_what_the_service_says_moves_no_cursor(body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Neither errors nor log records hold escapes, overrides or line ends of a response: they are read in terminals."""
    caplog.set_level("DEBUG", "nairi_async")
    for status in (404, 500):
        async with RawServer(answer(status, body)) as server, support.session(server.url, retry=ONCE) as nairi:
            with pytest.raises((NotFoundError, ServerError)) as caught:
                await nairi.message("cmsg_1")
        assert str(caught.value).isprintable()
    assert all(record.getMessage().isprintable() for record in caplog.records)


async def test_a_failed_turn_explains_itself_on_one_short_line(nairi: NairiSession, simulator: Simulator) -> None:
    """The error quotes the beginning of the service's explanation, printable; its messages hold all of it."""
    explanation = ESCAPES + 5_000 * "because "
    simulator.agent("my-agent", [Fail(explanation)])
    with pytest.raises(TurnFailedError) as caught:
        await nairi.ask("my-agent", "Hello")
    assert caught.value.message.isprintable()
    assert "because because" in caught.value.message
    assert len(str(caught.value)) <= 1_000
    assert caught.value.messages[-1].content.endswith(explanation)


@pytest.mark.parametrize("repeats", [1, 3, 4, 5, 10])
async def test_no_half_of_a_long_secret_is_shown(repeats: int) -> None:
    """Where a response repeats a long token so often that the last one is cut, no part of it is shown."""
    key = "nr_" + "".join(Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=1000))
    body = json.dumps({"error": f"you sent {' and '.join([key] * repeats)}"})
    async with RawServer(answer(400, body)) as server, NairiSession(key, base_url=server.url) as nairi:
        with pytest.raises(BadRequestError) as caught:
            await nairi.message("cmsg_1")
    assert key[:8] not in str(caught.value)
    assert "you sent ***" in str(caught.value)


async def test_a_listing_switched_off_is_told_without_escapes(
    nairi: NairiSession, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    """The one warning that quotes the service, which Python prints by itself, is printable."""

    async def refuse(request: web.Request) -> web.Response | None:
        is_listing = request.path.endswith("/conversations")
        return web.json_response({"error": ESCAPES}, status=403) if is_listing else None

    simulator.intercept = refuse
    simulator.agent("my-agent", [Tool("Bash", seconds=100), Say("Done.")])
    turns = [await nairi.start("my-agent", f"p{number}") for number in range(20)]
    await asyncio.gather(*(nairi.reply(turn) for turn in turns))
    warnings = [record.getMessage() for record in caplog.records if "no longer used to announce" in record.getMessage()]
    assert len(warnings) == 1
    assert warnings[0].isprintable()


# The key.


@pytest.mark.parametrize("refused", [refusal, answer], ids=["error", "page"])
async def test_no_part_of_the_key_is_shown_where_a_text_is_cut(refused: Callable[[int, str], bytes]) -> None:
    """Where a response repeats the request's headers at any place of a long text, no error shows half of the key."""
    for place in range(150, 205, 3):
        echo = f"{'x' * place} Bearer {KEY} {'y' * 300}"
        steps = (refused(404, echo), answer(200, echo))
        async with RawServer(*steps) as server, support.session(server.url, retry=ONCE) as nairi:
            for kind in (NotFoundError, DecodeError):
                with pytest.raises(kind) as caught:
                    await nairi.message("cmsg_1")
                assert KEY[:6] not in repr(caught.value) + str(caught.value)


def test_a_name_that_cannot_be_typed_is_not_offered() -> None:
    """An error lists only names of agents that a terminal shows as they are."""
    agents = [Agent(id="1", name="a", agent_id="my-agent\x1b[31m"), Agent(id="2", name="b", agent_id="my-agents")]
    assert close_names("my-agent", agents) == ("my-agents",)
