"""Running a seed, comparing two runs of it, and shrinking one that fails."""

from __future__ import annotations

import gc
import sys

from attrs import field, frozen

from nairi_async.testing.deterministic import StuckError
from simulation.gateway import install
from simulation.plan import Plan, smaller
from simulation.process import Universe
from simulation.programs import run_program


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
    """All that happened, in order: equal for equal plans."""


def run(plan: Plan) -> Result:
    """Run a plan."""
    universe = Universe(plan)
    # The tasks of a killed process complain when they are collected.
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        if plan.has("gateways"):
            install(universe)
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
        sys.unraisablehook = hook


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
