"""How long things last, as a hazard estimated from polls. Pure: no clock, no I/O.

A poll shows that something ended between this poll and the one before, or that it has not ended yet. Both count: the
first as an event somewhere in the interval, the second as time survived. Old observations fade.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from nairi_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# Each bin is a quarter wider than the one before, from a tenth of a second to more than a day (the service ends a job
# after 25 idle hours): narrow enough to follow any distribution seen, wide enough for a few dozen turns to fill them.
BIN_EDGES: Final = (0.0, *(0.1 * 1.25**power for power in range(63)))
_BINS: Final = len(BIN_EDGES) - 1
# Observations that count: the estimate follows an agent that changes its ways within about as many.
_MEMORY: Final = 512
# Strength of the prior that the hazard is the same everywhere, in events for each bin.
_PRIOR: Final = 1.0
# Two polls closer than this many seconds count as one.
_CLOSEST: Final = 1e-6
# Observations from which on the estimate is better than none.
_ENOUGH: Final = 5.0


class HazardEstimate:
    """The learnt distribution of one kind of waiting time."""

    __slots__ = ("_events", "_exposure", "_sum_of_events", "_sum_of_exposure", "count")

    def __init__(self) -> None:
        self.count = 0.0
        """Events observed, faded."""
        self._events = [0.0] * _BINS
        self._exposure = [0.0] * _BINS
        self._sum_of_events = self._sum_of_exposure = 0.0

    @property
    def is_known(self) -> bool:
        """Whether enough was observed to rely on."""
        return self.count >= _ENOUGH

    @property
    def mean_hazard(self) -> float:
        """Events a second over all time observed; zero before any was observed."""
        return self._sum_of_events / self._sum_of_exposure if self._sum_of_exposure > 0 else 0.0

    def observe_survival(self, since: float, alive: float) -> None:
        """Learn that something which went on after `since` seconds still did after `alive`.

        Called at each poll and not only at the end: otherwise what ends soon would be known long before what lasts. A
        turn that lasts far longer than all before it so learns from its own survival, and is soon polled less often.
        """
        _spread(self._exposure, since, alive, 1.0)
        self._sum_of_exposure += max(0.0, alive - since)

    def observe_end(self, alive: float, found: float) -> None:
        """Learn that something which still went on after `alive` seconds was found to be over at `found`."""
        self._fade()
        # Closer than any two polls are, the density would overflow.
        if found - alive > _CLOSEST:
            # It ended somewhere in between: on average it survived half of the interval.
            _spread(self._exposure, alive, found, 0.5)
            _spread(self._events, alive, found, 1.0 / (found - alive))
            self._sum_of_exposure += 0.5 * (found - alive)
            self._sum_of_events += 1.0
            self.count += 1.0

    def next_interval(self, elapsed: float, integral: float, longest: float) -> float:
        """Return the seconds to the next poll after `elapsed` seconds of waiting, at most `longest`.

        The law of optimal inspection: polls are as dense as the square root of the hazard. So the interval ends where
        that root, integrated over time from `elapsed` on, reaches `integral`.
        """
        # Where little was seen, the hazard is drawn to its mean.
        prior_exposure = _PRIOR / (self.mean_hazard or 1.0)
        bin_ = min(bisect_right(BIN_EDGES, elapsed) - 1, _BINS - 1)
        position, left = elapsed, integral
        while True:
            edge = BIN_EDGES[bin_ + 1] if bin_ < _BINS - 1 else math.inf
            root = math.sqrt((self._events[bin_] + _PRIOR) / (self._exposure[bin_] + prior_exposure))
            step = left / root
            if position + step <= edge or edge - elapsed >= longest:
                return min(longest, position + step - elapsed)
            left -= (edge - position) * root
            position = edge
            bin_ += 1

    def export(self) -> dict[str, Any]:
        """Return what was learnt, in types that JSON can hold."""
        return {"count": self.count, "events": list(self._events), "exposure": list(self._exposure)}

    @classmethod
    def restore(cls, exported: Mapping[str, Any]) -> HazardEstimate:
        """Return the estimate that `export` was called on. Raises `ConfigurationError` for anything else."""
        estimate = cls()
        try:
            events, exposure = [[float(figure) for figure in exported[name]] for name in ("events", "exposure")]
            estimate.count = float(exported["count"])
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError("this is not an exported cadence") from error
        figures = [estimate.count, *events, *exposure]
        if not len(events) == len(exposure) == _BINS or not all(0 <= figure < math.inf for figure in figures):
            raise ConfigurationError("this is not an exported cadence, or one of another version")
        estimate._events, estimate._exposure = events, exposure
        estimate._sum_of_events, estimate._sum_of_exposure = sum(events), sum(exposure)
        return estimate

    def _fade(self) -> None:
        kept_share = 1.0 - 1.0 / _MEMORY
        self.count *= kept_share
        self._sum_of_events *= kept_share
        self._sum_of_exposure *= kept_share
        for figures in (self._events, self._exposure):
            for bin_, figure in enumerate(figures):
                if figure:
                    figures[bin_] = figure * kept_share


def _spread(figures: list[float], begin: float, end: float, density: float) -> None:
    """Add `density` a second to the bins between two times."""
    bin_ = min(bisect_right(BIN_EDGES, begin) - 1, _BINS - 1)
    while begin < end:
        edge = BIN_EDGES[bin_ + 1] if bin_ < _BINS - 1 else math.inf
        upto = min(end, edge)
        figures[bin_] += (upto - begin) * density
        begin = upto
        bin_ += 1
