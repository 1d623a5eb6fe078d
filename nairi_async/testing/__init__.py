"""For tests of programs that use `nairi_async`: a simulated service, scripted agents and virtual time."""

from __future__ import annotations

from nairi_async.testing.clock import VirtualClock
from nairi_async.testing.faults import FaultPlan
from nairi_async.testing.gate import Seen
from nairi_async.testing.quirks import Quirks
from nairi_async.testing.script import (
    Done,
    Fail,
    Notice,
    Progress,
    Say,
    Step,
    Subagent,
    Text,
    Thinking,
    Tool,
)
from nairi_async.testing.simulator import Simulator
from nairi_async.testing.world import Asked

__all__ = [
    "Asked",
    "Done",
    "Fail",
    "FaultPlan",
    "Notice",
    "Progress",
    "Quirks",
    "Say",
    "Seen",
    "Simulator",
    "Step",
    "Subagent",
    "Text",
    "Thinking",
    "Tool",
    "VirtualClock",
]
