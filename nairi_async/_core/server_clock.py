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

    __slots__ = ("_agreeing", "_earlier", "_highest", "_lowest", "_odd", "_since", "contradictions")

    def __init__(self) -> None:
        self._since = -math.inf
        self._highest, self._lowest = -math.inf, math.inf
        self._earlier = (-math.inf, math.inf)
        self._odd: float | None = None
        self._agreeing = 0
        self.contradictions = 0
        """Answers whose time does not go with that of those before."""

    def observe(self, date: float | None, moment: float) -> None:
        """An answer that came at `moment`, by the session's monotonic clock, was dated `date`, in Unix time."""
        if date is None:
            return
        if moment - self._since > _PERIOD:
            self._earlier = (self._highest, self._lowest)
            self._highest, self._lowest, self._since = -math.inf, math.inf, moment
        difference = date - moment
        highest, lowest = max(self._highest, difference), min(self._lowest, difference)
        if max(highest, self._earlier[0]) <= min(lowest, self._earlier[1]) + 1.0:
            self._highest, self._lowest, self._odd = highest, lowest, None
            self._agreeing += 1
            return
        self.contradictions += 1
        is_lasting = self._odd is not None and abs(difference - self._odd) <= 1.0
        if not is_lasting and self._agreeing > 1:
            # One answer alone may come from a server whose clock is wrong.
            self._odd = difference
            return
        # One of the clocks was set, or the first answer was wrong: only what was seen since counts.
        other = self._odd if is_lasting and self._odd is not None else difference
        self._highest, self._lowest = max(difference, other), min(difference, other)
        self._earlier, self._odd, self._agreeing = (-math.inf, math.inf), None, 1

    def at(self, moment: float) -> tuple[float, float]:
        """Earliest and latest Unix time that the service's clock may have shown at a moment; all time if unknown."""
        earliest = max(self._highest, self._earlier[0])
        latest = min(self._lowest, self._earlier[1]) + 1.0
        return moment + earliest, moment + latest
