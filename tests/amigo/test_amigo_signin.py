from __future__ import annotations

import asyncio
import json
import logging
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import pytest
import support
from aiohttp import web
from amigo_sessions import COMPLETE, ID, KEY, SIGNED_IN, TAKEN, TOKEN, chunked, lines, session
from support import Act, Last, RawServer, answer, refusal
from test_secrecy import FAULTS, frame_locals, shown

from nairi_async import (
    AuthenticationError,
    ConnectionFailedError,
    DecodeError,
    NairiError,
    NotFoundError,
    RateLimitedError,
    RetryPolicy,
    ServerError,
)
from nairi_async.amigo import AmigoSession, Limits
from nairi_async.testing import VirtualClock
from nairi_async.testing.amigo import AmigoQuirks, AmigoSimulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support import Step

pytestmark = pytest.mark.anyio

EMPTY = answer(200, '{"conversations": [], "has_more": false, "continuation_token": null}')


async def listed(amigo: AmigoSession) -> list[Any]:
    return [row async for row in amigo.conversations()]


async def test_a_sign_in_carries_key_and_user_and_no_body() -> None:
    """The key is exchanged as documented, once; every other call carries the token and never the key."""
    async with RawServer(SIGNED_IN, EMPTY) as server, session(server.url) as amigo:
        await listed(amigo)
        await listed(amigo)
    first, *others = server.seen
    assert first.line == "POST /v1/simulated/user/signin_with_api_key HTTP/1.1"
    head = first.head.lower()
    assert f"x-api-key: {KEY}\r\nx-api-key-id: simulated-key\r\nx-user-id: simulated-user\r\n".lower() in head
    assert "authorization" not in head
    assert first.body == b""
    assert len(others) == 2
    assert all(f"Authorization: Bearer {TOKEN}\r\n" in seen.head and KEY not in seen.head for seen in others)


async def test_many_tasks_sign_in_once(amigo: AmigoSession, service: AmigoSimulator) -> None:
    """However many calls need a token at once, there is one sign-in."""
    await asyncio.gather(*(listed(amigo) for _ in range(50)))
    assert service.sign_ins == 1


async def test_a_cancelled_sign_in_costs_the_others_nothing() -> None:
    """If the task that signs in is cancelled, another does; no other call fails, and no task is left behind."""
    release = asyncio.Event()
    sign_ins = 0

    async def handler(request: web.BaseRequest) -> web.Response:
        nonlocal sign_ins
        if "signin" not in request.path:
            return web.json_response({"conversations": [], "has_more": False, "continuation_token": None})
        sign_ins += 1
        if sign_ins == 1:
            await release.wait()
        return web.json_response({"id_token": TOKEN, "expires_at": "2999-01-01T00:00:00Z"})

    async with support.serve(handler) as url, session(url) as amigo:
        tasks = [asyncio.ensure_future(listed(amigo)) for _ in range(5)]
        await support.until(lambda: sign_ins)
        before = len(asyncio.all_tasks())
        tasks[0].cancel()
        tasks[3].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        release.set()
    assert [isinstance(result, asyncio.CancelledError) for result in results] == [True, False, False, True, False]
    assert sign_ins == 2
    assert len(asyncio.all_tasks()) <= before


async def test_a_failed_sign_in_fails_all_who_waited_once() -> None:
    """A refused sign-in answers all who waited for it, each with an error of its own; later ones try anew."""
    async with RawServer(refusal(401, "no such key")) as server, session(server.url) as amigo:
        results = await asyncio.gather(*(listed(amigo) for _ in range(10)), return_exceptions=True)
        assert all(isinstance(error, AuthenticationError) for error in results)
        assert len({id(error) for error in results}) == 10
        assert len(server.seen) == 1
        with pytest.raises(AuthenticationError):
            await listed(amigo)
        assert len(server.seen) == 2


