"""A session is opened once, used on one loop, and closed; each misuse is a SessionClosedError that says which."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import threading
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import support
from aiohttp import web
from support import KEY, MESSAGE, PREFIX, STARTED, Act, RawServer, answer

from nairi_async import (
    NairiError,
    NairiSession,
    NotFoundError,
    OutcomeUnknownError,
    RetryPolicy,
    SessionClosedError,
    Turn,
)
from nairi_async.amigo import AmigoSession

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nairi_async.testing import VirtualClock

pytestmark = pytest.mark.anyio

READ = f"GET {PREFIX}/messages/cmsg_1 HTTP/1.1"
TURN = Turn("job_1", "cmsg_1")
CALLS: dict[str, Callable[[NairiSession], Awaitable[Any]]] = {
    "start": lambda nairi: nairi.start("my-agent", "Hello"),
    "continue_": lambda nairi: nairi.continue_("job_1", "Hello"),
    "message": lambda nairi: nairi.message("cmsg_1"),
    "messages": lambda nairi: nairi.messages("job_1"),
    "wait": lambda nairi: nairi.wait(TURN),
    "reply": lambda nairi: nairi.reply(TURN),
    "ask": lambda nairi: nairi.ask("my-agent", "Hello"),
    "watch": lambda nairi: anext(nairi.watch(TURN)),
    "conversation": lambda nairi: nairi.conversation("my-agent").ask("Hello"),
    "resume": lambda nairi: nairi.resume("job_1").ask("Hello"),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@every_call
async def test_use_before_opening_says_so(call: Any) -> None:
    """A session that was not opened sends nothing and says that it is not open yet."""
    async with RawServer(answer(200, MESSAGE)) as server:
        with pytest.raises(SessionClosedError, match="not open yet"):
            await call(support.session(server.url))
        assert server.connections == 0


@every_call
async def test_use_after_closing_says_so(call: Any) -> None:
    """A session that was closed sends nothing and says that it is closed."""
    async with RawServer(answer(200, MESSAGE)) as server:
        async with support.session(server.url) as nairi:
            pass
        with pytest.raises(SessionClosedError, match="is closed"):
            await call(nairi)
        assert server.connections == 0


@every_call
async def test_use_from_another_loop_says_so(call: Any) -> None:
    """A session that is used from another event loop sends nothing and says that it belongs to another loop."""
    async with RawServer(answer(200, MESSAGE)) as server, support.session(server.url) as nairi:

        async def elsewhere() -> None:
            with pytest.raises(SessionClosedError, match="another event loop"):
                await call(nairi)

        await asyncio.to_thread(asyncio.run, elsewhere())
        assert server.connections == 0


async def test_use_after_the_loop_has_gone_says_so() -> None:
    """A session kept from one `asyncio.run` to the next says that it belongs to another loop."""
    nairi = support.session("http://127.0.0.1:1")

    async def second() -> None:
        with pytest.raises(SessionClosedError, match="another event loop"):
            await nairi.message("cmsg_1")

    def two_runs() -> None:
        asyncio.run(nairi.__aenter__())
        asyncio.run(second())

    await asyncio.to_thread(two_runs)
    await nairi.aclose()


@pytest.mark.parametrize(
    "make", [NairiSession, partial(AmigoSession, api_key_id="i", user_id="u", organization_id="o")]
)
def test_opening_without_asyncio_says_so(make: Callable[[str], NairiSession | AmigoSession]) -> None:
    """As under trio, which runs coroutines without a loop of asyncio."""
    with pytest.raises(SessionClosedError, match="no event loop of asyncio runs here"):
        make(KEY).__aenter__().send(None)


async def test_closing_from_another_loop_is_clean_or_says_so() -> None:
    """Closing a session whose loop is closed either works or raises the documented error."""
    failures: list[BaseException] = []

    async def first(nairi: NairiSession) -> None:
        async with RawServer(answer(200, MESSAGE)) as server:
            nairi._http.base_url = server.url
            await nairi.__aenter__()
            await nairi.message("cmsg_1")

    def two_runs() -> None:
        nairi = support.session("http://127.0.0.1:1")
        asyncio.run(first(nairi))
        try:
            asyncio.run(nairi.aclose())
        except BaseException as error:  # noqa: BLE001 - any error
            failures.append(error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        await asyncio.to_thread(two_runs)
        gc.collect()
    assert all(isinstance(error, SessionClosedError) for error in failures), failures


async def test_a_session_is_opened_once() -> None:
    """Entering twice, or again after closing, is refused; the error says which it is."""
    nairi = support.session("http://127.0.0.1:1")
    async with nairi:
        with pytest.raises(SessionClosedError, match="open already"):
            await nairi.__aenter__()
    with pytest.raises(SessionClosedError, match="closed already"):
        await nairi.__aenter__()


async def test_closing_is_idempotent() -> None:
    """Closing may be repeated, at once or one after another, opened or not."""
    nairi = support.session("http://127.0.0.1:1")
    async with nairi:
        await asyncio.gather(nairi.aclose(), nairi.aclose())
    await nairi.aclose()
    unopened = support.session("http://127.0.0.1:1")
    await unopened.aclose()
    with pytest.raises(SessionClosedError):
        await unopened.__aenter__()


async def test_the_repr_says_whether_it_is_open() -> None:
    """The repr names the service and the state."""
    nairi = support.session("http://127.0.0.1:1")
    shown = [repr(nairi)]
    async with nairi:
        shown.append(repr(nairi))
    shown.append(repr(nairi))
    assert [" not open>" in text for text in shown] == [True, False, True]
    assert all("http://127.0.0.1:1" in text for text in shown)


async def test_a_session_closes_what_it_opened() -> None:
    """After closing, the session's own connections are gone on both sides."""
    async with RawServer(answer(200, MESSAGE)) as server:
        async with support.session(server.url) as nairi:
            await nairi.message("cmsg_1")
            http = nairi._http._session
            assert server.tasks
        assert http is not None
        assert http.closed
        await support.until(lambda: not server.tasks)


