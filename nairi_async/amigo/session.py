"""`AmigoSession`: conversations with Amigo's services."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from nairi_async._core import checks
from nairi_async._core.address import base_url as checked_base_url
from nairi_async._core.concealed import Concealed
from nairi_async._core.failures import error_class
from nairi_async._core.proxies import ProxySetting
from nairi_async._core.server_clock import ServerClock
from nairi_async._core.service import Service
from nairi_async._core.service_session import ServiceSession
from nairi_async.amigo import wire
from nairi_async.amigo.api import Api
from nairi_async.amigo.checks import MAX_AGE, user_identifier
from nairi_async.amigo.conversation_locks import ConversationLocks
from nairi_async.amigo.credentials import AmigoKey, SignIn, sendable
from nairi_async.amigo.limits import Limits
from nairi_async.amigo.many import OneShots
from nairi_async.amigo.user import AmigoUser, ConversationMethods
from nairi_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import aiohttp

    from nairi_async._core.retry import RetryPolicy
    from nairi_async.amigo.tokens import TokenStore
    from nairi_async.amigo.webhooks import Webhooks
    from nairi_async.clock import Clock
    from nairi_async.hooks import Hook
    from nairi_async.typing import Duration, Tls

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
        "/{organization_id}/conversation/conversation_starter",
        "/{organization_id}/service/",
        "/{organization_id}/user/",
        "/{organization_id}/user/{user_id}",
    ),
)
"""What the neutral core has to know about Amigo."""


class AmigoSession(ConversationMethods, ServiceSession):
    """Conversations with Amigo's services over one pool of connections, as one user, and as others by `as_user`.

    Use it with `async with`, on one event loop. All durations are seconds, as a number or a `timedelta`. The session
    signs in when the first call needs a token, and again before the token expires. Calls are queued: each
    conversation has one call at a time, and each endpoint no more calls per minute than the service allows.

    Args:
        api_key: The secret of an API key; else the environment variable `AMIGO_API_KEY`.
        api_key_id: The key's id; else `AMIGO_API_KEY_ID`.
        user_id: The user to act as; else `AMIGO_USER_ID`. See `as_user` for further users.
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
        max_connections: Maximum number of streams at once, each of which holds a connection until its end; and of other
            requests, which have connections of their own. Of a lent pool, other requests have a quarter.
        limits: Maximum number of requests per minute to each endpoint.
        tokens: Where tokens are kept over a restart; see `TokenStore`.
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
        tokens: TokenStore | None = None,
        hooks: Iterable[Hook] = (),
        clock: Clock | None = None,
    ) -> None:
        # The names are cleared first, because a traceback may show local variables.
        secret_proxy, proxy = ProxySetting(proxy), None
        url, base_url = None if base_url is None else Concealed(base_url), None
        key, api_key = AmigoKey(os.environ.get("AMIGO_API_KEY") if api_key is None else api_key), None
        key.check("no API key: give api_key=, or set AMIGO_API_KEY")
        user = _setting("user_id", user_id)
        key.set_id(_setting("api_key_id", api_key_id))
        organization = _setting("organization_id", organization_id)
        if limits is not None:
            checks.instance("limits", limits, Limits)
        idle_timeout = checks.seconds(idle_timeout)
        checks.positive("idle_timeout", idle_timeout)
        if tokens is not None:
            checks.part("tokens", tokens, "TokenStore", "load", "save")
        clock, server_clock = checks.clock(clock), ServerClock()
        self._sign_in = SignIn(key, organization, clock, server_clock, tokens)
        tokens_of_user = self._sign_in.tokens(user)
        super().__init__(
            SERVICE,
            checked_base_url(_address(url, region), prefix=API_PREFIX),
            tokens_of_user,
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
            stream_buckets=("create", "interact"),
            hooks=hooks,
        )
        self._api = Api(self._executor, organization, user, tokens_of_user, idle_timeout=idle_timeout)
        self._closing.on_closed_by_owner = self._api.close
        self._locks = ConversationLocks()
        self._one_shots = OneShots(self._executor.clock)

    def as_user(self, user_id: str) -> AmigoUser:
        """Return a handle for another user of the organisation, such as a visitor of a website.

        It has the methods of the session, and shares its connections, its limits and its queue of sign-ins; it costs a
        few objects. The user signs in when the first call needs it, with the session's key, whose role must be less
        restricted than the user's. Tokens outlive the handle: call this again for each visit.

        Args:
            user_id: The user; see `create_user` and `users`.

        Raises:
            InvalidArgumentError: the id cannot be sent.
        """
        user = user_identifier("user_id", user_id)
        return AmigoUser(self._api.as_user(user, self._sign_in.tokens(user)), self._locks, self._one_shots)

    def webhooks(self, secret: str | Iterable[str], *, max_age: Duration = MAX_AGE) -> Webhooks:
        """Return what verifies and reads the webhooks of a destination, by the session's clock; see `Webhooks`.

        Args:
            secret: The secret of the destination; or several, while one takes the place of another.
            max_age: Seconds after which a delivery is refused.
        """
        from nairi_async.amigo.webhooks import Webhooks  # noqa: PLC0415 - what sends seldom receives them

        # The local name is cleared first, as in the constructor.
        given, secret = [secret], ""
        return Webhooks(given.pop(), max_age=max_age, clock=self._executor.clock)

    async def aclose(self) -> None:
        """Close streams and connections. Harmless when repeated.

        Calls that wait for a stream end: they raise `OutcomeUnknownError` if their message was sent, and otherwise
        `SessionClosedError`.

        Raises:
            SessionClosedError: called in another event loop, while the session's own runs: nothing was closed.
        """
        self._check_loop()
        self._api.close()
        await super().aclose()


def _setting(name: str, given: str | None) -> str:
    """Return an argument, or else its environment variable, checked for headers and paths."""
    variable = f"AMIGO_{name.upper()}"
    return sendable(name, variable, os.environ.get(variable) if given is None else given)


def _address(base_url: Concealed | None, region: str | None) -> Concealed:
    if region is None:
        return base_url if base_url is not None else Concealed(os.environ.get("AMIGO_BASE_URL") or API_URL)
    if base_url is not None:
        raise ConfigurationError("give either base_url or region, and not both")
    if not isinstance(region, str) or region not in REGIONS:
        raise ConfigurationError(f"region must be one of {', '.join(REGIONS)}, got {region!r}")
    return Concealed(REGIONS[region])
