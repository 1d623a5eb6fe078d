"""What a session has done so far, counted as it happens."""

from __future__ import annotations

from attrs import define, frozen


@frozen(kw_only=True)
class Stats:
    """What a session has done so far."""

    requests: int
    """Requests sent, each attempt counted."""
    retries: int
    """Requests among them that repeated a failed one."""
    bytes_received: int
    """Bytes of the bodies of all answers, decompressed."""
    looks: int
    """Requests that looked for news: of statuses, timelines and listings."""
    turns_ended: int
    """Turns whose end was found."""
    discoveries: int
    """Looks that found news."""
    discovery_delay: float | None
    """Mean seconds between an event and its discovery, taken as half of the time since the look before; `None` before
    the first."""
    open_watches: int
    """Conversations waited for right now."""
    waiting_calls: int
    """Calls that wait for a connection, or for a rate limit to pass, right now."""


@define
class Meter:
    """The running counts behind `Stats`."""

    requests: int = 0
    retries: int = 0
    bytes_received: int = 0
    looks: int = 0
    turns_ended: int = 0
    discoveries: int = 0
    delays: float = 0.0
    open_watches: int = 0

    def discovered(self, delay: float) -> None:
        """A look has found news that is on the mean so many seconds old."""
        self.discoveries += 1
        self.delays += delay

    def read(self, *, waiting_calls: int) -> Stats:
        """The counts as they are now."""
        return Stats(
            requests=self.requests,
            retries=self.retries,
            bytes_received=self.bytes_received,
            looks=self.looks,
            turns_ended=self.turns_ended,
            discoveries=self.discoveries,
            discovery_delay=self.delays / self.discoveries if self.discoveries else None,
            open_watches=self.open_watches,
            waiting_calls=waiting_calls,
        )
