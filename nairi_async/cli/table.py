"""Rows for people and for programs: aligned or stacked on a terminal, separated by tabs in a pipe."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

from attrs import field

from nairi_async._core.records import define
from nairi_async.cli.formatting import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nairi_async.cli.screen import Screen

_GAP: Final = "  "
# A line that is cut keeps at least this many characters.
_MIN_LINE: Final = 8
# Columns that the last cell needs to be worth reading when it is cut.
_MIN_LAST: Final = 16


@define
class Table:
    """A table whose rows are written one by one, so that the reader of a pipe gets the first one at once.

    A terminal shows headings, and the last cell of a row is cut to its width. Where nothing useful would be left of it,
    the cells of each row stand below each other, whole. A pipe gets whole rows without headings, with one tab between
    cells, as `cut`, `awk` and spreadsheets expect.
    """

    screen: Screen
    headings: Sequence[str]
    is_cuttable: bool = field(default=True, kw_only=True)
    """Whether half of the last cell is of use; not so for a time."""
    widths: list[int] = field(init=False)
    _is_stacked: bool | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.widths = [len(heading) for heading in self.headings]

    def fit(self, rows: Sequence[Sequence[str]]) -> None:
        """Make the columns as wide as these rows need."""
        for row in rows:
            self.widths = [max(width, len(one_line(cell))) for width, cell in zip(self.widths, row, strict=True)]

    def show(self, *cells: str) -> None:
        """Write one row."""
        shown = [one_line(cell) for cell in cells]
        width = self.screen.style.width
        if width is None:
            self.screen.show("\t".join(shown))
            return
        is_first = self._is_stacked is None
        if self._is_stacked is None:
            self._is_stacked = not self._fits(width)
        if self._is_stacked:
            self._show_stacked(shown, width, is_first=is_first)
            return
        if is_first:
            self.screen.show(self._line(self.headings, width), "bold")
        self.screen.show(self._line(shown, width))

    def _fits(self, columns: int) -> bool:
        before = sum(self.widths[:-1]) + len(_GAP) * (len(self.widths) - 1)
        last = min(self.widths[-1], _MIN_LAST) if self.is_cuttable else self.widths[-1]
        return before + last <= columns

    def _show_stacked(self, cells: Sequence[str], columns: int, *, is_first: bool) -> None:
        if not is_first:
            self.screen.show("")
        label = max(map(len, self.headings))
        room = max(columns - label - len(_GAP), _MIN_LINE)
        for heading, cell in zip(self.headings, cells, strict=True):
            for number, line in enumerate(textwrap.wrap(cell, room)):
                name = self.screen.style.paint(f"{'' if number else heading:<{label}}", "dim")
                self.screen.show(f"{name}{_GAP}{line}")

    def _line(self, cells: Sequence[str], columns: int) -> str:
        line = _GAP.join(f"{cell:<{width}}" for cell, width in zip(cells, self.widths, strict=True)).rstrip()
        more = self.screen.style.glyph("more")
        return line if len(line) <= max(columns, _MIN_LINE) else line[: max(columns, _MIN_LINE) - len(more)] + more
