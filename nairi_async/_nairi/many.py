"""Many conversations at once: bounded, lazily started, each failure its own, gone when nobody listens (design 1, 5)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from nairi_async._nairi.results import Outcome
from nairi_async.errors import InvalidArgumentError, NairiError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from nairi_async._nairi.polling.watch import Watch
    from nairi_async._nairi.results import Reply
    from nairi_async.models import Message, Turn

_T = TypeVar("_T")

DEFAULT_LIMIT: Final = 100
"""Conversations that `ask_many` keeps going at once unless told otherwise."""
# Messages of `watch_many` that wait for the consumer; beyond that its polling waits too.
_BACKLOG: Final = 256


class TaskPool(Generic[_T]):
    """Tasks that hand items to one consumer. It knows nothing of the consumer, so it never keeps that one alive."""

    def __init__(self, room: int) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self.room = asyncio.Semaphore(room)
        self._items: deque[_T] = deque()
        self._error: BaseException | None = None
        self._stir = asyncio.Event()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin a task."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def put(self, item: _T) -> None:
        """Leave an item for the consumer."""
        self._items.append(item)
        self._stir.set()

    async def get(self) -> _T:
        """The next item; `StopAsyncIteration` when no task is left that could bring one."""
        while not self._items:
            if not self.tasks:
                error, self._error = self._error, None
                raise error or StopAsyncIteration
            self._stir.clear()
            await self._stir.wait()
        self.room.release()
        return self._items.popleft()

    def cancel(self) -> None:
        """Let every task end."""
        for task in tuple(self.tasks):
            # The loop may be closed already; then the tasks are as well.
            with suppress(RuntimeError):
                task.cancel()

    async def aclose(self) -> None:
        """Let every task end, and wait until it has."""
        self.cancel()
        self._items.clear()
        if self.tasks:
            await asyncio.wait(tuple(self.tasks))

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and self._error is None:
            self._error = error
        self._stir.set()


class FanOut(Generic[_T]):
    """Many prompts, and what comes of each, as it ends: what the sessions of all services do alike."""

    def __init__(
        self,
        prompts: Iterable[str] | AsyncIterable[str],
        outcome: Callable[[int, str], Coroutine[Any, Any, _T]],
        *,
        limit: int,
    ) -> None:
        if isinstance(prompts, str) or not isinstance(prompts, Iterable | AsyncIterable):
            raise InvalidArgumentError("prompts is an iterable of prompts, not a single one")
        self._prompts = prompts
        self._outcome = outcome
        self._limit = limit
        self._pool: TaskPool[_T] | None = None
        self._is_closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _T:
        """The next outcome, in the order in which they end."""
        if self._is_closed:
            raise StopAsyncIteration
        if self._pool is None:
            self._pool = TaskPool(self._limit)
            self._pool.spawn(_ask_all(self._pool, self._prompts, self._outcome))
        return await self._pool.get()

    async def aclose(self) -> None:
        """Ask nothing more, and stop waiting. Harmless when repeated."""
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
        # Left by `break`: the tasks know the crowd only, so this runs at once, and they end.
        pool = getattr(self, "_crowd", None)
        if pool is not None:
            pool.cancel()


class AskMany(FanOut[Outcome]):
    """The outcomes of many prompts, as each ends. Made by `NairiSession.ask_many`.

    Prompts are taken from their source only when there is room for another conversation, and outcomes wait in a bounded
    number, so memory does not grow with the input. One that fails costs no other: its error is in its `Outcome`. What
    the source of prompts raises comes out when everything asked before has ended.

    Leaving the loop, `aclose()` or `async with` end it: nothing more is asked, and waiting stops. Turns that have
    begun go on at the service.
    """

    def __init__(
        self,
        prompts: Iterable[str] | AsyncIterable[str],
        ask: Callable[[str], Coroutine[Any, Any, Reply]],
        *,
        limit: int,
    ) -> None:
        async def outcome(index: int, prompt: str) -> Outcome:
            try:
                reply = await ask(prompt)
            except NairiError as error:
                return Outcome(index=index, prompt=prompt, turn=error.turn, error=error)
            return Outcome(index=index, prompt=prompt, turn=reply.turn, reply=reply)

        super().__init__(prompts, outcome, limit=limit)


async def _ask_all(
    pool: TaskPool[_T],
    prompts: Iterable[str] | AsyncIterable[str],
    outcome: Callable[[int, str], Coroutine[Any, Any, _T]],
) -> None:
    source = Source(prompts)
    index = 0
    while True:
        await pool.room.acquire()
        try:
            prompt = await source.next()
        except StopAsyncIteration:
            return
        pool.spawn(_put(pool, outcome, index, prompt))
        index += 1


async def _put(
    pool: TaskPool[_T], outcome: Callable[[int, str], Coroutine[Any, Any, _T]], index: int, prompt: str
) -> None:
    # Made here: one that was made before its task is cancelled would never be awaited, and Python warn of it.
    pool.put(await outcome(index, prompt))


class Source(Generic[_T]):
    """Items one by one, from either kind of iterable."""

    def __init__(self, items: Iterable[_T] | AsyncIterable[_T]) -> None:
        self._plain: Iterator[_T] | None = None
        self._async: AsyncIterator[_T] | None = None
        if isinstance(items, AsyncIterable):
            self._async = aiter(items)
        else:
            self._plain = iter(items)

    async def next(self) -> _T:
        """The next item; `StopAsyncIteration` when there is none."""
        if self._async is not None:
            return await anext(self._async)
        try:
            return next(self._plain or iter(()))
        except StopIteration:
            raise StopAsyncIteration from None


class WatchMany:
    """The messages of many turns, as they are discovered. Made by `NairiSession.watch_many`; use it in `async with`.

    Each turn keeps the promises of `Watch`; turns do not wait for each other. A turn that ends badly ends alone:
    `errors` maps it to its error. A slow consumer slows the polling.
    """

    def __init__(self, turns: Iterable[Turn], watch: Callable[[Turn], Watch]) -> None:
        self._turns = turns
        self._watch = watch
        self._pool: TaskPool[tuple[Turn, Message]] | None = None
        self.errors: dict[Turn, NairiError] = {}
        """The turns that failed, timed out, or could not be read any more, with their errors."""

    async def __aenter__(self) -> Self:
        pool = self._pool = TaskPool(_BACKLOG)
        for turn in dict.fromkeys(self._turns):
            pool.spawn(_watch_one(pool, self._watch(turn), turn, self.errors))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pool is not None:
            await self._pool.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Turn, Message]:
        """The next message of any turn, with the turn."""
        if self._pool is None:
            raise InvalidArgumentError("use watch_many in `async with`: `async with nairi.watch_many(turns) as stream`")
        return await self._pool.get()


async def _watch_one(
    pool: TaskPool[tuple[Turn, Message]], watch: Watch, turn: Turn, errors: dict[Turn, NairiError]
) -> None:
    try:
        async for message in watch:
            await pool.room.acquire()
            pool.put((turn, message))
    except NairiError as error:
        errors[turn] = error
