"""Rows for people and for programs: aligned on a terminal, separated by tabs in a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attrs import define, field

from nairi_async.cli.formatting import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nairi_async.cli.screen import Screen

_GAP: Final = "  "
# A line that is cut keeps at least this many characters.
_MIN_LINE: Final = 8


@define
class Table:
    """A table whose rows are written one by one, so that the reader of a pipe gets the first one at once.

    A terminal shows headings, and rows are cut to its width. A pipe gets whole rows without headings, with one tab
    between cells, as `cut`, `awk` and spreadsheets expect.
    """

    screen: Screen
    headings: Sequence[str]
    widths: list[int] = field(init=False)
    _has_headings: bool = field(default=False, init=False)

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
        if not self._has_headings:
            self._has_headings = True
            self.screen.show(self._line(self.headings, width), "bold")
        self.screen.show(self._line(shown, width))

    def _line(self, cells: Sequence[str], columns: int) -> str:
        line = _GAP.join(f"{cell:<{width}}" for cell, width in zip(cells, self.widths, strict=True)).rstrip()
        more = self.screen.style.glyph("more")
        return line if len(line) <= max(columns, _MIN_LINE) else line[: max(columns, _MIN_LINE) - len(more)] + more
