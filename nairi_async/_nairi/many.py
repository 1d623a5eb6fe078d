"""Many turns at once: `ask_many` sends prompts with bounded concurrency, `watch_many` merges the messages of turns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nairi_async._core.fan_out import FanOut, TaskPool
from nairi_async._nairi.results import Outcome
from nairi_async.errors import NairiError, SessionClosedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
    from types import TracebackType
    from typing import Self

    from nairi_async._nairi.polling.watch import Watch
    from nairi_async._nairi.results import Reply
    from nairi_async.models import Message, Turn

DEFAULT_LIMIT: Final = 100
"""Conversations that `ask_many` runs at once by default."""
# Messages of `watch_many` that are queued for the consumer; while the queue is full, polling waits.
_BACKLOG: Final = 256


class AskMany(FanOut[Outcome]):
    """The outcomes of many prompts, as each ends. Made by `NairiSession.ask_many`.

    A prompt is read only when fewer than `limit` conversations run or wait to be consumed, so memory does not grow
    with the input. A prompt that fails does not affect the others: its error is in its `Outcome`. An exception of the
    iterable of prompts is raised after every prompt read before it has ended.

    Leaving the loop, `aclose()` or `async with` end it: no further prompt is sent, and waiting stops. A turn that was
    started goes on at the service.
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


class WatchMany:
    """The messages of many turns, as they are discovered. Made by `NairiSession.watch_many`; use it in `async with`.

    Each turn keeps the guarantees of `Watch`, and turns do not wait for each other. A turn that fails does not affect
    the others: `errors` maps it to its error. A slow consumer slows the polling.
    """

    def __init__(self, turns: Iterable[Turn], watch: Callable[[Turn], Watch]) -> None:
        self._turns = turns
        self._watch = watch
        self._pool: TaskPool[tuple[Turn, Message]] | None = None
        self.errors: dict[Turn, NairiError] = {}
        """The turns that failed, timed out or could not be read, with their errors."""

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
        """Return the next message of any turn, with the turn."""
        if self._pool is None:
            raise SessionClosedError("use watch_many in `async with`: `async with nairi.watch_many(turns) as stream`")
        return await self._pool.get()


async def _watch_one(
    pool: TaskPool[tuple[Turn, Message]], watch: Watch, turn: Turn, errors: dict[Turn, NairiError]
) -> None:
    try:
        async for message in watch:
            await pool.capacity.acquire()
            pool.put((turn, message))
    except NairiError as error:
        errors[turn] = error
