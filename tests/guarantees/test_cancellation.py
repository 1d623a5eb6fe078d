"""A watch continues after a cancellation at any point, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING

import anyio
import pytest

from nairi_async.testing import Done, Notice, Say

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from nairi_async import Message, NairiSession
    from nairi_async.testing import Simulator, VirtualClock

pytestmark = pytest.mark.anyio

SCRIPT = [Say("one", after=1), Say("two", after=1, unfinished_for=1), Done(), Notice("three", after=0.3)]
EXPECTED = ["one", "two", "three"]


async def cancelled_after(steps: int, coroutine: Coroutine[Any, Any, Message]) -> Message | None:
    """Run a coroutine for so many iterations of the event loop, then cancel it; return its result if it was faster."""
    task = asyncio.create_task(coroutine)
    for _ in range(steps):
        if task.done():
            break
        await asyncio.sleep(0)
    task.cancel()
    try:
        return await task
    except asyncio.CancelledError:
        return None


@pytest.mark.parametrize("steps", range(40))
async def test_cancellation_at_every_await_loses_and_repeats_nothing(
    nairi: NairiSession, simulator: Simulator, steps: int
) -> None:
    """`__anext__`, cancelled again and again after so many iterations of the loop, yields each message once."""
    simulator.agent("my-agent", SCRIPT)
    watch = nairi.watch(await nairi.start("my-agent", "go"))
    seen: list[str] = []
    for _ in range(12):
        try:
            message = await cancelled_after(steps, watch.__anext__())
        except StopAsyncIteration:
            break
        if message is not None:
            seen.append(message.content)
    seen += [message.content async for message in watch]
    assert seen == EXPECTED


async def test_wait_for_timeouts_do_not_end_the_iteration(nairi: NairiSession, simulator: Simulator) -> None:
    """Stepping with asyncio.wait_for and anyio.move_on_after, the watch never ends silently."""
    simulator.agent("my-agent", SCRIPT)
    watch = nairi.watch(await nairi.start("my-agent", "go"))
    seen: list[str] = []
    ended, seconds = False, 0.002
    while not ended:
        try:
            seen.append((await asyncio.wait_for(anext(watch), seconds)).content)
        except TimeoutError:
            seconds *= 1.05  # on a slow machine a step takes longer
            with anyio.move_on_after(seconds):
                async for message in watch:
                    seen.append(message.content)
                    break
                else:
                    ended = True
        except StopAsyncIteration:
            ended = True
    assert seen == EXPECTED


async def test_two_tasks_on_one_watch_share_its_messages(nairi: NairiSession, simulator: Simulator) -> None:
    """Each message goes to exactly one of two tasks that iterate over the same watch, and both end."""
    simulator.agent("my-agent", SCRIPT)
    watch = nairi.watch(await nairi.start("my-agent", "go"))

    async def consume() -> list[str]:
        return [message.content async for message in watch]

    first, second = await asyncio.gather(consume(), consume())
    assert sorted(first + second) == sorted(EXPECTED)


async def test_closing_wakes_a_task_that_waits(nairi: NairiSession, simulator: Simulator, clock: VirtualClock) -> None:
    """`aclose` in another task ends the iteration at once, during a sleep or a request."""
    simulator.agent("my-agent", [Done(after=10_000)])
    for steps in range(0, 40, 3):
        watch = nairi.watch(await nairi.start("my-agent", "go"), follow=True)
        task = asyncio.create_task(anext(watch, None))
        for _ in range(steps):
            await asyncio.sleep(0)
        started_at = clock.monotonic()
        await watch.aclose()
        assert await asyncio.wait_for(task, 10) is None
        assert clock.monotonic() - started_at < 1
        await watch.aclose()


async def test_an_outer_cancellation_is_never_swallowed(nairi: NairiSession, simulator: Simulator) -> None:
    """A cancelled task ends as cancelled, even while the watch is being closed."""
    simulator.agent("my-agent", [Done(after=10_000)])
    watch = nairi.watch(await nairi.start("my-agent", "go"))
    task = asyncio.create_task(watch.__anext__())
    await asyncio.sleep(0.01)
    task.cancel()
    await watch.aclose()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_leader_of_a_shared_read_may_be_cancelled(nairi: NairiSession, simulator: Simulator) -> None:
    """When the watcher that reads for all is cancelled, another one reads; none hangs."""
    simulator.agent("my-agent", SCRIPT)
    turn = await nairi.start("my-agent", "go")

    async def consume() -> list[str]:
        return [message.content async for message in nairi.watch(turn)]

    tasks = [asyncio.create_task(consume()) for _ in range(8)]
    for task in tasks[:7]:
        for _ in range(7):
            await asyncio.sleep(0)
        task.cancel()
    assert await asyncio.wait_for(tasks[7], 30) == EXPECTED
    await asyncio.gather(*tasks[:7], return_exceptions=True)


async def test_nothing_outlives_an_abandoned_watch(nairi: NairiSession, simulator: Simulator) -> None:
    """After `break` no task is left; the watch and its shared reads are freed without a garbage collection."""
    simulator.agent("my-agent", SCRIPT)
    before = asyncio.all_tasks()
    watch = nairi.watch(await nairi.start("my-agent", "go"))
    async for _ in watch:
        break
    gone = weakref.ref(watch)
    del watch, _
    assert gone() is None
    assert not nairi._context.reads._shared
    ours = {task for task in asyncio.all_tasks() - before if "nairi_async/w" in str(task.get_coro())}
    assert not ours


async def test_a_cancelled_wait_frees_its_connection(simulator: Simulator, nairi: NairiSession) -> None:
    """Cancelled reads free their slots: as many calls as before can run at once."""
    simulator.agent("my-agent", [Done(after=10_000)])
    turn = await nairi.start("my-agent", "go")
    free = nairi.stats.free_connections
    for steps in range(30):
        task = asyncio.create_task(nairi.wait(turn))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert (nairi.stats.free_connections, nairi.stats.waiting_calls) == (free, 0)
