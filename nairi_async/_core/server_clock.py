"""The time of the service's clock, estimated from `Date` headers, which have whole seconds: pure arithmetic."""

from __future__ import annotations

import math
from typing import Final

# Seconds after which the bounds are estimated anew, so that they follow a drift of either clock.
_PERIOD: Final = 600.0


class ServerClock:
    """Bounds of the difference between the service's clock and the session's.

    One response gives the difference to a second. Several, at different fractions of a second, narrow it down.
    """

    __slots__ = ("_agreeing", "_earlier", "_highest", "_lowest", "_outlier", "_since", "contradictions")

    def __init__(self) -> None:
        self._since = -math.inf
        self._highest, self._lowest = -math.inf, math.inf
        self._earlier = (-math.inf, math.inf)
        self._outlier: float | None = None
        self._agreeing = 0
        self.contradictions: int = 0
        """Responses whose time contradicts that of earlier ones."""

    def observe(self, date: float | None, received_at: float) -> None:
        """Learn from a response: its `Date` in Unix time, and when it came, by the session's monotonic clock."""
        if date is None:
            return
        if received_at - self._since > _PERIOD:
            self._earlier = (self._highest, self._lowest)
            self._highest, self._lowest, self._since = -math.inf, math.inf, received_at
        difference = date - received_at
        highest, lowest = max(self._highest, difference), min(self._lowest, difference)
        if max(highest, self._earlier[0]) <= min(lowest, self._earlier[1]) + 1.0:
            self._highest, self._lowest, self._outlier = highest, lowest, None
            self._agreeing += 1
            return
        self.contradictions += 1
        is_confirmed = self._outlier is not None and abs(difference - self._outlier) <= 1.0
        if not is_confirmed and self._agreeing > 1:
            # A single response may come from a server whose clock is wrong.
            self._outlier = difference
            return
        # One of the clocks was set, or the first response was wrong: only later ones count.
        other = self._outlier if is_confirmed and self._outlier is not None else difference
        self._highest, self._lowest = max(difference, other), min(difference, other)
        self._earlier, self._outlier, self._agreeing = (-math.inf, math.inf), None, 1

    def at(self, at: float) -> tuple[float, float]:
        """Return the earliest and latest Unix time that the service's clock may have shown at a monotonic time.

        Both are infinite as long as no response showed its time.
        """
        earliest = max(self._highest, self._earlier[0])
        latest = min(self._lowest, self._earlier[1]) + 1.0
        return at + earliest, at + latest
