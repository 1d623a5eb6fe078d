"""What a caller learns of a call that it cancelled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import support
from aiohttp import web
from support import Act, RawServer, answer, refusal

from nairi_async import RateLimitedError, RequestTimeoutError, RetryPolicy
from nairi_async._core.api_key import ApiKey
from nairi_async._core.request import CallState, Request
from nairi_async.clock import SystemClock
from nairi_async.testing import VirtualClock

if TYPE_CHECKING:
    from nairi_async._core.request import Send

pytestmark = pytest.mark.anyio


class Renewed(ApiKey):
    """Credentials that can be replaced, which takes until the test ends."""

    def __init__(self) -> None:
        super().__init__(support.KEY)
        self.acquired = 0

    async def acquire(self, _send: Send, /) -> None:
        self.acquired += 1
        if self.acquired > 1:
            await asyncio.Event().wait()

    def invalidate(self, _credential_version: int, /) -> bool:
        return True


def prompt(**options: Any) -> Request:
    return Request(method="POST", path="/prompts", body=b"{}", idempotent=False, **options)


async def cancelled(server: RawServer, request: Request, until: Any) -> CallState:
    """Return the state of a call that is cancelled as soon as a condition is true."""
    state = CallState()
    async with support.session(server.url, clock=SystemClock()) as nairi:
        call = asyncio.create_task(nairi._executor.call(request, bytes, state=state))
        await support.until(lambda: until(nairi))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    return state


async def test_cancelled_without_a_response_it_may_have_run() -> None:
    """A call that is cancelled while its response is awaited may have run."""
    async with RawServer(Act.HANG) as server:
        state = await cancelled(server, prompt(), lambda _: server.seen)
    assert state.write_started


async def test_cancelled_between_attempts_it_did_not_run() -> None:
    """A call that was refused, and is cancelled while it waits for its next attempt, did not run."""
    async with RawServer(refusal(429, "slow down", "Retry-After: 30")) as server:
        state = await cancelled(server, prompt(), lambda nairi: nairi.stats.retries)
        assert len(server.seen) == 1
    assert not state.write_started


async def test_cancelled_while_new_credentials_are_acquired_it_did_not_run() -> None:
    """A call that was refused for its credentials, and is cancelled while others are acquired, did not run."""
    credentials = Renewed()
    async with RawServer(answer(401)) as server:
        state = await cancelled(server, prompt(credentials=credentials), lambda _: credentials.acquired > 1)
        assert len(server.seen) == 1
    assert not state.write_started


async def test_a_state_can_be_used_again() -> None:
    """A call begins its state anew: what an earlier call left in it does not count."""
    state = CallState()
    async with (
        RawServer(refusal(429, "slow down")) as server,
        support.session(server.url, retry=RetryPolicy(attempts=1)) as nairi,
    ):
        with pytest.raises(RateLimitedError):
            await nairi._executor.call(prompt(), bytes, state=state)
        assert state.write_started
        credentials = Renewed()
        credentials.acquired = 1
        call = asyncio.create_task(nairi._executor.call(prompt(credentials=credentials), bytes, state=state))
        await support.until(lambda: credentials.acquired > 1)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    assert not state.write_started


async def test_a_deadline_cuts_reads_short_and_no_prompt() -> None:
    """A prompt that has left is waited for beyond the deadline, because its outcome would be unknown."""
    clock = VirtualClock()

    async def slow(_request: web.BaseRequest) -> web.Response:
        with clock.stalled():
            await clock.sleep(20)
        return web.Response(body=b"{}")

    async with support.serve(slow) as url, support.session(url, clock=clock) as nairi:
        executor = nairi._executor
        with pytest.raises(RequestTimeoutError):
            await executor.call(Request(method="GET", path="/"), bytes, deadline=clock.monotonic() + 10)
        assert clock.monotonic() == 10
        assert await executor.call(prompt(), bytes, deadline=clock.monotonic() + 10) == b"{}"