@pytest.mark.parametrize(
    ("step", "kind", "words"),
    [
        (refusal(401, "no such key"), AuthenticationError, "401 no such key"),
        (answer(404, '{"detail": "no such organisation"}'), NotFoundError, "404"),
        (refusal(429, "too many", "Retry-After: 999"), RateLimitedError, "429 too many"),
        (refusal(503, "maintenance"), ServerError, "503 maintenance"),
        (answer(200, "[]"), DecodeError, "no id_token"),
        (answer(200, json.dumps({"id_token": "a\r\nX-Evil: 1"})), DecodeError, "no id_token"),
        (Act.CLOSE, ConnectionFailedError, "connection failed"),
    ],
)
async def test_a_failed_sign_in_keeps_its_status(step: Step, kind: type[NairiError], words: str) -> None:
    """What went wrong with the sign-in is the typed error, with status and path, and the message was not sent."""
    async with RawServer(step) as server, session(server.url, retry=RetryPolicy(attempts=2)) as amigo:
        with pytest.raises(kind, match=f"POST /simulated/user/signin_with_api_key: .*{words}"):
            await amigo.interact(ID, "Hi")
        assert all("signin" in line for line in server.lines)


async def test_an_unreadable_sign_in_is_final_at_once() -> None:
    """A response that is no token is not asked for again: nothing suggests that the next one would be."""
    clock = VirtualClock()
    async with RawServer(answer(200, "<html>portal")) as server, session(server.url, clock=clock) as amigo:
        with pytest.raises(DecodeError, match="no id_token"):
            await listed(amigo)
        assert (len(server.seen), clock.monotonic()) == (1, 0)


async def test_passing_faults_of_a_sign_in_are_tried_again() -> None:
    """A sign-in does nothing, so it is repeated as a read would be."""
    async with RawServer(refusal(503, "busy"), Act.CLOSE, SIGNED_IN, EMPTY) as server, session(server.url) as amigo:
        assert await listed(amigo) == []
        assert len(server.seen) == 4


@pytest.mark.parametrize("lifetime", [20.0, 600.0, 86400.0])
@pytest.mark.parametrize("skew", [-7200.0, 0.0, 7200.0])
async def test_a_token_is_renewed_before_it_expires(lifetime: float, skew: float, clock: VirtualClock) -> None:
    """However long it lives and wherever the clocks stand, no request carries a token that has expired."""
    quirks = AmigoQuirks(token_lifetime=lifetime, clock_skew=skew)
    async with AmigoSimulator(clock=clock, quirks=quirks) as service, session(service.url, clock=clock) as amigo:
        for _ in range(40):
            await listed(amigo)
            clock.advance(lifetime / 10)
        assert amigo.stats.requests == 40 + service.sign_ins
        assert 4 <= service.sign_ins <= 6


@pytest.mark.parametrize("expires_at", ["1999-01-01T00:00:00Z", "soon", None, 7, "9999-99-99"])
async def test_a_token_without_a_usable_expiry_is_used_until_it_is_refused(expires_at: Any) -> None:
    """An expiry that is past or unreadable does not make a sign-in of every call."""
    signed_in = answer(200, json.dumps({"id_token": TOKEN, "expires_at": expires_at}))
    async with RawServer(signed_in, EMPTY) as server, session(server.url) as amigo:
        for _ in range(3):
            await listed(amigo)
        assert len(server.seen) == 4


async def test_an_expired_token_is_replaced_and_the_call_repeated(
    amigo: AmigoSession, service: AmigoSimulator, clock: VirtualClock
) -> None:
    """A 401 costs one sign-in and one more try, also for what must not run twice: it was refused before."""
    conversation = (await amigo.create_conversation(service.service_id).reply()).conversation_id or ""
    clock.advance(31)
    service.expire_tokens()
    assert (await amigo.interact(conversation, "Hi").reply()).text == 'You said: "Hi"'
    assert (service.sign_ins, len(service.asked)) == (2, 2)


