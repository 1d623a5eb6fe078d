"""Closing runs to its end, however often and by whichever library its caller is cancelled."""

from __future__ import annotations

import asyncio
import gc

import anyio
import pytest

from nairi_async._core.closing import UndisturbedTask, run_shielded, undisturbed

pytestmark = pytest.mark.anyio


async def test_the_result_and_the_error_come_out() -> None:
    """Without a cancellation it is like awaiting."""

    async def fail() -> None:
        raise ZeroDivisionError

    assert await run_shielded(asyncio.sleep(0, 7)) == 7
    with pytest.raises(ZeroDivisionError):
        await run_shielded(fail())


@pytest.mark.parametrize("count", [1, 2, 5])
async def test_tasks_may_be_cancelled_often(count: int) -> None:
    """Each further `cancel()` is remembered and raised once the closing has ended."""
    gate, is_closed = asyncio.Event(), False

    async def close() -> None:
        nonlocal is_closed
        await gate.wait()
        is_closed = True

    task = asyncio.create_task(run_shielded(close()))
    for _ in range(count):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert is_closed


async def test_a_scope_that_has_been_cancelled_waits() -> None:
    """Anyio cancels again in each pass of the loop; the closing runs all the same, and the scope ends then."""
    passes = 0

    async def close() -> None:
        nonlocal passes
        for _ in range(10):
            await asyncio.sleep(0)
            passes += 1

    with anyio.move_on_after(0) as scope:
        try:
            await anyio.sleep_forever()
        finally:
            await run_shielded(close())
    assert (passes, scope.cancelled_caught) == (10, True)


async def test_an_error_of_the_closing_is_the_cause() -> None:
    """Cancelled meanwhile, the cancellation is raised, and the error is its cause."""

    async def fail() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        raise ZeroDivisionError

    task = asyncio.create_task(run_shielded(fail()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as raised:
        await task
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("is_failing", [False, True])
@pytest.mark.parametrize("passes", range(1, 6))
async def test_a_cancelled_wait_learns_what_an_undisturbed_task_has_done(passes: int, *, is_failing: bool) -> None:
    """The cancellation comes before, with or after the end: it is handed to the caller, or raised where work failed."""
    has_ended = False

    async def work() -> None:
        nonlocal has_ended
        for _ in range(2):
            await asyncio.sleep(0)
        has_ended = True
        if is_failing:
            raise ZeroDivisionError

    undisturbed = UndisturbedTask(work())
    deciding = asyncio.create_task(undisturbed.decided())
    for _ in range(passes):
        await asyncio.sleep(0)
    was_cancelled = deciding.cancel()
    await asyncio.wait([deciding])
    assert has_ended
    if deciding.cancelled():
        assert is_failing
    elif is_failing:
        assert not was_cancelled
        assert isinstance(deciding.exception(), ZeroDivisionError)
    else:
        assert isinstance(deciding.result(), asyncio.CancelledError) is was_cancelled


async def test_an_error_after_the_wait_was_cancelled_is_no_ones() -> None:
    """Work that goes on after a cancelled wait may fail: nothing is logged of it, with any version of Python."""
    logged: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
    gate = asyncio.Event()

    async def fail() -> None:
        await gate.wait()
        raise ZeroDivisionError

    work = asyncio.ensure_future(fail())
    waiting = asyncio.create_task(undisturbed(work))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    gate.set()
    await asyncio.wait([work])
    with pytest.raises(ZeroDivisionError):
        await undisturbed(work)
    del work, waiting
    gc.collect()
    assert logged == []
