"""Deterministic simulation: thousands of turns a second on a hostile service, each failure replayed by its seed.

python benchmarks/simulate.py --minutes 60              # as many seeds as fit
python benchmarks/simulate.py --seeds 0:10000           # these
python benchmarks/simulate.py --seed 17 --trace         # one again, with all that happens in it
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from attrs import evolve
from simulation.plan import HAZARDS, PROGRAMS, Plan, draw
from simulation.run import Result, run, shrink


def main() -> int:
    """Run the command; return 1 if a promise was broken."""
    arguments = _arguments()
    logging.disable()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets of texts is part of a run.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})  # noqa: S606
    if arguments.seed is not None:
        return _one(arguments)
    first, _, last = arguments.seeds.partition(":")
    seeds = iter(range(int(first), int(last) if last else sys.maxsize))
    begun, used = time.monotonic(), time.process_time()
    totals: Counter[str] = Counter()
    failed: list[Result] = []
    for seed in seeds:
        if time.monotonic() - begun > arguments.minutes * 60 or len(failed) >= arguments.findings:
            break
        result = run(_narrowed(draw(seed, arguments.program), arguments))
        totals["seeds"] += 1
        totals["turns"] += result.turns
        totals["requests"] += result.requests
        if result.violations:
            failed.append(result)
            totals[result.violations[0].split(":")[0]] += 1
            print(f"{result.plan.command}\n    {result.violations[0][:200]}", flush=True)
    used = time.process_time() - used
    print(f"{dict(totals)}: {totals['turns'] / used:.0f} turns a second of processor time, {used:.0f} s")
    for result in failed[: arguments.shrink]:
        _show(shrink(result))
    return 1 if failed else 0


def _one(arguments: argparse.Namespace) -> int:
    result = run(_narrowed(draw(arguments.seed, arguments.program), arguments))
    if arguments.trace:
        print(*result.events, sep="\n")
    if result.violations and arguments.shrink:
        result = shrink(result)
    _show(result)
    return 1 if result.violations else 0


def _show(result: Result) -> None:
    print(f"\n{result.plan.command}\n    {result.turns} turns, {result.requests} requests, {result.seconds:.1f} s")
    for violation in result.violations:
        print(f"    {violation}")


def _narrowed(plan: Plan, arguments: argparse.Namespace) -> Plan:
    if arguments.size:
        plan = evolve(plan, size=arguments.size)
    if arguments.turns:
        plan = evolve(plan, turns=arguments.turns)
    if arguments.pace:
        plan = evolve(plan, pace=arguments.pace)
    if arguments.hazards:
        plan = evolve(plan, hazards=frozenset(arguments.hazards.split(",")) & set(HAZARDS))
    return evolve(plan, hazards=plan.hazards - set((arguments.without or "").split(",")))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seeds", default="0:", help="FIRST:LAST, the last not included; without LAST until the time is over"
    )
    parser.add_argument("--minutes", type=float, default=1.0, help="how long to run, in minutes")
    parser.add_argument("--findings", type=int, default=10, help="stop after this many seeds that fail")
    parser.add_argument("--seed", type=int, help="run one seed")
    parser.add_argument("--program", choices=PROGRAMS)
    parser.add_argument("--size", type=int, help="conversations")
    parser.add_argument("--turns", type=int, help="prompts in each")
    parser.add_argument("--pace", type=float, help="how long turns take; 1 is up to half a minute")
    parser.add_argument("--hazards", help="separated by commas, of " + ", ".join(HAZARDS) + "; or none")
    parser.add_argument("--without", help="hazards to leave out, separated by commas")
    parser.add_argument("--shrink", type=int, default=0, help="how many failing seeds to shrink")
    parser.add_argument("--trace", action="store_true", help="print all that happens in the run of one seed")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
