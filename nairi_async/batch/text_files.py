"""Prompts from plain text, and from tables with columns."""

from __future__ import annotations

import csv
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from nairi_async.batch.items import BatchItem, UnusableItem
from nairi_async.batch.jsonl import LONGEST_LINE, JsonLines, read_item
from nairi_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_DELIMITERS: Final = (",", ";", "\t")
_BETWEEN_PATHS: Final = ";"
# The character that stands for what could not be decoded.
_UNREADABLE: Final = "\ufffd"


class TextLines(JsonLines):
    """The items of a binary file of plain text: each line that is not blank is a prompt, as it stands."""

    def _items(self, lines: Iterator[tuple[int, bytes]]) -> Iterator[BatchItem | UnusableItem]:
        for number, line in lines:
            if line.strip() or not line:
                yield read_item(partial(_text, line), number)


class CsvRows(JsonLines):
    """The items of a binary file of comma-separated values, whose first row names the columns.

    `prompt` is needed; `id` and `attachments` (paths with a semicolon between them) have the same meaning as in JSON.
    Further columns are further fields of the records. Commas, semicolons or tabs stand between the cells; a cell in
    double quotes may contain line breaks. A row that cannot be read becomes an `UnusableItem`.

    Raises:
        InvalidArgumentError: while iterating, the first row names no column `prompt`.
    """

    def _items(self, lines: Iterator[tuple[int, bytes]]) -> Iterator[BatchItem | UnusableItem]:
        first = next(((number, line) for number, line in lines if line.strip()), (1, b"\n"))
        header = _text(first[1])
        delimiter = max(_DELIMITERS, key=header.count)
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
        if "prompt" not in names:
            raise InvalidArgumentError(
                f"the first row must name the columns, one of them prompt; it has {', '.join(names) or 'none'}"
            )
        # The limit of the csv module is one of the process.
        csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE))
        # What is not UTF-8, or too long, is refused with the record that it is in.
        decoded = (line.decode("utf-8", "replace") or _UNREADABLE for _, line in lines)
        rows = csv.reader(decoded, delimiter=delimiter, strict=True)
        while True:
            place = first[0] + rows.line_num + 1
            try:
                row = next(rows, None)
            except csv.Error as error:
                yield UnusableItem(error=InvalidArgumentError(f"not a row of values: {error}"), place=place)
                continue
            if row is None:
                return
            if any(cell.strip() for cell in row):
                yield read_item(partial(_record, names, row), place)


def _text(line: bytes) -> str:
    if not line:
        raise InvalidArgumentError(f"longer than {LONGEST_LINE} bytes")
    try:
        # Some editors begin a file with a byte order mark.
        return line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InvalidArgumentError("not UTF-8") from error


def _record(names: Sequence[str], row: Sequence[str]) -> dict[str, Any]:
    if any(_UNREADABLE in cell for cell in row):
        raise InvalidArgumentError(f"a line of it is not UTF-8, or longer than {LONGEST_LINE} bytes")
    if len(row) > len(names):
        raise InvalidArgumentError(f"{len(row)} cells, for {len(names)} columns: put quotes around what holds a comma")
    # Missing cells at the end are empty.
    record: dict[str, Any] = dict(zip(names, row, strict=False))
    paths = record.get("attachments") or ""
    record["attachments"] = [path.strip() for path in paths.split(_BETWEEN_PATHS) if path.strip()]
    record["id"] = record.get("id") or None
    return record
