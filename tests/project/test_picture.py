"""The picture in the README shows what the demo prints now."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

pytest.importorskip("pty", reason="a terminal of its own needs Unix")

import picture

SVG = "{http://www.w3.org/2000/svg}"
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def settled(lines: list[str]) -> list[str]:
    """Leave out what differs from run to run: times, the port, how many requests, and which of two came first."""
    plain = (re.sub(r"\x1b\[[\d;]*m", "", line).rstrip() for line in lines)
    return sorted(re.sub(r"\d+\.\d s|(?<=:)\d{4,5}\b|\d+ requests", "_", line) for line in plain if line)


def test_the_picture_is_what_the_demo_prints() -> None:
    """Line by line the same text; where it is not, `python tests/picture.py` draws it anew."""
    tree = ET.fromstring(picture.PICTURE.read_text(encoding="utf-8"))  # noqa: S314 - our own file
    drawn = ["".join(line.itertext()) for line in tree.iter(f"{SVG}text")]
    assert settled(drawn) == settled(picture.shown(picture.recorded()))


def test_the_readme_shows_the_picture_and_says_what_is_on_it() -> None:
    """The picture stands in the README with a text for those who cannot see it."""
    found = re.search(r"!\[(.+)\]\(\.github/demo\.svg\)", README)
    assert found is not None
    assert len(found[1]) > 40


def test_odd_text_is_drawn_as_text() -> None:
    """Characters that XML reserves are text, and unknown styles have no class."""
    line = "\x1b[1;36m<b>\x1b[0m & \x1b[35mplain\x1b[0m"
    tree = ET.fromstring(picture.drawn([line]))  # noqa: S314 - our own text
    (text,) = tree.iter(f"{SVG}text")
    assert "".join(text.itertext()) == "<b> & plain"
    assert [span.get("class") for span in text] == ["b c"]
