from __future__ import annotations

import asyncio
from random import Random

import pytest

from nairi_async import SessionClosedError
from nairi_async._core.permits import LoopLock, Permits

pytestmark = pytest.mark.anyio


async def test_permits_are_handed_over_in_order() -> None:
    """A permit goes to the caller that has waited longest, and one that comes later cannot overtake it."""
    permits, order = Permits(1), list[int]()

    async def hold(number: int) -> None:
        await permits.acquire()
        order.append(number)
        await asyncio.sleep(0)
        permits.release()

    await permits.acquire()
    tasks = [asyncio.create_task(hold(number)) for number in range(5)]
    await asyncio.sleep(0)
    permits.release()
    assert not permits.acquire_now()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]


async def test_kinds_of_callers_take_turns() -> None:
    """Many callers of one kind do not hold up the few of another, and each kind keeps its own order."""
    permits, order = Permits(1), list[str]()

    async def hold(kind: str, number: int) -> None:
        await permits.acquire(kind)
        order.append(f"{kind}{number}")
        permits.release()

    await permits.acquire()
    tasks = [asyncio.create_task(hold("prompt", number)) for number in range(5)]
    tasks += [asyncio.create_task(hold("read", number)) for number in range(2)]
    await asyncio.sleep(0)
    permits.release()
    await asyncio.gather(*tasks)
    assert order == ["prompt0", "read0", "prompt1", "read1", "prompt2", "prompt3", "prompt4"]
    assert permits.acquire_now()


@pytest.mark.parametrize("seed", range(20))
async def test_no_permit_is_lost_or_made_by_cancellations(seed: int) -> None:
    """However callers are cancelled, also just when a permit is handed over, as many permits are left as there were."""
    random, permits, held = Random(seed), Permits(3), 0

    async def hold() -> None:
        nonlocal held
        await permits.acquire(random.choice(["read", "prompt"]))
        held += 1
        assert held <= 3
        try:
            for _ in range(random.randrange(3)):
                await asyncio.sleep(0)
        finally:
            held -= 1
            permits.release()

    tasks = [asyncio.create_task(hold()) for _ in range(60)]
    while not all(task.done() for task in tasks):
        random.choice(tasks).cancel()
        if random.random() < 0.5:
            await asyncio.sleep(0)
    assert [permits.acquire_now() for _ in range(4)] == [True, True, True, False]


def test_a_lock_of_another_loop_is_refused() -> None:
    """A lock that is held in one event loop raises in another, where its release would never be noticed."""
    lock = LoopLock()
    asyncio.run(lock.acquire())
    with pytest.raises(SessionClosedError, match="another event loop"):
        asyncio.run(lock.acquire())
    lock.release()
    asyncio.run(lock.acquire())
