"""Agents with their capacity, and jobs with their changes over time; times are seconds since the epoch."""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from attrs import define, field

from nairi_async.testing.quirks import Moves
from nairi_async.testing.script import Script, default_script

if TYPE_CHECKING:
    from nairi_async.testing.timeline import ScriptedMessage

JobStatus: TypeAlias = Literal["active", "completed", "error", "abandoned"]


@define
class Agent:
    """An agent, its script, and when each of its instances is free again."""

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

    def acquire(self, ready: float) -> float:
        """Reserve an instance, and return when the turn begins; `release` sets when it ends.

        Among the instances that are free by then, take the one freed last: it ran the job's previous turn.
        """
        free = [at for at in self._free_at if at <= ready]
        if not free and self._untouched:
            self._untouched -= 1
            return ready
        free_at = max(free) if free else min(self._free_at)
        self._free_at.remove(free_at)
        return max(ready, free_at)

    def release(self, ended: float) -> None:
        """Free the reserved instance from the end of the turn on."""
        if self.instances is not None:
            self._free_at.append(ended)


@define(eq=False)
class Job:
    """A conversation: its messages, and when its status and its `updated_at` change."""

    id: str
    agent: Agent
    created: float
    is_api: bool = True
    messages: list[ScriptedMessage] = field(factory=list)
    busy_until: float = -math.inf
    turns: int = 0
    statuses: list[tuple[float, JobStatus]] = field(factory=list)
    _moves: dict[Moves, list[float]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._moves = {moves: [self.created] for moves in get_args(Moves)}

    def status(self, now: float) -> JobStatus:
        """Return the status at that time; between equal times the later call of `set_status` wins."""
        known: list[JobStatus] = [status for at, status in self.statuses if at <= now]
        return known[-1] if known else "active"

    def updated(self, now: float, moves: Moves) -> float:
        """Return `updated_at` where `moves` is the kind of change that moves it."""
        times = self._moves[moves]
        return times[max(bisect_right(times, now) - 1, 0)]

    def last_updated(self, moves: Moves) -> float:
        """Return the last time at which `moves` moves `updated_at`, past or to come."""
        return self._moves[moves][-1]

    def set_status(self, status: JobStatus, at: float) -> None:
        """Change the status from `at` on, unless it is infinite."""
        if at < math.inf:
            insort(self.statuses, (at, status), key=lambda change: change[0])

    def touch(self, at: float, *kinds: Moves) -> None:
        """Record a change that moves `updated_at` where one of these kinds does."""
        for kind in kinds if at < math.inf else ():
            insort(self._moves[kind], at)

    def add(self, message: ScriptedMessage) -> None:
        """Insert a message in order of creation; between equal times the later call comes later."""
        insort(self.messages, message, key=lambda one: one.created)
        kinds: tuple[Moves, ...] = ("progress",) if message.role == "progress" else ("reply", "progress")
        for version in message.versions:
            self.touch(version.at, *kinds)