async def test_a_call_that_waits_for_longer_than_a_token_lasts(clock: VirtualClock) -> None:
    """Whether the token is still good is seen when a call leaves: none is refused, and each is sent once."""
    async with AmigoSimulator(clock=clock, quirks=AmigoQuirks(token_lifetime=100.0)) as service:
        services = [service.service("Hello.") for _ in range(12)]
        limits = Limits(create=1)
        async with session(service.url, clock=clock, limits=limits, max_connections=1) as amigo:
            await asyncio.gather(*(amigo.create_conversation(one).reply() for one in services))
            assert amigo.stats.requests == len(services) + service.sign_ins
    assert clock.monotonic() > 600


async def test_a_sign_in_that_fails_while_a_call_waits_fails_the_call(clock: VirtualClock) -> None:
    """With its own error, and after its own attempts alone."""
    async with AmigoSimulator(clock=clock, quirks=AmigoQuirks(token_lifetime=30.0)) as service:
        services = [service.service("Hello.") for _ in range(2)]
        async with session(service.url, clock=clock, limits=Limits(create=1)) as amigo:
            first = asyncio.ensure_future(amigo.create_conversation(services[0]).reply())
            second = asyncio.ensure_future(amigo.create_conversation(services[1]).reply())
            await first
            service.refuse(401, "no such key", on="sign_in")
            with pytest.raises(AuthenticationError, match="no such key"):
                await second
            assert amigo.stats.requests == 3
            assert (await amigo.create_conversation(services[1]).reply()).text == "Hello."


async def test_an_endpoint_that_refuses_every_token_stalls_nothing_else(
    amigo: AmigoSession, service: AmigoSimulator, clock: VirtualClock
) -> None:
    """A token that is seconds old is not discarded for a 401, so the other calls need no sign-in."""
    for _ in range(20):
        service.refuse(401, "never", on="conversations")
        with pytest.raises(AuthenticationError, match="never"):
            await listed(amigo)
    assert (await amigo.create_conversation(service.service_id).reply()).text
    assert (service.sign_ins, clock.monotonic() < 5) == (1, True)


async def test_a_second_refusal_is_final(amigo: AmigoSession, service: AmigoSimulator, clock: VirtualClock) -> None:
    """A call that is refused with a new token as well is not tried a third time."""
    assert await listed(amigo) == []
    clock.advance(31)
    service.refuse(401, "not you", on="conversations", times=9)
    with pytest.raises(AuthenticationError, match="not you"):
        await listed(amigo)
    assert service.sign_ins == 2


@asynccontextmanager
async def late_refusals(spread: float) -> AsyncIterator[tuple[str, list[str]]]:
    """Serve calls that are refused one after another, as long as they carry the first token."""
    sign_ins: list[str] = []
    calls = 0

    async def handler(request: web.BaseRequest) -> web.Response:
        nonlocal calls
        if "signin" in request.path:
            sign_ins.append(f"token-{len(sign_ins)}")
            return web.json_response({"id_token": sign_ins[-1], "expires_at": "2999-01-01T00:00:00Z"})
        if request.headers["Authorization"] == "Bearer token-0":
            calls += 1
            await asyncio.sleep(spread * calls)
            return web.json_response({"detail": "expired"}, status=401)
        return web.json_response({"conversations": [], "has_more": False, "continuation_token": None})

    async with support.serve(handler) as url:
        yield url, sign_ins


@pytest.mark.parametrize("spread", [0.0, 0.01])
async def test_late_refusals_do_not_discard_a_new_token(spread: float) -> None:
    """Twenty calls whose refusals arrive one after another cost one new sign-in."""
    clock = VirtualClock()
    async with late_refusals(spread) as (url, sign_ins), session(url, clock=clock) as amigo:
        with pytest.raises(AuthenticationError):
            await listed(amigo)
        clock.advance(31)
        await asyncio.gather(*(listed(amigo) for _ in range(20)))
    assert sign_ins == ["token-0", "token-1"]


