"""Sending one message: waiting for its turn in the conversation, and opening the stream of its events."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from nairi_async._core.request import CallState
from nairi_async.amigo.finishing import explain_conflict, waits
from nairi_async.amigo.readers import Readers
from nairi_async.errors import ConflictError, InteractionUnknownError, NairiError, OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nairi_async._core.executor import Stream
    from nairi_async._core.request import Request
    from nairi_async.amigo.api import Api
    from nairi_async.amigo.conversation_locks import ConversationLock
    from nairi_async.amigo.hold import Hold
    from nairi_async.amigo.sent_interaction import SentInteraction
    from nairi_async.amigo.stream_deadline import StreamDeadline


class Sending:
    """A message being sent, in a task of its own: cancelling the caller does not cut off a message that was sent.

    It knows nothing of its stream, so that a stream that nothing refers to any more is collected and closed.
    """

    def __init__(
        self,
        api: Api,
        lock: ConversationLock,
        turn: SentInteraction,
        prepare: Callable[[], Awaitable[Request]],
        deadline: StreamDeadline,
    ) -> None:
        self._deadline = deadline
        self.readers: Readers = Readers()
        """The tasks that read the stream."""
        self._api = api
        self._lock = lock
        self._turn = turn
        self._prepare = prepare
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._call = CallState()
        self.hold: Hold | None = None
        """The message's place in line."""
        self.request: Request | None = None
        """The request, from the moment when it may have left; `None` again if the service refused it."""
        self.body: Stream | None = None
        """The body of the response, once its headers have come."""
        self.error: BaseException | None = None
        """Why the last attempt gave no stream."""

    @property
    def lock(self) -> ConversationLock:
        """The lock of the conversation."""
        return self._lock.resolve()

    @property
    def has_left(self) -> bool:
        """Whether the request was given to a connection, in whole or in part; not while it waits for a rate limit."""
        return self.request is not None and (self._call.write_started or self.body is not None or self.is_final)

    @property
    def is_final(self) -> bool:
        """Whether the message must not be sent again, because its outcome is unknown."""
        return isinstance(self.error, OutcomeUnknownError)

    async def open(self) -> None:
        """Send the message, unless it was sent, and wait for the headers of the response.

        A cancellation before it is sent has no effect at the service; after that, the next call resumes the wait.

        Raises:
            InvalidArgumentError: this task still reads a stream of the conversation.
            NairiError: the message was refused, or could not be sent; the next call sends it again.
            OutcomeUnknownError: it was sent, and no stream came back.
        """
        if self._task is None:
            self._loop = asyncio.get_running_loop()
            self.error, self._call = None, CallState()
            self.hold = await self.lock.reserve(self.readers)
            self._task = asyncio.create_task(self._send(self.hold))
            self._task.add_done_callback(self._ended)
        task = self._task
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            if not self._call.write_started:
                await self.abort()
            raise
        if self.error is not None:
            raise self.error

    async def abort(self) -> None:
        """Stop sending, and wait until it has stopped: only then is it known whether the message left."""
        task = self._task
        if task is None or task.done():
            return
        task.cancel()
        while not task.done():
            # Soon, because it is cancelled; another cancellation of this task must not leave that open.
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])

    def release(self) -> None:
        """Give connection and turn back, and stop the timer of the timeout. Harmless when repeated."""
        self._deadline.close()
        self.readers.forget()
        body, self.body = self.body, None
        if body is not None:
            body.close()
        hold, self.hold = self.hold, None
        if hold is not None:
            hold.release()

    def release_anywhere(self) -> None:
        """Do the same from a finaliser, which may run in another thread, or after the loop was closed."""
        if self._loop is None:
            return
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            self.leave()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.leave)

    def leave(self) -> None:
        """Leave the stream before its end: the service may go on with the interaction."""
        self._deadline.close()
        if self._task is not None and not self._task.done():
            # The task gives its place in line back by itself.
            self._task.cancel()
            return
        if self.request is not None and self.hold is not None:
            self.lock.left(self._turn, is_whole=False)
        self.release()

    async def _send(self, hold: Hold) -> None:
        try:
            await hold.wait()
            was_busy = self.lock.may_be_busy
            request = await self._prepare()
            self.lock.sending(self._turn)
            self.request = request
            clock = self._api.executor.clock
            self._turn.sent_at, self._turn.sent_time = clock.monotonic(), clock.time()
            self.body = await self._open_body(request, was_busy=was_busy)
            self.lock.accepted(self._turn)
        except asyncio.CancelledError:
            if self._call.write_started:
                self.error = InteractionUnknownError("the stream was closed before it began", *self._where())
            self._failed()
            raise
        except Exception as error:  # noqa: BLE001 - it is raised to the caller
            self.error = error
            self._failed()

    async def _open_body(self, request: Request, *, was_busy: bool) -> Stream:
        """Send the request, and wait up to the idle timeout for a call that may still run in the conversation."""
        clock = self._api.executor.clock
        deadline = clock.monotonic() + self._api.idle_timeout
        for wait in waits():
            try:
                return await self._api.executor.stream(request, state=self._call)
            except ConflictError as conflict:
                conversation_id = self.lock.id
                if conversation_id is None:
                    raise
                self._call.write_started = False
                await explain_conflict(self._api, self.lock, conversation_id, conflict)
                if not was_busy or request.is_spent or clock.monotonic() >= deadline:
                    raise
            await self._api.sleep(min(wait, deadline - clock.monotonic()))
        raise AssertionError("unreachable")  # pragma: no cover

    def _ended(self, task: asyncio.Task[None]) -> None:
        # A task that was cancelled before its first step has run nothing of its own.
        if task.cancelled() and self._task is task and self.body is None and self.error is None:
            self._failed()

    def _failed(self) -> None:
        """Note that there is no stream, and whether the message may be sent again."""
        if isinstance(self.error, NairiError):
            self.error.conversation_id = self._turn.interaction.conversation_id
        if self.is_final:
            self.lock.left(self._turn, is_whole=False)
        else:
            self._task = None
            if self.request is not None:
                self.request = None
                self.lock.not_sent(self._turn)
        self.release()

    def _where(self) -> tuple[str, ...]:
        return () if self.request is None else (self.request.method, self.request.path)
