"""When to poll again: bounded, never stuck, quick on news."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nairi_async import ConfigurationError, Polling
from nairi_async._nairi.polling.cadence import Cadence
from nairi_async._nairi.polling.schedule import Schedule
from nairi_async._nairi.polling.settings import timeline_spacing

durations = st.floats(0.001, 1e6)
pollings = st.builds(
    Polling, delay=durations, first=durations, fraction=st.floats(0.001, 10), maximum=durations, settle=durations
)


@given(pollings, st.lists(st.tuples(durations, st.booleans(), st.floats(0, 1, exclude_max=True)), min_size=1))
def test_every_interval_is_positive_and_bounded(polling: Polling, polls: list[tuple[float, bool, float]]) -> None:
    """The next poll always comes, and never later than `maximum`, for any results of the polls before."""
    cadence = Cadence(polling)
    for _ in range(3):
        schedule, now = Schedule(cadence, "agent", "first", 0.0, is_start_known=True), 0.0
        for passed, news, jitter in polls:
            now += passed
            assert 0 < schedule.record_poll(now, news=news, jitter=jitter) <= polling.maximum
        schedule.observe_news(now)


def test_a_short_turn_of_an_unknown_agent_is_not_waited_for_long() -> None:
    """Where nothing is known, the interval grows with the time waited, up to twice the stated delay."""
    schedule = Schedule(Cadence(Polling(delay=2.0, first=0.5)), None, "gap", 0.0, is_start_known=True)
    assert schedule.record_poll(0.0, news=False, jitter=0.5) == pytest.approx(0.5)
    assert schedule.record_poll(1.5, news=False, jitter=0.5) == pytest.approx(1.5)
    assert schedule.record_poll(100.0, news=False, jitter=0.5) == pytest.approx(4.0)
    assert schedule.record_poll(101.0, news=True, jitter=0.5) == pytest.approx(0.5)


def test_conversations_started_together_drift_apart() -> None:
    """Jitter spreads the polls by a tenth to both sides."""
    spread = [
        Schedule(Cadence(Polling()), None, "turn", -60.0, is_start_known=True).record_poll(
            0.0, news=False, jitter=jitter
        )
        for jitter in (0.0, 0.5, 0.999)
    ]
    assert spread == pytest.approx([1.8, 2.0, 2.2], abs=0.01)


@cache
def after_200_ends() -> dict[str, Any]:
    cadence = Cadence(Polling(delay=1.0))
    for _ in range(200):
        cadence.observe_news("a", "turn", 9.0, 11.0, 1.0)
        cadence.plan_interval("a", "turn", 0.0, jitter=0.5)
    return cadence.export()


@given(late=st.lists(st.floats(0.0, 1e6), min_size=1, max_size=20))
def test_no_single_delay_moves_the_integral_far(late: list[float]) -> None:
    """Where agents end in turns, the short ones first, density follows their common mean and not the last few ends."""
    cadence = Cadence(Polling(delay=1.0))
    cadence.restore(after_200_ends())
    before = cadence.export()["integral"]
    for seconds in late:
        cadence.observe_news("a", "turn", 9.0, 11.0, seconds)
        after = cadence.export()["integral"]
        assert 0.979 < after / before < 1.011
        before = after


def test_a_wait_whose_beginning_is_unknown_teaches_nothing() -> None:
    """A conversation watched from somewhere in its middle is not taken for a short one."""
    cadence = Cadence(Polling())
    schedule = Schedule(cadence, "agent", "first", 0.0, is_start_known=False)
    schedule.record_poll(1.0, news=False, jitter=0.5)
    schedule.record_poll(2.0, news=True, jitter=0.5)
    assert cadence.export()["estimates"] == []
    schedule.record_poll(3.0, news=True, jitter=0.5)
    assert [entry["kind"] for entry in cadence.export()["estimates"]] == ["gap"]


@given(pollings, st.integers(0, 10**9))
def test_heavy_timelines_are_read_seldom_but_are_read(polling: Polling, weight: int) -> None:
    """Spacing grows with the weight and stays within `maximum`."""
    assert 0 <= timeline_spacing(polling, weight) <= polling.maximum
    assert timeline_spacing(Polling(), 25_000) < 0.5
    assert timeline_spacing(Polling(), 1_000_000) > 10


@pytest.mark.parametrize("name", ["delay", "first", "fraction", "maximum", "settle"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "1", None, True])
def test_bad_settings_are_refused(name: str, value: object) -> None:
    """A setting that is no length of time is a ConfigurationError when the policy is made."""
    with pytest.raises(ConfigurationError):
        Polling(**{name: value})  # type: ignore[arg-type]


def test_settings_are_seconds_or_timedeltas_and_frozen() -> None:
    """A timedelta becomes seconds; a policy cannot be changed."""
    polling = Polling(delay=timedelta(minutes=1), settle=0)
    assert (polling.delay, polling.settle) == (60.0, 0.0)
    with pytest.raises(AttributeError):
        polling.delay = 1.0  # type: ignore[misc]
