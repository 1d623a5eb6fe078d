"""What is watched, and what one watcher reports of its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nairi_async._core.records import frozen
from nairi_async.errors import WatchTimeoutError

if TYPE_CHECKING:
    from nairi_async.models import Turn


class WatchTarget:
    """What is watched, and how far the watch has come: the facts in the error of a timeout."""

    __slots__ = ("agent_id", "cursor", "job_id", "status", "turn")

    def __init__(self, job_id: str, turn: Turn | None, agent_id: str | None, *, cursor: str | None = None) -> None:
        self.job_id: str = job_id
        self.turn: Turn | None = turn
        self.agent_id: str | None = agent_id
        self.status: str | None = None
        self.cursor: str | None = cursor

    def timeout_error(self) -> WatchTimeoutError:
        """Return the error of a wait that is over."""
        what = f"turn {self.turn.message_id}" if self.turn is not None else f"conversation {self.job_id}"
        text = f"{what} has not ended within the timeout; its last status was {self.status or 'never read'}"
        return WatchTimeoutError(text, self.turn, self.status, self.cursor)

    def unlisted_error(self) -> WatchTimeoutError:
        """Return the error of an end that the list of the conversation's messages still does not show."""
        what = f"turn {self.turn.message_id}" if self.turn is not None else f"the last turn of {self.job_id}"
        text = f"{what} has ended, but the list of messages is still older than that: read it again later"
        return WatchTimeoutError(text, self.turn, self.status, self.cursor)


@frozen
class FoundEnd:
    """The end of a turn, as one watcher found it."""

    found_at: float
    """When the poll that showed it began."""
    discovery_delay: float
    """Estimated seconds between the end and its discovery."""
