"""`AmigoConversation`: one dialogue, one turn at a time, in order, however many tasks speak."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nairi_async._core import checks
from nairi_async.amigo.finishing import ConversationStatus, finish_or_be_finished, read_status
from nairi_async.amigo.interaction import Interaction, InteractionEnd
from nairi_async.amigo.last_reply import find_last_reply, reply_ids
from nairi_async.amigo.outgoing_message import OutgoingMessage, first_message, next_message
from nairi_async.amigo.recovery import Recovery
from nairi_async.amigo.sent_interaction import SentInteraction
from nairi_async.amigo.stream import AmigoStream
from nairi_async.amigo.stream_deadline import StreamDeadline
from nairi_async.errors import InvalidArgumentError, NairiError, WatchTimeoutError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nairi_async._core.request import Request
    from nairi_async.amigo.api import Api
    from nairi_async.amigo.checks import ExternalEvents
    from nairi_async.amigo.conversation_locks import ConversationLock, ConversationLocks
    from nairi_async.amigo.models import AmigoReply
    from nairi_async.typing import Duration, MessageFormat, SentMessageType, Source


class AmigoConversation:
    """A dialogue with one service. Made by `AmigoSession.conversation` (new), `resume` and `unfinished` (existing).

    Its turns run one at a time, in the order of their calls, whichever task or handle speaks: all handles of a
    conversation know the same about it. It is a small handle: keep its `id`, and `resume` rebuilds it in another
    process. It satisfies `nairi_async.dialogue.Dialogue`.

    The service allows a user one unfinished conversation of a service: `finish` it before the next one begins.
    """

    def __init__(
        self,
        api: Api,
        locks: ConversationLocks,
        *,
        service_id: str | None,
        conversation_id: str | None,
        options: Mapping[str, Any],
    ) -> None:
        self._api = api
        self._locks = locks
        self._service_id = service_id
        self._options = dict(options)
        self._given_lock = locks.new() if conversation_id is None else locks.of(conversation_id)

    def __repr__(self) -> str:
        state = "over" if self.is_completed else "may be running" if self.may_be_running else "open"
        return f"<AmigoConversation {self.id} with service {self._service_id}: {state}>"

    @property
    def id(self) -> str | None:
        """The service's id of the conversation, for `resume`; `None` until it has begun."""
        return self._lock.id

    @property
    def service_id(self) -> str | None:
        """The service; `None` for a resumed conversation."""
        return self._service_id

    @property
    def is_completed(self) -> bool:
        """Whether it is over: ended by the agent, finished through this session, or gone."""
        return self._lock.is_over

    @property
    def may_be_running(self) -> bool:
        """Whether a turn of the conversation, sent by this session, may be running at the service.

        It is `True` from the moment a message may have been sent until the end of its interaction was seen. After an
        `ask` that was cancelled or failed, `False` means that its message does not run.
        """
        return self._lock.may_be_running

    async def wait_for_id(self) -> str:
        """Wait until the service has named the conversation, and return its id.

        Raises:
            SessionClosedError: the session was closed before.
        """
        while (conversation_id := self.id) is None:
            await self._api.executor.closing.wait(self._lock.has_id.wait())
        return conversation_id

    async def ask(self, prompt: str, *, timeout: Duration | None = checks.DEFAULT_TIMEOUT) -> AmigoReply:
        """Say something after the turns before it, and wait for the whole reply.

        Args:
            prompt: What to say; not blank.
            timeout: Seconds for the whole wait, turns before this one included; `None` for no limit: the session's
                `idle_timeout` bounds each wait for the service.

        Raises:
            InteractionVoidError: the service gave up and kept nothing; the prompt may be sent again.
            OutcomeUnknownError: it is not known whether the interaction is saved; `settle` finds out.
            WatchTimeoutError: the timeout is over; if the prompt was sent, the same holds.
            ConflictError: the conversation is finished, or another process speaks in it.
            InvalidArgumentError: the conversation is over, or this task still reads a stream of it.
            NairiError: the prompt was not sent.
        """
        return await _whole_reply(self.send(prompt, timeout=timeout))

    async def begin(self, *, timeout: Duration | None = None) -> AmigoReply:
        """Let the agent speak first in a new conversation; arguments and errors as for `ask`."""
        message = first_message(None, message_type="user-message", response_format="text", actions=None)
        return await _whole_reply(self._stream(message, timeout))

    def send(
        self,
        prompt: str | None = None,
        *,
        voice: Source | None = None,
        message_type: SentMessageType = "user-message",
        external_events: ExternalEvents = (),
        response_format: MessageFormat = "text",
        current_agent_action_type: str | None = None,
        timeout: Duration | None = None,
    ) -> AmigoStream:
        """Say something, and return the stream of events; arguments as for `AmigoSession.interact`.

        A recording, and events before the message, need a conversation that has begun.
        """
        message = next_message(
            prompt,
            voice=voice,
            message_type=message_type,
            events=external_events,
            response_format=response_format,
            actions=current_agent_action_type,
            now=self._api.latest_time(),
        )
        return self._stream(message, timeout)

    async def settle(self, *, timeout: float = 60.0) -> AmigoReply | None:
        """Find out whether the last turn was saved; see `AmigoStream.settle`. `None` as well if there was none.

        Where this session has sent nothing in the conversation yet, it finds out whether the conversation is over; if
        not, the next turn waits for one that another process may have left running.
        """
        lock = self._lock
        async with await lock.reserve():
            turn = lock.last
            if turn is None:
                if lock.id is not None and not lock.is_over:
                    status = await read_status(self._api, lock.id)
                    if status in {ConversationStatus.FINISHED, ConversationStatus.GONE}:
                        lock.finished()
                    else:
                        lock.may_be_busy = True
                return None
            if turn.interaction.complete is not None:
                return turn.interaction.reply(is_voice=turn.message.wants_voice)
            if turn.interaction.end is InteractionEnd.VOID:
                await self._begin_anew_if_gone()
                return None
            reply = await Recovery(self._api, turn, lock, self._locks.is_taken).settle(timeout)
            self._locks.settled(lock, turn, reply)
            return reply

    async def last_reply(
        self, *, after: AmigoReply | str | None = None, timeout: Duration | None = checks.DEFAULT_TIMEOUT
    ) -> AmigoReply | None:
        """Return the reply of the newest interaction of the conversation, whichever process sent its message.

        It finds the reply to a message that a process had sent when it ended. Nothing is sent again. The service lists
        an interaction when it is saved, so the messages are read for up to the session's `idle_timeout`.

        Args:
            after: The last reply that is known, or the id of one of its messages: only a later one counts. Without it
                the newest reply that is listed is returned at once.
            timeout: Seconds for the whole wait; `None` for no limit but `idle_timeout`.

        Returns:
            The reply; `None` only where that is certain, because the conversation is over or has not begun.

        Raises:
            InteractionUnknownError: nothing newer is listed, and an interaction may still be running.
            WatchTimeoutError: the timeout is over.
            InvalidArgumentError: `after` is no id, or this task still reads a stream of the conversation.
            NairiError: the messages could not be read.
        """
        known = reply_ids(after)
        deadline = StreamDeadline(self._api.executor.clock, checks.timeout(timeout))
        try:
            async with deadline.bound(), await self._lock.reserve():
                lock = self._lock
                return await find_last_reply(self._api, lock, known) if lock.id is not None else None
        except TimeoutError as error:
            if isinstance(error, NairiError):
                raise
            late = WatchTimeoutError("no reply was found within the timeout")
            late.conversation_id = self.id
            raise late from error
        finally:
            deadline.close()

    async def finish(self) -> None:
        """Finish the conversation, after the turns before; harmless if it is over, or never began.

        It waits up to the session's `idle_timeout` for a turn that may still be running at the service. If the response
        that names the conversation was lost, it searches for the conversation, which would prevent the next one.

        Raises:
            ConflictError: a turn still runs.
            OutcomeUnknownError: the request left, and its response did not come back; it may be repeated.
            InvalidArgumentError: this task still reads a stream of the conversation.
            NairiError: it was refused, or not sent.
        """
        async with await self._lock.reserve():
            lock = self._lock
            if lock.id is None and lock.may_be_running and lock.last is not None:
                found = await Recovery(self._api, lock.last, lock, self._locks.is_taken).find_unfinished()
                if found is not None:
                    self._locks.bind(lock, found)
            if lock.id is not None and not lock.is_over:
                await finish_or_be_finished(self._api, lock, lock.id)

    @property
    def _lock(self) -> ConversationLock:
        self._given_lock = self._given_lock.resolve()
        return self._given_lock

    def _stream(self, message: OutgoingMessage, timeout: Duration | None) -> AmigoStream:
        turn = SentInteraction(Interaction(self.id), message, self._service_id)

        async def prepare() -> Request:
            await self._begin_anew_if_gone()
            request = await self._request(message)
            # Known only now: an earlier turn may have begun the conversation.
            turn.interaction.conversation_id = self.id
            return request

        bound = checks.timeout(timeout)
        return AmigoStream(self._api, self._locks, self._lock, turn, prepare, timeout=bound)

    async def _begin_anew_if_gone(self) -> None:
        """Begin another conversation if the first turn was void and the service has deleted its conversation."""
        lock = self._lock
        first = lock.first
        if first is None or first is not lock.last or first.interaction.end is not InteractionEnd.VOID:
            return
        if lock.id is not None and await read_status(self._api, lock.id) is ConversationStatus.GONE:
            if self._service_id is None:
                lock.finished()  # A resumed conversation does not know with which service to begin another.
            else:
                self._locks.forget_id(lock)

    async def _request(self, message: OutgoingMessage) -> Request:
        if self.is_completed:
            raise InvalidArgumentError("the conversation is over: the agent has ended it, or it was finished")
        if self.id is not None:
            if message.text is None and message.voice is None:
                raise InvalidArgumentError("the conversation has begun: the agent speaks first only in a new one")
            return await self._api.interact(self.id, message)
        if message.voice is not None or message.events:
            raise InvalidArgumentError("a new conversation begins with text, or with `begin()`")
        assert self._service_id is not None  # noqa: S101 - a conversation has a service or an id
        return self._api.create(self._service_id, message, self._options)


async def _whole_reply(stream: AmigoStream) -> AmigoReply:
    """Return the reply of a stream that has no other user: however the wait ends, its conversation is free."""
    try:
        return await stream.reply()
    finally:
        await stream.aclose()
