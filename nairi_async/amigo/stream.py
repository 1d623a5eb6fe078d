"""`AmigoStream`: the events of one interaction, as they arrive."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import ref

from nairi_async.amigo.event_reader import EventReader
from nairi_async.amigo.interaction import InteractionEnd
from nairi_async.amigo.recovery import Recovery
from nairi_async.amigo.sending import Sending
from nairi_async.amigo.steps import Steps
from nairi_async.amigo.stream_deadline import StreamDeadline
from nairi_async.errors import (
    InteractionUnknownError,
    InteractionVoidError,
    NairiError,
    SessionClosedError,
    WatchTimeoutError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator
    from types import TracebackType
    from typing import Self

    from nairi_async._core.executor import Stream
    from nairi_async._core.request import Request
    from nairi_async.amigo.api import Api
    from nairi_async.amigo.conversation_locks import ConversationLock, ConversationLocks
    from nairi_async.amigo.events import Event
    from nairi_async.amigo.hold import OpenStream
    from nairi_async.amigo.interaction import Interaction
    from nairi_async.amigo.models import AmigoReply
    from nairi_async.amigo.sent_interaction import SentInteraction


class AmigoStream:
    """The events of one interaction, from its first to its last. Made by `AmigoSession` and `AmigoConversation`.

    The message is sent on `async with`, when the stream is awaited, or by the first step of `async for`, when no other
    call of the conversation is under way. It is sent once.

    * **Every event, in order**, those of unknown types included. The iteration ends when the service has ended it, and
      never silently: an interaction that failed raises `InteractionVoidError` after its last event, one that broke off
      or was closed `InteractionUnknownError`. One that is saved while its post-processing failed ends normally;
      `reply().warning` says so.
    * **A cancellation loses nothing**: an iteration that was cancelled in a step resumes at that step, even if the
      message had just been sent. If all tasks that read it have ended, and another call of the conversation is in line,
      that call goes first: the stream is closed then, and its outcome unknown.
    * **It holds a connection and its conversation until its end, or until it is left**: use `async with` or `reply`,
      which leave it when they are cancelled, or read it to its end. It is left as well when its timeout is over. What
      the service does when a reader leaves is not documented; `settle` finds out.
    """

    def __init__(
        self,
        api: Api,
        locks: ConversationLocks,
        lock: ConversationLock,
        turn: SentInteraction,
        prepare: Callable[[], Awaitable[Request]],
        *,
        timeout: float = math.inf,
    ) -> None:
        self._api = api
        self._locks = locks
        self._turn = turn
        clock = api.executor.clock
        self._deadline = StreamDeadline(clock, timeout)
        self._is_unlimited = timeout == math.inf
        # The conversation whose lock knows that this stream belongs to it.
        self._bound_id: str | None = None
        self._sending = Sending(api, lock, turn, prepare, self._deadline)
        self._reader = EventReader(turn.interaction, api.executor.http.quote, clock, api.idle_timeout)
        self._readers = self._sending.readers
        self._buffer: deque[Event] = deque()
        self._failure: NairiError | None = None
        self._is_closed = False
        self._steps = Steps()
        self._ref: ref[OpenStream] = ref(self)
        api.streams.add(self)

    def __repr__(self) -> str:
        state = "ended" if self.is_ended else "closed" if self._is_closed else "sent" if self.is_sent else "not sent"
        return f"<AmigoStream of conversation {self.conversation_id}: {state}, {self._interaction.end.value}>"

    @property
    def conversation_id(self) -> str | None:
        """The conversation; `None` before the first event of a new one."""
        return self._interaction.conversation_id

    @property
    def interaction_id(self) -> str | None:
        """The interaction; the service names it with the event that completes it."""
        complete = self._interaction.complete
        return complete.interaction_id if complete is not None else None

    @property
    def is_saved(self) -> bool:
        """Whether the service has said that the interaction is saved."""
        return self._interaction.complete is not None

    @property
    def is_ended(self) -> bool:
        """Whether the stream has come to its end, normally or not."""
        return self._reader.is_ended

    @property
    def is_sent(self) -> bool:
        """Whether the message was sent, or may have been: not before its turn, and not where the service refused it."""
        return self._sending.request is not None

    @property
    def is_in_doubt(self) -> bool:
        """Whether the message was sent, and it is not known whether the interaction is saved."""
        return self.is_sent and self._interaction.end is InteractionEnd.UNKNOWN

    def __aiter__(self) -> Self:
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        """Send the message, without waiting for an event."""
        return self._started().__await__()

    async def __aenter__(self) -> Self:
        try:
            return await self
        except BaseException:
            # The block that would leave it is not entered.
            if self._sending.has_left:
                await self.aclose()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __anext__(self) -> Coroutine[Any, Any, Event]:
        """Return the next event; wait for it within the session's `idle_timeout` and the stream's own timeout.

        Raises:
            InteractionVoidError: the service gave up and kept nothing: the message may be sent again.
            InteractionUnknownError: the stream broke off, or was closed, before the service said how it ended.
            OutcomeUnknownError: the message was sent, and no stream began.
            WatchTimeoutError: the timeout is over.
            InvalidArgumentError: this task still reads another stream of the conversation.
            NairiError: the message was not sent, or was refused; the next step sends it again.
        """
        readers = self._readers
        # Not for each event of a piece: a stream may have thousands.
        if readers.steady is None or not self._buffer:
            readers.asked_by(asyncio.current_task())
        return self._next()

    async def _next(self) -> Event:
        steps = self._steps
        while not self._buffer:
            # Two tasks may iterate over one stream: each event then goes to one of them.
            if steps.is_under_way:
                await steps.wait()
                continue
            if self._reader.is_ended or self._is_closed:
                raise self._outcome() or StopAsyncIteration
            steps.is_under_way = True
            try:
                sending = self._sending
                body, hold = sending.body, sending.hold
                if body is None or hold is None or not self._is_unlimited:
                    await self._open()
                    await self._read()
                    continue
                # As those two do, without their frames: a stream may have thousands of pieces.
                try:
                    piece = await body.read()
                except NairiError as error:
                    self._take(b"", error)
                else:
                    self._take(piece, None)
            finally:
                steps.end()
                if self._readers.steady is None:
                    # Its reader may have ended during the step.
                    self._sending.lock.reader_ended()
        return self._buffer.popleft()

    async def reply(self) -> AmigoReply:
        """Read to the end, and return the reply; events that were read before are included.

        A reply that the service has saved is returned even if the stream was left, or its timeout is over.

        Raises:
            NairiError: as for a step of the iteration.
        """
        try:
            async with self:
                if not self._is_closed:
                    # Without a variable: an event may repeat the key, and would stand in a traceback.
                    with suppress(StopAsyncIteration):
                        while True:
                            await anext(self)
        except WatchTimeoutError:
            if not self.is_saved:
                raise
        if (failure := self._outcome()) is not None:
            raise failure
        return self._interaction.reply(is_voice=self._turn.message.wants_voice)

    async def settle(self, *, timeout: float = 60.0) -> AmigoReply | None:
        """Find out from the conversation's messages whether an interaction that broke off was saved.

        Nothing is sent again. The messages are read several times, since the service may still be at work.

        Args:
            timeout: Seconds to look for.

        Returns:
            The reply, if the interaction is saved; its text is then that of the messages. `None` only if it is certain
            that it was not kept: the message was not sent, the service said so, or the service is done with it and no
            message could be it. Sending it again is then your decision.

        Raises:
            InteractionUnknownError: neither is certain. The message says what is known, and what to do.
            InvalidArgumentError: this task still reads another stream of the conversation.
            NairiError: the messages could not be read.
        """
        await self.aclose()
        if self.is_saved:
            return self._interaction.reply(is_voice=self._turn.message.wants_voice)
        if not self.is_sent or self._interaction.end is InteractionEnd.VOID:
            # The same words may be among the messages all the same, said at another time.
            return None
        lock = self._sending.lock
        async with await lock.reserve():
            reply = await Recovery(self._api, self._turn, lock, self._locks.is_taken).settle(timeout)
            self._locks.settled(lock, self._turn, reply)
            return reply

    async def aclose(self) -> None:
        """Leave the stream, and release its connection and conversation at once. Harmless when repeated."""
        self._close()
        await self._sending.abort()

    def _close(self, failure: NairiError | None = None) -> None:
        """Leave the stream; `failure` says why, where that is not its reader's own wish."""
        self._is_closed = self._readers.are_done = True
        self._buffer.clear()
        if failure is not None and not self.is_ended and not self.is_saved:
            self._failure = self._failure or failure
        self._sending.leave()

    @property
    def is_being_read(self) -> bool:
        """Whether a step is under way."""
        return self._steps.is_under_way

    def abandoned(self) -> None:
        """Close: its reader has ended, and another call of the conversation is in line."""
        self._close()

    def session_closed(self) -> None:
        """End, and wake what waits for it: the session is closed."""
        if self._sending.has_left:
            failure: NairiError = InteractionUnknownError("the session was closed before the stream had ended")
        else:
            failure = SessionClosedError("the session is closed")
        self._close(self._of_conversation(failure))

    def __del__(self) -> None:
        sending = getattr(self, "_sending", None)
        if sending is not None:
            # Left by `break`: the connection and the conversation are free at once.
            sending.release_anywhere()

    async def _started(self) -> Self:
        while self._steps.is_under_way:
            await self._steps.wait()
        self._steps.is_under_way = True
        try:
            if not self._is_closed and not self.is_ended:
                await self._open()
        finally:
            self._steps.end()
        return self

    async def _open(self) -> None:
        sending = self._sending
        self._steps.first()
        if sending.body is None:
            try:
                async with self._deadline.bound():
                    await sending.open()
            except TimeoutError as error:
                if isinstance(error, NairiError):
                    raise
                raise self._late("no stream has begun within the timeout") from error
            finally:
                if sending.hold is not None:
                    sending.hold.opened(self._ref, self._api.sleep)
        if self._is_closed:
            # Closed by another task, at the moment when the response came.
            sending.release()
        elif sending.hold is not None:
            self._reader.begin()

    async def _read(self) -> None:
        """Read one piece, and note what its events say."""
        body, hold = self._sending.body, self._sending.hold
        if body is None or hold is None:
            return
        try:
            piece = await (body.read() if self._is_unlimited else self._read_in_time(body))
        except WatchTimeoutError:
            raise
        except NairiError as error:
            self._take(b"", error)
        else:
            self._take(piece, None)

    def _take(self, piece: bytes, cause: NairiError | None) -> None:
        """Note what the events of a piece say; no await, so that a cancellation cannot lose what was read."""
        sending, reader, interaction = self._sending, self._reader, self._turn.interaction
        if sending.request is None:
            return
        events, failure = reader.take(piece, cause, sending.request)
        if not self._is_closed:
            self._buffer += events
        if interaction.conversation_id is not self._bound_id and interaction.conversation_id is not None:
            self._bound_id = interaction.conversation_id
            self._locks.bind(sending.lock, self._bound_id)
        if interaction.complete is not None and interaction.ends_conversation:
            sending.lock.is_over = True
        if reader.is_ended:
            self._readers.are_done = True
            if failure is not None and not self._is_closed:
                self._failure = self._of_conversation(failure)
            is_whole = interaction.end is not InteractionEnd.UNKNOWN
            sending.lock.left(self._turn, is_whole=is_whole)
            sending.release()

    async def _read_in_time(self, body: Stream) -> bytes:
        try:
            async with self._deadline.bound():
                return await body.read()
        except TimeoutError as error:
            if isinstance(error, NairiError):
                raise
            raise self._late("the interaction has not ended within the timeout") from error

    def _late(self, what: str) -> NairiError:
        """Leave the stream, of which no step can be taken any more, and return the error that says so."""
        late = self._of_conversation(WatchTimeoutError(what))
        if self._sending.has_left:
            self._close(late)
        return late

    async def read_rest(self) -> bool:
        """Read to the end if the interaction is complete, for a call of the conversation by the stream's own reader."""
        while not self.is_ended and not self._is_closed:
            if self._interaction.end is InteractionEnd.UNKNOWN:
                return False
            await self._read()
        return True

    def _outcome(self) -> NairiError | None:
        """Return why there is no reply, once the stream has ended or was closed."""
        if self.is_saved:
            return None
        if self._failure is not None:
            return self._failure
        if isinstance(self._sending.error, NairiError) and self._sending.is_final:
            return self._sending.error
        if self._interaction.end is InteractionEnd.VOID:
            return self._of_conversation(self._reader.void())
        if not self.is_sent:
            return self._of_conversation(InteractionVoidError("the stream was closed before anything was sent"))
        request = self._sending.request
        where = (request.method, request.path) if request is not None else ()
        return self._of_conversation(InteractionUnknownError("the stream was closed before its end", *where))

    @property
    def _interaction(self) -> Interaction:
        return self._turn.interaction

    def _of_conversation(self, error: NairiError) -> NairiError:
        """Name the conversation that an error belongs to."""
        error.conversation_id = self.conversation_id
        return error
