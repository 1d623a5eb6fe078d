"""What time it is at the service, from the whole seconds of its `Date` headers: pure arithmetic."""

from __future__ import annotations

import math
from typing import Final

# Seconds after which bounds are learnt anew, so that a drift of either clock is followed.
_PERIOD: Final = 600.0


class ServerClock:
    """Bounds of the difference between the service's clock and the session's.

    One answer tells that difference to a second. But each tells another second, so together they tell it closely.
    """

    __slots__ = ("_earlier", "_highest", "_lowest", "_since")

    def __init__(self) -> None:
        self._since = -math.inf
        self._highest, self._lowest = -math.inf, math.inf
        self._earlier = (-math.inf, math.inf)

    def observe(self, date: float | None, moment: float) -> None:
        """An answer that came at `moment`, by the session's monotonic clock, was dated `date`, in Unix time."""
        if date is None:
            return
        if moment - self._since > _PERIOD:
            self._earlier = (self._highest, self._lowest)
            self._highest, self._lowest, self._since = -math.inf, math.inf, moment
        difference = date - moment
        self._highest, self._lowest = max(self._highest, difference), min(self._lowest, difference)
        if max(self._highest, self._earlier[0]) > min(self._lowest, self._earlier[1]) + 1.0:
            # One of the clocks was set: only this answer counts.
            self._highest = self._lowest = difference
            self._earlier = (-math.inf, math.inf)

    def at(self, moment: float) -> tuple[float, float]:
        """Earliest and latest Unix time that the service's clock may have shown at a moment; all time if unknown."""
        earliest = max(self._highest, self._earlier[0])
        latest = min(self._lowest, self._earlier[1]) + 1.0
        return moment + earliest, moment + latest
