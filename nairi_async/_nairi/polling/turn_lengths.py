"""How long an agent's last turns took: how soon after a prompt a change can be an end. Pure: no clock, no I/O."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

# Number of the last turns that count.
_TURNS: Final = 200
# Share of turns that end long before the listing is read again from which on each turn is worth an early poll; and the
# earliest of such polls, and its distance from the longest of these turns.
_SHARE: Final = 0.03
_EARLIEST: Final = 0.2
_BEHIND: Final = 1.25


class TurnLengths:
    """The lengths of one agent's last turns, in seconds from the prompt to the end.

    Args:
        delay: Seconds after which an end is found on average where the listing is awaited.
    """

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._lengths: deque[float] = deque(maxlen=_TURNS)
        self.shortest: float = math.inf
        """The shortest; infinity before the first."""
        self.are_given: bool = False
        """Whether the service's times of a user message ever differed: otherwise they show no lengths."""
        self.early: float = math.inf
        """Seconds after a prompt at which a poll is worthwhile, because turns often end by then; infinity if few do."""

    def observe(self, seconds: float) -> bool:
        """Take in the length of one turn, and return whether it is shorter than all that count."""
        self._lengths.append(seconds)
        before, self.shortest = self.shortest, min(self._lengths)
        short = [length for length in self._lengths if length < self._delay]
        is_worth_it = bool(short) and len(short) >= _SHARE * len(self._lengths)
        self.early = min(self._delay, max(_EARLIEST * self._delay, _BEHIND * max(short))) if is_worth_it else math.inf
        return self.shortest < before
