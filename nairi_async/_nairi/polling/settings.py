"""Settings of polling: how soon news should be found, and within which bounds. Pure."""

from __future__ import annotations

from typing import Final

from attrs import field

from nairi_async._core import checks
from nairi_async._core.records import frozen

# A conversation is read at most this many bytes a second: megabytes are not fetched every other second.
_TIMELINE_BYTES_PER_SECOND: Final = 64 * 1024


@frozen(kw_only=True)
class Polling:
    """How soon news should be found, and the bounds within which the library polls for it.

    Durations are seconds, as a number or a `timedelta`.

    Args:
        delay: (1) The acceptable average time between an event and its discovery. Twice the delay takes about half the
            requests.
        first: (0.25) The time to the first poll while nothing is known of an agent; the interval doubles from there.
        fraction: (0.1) An interval is at most this share of the time already waited, or eight delays, whichever is
            longer.
        maximum: (30) The longest interval; five times that where a trusted listing announces changes.
        settle: (1) The time after the end of a turn in which late notices are still delivered. A reply that is listed
            even later, in a list that shows the end, is taken to be empty; read it again.

    Raises:
        ConfigurationError: a setting is not a number, or not positive.
    """

    delay: float = field(default=1.0, converter=checks.seconds)
    """Acceptable average time between an event and its discovery, in seconds. A larger one takes fewer requests."""
    first: float = field(default=0.25, converter=checks.seconds)
    """Seconds to the first poll while nothing is known of an agent; the interval doubles from there."""
    fraction: float = 0.1
    """Largest interval as a share of the time already waited; eight delays are allowed in any case."""
    maximum: float = field(default=30.0, converter=checks.seconds)
    """Longest interval in seconds. Where an agent's listing has proved that it announces changes, a conversation is
    polled without an announcement after five times that."""
    settle: float = field(default=1.0, converter=checks.seconds)
    """Seconds after the end of a turn in which late notices, and a reply that is listed late, are still delivered."""

    def __attrs_post_init__(self) -> None:
        checks.positive("delay", self.delay)
        checks.positive("first", self.first)
        checks.positive("fraction", self.fraction)
        checks.positive("maximum", self.maximum)
        checks.positive("settle", self.settle, or_zero=True)


def timeline_spacing(polling: Polling, weight: int) -> float:
    """Return the seconds by which reads of a whole conversation of `weight` bytes are kept apart.

    In between, the status of its open turn is read by itself.
    """
    return min(polling.maximum, weight / _TIMELINE_BYTES_PER_SECOND)
