"""A simulated Amigo, whose conversations stream, and the steps of which its scripts are made."""

from __future__ import annotations

from nairi_async.testing.amigo.quirks import AmigoQuirks
from nairi_async.testing.amigo.script import Action, Complete, Cut, Error, Hang, Line, Speak, Think
from nairi_async.testing.amigo.simulator import AmigoSimulator
from nairi_async.testing.amigo.timeline import RecordedInteraction

__all__ = [
    "Action",
    "AmigoQuirks",
    "AmigoSimulator",
    "Complete",
    "Cut",
    "Error",
    "Hang",
    "Line",
    "RecordedInteraction",
    "Speak",
    "Think",
]
