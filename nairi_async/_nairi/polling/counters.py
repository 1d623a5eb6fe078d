"""What polling finds, counted as it happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nairi_async._core.statistics import RequestStats
    from nairi_async._nairi.polling.statistics import Stats


class PollCounters:
    """The running counts of polling behind `Stats`."""

    __slots__ = ("delays", "discoveries", "open_watches", "polls", "turns_ended")

    def __init__(self) -> None:
        self.polls: int = 0
        self.turns_ended: int = 0
        self.discoveries: int = 0
        self.delays: float = 0.0
        self.open_watches: int = 0

    def discovered(self, delay: float) -> None:
        """Count a poll that found news, on average `delay` seconds old."""
        self.discoveries += 1
        self.delays += delay

    def stats(self, requests: RequestStats) -> Stats:
        """Return the counts as they are now, with those of the requests."""
        from nairi_async._nairi.polling.statistics import Stats  # noqa: PLC0415 - few programs ask for it

        return Stats(
            requests=requests.requests,
            retries=requests.retries,
            bytes_received=requests.bytes_received,
            open_connections=requests.open_connections,
            free_connections=requests.free_connections,
            waiting_calls=requests.waiting_calls,
            polls=self.polls,
            turns_ended=self.turns_ended,
            discoveries=self.discoveries,
            discovery_delay=self.delays / self.discoveries if self.discoveries else None,
            open_watches=self.open_watches,
        )
