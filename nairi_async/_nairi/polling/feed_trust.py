"""What an agent's listing of conversations announces, and whether it can be believed: pure, without clock or I/O.

Nobody documents what moves a job's `updated_at`, nor how fresh the listing is. So it is put to the proof: what looks
find by themselves must have been announced, and announcements must be worth their follow-ups (design section 7).
"""

from __future__ import annotations

from datetime import MINYEAR, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Final

from attrs import define, field, frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nairi_async.models import ConversationSummary

PAGE: Final = 100
"""Rows of a page, the most that the service gives (api: list of an agent's conversations)."""
# How far behind the newest time seen each reading begins again, for rows that share a time or were committed late.
_OVERLAP: Final = timedelta(seconds=2)
# The service's times have milliseconds, and `updated_after` is strictly after.
_TICK: Final = timedelta(milliseconds=1)
# Seconds that the service's times may be rounded by.
_ROUNDING: Final = 0.01
# Seconds to which the service's time must be known to tell a prompt's own change from a very short turn.
_SURE: Final = 0.1
# Seconds that a look's answer may be behind: what was announced so long before it may be news to it all the same.
_STALE: Final = 1.0
# Announced discoveries that make a listing trusted.
_PROOFS: Final = 3
# Requests with a trusted listing must stay below this share of what the looks that it saves would have cost.
_WORTH: Final = 0.8
# Looks saved, by estimate, and readings made, before the worth is judged, and judged again.
_SAMPLE: Final = 200.0
_READINGS: Final = 10


@frozen
class Query:
    """One page of the listing."""

    updated_after: datetime | None
    """Strictly after this; the newest rows if `None`."""
    offset: int = 0
    """Rows to leave out: only where more rows than a page share one time."""


class Listing:
    """Reads what has changed since it was last read, page by page, by the service's own clock only.

    Pages are cut at times, not at offsets: a row that moves between two pages moves to the end and is seen there.
    """

    def __init__(self) -> None:
        self._newest: datetime | None = None
        self._known: dict[str, datetime] = {}
        self._query = Query(None)

    def begin(self) -> Query:
        """The first page of the next reading."""
        self._query = Query(None if self._newest is None else self._newest - _OVERLAP)
        return self._query

    def feed(self, rows: Sequence[ConversationSummary]) -> tuple[dict[str, ConversationSummary], Query | None]:
        """What has changed according to one page, and the next page, if there is one.

        Raises:
            ValueError: a row without a time; nothing can be told by such a listing.
        """
        changed: dict[str, ConversationSummary] = {}
        for row in rows:
            if row.updated_at is None or row.updated_at.year == MINYEAR:
                # The first year is how some print no time, and nothing can be reckoned back from it.
                raise ValueError("a conversation is listed without updated_at")
            known = self._known.get(row.id)
            if known is None or row.updated_at > known:
                changed[row.id] = row
                self._known[row.id] = row.updated_at
        times = [row.updated_at for row in rows if row.updated_at is not None]
        is_baseline = self._query.updated_after is None
        self._newest = max([*times, *([self._newest] if self._newest is not None else [])], default=None)
        if is_baseline or len(rows) < PAGE:
            self._forget()
            return changed, None
        following = times[-1] - _TICK
        is_stuck = self._query.updated_after is not None and following <= self._query.updated_after
        offset = self._query.offset + len(rows) if is_stuck else 0
        self._query = Query(self._query.updated_after if is_stuck else following, offset)
        return changed, self._query

    def _forget(self) -> None:
        """Rows that no later reading repeats need not be remembered."""
        if self._newest is not None:
            oldest = self._newest - 2 * _OVERLAP
            self._known = {job_id: time for job_id, time in self._known.items() if time >= oldest}


class TrustState(Enum):
    """What a listing is good for."""

    ON_TRIAL = "on trial"
    TRUSTED = "trusted"
    OFF = "off"


@define
class FeedTrust:
    """Whether what a listing announces can replace looking, for one kind of news."""

    state: TrustState = TrustState.ON_TRIAL
    reason: str = ""
    """Why it was switched off."""
    _proofs: int = 0
    _cost: float = 0.0
    _saved: float = 0.0
    _readings: int = 0
    _doubts: list[tuple[WatchedJob, float, float]] = field(factory=list)

    def found(self, job: WatchedJob, alive: float, found: float) -> None:
        """A look at `found` has found news that was not there at `alive`, both by the watcher's clock."""
        if self.state is TrustState.OFF:
            return
        if not self._told(job, alive):
            self._doubts.append((job, alive, found))

    def read(self, started_at: float, grace: float) -> None:
        """The listing was read to its end, beginning at `began`: what was found `grace` before must be in it."""
        pending = []
        for job, alive, found in self._doubts:
            if self._told(job, alive):
                continue
            if started_at > found + grace:
                self.switch_off("it did not announce a change")
            else:
                pending.append((job, alive, found))
        self._doubts = pending
        self._readings += 1
        if self._readings >= _READINGS and self._saved >= _SAMPLE:
            if self._cost > _WORTH * self._saved and self.state is not TrustState.OFF:
                self.switch_off("it costs more than it saves")
            self._readings = 0
            self._cost /= 2.0
            self._saved /= 2.0

    def spent(self, requests: float, saved: float) -> None:
        """What the listing has cost, follow-ups included, and how many looks it has saved or would have."""
        self._cost += requests
        self._saved += saved

    def switch_off(self, reason: str) -> None:
        """Never believe it again."""
        self.state, self.reason = TrustState.OFF, reason

    def _told(self, job: WatchedJob, alive: float) -> bool:
        """Whether the listing has told of what happened after `alive`; a proof, unless it may have been the prompt."""
        if not job.has_news(alive - _STALE, own=True):
            return False
        self._proofs += not job.is_doubtful
        is_worth_it = self._cost <= _WORTH * self._saved
        if self._proofs >= _PROOFS and is_worth_it and self.state is TrustState.ON_TRIAL:
            self.state = TrustState.TRUSTED
        return True


@define(eq=False)
class WatchedJob:
    """One watched conversation, as the listing sees it."""

    job_id: str
    moved_at: float = float("-inf")
    """When the page that announced it last was answered, by the session's clock."""
    is_doubtful: bool = False
    """Whether the last change may have been the prompt itself: following it says nothing about the listing."""
    is_only_prompt: bool = False
    """Whether the last change is the prompt itself: no news for whoever sent it."""
    prompted: tuple[float, float] | None = None
    """When its last prompt was sent and answered, by the session's clock, until that change was listed."""

    def announce(
        self, row: ConversationSummary, at: float, server_time: Callable[[float], tuple[float, float]]
    ) -> None:
        """Note that a page which was answered then has listed a change.

        `server_time` gives the bounds of the service's time at a moment of the session's.
        """
        self.is_doubtful = self.is_only_prompt = False
        prompted, self.prompted = self.prompted, None
        # A job that is not active any more has more to tell than its prompt.
        if prompted is not None and row.status == "active" and row.updated_at is not None:
            sent, answered = prompted
            earliest, latest = server_time(answered)
            # The row was stamped between the sending and the answer. Where the service's time is not known closely, a
            # short turn could have ended by then as well.
            stamped = row.updated_at.timestamp()
            self.is_doubtful = server_time(sent)[0] - _ROUNDING <= stamped <= latest + _ROUNDING
            self.is_only_prompt = self.is_doubtful and latest - earliest <= _SURE
        self.moved_at = at

    def has_news(self, since: float, *, own: bool) -> bool:
        """Whether something was announced after `since`; one's `own` prompt is no news."""
        return self.moved_at > since and not (own and self.is_only_prompt)
