"""What a session does, counted as it happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nairi_async._core.rate_limits import RateLimiter
    from nairi_async._core.statistics import RequestStats


class RequestCounters:
    """The running counts behind `RequestStats`."""

    __slots__ = ("bytes_received", "requests", "retries")

    def __init__(self) -> None:
        self.requests: int = 0
        self.retries: int = 0
        self.bytes_received: int = 0

    def stats(self, limiter: RateLimiter) -> RequestStats:
        """Return the counts as they are now, with those of the limiter."""
        from nairi_async._core.statistics import RequestStats  # noqa: PLC0415 - few programs ask for it

        return RequestStats(
            requests=self.requests,
            retries=self.retries,
            bytes_received=self.bytes_received,
            open_connections=limiter.in_use,
            free_connections=limiter.available,
            waiting_calls=limiter.waiting,
        )
