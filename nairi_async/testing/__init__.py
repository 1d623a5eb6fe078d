"""For tests of programs that use `nairi_async`: simulated services, scripted agents and virtual time.

Give the same `VirtualClock` to the simulator and to the session; otherwise the test never ends.
The steps of scripts for Amigo are in `nairi_async.testing.amigo`.
"""

from __future__ import annotations

from nairi_async.testing.amigo import AmigoQuirks, AmigoSimulator, RecordedInteraction
from nairi_async.testing.clock import VirtualClock
from nairi_async.testing.faults import FaultPlan
from nairi_async.testing.middleware import RecordedRequest
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
from nairi_async.testing.state import RecordedPrompt

__all__ = [
    "AmigoQuirks",
    "AmigoSimulator",
    "Done",
    "Fail",
    "FaultPlan",
    "Notice",
    "Progress",
    "Quirks",
    "RecordedInteraction",
    "RecordedPrompt",
    "RecordedRequest",
    "Say",
    "Simulator",
    "Step",
    "Subagent",
    "Text",
    "Thinking",
    "Tool",
    "VirtualClock",
]
