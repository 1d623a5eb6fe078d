"""Many turns at once: `ask_many` sends prompts with bounded concurrency, `watch_many` merges the messages of turns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from attrs import field

from nairi_async._core.exports import publish
from nairi_async._core.fan_out import FanOut, TaskPool
from nairi_async._core.outcome import PromptOutcome, ReplyT_co
from nairi_async._core.records import define, frozen
from nairi_async._nairi.prompt import Prompt
from nairi_async._nairi.results import Reply
from nairi_async.errors import NairiError, SessionClosedError
from nairi_async.models import Turn

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
    from types import TracebackType
    from typing import Self

    from nairi_async._nairi.polling.watch import Watch
    from nairi_async.models import Message

TargetT = TypeVar("TargetT", bound=Turn | str)
"""What a stream of many watches: turns, job ids, or both."""

# Messages of `watch_many` that are queued for the consumer; while the queue is full, polling waits.
_BACKLOG: Final = 256


@frozen(kw_only=True)
class Outcome(PromptOutcome[ReplyT_co]):
    """How one prompt of `ask_many` ended: with a reply or with an error."""

    index: int
    """Position of the prompt in the input, from 0."""
    prompt: str
    """The text of the prompt."""
    key: str | None = None
    """The key of the `Prompt`, if it had one."""
    turn: Turn | None = None
    """The turn, if one was started."""
    reply: ReplyT_co | None = None
    """The reply, unless the prompt failed."""
    error: NairiError | None = None
    """Why there is no reply."""


class AskMany(FanOut[Outcome[Reply]]):
    """The outcomes of many prompts, as each ends. Made by `NairiSession.ask_many`.

    A prompt is read only when fewer than `limit` conversations run or wait to be consumed, so memory does not grow
    with the input. A prompt that fails does not affect the others: its error is in its `Outcome`. An exception of the
    iterable of prompts is raised after every prompt read before it has ended.

    More prompts than the agent runs at a time queue at the service. They keep their place before the prompts of others,
    and run on if this process ends; they take up to two thirds more requests than `limit=2` at an agent that runs one
    at a time (19 polls a turn, 23 with 60 in the queue, 31 where the agent's listing is of no use). Nothing is held
    back unless `limit` says so.

    Leaving the loop, `aclose()` or `async with` end it: no further prompt is sent, and waiting stops. A turn that was
    started continues at the service.
    """

    def __init__(
        self,
        prompts: Iterable[str | Prompt] | AsyncIterable[str | Prompt],
        ask: Callable[[Prompt], Coroutine[Any, Any, Reply]],
        *,
        limit: int,
    ) -> None:
        async def outcome(index: int, given: str | Prompt) -> Outcome[Reply]:
            text, key = (given.text, given.key) if isinstance(given, Prompt) else (given, None)
            try:
                reply = await ask(Prompt.of(given))
            except NairiError as error:
                return Outcome(index=index, prompt=text, key=key, turn=error.turn, error=error)
            return Outcome(index=index, prompt=text, key=key, turn=reply.turn, reply=reply)

        super().__init__(prompts, outcome, limit=limit)


@define
class _Progress(Generic[TargetT]):
    """How far the watches of one stream are; they hold no reference to the stream itself."""

    running: set[TargetT] = field(factory=set)
    errors: dict[TargetT, NairiError] = field(factory=dict)
    # Where each watch that has ended stopped: its last messages may not be handed over yet.
    stopped_at: dict[TargetT, str | None] = field(factory=dict)


class WatchMany(Generic[TargetT]):
    """The messages of many turns, as they are discovered. Made by `NairiSession.watch_many`; use it in `async with`.

    What is watched is a turn, or a whole conversation by its job id. Each keeps the guarantees of `Watch`, and none
    waits for another. One that fails does not affect the others: `errors` maps it to its error. A slow consumer slows
    the polling.

    The iteration ends when nothing is watched any more. A turn can be added while it runs, and after it has ended: it
    then resumes.
    """

    def __init__(
        self, turns: Iterable[tuple[TargetT, str | None]], watch: Callable[[TargetT, str | None], Watch]
    ) -> None:
        self._turns = tuple(turns)
        self._watch = watch
        self._pool: TaskPool[tuple[TargetT, Message, str | None]] | None = None
        self._is_closed = False
        self._progress = _Progress[TargetT]()
        self._cursors: dict[TargetT, str] = {}

    def __repr__(self) -> str:
        state = "closed, " if self._is_closed else "not open, " if self._pool is None else ""
        return f"<WatchMany: {state}{len(self._progress.running)} turns running, {len(self.errors)} failed>"

    @property
    def errors(self) -> dict[TargetT, NairiError]:
        """The turns and job ids that failed, timed out or could not be read, with their errors."""
        return self._progress.errors

    @property
    def cursors(self) -> dict[TargetT, str]:
        """For each turn or job id, the id of its last message that was handed over; as `after=` it continues there."""
        return self._cursors

    def add(self, turn: TargetT, *, after: str | None = None) -> None:
        """Watch one more turn or conversation.

        A turn that is being watched is left alone. One whose watch has ended, with an error for instance, is watched
        again from its cursor on.

        Args:
            turn: The turn, or a job id.
            after: Id of a message: only what follows it is handed over.

        Raises:
            SessionClosedError: the stream is not open.
        """
        pool, progress = self._open_pool(), self._progress
        if turn not in progress.running:
            watch = self._watch(turn, after if after is not None else progress.stopped_at.get(turn))
            progress.errors.pop(turn, None)
            progress.running.add(turn)
            pool.spawn(_watch_one(pool, watch, turn, progress))

    async def aclose(self) -> None:
        """End the iteration and stop polling, also for a task that waits in it. Harmless when repeated."""
        self._is_closed = True
        if self._pool is not None:
            await self._pool.aclose()
        # A task that was cancelled before its first step has not noted its end.
        self._progress.running.clear()

    async def __aenter__(self) -> Self:
        if self._is_closed or self._pool is not None:
            raise SessionClosedError("this stream was opened before: make another with watch_many()")
        self._pool = TaskPool(_BACKLOG)
        for turn, after in self._turns:
            self.add(turn, after=after)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[TargetT, Message]:
        """Return the next message, with the turn or job id that it belongs to."""
        if self._is_closed:
            raise StopAsyncIteration
        turn, message, cursor = await self._open_pool().get()
        if cursor is not None:
            self._cursors[turn] = cursor
        return turn, message

    def _open_pool(self) -> TaskPool[tuple[TargetT, Message, str | None]]:
        if self._pool is None:
            raise SessionClosedError("the stream is not open yet; use it in `async with nairi.watch_many(…) as stream`")
        if self._is_closed:
            raise SessionClosedError("the stream is closed")
        return self._pool


async def _watch_one(
    pool: TaskPool[tuple[TargetT, Message, str | None]], watch: Watch, turn: TargetT, progress: _Progress[TargetT]
) -> None:
    try:
        async for message in watch:
            await pool.capacity.acquire()
            pool.put((turn, message, watch.cursor))
    except NairiError as error:
        progress.errors[turn] = error
    finally:
        progress.running.discard(turn)
        progress.stopped_at[turn] = watch.cursor


publish(__name__)
