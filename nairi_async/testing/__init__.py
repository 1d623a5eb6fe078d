"""For tests of programs that use `nairi_async`: simulated services, scripted agents and virtual time.

The steps of scripts for Amigo are in `nairi_async.testing.amigo`.
"""

from __future__ import annotations

from nairi_async.testing.amigo import AmigoAsked, AmigoQuirks, AmigoSimulator
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
    "AmigoAsked",
    "AmigoQuirks",
    "AmigoSimulator",
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
