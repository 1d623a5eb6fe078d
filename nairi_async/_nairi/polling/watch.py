"""Watching one conversation: an async iterator of new messages (design section 5)."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Sequence
    from types import TracebackType
    from typing import Any, Self

    from nairi_async._nairi.polling.tracker import Tracker
    from nairi_async.errors import TurnFailedError
    from nairi_async.models import Message, Turn


class Watch:
    """New messages of a conversation, as polling discovers them. Made by `NairiSession.watch` and `Conversation.send`.

    Each message comes exactly once and in order. Reads happen in the task that iterates, and only while it waits: an
    abandoned watch costs nothing. A `__anext__` that was cancelled or has failed can simply be called again; the watch
    goes on where it stood. Iteration ends when the watched turn, or every turn of a watched conversation, has ended
    and the settling time (`Polling.settle`) is over.

    Raises, from `__anext__`:
        TurnFailedError: the watched turn failed; everything it had to say was handed over before.
        WatchTimeoutError: the `timeout` is over, counted from the first `__anext__`.
        NairiError: reading failed for longer than the retry policy bears, or was refused. The watch can go on.
    """

    def __init__(
        self,
        prepare: Callable[[], Awaitable[Tracker]],
        *,
        turn: Turn | None,
        after: str | None,
        note: Callable[[Sequence[Message]], object] | None = None,
    ) -> None:
        self._prepare = prepare
        self._note = note
        self._tracker: Tracker | None = None
        self._turn = turn
        self._cursor = after
        self._ready: deque[Message] = deque()
        self._seen_progress: set[str] = set()
        self._failure: TurnFailedError | None = None
        self._is_closed = False
        self._advancing = asyncio.Lock()
        self._scope: anyio.CancelScope | None = None

    @property
    def turn(self) -> Turn | None:
        """The watched turn; `None` for a whole conversation, and for a prompt that was not sent yet."""
        return self._turn

    @property
    def cursor(self) -> str | None:
        """Id of the last message handed over; `watch(…, after=cursor)` goes on behind it, in another process too."""
        return self._cursor

    @property
    def status(self) -> str | None:
        """The last status seen of the turn's user message: `queued`, `pending`, …; `None` before the first read."""
        return self._tracker.status if self._tracker is not None else None

    def __aiter__(self) -> Self:
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        """Send the prompt of `Conversation.send` without waiting for a message; nothing for other watches."""
        return self._started().__await__()

    async def __anext__(self) -> Message:
        """The next message; waits for it as long as the timeout allows."""
        # Two tasks may iterate over one watch: each message then goes to one of them.
        async with self._advancing:
            while not self._ready:
                if self._is_closed:
                    raise StopAsyncIteration
                if self._failure is not None:
                    raise self._failure
                with anyio.CancelScope() as self._scope:
                    await self._advance()
            # No await from here on: a message that leaves the queue is handed over.
            message = self._ready.popleft()
            # Progress that has grown comes again from where it stands, which is no step back for the reader.
            if message.progress is None or message.id not in self._seen_progress:
                self._cursor = message.id or self._cursor
            if message.progress is not None:
                self._seen_progress.add(message.id)
            return message

    async def aclose(self) -> None:
        """End the iteration, also for a task that waits in it right now. Harmless when repeated."""
        self._is_closed = True
        self._ready.clear()
        if self._scope is not None:
            self._scope.cancel()

    async def __aenter__(self) -> Self:
        return await self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _started(self) -> Self:
        async with self._advancing:
            if not self._is_closed:
                with anyio.CancelScope() as self._scope:
                    await self._follow()
        return self

    async def _follow(self) -> Tracker:
        if self._tracker is None:
            self._tracker = await self._prepare()
            self._turn = self._tracker.turn
        return self._tracker

    async def _advance(self) -> None:
        tracker = await self._follow()
        messages = await tracker.step(self._cursor)
        self._ready.extend(messages)
        if self._note is not None:
            self._note(messages)
        if tracker.is_finished:
            self._failure = tracker.failure()
            self._is_closed = self._failure is None
