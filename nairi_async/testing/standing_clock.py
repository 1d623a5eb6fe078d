"""Finds clients that poll while virtual time stands still: their clock is another one, and they would poll forever."""

from __future__ import annotations

import time
from typing import Final

from attrs import define, field

from nairi_async.clock import Clock  # noqa: TC001 - attrs resolves the annotations of fields
from nairi_async.testing.clock import VirtualClock
from nairi_async.testing.json_bodies import RefusedError

# How often the same unfinished turn is read at the same virtual time, and in how many real seconds.
_POLLS: Final = 3
_SECONDS: Final = 0.3
_TEXT: Final = (
    "virtual time stands still: this client has another clock. Give its session the clock of the simulator (`clock=`,"
    " fixture `nairi_clock`), or use a simulator in real time (fixture `nairi_environment`)"
)


@define
class StandingClock:
    """Counts reads of unfinished turns at one virtual time."""

    clock: Clock
    _at: float = -1.0
    _polls: dict[str, tuple[int, float]] = field(factory=dict)

    def observe(self, path: str, *, is_unfinished: bool) -> None:
        """Take note of a read.

        Raises:
            RefusedError: the same unfinished turn was read several times, and nothing lets the clock go on.
        """
        clock = self.clock
        if not is_unfinished or not isinstance(clock, VirtualClock) or not clock.stands_still:
            return
        if clock.monotonic() != self._at:
            self._at = clock.monotonic()
            self._polls.clear()
        now = time.monotonic()
        polls, since = self._polls.get(path, (0, now))
        self._polls[path] = polls + 1, since
        if polls + 1 >= _POLLS and now - since >= _SECONDS:
            raise RefusedError(400, _TEXT)
