"""Prompts from lines of JSON: one line at a time, and a line that cannot be read costs no other."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from attrs import evolve

from nairi_async.batch.items import BatchItem, UnusableItem
from nairi_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

LONGEST_LINE: Final = 16 * 1024 * 1024
"""Bytes of a line that is still read."""


class JsonLines:
    """The items of a file that is opened for bytes, to be iterated over once.

    A line is a JSON string, which is a prompt, or an object with `prompt` and, if wanted, `id` and `attachments`.
    Blank lines mean nothing. A line that is none of this becomes an `UnusableItem` that says why; the rest goes on.

    Args:
        stream: The file. Reading blocks.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.bytes_read = 0
        """Bytes of the lines that were taken so far."""
        self.items_read = 0
        """Items that were taken so far."""
        self.is_at_end = False
        """Whether everything was taken."""

    def __iter__(self) -> Iterator[BatchItem | UnusableItem]:
        number = 0
        while line := self._stream.readline(LONGEST_LINE + 1):
            number += 1
            self.bytes_read += len(line)
            is_too_long = len(line) > LONGEST_LINE
            if is_too_long:
                self._skip(line)
            if line.strip():
                self.items_read += 1
                yield _item(b"" if is_too_long else line, number)
        self.is_at_end = True

    def _skip(self, line: bytes) -> None:
        while line and not line.endswith(b"\n"):
            line = self._stream.readline(LONGEST_LINE)
            self.bytes_read += len(line)


def _item(line: bytes, number: int) -> BatchItem | UnusableItem:
    try:
        return evolve(BatchItem.of(_parsed(line)), place=number)
    except InvalidArgumentError as error:
        return UnusableItem(error=error, place=number)


def _parsed(line: bytes) -> Any:
    if not line:
        raise InvalidArgumentError(f"longer than {LONGEST_LINE} bytes")
    try:
        # Some editors begin a file with a byte order mark.
        return json.loads(line.decode("utf-8-sig").rstrip("\r\n"))
    except UnicodeDecodeError as error:
        raise InvalidArgumentError("not UTF-8") from error
    except json.JSONDecodeError as error:
        # Its own text numbers lines as well, within this one.
        raise InvalidArgumentError(f"not JSON: {error.msg}, at character {error.pos + 1}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"not JSON: {error}") from error
