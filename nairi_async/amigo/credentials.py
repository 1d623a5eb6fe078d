"""Signing in: an API key is exchanged for a token of one user, which expires.

https://docs.amigo.ai/developer-guide/getting-started/authentication
"""

from __future__ import annotations

import logging
import math
import traceback
from collections import deque
from copy import copy
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeGuard
from weakref import WeakValueDictionary

from nairi_async._core.address import path
from nairi_async._core.api_key import ApiKey, redacted
from nairi_async._core.permits import LoopLock
from nairi_async._core.request import Request
from nairi_async.amigo.tokens import AmigoToken
from nairi_async.amigo.wire import decode_token, is_sendable_token
from nairi_async.errors import ConfigurationError, NairiError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator, Mapping

    from nairi_async._core.request import Send
    from nairi_async._core.server_clock import ServerClock
    from nairi_async.amigo.tokens import TokenStore
    from nairi_async.clock import Clock

# A token is renewed this many seconds, or this part of its lifetime, before it expires, whichever is less.
_MARGIN: Final = 60.0
_MARGIN_PART: Final = 0.2
# Seconds for which a token is new: a 401 then is not about the token.
_NEW: Final = 30.0
# Tokens of a user that a response under way may repeat, so that errors are redacted of them too.
_REMEMBERED: Final = 4
# Seconds for which a sign-in waits for the token store.
_STORE_TIMEOUT: Final = 10.0
# Users to remember before the first search for those whose tokens have expired.
_MANY_USERS: Final = 256
# As many characters of a token are worth hiding.
_TELLING: Final = 8

log: logging.Logger = logging.getLogger("nairi_async.amigo")


class AmigoKey(ApiKey):
    """The key with its id, and the user to act as: the credentials of a sign-in."""

    __slots__ = ("_key_id", "_user_id")

    def __init__(self, value: object) -> None:
        super().__init__(value)
        self._key_id = self._user_id = ""

    def set_id(self, key_id: str) -> None:
        """Set the id of the key, which is not secret."""
        self._key_id = key_id

    def acting_as(self, user_id: str) -> AmigoKey:
        """Return the same key for the sign-in of a user."""
        other = AmigoKey(self.value)
        other._key_id, other._user_id = self._key_id, user_id
        return other

    def headers(self) -> Mapping[str, str]:
        """Return the headers of a sign-in."""
        return {"x-api-key": str(self.value), "x-api-key-id": self._key_id, "x-user-id": self._user_id}


class SignIn:
    """Signs users in with one key: what the tokens of all users of a session share."""

    def __init__(
        self,
        key: AmigoKey,
        organization_id: str,
        clock: Clock,
        server_clock: ServerClock,
        store: TokenStore | None = None,
    ) -> None:
        self.clock = clock
        self._key = key
        self._store = store
        self._server_clock = server_clock
        self._path = path(organization_id, "user", "signin_with_api_key")
        self._users: WeakValueDictionary[str, Tokens] = WeakValueDictionary()
        # Those that must outlive the handles of their users: a sign-in is dear.
        self._kept: dict[str, Tokens] = {}
        self._most_kept = _MANY_USERS

    def tokens(self, user_id: str) -> Tokens:
        """Return the tokens of a user; they outlive the handles of the user, until they expire."""
        known = self._users.get(user_id)
        if known is None:
            known = self._users[user_id] = Tokens(self, user_id)
        self._kept[user_id] = known
        if len(self._kept) > self._most_kept:
            # Now and then, so that the visitors of a year do not pile up.
            self._kept = {user: tokens for user, tokens in self._kept.items() if tokens.are_in_use}
            self._most_kept = max(_MANY_USERS, 2 * len(self._kept))
        return known

    async def request(self, user_id: str, send: Send) -> AmigoToken:
        """Sign a user in. Sign-ins of all users are one queue, because their limit is the organisation's."""
        credentials = self._key.acting_as(user_id)
        request = Request(method="POST", path=self._path, credentials=credentials, bucket="sign_in", observe_date=True)
        return await send(request, decode_token)

    async def load(self, user_id: str) -> AmigoToken | None:
        """Return the token that the store has for a user."""
        if self._store is None:
            return None
        try:
            async with self.clock.timeout(_STORE_TIMEOUT):
                token = await self._store.load(user_id)
        except Exception as error:  # noqa: BLE001 - the user's own code must not keep the user from signing in
            log.warning("the token store failed to load a token: %s", _place_of(error))
            return None
        if token is None or _is_usable(token):
            return token
        log.warning(
            "the token store returned no usable AmigoToken, with a text and a time with a time zone, but %s",
            type(token).__name__,
        )
        return None

    async def save(self, user_id: str, token: AmigoToken) -> None:
        """Hand a token to the store."""
        if self._store is None:
            return
        try:
            async with self.clock.timeout(_STORE_TIMEOUT):
                await self._store.save(user_id, token)
        except Exception as error:  # noqa: BLE001 - the session has the token
            log.warning("the token store failed to save a token: %s", _place_of(error))

    def good_for(self, token: AmigoToken) -> float:
        """Return the seconds for which a token can be used; negative if it has expired."""
        _, latest = self._server_clock.at(self.clock.monotonic())
        # Late rather than early; by our own clock until a response has shown the service's.
        now = latest if math.isfinite(latest) else self.clock.time()
        return _good_for(token.expires_at, now)

    def redact(self, text: str) -> str:
        """Return the text without the key and without tokens."""
        end = text[-_TELLING:]
        for value in self._values():
            if value in text or end in value:
                text = redacted(text, value)
        return self._key.redact(text)

    def _values(self) -> Iterator[str]:
        for tokens in tuple(self._users.values()):
            yield from tokens.values()


