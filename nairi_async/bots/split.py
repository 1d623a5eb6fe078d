"""Cutting a long text into messages that a platform takes (pure)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from attrs import frozen

from nairi_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAST_LIMIT: Final = 32
"""The smallest limit: a code block needs room for its fences in every piece."""

# A block may begin behind the mark of a list item, and ends on a line of its own all the same.
_FENCE: Final = re.compile(r"[ \t]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+){0,4}(?P<marker>`{3,}|~{3,})(?P<info>.*)")
# A piece is cut at a better place only if that leaves it this full: a quarter.
_FILLED: Final = 4
# A fence is repeated in each piece of its block, so one that fills pieces by itself is taken for text.
_FENCE_SHARE: Final = 4
_SPACE: Final = re.compile(r"\s+")
_FENCE_SIGNS: Final = frozenset("`~")
_MARKS: Final = frozenset({"Mn", "Mc", "Me"})
_LONGEST_ROW: Final = 64
_JOINER: Final = "\u200d"
_TONES: Final = range(0x1F3FB, 0x1F400)
_FLAGS: Final = range(0x1F1E6, 0x1F200)
_HANGUL: Final = range(0x1160, 0x1200)
_HIGH, _LOW = range(0xD800, 0xDC00), range(0xDC00, 0xE000)

Length = Callable[[str], int]
"""How a platform counts; a longer text is never counted shorter."""


def utf16_length(text: str) -> int:
    """Length in UTF-16 code units, in which Telegram counts: most emoji are two."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def split_text(text: str, limit: int, *, length: Length = len) -> list[str]:
    """Cut a text into pieces that each stand by themselves as a message.

    A piece ends after a paragraph where there is one, else after a line, else after a word, and only in a word that
    is longer than a piece anywhere else, but not within a visible character (an emoji with its modifiers, a letter
    with its accents). A fenced code block that has to be cut is closed at the end of one piece and opened again, with
    its language, at the beginning of the next, so each piece has as many closed as opened fences.

    White space at a cut outside of a code block is left out, and a line end inside of one: the message's own end
    stands for it. Nothing else is added or left out, and no piece is blank. A block that the text
    leaves open is closed.

    Args:
        text: The text, as Markdown or plain.
        limit: The longest piece; at least 32.
        length: How the platform counts; characters unless given, `utf16_length` for Telegram.

    Raises:
        InvalidArgumentError: the limit is less than 32 or no whole number.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < LEAST_LIMIT:
        raise InvalidArgumentError(f"limit is {limit!r}: a whole number of at least {LEAST_LIMIT} is needed")
    return _Splitter(text, limit, length).pieces()


@frozen
class _Fence:
    """An open code block."""

    marker: str
    """What opened it, and closes it in each piece."""
    opening: str
    """The line that opened it, without what stands before the marker."""

    def is_closed_by(self, line: str) -> bool:
        """Whether a line ends the block: the same sign, at least as often, and nothing more."""
        bare = line.strip()
        return len(bare) >= len(self.marker) and not bare.strip(self.marker[0])


@frozen
class _Cut:
    """A place where a piece may end."""

    at: int
    """Where in the text."""
    fence: _Fence | None
    """The block that is open there."""
    rank: int
    """0 after a paragraph, 1 after a line, 2 after a line of a code block, 3 after a word, 4 anywhere, 5 where a
    block would be left empty."""


class _Splitter:
    def __init__(self, text: str, limit: int, length: Length) -> None:
        self._text, self._limit, self._length = text, limit, length
        self._spare = limit // _FENCE_SHARE + 2
        """No fence that has to be closed takes more."""
        self._at = 0
        self._fence: _Fence | None = None

    def pieces(self) -> list[str]:
        found: list[str] = []
        self._skip_space()
        while self._at < len(self._text):
            head = f"{self._fence.opening}\n" if self._fence else ""
            cut = self._best(head)
            body = self._text[self._at : cut.at]
            # Blank lines of a block are a piece of their own only together with something that shows.
            if body.strip():
                found.append(_joined(head, body, cut.fence))
            self._at, self._fence = cut.at, cut.fence
            self._go_on()
        return found

    def _best(self, head: str) -> _Cut:
        """Where the piece that begins here ends."""
        window = self._window(self._limit - self._length(head))
        cuts = self._cuts(window)
        if cuts[-1].at == len(self._text) and self._fits(head, cuts[-1]):
            return cuts[-1]
        enough = self._at + (window - self._at) // _FILLED
        cuts.sort(key=lambda cut: (cut.at < enough, cut.rank, -cut.at))
        # There is always one: the fences of a block take little more than half of a piece.
        return next(cut for cut in cuts if self._fits(head, cut))

    def _window(self, room: int) -> int:
        """The end of the longest stretch from here that has room."""
        least, most = self._at + 1, min(len(self._text), self._at + room)
        while least < most:
            middle = (least + most + 1) // 2
            if self._length(self._text[self._at : middle]) <= room:
                least = middle
            else:
                most = middle - 1
        return least

    def _fits(self, head: str, cut: _Cut) -> bool:
        return cut.fence is None or self._length(_joined(head, self._text[self._at : cut.at], cut.fence)) <= self._limit

    def _cuts(self, window: int) -> list[_Cut]:
        """The places where a piece may end, up to the window's end, in the order of the text."""
        found: list[_Cut] = []
        fence, begin = self._fence, self._at
        while begin < window:
            end = self._line_end(begin)
            before, fence = fence, self._after(self._text[begin:end], fence)
            if before is fence:
                found += self._within(begin, min(end, window), window, fence)
            if end <= window:
                is_opening = before is None and fence is not None
                found.append(_Cut(end, fence, 5 if is_opening else self._rank(end, fence)))
            begin = end + 1
        return found

    def _rank(self, end: int, fence: _Fence | None) -> int:
        if fence is not None:
            return 2
        return 1 if self._text[end + 1 : self._line_end(end + 1)].strip() else 0

    def _within(self, begin: int, end: int, window: int, fence: _Fence | None) -> Iterator[_Cut]:
        """Places in one line: after each word, and after the last whole characters."""
        for space in _SPACE.finditer(self._text, begin, end):
            if space.start() > self._at and not _FENCE.match(self._text, space.end()):
                yield _Cut(space.start(), fence, 3)
        last = end
        while last > begin and _is_within_character(self._text, last):
            last -= 1
        if last == begin:
            # One endless character is cut somewhere.
            last = end
        # As many as it takes for one of them to leave room for closing a block.
        for at in range(max(begin + 1, min(window - self._spare, last)), last + 1):
            if at == last or not _is_within_character(self._text, at):
                yield _Cut(at, fence, 4)

    def _after(self, line: str, fence: _Fence | None) -> _Fence | None:
        """The open block after a line."""
        if len(line) > self._limit or self._length(line) > self._limit // _FENCE_SHARE:
            return fence
        if fence is not None:
            return None if fence.is_closed_by(line) else fence
        match = _FENCE.fullmatch(line)
        if match is None or (match["marker"][0] == "`" and "`" in match["info"]):
            return None
        return _Fence(match["marker"], f"{match['marker']}{match['info']}".strip())

    def _go_on(self) -> None:
        """Leave out what the end of the message stands for."""
        if self._fence is None:
            self._skip_space()
        elif self._text.startswith("\n", self._at):
            self._at += 1
            end = self._line_end(self._at)
            if self._fence.is_closed_by(self._text[self._at : end]):
                # The piece before was closed already.
                self._at, self._fence = end, None
                self._skip_space()

    def _skip_space(self) -> None:
        """Go to what shows next; the indentation of a line stays."""
        shown = _SPACE.match(self._text, self._at)
        end = shown.end() if shown else self._at
        line = self._text.rfind("\n", self._at, end)
        self._at = end if line < 0 or end == len(self._text) else line + 1

    def _line_end(self, begin: int) -> int:
        end = self._text.find("\n", begin)
        return len(self._text) if end < 0 else end


def _joined(head: str, body: str, fence: _Fence | None) -> str:
    """A piece, its block closed if it is open."""
    if fence is None:
        return head + body.rstrip()
    return f"{head}{body}\n{fence.marker}"


def _is_within_character(text: str, at: int) -> bool:
    """Whether a cut would fall into what people see as one character, or lay bare what reads as a fence."""
    if not 0 < at < len(text):
        return False
    before, after = text[at - 1], text[at]
    number = ord(after)
    return (
        after in _FENCE_SIGNS
        or unicodedata.category(after) in _MARKS
        or _JOINER in {before, after}
        or number in _TONES
        or number in _HANGUL
        or (ord(before) in _HIGH and number in _LOW)
        or (number in _FLAGS and _flags_before(text, at) % 2 == 1)
    )


def _flags_before(text: str, at: int) -> int:
    """How many halves of flags stand in a row; a longer row than anybody writes is not counted out."""
    begin = at
    while begin > max(0, at - _LONGEST_ROW) and ord(text[begin - 1]) in _FLAGS:
        begin -= 1
    return at - begin