async def test_a_lent_session_is_left_open() -> None:
    """A lent aiohttp session outlives the session that used it, and still works."""
    async with RawServer(answer(200, MESSAGE)) as server, aiohttp.ClientSession() as http:
        for _ in range(2):
            async with support.session(server.url, http=http) as nairi:
                await nairi.message("cmsg_1")
        async with http.get(server.url) as response:
            assert response.status == 200
        assert server.connections == 1


async def test_a_lent_session_that_is_closed_says_so() -> None:
    """A lent session that its owner has closed is named as the reason, before opening and later."""
    http = aiohttp.ClientSession()
    async with support.session("http://127.0.0.1:1", http=http) as nairi:
        await http.close()
        with pytest.raises(SessionClosedError, match="http="):
            await nairi.message("cmsg_1")
    with pytest.raises(SessionClosedError, match="http="):
        await support.session("http://127.0.0.1:1", http=http).__aenter__()


async def test_settings_of_a_lent_session_do_not_change_our_guarantees() -> None:
    """Default headers, `raise_for_status` and short timeouts of a lent session change nothing."""
    http = aiohttp.ClientSession(
        headers={"Authorization": "Bearer somebody-else", "X-Trace": "1"},
        raise_for_status=True,
        timeout=aiohttp.ClientTimeout(total=0.001),
    )
    busy = answer(503, b"busy")

    async def slow(request: web.BaseRequest) -> web.Response:
        await asyncio.sleep(0.02)
        return web.Response(body=MESSAGE, headers={"X-Saw": request.headers["Authorization"]})

    async with http, RawServer(busy, answer(200, MESSAGE)) as server, support.serve(slow) as url:
        for base in (server.url, url):
            async with support.session(base, http=http) as nairi:
                assert (await nairi.message("cmsg_1")).content == "Hello"
        assert f"Authorization: Bearer {KEY}\r\n" in server.seen[0].head
        assert "X-Trace: 1\r\n" in server.seen[0].head
        assert "somebody-else" not in server.seen[0].head


