"""When a lost prompt may have arrived, and how long it is searched for."""

from __future__ import annotations

import math
from typing import Final

from nairi_async._core.records import frozen

SETTLING_TIME: Final = 60.0
"""Seconds for which a lost prompt is searched for; a prompt that the service shows later is not found."""


@frozen
class SearchWindow:
    """When a prompt may have arrived, and where to search for it. Times are of the session's monotonic clock."""

    agent_id: str | None
    """The agent; required for a prompt that started a conversation."""
    sent_from: float
    """The earliest time at which it was sent."""
    search_until: float
    """The end of the settling time: the last search begins no earlier."""
    previous_message_id: str | None = None
    """The user message before it, where that is known."""
    arrived_by: float = math.inf
    """The latest time at which it can have arrived."""
    recorded_at: float = math.inf
    """The Unix time recorded when it was sent, by whichever clock; this machine's clock may have been set since."""
