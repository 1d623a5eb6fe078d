"""What a seed means: the program, its size, the service and what goes wrong, all drawn before anything runs."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, Final

from attrs import evolve, frozen

from nairi_async.testing import FaultPlan, Quirks
from nairi_async.testing.faults import FAULT_KINDS

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAMS: Final = ("ask", "watch", "conversation", "ask_many", "batch", "chats", "keys", "found")

HAZARDS: Final = (
    "faults", "gateways", "cancels", "crashes", "errors", "lags", "orders", "skews", "holds", "latency", "queues",
    "disks", "edits", "jumps",
)  # fmt: skip
"""What can go wrong; each is drawn by itself, so that one left out leaves the others as they are."""
FAILING: Final = frozenset({"faults", "gateways", "latency"})
"""Those by which requests fail or take long."""


# Short turns cost fewer polls, and meet lags that are longer than they are.
SLOW_PACE: Final = 400.0
SLOW_SHARE: Final = 0.02
# Many turns for few prompts that are looked up.
FOUND_SHARE: Final = 0.02
MOST_FOUND: Final = 5
# How many of these runs are on a service that does not fail: only there a small delay is a mistake.
CALM_SHARE: Final = 0.7
PACES: Final = (0.03, 0.03, 0.1, 0.1, 0.3, 1.0)
ORDERS: Final = (
    ("oldest first", "kept"), ("newest first", "kept"), ("shuffled", "kept"), ("oldest first", "equal"),
    ("newest first", "equal"), ("oldest first", "omitted"), ("newest first", "omitted"),
)  # fmt: skip
"""Orders of a list from which the order of its messages can be told, with the times of the messages."""


@frozen
class Plan:
    """One run: everything that is drawn, with what a smaller run leaves out."""

    seed: int
    program: str
    size: int
    """Conversations."""
    turns: int
    """Prompts in each conversation, where the program has several."""
    hazards: frozenset[str]
    pace: float = 1.0
    """How long the agent's turns take: 1 is up to half a minute."""

    @property
    def command(self) -> str:
        """The command that runs it again."""
        hazards = ",".join(sorted(self.hazards)) or "none"
        return (
            f"python benchmarks/simulate.py --seed {self.seed} --program {self.program} --size {self.size} "
            f"--turns {self.turns} --hazards {hazards} --pace {self.pace:g}"
        )

    def random(self, purpose: str) -> Random:
        """Return the source of chance for one purpose."""
        return Random(f"{self.seed} {purpose}")

    def has(self, hazard: str) -> bool:
        """Return whether a hazard is part of the run."""
        return hazard in self.hazards

    @property
    def is_late(self) -> bool:
        """Return whether the service may show a message later than its turn ends."""
        quirks = self.quirks()
        return bool(quirks.list_lag or quirks.stale_by or quirks.late_by or self.fault_plan().rates.get("late"))

    def quirks(self) -> Quirks:
        """Return how the service behaves where its documentation is silent."""
        random = self.random("quirks")
        settings: dict[str, Any] = {
            "start_code": random.choice((200, 201)),
            "updated_at_moves": random.choice(("completion", "reply", "progress", "never")),
            "listing": random.random() < 0.9 or self.program == "found",
            "finished_jobs": "accept",
            "only_user_messages_by_id": random.random() < 0.2,
            "unknown_fields": random.random() < 0.2,
            "overlapping": random.choice(("queue", "queue", "refuse")),
            "repeat_every": random.choice((0, 0, 2)),
        }
        random = self.random("orders")
        orders = random.choice(ORDERS) if self.has("orders") else ORDERS[0]
        settings |= {"order": orders[0], "timestamps": orders[1], "order_seed": random.randrange(1000)}
        random = self.random("lags")
        # Their sum, with that of a fault, is below the settling time: beyond it a late message cannot be waited for.
        lags = {
            "list_lag": random.choice((0.0, 0.1, 0.3)),
            "status_lag": random.choice((0.0, 0.0, 3.0)),
            "stale_by": random.choice((0.0, 0.1, 0.2)),
            "stale_every": random.choice((1, 2, 3)),
            "late_by": random.choice((0.0, 0.1, 0.2)),
            "late_every": random.choice((1, 2, 3)),
        }
        if self.has("lags") and random.random() < 0.6:
            settings |= lags
        random = self.random("skews")
        if self.has("skews") and random.random() < 0.5:
            settings["clock_skew"] = random.choice((-7200.0, -40.0, 0.7, 40.0, 7200.0))
        return Quirks(**settings)

    def fault_plan(self) -> FaultPlan:
        """Return the share of requests that fail."""
        random = self.random("faults")
        rate = random.choice((0.0, 0.02, 0.1, 0.25)) if self.has("faults") else 0.0
        # Without times, a list in another order cannot be put right.
        kinds = [one for one in FAULT_KINDS if one != "reordered" or self.quirks().timestamps == "kept"]
        rates = dict.fromkeys(kinds, rate / len(kinds))
        return FaultPlan(seed=self.seed, rates=rates, lag=0.2, retry_after=1)

    def client_skew(self) -> float:
        """Return the seconds by which the program's clock is ahead."""
        random = self.random("client skew")
        return random.choice((0.0, -300.0, 5.0, 300.0)) if self.has("skews") else 0.0

    def jump(self, number: int) -> tuple[float, float, float]:
        """Return by how much the clock of a process is ahead at first, by how much later, and after which time."""
        random = self.random(f"jump {number}")
        before, after = (random.choice((0.0, -300.0, 300.0, -7200.0, 7200.0, -86400.0, 86400.0)) for _ in range(2))
        has_jump = self.has("jumps") and self.program in {"batch", "chats", "keys"}
        return (before, after, random.random() ** 2 * 20) if has_jump else (0.0, 0.0, 0.0)

    def hold_back(self) -> float:
        """Return the probability with which a callback waits for a further pass of the loop."""
        random = self.random("holds")
        return random.choice((0.0, 0.0, 0.1, 0.4)) if self.has("holds") else 0.0

    def latency(self) -> Callable[[Random], float]:
        """Return what draws the seconds that a request or a response travels."""
        random = self.random("latency")
        longest = random.choice((0.0, 0.02, 0.3, 3.0)) if self.has("latency") else 0.0
        return lambda draw: longest * draw.random() ** 3