async def test_a_lent_session_with_its_own_credentials_is_a_typed_error() -> None:
    """A lent session that signs requests itself cannot be combined with a key: a typed error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        http = aiohttp.ClientSession(auth=aiohttp.BasicAuth("user", "password"))
    async with http, RawServer(answer(200, MESSAGE)) as server:
        try:
            async with support.session(server.url, http=http) as nairi:
                await nairi.message("cmsg_1")
        except Exception as error:  # noqa: BLE001 - any error
            assert isinstance(error, NairiError)  # noqa: PT017 - working is right, too
        assert all(f"Authorization: Bearer {KEY}\r\n" in seen.head for seen in server.seen)


async def test_a_smaller_lent_pool_costs_no_request_time(clock: VirtualClock) -> None:
    """Waiting for a connection of a lent session with a small pool does not count against the request timeout."""

    async def slow(request: web.BaseRequest) -> web.Response:
        with clock.stalled():
            await clock.sleep(20)
        return web.Response(body=MESSAGE)

    connector = aiohttp.TCPConnector(limit=1)
    async with (
        support.serve(slow) as url,
        aiohttp.ClientSession(connector=connector) as http,
        support.session(url, http=http, clock=clock, request_timeout=30, retry=RetryPolicy(attempts=1)) as nairi,
    ):
        assert len(await asyncio.gather(*(nairi.message(f"cmsg_{n}") for n in range(4)))) == 4
    assert clock.monotonic() == 80


async def test_closing_ends_a_read_under_way() -> None:
    """A read that is under way when the session closes ends at once, saying that the session was closed."""
    async with RawServer(Act.HANG) as server, support.session(server.url) as nairi:
        call = asyncio.create_task(nairi.message("cmsg_1"))
        await support.until(lambda: len(server.seen) == 1)
        await nairi.aclose()
        with pytest.raises(SessionClosedError, match="closed"):
            await call
        assert server.lines == [READ]


async def test_closing_ends_a_prompt_under_way_as_unknown() -> None:
    """A prompt that was sent before the session closed may run, and its error says so."""
    async with RawServer(Act.HANG) as server, support.session(server.url) as nairi:
        call = asyncio.create_task(nairi.start("my-agent", "Hello"))
        await support.until(lambda: len(server.seen) == 1)
        await nairi.aclose()
        with pytest.raises(OutcomeUnknownError):
            await call


async def test_closing_ends_calls_that_wait_for_a_connection() -> None:
    """Calls that had not been sent when the session closed are not sent any more."""
    async with RawServer(Act.HANG) as server, support.session(server.url, max_connections=1) as nairi:
        first = asyncio.create_task(nairi.message("cmsg_1"))
        await support.until(lambda: len(server.seen) == 1)
        second = asyncio.create_task(nairi.start("my-agent", "Hello"))
        await support.until(lambda: nairi._executor.limiter.waiting)
        await nairi.aclose()
        ended = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(error) for error in ended] == [SessionClosedError] * 2
        assert server.lines == [READ]


def drop(held: list[NairiSession]) -> None:
    """Drop the last reference."""
    held.clear()
    gc.collect()


async def test_an_unclosed_session_warns_and_schedules_nothing() -> None:
    """A session that was never closed warns when it is collected, and its finaliser starts no task."""
    async with aiohttp.ClientSession() as http:
        held = [await support.session("http://127.0.0.1:1", http=http).__aenter__()]
        before = asyncio.all_tasks()
        with pytest.warns(ResourceWarning, match=r"NairiSession .* never closed"):
            drop(held)
        assert asyncio.all_tasks() == before
        assert not http.closed


@pytest.mark.parametrize("opened", [False, True], ids=["never opened", "closed"])
async def test_a_closed_session_does_not_warn(*, opened: bool) -> None:
    """Neither a session that was closed nor one that was never opened warns when it is collected."""
    held = [support.session("http://127.0.0.1:1")]
    if opened:
        async with held[0]:
            pass
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        drop(held)
    assert [str(warning.message) for warning in caught if "NairiSession" in str(warning.message)] == []


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
async def test_a_session_is_neither_pickled_nor_copied(duplicate: Any) -> None:
    """A session holds a key and connections, so no copy of it is made by accident."""
    async with support.session("http://127.0.0.1:1") as nairi:
        with pytest.raises(TypeError, match="session"):
            duplicate(nairi)


def test_nothing_happens_at_construction() -> None:
    """A session can be made without an event loop and starts no thread."""
    threads = set(threading.enumerate())
    support.session("http://127.0.0.1:1")
    assert set(threading.enumerate()) <= threads


async def test_key_and_url_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without arguments, key and base URL come from the environment."""
    async with RawServer(answer(200, MESSAGE)) as server:
        monkeypatch.setenv("NAIRI_API_KEY", "nr_from_environment")
        monkeypatch.setenv("NAIRI_BASE_URL", server.url)
        async with NairiSession() as nairi:
            await nairi.message("cmsg_1")
        assert "\r\nAuthorization: Bearer nr_from_environment\r\n" in server.seen[0].head
        assert server.lines == [READ]


