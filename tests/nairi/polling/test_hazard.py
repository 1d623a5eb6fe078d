"""Learning how long things last, and when to poll: pure, in virtual time."""

from __future__ import annotations

import json
import math
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nairi_async import ConfigurationError, Polling
from nairi_async._nairi.polling.cadence import Cadence
from nairi_async._nairi.polling.hazard import BIN_EDGES, HazardEstimate
from nairi_async._nairi.polling.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable

times = st.floats(0, 200_000)


def log_normal(median: float, sigma: float) -> Callable[[random.Random, int], tuple[str, float]]:
    return lambda rng, _: ("agent", min(3600.0, median * math.exp(rng.gauss(0, sigma))))


def mixed(rng: random.Random, _: int) -> tuple[str, float]:
    median = rng.choice([5, 30, 180])
    return f"agent {median}", min(3600.0, median * math.exp(rng.gauss(0, 0.7)))


def bimodal(rng: random.Random, _: int) -> tuple[str, float]:
    return "agent", rng.choice([5, 120]) * math.exp(rng.gauss(0, 0.3))


def heavy(rng: random.Random, _: int) -> tuple[str, float]:
    return "agent", min(3600.0, 3.0 * rng.random() ** (-1 / 1.1))


def changing(rng: random.Random, turn: int) -> tuple[str, float]:
    return "agent", (10 if turn < 1200 else 100) * math.exp(rng.gauss(0, 0.5))


def spent(lengths: Callable[[random.Random, int], tuple[str, float]], turns: int = 2400) -> tuple[float, float]:
    """Return the ratio of polls to those of the fixed interval of equal mean delay, and that delay, after 300 turns."""
    cadence, jitter = Cadence(Polling(delay=1.0)), random.Random(1)
    polls, delays, waits = 0, [], []
    rng = random.Random(2)
    for turn in range(turns):
        agent, length = lengths(rng, turn)
        schedule, now = Schedule(cadence, agent, "turn", 0.0, is_start_known=True), 0.0
        count = 0
        while True:
            now += schedule.record_poll(now, news=False, jitter=jitter.random())
            count += 1
            if now >= length:
                break
        schedule.observe_news(now)
        if turn >= 300:
            polls += count
            delays.append(now - length)
            waits.append(length)
    mean = sum(delays) / len(delays)
    return polls / sum(math.ceil(wait / (2 * mean)) for wait in waits), mean


@pytest.mark.parametrize(
    ("lengths", "most"),
    [
        (mixed, 0.69),
        (log_normal(30, 0.7), 0.95),
        (log_normal(30, 1.2), 1.0),
        (log_normal(30, 0.2), 0.65),
        (lambda rng, _: ("agent", rng.expovariate(1 / 30)), 1.05),
        (bimodal, 0.8),
        (heavy, 0.9),
        (log_normal(30, 0.0), 0.5),
        (changing, 1.0),
    ],
    ids=["mix", "log-normal", "wide", "narrow", "exponential", "bimodal", "heavy tail", "constant", "changing"],
)
def test_learning_beats_the_fixed_interval(
    lengths: Callable[[random.Random, int], tuple[str, float]], most: float
) -> None:
    """At equal mean delay fewer polls than a fixed interval where there is something to learn, never 5 % more."""
    ratio, delay = spent(lengths)
    assert ratio <= most
    assert delay <= 1.1


@given(st.lists(st.tuples(times, times), max_size=20), times, st.floats(1e-6, 1e6), st.floats(1e-3, 1e5))
def test_an_interval_is_positive_and_bounded(
    waits: list[tuple[float, float]], elapsed: float, integral: float, longest: float
) -> None:
    """The next poll comes within the bound, with anything learnt before."""
    estimate = HazardEstimate()
    for alive, found in waits:
        estimate.observe_survival(0.0, min(alive, found))
        estimate.observe_end(min(alive, found), max(alive, found))
    assert 0 < estimate.next_interval(elapsed, integral, longest) <= longest


