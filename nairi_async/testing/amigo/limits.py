"""The endpoints, their limits per minute, and how many requests were counted."""

from __future__ import annotations

import math
from email.utils import formatdate
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from attrs import define, field

from nairi_async.testing.json_bodies import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nairi_async.testing.amigo.quirks import AmigoQuirks

Endpoint: TypeAlias = Literal[
    "sign_in",
    "create",
    "interact",
    "finish",
    "conversations",
    "messages",
    "source",
    "tags",
    "recommend",
    "insights",
    "starters",
    "services",
    "users",
    "create_user",
    "update_user",
    "delete_user",
]
ENDPOINTS: tuple[Endpoint, ...] = get_args(Endpoint)

PER_MINUTE: Mapping[str, int] = {
    "sign_in": 5,
    "create": 5,
    "interact": 15,
    "finish": 5,
    "conversations": 15,
    "messages": 20,
    "source": 30,
    "tags": 50,
    "recommend": 20,
    "insights": 20,
    "starters": 10,
    "services": 50,
    "users": 60,
    "create_user": 50,
    "update_user": 50,
    "delete_user": 500,
}
"""The limits of https://api.amigo.ai/v1/openapi.json."""

_WINDOW = 60.0


@define
class _Window:
    started_at: float
    used: int = 0


@define
class Limits:
    """Counts requests in windows of a minute."""

    per_minute: dict[str, int] = field(factory=lambda: dict(PER_MINUTE))
    _windows: dict[tuple[str, str], _Window] = field(factory=dict)

    def take(self, endpoint: str, user: str, now: float, quirks: AmigoQuirks) -> dict[str, str]:
        """Count a request, and return the headers with the remaining quota; refuse it with 429 above the limit."""
        if quirks.limits == "none":
            return {}
        key = (endpoint, user if quirks.limits == "user" else "")
        window = self._windows.get(key)
        if window is None or now >= window.started_at + _WINDOW:
            window = self._windows[key] = _Window(now)
        limit = self.per_minute[endpoint]
        ends_at = window.started_at + _WINDOW
        headers = {
            "X-RateLimit-Limit": str(limit),
            "X-RateLimit-Remaining": str(max(0, limit - window.used - 1)),
            "X-RateLimit-Reset": str(math.ceil(ends_at + quirks.clock_skew)),
        }
        if window.used >= limit:
            if quirks.retry_after == "seconds":
                headers["Retry-After"] = str(math.ceil(ends_at - now))
            elif quirks.retry_after == "date":
                headers["Retry-After"] = formatdate(math.ceil(ends_at + quirks.clock_skew), usegmt=True)
            raise RefusedError(429, f"over {limit} requests a minute", headers)
        window.used += 1
        return headers
