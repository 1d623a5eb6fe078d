"""Prompts run once each, whatever happens between caller and service; see `benchmarks/fuzz_delivery.py`."""

from __future__ import annotations

import fuzz_delivery
import pytest


@pytest.mark.parametrize("seed", range(25))
def test_nothing_runs_twice_and_nothing_is_lost(seed: int) -> None:
    """Responses, recordings and calls get lost at random: no prompt runs twice, and no turn has two prompts.

    Clocks differ by up to a day, lists are late, stale and in any order, prompts arrive late, and calls are cancelled
    once or twice. In the end only prompts are undecided that may be someone else's, or are dated by another clock.
    """
    tally = fuzz_delivery.fuzz(seed)
    assert (tally.twice, tally.lost, tally.stuck) == (0, 0, 0), tally
