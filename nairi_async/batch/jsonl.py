"""Prompts from JSON lines: one line at a time; an unreadable line does not affect the others."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from attrs import evolve

from nairi_async.batch.items import BatchItem, UnusableItem
from nairi_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

LONGEST_LINE: Final = 16 * 1024 * 1024
"""Bytes; a longer line is not read."""


class JsonLines:
    """The items of a binary file. A seekable one may be iterated over again; each pass begins where the first did.

    Each line is a JSON string, which is a prompt, or an object with `prompt` and optionally `id` and `attachments`.
    Blank lines are ignored. Any other line becomes an `UnusableItem` with the reason; the others are not affected.

    Args:
        stream: The file; reading it may block.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.is_rereadable: bool = stream.seekable()
        """Whether it may be iterated over again."""
        self._start = stream.tell() if self.is_rereadable else 0
        self.bytes_read: int = 0
        """Bytes of the lines that this pass has read."""
        self.items_read: int = 0
        """Items that this pass has read."""
        self.total: int | None = None
        """All items, once a pass has read the whole file."""

    def __iter__(self) -> Iterator[BatchItem | UnusableItem]:
        self.bytes_read = self.items_read = 0
        if self.is_rereadable:
            self._stream.seek(self._start)
        for item in self._items(self._lines()):
            self.items_read += 1
            yield item
        self.total = self.items_read

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield the lines with their numbers; a line that is too long is empty."""
        number = 0
        while line := self._stream.readline(LONGEST_LINE + 1):
            number += 1
            self.bytes_read += len(line)
            is_too_long = len(line) > LONGEST_LINE
            if is_too_long:
                self._skip_rest(line)
            yield number, b"" if is_too_long else line

    def _items(self, lines: Iterator[tuple[int, bytes]]) -> Iterator[BatchItem | UnusableItem]:
        """Yield the items of the lines."""
        for number, line in lines:
            if line.strip() or not line:
                yield read_item(partial(_parse, line), number)

    def _skip_rest(self, line: bytes) -> None:
        while line and not line.endswith(b"\n"):
            line = self._stream.readline(LONGEST_LINE)
            self.bytes_read += len(line)


def read_item(parse: Callable[[], object], number: int) -> BatchItem | UnusableItem:
    """Return the item that a line holds, or what is wrong with it."""
    try:
        return evolve(BatchItem.of(parse()), place=number)
    except InvalidArgumentError as error:
        return UnusableItem(error=error, place=number)


def _parse(line: bytes) -> Any:
    if not line:
        raise InvalidArgumentError(f"longer than {LONGEST_LINE} bytes")
    try:
        # Some editors begin a file with a byte order mark.
        return json.loads(line.decode("utf-8-sig").rstrip("\r\n"))
    except UnicodeDecodeError as error:
        raise InvalidArgumentError("not UTF-8") from error
    except json.JSONDecodeError as error:
        # str(error) would give a line number within this line.
        raise InvalidArgumentError(f"not JSON: {error.msg}, at character {error.pos + 1}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"not JSON: {error}") from error
