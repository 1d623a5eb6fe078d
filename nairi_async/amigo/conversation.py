"""`AmigoConversation`: one dialogue, one turn at a time, in order, however many tasks speak."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from nairi_async._core import checks
from nairi_async.amigo.interaction import End, Interaction
from nairi_async.amigo.outgoing_message import OutgoingMessage, first_message, next_message
from nairi_async.amigo.recovery import LostInteraction
from nairi_async.amigo.stream import AmigoStream
from nairi_async.errors import (
    BadRequestError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nairi_async._core.request import Request
    from nairi_async.amigo.api import Api
    from nairi_async.amigo.checks import ExternalEvents
    from nairi_async.amigo.conversation_locks import ConversationLocks
    from nairi_async.amigo.models import AmigoReply, ConversationInfo
    from nairi_async.typing import Duration, MessageFormat, SentMessageType, Source


class AmigoConversation:
    """A dialogue with one service. Made by `AmigoSession.conversation` (new), `resume` and `unfinished` (existing).

    Turns run one at a time, in the order in which they were awaited, whichever task speaks. It is a small handle: keep
    its `id`, and `resume` rebuilds it in another process. It satisfies `nairi_async.dialogue.Dialogue`.

    The service allows a user one unfinished conversation of a service: `finish` it before the next one begins.
    """

    def __init__(
        self,
        api: Api,
        orders: ConversationLocks,
        *,
        service_id: str | None,
        conversation_id: str | None,
        options: Mapping[str, Any],
    ) -> None:
        self._api = api
        self._orders = orders
        self._service_id = service_id
        self._id = conversation_id
        self._options = dict(options)
        self._order = orders.new() if conversation_id is None else orders.of(conversation_id)
        self._last: LostInteraction | None = None
        # The turn that began it, where this handle did.
        self._first: LostInteraction | None = None
        self._is_completed = False
        # Whether the last turn may still run at the service, because its end was not seen.
        self._is_in_doubt = False
        # Both as they were before the turn under way, which may not leave, or be refused.
        self._before: tuple[LostInteraction | None, bool] = (None, False)
        # Whether it was to be finished before, and nobody saw the end of it.
        self._is_finishing = False
        self._has_id = asyncio.Event()

    def __repr__(self) -> str:
        return f"AmigoConversation(service_id={self._service_id!r}, id={self._id!r})"

    @property
    def id(self) -> str | None:
        """The service's id of the conversation, for `resume`; `None` until it has begun."""
        return self._id

    @property
    def service_id(self) -> str | None:
        """The service; `None` for a resumed conversation."""
        return self._service_id

    @property
    def is_completed(self) -> bool:
        """Whether it is over: ended by the agent, or finished through this handle."""
        return self._is_completed

    @property
    def may_be_running(self) -> bool:
        """Whether a turn that was asked through this handle may be running at the service.

        It is `True` from the moment a message may have been sent until the end of its interaction was seen. After an
        `ask` that was cancelled or failed, `False` means that its message does not run.
        """
        return self._last is not None and self._is_in_doubt

    async def wait_for_id(self) -> str:
        """Wait until the service has named the conversation, and return its id."""
        while self._id is None:
            await self._has_id.wait()
        return self._id

    async def ask(self, prompt: str, *, timeout: Duration | None = None) -> AmigoReply:
        """Say something when its turn has come, and wait for the whole reply.

        Args:
            prompt: What to say; not blank.
            timeout: Seconds for the whole wait, turns before this one included; none unless given: the session's
                `idle_timeout` bounds each wait for the service.

        Raises:
            InteractionVoidError: the service gave up and kept nothing; it may be said again.
            OutcomeUnknownError: nobody knows whether it is saved; `settle` looks.
            WatchTimeoutError: the timeout is over; the same holds if it had been sent.
            ConflictError: the conversation is finished, or the service is still at work in it.
            NairiError: it was not sent (design section 4).
        """
        return await self.send(prompt, timeout=timeout).reply()

    async def begin(self, *, timeout: Duration | None = None) -> AmigoReply:
        """Let the agent speak first, in a conversation that has not begun; arguments and errors as for `ask`."""
        saying = first_message(None, message_type="user-message", response_format="text", actions=None)
        return await self._streamed(saying, timeout).reply()

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
        """The same as a stream of events; arguments as for `AmigoSession.interact`.

        A recording, and events before the message, need a conversation that has begun.
        """
        saying = next_message(
            prompt,
            voice=voice,
            message_type=message_type,
            events=external_events,
            response_format=response_format,
            actions=current_agent_action_type,
            now=self._api.executor.clock.time(),
        )
        return self._streamed(saying, timeout)

    async def settle(self, *, timeout: float = 60.0) -> AmigoReply | None:
        """Find out whether the last turn was saved; see `AmigoStream.settle`. `None` as well if there was none.

        A handle that has said nothing yet finds out whether the conversation is over; if not, its next turn waits for
        one that another process may have left running.
        """
        async with self._order:
            if self._last is None:
                if self._id is not None and not self._is_completed:
                    self._is_completed = await self._is_finished() is not False
                    self._is_in_doubt = not self._is_completed
                return None
            reply = await self._last.settle(self._api, timeout)
            if reply is not None:
                self._set_id(self._id or reply.conversation_id)
                self._is_in_doubt = False
            return reply

    async def finish(self) -> None:
        """End the conversation, after the turns before; harmless where it is over already, or never began.

        Where its beginning broke off before the service named it, it is looked for, since it would stand in the way of
        the next one.

        Raises:
            OutcomeUnknownError: the request left, and its answer did not come back; it may be repeated.
            NairiError: it was refused, or not sent.
        """
        async with self._order:
            if self._id is None and self._is_in_doubt and self._last is not None:
                self._set_id(await self._last.unfinished(self._api))
            if self._is_finishing and self._id is not None and not self._is_completed:
                self._is_completed = await self._is_finished() is not False
            if self._id is None or self._is_completed:
                return
            # A conflict says that it is finished, or that something still runs in it.
            is_vague, self._is_finishing = self._is_in_doubt or self._is_finishing, True
            try:
                await self._api.finish(self._id, retry_conflicts=is_vague)
            except (NotFoundError, ConflictError, BadRequestError) as error:
                # Gone, finished, or without an interaction: the service's own examples take that for success.
                if isinstance(error, ConflictError) and is_vague and await self._is_finished() is False:
                    raise
            self._is_completed = True

    async def _is_finished(self) -> bool | None:
        """Whether the service says that the conversation is finished; `None` where it knows of none."""
        assert self._id is not None  # noqa: S101 - whoever calls has looked
        try:
            page = await self._api.conversations([("id", self._id), ("limit", "1")])
            rows: list[ConversationInfo] = [row for row in page.rows if row.id == self._id]
            if rows:
                return rows[0].is_finished is True
            # A list may lag behind.
            await self._api.messages(self._id, [("limit", "1")])
        except NotFoundError:
            return None
        except PermissionDeniedError:
            # Who may not look may speak all the same.
            pass
        return False

    def _streamed(self, saying: OutgoingMessage, timeout: Duration | None) -> AmigoStream:
        sought = LostInteraction(Interaction(self._id), saying, self._service_id)

        async def prepare() -> Request:
            await self._begin_anew_if_gone()
            request = await self._request(saying)
            if self._id is None:
                self._first = sought
            # Known only now: an earlier turn may have begun the conversation.
            sought.interaction.conversation_id = self._id
            self._before = (self._last, self._is_in_doubt)
            self._last, self._is_in_doubt = sought, True
            return request

        return AmigoStream(
            self._api,
            saying,
            prepare,
            self._order,
            sought=sought,
            timeout=checks.timeout(timeout),
            note=self._note,
        )

    async def _begin_anew_if_gone(self) -> None:
        """A conversation whose first turn is void may be gone with it, or not; the service does not say."""
        first = self._first
        if first is None or first is not self._last or first.interaction.end is not End.VOID or self._id is None:
            return
        if await self._is_finished() is None:
            self._set_id(None)

    def _set_id(self, conversation_id: str | None) -> None:
        self._id = conversation_id
        if conversation_id is None:
            self._has_id.clear()
        else:
            self._has_id.set()

    async def _request(self, saying: OutgoingMessage) -> Request:
        if self._is_completed:
            raise InvalidArgumentError("the conversation is over: the agent has ended it, or it was finished")
        if self._id is not None:
            if saying.text is None and saying.voice is None:
                raise InvalidArgumentError("the conversation has begun: the agent speaks first only in a new one")
            return await self._api.interact(self._id, saying, retry_conflicts=self._is_in_doubt)
        if saying.voice is not None or saying.events:
            raise InvalidArgumentError("a new conversation begins with text, or with `begin()`")
        assert self._service_id is not None  # noqa: S101 - a conversation has a service or an id
        return self._api.create(self._service_id, saying, self._options)

    def _note(self, stream: AmigoStream) -> None:
        if not stream.is_sent:
            self._last, self._is_in_doubt = self._before
        if self._id is None and stream.conversation_id is not None:
            self._set_id(stream.conversation_id)
            self._orders.note(stream)
        if stream.is_ended:
            self._is_in_doubt = stream.is_in_doubt
        self._is_completed = self._is_completed or stream.is_conversation_over