async def test_arguments_take_precedence_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments count, whichever variables are set."""
    monkeypatch.setenv("NAIRI_API_KEY", "nr_from_environment")
    monkeypatch.setenv("NAIRI_BASE_URL", "https://elsewhere.invalid")
    async with RawServer(answer(200, MESSAGE)) as server, support.session(server.url) as nairi:
        await nairi.message("cmsg_1")
        assert f"\r\nAuthorization: Bearer {KEY}\r\n" in server.seen[0].head


@pytest.mark.parametrize("unset", [None, ""], ids=["unset", "empty"])
def test_the_real_service_is_the_default(unset: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a base URL, or with an empty variable, the documented one is used."""
    if unset is None:
        monkeypatch.delenv("NAIRI_BASE_URL", raising=False)
    else:
        monkeypatch.setenv("NAIRI_BASE_URL", unset)
    assert "https://api.nairi.ai/api/public/v1 " in repr(NairiSession(KEY))


@pytest.mark.parametrize(
    ("tail", "path"),
    [
        ("", PREFIX),
        ("/", PREFIX),
        ("///", PREFIX),
        (PREFIX, PREFIX),
        (f"{PREFIX}/", PREFIX),
        ("/proxy", f"/proxy{PREFIX}"),
        (f"/proxy{PREFIX}/", f"/proxy{PREFIX}"),
        ("/a b", f"/a%20b{PREFIX}"),
        ("/a%2Fb", f"/a%2Fb{PREFIX}"),
    ],
)
async def test_the_base_url_may_be_given_in_any_form(tail: str, path: str) -> None:
    """With or without the prefix, a trailing slash or a proxy's path: the request has the right path."""
    async with RawServer(answer(200, MESSAGE)) as server, support.session(f" {server.url}{tail} ") as nairi:
        await nairi.message("cmsg_1")
        assert server.lines == [f"GET {path}/messages/cmsg_1 HTTP/1.1"]


async def test_many_calls_at_once_share_the_connections() -> None:
    """A hundred calls at once get their own responses over no more connections than allowed."""
    open_now, most = 0, 0

    async def echo(request: web.BaseRequest) -> web.Response:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        await asyncio.sleep(0)
        open_now -= 1
        return web.json_response({"id": request.path.rsplit("/", 1)[1]})

    names = [f"cmsg_{n}" for n in range(100)]
    async with support.serve(echo) as url, support.session(url, max_connections=7) as nairi:
        assert [message.id for message in await asyncio.gather(*map(nairi.message, names))] == names
    assert most <= 7


async def test_nothing_is_left_behind() -> None:
    """After successes, failures and a cancellation, closing leaves no task and no connection."""
    before = asyncio.all_tasks()
    steps = (answer(200, MESSAGE), answer(404), answer(500), answer(201, STARTED), Act.HANG)
    async with RawServer(*steps) as server:
        async with support.session(server.url) as nairi:
            await nairi.message("cmsg_1")
            with pytest.raises(NotFoundError):
                await nairi.message("cmsg_2")
            with pytest.raises(OutcomeUnknownError):
                await nairi.start("my-agent", "Hello")
            await nairi.start("my-agent", "Hello")
            hanging = asyncio.create_task(nairi.message("cmsg_1"))
            await support.until(lambda: len(server.seen) == 5)
            assert asyncio.all_tasks() - before - server.tasks == {hanging}
            hanging.cancel()
            await asyncio.gather(hanging, return_exceptions=True)
        assert asyncio.all_tasks() - before - server.tasks == set()
    assert asyncio.all_tasks() == before
