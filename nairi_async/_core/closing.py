"""Closing that a cancellation cannot interrupt, and that interrupts what waits."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import anyio

from nairi_async.errors import SessionClosedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

_T = TypeVar("_T")

# Seconds between two looks at a lent pool, which does not say when its owner closes it.
_CHECK_EVERY: Final = 0.25


class ClosingSignal:
    """Ends the waits of a session as soon as it is closed: for a limit, a connection, a retry, or for news."""

    def __init__(self, is_closed_by_owner: Callable[[], bool] | None = None) -> None:
        self._is_closed_by_owner = is_closed_by_owner
        self.on_closed_by_owner: Callable[[], object] | None = None
        """Called when the owner of a lent pool has closed it: aiohttp then never wakes who reads a stream."""
        self._waits: set[asyncio.Timeout] = set()
        # The sleeping tasks, and those among them that were woken: each with its number of cancellations before.
        self._sleepers: dict[asyncio.Task[Any], int] = {}
        self._woken: dict[asyncio.Task[Any], int] = {}
        self._is_closed = False
        self._open_streams = 0
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, awaitable: Coroutine[Any, Any, _T]) -> _T:
        """Wait for something that may take long.

        Raises:
            SessionClosedError: the session was closed, or the lent pool that it uses.
        """
        if self._is_closed:
            # A response may have come at the moment of closing, after which its call would wait.
            awaitable.close()
        self.check()
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._waits.add(scope)
                self._watch()
                return await awaitable
        except TimeoutError as error:
            if scope.expired():
                raise SessionClosedError("the session was closed while a call waited for its turn") from error
            raise
        finally:
            self._waits.discard(scope)

    def check(self) -> None:
        """Raise `SessionClosedError` if the session was closed."""
        if self._is_closed:
            raise SessionClosedError("the session is closed")

    def fall_asleep(self) -> asyncio.Task[Any]:
        """Let closing end each wait of the running task from now on, until `awake`; return the task.

        For the thousands that wait for news: it takes an entry in a table, where `wait` takes a frame and a scope.

        Raises:
            SessionClosedError: the session was closed.
        """
        self.check()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine of a session runs in a task
        self._sleepers[task] = task.cancelling()
        self._watch()
        return task

    def awake(self, task: asyncio.Task[Any], *, is_cancelled: bool) -> None:
        """Take in that a task awaits no longer what `fall_asleep` was called for.

        Raises:
            SessionClosedError: closing ended the wait. Any other cancellation of the task goes on.
        """
        if self._sleepers.pop(task, None) is None:
            before = self._woken.pop(task)
            if task.uncancel() <= before or not is_cancelled:
                raise SessionClosedError("the session was closed while a call waited for news") from None

    def stream_opened(self) -> None:
        """Note that a stream is open, which may be read for minutes."""
        self._open_streams += 1
        self._watch()

    def stream_closed(self) -> None:
        """Note that it is not open any more."""
        self._open_streams -= 1

    def wake(self) -> None:
        """End all waits: the session is closed."""
        self._is_closed = True
        waits, self._waits = self._waits, set()
        for scope in waits:
            scope.reschedule(0)
        sleepers, self._sleepers = self._sleepers, {}
        self._woken |= sleepers
        for task in sleepers:
            task.cancel()

    def _watch(self) -> None:
        """Look at a lent pool from time to time while something waits or is read."""
        if self._is_closed_by_owner is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_CHECK_EVERY, self._check)

    def _check(self) -> None:
        self._timer = None
        if self._is_closed_by_owner is not None and self._is_closed_by_owner():
            self.wake()
            if self.on_closed_by_owner is not None:
                self.on_closed_by_owner()
        elif self._waits or self._sleepers or self._open_streams:
            self._watch()


async def run_shielded(closing: Awaitable[_T]) -> _T:
    """Run something to its end, however often the caller is cancelled meanwhile; then raise the cancellation.

    `asyncio.shield` protects from one cancellation only: the caller continues while the rest still runs. An anyio scope
    protects from anyio's own cancellations only.
    """
    task = asyncio.ensure_future(closing)
    cancellation: asyncio.CancelledError | None = None
    # The scope, since anyio repeats a cancellation in every pass of the loop until the task has left.
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait((task,))
            except asyncio.CancelledError as error:
                cancellation = error
    if cancellation is None:
        return task.result()
    raise cancellation from (None if task.cancelled() else task.exception())


async def undisturbed(work: asyncio.Future[_T]) -> _T:
    """Wait for work that goes on if the caller is cancelled; its error is then no one's.

    `asyncio.shield` does the same, and logs such an error from Python 3.14 on.
    """
    try:
        await asyncio.wait((work,))
    except asyncio.CancelledError:
        work.add_done_callback(_take_error)
        raise
    return work.result()


def _take_error(done: asyncio.Future[Any]) -> None:
    if not done.cancelled():
        done.exception()


class UndisturbedTask(Generic[_T]):
    """Something that runs to its end in a task of its own, however often those who wait for it are cancelled."""

    __slots__ = ("_task",)

    def __init__(self, work: Coroutine[Any, Any, _T]) -> None:
        self._task = asyncio.ensure_future(work)

    async def decided(self) -> asyncio.CancelledError | None:
        """Wait until it has ended; return the cancellation that came meanwhile, for the caller to raise.

        Raises:
            Exception: what it has raised.
            CancelledError: it has failed, and the caller was cancelled.
        """
        try:
            await undisturbed(self._task)
        except asyncio.CancelledError as error:
            with suppress(asyncio.CancelledError):
                await run_shielded(asyncio.wait((self._task,)))
            if not self._task.done() or self._task.cancelled() or self._task.exception() is not None:
                raise
            return error
        return None
