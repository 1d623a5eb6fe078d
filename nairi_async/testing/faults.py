"""Fault plans: which requests fail, and how, drawn from a seed so that a failing test fails again."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
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
"""The kinds of faults; `FaultPlan` explains each."""

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
    """The fault of one request."""

    kind: FaultKind
    roll: int
    """A random number that settles what the kind leaves open: which status, which order, ahead or behind."""

    def skew(self, plan: FaultPlan) -> float:
        """Return the seconds by which the clock of the responding server is ahead."""
        if self.kind != "skewed":
            return 0.0
        return plan.skew if self.roll % 2 else -plan.skew


@frozen(kw_only=True)
class FaultPlan:
    """How often a simulated service fails, and in which ways.

    With `FaultPlan(seed=7, rate=0.25)` a quarter of all requests fail, with every kind equally likely. The fault of a
    request depends on the seed, its method, its path, and the number of earlier requests for that path; it does not
    depend on the order in which tasks run. `RecordedRequest.fault` and `Simulator.prompts` record what happened.

    The request arrives, and then:

    * `reset before`, `reset after`: the connection is cut before, or after, the service has acted.
    * `hang before`, `hang after`: no response, until the client gives up. With one `VirtualClock` on both sides that
      takes the client's timeout in virtual time.
    * `error before`, `error after`: 500, 502, 503, 504, 408 or 425 with an HTML page, as proxies send it.
    * `rate limited`, `rate limited until`: 429 with `Retry-After` in seconds, or as an HTTP date. The service does
      not act.
    * `unavailable`: 503 with `Retry-After`. The service does not act.
    * `slow`: the body comes in pieces over `slow_for` seconds.
    * `truncated`: the body is shorter than its announced length. `garbled`: a complete
      response with only half of its JSON.
    * `stale`: a read shows the state of `lag` seconds ago. `late`: a list lacks some messages younger than that.
    * `reordered`, `repeated`: a list of messages in another order, or with messages twice.
    * `skewed`: the `Date` of the response is `skew` seconds ahead or behind.
    """

    seed: int = field(default=0, validator=instance_of(int))
    """Selects the requests that fail."""
    rate: float = field(default=0.0, validator=(ge(0.0), le(1.0)))
    """Share of the requests that fail, by any kind that fits the request."""
    rates: Mapping[FaultKind, float] = field(factory=dict)
    """Instead of `rate`: the share of requests for each of some kinds."""
    script: tuple[FaultKind | None, ...] = field(default=(), converter=_scripted)
    """The faults of the first requests, in order of arrival; `None` is no fault. The rates apply after them."""
    where: str = field(default="", validator=instance_of(str))
    """A regular expression searched in method and path, such as `POST /api/public/v1/conversations/start`."""
    retry_after: float = field(default=2.0, validator=(ge(0.0), lt(math.inf)))
    """Value of `Retry-After`, in seconds."""
    slow_for: float = field(default=5.0, validator=(gt(0.0), lt(math.inf)))
    """Duration of a slow body, in seconds."""
    lag: float = field(default=0.5, validator=(ge(0.0), lt(math.inf)))
    """Age of a stale read, and delay of a late message, in seconds."""
    skew: float = field(default=3600.0, validator=(ge(0.0), lt(1e9)))
    """Offset of a skewed clock, in seconds."""

    def __attrs_post_init__(self) -> None:
        re.compile(self.where)
        unknown = {kind for kind in (*self.rates, *self.script) if kind is not None} - set(FAULT_KINDS)
        if unknown:
            msg = f"unknown kinds of faults: {sorted(map(repr, unknown))}; known are {FAULT_KINDS}"
            raise ValueError(msg)
        if self.rate and self.rates:
            msg = "a plan has a rate for all kinds or rates for some, not both"
            raise ValueError(msg)
        if not all(0 <= rate <= 1 for rate in self.rates.values()) or sum(self.rates.values()) > 1 + _ROUNDING:
            msg = f"rates are shares of all requests, together at most 1, not {dict(self.rates)}"
            raise ValueError(msg)

    def concerns(self, method: str, path: str) -> bool:
        """Return whether the plan covers a request."""
        return not self.where or re.search(self.where, f"{method} {path}") is not None

    def draw(self, method: str, path: str, nth: int) -> Fault | None:
        """Return the fault of the nth request of that method and path, leaving the script aside."""
        if not self.rate and not self.rates:
            return None
        random = Random(f"{self.seed} {method} {path} {nth}")
        threshold, roll = random.random(), random.randrange(_ROLLS)
        for kind, share in self._shares(method, path):
            threshold -= share
            if threshold < 0:
                return Fault(kind, roll)
        return None

    def _shares(self, method: str, path: str) -> list[tuple[FaultKind, float]]:
        kinds = _fitting(is_read=method == "GET", is_list=path.endswith("/messages"))
        if self.rates:
            return [(kind, self.rates[kind]) for kind in kinds if kind in self.rates]
        return [(kind, self.rate / len(kinds)) for kind in kinds]


@cache
def _fitting(*, is_read: bool, is_list: bool) -> tuple[FaultKind, ...]:
    """Return the kinds that a request can have."""
    excluded = (frozenset() if is_read else _OF_READS) | (frozenset() if is_read and is_list else _OF_LISTS)
    return tuple(kind for kind in FAULT_KINDS if kind not in excluded)


@define
class Faults:
    """The progress of a plan: its place in the script, and the number of requests for each path."""

    plan: FaultPlan
    _place: int = 0
    _requests: Counter[tuple[str, str]] = field(factory=Counter)

    def next(self, method: str, path: str) -> Fault | None:
        """Return the fault of the request that has just arrived."""
        plan = self.plan
        if not (plan.rate or plan.rates or plan.script) or not plan.concerns(method, path):
            return None
        if self._place < len(plan.script):
            kind = plan.script[self._place]
            self._place += 1
            return None if kind is None else Fault(kind, self._place)
        self._requests[method, path] += 1
        return plan.draw(method, path, self._requests[method, path])
