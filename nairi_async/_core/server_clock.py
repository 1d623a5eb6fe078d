"""The time of the service's clock, estimated from `Date` headers, which have whole seconds: pure arithmetic."""

from __future__ import annotations

import math
from typing import Final

# Seconds after which the bounds are estimated anew, so that they follow a drift of either clock.
_PERIOD: Final = 600.0
# Seconds of rounding by which bounds that agree may differ.
_ROUNDING: Final = 1e-3


class ServerClock:
    """Bounds of the difference between the service's clock and the session's.

    A response is dated while its request is under way, however long it then takes to be received: by a slow network, or
    by a process that is busy. It bounds the difference from both sides, to a second and that time. Several responses,
    at different fractions of a second, narrow it down.
    """

    __slots__ = ("_agreeing", "_earlier", "_highest", "_lowest", "_outlier", "_since", "contradictions")

    def __init__(self) -> None:
        self._since = -math.inf
        self._lowest, self._highest = -math.inf, math.inf
        self._earlier = (-math.inf, math.inf)
        self._outlier: tuple[float, float] | None = None
        self._agreeing = 0
        self.contradictions: int = 0
        """Responses whose time contradicts that of earlier ones."""

    def observe(self, date: float | None, sent_at: float, received_at: float) -> None:
        """Learn from a response.

        Args:
            date: Its `Date`, in Unix time.
            sent_at: A time before its request left, by the session's monotonic clock.
            received_at: When it was received.
        """
        if date is None:
            return
        if received_at - self._since > _PERIOD:
            self._earlier = (self._lowest, self._highest)
            self._lowest, self._highest, self._since = -math.inf, math.inf, received_at
        low, high = date - received_at, date + 1.0 - sent_at
        lowest, highest = max(self._lowest, low), min(self._highest, high)
        if max(lowest, self._earlier[0]) <= min(highest, self._earlier[1]) + _ROUNDING:
            self._lowest, self._highest, self._outlier = lowest, highest, None
            self._agreeing += 1
            return
        self.contradictions += 1
        other = self._outlier
        is_confirmed = other is not None and max(low, other[0]) <= min(high, other[1]) + _ROUNDING
        if not is_confirmed and self._agreeing > 1:
            # A single response may come from a server whose clock is wrong.
            self._outlier = low, high
            return
        # One of the clocks was set, or the first response was wrong: only later ones count.
        if is_confirmed and other is not None:
            low, high = max(low, other[0]), min(high, other[1])
        self._lowest, self._highest = low, high
        self._earlier, self._outlier, self._agreeing = (-math.inf, math.inf), None, 1

    def at(self, at: float) -> tuple[float, float]:
        """Return the earliest and latest Unix time that the service's clock may have shown at a monotonic time.

        Both are infinite as long as no response showed its time.
        """
        return at + max(self._lowest, self._earlier[0]), at + min(self._highest, self._earlier[1])
