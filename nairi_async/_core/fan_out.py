"""Bounded fan-out: a limited number of calls at once, and tasks whose results one consumer takes as they come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from nairi_async._core.closing import run_shielded
from nairi_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_T = TypeVar("_T")
_PromptT = TypeVar("_PromptT")


async def gather_limited(calls: Sequence[Callable[[], Awaitable[_T]]], *, at_once: int) -> list[_T]:
    """Make the calls, `at_once` at a time, and return their results in order.

    The first failure cancels the others and is raised as it is.
    """
    slots = asyncio.Semaphore(at_once)

    async def run(call: Callable[[], Awaitable[_T]]) -> _T:
        async with slots:
            return await call()

    tasks = [asyncio.ensure_future(run(call)) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class TaskPool(Generic[_T]):
    """Tasks that put items into one queue for one consumer.

    The producer of an item acquires `capacity` first, and `get` releases it. The pool holds no reference to its
    consumer, so an abandoned consumer is collected at once and can cancel the tasks.
    """

    def __init__(self, capacity: int) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self.capacity: asyncio.Semaphore = asyncio.Semaphore(capacity)
        self._items: deque[_T] = deque()
        self._error: BaseException | None = None
        self._changed = asyncio.Event()

    @property
    def queued(self) -> int:
        """Number of items that wait for the consumer."""
        return len(self._items)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task, and return it."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def put(self, item: _T) -> None:
        """Queue an item for the consumer."""
        self._items.append(item)
        self._changed.set()

    async def get(self) -> _T:
        """Return the next item, once there is one.

        Raises:
            StopAsyncIteration: no item is queued, and no task is left that could bring one.
            BaseException: likewise, and a task failed: its exception, once.
        """
        while not self._items:
            if not self.tasks:
                error, self._error = self._error, None
                raise error or StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        self.capacity.release()
        return self._items.popleft()

    def cancel(self) -> None:
        """Cancel every task, without waiting."""
        for task in tuple(self.tasks):
            # The loop may be closed already; then the tasks are as well.
            with suppress(RuntimeError):
                task.cancel()

    async def aclose(self) -> None:
        """Cancel every task, drop what is queued, and wait until the tasks have ended."""
        self.cancel()
        self._items.clear()
        if self.tasks:
            await run_shielded(asyncio.wait(tuple(self.tasks)))

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and self._error is None:
            self._error = error
        self._changed.set()


class FanOut(Generic[_T]):
    """An async iterator over the outcomes of many prompts: `limit` at a time, lazily read, each as it ends."""

    def __init__(
        self,
        prompts: Iterable[_PromptT] | AsyncIterable[_PromptT],
        outcome: Callable[[int, _PromptT], Coroutine[Any, Any, _T]],
        *,
        limit: int,
    ) -> None:
        if isinstance(prompts, str | bytes | Mapping) or not isinstance(prompts, Iterable | AsyncIterable):
            raise InvalidArgumentError("prompts must be an iterable of prompts, not a single one")
        self._prompts: Iterable[Any] | AsyncIterable[Any] = prompts
        self._outcome: Callable[[int, Any], Coroutine[Any, Any, _T]] = outcome
        self._limit = limit
        self._pool: TaskPool[_T] | None = None
        # The task that reads the prompts and starts a task for each.
        self._feeder: asyncio.Task[None] | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        if self._pool is None or self._is_closed:
            return f"<{type(self).__name__}: {'closed' if self._is_closed else 'nothing sent yet'}>"
        running = sum(not task.done() for task in self._pool.tasks if task is not self._feeder)
        return f"<{type(self).__name__}: {running} prompts running, {self._pool.queued} outcomes to read>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _T:
        """Return the next outcome, in the order in which they end."""
        if self._is_closed:
            raise StopAsyncIteration
        if self._pool is None:
            self._pool = TaskPool(self._limit)
            self._feeder = self._pool.spawn(_run_all(self._pool, self._prompts, self._outcome))
        return await self._pool.get()

    async def aclose(self) -> None:
        """Send no further prompt, and stop waiting. Harmless when repeated."""
        self._is_closed = True
        if self._pool is not None:
            await self._pool.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # Left by `break`: the tasks hold no reference to this object, so it is collected at once and ends them.
        pool = getattr(self, "_pool", None)
        if pool is not None:
            pool.cancel()


async def _run_all(
    pool: TaskPool[_T],
    prompts: Iterable[_PromptT] | AsyncIterable[_PromptT],
    outcome: Callable[[int, _PromptT], Coroutine[Any, Any, _T]],
) -> None:
    reader = ItemReader(prompts)
    index = 0
    while True:
        await pool.capacity.acquire()
        try:
            prompt = await reader.next()
        except StopAsyncIteration:
            return
        pool.spawn(_run_one(pool, outcome, index, prompt))
        index += 1


async def _run_one(
    pool: TaskPool[_T], outcome: Callable[[int, _PromptT], Coroutine[Any, Any, _T]], index: int, prompt: _PromptT
) -> None:
    # The coroutine of the outcome is made inside the task: made outside, a task that is cancelled before its first
    # step would leave it unawaited, and Python would warn.
    pool.put(await outcome(index, prompt))


class ItemReader(Generic[_T]):
    """A reader of items one by one, from either kind of iterable."""

    def __init__(self, items: Iterable[_T] | AsyncIterable[_T]) -> None:
        self._plain: Iterator[_T] | None = None
        self._async: AsyncIterator[_T] | None = None
        if isinstance(items, AsyncIterable):
            self._async = aiter(items)
        else:
            self._plain = iter(items)

    async def next(self) -> _T:
        """Return the next item; raise `StopAsyncIteration` at the end."""
        if self._async is not None:
            return await anext(self._async)
        try:
            return next(self._plain or iter(()))
        except StopIteration:
            raise StopAsyncIteration from None
