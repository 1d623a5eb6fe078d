from __future__ import annotations

import asyncio
import base64
import logging
import os
import pickle
import traceback
from typing import TYPE_CHECKING, Any

import aiohttp
import amigo_sessions
import pytest
import support
from support import KEY, MESSAGE, STARTED, Act, Drip, Last, Lazy, RawServer, answer, refusal

from nairi_async import ConfigurationError, NairiError, NairiSession, RetryPolicy
from nairi_async._core.api_key import ApiKey
from nairi_async.amigo import AmigoSession

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support import Step

cluster = Lazy("nairi_async.cluster")
ECHOED = f"your header was Authorization: Bearer {KEY}"
FAULTS: dict[str, Step] = {
    "closed": Act.CLOSE,
    "reset": Act.RESET,
    "hang": Act.HANG,
    "drip": Drip(answer(200, MESSAGE), 0.02),
    "not HTTP": Last(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
    "echo": Act.ECHO,
    "bad header": Last(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n{}"),
    "bad chunk": Last(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}"),
    "bad coding": answer(200, b"not gzip", "Content-Encoding: gzip"),
    "truncated": Last(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{}"),
    "not JSON": answer(200, b"<html>"),
    "401": refusal(401, "invalid API key"),
    "429": refusal(429, "slow down", "Retry-After: 999"),
    "500": refusal(500, "oops"),
    "redirect": answer(302, b"", "Location: https://elsewhere.invalid/"),
}
ECHOING: dict[str, Step] = {
    "in an error": refusal(401, ECHOED),
    "in an error page": answer(400, f"<html>{ECHOED}</html>"),
    "in a success": answer(200, ECHOED),
    "in a bad header": Last(f"HTTP/1.1 200 OK\r\nContent-Length: {ECHOED}\r\n\r\n{{}}".encode()),
}


def shown(error: BaseException) -> Iterator[str]:
    """Yield everything that a report of an error may print of it and of its causes."""
    for link in support.chain(error):
        yield from (repr(link), str(link), repr(link.args), repr(vars(link)), *getattr(link, "__notes__", ()))
        yield "".join(traceback.format_exception(link))


def frame_locals(error: BaseException) -> Iterator[str]:
    """Yield the local variables of every frame of the chain but those of tests, as crash reporters send them."""
    for link in support.chain(error):
        for frame, _ in traceback.walk_tb(link.__traceback__):
            if "/tests/" not in frame.f_code.co_filename.replace(os.sep, "/"):
                yield from (repr(value) for value in frame.f_locals.values())


async def failure(server: RawServer, method: str) -> NairiError:
    """Return the error that a call ends with; its traceback has no frame of the caller."""
    options: dict[str, Any] = {"request_timeout": 0.1, "retry": RetryPolicy(attempts=2)}
    async with support.session(server.url, **options) as nairi:
        with pytest.raises(NairiError) as caught:
            await (nairi.message("cmsg_1") if method == "read" else nairi.start("my-agent", "Hello"))
    return caught.value


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["read", "start"])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_no_failure_shows_the_key(fault: Step, method: str, caplog: pytest.LogCaptureFixture) -> None:
    """Neither an error, nor a local variable of any frame of its chain, nor a pickle, nor a log holds the key."""
    caplog.set_level(logging.DEBUG)
    async with RawServer(fault) as server:
        error = await failure(server, method)
        assert KEY in server.seen[0].head
    assert not [text for text in shown(error) if KEY in text]
    assert not [text for text in frame_locals(error) if KEY in text]
    assert KEY.encode() not in pickle.dumps(error)
    assert KEY not in caplog.text


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["read", "start"])
@pytest.mark.parametrize("fault", ECHOING.values(), ids=ECHOING)
async def test_a_service_that_repeats_the_key_is_not_quoted(
    fault: Step, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a response repeats the key, as debugging proxies do, error and log do not hold it."""
    caplog.set_level(logging.DEBUG)
    async with RawServer(fault) as server:
        error = await failure(server, method)
    assert not [text for text in (*shown(error), *frame_locals(error)) if KEY in text]
    assert KEY.encode() not in pickle.dumps(error)
    assert KEY not in caplog.text


@pytest.mark.anyio
async def test_a_refused_connection_does_not_show_the_key(caplog: pytest.LogCaptureFixture) -> None:
    """An error from before any connection was made does not hold the key either."""
    caplog.set_level(logging.DEBUG)
    async with support.session(f"http://127.0.0.1:{support.free_port()}", retry=RetryPolicy(attempts=2)) as nairi:
        with pytest.raises(NairiError) as caught:
            await nairi.start("my-agent", "Hello")
    assert not [text for text in (*shown(caught.value), *frame_locals(caught.value)) if KEY in text]
    assert KEY not in caplog.text


@pytest.mark.anyio
async def test_a_proxy_that_refuses_does_not_show_the_key() -> None:
    """An error made from a proxy's response does not hold the key."""
    async with (
        RawServer(answer(502, b"no")) as proxy,
        aiohttp.ClientSession(proxy=proxy.url) as http,
        support.session("https://api.nairi.invalid", http=http, retry=RetryPolicy(attempts=1)) as nairi,
    ):
        with pytest.raises(NairiError) as caught:
            await nairi.message("cmsg_1")
        assert proxy.seen
        assert KEY not in proxy.seen[0].head
    assert not [text for text in (*shown(caught.value), *frame_locals(caught.value)) if KEY in text]


@pytest.mark.anyio
async def test_a_proxy_that_repeats_the_password_is_not_quoted() -> None:
    """Neither the status line of a proxy, as it came, nor a password stands in a text or a frame."""
    password = "hunter2-hunter2"
    secrets = (password, base64.b64encode(f"user:{password}".encode()).decode(), KEY)
    async with RawServer(Last(f"HTTP/1.1 418 {' '.join(secrets)}\r\n\r\n".encode())) as proxy:
        way = proxy.url.replace("://", f"://user:{password}@")
        async with support.session("https://api.nairi.invalid", proxy=way, retry=RetryPolicy(attempts=1)) as nairi:
            with pytest.raises(NairiError, match="proxy refused") as caught:
                await nairi.message("cmsg_1")
    texts = (*shown(caught.value), *frame_locals(caught.value))
    assert not [text for text in texts if any(secret in text for secret in secrets)]


@pytest.mark.anyio
async def test_events_that_repeat_the_token_stand_in_no_frame() -> None:
    """A stream of something else than events is not quoted with the token that it repeats, nor is it a local."""
    echo = amigo_sessions.chunked(f"your token is {amigo_sessions.TOKEN}\n".encode())
    async with RawServer(amigo_sessions.SIGNED_IN, echo) as server, amigo_sessions.session(server.url) as amigo:
        with pytest.raises(NairiError) as caught:
            await amigo.create_conversation(amigo_sessions.ID, "Hello").reply()
    assert "your token is ***" in str(caught.value)
    assert not [text for text in (*shown(caught.value), *frame_locals(caught.value)) if amigo_sessions.TOKEN in text]


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["read", "start"])
async def test_a_timeout_of_the_caller_does_not_show_the_key(method: str) -> None:
    """A cancellation passes through the HTTP library too; its frames hold no key afterwards."""
    async with RawServer(Act.HANG) as server, support.session(server.url) as nairi:

        async def expire(timeout: asyncio.Timeout) -> None:
            await support.until(lambda: server.seen)
            timeout.reschedule(asyncio.get_running_loop().time())

        async def call() -> None:
            async with asyncio.timeout(None) as timeout, asyncio.TaskGroup() as tasks:
                tasks.create_task(expire(timeout))
                await (nairi.message("cmsg_1") if method == "read" else nairi.start("my-agent", "Hello"))

        with pytest.raises(TimeoutError) as caught:
            await call()
        assert KEY in server.seen[0].head
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert not [text for text in (*shown(caught.value), *frame_locals(caught.value)) if KEY in text]


@pytest.mark.anyio
async def test_errors_of_the_caller_keep_their_frames() -> None:
    """What the caller was handling, and what its own callback raised, can be debugged: their tracebacks are whole."""

    def progress(_sent: int, _size: int | None) -> None:
        raise ZeroDivisionError

    async with RawServer(Act.CLOSE) as server, support.session(server.url, retry=RetryPolicy(attempts=1)) as nairi:
        try:
            os.environ["NO_SUCH_VARIABLE"]
        except KeyError:
            with pytest.raises(NairiError) as caught:
                await nairi.message("cmsg_1")
        handled = [link for link in support.chain(caught.value) if isinstance(link, KeyError)]
        assert handled
        assert handled[0].__traceback__ is not None
        with pytest.raises(ZeroDivisionError) as raised:
            await nairi.upload(b"bytes", progress=progress)
    assert "progress" in [frame.f_code.co_name for frame, _ in traceback.walk_tb(raised.value.__traceback__)]
    assert not [text for text in (*shown(raised.value), *frame_locals(raised.value)) if KEY in text]


@pytest.mark.anyio
async def test_success_logs_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    """The log at DEBUG has the requests, and neither the key nor a prompt."""
    caplog.set_level(logging.DEBUG)
    async with RawServer(answer(201, STARTED)) as server, support.session(server.url) as nairi:
        await nairi.start("my-agent", "a confidential prompt")
    assert [record for record in caplog.records if record.name.startswith("nairi_async")]
    assert KEY not in caplog.text
    assert "confidential" not in caplog.text


@pytest.mark.anyio
async def test_no_part_of_a_session_shows_the_key() -> None:
    """The repr of a session and of everything reachable from it by attribute is free of the key."""
    async with support.session("http://127.0.0.1:1") as nairi:
        parts = list(support.parts(nairi))
        assert len(parts) > 10
        assert not any(KEY in repr(part) for part in parts)


def test_the_key_itself_is_neither_shown_nor_pickled() -> None:
    """The holder of the key has an empty repr and refuses to be pickled."""
    key = ApiKey(KEY)
    assert KEY not in f"{key} {key!r}"
    with pytest.raises(TypeError):
        pickle.dumps(key)


UNSENDABLE = {
    "newline": f"{KEY}\n",
    "header": f"{KEY}\r\nX-Other: 1",
    "space": f" {KEY}",
    "tab": f"{KEY}\t",
    "letter": f"{KEY}é",
    "DEL": f"{KEY}\x7f",
}


def assert_key_is_refused_in_silence(*key: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        NairiSession(*key)
    assert not [text for text in shown(caught.value) if KEY in text]
    assert not [text for text in frame_locals(caught.value) if KEY in text]


@pytest.mark.parametrize("key", [*UNSENDABLE.values(), f"{KEY}\x00", [KEY], KEY.encode()])
def test_a_refused_key_is_not_shown(key: Any) -> None:
    """Neither the error about a key that cannot be sent, nor the locals of our frames, show the key."""
    assert_key_is_refused_in_silence(key)


@pytest.mark.parametrize("key", UNSENDABLE.values(), ids=UNSENDABLE)
def test_a_refused_key_of_the_environment_is_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad key from the environment is not shown either."""
    monkeypatch.setenv("NAIRI_API_KEY", key)
    assert_key_is_refused_in_silence()


@pytest.mark.parametrize(
    "setting",
    [
        {"base_url": "ftp://x"},
        {"base_url": "http://[::1"},
        {"max_connections": 0},
        {"retry": 3},
        {"request_timeout": "x"},
    ],
)
def test_a_refused_setting_does_not_show_the_key(setting: dict[str, Any]) -> None:
    """An error about another setting does not show the key."""
    with pytest.raises(ConfigurationError) as caught:
        NairiSession(KEY, **setting)
    assert not [text for text in (*shown(caught.value), *frame_locals(caught.value)) if KEY in text]


@pytest.mark.parametrize("tail", ["host", "host:port", "[::1", "host/?a=b", "host/\ud800"])
@pytest.mark.parametrize("source", ["argument", "environment"])
def test_a_password_in_a_url_is_not_shown(tail: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base URL or proxy with a password is refused without repeating it, also in the locals of our frames."""
    url = f"https://user:hunter2@{tail}"
    options: dict[str, Any] = {"base_url": url}
    if source == "environment" and url.isprintable():
        options = {}
        monkeypatch.setenv("NAIRI_BASE_URL", url)
        monkeypatch.setenv("AMIGO_BASE_URL", url)
    amigo: dict[str, Any] = {"api_key": KEY, "api_key_id": "id", "user_id": "user", "organization_id": "org"}
    proxy = url.replace("https", "socks5")
    for make in (
        lambda: NairiSession(KEY, **options),
        lambda: AmigoSession(**amigo, **options),
        lambda: cluster.Cluster(f"postgresql://user:{KEY}@host/name", **options),
        lambda: NairiSession(KEY, base_url="http://localhost", proxy=proxy),
        lambda: AmigoSession(**amigo, base_url="http://localhost", proxy=proxy),
    ):
        with pytest.raises(ConfigurationError) as caught:
            make()
        assert not [text for text in (*shown(caught.value), *frame_locals(caught.value)) if "hunter2" in text]
        assert not [text for text in (*shown(caught.value), *frame_locals(caught.value)) if KEY in text]
