"""An agent's listing, read page by page: which page is next, and what has changed. Pure: no clock, no I/O.

Only the service's own times decide. See https://nairi.ai/docs/api/conversations/list-for-agent.
"""

from __future__ import annotations

from datetime import MINYEAR, UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from nairi_async._core.records import frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nairi_async.models import ConversationSummary

PAGE: Final = 100
"""Rows of a page, the most that the service gives."""
# How far behind the newest time seen each reading begins, for rows that share a time or were committed late.
_OVERLAP: Final = timedelta(seconds=2)
# How far a reading that looks for rows that became visible late goes back, and how many rows it repeats at most.
_REACH: Final = timedelta(seconds=30)
_REPEATED: Final = 5 * PAGE
# The service's times have milliseconds, and `updated_after` is strictly after.
_TICK: Final = timedelta(milliseconds=1)


@frozen
class PageQuery:
    """One page of the listing."""

    updated_after: datetime | None
    """Strictly after this; the newest rows if `None`."""
    offset: int = 0
    """Rows to leave out: only where more rows than a page share one time."""


class ListingPages:
    """Finds what has changed since the listing was last read.

    Pages are cut at times, not at offsets: a row that moves between two pages moves to the end and is seen there.
    """

    def __init__(self) -> None:
        self._newest: datetime | None = None
        self._known: dict[str, datetime] = {}
        self._query = PageQuery(None)
        # All rows with a later time were seen that were visible then.
        self._complete_since = datetime.max.replace(tzinfo=UTC)
        self._reach = _OVERLAP
        self.is_cut = False
        """Whether the last page was the first of all, and full: rows that changed shortly before it may be missing."""

    def listed_at(self, job_id: str) -> datetime | None:
        """Return the time of a conversation that was listed in the last seconds; else `None`."""
        return self._known.get(job_id)

    def begin(self, overlap: float = 0.0, *, is_deep: bool = False) -> PageQuery:
        """Return the first page of the next reading, which begins `overlap` seconds behind the newest time, or more.

        A deep one finds what became visible up to half a minute late, or less where many rows change in that time.
        """
        behind = max(self._reach if is_deep else _OVERLAP, timedelta(seconds=overlap))
        self._query = PageQuery(None if self._newest is None else self._newest - behind)
        self._complete_since = min(self._complete_since, self._query.updated_after or self._complete_since)
        return self._query

    def feed(self, rows: Sequence[ConversationSummary]) -> tuple[dict[str, ConversationSummary], PageQuery | None]:
        """Take in one page, and return the rows that have changed and the next page, if there is one.

        Raises:
            ValueError: a row has no time, so the listing cannot show what has changed.
        """
        changed: dict[str, ConversationSummary] = {}
        for row in rows:
            if row.updated_at is None or row.updated_at.year == MINYEAR:
                # Some print the first year for a missing time, and nothing can be subtracted from it.
                raise ValueError("a conversation is listed without updated_at")
            known = self._known.get(row.id)
            if known is None or row.updated_at > known:
                changed[row.id] = row
                self._known[row.id] = row.updated_at
        times = [row.updated_at for row in rows if row.updated_at is not None]
        is_baseline = self._query.updated_after is None
        self._newest = max([*times, *([self._newest] if self._newest is not None else [])], default=None)
        self.is_cut = is_baseline and len(rows) >= PAGE
        if is_baseline:
            self._complete_since = min(times) if self.is_cut else datetime.min.replace(tzinfo=UTC)
        if is_baseline or len(rows) < PAGE:
            if not self.is_cut:
                self._forget()
            return changed, None
        following = times[-1] - _TICK
        is_stuck = self._query.updated_after is not None and following <= self._query.updated_after
        offset = self._query.offset + len(rows) if is_stuck else 0
        self._query = PageQuery(self._query.updated_after if is_stuck else following, offset)
        return changed, self._query

    def _forget(self) -> None:
        """Forget rows that no later reading repeats."""
        if self._newest is not None:
            times = sorted(self._known.values(), reverse=True)
            repeated = times[_REPEATED] if len(times) > _REPEATED else self._complete_since
            self._reach = max(_OVERLAP, self._newest - max(repeated, self._newest - _REACH, self._complete_since))
            self._complete_since = max(self._complete_since, self._newest - self._reach - _OVERLAP)
            self._known = {job_id: time for job_id, time in self._known.items() if time >= self._complete_since}
