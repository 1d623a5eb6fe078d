"""The thread of a database: which calls share a commit."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.lowlevel
import pytest
from anyio import to_thread

from nairi_async._core.commit_thread import CommitThread
from nairi_async.batch.ledger_file import LEDGER
from nairi_async.clock import SystemClock
from nairi_async.errors import SessionClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio


class Commits:
    """A database that counts the calls of each commit."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.calls = 0
        self.may_commit = threading.Event()
        self.may_commit.set()
        self.is_committing = threading.Event()

    def begin(self) -> None:
        self.calls = 0

    def commit(self) -> None:
        if self.calls:
            self.is_committing.set()
        self.may_commit.wait()
        self.sizes.append(self.calls)

    def rollback(self) -> None:
        pass

    def close(self) -> None:
        pass


class Thread(CommitThread[Commits]):
    """Its thread."""

    def open_database(self) -> Commits:
        return Commits()


def count(order: list[int], number: int) -> Callable[[Commits], int]:
    """Return a call that notes when it runs."""

    def call(database: Commits) -> int:
        database.calls += 1
        order.append(number)
        return number

    return call


async def test_calls_of_one_pass_of_the_loop_share_a_commit_in_their_order() -> None:
    """What is submitted at once is one commit, also right before closing; so is a call alone."""
    thread = Thread(LEDGER, Path("unused"), SystemClock(), ends_on_failure=True)
    await thread.start()
    database, order = thread.database, list[int]()
    assert await thread.submit(count(order, 0)) == 0
    many = [thread.submit(count(order, number)) for number in range(1, 101)]
    assert [await one for one in many] == list(range(1, 101))
    last = [thread.submit(count(order, number)) for number in range(101, 104)]
    await thread.aclose()
    assert [await one for one in last] == [101, 102, 103]
    assert order == list(range(104))
    # The first is of opening.
    assert [size for size in database.sizes if size] == [1, 100, 3]
    with pytest.raises(SessionClosedError):
        await thread.submit(count(order, 104))


async def test_calls_that_come_during_a_commit_share_the_next_one() -> None:
    """While the disk is slow, everything that is submitted waits for one further commit."""
    thread = Thread(LEDGER, Path("unused"), SystemClock(), ends_on_failure=True)
    await thread.start()
    database, order = thread.database, list[int]()
    database.may_commit.clear()
    first = thread.submit(count(order, 0))
    await to_thread.run_sync(database.is_committing.wait)
    later = []
    for number in range(1, 11):
        later.append(thread.submit(count(order, number)))
        await anyio.lowlevel.checkpoint()
    database.may_commit.set()
    await first
    for future in later:
        await future
    await thread.aclose()
    assert [size for size in database.sizes if size] == [1, 10]


@pytest.mark.parametrize("passes", range(4))
async def test_a_cancelled_wait_learns_what_was_decided_at_that_moment(passes: int) -> None:
    """The loop is busy while the disk commits; the wait is cancelled before, with or after the result: none is lost."""
    thread = Thread(LEDGER, Path("unused"), SystemClock(), ends_on_failure=True)
    await thread.start()
    thread.database.may_commit.clear()
    order: list[int] = []
    submission = thread.submit(count(order, 7))
    deciding = asyncio.create_task(submission.decided())
    for _ in range(passes):
        await asyncio.sleep(0)
    # The loop is held up until the result is on its way to it.
    thread.database.may_commit.set()
    time.sleep(0.01)  # noqa: ASYNC251 - see above
    deciding.cancel()
    done, _ = await asyncio.wait([deciding], timeout=30)
    assert done
    if passes:
        assert isinstance(await deciding, asyncio.CancelledError)
    else:
        assert deciding.cancelled()
    await thread.aclose()
    assert order == [7]
