"""Watching one conversation: an async iterator of new messages."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

import anyio

from nairi_async._core.permits import LoopLock
from nairi_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable
    from types import TracebackType
    from typing import Any, Self

    from nairi_async._nairi.polling.tracker import Tracker
    from nairi_async._nairi.results import Reply
    from nairi_async.errors import TurnFailedError
    from nairi_async.models import Message, Turn


class Replies(Protocol):
    """What a watch needs of the session beyond reading: to wait for replies, and to count what messages cost."""

    async def reply(self, turn: Turn, timeout: float, /) -> Reply:
        """Wait for the end of a turn, and return its reply."""
        ...

    def counted(self, reply: Reply, /) -> Reply:
        """Count the usage of a reply that was read already, and return it able to fetch its attachments."""
        ...

    def count(self, messages: Iterable[Message], /) -> None:
        """Count the usage of messages."""
        ...


class Watch:
    """The new messages of a conversation, as polling discovers them. Made by `NairiSession.watch`.

    Each message is delivered exactly once and in order. The watch reads in the task that iterates, and only while that
    task waits, so an abandoned watch costs nothing. A `__anext__` that was cancelled or has failed can simply be called
    again; the watch continues where it stood. The iteration ends when the watched turn, or every turn of a watched
    conversation, has ended and the settling time (`Polling.settle`) is over.

    The order is that of the messages' times. Where the service gives them equal times or none, it is the order of the
    list, whose direction is learnt from the list itself. Then a prompt that follows a reply counts as sent after that
    reply, so messages of turns that overlap in one conversation may be attributed to the wrong turn. A list without
    times that shows no direction either (prompt, reply, prompt, all ended, in a conversation that this session did not
    begin) is read as oldest first.

    Leaving `async with` or calling `aclose` ends the iteration. Neither is required.

    Raises, from `__anext__`:
        TurnFailedError: the watched turn failed; all its messages were delivered before.
        WatchTimeoutError: the `timeout` is over, counted from the first `__anext__`; or, with `status` `completed`, the
            turn has ended, and for half a minute the list of messages has not shown that. The watch can continue.
        NairiError: reading failed for longer than the retry policy allows, or was refused. The watch can continue.
    """

    def __init__(
        self,
        prepare: Callable[[], Awaitable[Tracker]],
        replies: Replies,
        *,
        target: Turn | str | None,
        after: str | None,
    ) -> None:
        self._prepare = prepare
        self._replies = replies
        self._target = target
        self._tracker: Tracker | None = None
        self._cursor = after
        self._ready: deque[Message] = deque()
        self._failure: TurnFailedError | None = None
        self._is_closed = False
        self._advancing = LoopLock()
        self._scope: anyio.CancelScope | None = None

    def __repr__(self) -> str:
        target = self._target if self.turn is None else self.turn.message_id
        return f"<{type(self).__name__} of {target or 'an unsent prompt'} status={self.status} cursor={self.cursor}>"

    @property
    def turn(self) -> Turn | None:
        """The watched turn; `None` for a whole conversation, and for a prompt that was not sent yet."""
        return None if isinstance(self._target, str) else self._target

    @property
    def cursor(self) -> str | None:
        """Id of the last message delivered. `watch(…, after=cursor)` continues behind it, also in another process.

        It never steps back: a message that the service lists late, after later ones, does not move it. This watch
        delivers such a message, but one that begins at the cursor does not.
        """
        return self._cursor

    @property
    def status(self) -> str | None:
        """The last status seen of the turn's user message: `queued`, `pending`, …; `None` before the first read."""
        return self._tracker.status if self._tracker is not None else None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        """Return the next message; wait for it as long as the timeout allows."""
        # Two tasks may iterate over one watch: each message then goes to one of them.
        async with self._advancing:
            while not self._ready:
                if self._is_closed:
                    raise StopAsyncIteration
                if self._failure is not None:
                    raise self._failure
                with anyio.CancelScope() as self._scope:
                    await self._advance()
            # No await from here on: a message that leaves the queue is delivered.
            message = self._ready.popleft()
            if message.id and (self._cursor is None or self._is_further(message, self._cursor)):
                self._cursor = message.id
            return message

    async def reply(self) -> Reply:
        """Return the reply of the watched turn, instead of iterating or after it.

        After the iteration has ended, nothing is read again. Before that, wait for the end of the turn as
        `NairiSession.reply` does, within the timeout of the watch; the iteration is not disturbed and can go on.

        Raises:
            TurnFailedError: the turn failed; the error holds the service's text and the messages.
            InvalidArgumentError: the watch is of a whole conversation, which has no single reply. Watch a `Turn`, or
                use `Conversation.last_reply`.
            WatchTimeoutError, NairiError: as for iterating.
        """
        if isinstance(self._target, str):
            advice = "watch a Turn, or use `await nairi.resume(job_id).last_reply()`"
            raise InvalidArgumentError(f"a watch of a whole conversation has no single reply: {advice}")
        tracker, turn = await self._begin()
        if self._failure is not None:
            raise self._failure
        reply = tracker.reply()
        return await self._replies.reply(turn, tracker.remaining) if reply is None else self._replies.counted(reply)

    async def aclose(self) -> None:
        """End the iteration, also for a task that waits in it right now. Harmless when repeated."""
        self._is_closed = True
        self._ready.clear()
        if self._scope is not None:
            self._scope.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _begin(self) -> tuple[Tracker, Turn]:
        """Return what follows the turn, and the turn, sending its prompt first where that is still to be done."""
        if self._tracker is None:
            # Another task may be sending it right now.
            async with self._advancing:
                await self._follow()
        assert self._tracker is not None  # noqa: S101 - made by `_follow`
        assert self._tracker.turn is not None  # noqa: S101 - a watch that is not of a whole conversation
        return self._tracker, self._tracker.turn

    async def _follow(self) -> Tracker:
        if self._tracker is None:
            self._tracker = await self._prepare()
            self._target = self._tracker.turn or self._tracker.job_id
        return self._tracker

    def _is_further(self, message: Message, cursor: str) -> bool:
        return self._tracker is None or self._tracker.is_further(message, cursor)

    async def _advance(self) -> None:
        tracker = await self._follow()
        messages = await tracker.step(self._cursor)
        self._ready.extend(messages)
        self._replies.count(messages)
        if tracker.is_finished:
            self._failure = tracker.failure()
            self._is_closed = self._failure is None


class SentWatch(Watch):
    """A prompt on its way, and the watch over its turn. Made by `Conversation.send`.

    The prompt is sent by whichever comes first of awaiting the watch, the first step of `async for`, `async with` and
    `reply`, and never twice.
    """

    def __await__(self) -> Generator[Any, None, Self]:
        """Send the prompt, and return the watch without waiting for a message."""
        return self._send().__await__()

    async def __aenter__(self) -> Self:
        return await self

    async def reply(self) -> Reply:
        """Send the prompt if it was not sent yet, and return the reply of its turn; see `Watch.reply`.

        Raises:
            InvalidArgumentError: the watch was closed before its prompt was sent; `send` it again.
        """
        if self._is_closed and self._tracker is None:
            raise InvalidArgumentError("this watch was closed before its prompt was sent: call `send` again")
        return await super().reply()

    async def _send(self) -> Self:
        async with self._advancing:
            if not self._is_closed:
                with anyio.CancelScope() as self._scope:
                    await self._follow()
        return self
