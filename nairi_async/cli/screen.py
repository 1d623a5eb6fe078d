"""What a stream can display, and writing to it."""

from __future__ import annotations

import io
import os
import shutil
from typing import TYPE_CHECKING, Final, TextIO

from nairi_async._core.records import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

_SGR: Final = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_GLYPHS: Final = {"done": ("✓", "ok"), "error": ("✗", "failed"), "more": ("…", "...")}


@frozen(kw_only=True)
class Style:
    """What a stream can display; the defaults suit every stream."""

    has_color: bool = False
    """Whether to use escape sequences for colour."""
    has_glyphs: bool = False
    """Whether the encoding has the few decorations outside ASCII."""
    width: int | None = None
    """Columns of the terminal; `None` where there is none, so that lines are not wrapped."""

    @classmethod
    def of(cls, stream: TextIO, environ: Mapping[str, str]) -> Self:
        """Return the style for a stream and the user's environment."""
        is_terminal = stream.isatty()
        wants_color = not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        # The old console of Windows prints escape sequences literally; the new one sets this variable.
        knows_color = os.name != "nt" or "WT_SESSION" in environ
        return cls(
            has_color=is_terminal and wants_color and knows_color,
            has_glyphs=_can_encode(stream.encoding, "".join(glyph for glyph, _ in _GLYPHS.values())),
            width=shutil.get_terminal_size().columns if is_terminal else None,
        )

    def paint(self, text: str, *styles: str) -> str:
        """Return the text in these styles, or unchanged where there is no colour."""
        if not (self.has_color and text and styles):
            return text
        return f"\x1b[{';'.join(_SGR[style] for style in styles)}m{text}\x1b[0m"

    def glyph(self, name: str) -> str:
        """Return a decoration, or the word for it in plain ASCII."""
        fancy, plain = _GLYPHS[name]
        return fancy if self.has_glyphs else plain


@frozen
class Screen:
    """A stream with its style. Each line is flushed, so that the reader of a pipe gets it at once."""

    stream: TextIO
    style: Style

    @classmethod
    def on(cls, stream: TextIO | None) -> Self:
        """Return the screen of a standard stream; what is written to a closed one is discarded."""
        target = io.StringIO() if stream is None else stream
        return cls(target, Style.of(target, os.environ))

    def show(self, text: str, *styles: str) -> None:
        """Write one or more whole lines."""
        painted = "\n".join(self.style.paint(line, *styles) for line in text.split("\n"))
        self.stream.write(f"{painted}\n")
        self.stream.flush()


def _can_encode(encoding: str | None, text: str) -> bool:
    try:
        text.encode(encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
