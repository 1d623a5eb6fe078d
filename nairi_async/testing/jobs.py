"""Agents with their capacity, and jobs with what changes in them when; times are seconds since the epoch."""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from attrs import define, field

from nairi_async.testing.quirks import Moves
from nairi_async.testing.script import Script, default_script

if TYPE_CHECKING:
    from nairi_async.testing.timeline import Entry

JobStatus: TypeAlias = Literal["active", "completed", "error", "abandoned"]


@define
class Agent:
    """An agent, what it does with prompts, and when each of its instances is free again."""

    id: str
    agent_id: str
    name: str
    created: float
    updated: float
    script: Script = default_script
    instances: int | None = None
    queued: float = 0.0
    description: str | None = None
    system_prompt: str | None = None
    _free_at: list[float] = field(factory=list)
    _untouched: float = math.inf

    def set_capacity(self, instances: int | None, queued: float = 0.0) -> None:
        """Let `instances` turns run at a time (`None`: any number), each after at least `queued` seconds."""
        if (instances is not None and instances < 1) or not 0 <= queued < math.inf:
            msg = f"instances must be positive and queued a duration, not {instances} and {queued}"
            raise ValueError(msg)
        self.instances, self.queued = instances, queued
        self._free_at, self._untouched = [], math.inf if instances is None else instances

    def take_slot(self, ready: float) -> float:
        """Reserve an instance, and return when the turn begins; `leave_slot` says until when it runs.

        Of the instances that are free by then, the one that became so last: it is the one of the job's turn before.
        """
        in_time = [at for at in self._free_at if at <= ready]
        if not in_time and self._untouched:
            self._untouched -= 1
            return ready
        taken = max(in_time) if in_time else min(self._free_at)
        self._free_at.remove(taken)
        return max(ready, taken)

    def leave_slot(self, ended: float) -> None:
        """Give the reserved instance back as of the end of the turn."""
        if self.instances is not None:
            self._free_at.append(ended)


@define(eq=False)
class Job:
    """A conversation: its timeline, and when its status and its `updated_at` change."""

    id: str
    agent: Agent
    created: float
    is_api: bool = True
    entries: list[Entry] = field(factory=list)
    busy_until: float = -math.inf
    turns: int = 0
    statuses: list[tuple[float, JobStatus]] = field(factory=list)
    _moves: dict[Moves, list[float]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._moves = {moves: [self.created] for moves in get_args(Moves)}

    def status(self, now: float) -> JobStatus:
        """Return the status at that time; of equal times the later call counts."""
        known: list[JobStatus] = [status for at, status in self.statuses if at <= now]
        return known[-1] if known else "active"

    def updated(self, now: float, moves: Moves) -> float:
        """Return `updated_at` if `moves` is what moves it."""
        times = self._moves[moves]
        return times[max(bisect_right(times, now) - 1, 0)]

    def set_status(self, status: JobStatus, at: float) -> None:
        """Change the status from then on, unless `at` never comes."""
        if at < math.inf:
            insort(self.statuses, (at, status), key=lambda change: change[0])

    def moved(self, at: float, *kinds: Moves) -> None:
        """Note a change that moves `updated_at` where those kinds do."""
        for kind in kinds if at < math.inf else ():
            insort(self._moves[kind], at)

    def add(self, entry: Entry) -> None:
        """Put a message into its place by time of creation; of equal times the later call comes later."""
        insort(self.entries, entry, key=lambda one: one.created)
        kinds: tuple[Moves, ...] = ("progress",) if entry.role == "progress" else ("reply", "progress")
        for phase in entry.phases:
            self.moved(phase.at, *kinds)
