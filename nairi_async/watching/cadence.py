"""When to look again, as plain arithmetic: no clock, no input, no output (design section 7)."""

from __future__ import annotations

from typing import Final

from attrs import field, frozen

from nairi_async import checks

# Half the width of the jitter: enough to pull apart conversations that were started together.
_JITTER: Final = 0.1
# A conversation's timeline is read at most this many bytes a second: megabytes are not fetched every other second.
_TIMELINE_BYTES_PER_SECOND: Final = 64 * 1024


@frozen(kw_only=True)
class Polling:
    """How soon news should be found, and the bounds within which the library looks for it."""

    delay: float = field(default=1.0, converter=checks.seconds)
    """The mean time between an event and its discovery that is acceptable, in seconds."""
    first: float = field(default=0.25, converter=checks.seconds)
    """Seconds from the start, or from the last news, to the next look."""
    fraction: float = 0.5
    """Largest interval as a share of the time already waited: a short turn is never waited for long."""
    maximum: float = field(default=30.0, converter=checks.seconds)
    """Largest interval in seconds, whatever else holds."""
    settle: float = field(default=1.0, converter=checks.seconds)
    """Seconds after the end of a turn in which late notices are still delivered."""

    def __attrs_post_init__(self) -> None:
        checks.positive("delay", self.delay)
        checks.positive("first", self.first)
        checks.positive("fraction", self.fraction)
        checks.positive("maximum", self.maximum)
        checks.positive("settle", self.settle, or_zero=True)


class Cadence:
    """When to look next at one conversation: told what each look brought, it answers with a delay."""

    def __init__(self, polling: Polling, began: float) -> None:
        self._polling = polling
        self._began = began

    def feed(self, now: float, *, news: bool, jitter: float) -> float:
        """Seconds to the next look, after a look at `now`; `jitter` is in [0, 1).

        News makes it quick again, because what one agent says is often followed by more.
        """
        if news:
            self._began = now
        polling = self._polling
        # A fixed interval finds things half of it late on the mean, and no schedule does much better unless it knows
        # how long turns last.
        steady = 2.0 * polling.delay
        allowed = max(polling.first, polling.fraction * (now - self._began))
        spread = 1.0 + _JITTER * (2.0 * jitter - 1.0)
        return min(polling.maximum, spread * min(steady, allowed))


def timeline_spacing(polling: Polling, weight: int) -> float:
    """Seconds that reads of a whole conversation of `weight` bytes are kept apart; its status is read in between."""
    return min(polling.maximum, weight / _TIMELINE_BYTES_PER_SECOND)
