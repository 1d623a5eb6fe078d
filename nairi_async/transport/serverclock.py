"""What time it is at the service, from the whole seconds of its `Date` headers: pure arithmetic."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

# Observations kept: enough to be sure of the time to some hundredths of a second, few enough to follow a drift.
_KEPT: Final = 64


class ServerClock:
    """Bounds of the difference between the service's clock and the session's.

    One answer tells that difference to a second. But each tells another second, so together they tell it closely.
    """

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: deque[float] = deque(maxlen=_KEPT)

    def observe(self, date: float | None, moment: float) -> None:
        """An answer that came at `moment`, by the session's monotonic clock, was dated `date`, in Unix time."""
        if date is None:
            return
        self._seen.append(date - moment)
        if max(self._seen) > min(self._seen) + 1.0:
            # One of the clocks was set: only the last answer counts.
            self._seen = deque(list(self._seen)[-1:], maxlen=_KEPT)

    def at(self, moment: float) -> tuple[float, float]:
        """Earliest and latest Unix time that the service's clock may have shown at a moment; all time if unknown."""
        if not self._seen:
            return -math.inf, math.inf
        return moment + max(self._seen), moment + min(self._seen) + 1.0
