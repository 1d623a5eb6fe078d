"""A bounded part of the deterministic simulation (`benchmarks/simulate.py`)."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve
from simulation.plan import HAZARDS, PROGRAMS, draw
from simulation.run import run, shrink

from nairi_async.testing.state import NairiState

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
SEEDS = 10
LARGEST = 5
# What the simulation has found in the library, by the seeds that found it.
FOUND = [
    ("a listing that is read for longer than its interval: its readers did not wait", 1513, "watch", 12, 3, 1.0),
    ("the same, with many prompts at once", 1046, "ask_many", 12, 4, 1.0),
    ("lists that are newest first, without times", 31, "ask", 8, 3, 1.0),
    ("a gateway's 408 counted as a refusal", 196, "batch", 12, 3, 1.0),
    ("the next prompt was listed before its response was here, without times", 1084, "conversation", 5, 2, 1.0),
    ("the first messages of the next turn were taken for the reply, without times", 1063, "conversation", 8, 3, 1.0),
    ("prompts at both ends of a list, all ended: the session has begun one", 100320, "conversation", 6, 4, 0.03),
    ("a lost prompt was looked up by a clock that was set meanwhile", 229, "keys", 12, 1, 0.3),
    ("a ledger was locked after two cancellations", 48, "batch", 8, 1, 1.0),
]
# The same in `Chats`, found with the hazards that are named.
FOUND_IN_CHATS = [
    ("a recovered prompt lost its response, and the next one went out", 69, 5, 3, "gateways"),
    ("the same, and the lost one never ran", 1936, 1, 4, "crashes,gateways,holds,lags"),
    ("a response that came at once: the dialogue's id was not saved", 4412, 1, 1, "crashes,orders"),
    ("a lookup was undecided, as those of other chats had not ended", 4090, 8, 1, "crashes,latency"),
    ("recovery gave up after one error, and a new prompt overtook", 4501, 5, 4, None),
    ("a waiting prompt was reported as lost while the disk was full", 409, 8, 4, None),
    (
        "a replica that did not know a new conversation: its reply was given up",
        2000997,
        1,
        2,
        "crashes,gateways,latency",
    ),
]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Silence the library, which warns of what the simulation does to it."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("program", PROGRAMS)
def test_promises_hold(program: str) -> None:
    """Under what the seeds draw nothing runs twice, and nothing is lost, wrong or out of order."""
    plans = [draw(seed, program) for seed in range(SEEDS)]
    results = [run(evolve(plan, size=min(plan.size, LARGEST))) for plan in plans]
    assert [(result.plan.command, result.violations) for result in results if result.violations] == []
    assert sum(result.turns for result in results) > SEEDS


@pytest.mark.parametrize(
    ("seed", "program", "size", "turns", "pace"), [one[1:] for one in FOUND], ids=[one[0] for one in FOUND]
)
def test_what_was_found_stays_mended(seed: int, program: str, size: int, turns: int, pace: float) -> None:
    """The seeds that found a fault in the library find it no more."""
    assert run(evolve(draw(seed, program), size=size, turns=turns, pace=pace)).violations == ()


@pytest.mark.parametrize(
    ("seed", "size", "turns", "hazards"), [one[1:] for one in FOUND_IN_CHATS], ids=[one[0] for one in FOUND_IN_CHATS]
)
def test_what_was_found_in_chats_stays_mended(seed: int, size: int, turns: int, hazards: str | None) -> None:
    """The runs that found a fault in `Chats` find it no more."""
    plan = evolve(draw(seed, "chats"), size=size, turns=turns, pace=1.0)
    if hazards is not None:
        plan = evolve(plan, hazards=frozenset(hazards.split(",")))
    assert run(plan).violations == ()


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_seed_replays_a_run(program: str) -> None:
    """Two runs of a plan are the same in all that happens: requests with their times and faults, kills, replies."""
    plan = evolve(draw(11, program), size=3, turns=2, hazards=frozenset(HAZARDS))
    first, second = run(plan), run(plan)
    assert first.trace == second.trace
    assert first.requests > 5


def test_a_seed_replays_a_run_in_another_process() -> None:
    """The printed command gives the same run there, event by event."""
    plan = evolve(draw(3, "batch"), size=3, turns=2)
    command = [sys.executable, *plan.command.split()[1:], "--trace"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    events = run(plan).events
    assert ran.stdout.splitlines()[: len(events)] == events
    assert len(events) > 20


def test_a_broken_promise_is_found_and_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that runs a prompt twice is found; what is left of the run is small, and its command replays it."""
    start = NairiState.start

    def twice(state: NairiState, reference: str, prompt: str, now: float, **settings: Any) -> Any:
        if prompt == "prompt 1":
            start(state, reference, prompt, now)
        return start(state, reference, prompt, now, **settings)

    monkeypatch.setattr(NairiState, "start", twice)
    failed = run(evolve(draw(5, "ask"), size=8, hazards=frozenset({"holds", "queues", "skews"})))
    assert failed.violations
    smallest = shrink(failed)
    assert (smallest.plan.size, smallest.plan.hazards) == (2, frozenset())
    assert smallest.plan.command.endswith("--program ask --size 2 --turns 1 --hazards none --pace 0.1")
