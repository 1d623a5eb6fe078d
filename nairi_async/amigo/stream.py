"""`AmigoStream`: the events of one interaction, as they come."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

import anyio

from nairi_async._core.request import CallState
from nairi_async.amigo.interaction import End, Interaction, Lines
from nairi_async.amigo.wire import decode_event
from nairi_async.errors import (
    DecodeError,
    InteractionUnknownError,
    InteractionVoidError,
    NairiError,
    OutcomeUnknownError,
    UnreadableOutcomeError,
    WatchTimeoutError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Self

    from nairi_async._core.executor import Stream
    from nairi_async._core.request import Request
    from nairi_async.amigo.api import Api
    from nairi_async.amigo.conversation_locks import ConversationLock
    from nairi_async.amigo.events import Event
    from nairi_async.amigo.models import AmigoReply
    from nairi_async.amigo.outgoing_message import OutgoingMessage
    from nairi_async.amigo.recovery import LostInteraction

log = logging.getLogger("nairi_async.amigo")


class AmigoStream:
    """The events of one interaction, from its first to its last. Made by `AmigoSession` and `AmigoConversation`.

    The message leaves on `async with`, when the stream is awaited, or with the first `async for` step, whichever comes
    first, when no other call of the conversation is under way, and never twice.

    * **Every event, in order**, those of unknown types included. The iteration ends when the service has ended it, and
      never silently: an interaction that failed raises `InteractionVoidError` after its last event, one that broke off
      `InteractionUnknownError`. One that is saved while its post-processing failed ends well; `reply().warning` tells.
    * **Cancellation loses nothing**: an iteration that was cancelled in a step goes on where it stood.
    * **It holds a connection, and its conversation, until its end or until it is left**: use `async with`, or read it
      to its end. What the service does about a reader that leaves is not documented; `settle` looks.
    """

    def __init__(
        self,
        api: Api,
        saying: OutgoingMessage,
        prepare: Callable[[], Awaitable[Request]],
        order: ConversationLock,
        *,
        sought: LostInteraction,
        timeout: float = math.inf,
        note: Callable[[AmigoStream], object] | None = None,
    ) -> None:
        self._api = api
        self._clock = api.executor.clock
        self._saying = saying
        self._prepare = prepare
        self.order = order
        """Whose turn it is in the conversation."""
        self._sought = sought
        self._timeout = timeout
        self._note = note
        self._deadline: float | None = None
        self._interaction: Interaction = sought.interaction
        self._lines = Lines()
        self._ready: deque[Event] = deque()
        self._stream: Stream | None = None
        self._request: Request | None = None
        self._holds_order = False
        self._is_ended = False
        self._is_closed = False
        self._failure: NairiError | None = None
        self._advancing = asyncio.Lock()
        self._scope: anyio.CancelScope | None = None

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
        """Whether nothing more comes, well or badly."""
        return self._is_ended

    @property
    def is_sent(self) -> bool:
        """Whether it has left, or may have: not while it waits for its turn, and not where the service refused it."""
        return self._request is not None

    @property
    def is_in_doubt(self) -> bool:
        """Whether, as things stand, nobody can say whether the interaction is saved."""
        return self._request is not None and self._interaction.end is End.UNKNOWN

    @property
    def is_conversation_over(self) -> bool:
        """Whether the agent has ended the conversation with this interaction."""
        complete = self._interaction.complete
        return complete is not None and complete.conversation_completed is True

    def __aiter__(self) -> Self:
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        """Send the message, without waiting for an event."""
        return self._started().__await__()

    async def __aenter__(self) -> Self:
        return await self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def __anext__(self) -> Event:
        """The next event; waits for it as long as the session's `idle_timeout` and the stream's own timeout allow.

        Raises:
            InteractionVoidError: the service gave up, and kept nothing: it may be sent again.
            InteractionUnknownError: the stream broke off before the service said how it ended.
            OutcomeUnknownError: the message was sent, and no stream began.
            WatchTimeoutError: the timeout is over.
            NairiError: the message was not sent, or was refused; the next step sends it again.
        """
        while not self._ready:
            # Two tasks may iterate over one stream: each event then goes to one of them.
            async with self._advancing:
                if self._ready:
                    break
                if self._failure is not None and (self._is_closed or self._is_ended):
                    raise self._failure
                if self._is_closed:
                    raise StopAsyncIteration
                await self._advance()
        return self._ready.popleft()

    async def reply(self) -> AmigoReply:
        """Read to the end, and give what came of it; what was iterated over before is included.

        Where the service has said that the interaction is saved, that counts, whether or not the stream is left or its
        timeout over before it has ended.

        Raises:
            NairiError: as for a step of the iteration.
        """
        try:
            async with self:
                if not self._is_closed:
                    async for _ in self:
                        pass
        except WatchTimeoutError:
            if not self.is_saved:
                raise
        if self._failure is not None:
            raise self._failure
        if self._interaction.end is End.VOID:
            raise self._void()
        if not self.is_sent:
            raise self._told(InteractionVoidError("the stream was closed before anything was sent"))
        if not self.is_saved:
            raise self._unknown("the stream was closed before its end")
        return self._interaction.reply(is_voice=self._saying.wants_voice)

    async def settle(self, *, timeout: float = 60.0) -> AmigoReply | None:
        """Find out whether an interaction that broke off was saved, from the conversation's messages.

        Nothing is sent again. Looks several times, since the service may still be at work.

        Args:
            timeout: Seconds to look for.

        Returns:
            The reply, if it is saved; its text is then the messages'. `None` if it was not sent, the service
            said that it kept nothing, or no trace of it was found: it is as good as certain then that it was not kept,
            and sending it again is your decision.

        Raises:
            InteractionUnknownError: what was found may be this interaction or another.
            NairiError: the messages could not be read.
        """
        await self.aclose()
        if self.is_saved:
            return self._interaction.reply(is_voice=self._saying.wants_voice)
        if not self.is_sent or self._interaction.end is End.VOID:
            # What it said may stand there all the same, said at another time.
            return None
        return await self._sought.settle(self._api, timeout)

    async def aclose(self) -> None:
        """Leave the stream, and let go of its connection at once. Harmless when repeated."""
        self._is_closed = True
        self._ready.clear()
        if self._scope is not None:
            self._scope.cancel()
        self._let_go()

    def __del__(self) -> None:
        # Left by `break`: the connection and the conversation are free at once.
        if getattr(self, "_holds_order", False):
            # The loop may be closed already; then the connection is as well.
            with suppress(RuntimeError):
                self._let_go()

    async def _started(self) -> Self:
        async with self._advancing:
            if not self._is_closed:
                await self._start()
        return self

    async def _start(self) -> None:
        if self._stream is not None or self._is_ended:
            return
        if self._failure is not None:
            raise self._failure
        with anyio.CancelScope() as self._scope:
            try:
                async with self._bounded():
                    await self._send()
            except TimeoutError as error:
                if isinstance(error, NairiError):
                    raise
                raise self._told(WatchTimeoutError("no stream has begun within the timeout")) from error
        if self._is_closed:
            # By another task, too late to cancel this one: what it has got meanwhile is nobody's any more.
            self._let_go()

    async def _send(self) -> None:
        await self.order.acquire()
        self._holds_order = True
        self._sought.excluded.update(self.order.told)
        try:
            request, call = await self._prepare(), CallState()
            self._request = request
            self._sought.started_at = self._clock.monotonic()
            try:
                self._stream = await self._api.executor.stream(request, state=call)
            except OutcomeUnknownError as error:
                self._failure = error
                raise
            except asyncio.CancelledError:
                if call.write_started:
                    self._failure = self._unknown("cancelled before a stream had begun")
                raise
        except BaseException as error:
            if self._failure is None:
                self._unsaid()
            self._let_go()
            if isinstance(error, NairiError):
                self._told(error)
            raise

    def _unsaid(self) -> None:
        """It did not leave, or was refused: nothing of it is in doubt."""
        was_prepared, self._request = self._request is not None, None
        if was_prepared and self._note is not None:
            self._note(self)

    async def _advance(self) -> None:
        """One step: send, read a piece, or say how it ended."""
        await self._start()
        if self._is_closed:
            return
        if self._is_ended:
            self._is_closed = True
            return
        assert self._stream is not None  # noqa: S101 - started and not ended
        try:
            if self._timeout == math.inf:
                piece = await self._stream.read()
            else:
                async with self._bounded():
                    piece = await self._stream.read()
            lines = self._lines.feed(piece) if piece else self._lines.end()
        except NairiError as error:
            if not self._is_closed:
                self._end(error)
            return
        except TimeoutError as error:
            raise self._told(WatchTimeoutError("the interaction has not ended within the timeout")) from error
        # No await from here on: what was read is handed over.
        known = self.conversation_id
        for line in lines:
            event = decode_event(line)
            self._interaction.observe(event)
            self._ready.append(event)
        if self._note is not None and (self.conversation_id != known or self.is_conversation_over):
            self._note(self)
        if not piece:
            self._end(None)

    def _end(self, cause: NairiError | None) -> None:
        """Nothing more comes: keep what the events said about how it ended."""
        self._is_ended = True
        how = self._interaction.end
        if how is End.UNKNOWN:
            self._failure = self._broken_off(cause)
        elif how is End.VOID:
            self._failure = self._void()
        if self._failure is not None:
            self._told(self._failure)
        if cause is not None:
            log.info("a stream ended as %s: %s", how.value, cause)
        if self._note is not None:
            self._note(self)
        self._let_go()

    def _broken_off(self, cause: NairiError | None) -> NairiError:
        assert self._request is not None  # noqa: S101 - something was read
        where, unknown = (self._request.method, self._request.path), self._request.unknown_outcome_message
        failure: NairiError
        if isinstance(cause, DecodeError) or (not self._interaction.understood and self._interaction.excerpt):
            excerpt = self._api.executor.http.redact(self._interaction.excerpt)
            told = cause.message if cause is not None else "the answer is not a stream of events"
            failure = UnreadableOutcomeError(f"{told} ({unknown})", *where, excerpt=excerpt)
        else:
            told = cause.message if cause is not None else "the stream ended before the interaction was complete"
            failure = InteractionUnknownError(f"{told} ({unknown})", *where)
        failure.__cause__ = cause
        return failure

    def _void(self) -> InteractionVoidError:
        error = self._interaction.error
        assert error is not None  # noqa: S101 - that is what makes it void
        description = self._api.executor.http.redact(error.error_description or "no description")
        failure = InteractionVoidError(description, error.http_error_code)
        self._told(failure)
        return failure

    def _unknown(self, told: str) -> InteractionUnknownError:
        where = (self._request.method, self._request.path) if self._request is not None else ()
        failure = InteractionUnknownError(told, *where)
        self._told(failure)
        return failure

    def _told(self, error: NairiError) -> NairiError:
        """The error, with the conversation that it belongs to."""
        error.conversation_id = self.conversation_id
        return error

    def _bounded(self) -> AbstractAsyncContextManager[object]:
        """What is left of the timeout, in real seconds: a virtual clock must run on while the other side works."""
        if self._timeout == math.inf:
            return nullcontext()
        now = self._clock.monotonic()
        if self._deadline is None:
            self._deadline = now + self._timeout
        return asyncio.timeout(max(0.0, self._deadline - now))

    def _let_go(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
        if self._holds_order:
            self._holds_order = False
            self.order.told.extend(self._interaction.ids)
            self.order.release()
