"""The methods of one user, and `AmigoUser`: a handle for one of many users of a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nairi_async._core import checks
from nairi_async.amigo.checks import identifier, text
from nairi_async.amigo.checks import tags as checked_tags
from nairi_async.amigo.conversation import AmigoConversation
from nairi_async.amigo.directory import DirectoryMethods
from nairi_async.amigo.finishing import finish
from nairi_async.amigo.interaction import Interaction
from nairi_async.amigo.many import AmigoAskMany
from nairi_async.amigo.outgoing_message import first_message, next_message
from nairi_async.amigo.resources import ResourceMethods
from nairi_async.amigo.sent_interaction import SentInteraction
from nairi_async.amigo.stream import AmigoStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable, Mapping

    from nairi_async._core.request import Request
    from nairi_async.amigo.api import Api
    from nairi_async.amigo.checks import ExternalEvents
    from nairi_async.amigo.conversation_locks import ConversationLocks
    from nairi_async.amigo.many import OneShots
    from nairi_async.amigo.models import AmigoReply
    from nairi_async.typing import Duration, MessageFormat, SentMessageType, Source


class ConversationMethods(ResourceMethods, DirectoryMethods):
    """What one user can do: the methods that `AmigoSession` and `AmigoUser` have in common."""

    _api: Api
    _locks: ConversationLocks
    _one_shots: OneShots

    @property
    def user_id(self) -> str:
        """The user that acts."""
        return self._api.user_id

    def create_conversation(
        self,
        service_id: str,
        initial_message: str | None = None,
        *,
        initial_message_type: SentMessageType = "user-message",
        service_version_set_name: str = "release",
        tags: Mapping[str, str | None] | None = None,
        is_test: bool = False,
        response_format: MessageFormat = "text",
        current_agent_action_type: str | None = None,
        timeout: Duration | None = None,
    ) -> AmigoStream:
        """Create a conversation.

        Without an `initial_message` the agent speaks first. The service allows a user one unfinished conversation of a
        service and responds with 400 to a second: see `unfinished`.

        Args:
            service_id: The service.
            initial_message: The first message; not blank.
            initial_message_type: `external-event` if the message says what happened, not what the user says.
            service_version_set_name: The version set of the service.
            tags: At most 20 names, each with a value of 1 to 100 characters or `None`.
            is_test: Test traffic: the service runs no analysis and no webhooks afterwards; tools still act.
            response_format: The format of the reply.
            current_agent_action_type: A regular expression. Only actions whose type matches it are sent as events; all
                by default, none with `^$`.
            timeout: Seconds for the whole stream; `None` for no limit.

        Returns:
            The stream of events: use it in `async with`, or `await stream.reply()`.

        Raises:
            InvalidArgumentError: an argument is invalid. All other errors are raised by the stream.
        """
        service = identifier("service_id", service_id)
        first = first_message(
            initial_message,
            message_type=initial_message_type,
            response_format=response_format,
            actions=current_agent_action_type,
        )
        options = _options(service_version_set_name, tags, is_test=is_test)
        bound = checks.timeout(timeout)

        async def prepare() -> Request:
            return self._api.create(service, first, options)

        turn = SentInteraction(Interaction(), first, service)
        return AmigoStream(self._api, self._locks, self._locks.new(), turn, prepare, timeout=bound)

    def interact(
        self,
        conversation_id: str,
        message: str | None = None,
        *,
        voice: Source | None = None,
        message_type: SentMessageType = "user-message",
        external_events: ExternalEvents = (),
        response_format: MessageFormat = "text",
        current_agent_action_type: str | None = None,
        timeout: Duration | None = None,
    ) -> AmigoStream:
        """Say something in a conversation, after the earlier turns.

        The service accepts one call at a time in a conversation: do not wait for this stream while you hold another.

        Args:
            conversation_id: The conversation.
            message: The text; not blank.
            voice: A recording in place of a text, as bytes, a path or an open file: MP3, or WAV with one channel,
                samples of 2 or 4 bytes, and 4,000 to 44,100 samples a second.
            message_type: `external-event` if the message says what happened, not what the user says.
            external_events: What happened before the message, oldest first: pairs of an aware `datetime` and a text.
            response_format: As for `create_conversation`.
            current_agent_action_type: As for `create_conversation`.
            timeout: As for `create_conversation`.

        Raises:
            InvalidArgumentError: an argument is invalid. All other errors, and those of a recording, are raised by
                the stream.
        """
        conversation = identifier("conversation_id", conversation_id)
        outgoing = next_message(
            message,
            voice=voice,
            message_type=message_type,
            events=external_events,
            response_format=response_format,
            actions=current_agent_action_type,
            now=self._api.latest_time(),
        )
        bound = checks.timeout(timeout)

        async def prepare() -> Request:
            return await self._api.interact(conversation, outgoing)

        turn, lock = SentInteraction(Interaction(conversation), outgoing), self._locks.of(conversation)
        return AmigoStream(self._api, self._locks, lock, turn, prepare, timeout=bound)

    async def finish(self, conversation_id: str) -> None:
        """Finish a conversation, after the earlier turns; the service then begins to analyse it.

        It waits up to the session's `idle_timeout` for a turn that may still be running at the service.

        Raises:
            ConflictError: it is already finished, or another of its calls is running at the service.
            BadRequestError: it has no interactions.
            OutcomeUnknownError: the request was sent, and its response was lost; you may repeat the call.
        """
        conversation = identifier("conversation_id", conversation_id)
        lock = self._locks.of(conversation)
        async with await lock.reserve():
            await finish(self._api, lock, conversation)

    def conversation(
        self,
        service_id: str,
        *,
        service_version_set_name: str = "release",
        tags: Mapping[str, str | None] | None = None,
        is_test: bool = False,
    ) -> AmigoConversation:
        """Return a new dialogue, which begins with its first prompt, or with `begin()` if the agent speaks first."""
        service = identifier("service_id", service_id)
        options = _options(service_version_set_name, tags, is_test=is_test)
        return AmigoConversation(self._api, self._locks, service_id=service, conversation_id=None, options=options)

    def resume(self, id: str) -> AmigoConversation:  # noqa: A002 - the name in `Dialogues`
        """Return a dialogue that began earlier, in this process or another."""
        conversation = identifier("id", id)
        return AmigoConversation(self._api, self._locks, service_id=None, conversation_id=conversation, options={})

    async def unfinished(self, service_id: str) -> AmigoConversation | None:
        """Return the user's unfinished conversation of a service, or `None`.

        While there is one, the service refuses a new one: continue this one, or `finish` it.
        """
        service = identifier("service_id", service_id)
        query = [("user_id", self._api.user_id), ("service_id", service), ("is_finished", "false")]
        page = await self._api.conversations([*query, ("sort_by", "-created_at"), ("limit", "1")])
        rows = [row for row in page.rows if row.id and row.is_finished is not True]
        if not rows:
            return None
        return AmigoConversation(self._api, self._locks, service_id=service, conversation_id=rows[0].id, options={})

    async def ask(
        self, service_id: str, prompt: str, *, timeout: Duration | None = checks.DEFAULT_TIMEOUT
    ) -> AmigoReply:
        """Ask once: create a conversation with a prompt, wait for the reply, finish the conversation.

        Calls for one service run one after another, since the service allows a user one unfinished conversation of it.
        Finishing delays the reply, or an error, by at most 5 s. A conversation that could not be finished by then is
        finished before the next one begins.

        Args:
            service_id: The service.
            prompt: The text; not blank.
            timeout: Seconds for the reply; `None` for no limit. Waiting for earlier prompts and finishing do not count.

        Raises:
            NairiError: as for `AmigoConversation.ask`.
        """
        conversation = self.conversation(service_id)
        bound = checks.timeout(timeout)
        return await self._one_shots.ask((self.user_id, service_id), conversation, checks.prompt(prompt), bound)

    def ask_many(
        self,
        service_id: str,
        prompts: Iterable[str] | AsyncIterable[str],
        *,
        timeout: Duration | None = checks.DEFAULT_TIMEOUT,
    ) -> AmigoAskMany:
        """Ask many prompts, each in a conversation of its own, and iterate over the outcomes.

        They are asked one after another, because the service allows a user one unfinished conversation of a service.

        Args:
            service_id: The service.
            prompts: The prompts; an iterable or async iterable.
            timeout: Seconds for each prompt; `None` for no limit.
        """
        service, bound = identifier("service_id", service_id), checks.timeout(timeout)
        return AmigoAskMany(prompts, lambda prompt: self.ask(service, prompt, timeout=bound))


class AmigoUser(ConversationMethods):
    """One user of an organisation, over the connections of a session. Made by `AmigoSession.as_user`.

    It is a small handle that needs no closing. It satisfies `nairi_async.dialogue.Dialogues`, as the session does.
    """

    def __init__(self, api: Api, locks: ConversationLocks, one_shots: OneShots) -> None:
        self._api = api
        self._locks = locks
        self._one_shots = one_shots

    def __repr__(self) -> str:
        return f"<AmigoUser {self.user_id}>"


def _options(version_set: object, tags: Mapping[str, str | None] | None, *, is_test: object) -> dict[str, Any]:
    """Return the options of a new conversation; defaults are left out."""
    options: dict[str, Any] = {}
    if text("service_version_set_name", version_set) != "release":
        options["service_version_set_name"] = version_set
    if tags:
        options["tags"] = checked_tags(tags)
    if checks.flag("is_test", is_test):
        options["is_test"] = True
    return options
