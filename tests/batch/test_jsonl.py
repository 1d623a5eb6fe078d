"""Lines of JSON: what they may say, and what is said about those that cannot be read."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from nairi_async.batch import BatchItem, JsonLines, UnusableItem

if TYPE_CHECKING:
    from typing import Any


def read(*lines: bytes) -> list[Any]:
    return list(JsonLines(io.BytesIO(b"".join(lines))))


def test_strings_and_records() -> None:
    """A string is a prompt; an object names its parts; blank lines mean nothing; places are numbers of lines."""
    assert read(
        b'\xef\xbb\xbf"a"\r\n', b"\n", b' {"prompt": "b", "id": 3, "attachments": ["f"], "x": 1}\n', b'"c"'
    ) == [
        BatchItem("a", place=1),
        BatchItem("b", id="3", attachments=("f",), fields={"x": 1}, place=3),
        BatchItem("c", place=4),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b'"a" "b"', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"1" * 5_000, "not JSON"),
        (b"\xff", "not UTF-8"),
        (b"[]", "not list"),
        (b"null", "not NoneType"),
        (b'{"id": 1}', "no prompt"),
        (b'"\\ud800"', "half a character"),
    ],
)
def test_a_line_that_cannot_be_read_costs_no_other(line: bytes, reason: str) -> None:
    """It says which line it is, and its error why; the rest goes on."""
    first, bad, last = read(b'"a"\n', line + b"\n", b'"c"\n')
    assert (first.prompt, last.prompt, last.place) == ("a", "c", 3)
    assert isinstance(bad, UnusableItem)
    assert bad.place == 2
    assert reason in bad.error.message


def test_a_line_without_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a line that is longer than any prompt no more is held than the bound, and reading goes on behind it."""
    monkeypatch.setattr("nairi_async.batch.jsonl.LONGEST_LINE", 10)
    first, bad, last = read(b'"a"\n', b'"' + b"x" * 95 + b'"\n', b'"c"\n')
    assert (first.prompt, last.place) == ("a", 3)
    assert "longer than 10 bytes" in bad.error.message
    [only] = read(b"x" * 35)
    assert isinstance(only, UnusableItem)


def test_reading_tells_how_far_it_is() -> None:
    """Bytes and items of one pass, and the total of a whole one; each pass of a seekable file begins at the start."""
    lines = JsonLines(io.BytesIO(b'"a"\n\n"b"\n'))
    for _ in lines:
        break
    assert (lines.bytes_read, lines.items_read, lines.total) == (4, 1, None)
    assert len(list(lines)) == 2
    assert (lines.bytes_read, lines.items_read, lines.total) == (9, 2, 2)
    assert [item.place for item in lines] == [1, 3]
