"""Signing in: an API key is exchanged for a token that expires.

https://docs.amigo.ai/developer-guide/getting-started/authentication
"""

from __future__ import annotations

import math
from collections import deque
from copy import copy
from typing import TYPE_CHECKING, Final

from nairi_async._core.address import path
from nairi_async._core.api_key import ApiKey, redacted
from nairi_async._core.loop_lock import LoopLock
from nairi_async._core.request import Request
from nairi_async.amigo.wire import decode_token
from nairi_async.errors import ConfigurationError, NairiError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from nairi_async._core.request import Send
    from nairi_async._core.server_clock import ServerClock
    from nairi_async.amigo.wire import Token
    from nairi_async.clock import Clock

# A token is renewed this many seconds, or this part of its lifetime, before it expires, whichever is less.
_MARGIN: Final = 60.0
_MARGIN_PART: Final = 0.2
# Seconds for which a token is new: a 401 then is not about the token.
_NEW: Final = 30.0
# Tokens that a response under way may repeat, so that errors are redacted of them too.
_REMEMBERED: Final = 4


class AmigoKey(ApiKey):
    """The key with its id, and the user to act as: the credentials of a sign-in."""

    __slots__ = ("_key_id", "_user_id")

    def __init__(self, value: object) -> None:
        super().__init__(value)
        self._key_id = self._user_id = ""

    def act_as(self, key_id: str, user_id: str) -> None:
        """Set the id of the key and the user that signs in with it; neither is secret."""
        self._key_id, self._user_id = key_id, user_id

    def headers(self) -> Mapping[str, str]:
        """Return the headers of a sign-in."""
        return {"x-api-key": str(self._value), "x-api-key-id": self._key_id, "x-user-id": self._user_id}


class Tokens:
    """The token that requests carry, renewed before it expires.

    There is one sign-in at a time and no background task: the first caller that needs a token signs in, and the others
    wait for it. If that caller is cancelled, the next one signs in. If the sign-in fails, it fails for all that waited,
    each with an error of its own.
    """

    def __init__(self, key: AmigoKey, organization_id: str, clock: Clock, server_clock: ServerClock) -> None:
        self._key = key
        self._clock = clock
        self._server_clock = server_clock
        self._path = path(organization_id, "user", "signin_with_api_key")
        self._signing_in = LoopLock()
        # The last is the current one; none of them is shown by its repr.
        self._tokens: deque[Token] = deque(maxlen=_REMEMBERED)
        self._version = 0
        self._renew_at = self._signed_in_at = -math.inf
        self._sign_ins = 0
        self._failure: NairiError | None = None

    @property
    def credential_version(self) -> int:
        """The number of tokens so far."""
        return self._version

    async def acquire(self, send: Send, /) -> None:
        """Sign in, unless the token is valid for a while.

        Raises:
            AuthenticationError, RateLimitedError, ServerError, NairiError: the sign-in failed, with its own status.
        """
        if self._clock.monotonic() < self._renew_at:
            return
        sign_ins_before = self._sign_ins
        async with self._signing_in:
            if self._clock.monotonic() < self._renew_at:
                return
            if self._failure is not None and self._sign_ins > sign_ins_before:
                raise copy(self._failure) from self._failure
            await self._sign_in(send)

    async def _sign_in(self, send: Send) -> None:
        request = Request(method="POST", path=self._path, credentials=self._key, bucket="sign_in", observe_date=True)
        try:
            token = await send(request, decode_token)
        except NairiError as error:
            # A copy, because the error itself holds frames.
            self._failure = copy(error)
            self._sign_ins += 1
            raise
        self._tokens.append(token)
        self._version += 1
        self._sign_ins += 1
        self._failure = None
        self._signed_in_at = self._clock.monotonic()
        self._renew_at = self._clock.monotonic() + _good_for(token.expires_at, self._server_time())

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
        return True

    def redact(self, text: str, /) -> str:
        """Return the text without the key and without tokens."""
        for token in self._tokens:
            text = redacted(text, token.value)
        return self._key.redact(text)

    def _server_time(self) -> float:
        """Return the Unix time at the service, late rather than early; by our own clock until a response showed it."""
        _, latest = self._server_clock.at(self._clock.monotonic())
        return latest if math.isfinite(latest) else self._clock.time()

    def __repr__(self) -> str:
        return f"<Tokens: {self._version} so far, not shown>"


def sendable(name: str, variable: str, value: object) -> str:
    """Check an id that goes into a header."""
    if value is None or value == "":
        raise ConfigurationError(f"no {name}: give {name}=, or set {variable}")
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or " " in value:
        raise ConfigurationError(f"{name} must be text without spaces, control and non-ASCII characters")
    return value


def _good_for(expires_at: datetime | None, now: float) -> float:
    """Return the seconds for which a token can be used: without a limit where its expiry is missing or past."""
    lifetime = expires_at.timestamp() - now if expires_at is not None else 0.0
    return lifetime - min(_MARGIN, lifetime * _MARGIN_PART) if lifetime > 0 else math.inf
