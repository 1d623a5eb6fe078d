from __future__ import annotations

import asyncio
import gzip
import json
import ssl
import tracemalloc
import zlib
from decimal import Decimal
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import support
import trustme
from aiohttp import web
from support import MESSAGE, STARTED, Act, Drip, Last, RawServer, answer, refusal

from nairi_async import (
    AuthenticationError,
    BadRequestError,
    ConflictError,
    ConnectionFailedError,
    DecodeError,
    NairiError,
    NotAnApiJobError,
    NotFoundError,
    OutcomeUnknownError,
    PermissionDeniedError,
    RateLimitedError,
    RequestTimeoutError,
    RetryPolicy,
    ServerError,
    ServerOutcomeError,
    SessionClosedError,
    StatusError,
    Turn,
    UnreadableOutcomeError,
)
from nairi_async._core.request import CallState, Request
from nairi_async.testing.clock import VirtualClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from support import Step

    from nairi_async import Message, NairiSession
    from nairi_async.testing import Simulator

pytestmark = pytest.mark.anyio

READ = "GET /api/public/v1/messages/cmsg_1 HTTP/1.1"
START = "POST /api/public/v1/conversations/start HTTP/1.1"
CONTINUE = "POST /api/public/v1/conversations/job_1/continue HTTP/1.1"
SMALL = 100_000
BOMB = 100_000_000

