"""Read a list that changes meanwhile, page by page, and miss nothing: a pure state machine.

The service pages by offset over a live list (https://nairi.ai/docs/api/conversations/list-for-agent). Between two pages
a conversation may enter or leave the list, or move within it, and so shift the others relative to the offset.

* An entry before the offset disappears, and the next page starts after a gap. So pages overlap: each starts with the
  last entry of the page before. A page that does not start with a known entry may hide a gap; it is read again from
  further up, in growing steps.
* With `updated_at_desc`, an entry that changes moves from the unread end to the front. So the front is read again at
  the end, until a single page shows everything that moved, or nothing did.
* With `updated_at_asc`, an entry that changes only moves towards the end, where it is read later. The offset is needed
  only among equal times: otherwise `updated_after` is advanced, and nothing can shift.
* An entry appears before the offset: the overlap grows, and known entries are left out.

Two things can be missed: a conversation that enters a status filter while the list is read, at a place that was passed;
and an entry among others with the same sort key, if the service orders these differently in consecutive pages.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, get_args

from nairi_async._core.records import frozen
from nairi_async.errors import DecodeError
from nairi_async.typing import ConversationSort

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nairi_async.models import ConversationSummary

LIMIT: Final = 100
"""Conversations on a page: the service's maximum."""

SORTS: Final = get_args(ConversationSort)
"""The orders in which the service can list conversations."""

PRECISION: Final = timedelta(milliseconds=1)
"""The precision of printed times; the service may compare finer ones."""

_BEGINNING: Final = datetime.min.replace(tzinfo=UTC)
# So many times the same page, at other offsets, means that the service does not page.
_MOST_REPEATS: Final = 3
# The factor by which steps back grow while the place is searched at which the list continues.
_GROWTH: Final = 10


@frozen
class Page:
    """The part of the list to request."""

    updated_after: datetime | None
    """Only what changed after this time."""
    offset: int
    """How many entries to skip."""


class Paging:
    """One reading of a list from its beginning to its end.

    Request `page` and pass its rows to `observe`, until `is_finished`.
    """

    def __init__(self, sort: str, updated_after: datetime | None = None, *, limit: int = LIMIT) -> None:
        self._sort = sort
        self._limit = limit
        self._after = updated_after
        self._offset = 0
        self._step = 1
        self._known: dict[str, datetime | None] = {}
        self._is_at_front = False
        self._top: datetime | None = None
        self._next_top: datetime | None = None
        self._is_unchanged = False
        self._previous: list[str] = []
        self._repeats = 0
        self.is_finished: bool = False
        """Whether the list was read to its end."""

    @property
    def page(self) -> Page:
        """The page to request next."""
        return Page(self._after, self._offset)

    def observe(self, rows: Sequence[ConversationSummary]) -> list[ConversationSummary]:
        """Record the requested page; return its rows that are new, or have another `updated_at`, in order."""
        self._check_repeats(rows)
        is_gapless = self._offset == 0 or (bool(rows) and rows[0].job_id in self._known)
        if not is_gapless:
            self._step_back()
            return []
        self._step = 1
        news = [row for row in rows if row.job_id not in self._known or self._known[row.job_id] != row.updated_at]
        self._known.update((row.job_id, row.updated_at) for row in rows)
        if self._sort == "updated_at_desc":
            self._continue_newest_first(rows, has_news=bool(news))
        elif len(rows) < self._limit:
            self.is_finished = True
        elif self._sort != "updated_at_asc" or not self._advance_time(rows):
            self._offset += self._limit - 1
        return news

    def _step_back(self) -> None:
        """Move the offset back: known entries moved up by more than the overlap, or the list became shorter."""
        self._offset = max(0, self._offset - self._step)
        self._step *= _GROWTH

    def _advance_time(self, rows: Sequence[ConversationSummary]) -> bool:
        """Start the next page by time instead of by offset, unless half of this page would be read again."""
        last = max((row.updated_at for row in rows if row.updated_at is not None), default=None)
        if last is None or last < _BEGINNING + PRECISION:
            return False
        bound = last - PRECISION
        left_behind = sum(row.updated_at is not None and row.updated_at <= bound for row in rows)
        if left_behind < self._limit // 2 or (self._after is not None and bound <= self._after):
            return False
        self._after, self._offset = bound, 0
        return True

    def _continue_newest_first(self, rows: Sequence[ConversationSummary], *, has_news: bool) -> None:
        times = [row.updated_at for row in rows if row.updated_at is not None]
        is_first = self._offset == 0
        if is_first:
            self._next_top = max(times, default=None)
            self._is_unchanged = self._is_at_front and self._next_top == self._top
        self._is_unchanged = self._is_unchanged and not has_news
        # On the way back from the front: behind the first row that is older than the old front, nothing has moved.
        is_older = self._is_at_front and (self._top is None or any(time < self._top for time in times))
        if len(rows) == self._limit and not is_older:
            self._offset += self._limit - 1
        elif is_first or self._is_unchanged:
            self.is_finished = True
        else:
            self._is_at_front, self._top, self._offset = True, self._next_top, 0

    def _check_repeats(self, rows: Sequence[ConversationSummary]) -> None:
        """Fail, instead of reading endlessly, if the service ignores the offset."""
        ids = [row.job_id for row in rows]
        self._repeats = self._repeats + 1 if len(ids) == self._limit and ids == self._previous else 0
        self._previous = ids
        if self._repeats >= _MOST_REPEATS:
            raise DecodeError("the list of conversations has the same page at every offset")