@given(st.lists(st.tuples(times, times), min_size=1, max_size=20))
def test_nothing_observed_is_lost_between_the_bins(waits: list[tuple[float, float]]) -> None:
    """Events and survived time add up, faded alike."""
    estimate = HazardEstimate()
    for alive, found in waits:
        low, high = sorted((alive, found))
        estimate.observe_survival(0.0, low)
        estimate.observe_end(low, high)
    exported = estimate.export()
    assert sum(exported["events"]) == pytest.approx(estimate.count)
    assert min(exported["exposure"]) >= 0
    assert len(exported["events"]) == len(BIN_EDGES) - 1


def test_polls_gather_where_the_ends_are() -> None:
    """With turns of half a minute, there are few polls before that time, and many around it."""
    estimate = HazardEstimate()
    for _ in range(100):
        estimate.observe_survival(0.0, 28.0)
        estimate.observe_end(28.0, 32.0)
    assert estimate.next_interval(0.0, 1.0, 60.0) > 10
    assert estimate.next_interval(29.0, 1.0, 60.0) < 4


class TestExport:
    """What was learnt can be saved and restored."""

    def learnt(self) -> Cadence:
        cadence = Cadence(Polling())
        for _ in range(20):
            cadence.observe_survival("agent", "turn", 0.0, 20.0)
            cadence.observe_news("agent", "turn", 20.0, 22.0, 1.0)
        return cadence

    def test_a_restored_cadence_plans_as_the_first(self) -> None:
        """Through JSON and back, the next interval is the same; an agent never seen is still unknown."""
        cadence, twin = self.learnt(), Cadence(Polling())
        first = cadence.plan_interval("agent", "turn", 5.0, jitter=0.5)
        twin.restore(json.loads(json.dumps(cadence.export())))
        assert twin.plan_interval("agent", "turn", 5.0, jitter=0.5) == first
        assert first[1]
        assert not twin.plan_interval("other", "turn", 5.0, jitter=0.5)[1]

    @pytest.mark.parametrize(
        "change",
        [
            {"estimates": None},
            {"estimates": [{}]},
            {"estimates": [{"agent_id": "a", "kind": "turn", "count": 1, "events": [1], "exposure": [1]}]},
            {"integral": -1.0},
            {"integral": "long"},
            {"adjustments": None},
        ],
        ids=str,
    )
    def test_anything_else_is_refused(self, change: dict[str, object]) -> None:
        """What is no exported cadence is a ConfigurationError, and nothing is forgotten for it."""
        cadence = self.learnt()
        before = cadence.export()
        with pytest.raises(ConfigurationError):
            cadence.restore({**before, **change})
        assert cadence.export() == before


@settings(max_examples=30)
@given(st.integers(0, 2**32))
def test_equal_seeds_make_equal_schedules(seed: int) -> None:
    """The cadence has no randomness of its own: the same polls and the same jitter give the same intervals."""

    def run() -> list[float]:
        rng, cadence, intervals = random.Random(seed), Cadence(Polling()), []
        for _ in range(10):
            schedule, now, end = Schedule(cadence, "agent", "first", 0.0, is_start_known=True), 0.0, rng.uniform(1, 50)
            while now < end:
                intervals.append(schedule.record_poll(now, news=False, jitter=rng.random()))
                now += intervals[-1]
            schedule.observe_news(now)
        return intervals

    assert run() == run()


def test_agents_are_forgotten_when_there_are_too_many() -> None:
    """Memory is bounded: the agent not used for longest is forgotten first."""
    cadence = Cadence(Polling())
    for number in range(1500):
        cadence.observe_news(f"agent {number}", "turn", 1.0, 2.0)
    known = [entry["agent_id"] for entry in cadence.export()["estimates"]]
    assert len(known) == 1000
    assert known[-1] == "agent 1499"
    assert "agent 0" not in known


def test_a_wait_that_outlasts_all_before_is_soon_polled_less_often() -> None:
    """After two hundred turns of about five seconds, one that has lasted five minutes is not polled every second."""
    estimate = HazardEstimate()
    for number in range(200):
        estimate.observe_end(4.0 + number % 3, 5.0 + number % 3)
    integral = 2.0 * math.sqrt(estimate.mean_hazard)
    waited, polls = 0.0, 0
    while waited < 300.0:
        interval = estimate.next_interval(waited, integral, longest=max(8.0, 0.1 * waited))
        estimate.observe_survival(waited, waited + interval)
        waited, polls = waited + interval, polls + 1
    assert polls < 150
    assert interval > 4.0
