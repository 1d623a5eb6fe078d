"""What passes through the seam: a request on its way, and an answer. Nothing here knows aiohttp."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import define, field, frozen

MAX_BODY: Final = 64 * 1024 * 1024
"""Largest answer that is read, in bytes after decompression: far above a real timeline, far below a machine."""


@define(kw_only=True, eq=False)
class Request:
    """One request. It may be sent several times; only `handed_over` and the cached address change."""

    method: str
    """HTTP method."""
    path: str
    """Encoded path below the base URL; it stands in errors and logs."""
    query: str = field(default="", repr=False)
    """Encoded query, without the question mark."""
    body: bytes | None = field(default=None, repr=False)
    """JSON; prompts are the caller's business and are never shown."""
    repeatable: bool = True
    """Whether running it twice does no harm: false for what starts a turn."""
    max_body: int = MAX_BODY
    """Largest answer that is read, in bytes."""
    handed_over: bool = field(default=False, init=False)
    """Whether, at the last attempt, any of it was given to a connection: if not, it provably never ran."""
    address: Any = field(default=None, init=False, repr=False)
    """The seam's own form of the URL, kept so that a request polled for an hour is not parsed each time."""


@frozen
class Response:
    """A whole answer, whatever its status."""

    status: int
    """HTTP status."""
    headers: Mapping[str, str]
    """Headers, case-insensitive."""
    body: bytes
    """The body, decompressed."""

    @property
    def is_success(self) -> bool:
        """2xx: the service's success codes are not all documented, so the whole class counts."""
        return 200 <= self.status < 300  # noqa: PLR2004 - the class of codes that RFC 9110 calls successful
