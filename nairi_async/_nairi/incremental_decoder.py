"""Decoding a timeline that grows at its end: only what is new is decoded (design section 7).

The service sends the whole history on each read. As long as the new body begins as the last one did, the entries that
lie in the common part are the same entries, so their models are kept and decoding goes on behind them. Nothing else is
assumed: any edit shortens the common part, and whatever is not the plain documented document is decoded in full.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from nairi_async._core import json_body
from nairi_async._nairi.wire import decode_timeline, structure_message

if TYPE_CHECKING:
    from nairi_async.models import Message

# The document as the service prints it. Anything else, other keys included, takes the way through the full decode.
# JSON's own white space, which is less than what `\s` stands for.
_SPACE: Final = r"[ \t\n\r]*"
_HEAD: Final = re.compile(rf'{_SPACE}\{{{_SPACE}"messages"{_SPACE}:{_SPACE}\[{_SPACE}')
_COMMA: Final = re.compile(rf"{_SPACE},{_SPACE}")
_FOOT: Final = re.compile(rf"{_SPACE}\]{_SPACE}\}}{_SPACE}\Z")


class IncrementalDecoder:
    """Decodes the reads of one conversation, one after the other; equal to `wire.decode_timeline` on each of them."""

    __slots__ = ("_ends", "_kept", "_messages", "_progress", "_text")

    def __init__(self, *, progress: bool = False) -> None:
        self._progress = progress
        # The last body up to the end of its last entry; empty if it was not the plain document.
        self._text = ""
        # For each entry of the last body: where it ends, and how many messages there are up to it.
        self._ends: list[int] = []
        self._kept: list[int] = []
        self._messages: tuple[Message, ...] = ()

    def decode(self, body: bytes) -> tuple[Message, ...]:
        """The messages, in the service's order; the same tuple as last time if nothing has changed."""
        try:
            text = body.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return self._decode_in_full(body)
        known = len(self._ends)
        if not text.startswith(self._text):
            known = bisect_right(self._ends, _common(self._text, text))
            del self._ends[known:], self._kept[known:]
        messages = list(self._messages[: self._kept[-1] if known else 0])
        if not self._go_on(text, messages):
            return self._decode_in_full(body)
        if len(self._ends) > known or len(messages) < len(self._messages):
            self._text = text[: self._ends[-1]] if self._ends else ""
            self._messages = tuple(messages)
        return self._messages

    def _go_on(self, text: str, messages: list[Message]) -> bool:
        """Decode the entries behind the last one kept; false if the document is not the plain one, or too heavy."""
        position = self._ends[-1] if self._ends else -1
        if json_body.is_heavy(text, max(position, 0)):
            return False
        while (begin := self._next_entry(text, position)) >= 0:
            try:
                entry, position = json_body.DECODER.raw_decode(text, begin)
            except (ValueError, ArithmeticError, RecursionError):
                return False
            if not isinstance(entry, dict):
                return False
            if self._progress or entry.get("role") != "progress":
                messages.append(structure_message(entry))
            self._ends.append(position)
            self._kept.append(len(messages))
            if len(self._ends) > json_body.MOST_ENTRIES:
                return False
        if position < 0:
            return False
        return _FOOT.match(text, position) is not None

    @staticmethod
    def _next_entry(text: str, position: int) -> int:
        """Where the next entry begins; negative if there is none."""
        found = _COMMA.match(text, position) if position >= 0 else _HEAD.match(text)
        return found.end() if found is not None else -1

    def _decode_in_full(self, body: bytes) -> tuple[Message, ...]:
        self._text, self._messages = "", ()
        self._ends.clear()
        self._kept.clear()
        return decode_timeline(body, progress=self._progress)


def _common(old: str, new: str) -> int:
    """Length of the common beginning, by comparing halves: a few fast comparisons instead of one per character.

    An entry is an object, so its closing brace ends it, whatever stands behind.
    """
    low, high = 0, min(len(old), len(new)) + 1
    while low < high - 1:
        middle = (low + high) // 2
        if old[low:middle] == new[low:middle]:
            low = middle
        else:
            high = middle
    return low
