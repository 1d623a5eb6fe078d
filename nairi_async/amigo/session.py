"""`AmigoSession`: conversations with Amigo's services (api/amigo.md)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from nairi_async._core import checks
from nairi_async._core.address import base_url as checked_base_url
from nairi_async._core.failures import error_class
from nairi_async._core.json_body import decode_error
from nairi_async._core.server_clock import ServerClock
from nairi_async._core.service import Service
from nairi_async._core.service_session import ServiceSession
from nairi_async.amigo.api import Api
from nairi_async.amigo.checks import identifier, text
from nairi_async.amigo.checks import tags as checked_tags
from nairi_async.amigo.conversation import AmigoConversation
from nairi_async.amigo.conversation_locks import ConversationLock, ConversationLocks
from nairi_async.amigo.credentials import AmigoKey, Tokens, sendable
from nairi_async.amigo.interaction import Interaction
from nairi_async.amigo.limits import Limits
from nairi_async.amigo.many import AmigoAskMany, OneShots
from nairi_async.amigo.outgoing_message import first_words, further_words
from nairi_async.amigo.recovery import LostInteraction
from nairi_async.amigo.resources import ResourceMethods
from nairi_async.amigo.stream import AmigoStream
from nairi_async.clock import SystemClock
from nairi_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping

    import aiohttp

    from nairi_async._core.request import Request
    from nairi_async._core.retry import RetryPolicy
    from nairi_async.amigo.checks import ExternalEvents
    from nairi_async.amigo.models import AmigoReply
    from nairi_async.amigo.outgoing_message import OutgoingMessage
    from nairi_async.clock import Clock
    from nairi_async.hooks import Hook
    from nairi_async.typing import Duration, Source

API_URL: Final = "https://api.amigo.ai"
"""The service, unless the organisation lives in another region (api: servers)."""
REGIONS: Final[Mapping[str, str]] = {
    "ap-southeast-2": "https://api-ap-southeast-2.amigo.ai",
    "ca-central-1": "https://api-ca-central-1.amigo.ai",
    "eu-central-1": "https://api-eu-central-1.amigo.ai",
}
"""The service in the other regions; an organisation lives in one (api: servers)."""
API_PREFIX: Final = "/v1"
"""The path of the API below the host."""
SILENCE: Final = 300.0
"""Seconds that the agent may be silent: replies take minutes, and the service sends no sign of life (api: framing)."""

SERVICE: Final = Service(
    key_variable="AMIGO_API_KEY",
    url_variable="AMIGO_BASE_URL",
    read_error=decode_error,
    error_class=error_class,
)
"""What the core has to know of the service."""


class AmigoSession(ResourceMethods, ServiceSession):
    """Conversations with Amigo's services, as one user, over one pool of connections.

    Use it with `async with`, on one event loop. All durations are seconds, as a number or a `timedelta`. It signs in by
    itself, when the first call needs it and before the token expires. Calls wait for their turn: one at a time in each
    conversation, and no more a minute to each endpoint than the service allows.

    Args:
        api_key: The secret of an API key; else the environment variable `AMIGO_API_KEY`.
        api_key_id: The key's id; else `AMIGO_API_KEY_ID`.
        user_id: The user to act as; else `AMIGO_USER_ID`.
        organization_id: The organisation; else `AMIGO_ORGANIZATION_ID`.
        base_url: Where the service is, with or without `/v1`; else `AMIGO_BASE_URL`, else the real one. Plain `http://`
            only for this machine.
        region: The organisation's region, one of `REGIONS`, in place of a URL.
        http: A ready `aiohttp.ClientSession` to use, for proxies, own TLS or tracing. It is left open.
        request_timeout: Bound on one request, body included, streams excepted; finishing a conversation has at least
            60 s, and what runs a model 120 s. Waiting for a turn does not count.
        silence: Seconds without anything from the service after which a stream has broken off.
        retry: When and how often a failed request is tried again; never one whose interaction may be running.
        max_connections: Requests and streams at once: a stream holds a connection until its end.
        limits: Requests a minute to each endpoint.
        hooks: Functions to call with a record of each request and retry; see `nairi_async.hooks`.
        clock: The time to live by; tests give `nairi_async.testing.VirtualClock`.

    Raises:
        ConfigurationError: something is missing, or cannot be used.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        api_key_id: str | None = None,
        user_id: str | None = None,
        organization_id: str | None = None,
        base_url: str | None = None,
        region: str | None = None,
        http: aiohttp.ClientSession | None = None,
        request_timeout: Duration = 30.0,
        idle_timeout: Duration = SILENCE,
        retry: RetryPolicy | None = None,
        max_connections: int = 100,
        limits: Limits | None = None,
        hooks: Iterable[Hook] = (),
        clock: Clock | None = None,
    ) -> None:
        # The name is let go of first: a traceback that shows local variables must not show the key.
        key, api_key = AmigoKey(os.environ.get("AMIGO_API_KEY") if api_key is None else api_key), None
        key.check("no API key: give api_key=, or set AMIGO_API_KEY")
        user = _setting("user_id", user_id)
        key.act_as(_setting("api_key_id", api_key_id), user)
        organization = _setting("organization_id", organization_id)
        if limits is not None and not isinstance(limits, Limits):
            raise ConfigurationError(f"limits is a Limits, not {type(limits).__name__}")
        idle_timeout = checks.seconds(idle_timeout)
        checks.positive("idle_timeout", idle_timeout)
        clock, server_clock = clock or SystemClock(), ServerClock()
        super().__init__(
            SERVICE,
            checked_base_url(_address(base_url, region), prefix=API_PREFIX),
            Tokens(key, organization, clock, server_clock),
            http=http,
            request_timeout=request_timeout,
            retry=retry,
            max_connections=max_connections,
            clock=clock,
            server_clock=server_clock,
            buckets=(limits or Limits()).buckets(),
            hooks=hooks,
        )
        self._api = Api(self._executor, organization, user, idle_timeout=idle_timeout)
        self._orders = ConversationLocks()
        self._one_shots = OneShots(self._executor.clock)

    def create_conversation(
        self,
        service_id: str,
        initial_message: str | None = None,
        *,
        initial_message_type: str = "user-message",
        service_version_set_name: str = "release",
        tags: Mapping[str, str | None] | None = None,
        is_test: bool = False,
        response_format: str = "text",
        current_agent_action_type: str | None = None,
        timeout: Duration | None = None,
    ) -> AmigoStream:
        """Begin a conversation (api: create a conversation).

        Without an `initial_message` the agent speaks first. The service allows a user one unfinished conversation of a
        service and answers 400 otherwise: see `unfinished`.

        Args:
            service_id: The service.
            initial_message: What the user says first, or what happened; not blank.
            initial_message_type: `user-message`, or `external-event` for something that happened.
            service_version_set_name: The version set to talk to.
            tags: At most 20 names, each with a value of 1 to 100 characters or `None`.
            is_test: Test traffic: no analysis and no webhooks afterwards; tools still act.
            response_format: `text` or `voice`.
            current_agent_action_type: Which actions to tell of: a regular expression on their type, such as `^$` for
                none; all unless given.
            timeout: Seconds for the whole stream; none unless given.

        Returns:
            The stream of events: use it in `async with`, or `await stream.reply()`.

        Raises:
            InvalidArgumentError: before any request. All else is raised by the stream.
        """
        service = identifier("service_id", service_id)
        saying = first_words(
            initial_message,
            message_type=initial_message_type,
            response_format=response_format,
            actions=current_agent_action_type,
        )
        options = _options(service_version_set_name, tags, is_test=is_test)

        async def prepare() -> Request:
            return self._api.create(service, saying, options)

        order = self._orders.new()
        return self._stream(saying, prepare, order, LostInteraction(Interaction(), saying, service), timeout)

    def interact(
        self,
        conversation_id: str,
        message: str | None = None,
        *,
        voice: Source | None = None,
        message_type: str = "user-message",
        external_events: ExternalEvents = (),
        response_format: str = "text",
        current_agent_action_type: str | None = None,
        timeout: Duration | None = None,
    ) -> AmigoStream:
        """Say something in a conversation, when its turn has come (api: interact).

        Do not wait for it while you hold another stream of the same conversation: the service takes one at a time.

        Args:
            conversation_id: The conversation.
            message: What to say; not blank.
            voice: A recording in its place, as bytes, a path or an open file: MP3, or WAV with one channel, samples of
                2 or 4 bytes, 4,000 to 44,100 a second.
            message_type: `user-message`, or `external-event` for something that happened.
            external_events: What happened before it, oldest first: pairs of an aware `datetime` in the past and a text.
            response_format: As for `create_conversation`, like what follows.
            current_agent_action_type: Which actions to tell of.
            timeout: Seconds for the whole stream.

        Raises:
            InvalidArgumentError: before any request. All else, and what is wrong with a recording, is raised by the
                stream.
        """
        conversation = identifier("conversation_id", conversation_id)
        saying = further_words(
            message,
            voice=voice,
            message_type=message_type,
            events=external_events,
            response_format=response_format,
            actions=current_agent_action_type,
            now=self._executor.clock.time(),
        )

        async def prepare() -> Request:
            return await self._api.interact(conversation, saying, is_patient=False)

        order = self._orders.of(conversation)
        return self._stream(saying, prepare, order, LostInteraction(Interaction(conversation), saying), timeout)

    async def finish(self, conversation_id: str) -> None:
        """End a conversation, after the calls before; its analysis then begins (api: finish).

        Raises:
            ConflictError: it is finished already, or another process talks in it.
            BadRequestError: it has no interactions.
            OutcomeUnknownError: the request left, and its answer did not come back; it may be repeated.
        """
        conversation = identifier("conversation_id", conversation_id)
        async with self._orders.of(conversation):
            await self._api.finish(conversation)

    def conversation(
        self,
        service_id: str,
        *,
        service_version_set_name: str = "release",
        tags: Mapping[str, str | None] | None = None,
        is_test: bool = False,
    ) -> AmigoConversation:
        """A new dialogue; it begins with its first prompt, or with `begin()` where the agent speaks first."""
        service = identifier("service_id", service_id)
        options = _options(service_version_set_name, tags, is_test=is_test)
        return AmigoConversation(self._api, self._orders, service_id=service, conversation_id=None, options=options)

    def resume(self, id: str) -> AmigoConversation:  # noqa: A002 - the word that `Dialogues` uses
        """A dialogue that began earlier, in this process or another."""
        conversation = identifier("id", id)
        return AmigoConversation(self._api, self._orders, service_id=None, conversation_id=conversation, options={})

    async def unfinished(self, service_id: str) -> AmigoConversation | None:
        """The user's unfinished conversation of a service, which stands in the way of a new one, if there is one.

        Go on with it, or `finish` it.
        """
        service = identifier("service_id", service_id)
        query = [("user_id", self._api.user_id), ("service_id", service), ("is_finished", "false")]
        page = await self._api.conversations([*query, ("sort_by", "-created_at"), ("limit", "1")])
        open_ones = [row for row in page.rows if row.id and row.is_finished is not True]
        if not open_ones:
            return None
        return AmigoConversation(
            self._api, self._orders, service_id=service, conversation_id=open_ones[0].id, options={}
        )

    async def ask(self, service_id: str, prompt: str, *, timeout: Duration | None = None) -> AmigoReply:
        """Ask once: begin a conversation with a prompt, take the reply, finish it.

        Calls for one service run one after another, since the service allows a user one unfinished conversation of it.
        Finishing keeps neither the reply nor an error back for more than 5 s: what could not be finished by then is
        finished before the next one begins, and stays unfinished where there is none.

        Args:
            service_id: The service.
            prompt: What to say; not blank.
            timeout: Seconds for the reply; none unless given. Waiting for earlier prompts and finishing do not count.

        Raises:
            NairiError: as for `AmigoConversation.ask`.
        """
        conversation = self.conversation(service_id)
        bound = checks.timeout(timeout)
        return await self._one_shots.ask(service_id, conversation, checks.prompt(prompt), bound)

    def ask_many(
        self, service_id: str, prompts: Iterable[str] | AsyncIterable[str], *, timeout: Duration | None = None
    ) -> AmigoAskMany:
        """Ask many prompts, each in a conversation of its own, and iterate over the outcomes.

        One after another: the service allows a user one unfinished conversation of a service. For more at once, use a
        session for each of several users.

        Args:
            service_id: The service.
            prompts: The prompts; an iterable or async iterable.
            timeout: Seconds for each prompt; none unless given.
        """
        service, bound = identifier("service_id", service_id), checks.timeout(timeout)
        return AmigoAskMany(prompts, lambda prompt: self.ask(service, prompt, timeout=bound))

    def _stream(
        self,
        saying: OutgoingMessage,
        prepare: Callable[[], Awaitable[Request]],
        order: ConversationLock,
        sought: LostInteraction,
        timeout: Duration | None,
    ) -> AmigoStream:
        bound = checks.timeout(timeout)
        return AmigoStream(self._api, saying, prepare, order, sought=sought, timeout=bound, note=self._orders.note)


def _setting(name: str, given: str | None) -> str:
    """An argument, or the environment variable that stands in for it; it goes into headers and paths."""
    variable = f"AMIGO_{name.upper()}"
    return sendable(name, variable, os.environ.get(variable) if given is None else given)


def _address(base_url: str | None, region: str | None) -> str:
    if region is None:
        return base_url if base_url is not None else os.environ.get("AMIGO_BASE_URL") or API_URL
    if base_url is not None:
        raise ConfigurationError("either base_url or region is needed, and not both")
    if region not in REGIONS:
        raise ConfigurationError(f"region {region!r} is none of {', '.join(REGIONS)}")
    return REGIONS[region]


def _options(version_set: object, tags: Mapping[str, str | None] | None, *, is_test: object) -> dict[str, Any]:
    """What a new conversation is begun with besides its first words; defaults are left out."""
    options: dict[str, Any] = {}
    if text("service_version_set_name", version_set) != "release":
        options["service_version_set_name"] = version_set
    if tags:
        options["tags"] = checked_tags(tags)
    if checks.flag("is_test", is_test):
        options["is_test"] = True
    return options