class Tokens:
    """The token that requests of one user carry, renewed before it expires.

    There is one sign-in at a time and no background task: the first caller that needs a token signs in, and the others
    wait for it. If that caller is cancelled, the next one signs in. If the sign-in fails, it fails for all that waited,
    each with an error of its own.
    """

    def __init__(self, sign_in: SignIn, user_id: str) -> None:
        self._sign_in = sign_in
        self._user_id = user_id
        self._clock = sign_in.clock
        self._signing_in = LoopLock()
        # The last is the current one; none of them is shown by its repr.
        self._tokens: deque[AmigoToken] = deque(maxlen=_REMEMBERED)
        self._version = 0
        self._renew_at = self._signed_in_at = -math.inf
        self._sign_ins = 0
        self._failure: NairiError | None = None
        self._refused: str | None = None

    @property
    def credential_version(self) -> int:
        """The number of tokens so far."""
        return self._version

    @property
    def are_in_use(self) -> bool:
        """Whether there is a valid token, or a caller waits for one."""
        return self._signing_in.locked() or self._clock.monotonic() < self._renew_at

    def values(self) -> Iterator[str]:
        """Iterate over the tokens that a response may repeat."""
        for token in self._tokens:
            yield token.value

    def acquire(self, send: Send, /) -> Awaitable[None] | None:
        """Sign in, unless the token is valid for a while, or the store has one that is: then nothing is to be awaited.

        Raises:
            AuthenticationError, RateLimitedError, ServerError, NairiError: the sign-in failed, with its own status.
        """
        return None if self._clock.monotonic() < self._renew_at else self._acquire(send)

    async def _acquire(self, send: Send) -> None:
        sign_ins_before = self._sign_ins
        async with self._signing_in:
            if self._clock.monotonic() < self._renew_at:
                return
            if self._failure is not None and self._sign_ins > sign_ins_before:
                raise copy(self._failure) from self._failure
            if not await self._load():
                await self._renew(send)

    async def _load(self) -> bool:
        """Take the token of the store, unless it is the one that expires or was refused."""
        token = await self._sign_in.load(self._user_id)
        current = self._tokens[-1].value if self._tokens else None
        if token is None or token.value in {current, self._refused}:
            return False
        if (good_for := self._sign_in.good_for(token)) <= 0:
            return False
        self._take(token, good_for)
        return True

    async def _renew(self, send: Send) -> None:
        try:
            token = await self._sign_in.request(self._user_id, send)
        except NairiError as error:
            # A copy, because the error itself holds frames.
            self._failure = copy(error)
            self._sign_ins += 1
            raise
        self._sign_ins += 1
        self._signed_in_at = self._clock.monotonic()
        # A token that seems to have expired at once shows that a clock is wrong, so its expiry means nothing.
        good_for = self._sign_in.good_for(token)
        self._take(token, good_for if good_for > 0 else math.inf)
        await self._sign_in.save(self._user_id, token)

    def _take(self, token: AmigoToken, good_for: float) -> None:
        self._tokens.append(token)
        self._version += 1
        self._failure = None
        self._renew_at = self._clock.monotonic() + good_for

    def headers(self) -> Mapping[str, str]:
        """Return the headers that authorise a request."""
        return {"Authorization": f"Bearer {self._tokens[-1].value}"}

    def invalidate(self, credential_version: int, /) -> bool:
        """Discard the token that was refused, unless it has been replaced, or is new.

        An endpoint may refuse every token with a 401; the calls of all others would then wait for sign-ins.
        """
        if credential_version != self._version:
            return True
        if self._clock.monotonic() < self._signed_in_at + _NEW:
            return False
        self._renew_at = -math.inf
        self._refused = self._tokens[-1].value if self._tokens else None
        return True

    def redact(self, text: str, /) -> str:
        """Return the text without the key and without the tokens of all users of the session."""
        return self._sign_in.redact(text)

    def __repr__(self) -> str:
        return f"<Tokens: {self._version} so far, not shown>"


def sendable(name: str, variable: str, value: object) -> str:
    """Check an id that goes into a header."""
    if value is None or value == "":
        raise ConfigurationError(f"no {name}: give {name}=, or set {variable}")
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or " " in value:
        raise ConfigurationError(f"{name} must be text without spaces, control and non-ASCII characters")
    return value


def _is_usable(token: object) -> TypeGuard[AmigoToken]:
    """Return whether what a store has kept is a token, with fields of the right types."""
    if not isinstance(token, AmigoToken) or not is_sendable_token(token.value):
        return False
    expires_at: object = token.expires_at
    return expires_at is None or (isinstance(expires_at, datetime) and expires_at.utcoffset() is not None)


def _place_of(error: Exception) -> str:
    """Return the class of an error, and where it was raised; its text and its frames may have a token."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {place.name}, {place.filename}:{place.lineno}"


def _good_for(expires_at: datetime | None, now: float) -> float:
    """Return the seconds for which a token can be used: without a limit where its expiry is missing."""
    if expires_at is None:
        return math.inf
    lifetime = expires_at.timestamp() - now
    return lifetime - min(_MARGIN, lifetime * _MARGIN_PART)