async def test_sign_ins_are_paced() -> None:
    """A service whose tokens live for seconds is asked for five a minute at most."""
    clock, sign_ins = VirtualClock(), []

    async def handler(request: web.BaseRequest) -> web.Response:
        if "signin" not in request.path:
            return web.json_response({"conversations": [], "has_more": False, "continuation_token": None})
        sign_ins.append(clock.monotonic())
        expires_at = datetime.fromtimestamp(clock.time() + 4, UTC).isoformat()
        return web.json_response({"id_token": TOKEN, "expires_at": expires_at}, headers={"Date": date(clock)})

    async with (
        support.serve(handler) as url,
        session(url, clock=clock, limits=Limits(conversations=None)) as amigo,
    ):
        for _ in range(12):
            await listed(amigo)
            clock.advance(5)
    assert len(sign_ins) == 12
    assert all(later - earlier > 60 for earlier, later in zip(sign_ins, sign_ins[5:], strict=False))


def date(clock: VirtualClock) -> str:
    """Return the `Date` header of a service that has the same clock."""
    return format_datetime(datetime.fromtimestamp(clock.time(), UTC), usegmt=True)


# Secrecy.


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("where", ["sign-in", "call", "stream"])
async def test_no_failure_shows_key_or_token(fault: Step, where: str, caplog: pytest.LogCaptureFixture) -> None:
    """Neither an error, nor its causes, nor a local variable of any frame, nor a log holds the key or the token."""
    caplog.set_level(logging.DEBUG)
    steps = (fault,) if where == "sign-in" else (SIGNED_IN, fault)
    options: dict[str, Any] = {"request_timeout": 0.1, "idle_timeout": 0.1, "retry": RetryPolicy(attempts=2)}
    async with RawServer(*steps) as server, session(server.url, **options) as amigo:
        with pytest.raises(NairiError) as caught:
            await (amigo.interact(ID, "Hi").reply() if where == "stream" else listed(amigo))
        assert KEY in server.seen[0].head
    for secret in (KEY, TOKEN):
        assert not [text for text in (*shown(caught.value), *frame_locals(caught.value)) if secret in text]
        assert secret not in caplog.text


@pytest.mark.parametrize("where", ["sign-in", "call", "stream"])
async def test_a_service_that_repeats_secrets_is_not_quoted(where: str, caplog: pytest.LogCaptureFixture) -> None:
    """Where an answer holds key or token, the error and the log do not pass them on."""
    caplog.set_level(logging.DEBUG)
    said = f"x-api-key: {KEY}, Authorization: Bearer {TOKEN}"
    steps: dict[str, tuple[Step, ...]] = {
        "sign-in": (answer(200, json.dumps({"id_token": [TOKEN], "said": said})),),
        "call": (SIGNED_IN, answer(400, said)),
        "stream": (SIGNED_IN, Last(chunked(f"<html>{said}".encode()))),
    }
    async with RawServer(*steps[where]) as server, session(server.url) as amigo:
        with pytest.raises(NairiError) as caught:
            await (amigo.interact(ID, "Hi").reply() if where == "stream" else listed(amigo))
    # What a stream delivers is in frames: it is the reply.
    texts = [*shown(caught.value), *(() if where == "stream" else frame_locals(caught.value))]
    for secret in (KEY, TOKEN):
        assert not [text for text in texts if secret in text]
        assert secret not in caplog.text


async def test_no_part_of_a_session_shows_a_secret() -> None:
    """The repr of a session and of everything reachable from it by attribute is free of key and token."""
    async with RawServer(SIGNED_IN, chunked(lines(TAKEN, COMPLETE))) as server, session(server.url) as amigo:
        await amigo.interact(ID, "Hi").reply()
        parts = list(support.parts(amigo))
        assert len(parts) > 10
        assert not any(secret in repr(part) for part in parts for secret in (KEY, TOKEN))
