from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from nairi_async.testing.deterministic import DeterministicLoop, InlineExecutor, LoopClock, StuckError, VirtualTime


def run(main: Any, seed: int = 0, **settings: Any) -> Any:
    """Run a coroutine function on a loop of its own."""
    loop = DeterministicLoop(VirtualTime(), Random(seed), **settings)
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


def test_time_is_virtual() -> None:
    """Waiting takes no real time, and timers run in the order of their times."""
    ended: list[float] = []

    async def wait(seconds: float) -> None:
        await asyncio.sleep(seconds)
        ended.append(seconds)

    async def main() -> float:
        begun = asyncio.get_running_loop().time()
        await asyncio.gather(*map(wait, (3600.0, 5.0, 60.0)))
        return asyncio.get_running_loop().time() - begun

    assert run(main) == pytest.approx(3600, abs=0.01)
    assert ended == [5.0, 60.0, 3600.0]


def test_the_seed_decides_the_order() -> None:
    """With callbacks held back, tasks run in an order that is the same for one seed and another for others."""

    async def main() -> list[int]:
        order: list[int] = []

        async def step(number: int) -> None:
            await asyncio.sleep(0)
            order.append(number)

        await asyncio.gather(*map(step, range(10)))
        return order

    orders = [run(main, seed, hold_back=0.4) for seed in range(20)]
    assert orders == [run(main, seed, hold_back=0.4) for seed in range(20)]
    assert len(set(map(tuple, orders))) > 10
    assert run(main, 1) == list(range(10))


def test_sets_of_tasks_have_an_order_of_their_own() -> None:
    """Iterating a set of tasks or futures gives the same order in each run."""

    async def main() -> list[int]:
        futures = [asyncio.get_running_loop().create_future() for _ in range(20)]
        return [futures.index(one) for one in set(futures)]

    assert run(main) == run(main)


def test_blocking_work_runs_in_the_loop() -> None:
    """Work for a thread runs after a delay in virtual time; its result and its error arrive; a cancellation too."""

    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        result = await loop.run_in_executor(None, pow, 2, 5)
        assert loop.time() > begun
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(divmod, 1, 0)
        cancelled = loop.run_in_executor(None, pow, 2, 5)
        cancelled.cancel()
        await asyncio.sleep(60)
        return [result, InlineExecutor().submit(pow, 2, 6).result()]

    assert run(main, disk_delay=1.0) == [32, 64]


def test_a_program_that_waits_for_nothing_ends() -> None:
    """Where no timer is set and no task can go on, the loop says so instead of waiting."""

    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(StuckError, match="no timer"):
        run(main)


def test_the_clock_of_a_loop() -> None:
    """It tells the loop's time, and a Unix time that may be ahead; its bounds hold in virtual time."""
    virtual_time = VirtualTime()
    clock = LoopClock(virtual_time, skew=5.0)
    loop = DeterministicLoop(virtual_time, Random(0))

    async def main() -> None:
        await clock.sleep(10)
        with pytest.raises(TimeoutError):
            async with clock.timeout(3):
                await asyncio.sleep(100)
        expired: list[int] = []
        idle = clock.idle_timeout(2, lambda: expired.append(1))
        idle.begin()
        await clock.sleep(3)
        assert expired == [1]
        idle.close()

    loop.run_until_complete(main())
    loop.close()
    assert clock.monotonic() == pytest.approx(16, abs=0.01)
    assert clock.time() - clock.epoch == pytest.approx(21, abs=0.01)
