"""Closing a session ends whatever its watchers wait for, at once and with the documented error; in virtual time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from nairi_async import NairiSession, Polling, SessionClosedError, Turn
from nairi_async.testing import Done, Quirks, Say, Simulator, VirtualClock, in_memory_session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("seeded")]

# Polls are far apart, so a watcher that ends before its next poll was woken.
POLLING = Polling(delay=100.0, first=100.0, maximum=1000.0, settle=300.0)


async def watch_many(nairi: NairiSession, turn: Turn) -> None:
    async with nairi.watch_many([turn], follow=True) as stream:
        assert [item async for item in stream] == []
        raise stream.errors[turn]


async def ask_many(nairi: NairiSession, agent_id: str) -> None:
    outcomes = [outcome async for outcome in nairi.ask_many(agent_id, ["b", "c"], limit=1)]
    assert [type(outcome.error) for outcome in outcomes] == [SessionClosedError] * 2
    outcomes[0].result()


async def exhausted(watch: Any) -> None:
    async for _ in watch:
        pass


async def ended_at_once(nairi: NairiSession, clock: VirtualClock, calls: list[Awaitable[Any]], *, after: float) -> None:
    """Assert that closing the session after some seconds ends all calls without another second."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    await clock.sleep(after)
    assert not any(task.done() for task in tasks)
    closed_at = clock.monotonic()
    await nairi.aclose()
    await asyncio.wait(tasks)
    assert {type(task.exception()) for task in tasks} == {SessionClosedError}
    assert clock.monotonic() == closed_at
    assert {task.cancelling() for task in tasks} == {0}
    assert nairi.stats.open_watches == 0


async def test_every_wait_for_news_ends(clock: VirtualClock) -> None:
    """Watches, waits, replies, conversations and bulk calls, of a turn that runs and of one that has ended."""
    simulator = Simulator(clock=clock)
    simulator.agent("slow", [Done(after=5000)])
    simulator.agent("quick", [Say("done", after=1)])
    async with in_memory_session(simulator, polling=POLLING) as nairi:
        turn, ended = await nairi.start("slow", "a"), await nairi.start("quick", "a")
        conversation = nairi.conversation("slow")
        calls: list[Awaitable[Any]] = [
            nairi.wait(turn),
            nairi.reply(turn),
            nairi.ask("slow", "a"),
            anext(nairi.watch(turn)),
            exhausted(nairi.watch(turn.job_id)),
            exhausted(nairi.watch(ended, follow=True)),
            nairi.watch(turn).reply(),
            watch_many(nairi, turn),
            ask_many(nairi, "slow"),
            conversation.ask("1"),
            conversation.ask("2"),
            exhausted(conversation.send("3")),
            nairi.resume(turn).last_reply(),
        ]
        await ended_at_once(nairi, clock, calls, after=450)


@pytest.mark.parametrize("way", ["trusted", "on trial", "queued", "settling", "unknown", "reading"])
async def test_whatever_a_wait_is_closing_ends_it(clock: VirtualClock, way: str) -> None:
    """In the lane of the listing, on its trial, in an agent's queue, for a reply, for a replica, for a response."""
    quirks = Quirks(updated_at_moves="completion", list_lag=2000.0 if way == "settling" else 0.0)
    simulator, after = Simulator(clock=clock, quirks=quirks), 450.0
    simulator.agent(
        "my-agent", lambda prompt, _: [Say("x", after=float(prompt))], instances=1 if way == "queued" else None
    )

    async def intercept(request: web.Request) -> web.Response | None:
        if way == "unknown" and request.method == "GET":
            return web.json_response({"error": "not found"}, status=404)
        if way == "reading" and "/agents/" in request.path and clock.monotonic() > 20:
            with clock.stalled():
                await clock.sleep(10)
        return None

    async with in_memory_session(simulator, polling=Polling() if way in {"trusted", "reading"} else POLLING) as nairi:
        if way in {"trusted", "reading"}:
            async for _ in nairi.ask_many("my-agent", ["10"] * 40):
                pass
            assert nairi._context.feeds.of("my-agent").ends.state.name == "TRUSTED"
            after = 5.0
        simulator.intercept = intercept
        count, length = (120, "9000") if way == "on trial" else (20, "5" if way == "settling" else "9000")
        calls = [nairi.ask("my-agent", length) for _ in range(count)]
        await ended_at_once(nairi, clock, list(calls), after={"unknown": 0.1, "settling": 250.0}.get(way, after))


@pytest.mark.parametrize("order", ["closed, cancelled", "cancelled, closed", "closed, timed out"])
async def test_a_cancellation_at_the_moment_of_closing_is_not_swallowed(clock: VirtualClock, order: str) -> None:
    """A task that is cancelled and whose session is closed ends as cancelled; a timeout around it as `TimeoutError`."""
    simulator = Simulator(clock=clock)
    simulator.agent("my-agent", [Done(after=5000)])

    async def wait(nairi: NairiSession, turn: Turn, bound: asyncio.Timeout) -> None:
        async with bound:
            await nairi.wait(turn)

    async with in_memory_session(simulator, polling=POLLING) as nairi:
        bound = asyncio.timeout(None)
        task = asyncio.create_task(wait(nairi, await nairi.start("my-agent", "a"), bound))
        await clock.sleep(450)
        steps: dict[str, Callable[[], object]] = {
            "closed": nairi._closing.wake,
            "cancelled": task.cancel,
            "timed out": lambda: bound.reschedule(0),
        }
        for step in order.split(", "):
            steps[step]()
        await asyncio.wait([task])
        if order == "closed, timed out":
            assert isinstance(task.exception(), TimeoutError | SessionClosedError)
        else:
            assert task.cancelled()


async def test_a_lent_pool_that_its_owner_closes_ends_the_waits() -> None:
    """Waits of a session on a lent aiohttp session end within a second, in real time, when the owner closes it."""
    import aiohttp  # noqa: PLC0415 - for this test only

    async with Simulator() as simulator:
        simulator.agent("my-agent", [Done(after=5000)])
        http = aiohttp.ClientSession()
        async with NairiSession(simulator.api_key, base_url=simulator.url, http=http, polling=POLLING) as nairi:
            task = asyncio.create_task(nairi.ask("my-agent", "a"))
            while not nairi.stats.open_watches:  # noqa: ASYNC110 - the session has no event for it
                await asyncio.sleep(0.01)
            await http.close()
            with pytest.raises(SessionClosedError):
                await task
