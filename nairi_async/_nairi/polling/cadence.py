"""How long until the next poll, learnt for each agent. Pure: no clock, no I/O.

For one known distribution of waiting times the cheapest schedule polls as densely as the square root of its hazard.
What saves requests is to know each agent's own distribution, so that is learnt while the session works. One constant
of the whole session ties the number of polls to the delay: the integral of the root hazard between two polls. It is
tuned until news is found `Polling.delay` late on average over all agents, which spends polls where they save most.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, Literal

from nairi_async._nairi.polling.hazard import HazardEstimate
from nairi_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nairi_async._nairi.polling.settings import Polling

Kind = Literal["turn", "first", "gap", "progress"]
"""The awaited news: the end of a turn, its first message, the next message, the next progress entry."""

# Half the width of the jitter: enough to pull apart conversations that were started together.
_JITTER: Final = 0.1
# Bounds of a learnt interval, in stated delays.
_SHORTEST: Final = 0.25
_LONGEST: Final = 8.0
# How fast the integral follows the delays seen: fast for about this many at first, then slowly.
_LEARNING_RATE: Final = 0.01
_EARLY: Final = 10
# Pairs of agent and kind that are remembered; beyond that the one not used for longest is forgotten.
_REMEMBERED: Final = 1000


class Cadence:
    """What a session has learnt about the timing of its agents. Export it, and hand it to the next session.

    `NairiSession.cadence` is the session's own. It holds figures only: no prompt and no reply.
    """

    def __init__(self, polling: Polling) -> None:
        self._polling = polling
        self._estimates: OrderedDict[tuple[str, Kind], HazardEstimate] = OrderedDict()
        # The square root of the hazard integrates to this between two polls.
        self._integral: float | None = None
        self._adjustments = 0

    def __repr__(self) -> str:
        agents = len({agent_id for agent_id, _ in self._estimates})
        return f"<Cadence agents={agents} delay={self._polling.delay:g} adjustments={self._adjustments}>"

    def export(self) -> dict[str, Any]:
        """Return everything learnt, in types that JSON can hold; `NairiSession(cadence=…)` continues from it."""
        return {
            "version": 1,
            "integral": self._integral,
            "adjustments": self._adjustments,
            "estimates": [
                {"agent_id": agent_id, "kind": kind, **estimate.export()}
                for (agent_id, kind), estimate in self._estimates.items()
            ],
        }

    def restore(self, exported: Mapping[str, Any]) -> None:
        """Replace what was learnt by what `export` returned.

        Raises:
            ConfigurationError: this is not the result of `export`; what was learnt before is unchanged.
        """
        try:
            learnt = [
                (entry["agent_id"], entry["kind"], HazardEstimate.restore(entry)) for entry in exported["estimates"]
            ]
            integral, adjustments = exported["integral"], int(exported["adjustments"])
            is_sane = integral is None or 0 < float(integral) < math.inf
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError("this is not an exported cadence") from error
        if not is_sane:
            raise ConfigurationError("this is not an exported cadence: its integral is not positive")
        self._estimates = OrderedDict(((str(agent_id), kind), estimate) for agent_id, kind, estimate in learnt)
        self._integral, self._adjustments = integral, adjustments

    def plan_interval(self, agent_id: str | None, kind: Kind, waited: float, *, jitter: float) -> tuple[float, bool]:
        """Return the seconds to the next poll after `waited` seconds without news, and whether they are learnt."""
        polling = self._polling
        spread = 1.0 + _JITTER * (2.0 * jitter - 1.0)
        estimate = self._estimates.get((agent_id or "", kind))
        if estimate is None or not estimate.is_known:
            # A fixed interval finds news half of it late on average. For a short turn that is too long.
            interval = min(2.0 * polling.delay, max(polling.first, waited))
            return min(polling.maximum, interval * spread), False
        if self._integral is None:
            self._integral = self._expected_integral()
        longest = max(_LONGEST * polling.delay, polling.fraction * waited)
        interval = estimate.next_interval(waited, self._integral * spread, longest)
        return min(polling.maximum, max(_SHORTEST * polling.delay, interval)), True

    def observe_survival(self, agent_id: str | None, kind: Kind, since: float, alive: float) -> None:
        """Learn from a poll without news: what had waited `since` seconds has now waited `alive`."""
        self._estimate_of(agent_id, kind).observe_survival(since, alive)

    def observe_news(
        self, agent_id: str | None, kind: Kind, alive: float, found: float, late: float | None = None
    ) -> None:
        """Learn from a poll with news: none after `alive` seconds, some at `found`.

        `late` is by how many seconds the poll came after the news, where its time followed the estimate: that shows
        whether the integral fits.
        """
        estimate = self._estimate_of(agent_id, kind)
        before = None if estimate.is_known else self._expected_integral()
        estimate.observe_end(alive, found)
        if self._integral is not None and before is not None and estimate.is_known:
            # One more that shares the stated delay: tuning alone would take long.
            self._integral *= self._expected_integral() / before
        if late is not None and self._integral is not None:
            self._adjustments += 1
            rate = max(_LEARNING_RATE, 1.0 / (_EARLY + self._adjustments))
            excess = min(3.0, late / self._polling.delay)
            self._integral *= math.exp(rate * (1.0 - excess))

    def _expected_integral(self) -> float:
        """Return the integral for which all that is known is found with the stated delay, by its mean hazard."""
        roots = [math.sqrt(estimate.mean_hazard) for estimate in self._estimates.values() if estimate.is_known]
        return 2.0 * self._polling.delay * len(roots) / sum(1.0 / root for root in roots) if roots else 1.0

    def _estimate_of(self, agent_id: str | None, kind: Kind) -> HazardEstimate:
        key = (agent_id or "", kind)
        estimate = self._estimates.get(key)
        if estimate is None:
            estimate = self._estimates[key] = HazardEstimate()
            if len(self._estimates) > _REMEMBERED:
                self._estimates.popitem(last=False)
        self._estimates.move_to_end(key)
        return estimate
