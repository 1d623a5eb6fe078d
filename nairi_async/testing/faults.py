"""Which requests go wrong, and how: a plan that is drawn from a seed, so that a failing test fails again."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from random import Random
from typing import Final, Literal, TypeAlias, get_args

from attrs import define, field, frozen
from attrs.validators import ge, gt, instance_of, le, lt

FaultKind: TypeAlias = Literal[
    "reset before",
    "reset after",
    "hang before",
    "hang after",
    "error before",
    "error after",
    "rate limited",
    "rate limited until",
    "unavailable",
    "slow",
    "truncated",
    "garbled",
    "stale",
    "reordered",
    "repeated",
    "late",
    "skewed",
]
"""What can go wrong with one request; `FaultPlan` says what each is."""

FAULT_KINDS: Final[tuple[FaultKind, ...]] = get_args(FaultKind)
"""All kinds of faults."""

_OF_LISTS: Final = frozenset({"reordered", "repeated", "late"})
_OF_READS: Final = frozenset({"stale"})
_ROLLS: Final = 2**32
_ROUNDING: Final = 1e-9


def _scripted(kinds: Iterable[FaultKind | None]) -> tuple[FaultKind | None, ...]:
    return tuple(kinds)


@frozen
class Fault:
    """What goes wrong with one request."""

    kind: FaultKind
    roll: int
    """Decides what the kind leaves open: which 5xx, which order, ahead or behind."""

    def skew(self, plan: FaultPlan) -> float:
        """How many seconds the clock of whoever answers is ahead."""
        if self.kind != "skewed":
            return 0.0
        return plan.skew if self.roll % 2 else -plan.skew


@frozen(kw_only=True)
class FaultPlan:
    """How often a simulated service fails, and in which ways.

    `FaultPlan(seed=7, rate=0.25)` spoils a quarter of all requests, every kind alike. Whether a request is spoilt
    follows from the seed, its method, its path, and how often that path was asked for before; never from the order in
    which tasks happen to run. `Seen.fault` and `Simulator.prompts` tell afterwards what was done and what ran.

    The request arrives, and then:

    * `reset before`, `reset after`: the connection is cut before, or after, the service has done what was asked.
    * `hang before`, `hang after`: no answer, until the client gives up. With a `VirtualClock` on both sides that is the
      client's timeout in virtual time.
    * `error before`, `error after`: 500, 502, 503 or 504 with a page of HTML, as proxies send it.
    * `rate limited`, `rate limited until`: 429 with `Retry-After` in seconds, or as an HTTP date. Nothing is done.
    * `unavailable`: 503 with `Retry-After`. Nothing is done.
    * `slow`: the body comes in pieces over `slow_for` seconds.
    * `truncated`: the body is shorter than its announced length. `garbled`: a whole answer that is half of its JSON.
    * `stale`: a read shows what was `lag` seconds ago. `late`: a list lacks some of what is younger than that.
    * `reordered`, `repeated`: a list of messages in another order, or with messages twice.
    * `skewed`: the answer comes from a server whose clock is `skew` seconds ahead or behind: its `Date` is wrong.
    """

    seed: int = field(default=0, validator=instance_of(int))
    """Another seed, other requests."""
    rate: float = field(default=0.0, validator=(ge(0.0), le(1.0)))
    """Share of the requests that go wrong, in every way that fits the request."""
    rates: Mapping[FaultKind, float] = field(factory=dict)
    """Or, for some kinds only, the share of requests for each."""
    script: tuple[FaultKind | None, ...] = field(default=(), converter=_scripted)
    """What happens to the first requests, in the order in which they arrive; `None` is nothing. Shares count after."""
    where: str = field(default="", validator=instance_of(str))
    """A regular expression that method and path, such as `POST /api/public/v1/conversations/start`, must contain."""
    retry_after: float = field(default=2.0, validator=(ge(0.0), lt(math.inf)))
    """What `Retry-After` says, in seconds."""
    slow_for: float = field(default=5.0, validator=(gt(0.0), lt(math.inf)))
    """How many seconds a slow body takes."""
    lag: float = field(default=0.5, validator=(ge(0.0), lt(math.inf)))
    """How many seconds ago a stale read was true, and how late late messages are."""
    skew: float = field(default=3600.0, validator=(ge(0.0), lt(1e9)))
    """How many seconds a skewed clock is off."""

    def __attrs_post_init__(self) -> None:
        re.compile(self.where)
        unknown = {kind for kind in (*self.rates, *self.script) if kind is not None} - set(FAULT_KINDS)
        if unknown:
            msg = f"no kinds of faults: {sorted(map(repr, unknown))}; known are {FAULT_KINDS}"
            raise ValueError(msg)
        if self.rate and self.rates:
            msg = "a plan has a rate for all kinds or rates for some, not both"
            raise ValueError(msg)
        if not all(0 <= rate <= 1 for rate in self.rates.values()) or sum(self.rates.values()) > 1 + _ROUNDING:
            msg = f"rates are shares of all requests, together at most 1, not {dict(self.rates)}"
            raise ValueError(msg)

    def concerns(self, method: str, path: str) -> bool:
        """Whether a request is one that may go wrong."""
        return re.search(self.where, f"{method} {path}") is not None

    def draw(self, method: str, path: str, nth: int) -> Fault | None:
        """What goes wrong with the nth request of that method and path, script apart."""
        random = Random(f"{self.seed} {method} {path} {nth}")
        spoilt, roll = random.random(), random.randrange(_ROLLS)
        for kind, share in self._shares(method, path):
            spoilt -= share
            if spoilt < 0:
                return Fault(kind, roll)
        return None

    def _shares(self, method: str, path: str) -> list[tuple[FaultKind, float]]:
        kinds: list[FaultKind] = [kind for kind in FAULT_KINDS if _fits(kind, method, path)]
        if self.rates:
            return [(kind, self.rates[kind]) for kind in kinds if kind in self.rates]
        return [(kind, self.rate / len(kinds)) for kind in kinds]


def _fits(kind: FaultKind, method: str, path: str) -> bool:
    if kind in _OF_LISTS:
        return method == "GET" and path.endswith("/messages")
    return method == "GET" or kind not in _OF_READS


@define
class Faults:
    """A plan under way: how far its script has come, and how often each path was asked for."""

    plan: FaultPlan
    _script: int = 0
    _asked: Counter[tuple[str, str]] = field(factory=Counter)

    def next(self, method: str, path: str) -> Fault | None:
        """What goes wrong with the request that has just arrived."""
        plan = self.plan
        if not plan.concerns(method, path):
            return None
        if self._script < len(plan.script):
            kind = plan.script[self._script]
            self._script += 1
            return None if kind is None else Fault(kind, self._script)
        self._asked[method, path] += 1
        return plan.draw(method, path, self._asked[method, path])
