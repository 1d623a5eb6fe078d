"""Rows for people and for programs: aligned on a terminal, parted by tabs in a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attrs import define, field

from nairi_async.cli.output import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nairi_async.cli.style import Screen

_GAP: Final = "  "
# A column that is cut keeps at least this much.
_NARROWEST: Final = 8


@define
class Table:
    """A table whose rows are written one by one, so that whoever reads a pipe has the first at once.

    On a terminal there are headings, and rows are cut to its width; in a pipe there are neither headings nor cuts, and
    one tab between cells, which `cut`, `awk` and spreadsheets take apart.
    """

    screen: Screen
    headings: Sequence[str]
    widths: list[int] = field(init=False)
    _is_begun: bool = field(default=False, init=False)

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
        if not self._is_begun:
            self._is_begun = True
            self.screen.show(self._line(self.headings, width), "bold")
        self.screen.show(self._line(shown, width))

    def _line(self, cells: Sequence[str], width: int) -> str:
        line = _GAP.join(f"{cell:<{room}}" for cell, room in zip(cells, self.widths, strict=True)).rstrip()
        more = self.screen.style.glyph("more")
        return line if len(line) <= max(width, _NARROWEST) else line[: max(width, _NARROWEST) - len(more)] + more
