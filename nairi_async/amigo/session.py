"""`AmigoSession`: conversations with Amigo's services."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from nairi_async._core import checks
from nairi_async._core.address import base_url as checked_base_url
from nairi_async._core.failures import error_class
from nairi_async._core.proxies import ProxySetting
from nairi_async._core.server_clock import ServerClock
from nairi_async._core.service import Service
from nairi_async._core.service_session import ServiceSession
from nairi_async.amigo import wire
from nairi_async.amigo.api import Api
from nairi_async.amigo.checks import identifier, text
from nairi_async.amigo.checks import tags as checked_tags
from nairi_async.amigo.conversation import AmigoConversation
from nairi_async.amigo.conversation_locks import ConversationLocks
from nairi_async.amigo.credentials import AmigoKey, Tokens, sendable
from nairi_async.amigo.finishing import finish
from nairi_async.amigo.interaction import Interaction
from nairi_async.amigo.limits import Limits
from nairi_async.amigo.many import AmigoAskMany, OneShots
from nairi_async.amigo.outgoing_message import first_message, next_message
from nairi_async.amigo.resources import ResourceMethods
from nairi_async.amigo.sent_interaction import SentInteraction
from nairi_async.amigo.stream import AmigoStream
from nairi_async.clock import SystemClock
from nairi_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable, Mapping

    import aiohttp

    from nairi_async._core.request import Request
    from nairi_async._core.retry import RetryPolicy
    from nairi_async.amigo.checks import ExternalEvents
    from nairi_async.amigo.models import AmigoReply
    from nairi_async.clock import Clock
    from nairi_async.hooks import Hook
    from nairi_async.typing import Duration, MessageFormat, SentMessageType, Source, Tls

API_URL: Final = "https://api.amigo.ai"
"""The service, unless the organisation lives in another region."""
REGIONS: Final[Mapping[str, str]] = {
    "ap-southeast-2": "https://api-ap-southeast-2.amigo.ai",
    "ca-central-1": "https://api-ca-central-1.amigo.ai",
    "eu-central-1": "https://api-eu-central-1.amigo.ai",
}
"""The service in the other regions: https://docs.amigo.ai/getting-started/regions-and-endpoints."""
API_PREFIX: Final = "/v1"
"""The path of the API below the host."""
IDLE_TIMEOUT: Final = 300.0
"""Seconds without an event after which a stream counts as broken: the service documents no heartbeat."""

SERVICE: Final = Service(
    key_variable="AMIGO_API_KEY",
    url_variable="AMIGO_BASE_URL",
    read_error=wire.decode_error,
    error_class=error_class,
    routes=(
        "/{organization_id}/user/signin_with_api_key",
        "/{organization_id}/conversation/",
        "/{organization_id}/conversation/{conversation_id}/interact",
        "/{organization_id}/conversation/{conversation_id}/finish/",
        "/{organization_id}/conversation/{conversation_id}/messages/",
        "/{organization_id}/conversation/{conversation_id}/messages/{message_id}/source",
        "/{organization_id}/conversation/{conversation_id}/interaction/{interaction_id}/insights",
        "/{organization_id}/conversation/{conversation_id}/interaction/{interaction_id}/recommend_responses",
        "/{organization_id}/conversation/{conversation_id}/tags/",
    ),
)
"""What the neutral core has to know about Amigo."""


