"""Prompts from plain text and from tables: what they may say, and what is said about rows that cannot be read."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nairi_async import InvalidArgumentError
from nairi_async.batch import BatchItem, CsvRows, TextLines, UnusableItem
from nairi_async.cli import main

if TYPE_CHECKING:
    from pathlib import Path


def rows(content: bytes) -> list[Any]:
    return list(CsvRows(io.BytesIO(content)))


def test_each_line_of_a_text_is_a_prompt() -> None:
    """As it stands, without its line break; blank lines mean nothing, and bytes that are no text are one bad line."""
    read = list(TextLines(io.BytesIO(b'\xef\xbb\xbfone\r\n\n  {"a" \n\xff\nlast')))
    assert [item.prompt if isinstance(item, BatchItem) else str(item.error) for item in read] == [
        "one", '  {"a" ', "not UTF-8", "last",
    ]  # fmt: skip
    assert [item.place for item in read] == [1, 3, 4, 5]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_has_columns(delimiter: str) -> None:
    """The first row names them, with any of three delimiters; a cell may hold line breaks; places are line numbers."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows([["id", "prompt", "attachments", "customer"], ["a", "one", "x.pdf; y.pdf", "Ada"], []])
    writer.writerows([["", "two\nlines, and; more", "", ""], ["b", "three"]])
    first, second, third = rows(b"\xef\xbb\xbf" + text.getvalue().encode())
    assert (first.id, first.prompt, first.attachments, first.place) == ("a", "one", ("x.pdf", "y.pdf"), 2)
    assert (second.id, second.prompt, second.attachments, second.place) == (None, "two\nlines, and; more", (), 4)
    assert (third.id, third.prompt, third.place) == ("b", "three", 6)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"a,b,c", "3 cells, for 2 columns"),
        (b"a,", "prompt"),
        (b"a,\xff", "not UTF-8, or longer"),
        (b'a,"b"c', "not a row of values"),
        (b'a,"b', "not a row of values"),
    ],
)
def test_a_row_that_cannot_be_read(row: bytes, reason: str) -> None:
    """It is unusable with its line, and does not affect the rows before it."""
    good, bad = rows(b"id,prompt\nx,y\n" + row)
    assert (good.prompt, bad.place) == ("y", 3)
    assert isinstance(bad, UnusableItem)
    assert reason in str(bad.error)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\ufffd"), min_size=1)))
def test_what_a_spreadsheet_writes_is_read(prompts: list[str]) -> None:
    """Each prompt that is not blank comes back as it was written."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["prompt"], *([prompt] for prompt in prompts)])
    read = rows(text.getvalue().encode())
    assert [item.prompt for item in read] == [prompt for prompt in prompts if prompt.strip()]


@pytest.mark.parametrize("content", ["", "id,question\n", "Refund it.\n"])
def test_a_table_without_prompts_is_refused(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing in it could be sent: an error that names what the first row has, from the command as well."""
    (tmp_path / "run.csv").write_text(content)
    with pytest.raises(InvalidArgumentError, match="the first row must name the columns, one of them prompt"):
        rows(content.encode())
    assert main(["batch", str(tmp_path / "run.csv"), "--check"]) == 2
    assert "the first row must name the columns" in capsys.readouterr().err


def test_the_name_of_a_file_says_its_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of `.csv` and `.txt`; `--format` says it for other names."""
    for name, content, more in (
        ("run.csv", "prompt\none\ntwo\n", []),
        ("run.txt", "one\ntwo\n", []),
        ("run", "one\ntwo\n", ["--format", "text"]),
        ("run.tsv", "id\tprompt\n1\tone\n2\ttwo\n", []),
    ):
        (tmp_path / name).write_text(content)
        assert main(["batch", str(tmp_path / name), "--check", *more]) == 0
        assert capsys.readouterr().out.startswith("2 records")
