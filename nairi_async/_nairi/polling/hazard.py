"""How long things last, learnt by looking now and then: a hazard, estimated from intervals. No clock, no I/O.

A look tells only that something ended between this look and the one before, or that it has not ended yet. Both count:
the first as an event somewhere in the interval, the second as time survived. What is old fades.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from nairi_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# Bins a quarter wider each, from a tenth of a second to more than a day (the service ends a job after 25 hours idle):
# narrow enough to follow any distribution seen, wide enough that a few dozen turns fill them.
EDGES: Final = (0.0, *(0.1 * 1.25**power for power in range(63)))
_BINS: Final = len(EDGES) - 1
# Observations that count: an agent that changes its ways is followed after about this many.
_MEMORY: Final = 512
# Strength of the belief that the hazard is the same everywhere, in events for each bin.
_PRIOR: Final = 1.0
# Seconds between two looks below which they are one.
_CLOSEST: Final = 1e-6
# Observations from which on the estimate is better than none.
_ENOUGH: Final = 5.0


class HazardEstimate:
    """The learnt distribution of one kind of waiting."""

    __slots__ = ("_events", "_exposure", "_roots", "count")

    def __init__(self) -> None:
        self.count = 0.0
        """Events observed, faded."""
        self._events = [0.0] * _BINS
        self._exposure = [0.0] * _BINS
        self._roots: list[float] | None = None

    @property
    def is_known(self) -> bool:
        """Whether enough was observed to go by."""
        return self.count >= _ENOUGH

    @property
    def mean_hazard(self) -> float:
        """Events a second, over all time observed; zero before anything was."""
        exposure = sum(self._exposure)
        return sum(self._events) / exposure if exposure > 0 else 0.0

    def survived(self, since: float, alive: float) -> None:
        """Something that went on after `since` seconds still did after `alive`.

        Told at each look and not only at the end: else what ends soon would be known long before what lasts.
        """
        _spread(self._exposure, since, alive, 1.0)

    def ended(self, alive: float, found: float) -> None:
        """Something that still went on after `alive` seconds was found over at `found`."""
        self._fade()
        # Looks are never that close; below it the density would overflow.
        if found - alive > _CLOSEST:
            # Somewhere in between: on the mean, half of the interval was survived.
            _spread(self._exposure, alive, found, 0.5)
            _spread(self._events, alive, found, 1.0 / (found - alive))
            self.count += 1.0
        self._roots = None

    def next_interval(self, elapsed: float, stretch: float, longest: float) -> float:
        """Seconds to the next look, at most `longest`, after `elapsed` seconds of waiting.

        The law of optimal inspection: looks stand as dense as the square root of the hazard, so between two of them
        the integral of that root is constant; `stretch` is that constant.
        """
        roots = self._roots if self._roots is not None else self._estimate()
        bin_ = min(bisect_right(EDGES, elapsed) - 1, _BINS - 1)
        position, left = elapsed, stretch
        while True:
            edge = EDGES[bin_ + 1] if bin_ < _BINS - 1 else math.inf
            step = left / roots[bin_]
            if position + step <= edge or edge - elapsed >= longest:
                return min(longest, position + step - elapsed)
            left -= (edge - position) * roots[bin_]
            position = edge
            bin_ += 1

    def export(self) -> dict[str, Any]:
        """What was learnt, as JSON can hold it."""
        return {"count": self.count, "events": list(self._events), "exposure": list(self._exposure)}

    @classmethod
    def restored(cls, exported: Mapping[str, Any]) -> HazardEstimate:
        """What `export` gave, in another session. Raises `ConfigurationError` for anything else."""
        lifetimes = cls()
        try:
            events, exposure = [[float(figure) for figure in exported[name]] for name in ("events", "exposure")]
            lifetimes.count = float(exported["count"])
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError("this is not an exported cadence") from error
        figures = [lifetimes.count, *events, *exposure]
        if not len(events) == len(exposure) == _BINS or not all(0 <= figure < math.inf for figure in figures):
            raise ConfigurationError("this is not an exported cadence, or one of another version")
        lifetimes._events, lifetimes._exposure = events, exposure
        return lifetimes

    def _fade(self) -> None:
        keep = 1.0 - 1.0 / _MEMORY
        self.count *= keep
        for figures in (self._events, self._exposure):
            for bin_, figure in enumerate(figures):
                if figure:
                    figures[bin_] = figure * keep

    def _estimate(self) -> list[float]:
        """The square root of the hazard in each bin; where little was seen, drawn towards the mean hazard."""
        mean = self.mean_hazard or 1.0
        believed = _PRIOR / mean
        self._roots = [
            math.sqrt((events + _PRIOR) / (exposure + believed))
            for events, exposure in zip(self._events, self._exposure, strict=True)
        ]
        return self._roots


def _spread(figures: list[float], begin: float, end: float, density: float) -> None:
    """Add `density` a second to the bins between two times."""
    bin_ = min(bisect_right(EDGES, begin) - 1, _BINS - 1)
    while begin < end:
        edge = EDGES[bin_ + 1] if bin_ < _BINS - 1 else math.inf
        upto = min(end, edge)
        figures[bin_] += (upto - begin) * density
        begin = upto
        bin_ += 1
