"""Conversions between the scales of time: the monotonic clock, Unix time by this machine, and Unix time by the service.

A machine's clock may be set at any moment, also between two processes. So what one process does is measured by the
monotonic clock, and what it leaves to a later one is dated by the service's clock as well, as far as that is known.
"""

from __future__ import annotations

import math

from nairi_async._core.records import frozen
from nairi_async._core.server_clock import ServerClock
from nairi_async.clock import Clock


def to_unix(clock: Clock, at: float) -> float:
    """Return the Unix time, by the machine's clock as it is set now, of a time of `monotonic`."""
    return clock.time() - clock.monotonic() + at


def to_monotonic(clock: Clock, unix: float) -> float:
    """Return the time of `monotonic` at which the machine's clock, as it is set now, shows a Unix time."""
    return unix - clock.time() + clock.monotonic()


@frozen
class Timestamps:
    """Unix times that stay true after the machine's clock is set, where a response has stated the service's time."""

    clock: Clock
    server_clock: ServerClock

    @property
    def are_certain(self) -> bool:
        """Whether a response has stated the service's time."""
        return math.isfinite(self.server_clock.at(0.0)[0])

    def earliest(self) -> float:
        """Return now by the service's clock or the machine's, whichever is behind."""
        now, (earliest, _) = self.clock.time(), self.server_clock.at(self.clock.monotonic())
        return min(now, earliest) if self.are_certain else now

    def latest(self) -> float:
        """Return now by the service's clock or the machine's, whichever is ahead."""
        now, (_, latest) = self.clock.time(), self.server_clock.at(self.clock.monotonic())
        return max(now, latest) if self.are_certain else now

    def latest_monotonic(self, unix: float) -> float:
        """Return the time of `monotonic` by which both clocks had shown a past Unix time; now where that is unknown."""
        now = self.clock.monotonic()
        if not self.are_certain:
            return now
        by_service = unix - self.server_clock.at(0.0)[0]
        return min(max(by_service, to_monotonic(self.clock, unix)), now)

    def seconds_since(self, unix: float) -> float:
        """Return the seconds that have passed since a Unix time by both clocks; 0 where the service's is unknown."""
        return self.clock.monotonic() - self.latest_monotonic(unix)
