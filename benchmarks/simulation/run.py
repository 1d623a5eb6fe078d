"""Running a seed, comparing two runs of it, and shrinking one that fails."""

from __future__ import annotations

import gc
import sys
import warnings
from functools import partial
from typing import Any

from attrs import field, frozen

from nairi_async.testing.deterministic import LoopClock, StuckError, VirtualTime
from simulation.checks import AGENT, LIVES, script
from simulation.gateway import install, install_edits
from simulation.lives import MANY_LIVES
from simulation.plan import SLOW_PACE, Plan, smaller
from simulation.process import Process, Universe
from simulation.programs import ONE_LIFE


@frozen
class Result:
    """What a run has shown."""

    plan: Plan
    violations: tuple[str, ...]
    turns: int
    requests: int
    seconds: float
    """Virtual time that passed."""
    trace: tuple[object, ...] = field(repr=False)
    """All that happened: equal for equal plans."""

    @property
    def events(self) -> list[str]:
        """All that happened, in the order of time, as texts."""
        epoch = LoopClock(VirtualTime()).epoch

        def time_of(event: Any) -> float:
            return float(event[0] if isinstance(event, tuple) else event.at - epoch)

        return [str(event) for event in sorted(self.trace, key=time_of)]


def run(plan: Plan) -> Result:
    """Run a plan."""
    universe = Universe(plan)
    # The tasks of a killed process complain when they are collected.
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    # What was there before is not searched when the run is cleared away.
    gc.freeze()
    with warnings.catch_warnings():
        # So do coroutines of a killed process that were never run.
        warnings.simplefilter("ignore", RuntimeWarning)
        return _run(universe, hook)


def _run(universe: Universe, hook: Any) -> Result:
    plan = universe.plan
    try:
        if plan.has("gateways"):
            install(universe)
        if plan.has("edits"):
            install_edits(universe)
        try:
            run_program(universe)
        except StuckError as error:
            universe.violate("stuck", str(error))
        except Exception as error:  # noqa: BLE001 - an error that the program does not know is a finding
            universe.violate("crash", f"{type(error).__name__}: {error}"[:500])
        simulator = universe.simulator
        trace = (*universe.trace, *simulator.requests, *simulator.prompts)
        return Result(
            plan, tuple(universe.violations), len(simulator.prompts), len(simulator.requests), universe.time.now, trace
        )
    finally:
        universe.close()
        gc.collect()
        gc.unfreeze()
        sys.unraisablehook = hook


def run_program(universe: Universe) -> None:
    """Run the program of a plan to its end, in one process or in several."""
    plan = universe.plan
    agent_chance = plan.random("agent")
    instances = agent_chance.choice((None, 1, 3)) if plan.has("queues") else None
    if plan.pace == SLOW_PACE:
        instances = 1
    universe.simulator.agent(AGENT, partial(script, pace=plan.pace), instances=instances, queued=0.0)
    if plan.program in ONE_LIFE:
        Process(universe, 0, None).run(ONE_LIFE[plan.program])
        return
    program = MANY_LIVES[plan.program](universe)
    chance = plan.random("lives")
    for life in range(chance.choice((1, 2, 3, 5))):
        crash_at = int(10 ** (chance.random() * 3.2)) if plan.has("crashes") else None
        Process(universe, life, crash_at).run(program)
        # What happens at the service goes on while no process runs.
        universe.time.now += chance.random() ** 3 * 60
    universe.calm()
    universe.time.now += 120
    Process(universe, LIVES, None).run(program)
    program.check()


def shrink(failed: Result, attempts: int = 200) -> Result:
    """Return a smaller run that breaks the same promise."""
    rule = failed.violations[0].split(":")[0]
    best = failed
    found = True
    while found and attempts > 0:
        found = False
        for plan in smaller(best.plan):
            attempts -= 1
            result = run(plan)
            if any(one.startswith(f"{rule}:") for one in result.violations):
                best, found = result, True
                break
    return best
