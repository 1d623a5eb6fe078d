"""When to look again: learnt per agent, as plain arithmetic without clock, input or output (design section 7).

For one known distribution of waiting times the cheapest schedule looks as densely as the square root of its hazard.
What that is worth lies in knowing each agent's own distribution, so that is learnt as the session works. One constant
for the whole session, the stretch, ties looks to delay: it is tuned until news is found `Polling.delay` late on the
mean, over all agents, which spends looks where they save most.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, Literal

from attrs import field, frozen

from nairi_async._core import checks
from nairi_async._nairi.polling.hazard import HazardEstimate
from nairi_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["turn", "first", "gap", "progress"]
"""What is waited for: the end of a turn, its first message, the next message, the next progress entry."""

# Half the width of the jitter: enough to pull apart conversations that were started together.
_JITTER: Final = 0.1
# Bounds of a learnt interval around the stated delay.
_SHORTEST: Final = 0.25
_LONGEST: Final = 8.0
# How fast the stretch follows the delays seen: fast at first, then slowly.
_LEARNING: Final = 0.02
_EARLY: Final = 10
# Agents remembered; beyond that the one not used for longest is forgotten.
_AGENTS: Final = 1000
# A conversation's timeline is read at most this many bytes a second: megabytes are not fetched every other second.
_TIMELINE_BYTES_PER_SECOND: Final = 64 * 1024


@frozen(kw_only=True)
class Polling:
    """How soon news should be found, and the bounds within which the library looks for it.

    Durations are seconds, as a number or a `timedelta`.

    Args:
        delay: (1) The mean time between an event and its discovery that is acceptable. Requests become fewer in about
            the proportion in which it grows.
        first: (0.25) The time to the first look where nothing is known of an agent yet.
        fraction: (0.1) An interval is at most this share of the time already waited, or eight delays.
        maximum: (30) The longest interval; five times that where a trusted listing announces changes.
        settle: (1) The time after the end of a turn in which late notices are still delivered.

    Raises:
        ConfigurationError: a setting is no number, or not positive.
    """

    delay: float = field(default=1.0, converter=checks.seconds)
    """The mean time between an event and its discovery that is acceptable, in seconds: fewer requests if larger."""
    first: float = field(default=0.25, converter=checks.seconds)
    """Seconds to the first look where nothing is known of an agent yet; the interval doubles from there."""
    fraction: float = 0.1
    """An interval is at most this share of the time already waited, or eight delays, whichever is longer."""
    maximum: float = field(default=30.0, converter=checks.seconds)
    """Longest interval in seconds, whatever was learnt; five times that for conversations whose changes an agent's
    listing announces, after the listing was found to be true."""
    settle: float = field(default=1.0, converter=checks.seconds)
    """Seconds after the end of a turn in which late notices are still delivered."""

    def __attrs_post_init__(self) -> None:
        checks.positive("delay", self.delay)
        checks.positive("first", self.first)
        checks.positive("fraction", self.fraction)
        checks.positive("maximum", self.maximum)
        checks.positive("settle", self.settle, or_zero=True)


class Cadence:
    """What a session has learnt about its agents. Read it, save it, and hand it to the next session."""

    def __init__(self, polling: Polling) -> None:
        self._polling = polling
        self._lifetimes: OrderedDict[tuple[str, Kind], HazardEstimate] = OrderedDict()
        self._stretch: float | None = None
        self._adjustments = 0

    def export(self) -> dict[str, Any]:
        """Everything learnt, as JSON can hold it; `NairiSession(cadence=…)` goes on from there."""
        return {
            "version": 1,
            "stretch": self._stretch,
            "adjustments": self._adjustments,
            "lifetimes": [
                {"agent_id": agent_id, "kind": kind, **lifetimes.export()}
                for (agent_id, kind), lifetimes in self._lifetimes.items()
            ],
        }

    def restore(self, exported: Mapping[str, Any]) -> None:
        """Go on from what `export` gave. Raises `ConfigurationError` for anything else, and then learns nothing."""
        try:
            learnt = [
                (entry["agent_id"], entry["kind"], HazardEstimate.restored(entry)) for entry in exported["lifetimes"]
            ]
            stretch, adjustments = exported["stretch"], int(exported["adjustments"])
            is_sane = stretch is None or 0 < float(stretch) < math.inf
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError("this is not an exported cadence") from error
        if not is_sane:
            raise ConfigurationError("this is not an exported cadence: its stretch is no length")
        self._lifetimes = OrderedDict(((str(agent_id), kind), lifetimes) for agent_id, kind, lifetimes in learnt)
        self._stretch, self._adjustments = stretch, adjustments

    def interval(self, agent_id: str | None, kind: Kind, waited: float, *, jitter: float) -> tuple[float, bool]:
        """Seconds to the next look after `waited` seconds without news, and whether they follow what was learnt."""
        polling = self._polling
        spread = 1.0 + _JITTER * (2.0 * jitter - 1.0)
        lifetimes = self._lifetimes.get((agent_id or "", kind))
        if lifetimes is None or not lifetimes.is_known:
            # A fixed interval finds things half of it late on the mean; a turn that is short is not waited for so long.
            interval = min(2.0 * polling.delay, max(polling.first, waited))
            return min(polling.maximum, interval * spread), False
        if self._stretch is None:
            self._stretch = 2.0 * polling.delay * math.sqrt(lifetimes.mean_hazard)
        longest = max(_LONGEST * polling.delay, polling.fraction * waited)
        interval = lifetimes.next_interval(waited, self._stretch * spread, longest)
        return min(polling.maximum, max(_SHORTEST * polling.delay, interval)), True

    def survived(self, agent_id: str | None, kind: Kind, since: float, alive: float) -> None:
        """Learn from a look without news: what had waited `since` seconds has now waited `alive`."""
        self._of(agent_id, kind).survived(since, alive)

    def ended(self, agent_id: str | None, kind: Kind, alive: float, found: float, *, planned: bool) -> None:
        """Learn from a look with news: none after `alive` seconds, some at `found`.

        `planned` says that this interval followed what was learnt, so that its length tells about the stretch.
        """
        self._of(agent_id, kind).ended(alive, found)
        if planned and self._stretch is not None:
            self._adjustments += 1
            rate = max(_LEARNING, 1.0 / (_EARLY + self._adjustments))
            # News falls half an interval before the look on the mean: that half should be the stated delay.
            excess = min(3.0, (found - alive) / (2.0 * self._polling.delay))
            self._stretch *= math.exp(rate * (1.0 - excess))

    def _of(self, agent_id: str | None, kind: Kind) -> HazardEstimate:
        key = (agent_id or "", kind)
        lifetimes = self._lifetimes.get(key)
        if lifetimes is None:
            lifetimes = self._lifetimes[key] = HazardEstimate()
            if len(self._lifetimes) > _AGENTS:
                self._lifetimes.popitem(last=False)
        self._lifetimes.move_to_end(key)
        return lifetimes


class Schedule:
    """The looks of one watcher at one conversation: told what each look brought, it answers with a delay.

    `began` is when the wait began, by the watcher's clock; `known` whether that is also when the turn began. A wait
    whose beginning nobody knows teaches nothing.
    """

    __slots__ = ("_agent_id", "_alive", "_cadence", "_kind", "_known", "_origin", "_planned")

    def __init__(self, cadence: Cadence, agent_id: str | None, kind: Kind, started_at: float, *, known: bool) -> None:
        self._cadence = cadence
        self._agent_id = agent_id
        self._kind: Kind = kind
        self._known = known
        self._origin = started_at
        self._alive = 0.0
        self._planned = False

    def feed(self, now: float, *, news: bool, jitter: float) -> float:
        """Seconds to the next look, after one at `now`; `jitter` is in [0, 1)."""
        waited = max(0.0, now - self._origin)
        if news:
            self.end(now)
            # From here on the beginning is known: the last message.
            self._kind, self._origin, self._known = self._next_kind(), now, True
            self._alive = waited = 0.0
        else:
            self._still(waited)
        interval, self._planned = self._cadence.interval(self._agent_id, self._kind, waited, jitter=jitter)
        return interval

    def end(self, now: float) -> None:
        """What is waited for was found by a look at `now`."""
        if self._known:
            waited = max(self._alive, now - self._origin)
            self._cadence.ended(self._agent_id, self._kind, self._alive, waited, planned=self._planned)

    def waited_for_announcement(self, alive: float | None) -> None:
        """The last look lies back for other reasons than this schedule's; `alive` is when there was still no news."""
        self._planned = False
        if alive is not None:
            self._still(alive - self._origin)

    def expected_delay(self, now: float) -> float:
        """How long ago on the mean what a look at `now` has found did happen: half of the time since the last look."""
        return max(0.0, now - self._origin - self._alive) / 2.0

    def _next_kind(self) -> Kind:
        return "gap" if self._kind == "first" else self._kind

    def _still(self, waited: float) -> None:
        """No news after so many seconds."""
        if waited > self._alive:
            if self._known:
                self._cadence.survived(self._agent_id, self._kind, self._alive, waited)
            self._alive = waited


def timeline_spacing(polling: Polling, weight: int) -> float:
    """Seconds that reads of a whole conversation of `weight` bytes are kept apart; its status is read in between."""
    return min(polling.maximum, weight / _TIMELINE_BYTES_PER_SECOND)
