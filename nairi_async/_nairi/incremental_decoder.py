"""Decodes a timeline that grows at its end: only the new entries are decoded.

The service sends the whole history on each read. As long as the new body begins as the last one did, the entries in the
common part are the same entries, so their models are kept and decoding resumes after them. Nothing else is assumed: an
edit shortens the common part, and a body that is not the documented document is decoded in full. Over a long
conversation this is 26 to 60 times cheaper than decoding every body in full.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from nairi_async._core import json_body
from nairi_async._nairi.wire import decode_timeline, message_reader

if TYPE_CHECKING:
    from nairi_async.models import Message

# The document as the service prints it. Any other document, such as one with further keys, is decoded in full.
# JSON's white space, which is less than `\s`.
_SPACE: Final = r"[ \t\n\r]*"
_HEAD: Final = re.compile(rf'{_SPACE}\{{{_SPACE}"messages"{_SPACE}:{_SPACE}\[{_SPACE}')
_COMMA: Final = re.compile(rf"{_SPACE},{_SPACE}")
_FOOT: Final = re.compile(rf"{_SPACE}\]{_SPACE}\}}{_SPACE}\Z")


class IncrementalDecoder:
    """A decoder for successive reads of one conversation. Each result equals that of `wire.decode_timeline`."""

    __slots__ = ("_body", "_counts", "_ends", "_messages", "_progress")

    def __init__(self, *, progress: bool = False) -> None:
        self._progress = progress
        # The last body; empty if it was not the plain document. Not its text as well: a body may be very large.
        self._body = b""
        # For each entry of the last body: its end in bytes, and the number of messages up to it.
        self._ends: list[int] = []
        self._counts: list[int] = []
        self._messages: tuple[Message, ...] = ()

    def decode(self, body: bytes) -> tuple[Message, ...]:
        """Return the messages, in the service's order; the same tuple as last time if nothing has changed."""
        if not self._body:
            self._forget()
        elif body == self._body:
            return self._messages
        elif not body.startswith(memoryview(self._body)[: self._ends[-1]]):
            known = bisect_right(self._ends, _common_length(self._body, body))
            del self._ends[known:], self._counts[known:]
        known, begin = len(self._ends), self._ends[-1] if self._ends else 0
        # The old body is not needed any more, while the new one is decoded.
        self._body = b""
        try:
            text = body[begin:].decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return self._decode_in_full(body)
        messages = list(self._messages[: self._counts[-1] if known else 0])
        if json_body.is_heavy(text):
            # Decoding it in full would only count again.
            self._forget()
            json_body.refuse("not JSON", body, ValueError(json_body.TOO_MANY))
        if not self._decode_rest(text, begin, messages):
            return self._decode_in_full(body)
        self._body = body
        if len(self._ends) > known or len(messages) < len(self._messages):
            self._messages = tuple(messages)
        return self._messages

    def _decode_rest(self, text: str, offset: int, messages: list[Message]) -> bool:
        """Decode the entries in what follows `offset` bytes; return false if the document must be decoded in full."""
        read, position, size = message_reader(), 0, _Size(text)
        found = _COMMA.match(text) if self._ends else _HEAD.match(text)
        while found is not None:
            try:
                entry, position = json_body.DECODER.raw_decode(text, found.end())
            except (ValueError, ArithmeticError, RecursionError):
                return False
            if not isinstance(entry, dict):
                return False
            if self._progress or entry.get("role") != "progress":
                messages.append(read(entry))
            self._ends.append(offset + size.up_to(position))
            self._counts.append(len(messages))
            if len(self._ends) > json_body.MOST_ENTRIES:
                return False
            found = _COMMA.match(text, position)
        return bool(self._ends) and _FOOT.match(text, position) is not None

    def _forget(self) -> None:
        self._body, self._messages = b"", ()
        self._ends.clear()
        self._counts.clear()

    def _decode_in_full(self, body: bytes) -> tuple[Message, ...]:
        self._forget()
        return decode_timeline(body, progress=self._progress)


class _Size:
    """The size in UTF-8 of the beginning of a text, for one place after another."""

    __slots__ = ("_is_ascii", "_place", "_size", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._is_ascii = text.isascii()
        self._place = self._size = 0

    def up_to(self, place: int) -> int:
        """Return the number of bytes before a place, which is not before the last one."""
        if self._is_ascii:
            return place
        self._size += len(self._text[self._place : place].encode("utf-8", "surrogatepass"))
        self._place = place
        return self._size


def _common_length(old: bytes, new: bytes) -> int:
    """Return the length of the common beginning, by bisection: a few fast comparisons instead of one per byte."""
    low, high = 0, min(len(old), len(new)) + 1
    view = memoryview(old)
    while low < high - 1:
        middle = (low + high) // 2
        if new.startswith(view[low:middle], low):
            low = middle
        else:
            high = middle
    return low
