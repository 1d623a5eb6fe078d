"""The token of a sign-in, and where tokens can be kept so that a restart needs no new ones."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from attrs import field

from nairi_async._core.records import frozen


@frozen
class AmigoToken:
    """What a sign-in gives: it authorises requests as one user. Keep it as you keep a password."""

    value: str = field(repr=False)
    """The token. No repr and no error shows it."""
    expires_at: datetime | None = None
    """When it expires, by the service's clock, with a time zone; `None` if the service did not say."""


class TokenStore(Protocol):
    """Keeps tokens over a restart. The service allows 5 sign-ins a minute, so 200 users take 40 minutes without one.

    Give it as `AmigoSession(tokens=…)`. The session asks it before each sign-in, and hands it each new token. Several
    processes may share one. Keep the tokens of each organisation apart. A store that fails, or takes longer than 10 s,
    is logged and costs a sign-in.
    """

    async def load(self, user_id: str, /) -> AmigoToken | None:
        """Return the token that was saved last for a user, expired or not; `None` if there is none."""
        ...

    async def save(self, user_id: str, token: AmigoToken, /) -> None:
        """Keep the token of a user, in place of the one before."""
        ...