read_ok, start_ok = answer(200, MESSAGE), answer(201, STARTED)
truncated = Last(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + MESSAGE)
truncated_chunk = Last(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n500\r\n" + MESSAGE)
not_http = Last(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")


def read(nairi: NairiSession) -> Awaitable[Message]:
    return nairi.message("cmsg_1")


def start(nairi: NairiSession) -> Awaitable[Turn]:
    return nairi.start("my-agent", "Hello")


def continue_(nairi: NairiSession) -> Awaitable[Turn]:
    return nairi.continue_("job_1", "And then?")


async def failure(call: Callable[[NairiSession], Awaitable[Any]], server: RawServer, **options: Any) -> NairiError:
    """Return the error that a call ends with."""
    async with support.session(server.url, **options) as nairi:
        with pytest.raises(NairiError) as caught:
            await call(nairi)
    return caught.value


# Faults of the connection: a read is repeated, a prompt never.

BROKEN: list[Step] = [
    Act.CLOSE,
    Act.RESET,
    truncated,
    truncated_chunk,
    not_http,
    Last(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n{}"),
    Last(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}"),
    answer(200, b"not gzip at all", "Content-Encoding: gzip"),
    answer(200, MESSAGE, "Content-Encoding: br"),
]
BROKEN_IDS = [
    "closed",
    "reset",
    "truncated",
    "truncated chunk",
    "not HTTP",
    "bad length",
    "bad chunk",
    "bad gzip",
    "unknown coding",
]


@pytest.mark.parametrize("fault", [*BROKEN, Act.CLOSE_UNREAD, Act.RESET_UNREAD], ids=[*BROKEN_IDS, "unread", "rst"])
async def test_a_read_survives_a_broken_connection(fault: Step) -> None:
    """A read whose response does not arrive whole is made again."""
    async with RawServer(fault, read_ok) as server, support.session(server.url) as nairi:
        assert (await nairi.message("cmsg_1")).content == "Hello"


@pytest.mark.parametrize("fault", BROKEN, ids=BROKEN_IDS)
@pytest.mark.parametrize(("call", "line"), [(start, START), (continue_, CONTINUE)], ids=["start", "continue"])
async def test_a_prompt_is_not_sent_again_into_the_unknown(fault: Step, call: Any, line: str) -> None:
    """A prompt that left without a response is one request and an unknown outcome."""
    async with RawServer(fault, start_ok) as server:
        error = await failure(call, server)
        assert server.lines == [line]
    assert isinstance(error, OutcomeUnknownError)
    assert isinstance(error.__cause__, ConnectionFailedError | DecodeError)
    assert (error.method, "/api/public/v1" + error.path) == tuple(line.split()[:2])


@pytest.mark.parametrize("fault", BROKEN, ids=BROKEN_IDS)
async def test_a_read_that_keeps_failing_says_so(fault: Step) -> None:
    """When the attempts are used up, the last fault is raised as a typed error with method and path."""
    async with RawServer(fault) as server:
        error = await failure(read, server, retry=RetryPolicy(attempts=3))
        assert server.lines == [READ] * 3
    assert isinstance(error, ConnectionFailedError)
    assert str(error).startswith("GET /messages/cmsg_1: ")
    assert error.__cause__ is not None


@pytest.mark.parametrize("call", [read, start, continue_])
async def test_a_refused_connection_is_tried_again(call: Any) -> None:
    """Without a connection there is no request: reads and prompts are tried as often as the policy says, then raise."""
    clock = VirtualClock()
    url = f"http://127.0.0.1:{support.free_port()}"
    async with support.session(url, clock=clock, retry=RetryPolicy(attempts=4)) as nairi:
        with pytest.raises(ConnectionFailedError) as caught:
            await call(nairi)
    assert not caught.value.sent or call is read
    assert not isinstance(caught.value, OutcomeUnknownError)
    assert 0 < clock.monotonic() < 4


async def test_a_prompt_goes_out_when_the_service_comes_up() -> None:
    """A prompt whose connection was refused is delivered once, as soon as a server listens."""
    async with RawServer(start_ok) as server:
        port = support.free_port()

        class Rising(VirtualClock):
            async def sleep(self, seconds: float) -> None:
                self.relay = await asyncio.start_server(relay, "127.0.0.1", port)
                await super().sleep(seconds)

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            onward, away = await asyncio.open_connection("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
            away.write(await reader.readuntil(b"}"))
            writer.write(await onward.readuntil(b"}"))
            writer.close()
            away.close()

        clock = Rising()
        async with support.session(f"http://127.0.0.1:{port}", clock=clock) as nairi:
            assert await nairi.start("my-agent", "Hello") == Turn("job_1", "cmsg_1")
        clock.relay.close()
        await clock.relay.wait_closed()
        assert server.lines == [START]


@pytest.mark.parametrize("base", ["https://a..b", f"https://{'a' * 64}.example"], ids=["empty label", "long label"])
async def test_a_host_that_no_resolver_takes_is_a_typed_error(base: str) -> None:
    """A host name that cannot be looked up is refused at construction, or fails as a connection does."""
    with pytest.raises(NairiError):
        async with support.session(base) as nairi:
            await nairi.message("cmsg_1")


# Time limits of one request.

SILENT: list[Step] = [Act.HANG, Drip(read_ok, 0.03)]


@pytest.mark.parametrize("fault", SILENT, ids=["hang", "drip"])
async def test_a_read_that_takes_too_long_times_out(fault: Step) -> None:
    """The request timeout bounds one attempt, body included, and a read is then made again."""
    async with RawServer(fault) as server:
        error = await failure(read, server, request_timeout=0.4, retry=RetryPolicy(attempts=2))
        assert server.lines == [READ] * 2
    assert isinstance(error, RequestTimeoutError)
    assert isinstance(error, TimeoutError)
    assert error.sent


@pytest.mark.parametrize("fault", SILENT, ids=["hang", "drip"])
async def test_a_prompt_that_takes_too_long_has_an_unknown_outcome(fault: Step) -> None:
    """A prompt without a response in time is one request and an unknown outcome, caused by the timeout."""
    async with RawServer(fault) as server:
        error = await failure(start, server, request_timeout=0.4)
        assert server.lines == [START]
    assert isinstance(error, OutcomeUnknownError)
    assert isinstance(error.__cause__, RequestTimeoutError)


# Responses that cannot be read.

UNREADABLE = {
    "empty": b"",
    "HTML": b"<!doctype html><title>Sign in</title>",
    "truncated": b'{"job_id":"job_1","message_id":"cms',
    "array": b"[]",
    "null": b"null",
    "string": b'"cmsg_1"',
    "number": b"7",
    "wrong keys": b'{"job":"job_1"}',
    "wrong types": b'{"id":7,"job_id":["job_1"],"message_id":null}',
    "empty ids": b'{"job_id":"","message_id":""}',
    "not UTF-8": b'{"job_id":"\xff\xfe"}',
    "deep": 100_000 * b"[",
    "deep object": 100_000 * b'{"id":',
    "huge integer": b'{"id":' + 10_000 * b"9" + b"}",
    "huge exponent": b'{"id":1e' + 30 * b"9" + b"}",
    "NaN": b"NaN",
    "two documents": STARTED + STARTED,
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
async def test_an_unreadable_answer_to_a_prompt_has_an_unknown_outcome(body: bytes) -> None:
    """A success that names no turn is one request, and both an unknown outcome and a decode error."""
    async with RawServer(answer(200, body)) as server:
        error = await failure(start, server)
        assert server.lines == [START]
    assert isinstance(error, UnreadableOutcomeError)
    assert isinstance(error, DecodeError)
    assert len(str(error)) < 600


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize("method", ["message", "messages"])
async def test_an_unreadable_answer_to_a_read_is_a_decode_error(body: bytes, method: str) -> None:
    """A body that is not JSON of the documented shape is a decode error with the path and the body's beginning."""
    async with RawServer(answer(200, body)) as server, support.session(server.url) as nairi:
        with pytest.raises(DecodeError) as caught:
            await getattr(nairi, method)("job_1")
        assert len(server.seen) == 1
    assert caught.value.method == "GET"
    assert caught.value.path.endswith(("/job_1", "/job_1/messages"))
    assert body.decode("utf-8", "replace")[:20].strip() in caught.value.excerpt
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("status", [202, 204, 206, 299])
async def test_a_prompt_answered_without_a_turn_has_an_unknown_outcome(status: int) -> None:
    """Any success without the ids of the turn leaves the outcome unknown, 204 included."""
    bare = Last(f"HTTP/1.1 {status} Whatever\r\n\r\n".encode())
    async with RawServer(bare, start_ok) as server:
        error = await failure(start, server)
        assert server.lines == [START]
    assert isinstance(error, UnreadableOutcomeError)


@pytest.mark.parametrize("status", [200, 201, 202])
@pytest.mark.parametrize("call", [start, continue_])
async def test_every_success_code_counts(status: int, call: Any) -> None:
    """The success codes of start and continue are not documented, so each is accepted."""
    async with RawServer(answer(status, STARTED)) as server, support.session(server.url) as nairi:
        assert await call(nairi) == Turn("job_1", "cmsg_1")


@pytest.mark.parametrize(("call", "kind"), [(read, DecodeError), (start, UnreadableOutcomeError)])
async def test_a_compressed_body_that_is_cut_is_unreadable(call: Any, kind: type[NairiError]) -> None:
    """Of a compressed body that stays cut a read says that it cannot be read; a prompt was sent once."""
    async with RawServer(answer(200, gzip.compress(MESSAGE)[:-20], "Content-Encoding: gzip")) as server:
        assert type(await failure(call, server, retry=RetryPolicy(attempts=3))) is kind
        assert len(server.seen) == (3 if call is read else 1)


@pytest.mark.parametrize("left", [5, 20, -20, -1])
async def test_a_read_whose_compressed_body_was_cut_is_made_again(left: int) -> None:
    """A compressed body that ends early is a broken transfer, wherever it is cut, though its length was right."""
    cut = answer(200, gzip.compress(MESSAGE)[:left], "Content-Encoding: gzip")
    whole = answer(200, gzip.compress(MESSAGE), "Content-Encoding: gzip")
    async with RawServer(cut, whole) as server, support.session(server.url) as nairi:
        assert (await nairi.message("cmsg_1")).content == "Hello"


@pytest.mark.parametrize("body", [b"<html>maintenance</html>", b"no JSON"])
async def test_a_page_in_place_of_json_is_read_once(body: bytes) -> None:
    """A compressed page that is whole, and no JSON, will not become JSON: it is a decode error after one request."""
    async with RawServer(answer(200, gzip.compress(body), "Content-Encoding: gzip")) as server:
        assert type(await failure(read, server)) is DecodeError
        assert len(server.seen) == 1


async def test_headers_of_proxies_are_accepted() -> None:
    """A header of 60,000 bytes is read: some proxies add long ones."""
    async with (
        RawServer(answer(200, MESSAGE, "X-Long: " + 60_000 * "x")) as server,
        support.session(server.url) as nairi,
    ):
        assert (await nairi.message("cmsg_1")).content == "Hello"


@pytest.mark.parametrize("call", [read, start])
async def test_a_header_that_is_too_long_is_named_and_final(call: Any) -> None:
    """A response with an endless header is one request, and the error says so."""
    async with RawServer(answer(200, MESSAGE, "X-Long: " + 200_000 * "x")) as server:
        error = await failure(call, server)
        assert len(server.seen) == 1
    assert "a header of the response is too long" in str(error)
    assert isinstance(error, ConnectionFailedError if call is read else OutcomeUnknownError)


async def test_a_message_survives_odd_numbers() -> None:
    """NaN, infinite and huge numbers cost at most the number, never the message."""
    odd = '{"id":"m","role":"assistant","status":"completed","content":"Hi","cost_usd":%s,"input_tokens":%s}'
    bodies = [odd % pair for pair in (("NaN", "1"), ("Infinity", "-Infinity"), ("1e400", "2"), ("0.0000000001", "1e5"))]
    async with RawServer(*(answer(200, body) for body in bodies)) as server, support.session(server.url) as nairi:
        read = [await nairi.message("m") for _ in bodies]
    assert [message.content for message in read] == ["Hi"] * 4
    assert read[0].usage is not None
    assert (read[0].usage.cost_usd, read[0].usage.input_tokens) == (None, 1)
    assert read[3].usage is not None
    assert read[3].usage.cost_usd == Decimal("0.0000000001")


@pytest.mark.parametrize("depth", range(100, 1001, 20))
async def test_nesting_inside_a_message_never_escapes_as_a_recursion_error(depth: int) -> None:
    """Content of any shape and depth is delivered or is a decode error."""
    body = b'{"id":"m","content":' + depth * b"[" + depth * b"]" + b"}"
    async with RawServer(answer(200, body)) as server, support.session(server.url) as nairi:
        try:
            assert (await nairi.message("m")).content
        except DecodeError as error:
            assert "RecursionError" in str(error.__cause__)  # noqa: PT017 - either way is right


# Responses that are too large.


def chunked(pieces: int, size: int) -> bytes:
    piece = f"{size:x}\r\n".encode() + size * b" " + b"\r\n"
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces * piece


def bomb(coding: str) -> bytes:
    press = zlib.compressobj(9, wbits=31 if coding == "gzip" else 15)
    packed = b"".join(press.compress(1_000_000 * b" ") for _ in range(BOMB // 1_000_000)) + press.flush()
    return answer(200, packed, f"Content-Encoding: {coding}")


@pytest.mark.parametrize(
    "flood",
    [
        answer(200, (SMALL + 1) * b" "),
        b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n" + 2 * SMALL * b" ",
        chunked(50, 10_000),
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + 2 * SMALL * b" ",
    ],
    ids=["just too large", "length", "chunked", "no length"],
)
async def test_a_body_above_the_limit_is_refused(flood: bytes) -> None:
    """A body is refused as soon as more than the limit has come, without waiting for its end."""
    async with RawServer(flood) as server, support.client(server.url) as http:
        with pytest.raises(DecodeError, match="larger than 100000 bytes"):
            await http.send(Request(method="GET", path="/flood", max_body=SMALL), CallState(), 5.0)


async def test_a_body_at_the_limit_is_read() -> None:
    """The limit itself is allowed, with and without a declared length."""
    whole = answer(200, SMALL * b" ")
    async with (
        RawServer(whole, chunked(10, SMALL // 10) + b"0\r\n\r\n") as server,
        support.client(server.url) as http,
    ):
        for _ in range(2):
            response = await http.send(Request(method="GET", path="/flood", max_body=SMALL), CallState(), 5.0)
            assert response.body == SMALL * b" "


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_compressed_bomb_costs_little_memory(coding: str) -> None:
    """The limit counts decompressed bytes, and a small body that decompresses to a huge one is never held whole."""
    packed = bomb(coding)
    async with RawServer(packed) as server, support.client(server.url) as http:
        tracemalloc.start()
        try:
            with pytest.raises(DecodeError, match="larger than"):
                await http.send(Request(method="GET", path="/bomb", max_body=SMALL), CallState(), 5.0)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < BOMB / 10


async def test_a_prompt_with_too_large_an_answer_has_an_unknown_outcome() -> None:
    """A success that is too large to read leaves the outcome of a prompt unknown."""
    flood = b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n" + 66 * 1024 * 1024 * b" "
    async with RawServer(flood) as server:
        error = await failure(start, server)
        assert server.lines == [START]
    assert isinstance(error, UnreadableOutcomeError)


async def test_a_huge_error_page_still_gives_its_status() -> None:
    """Only the beginning of an endless error page is read, and the error has its status."""
    page = b"HTTP/1.1 403 No\r\nContent-Length: 999999999999\r\n\r\n<html>blocked" + SMALL * b"x"
    async with RawServer(page) as server:
        error = await failure(read, server)
    assert isinstance(error, PermissionDeniedError)
    assert "<html>blocked" in str(error)
    assert len(str(error)) < 400


# Statuses.


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (400, "prompt is required", BadRequestError),
        (400, "job is not an API job", NotAnApiJobError),
        (404, "job not found", NotFoundError),
        (401, "invalid API key", AuthenticationError),
        (403, "forbidden", PermissionDeniedError),
        (409, "conflict", ConflictError),
        (413, "too large", StatusError),
        (422, "unprocessable", StatusError),
    ],
)
@pytest.mark.parametrize("call", [read, continue_])
async def test_refusals_are_typed_and_final(status: int, text: str, kind: type[StatusError], call: Any) -> None:
    """A refusal is raised after one request, as its class, with the service's text and status."""
    async with RawServer(refusal(status, text)) as server:
        error = await failure(call, server)
        assert len(server.seen) == 1
    assert type(error) is kind
    assert (error.status, error.message, error.retry_after) == (status, text, None)
    assert f": {status} {text}" in str(error)


@pytest.mark.parametrize("body", [b"", b"<html>gone</html>", b'{"error":{"code":7}}', b"[]", 100_000 * b"["])
async def test_refusals_of_any_shape_are_typed(body: bytes) -> None:
    """An error response of another shape than the documented one is typed by its status, with a short text."""
    async with RawServer(answer(404, body)) as server:
        error = await failure(read, server)
    assert isinstance(error, NotFoundError)
    assert 0 < len(error.message) <= 200


@pytest.mark.parametrize("call", [read, start, continue_])
@pytest.mark.parametrize("headers", [(), ("Retry-After: 7",), ("Retry-After: Thu, 01 Jan 1970 00:00:00 GMT",)])
async def test_a_rate_limit_is_waited_for(call: Any, headers: tuple[str, ...]) -> None:
    """A request refused with 429 did not run, so reads and prompts are sent again after `Retry-After`."""
    clock = VirtualClock()
    limited, fine = refusal(429, "slow down", *headers), answer(200, STARTED[:-1] + b"," + MESSAGE[1:])
    async with RawServer(limited, limited, fine) as server, support.session(server.url, clock=clock) as nairi:
        await call(nairi)
        assert len(server.seen) == 3
    assert clock.monotonic() >= (14 if headers == ("Retry-After: 7",) else 0)


@pytest.mark.parametrize("call", [read, start])
async def test_a_rate_limit_that_lasts_is_raised_as_such(call: Any) -> None:
    """A prompt that every attempt refused did not run: the error is the refusal, not an unknown outcome."""
    async with RawServer(refusal(429, "slow down", "Retry-After: 1")) as server:
        error = await failure(call, server, retry=RetryPolicy(attempts=3))
        assert len(server.seen) == 3
    assert isinstance(error, RateLimitedError)
    assert (error.retry_after, isinstance(error, OutcomeUnknownError)) == (1.0, False)


async def test_a_limit_beyond_the_cap_is_raised_at_once() -> None:
    """A `Retry-After` of a day is raised at once, for the caller to decide."""
    async with RawServer(refusal(429, "tomorrow", "Retry-After: 86400")) as server:
        error = await failure(start, server)
        assert len(server.seen) == 1
    assert isinstance(error, RateLimitedError)
    assert error.retry_after == 86400


@pytest.mark.parametrize("hours", [-24, 0, 24])
async def test_a_date_to_come_back_is_read_by_the_clock_that_wrote_it(hours: int) -> None:
    """A `Retry-After` date is compared with the service's own clock, even where that is a day off."""
    clock = VirtualClock()
    at = clock.time() + hours * 3600
    headers = (f"Date: {formatdate(at, usegmt=True)}", f"Retry-After: {formatdate(at + 9, usegmt=True)}")
    async with (
        RawServer(refusal(503, "busy", *headers), start_ok) as server,
        support.session(server.url, clock=clock) as nairi,
    ):
        await nairi.start("my-agent", "Hello")
        assert server.lines == [START] * 2
    assert 9 <= clock.monotonic() <= 15


async def test_a_prompt_goes_out_again_after_a_503_that_refuses_it() -> None:
    """A 503 with `Retry-After` is a refusal, and the prompt is sent again."""
    clock = VirtualClock()
    busy = refusal(503, "busy", "Retry-After: 3")
    async with RawServer(busy, start_ok) as server, support.session(server.url, clock=clock) as nairi:
        await nairi.start("my-agent", "Hello")
        assert server.lines == [START] * 2
    assert clock.monotonic() >= 3


@pytest.mark.parametrize(
    ("status", "headers"),
    [(500, ()), (500, ("Retry-After: 1",)), (502, ()), (503, ()), (503, ("Retry-After: soon",)), (504, ()), (520, ())],
)
@pytest.mark.parametrize("call", [start, continue_])
async def test_a_prompt_is_not_sent_again_after_a_server_error(
    status: int, headers: tuple[str, ...], call: Any
) -> None:
    """A 5xx does not say whether the prompt runs: one request, and both an unknown outcome and a server error."""
    async with RawServer(refusal(status, "oops", *headers), start_ok) as server:
        error = await failure(call, server)
        assert len(server.seen) == 1
    assert isinstance(error, ServerOutcomeError)
    assert isinstance(error, OutcomeUnknownError)
    assert isinstance(error, ServerError)
    assert error.status == status
    assert str(status) in str(error)


@pytest.mark.parametrize("headers", [(), ("Retry-After: 1",)])
@pytest.mark.parametrize("status", [408, 425, 499, 303])
@pytest.mark.parametrize("call", [start, continue_])
async def test_a_prompt_is_not_sent_again_after_a_status_of_a_gateway(
    status: int, call: Any, headers: tuple[str, ...]
) -> None:
    """What gateways send for a slow response does not prove that the prompt did not run: one request, unknown."""
    async with RawServer(refusal(status, "too slow", *headers), start_ok) as server:
        error = await failure(call, server)
        assert len(server.seen) == 1
    assert isinstance(error, OutcomeUnknownError)
    assert str(status) in str(error)
    assert isinstance(error.__cause__, StatusError)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 520, 408, 425])
async def test_a_read_is_made_again_after_a_passing_status(status: int) -> None:
    """After a server error, HTML page or not, a read is made again."""
    page = answer(status, b"<html>Bad gateway</html>")
    async with RawServer(page, page, read_ok) as server, support.session(server.url) as nairi:
        assert (await nairi.message("cmsg_1")).content == "Hello"
        assert server.lines == [READ] * 3


async def test_an_error_page_is_shown_short() -> None:
    """The error quotes the beginning of an HTML error page on one line."""
    async with RawServer(answer(502, b"<html>\r\n<h1>Bad gateway</h1>" + 5000 * b" x")) as server:
        error = await failure(read, server, retry=RetryPolicy(attempts=1))
    assert isinstance(error, ServerError)
    assert error.message.startswith("<html> <h1>Bad gateway</h1> x")
    assert len(error.message) <= 200


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("call", [read, start])
async def test_redirects_are_not_followed(status: int, call: Any) -> None:
    """A redirect is an error, and the host that it names sees neither the key nor anything else."""
    async with RawServer(read_ok) as elsewhere:
        moved = answer(status, b"", f"Location: {elsewhere.url}/stolen")
        async with RawServer(moved) as server:
            error = await failure(call, server)
            assert len(server.seen) == 1
        assert elsewhere.connections == 0
    assert isinstance(error, StatusError)
    assert (error.status, "redirect" in error.message) == (status, True)


# What is sent, and over which connection.


async def test_a_request_carries_what_the_service_asks_for() -> None:
    """The key goes in the header, the prompt as JSON with its length, and nothing else is in the body."""
    async with RawServer(start_ok) as server, support.session(server.url) as nairi:
        await nairi.start("my-agent", "Grüße \ud800 \x00", ask_mode=True, attachment_ids=["att_1"])
    seen = server.seen[0]
    assert f"\r\nAuthorization: Bearer {support.KEY}\r\n" in seen.head
    assert "\r\nContent-Type: application/json\r\n" in seen.head
    assert json.loads(seen.body) == {
        "agent_id": "my-agent",
        "prompt": "Grüße \ud800 \x00",
        "ask_mode": True,
        "attachment_ids": ["att_1"],
    }


@pytest.mark.parametrize("call", [read, start])
async def test_every_header_of_a_request_stands_in_it_once(call: Any) -> None:
    """A request begins with its host, and carries each header once: no default of aiohttp's is missing or doubled."""
    whole = answer(200, STARTED[:-1] + b"," + MESSAGE[1:])
    async with RawServer(whole) as server, support.session(server.url) as nairi:
        await call(nairi)
    names = [line.partition(":")[0] for line in server.seen[0].head.split("\r\n")[1:] if line]
    assert names[0] == "Host"
    assert {"Accept", "Accept-Encoding", "User-Agent", "Authorization"} <= set(names)
    assert len(names) == len(set(names))
    assert f"\r\nHost: {server.url.partition('//')[2].partition('/')[0]}\r\n" in server.seen[0].head


async def test_connections_are_used_again() -> None:
    """Calls one after another share a connection, also after errors."""
    async with RawServer(read_ok, refusal(404, "gone"), read_ok) as server, support.session(server.url) as nairi:
        await nairi.message("cmsg_1")
        with pytest.raises(NotFoundError):
            await nairi.message("cmsg_2")
        await nairi.message("cmsg_3")
        assert server.connections == 1


async def test_cookies_are_not_kept() -> None:
    """The session stores no cookies."""
    crumbs = answer(200, MESSAGE, "Set-Cookie: a=b; Path=/")
    async with RawServer(crumbs) as server, support.session(server.url) as nairi:
        await nairi.message("cmsg_1")
        await nairi.message("cmsg_1")
        assert "ookie" not in server.seen[1].head


@pytest.mark.parametrize("call", [read, start])
async def test_a_kept_connection_that_the_server_closed_is_replaced(call: Any) -> None:
    """A connection that the service closed between two requests costs neither a read nor a prompt."""
    whole = Last(answer(200, STARTED[:-1] + b"," + MESSAGE[1:]))
    async with (
        RawServer(whole) as server,
        aiohttp.ClientSession(connector=(connector := aiohttp.TCPConnector())) as http,
        support.session(server.url, http=http) as nairi,
    ):
        kept = connector._conns
        for _ in range(3):
            await call(nairi)
            await support.until(lambda: not server.tasks)
            await support.until(lambda: not any(one.is_connected() for pool in kept.values() for one, *_ in pool))
        assert (len(server.seen), server.connections) == (3, 3)


async def test_a_read_survives_the_race_with_a_closing_connection() -> None:
    """A read over a kept connection that closes at that moment is made again."""
    async with RawServer(read_ok, Act.CLOSE, read_ok) as server, support.session(server.url) as nairi:
        for _ in range(2):
            assert (await nairi.message("cmsg_1")).content == "Hello"


async def test_a_call_that_gets_its_permit_from_a_closed_pool_says_so() -> None:
    """The owner of a lent pool may close it while a call waits for a permit: that call finds the session closed."""
    async with (
        RawServer(Act.HANG) as server,
        aiohttp.ClientSession() as http,
        support.session(server.url, http=http, max_connections=1) as nairi,
    ):
        under_way = asyncio.create_task(nairi.message("cmsg_1"))
        await support.until(lambda: server.seen)
        waiting = asyncio.create_task(nairi.message("cmsg_2"))
        await support.until(lambda: nairi.stats.waiting_calls == 1)
        await http.close()
        under_way.cancel()
        with pytest.raises(SessionClosedError):
            await waiting
        await asyncio.wait((under_way,))


async def test_a_cancelled_call_leaves_the_session_usable() -> None:
    """Cancelling a call drops its connection and nothing else."""
    async with RawServer(Act.HANG, read_ok) as server, support.session(server.url, max_connections=1) as nairi:
        call = asyncio.create_task(nairi.message("cmsg_1"))
        await support.until(lambda: server.seen)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await nairi.message("cmsg_1")).content == "Hello"


# TLS.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


@pytest.mark.parametrize("call", [read, start])
async def test_a_certificate_of_nobody_is_refused(server_tls: ssl.SSLContext, call: Any) -> None:
    """A server whose certificate is not trusted gets no request, and so no key."""
    async with RawServer(read_ok, ssl=server_tls) as server:
        error = await failure(call, server, retry=RetryPolicy(attempts=2))
        assert server.seen == []
    assert type(error) is ConnectionFailedError


async def test_own_trust_goes_in_through_http(authority: trustme.CA, server_tls: ssl.SSLContext) -> None:
    """The TLS settings of a lent aiohttp session are used."""
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with (
        RawServer(start_ok, ssl=server_tls) as server,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting)) as http,
        support.session(server.url, http=http) as nairi,
    ):
        assert await nairi.start("my-agent", "Hello") == Turn("job_1", "cmsg_1")


@pytest.mark.parametrize("call", [read, start])
async def test_a_server_without_tls_is_a_failed_connection(call: Any) -> None:
    """TLS with a server that speaks plain http sends nothing and is a failed connection."""
    received_at = []

    async def plain(request: web.BaseRequest) -> web.Response:
        received_at.append(request.path)
        return web.Response(body=MESSAGE)

    async with (
        support.serve(plain) as url,
        support.session(url.replace("http:", "https:"), retry=RetryPolicy(attempts=2)) as nairi,
    ):
        with pytest.raises(ConnectionFailedError):
            await call(nairi)
    assert received_at == []


async def test_a_prompt_of_megabytes_goes_out_whole(nairi: NairiSession, simulator: Simulator) -> None:
    """A long prompt arrives as it is, without a warning of the HTTP library, and is written in pieces."""
    prompt = "Summarise: " + "é" * 2_000_000
    await nairi.start("my-agent", prompt)
    assert [asked.prompt for asked in simulator.prompts] == [prompt]