def draw(seed: int, program: str | None = None) -> Plan:
    """Return the run of a seed."""
    random = Random(f"{seed} plan")
    chosen = random.choice(PROGRAMS[:-1])
    if Random(f"{seed} found").random() < FOUND_SHARE:
        chosen = "found"
    # Now and then large: one process for many turns costs less than many processes.
    size = random.choice((1, 2, 3, 5, 8, 12)) * Random(f"{seed} bulk").choice((1, 1, 2, 4))
    turns = random.choice((1, 2, 3, 4))
    hazards = frozenset(hazard for hazard in HAZARDS if random.random() < 0.6)
    pace = Random(f"{seed} pace").choice(PACES)
    if (program or chosen) == "ask_many" and Random(f"{seed} slow").random() < SLOW_SHARE:
        # Hours in the queue of an agent that runs one turn at a time.
        size, turns, pace, hazards = 12, 1, SLOW_PACE, hazards | {"queues"}
    if (program or chosen) == "found":
        # Long turns, so that few are enough to make a session trust the listing.
        size, turns, pace = min(size, MOST_FOUND), 1, 3.0
        if Random(f"{seed} calm").random() < CALM_SHARE:
            hazards -= FAILING
    return Plan(seed, program or chosen, size, turns, hazards, pace)


def smaller(plan: Plan) -> list[Plan]:
    """Return runs that are a little smaller: fewer conversations, fewer prompts, one hazard less."""
    sizes = sorted({1, plan.size // 2, plan.size - 1} - {0, plan.size})
    turns = sorted({1, plan.turns - 1} - {0, plan.turns})
    return [
        *(evolve(plan, size=size) for size in sizes if size < plan.size),
        *(evolve(plan, turns=count) for count in turns if count < plan.turns),
        *(evolve(plan, hazards=plan.hazards - {hazard}) for hazard in sorted(plan.hazards)),
    ]