class AmigoSession(ResourceMethods, ServiceSession):
    """Conversations with Amigo's services, as one user, over one pool of connections.

    Use it with `async with`, on one event loop. All durations are seconds, as a number or a `timedelta`. The session
    signs in when the first call needs a token, and again before the token expires. Calls are queued: each
    conversation has one call at a time, and each endpoint no more calls per minute than the service allows.

    Args:
        api_key: The secret of an API key; else the environment variable `AMIGO_API_KEY`.
        api_key_id: The key's id; else `AMIGO_API_KEY_ID`.
        user_id: The user to act as; else `AMIGO_USER_ID`.
        organization_id: The organisation; else `AMIGO_ORGANIZATION_ID`.
        base_url: Address of the service, with or without `/v1`; else `AMIGO_BASE_URL`, else `API_URL`. Plain `http://`
            only for loopback hosts.
        region: The organisation's region, one of `REGIONS`, in place of `base_url`.
        http: An open `aiohttp.ClientSession` to use, with its own proxy, TLS and tracing. It is left open.
        proxy: URL of a proxy, `http://` or `https://`, with user name and password if it asks for them.
        ssl: The path of a file of certificates, to trust those authorities and no others; or an `ssl.SSLContext`, for
            example to present a certificate of your own. By default the system's authorities are trusted, or those
            that `SSL_CERT_FILE` named when the program started.
        trust_env: Take the proxy from `HTTPS_PROXY` and `NO_PROXY`, and the authorities from `SSL_CERT_FILE`, as they
            are now. A `~/.netrc` is never read.
        request_timeout: Seconds for one request, its body included. Finishing a conversation has at least 60 s, and
            calls that run a model at least 120 s. Streams have `idle_timeout`. Waiting in a queue does not count.
        idle_timeout: Seconds without data after which a stream counts as broken.
        retry: When and how often a failed request is repeated; never one whose interaction may be running.
        max_connections: Maximum number of requests and streams at once. A stream holds a connection until its end.
        limits: Maximum number of requests per minute to each endpoint.
        hooks: Functions that the session calls with a record of each request and retry; see `nairi_async.hooks`.
        clock: The clock of the session; for tests `nairi_async.testing.VirtualClock`.

    Raises:
        ConfigurationError: a setting is missing or invalid.
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
        proxy: str | None = None,
        ssl: Tls | None = None,
        trust_env: bool = False,
        request_timeout: Duration = 30.0,
        idle_timeout: Duration = IDLE_TIMEOUT,
        retry: RetryPolicy | None = None,
        max_connections: int = 100,
        limits: Limits | None = None,
        hooks: Iterable[Hook] = (),
        clock: Clock | None = None,
    ) -> None:
        # The name is cleared first, because a traceback may show local variables.
        secret_proxy, proxy = ProxySetting(proxy), None
        key, api_key = AmigoKey(os.environ.get("AMIGO_API_KEY") if api_key is None else api_key), None
        key.check("no API key: give api_key=, or set AMIGO_API_KEY")
        user = _setting("user_id", user_id)
        key.act_as(_setting("api_key_id", api_key_id), user)
        organization = _setting("organization_id", organization_id)
        if limits is not None and not isinstance(limits, Limits):
            raise ConfigurationError(f"limits must be a Limits, not {type(limits).__name__}")
        idle_timeout = checks.seconds(idle_timeout)
        checks.positive("idle_timeout", idle_timeout)
        clock, server_clock = clock or SystemClock(), ServerClock()
        super().__init__(
            SERVICE,
            checked_base_url(_address(base_url, region), prefix=API_PREFIX),
            Tokens(key, organization, clock, server_clock),
            http=http,
            proxy=secret_proxy,
            ssl=ssl,
            trust_env=trust_env,
            request_timeout=request_timeout,
            retry=retry,
            max_connections=max_connections,
            clock=clock,
            server_clock=server_clock,
            buckets=(limits or Limits()).buckets(),
            hooks=hooks,
        )
        self._api = Api(self._executor, organization, user, idle_timeout=idle_timeout)
        self._locks = ConversationLocks()
        self._one_shots = OneShots(self._executor.clock)

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
        return await self._one_shots.ask(service_id, conversation, checks.prompt(prompt), bound)

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

    async def aclose(self) -> None:
        """Close streams and connections. Harmless when repeated.

        Calls that wait for a stream end: they raise `OutcomeUnknownError` if their message was sent, and otherwise
        `SessionClosedError`.
        """
        self._api.close()
        await super().aclose()


def _setting(name: str, given: str | None) -> str:
    """Return an argument, or else its environment variable, checked for headers and paths."""
    variable = f"AMIGO_{name.upper()}"
    return sendable(name, variable, os.environ.get(variable) if given is None else given)


def _address(base_url: str | None, region: str | None) -> str:
    if region is None:
        return base_url if base_url is not None else os.environ.get("AMIGO_BASE_URL") or API_URL
    if base_url is not None:
        raise ConfigurationError("give either base_url or region, and not both")
    if region not in REGIONS:
        raise ConfigurationError(f"region must be one of {', '.join(REGIONS)}, got {region!r}")
    return REGIONS[region]


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
