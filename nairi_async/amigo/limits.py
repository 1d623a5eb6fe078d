"""How many requests a minute each endpoint accepts: https://docs.amigo.ai/operations/reference/rate-limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import asdict, fields

from nairi_async._core import checks
from nairi_async._core.records import frozen

if TYPE_CHECKING:
    from typing import Self


@frozen(kw_only=True)
class Limits:
    """Requests a minute to each endpoint, `None` for no limit; the defaults are the service's own.

    The limits are shared by an organisation: where several processes run, give each its share. Calls wait for their
    turn in order, and a call to one endpoint never waits for those to another. `Retry-After` and `X-RateLimit-*` of
    responses are respected as well.
    """

    sign_in: int | None = 5
    """Sign-ins."""
    create: int | None = 5
    """New conversations."""
    interact: int | None = 15
    """Messages."""
    finish: int | None = 5
    """Conversations finished."""
    conversations: int | None = 15
    """Pages of conversations."""
    messages: int | None = 20
    """Pages of messages."""
    source: int | None = 30
    """Message sources."""
    tags: int | None = 50
    """Changes of tags."""
    recommend: int | None = 20
    """Recommended responses."""
    insights: int | None = 20
    """Insights."""
    starters: int | None = 10
    """Conversation starters."""

    services: int | None = 50
    """Pages of services."""
    users: int | None = 60
    """Pages of users."""
    create_user: int | None = 50
    """New users."""
    update_user: int | None = 50
    """Changes of users."""
    delete_user: int | None = 500
    """Users deleted."""

    def __attrs_post_init__(self) -> None:
        for name, value in self.buckets().items():
            if value is not None:
                checks.whole(name, value)

    @classmethod
    def none(cls) -> Self:
        """Return limits that let every request leave at once, until a response asks to wait."""
        return cls(**{field.name: None for field in fields(cls)})

    def buckets(self) -> dict[str, int | None]:
        """Return the limits by endpoint."""
        return asdict(self)
