"""The picture in the README: what `nairi-async demo` prints, as an SVG that plays once.

    .venv/bin/python tests/picture.py

runs the demo in a terminal of its own and writes `.github/demo.svg`. Viewers that do not animate show the last frame.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

PICTURE: Final = Path(__file__).parent.parent / ".github" / "demo.svg"
COLUMNS: Final = 101
LINE: Final = 20
COLUMN: Final = 8.4
MARGIN: Final = 22
TITLE: Final = 40
# The README already shows what the demo prints after its figures.
END: Final = re.compile(r"^\d+ turns in ", re.MULTILINE)
TIME: Final = re.compile(r"^ *(\d+\.\d) s  ")
STYLED: Final = re.compile(r"\x1b\[([\d;]*)m")
STYLES: Final = {"1": "b", "2": "d", "31": "r", "32": "g", "33": "y", "36": "c"}

HEAD: Final = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"\
 role="img" aria-label="The output of nairi-async demo">
<style>
text {{ font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace; fill: #d5dae3;
  white-space: pre; }}
.b {{ font-weight: 700; fill: #ffffff; }} .d {{ fill: #7f8a9c; }} .r {{ fill: #ff7b72; }} .g {{ fill: #7ee787; }}
.y {{ fill: #e3b341; }} .c {{ fill: #79c0ff; }}
.l {{ animation: show .2s backwards; }}
@keyframes show {{ from {{ opacity: 0; }} }}
@media (prefers-reduced-motion: reduce) {{ .l {{ animation: none; }} }}
</style>
<rect x=".5" y=".5" width="{inner_width:g}" height="{inner_height:g}" rx="9" fill="#10141b" stroke="#343b47"/>
<circle cx="22" cy="20" r="6" fill="#ff5f57"/><circle cx="42" cy="20" r="6" fill="#febc2e"/>\
<circle cx="62" cy="20" r="6" fill="#28c840"/>
"""


def recorded() -> str:
    """Return what the demo prints on a terminal, escape sequences included, in virtual time."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "PYTHONIOENCODING": "utf-8"}
    environment.pop("NO_COLOR", None)
    command = [sys.executable, "-m", "nairi_async", "demo", "--fast"]
    with subprocess.Popen(command, stdout=theirs, env=environment) as process:  # noqa: S603 - our own interpreter
        os.close(theirs)
        pieces = []
        try:
            while piece := os.read(ours, 65536):
                pieces.append(piece)
        except OSError:
            pass  # How Linux says that the other side has closed.
        os.close(ours)
    if process.returncode:
        raise RuntimeError(f"the demo ended with {process.returncode}")
    return b"".join(pieces).decode().replace("\r\n", "\n")


def shown(output: str) -> list[str]:
    """Return the lines of the picture: the command, and what it prints up to its figures."""
    plain = STYLED.sub("", output)
    figures = END.search(plain)
    if figures is None:
        raise ValueError("the demo prints no figures")
    count = plain.count("\n", 0, figures.start()) + 1
    return ["$ nairi-async demo", *output.split("\n")[:count]]


def drawn(lines: list[str]) -> str:
    """Return the picture of these lines."""
    width, height = 2 * MARGIN + COLUMNS * COLUMN, TITLE + MARGIN + LINE * len(lines)
    parts = [HEAD.format(width=width, height=height, inner_width=width - 1, inner_height=height - 1)]
    seconds = 0.0
    for number, line in enumerate(lines):
        plain = STYLED.sub("", line)
        time = TIME.match(plain)
        seconds = float(time[1]) if time is not None else seconds
        if plain:
            # The length keeps the columns aligned in any font.
            at = f'x="{MARGIN}" y="{TITLE + LINE * (number + 1) - 6}" textLength="{len(plain) * COLUMN:.1f}"'
            when = f'style="animation-delay:{seconds + 0.3:.1f}s"'
            parts.append(f'<text class="l" xml:space="preserve" {at} {when}>{_styled(line)}</text>\n')
    return "".join((*parts, "</svg>\n"))


def _styled(line: str) -> str:
    """Return a line with its escape sequences as classes."""
    text, *rest = STYLED.split(line)
    spans = [escape(text)]
    for codes, piece in zip(rest[::2], rest[1::2], strict=True):
        styles = " ".join(STYLES[code] for code in codes.split(";") if code in STYLES)
        spans.append(f'<tspan class="{styles}">{escape(piece)}</tspan>' if styles and piece else escape(piece))
    return "".join(spans)


if __name__ == "__main__":
    PICTURE.write_text(drawn(shown(recorded())), encoding="utf-8")
