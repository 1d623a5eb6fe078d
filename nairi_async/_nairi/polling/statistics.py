"""What a `NairiSession` has done so far: its requests, and what it found by polling."""

from __future__ import annotations

from nairi_async._core.exports import publish
from nairi_async._core.records import frozen
from nairi_async._core.statistics import RequestStats


@frozen(kw_only=True)
class Stats(RequestStats):
    """What a session has done so far; `print` shows it in four lines."""

    polls: int
    """Requests that looked for news: of statuses, timelines and listings."""
    turns_ended: int
    """Number of turns whose end was found."""
    discoveries: int
    """Polls that found news."""
    discovery_delay: float | None
    """Mean seconds between an event and its discovery: by the time that the service gives the end of a turn, where that
    is plausible, else half of the time since the poll before; `None` before the first."""
    open_watches: int
    """Watchers that wait for news right now, between two polls or for the response to one."""

    @property
    def polls_per_turn(self) -> float | None:
        """Polls for each turn whose end was found, those of turns that still run included; `None` before the first."""
        return self.polls / self.turns_ended if self.turns_ended else None

    def __str__(self) -> str:
        each = (
            f": {self.polls_per_turn:.1f} for each of {self.turns_ended:,} turns that ended" if self.turns_ended else ""
        )
        late = f", {self.discovery_delay:.2f} s late on average" if self.discovery_delay is not None else ""
        return "\n".join(
            (
                self._requests_line(),
                f"polls     {self.polls:,}{each}",
                f"news      found {self.discoveries:,} times{late}",
                f"now       {self.open_watches:,} watches open, {self._now()}",
            )
        )


publish(__name__)
