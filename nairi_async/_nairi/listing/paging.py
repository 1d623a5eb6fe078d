"""Reading a list that moves, by offset, without missing anything: a pure state machine (api: list for agent).

The service pages by offset over a list that is alive. Between two pages a conversation may come in or go out of the
list, or move within it, and each such step shifts the others against the offset. What can be missed, and why it is not:

* Something in front of the offset goes away, and the next page begins behind a gap. Therefore pages overlap: each
  begins with the last one of the page before. One that does not begin with something known may hide a gap, and is read
  again from further up, in growing steps.
* Sorted by `updated_at_desc`, what changes jumps from the unread end to the front. Therefore the front is read again at
  the end, until one single page shows all that jumped, or nothing did.
* Sorted by `updated_at_asc`, what changes only moves towards the end, where it is met later. There the offset is needed
  only among equal times: otherwise `updated_after` is moved forward, and nothing can shift against it.
* Something in front of the offset comes in: the overlap grows, and is left out as known.

What remains: a conversation whose status enters a filter while the list is read, at a place already passed, and the
order of the service among equal sort keys, which is taken to be the same for two pages that follow each other.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, get_args

from attrs import frozen

from nairi_async.errors import DecodeError
from nairi_async.typing import ConversationSort

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nairi_async.models import ConversationSummary

LIMIT: Final = 100
"""Conversations on a page; the service gives no more (api: list for agent)."""

SORTS: Final = get_args(ConversationSort)
"""The orders in which the service can list conversations."""

PRECISION: Final = timedelta(milliseconds=1)
"""What a printed time may differ by from the one that the service compares: it prints milliseconds."""

_BEGINNING: Final = datetime.min.replace(tzinfo=UTC)
# The same page at several offsets comes from a service that does not page.
_MOST_REPEATS: Final = 3
# How fast the steps back grow that look for the place where the list goes on.
_GROWTH: Final = 10


@frozen
class Page:
    """Which part of the list to ask for."""

    updated_after: datetime | None
    """Only what changed strictly after it."""
    offset: int
    """How many to leave out at the front."""


class Paging:
    """One reading of a list from its beginning to its end.

    Ask for `page`, hand the rows to `observe`, until `is_finished`.
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
        self._is_at_rest = False
        self._previous: list[str] = []
        self._repeats = 0
        self.is_finished = False
        """Whether the list was read to its end."""

    @property
    def page(self) -> Page:
        """What to ask for next."""
        return Page(self._after, self._offset)

    def observe(self, rows: Sequence[ConversationSummary]) -> list[ConversationSummary]:
        """Learn from the page asked for; returns what was not seen yet, or not with this `updated_at`, in order."""
        self._guard(rows)
        is_gapless = self._offset == 0 or (bool(rows) and rows[0].id in self._known)
        if not is_gapless:
            self._step_back()
            return []
        self._step = 1
        news = [row for row in rows if row.id not in self._known or self._known[row.id] != row.updated_at]
        self._known.update((row.id, row.updated_at) for row in rows)
        if self._sort == "updated_at_desc":
            self._go_on_from_the_newest(rows, has_news=bool(news))
        elif len(rows) < self._limit:
            self.is_finished = True
        elif self._sort != "updated_at_asc" or not self._move_forward(rows):
            self._offset += self._limit - 1
        return news

    def _step_back(self) -> None:
        """What is known moved up by more than the overlap, or the list became shorter than the offset."""
        self._offset = max(0, self._offset - self._step)
        self._step *= _GROWTH

    def _move_forward(self, rows: Sequence[ConversationSummary]) -> bool:
        """Let the next page begin by time instead of by offset, unless half of this page would be read again."""
        last = max((row.updated_at for row in rows if row.updated_at is not None), default=None)
        if last is None or last < _BEGINNING + PRECISION:
            return False
        bound = last - PRECISION
        left_behind = sum(row.updated_at is not None and row.updated_at <= bound for row in rows)
        if left_behind < self._limit // 2 or (self._after is not None and bound <= self._after):
            return False
        self._after, self._offset = bound, 0
        return True

    def _go_on_from_the_newest(self, rows: Sequence[ConversationSummary], *, has_news: bool) -> None:
        times = [row.updated_at for row in rows if row.updated_at is not None]
        is_first = self._offset == 0
        if is_first:
            self._next_top = max(times, default=None)
            self._is_at_rest = self._is_at_front and self._next_top == self._top
        self._is_at_rest = self._is_at_rest and not has_news
        # At the front, nothing has moved behind the first row that is older than the front was before.
        is_older = self._is_at_front and (self._top is None or any(time < self._top for time in times))
        if len(rows) == self._limit and not is_older:
            self._offset += self._limit - 1
        elif is_first or self._is_at_rest:
            self.is_finished = True
        else:
            self._is_at_front, self._top, self._offset = True, self._next_top, 0

    def _guard(self, rows: Sequence[ConversationSummary]) -> None:
        """Never go on for ever where a service does not do what it is asked."""
        ids = [row.id for row in rows]
        self._repeats = self._repeats + 1 if len(ids) == self._limit and ids == self._previous else 0
        self._previous = ids
        if self._repeats >= _MOST_REPEATS:
            raise DecodeError("the answer cannot be read: the list shows the same page at every offset")
