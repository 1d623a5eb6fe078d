"""Splitting a long text into messages that a platform accepts (pure)."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from nairi_async._core.records import frozen
from nairi_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterator

MIN_LIMIT: Final = 32
"""The smallest limit: each piece of a code block needs room for its fences."""

# A block may begin after the marker of a list item; even then it ends on a line of its own.
_FENCE: Final = re.compile(r"[ \t]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+){0,4}(?P<marker>`{3,}|~{3,})(?P<info>.*)")
# A better place to cut is taken only if it leaves the piece at least a quarter full.
_MIN_FILL: Final = 4
# A fence is repeated in each piece of its block, so a line longer than a quarter of a piece is text, not a fence.
_MAX_FENCE: Final = 4
_SPACE: Final = re.compile(r"\s+")
_MARKER: Final = re.compile(r"`{3}|~{3}")
_FENCE_CHARACTERS: Final = frozenset("`~")
_MARK_CATEGORIES: Final = frozenset({"Mn", "Mc", "Me"})
_ZERO_WIDTH_JOINER: Final = "\u200d"
_SKIN_TONES: Final = range(0x1F3FB, 0x1F400)
_REGIONAL_INDICATORS: Final = range(0x1F1E6, 0x1F200)
_FLAG_ROW: Final = re.compile("[\U0001f1e6-\U0001f1ff]+")
_HANGUL_VOWELS_AND_FINALS: Final = range(0x1160, 0x1200)
_HIGH_SURROGATES, _LOW_SURROGATES = range(0xD800, 0xDC00), range(0xDC00, 0xE000)

Length = Callable[[str], int]
"""How a platform counts; the length of a text is at least that of any part of it."""


def utf16_length(text: str) -> int:
    """Return the length in UTF-16 code units, as Telegram counts: most emoji are two."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def split_text(text: str, limit: int, *, length: Length = len) -> list[str]:
    """Split a text into pieces that are each a message of their own.

    A piece ends after a paragraph if possible, else after a line, else after a word. Only a word longer than a piece is
    cut inside, and never within a visible character (an emoji with its modifiers, a letter with its accents). If a
    fenced code block has to be cut, it is closed at the end of one piece and opened again, with its language, at the
    beginning of the next: each piece closes the fences that it opens.

    At a cut, white space outside code blocks is dropped, and one line end inside a code block. Nothing else is added
    or dropped, and no piece is blank. A block that the text leaves open is closed.

    Args:
        text: The text, as Markdown or plain.
        limit: The longest piece; at least 32.
        length: How the platform counts; characters by default, `utf16_length` for Telegram.

    Raises:
        InvalidArgumentError: the limit is less than 32, or not a whole number.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < MIN_LIMIT:
        raise InvalidArgumentError(f"limit must be a whole number of at least {MIN_LIMIT}, not {limit!r}")
    return _Splitter(text, limit, length).pieces()


@frozen
class _Fence:
    """An open code block."""

    marker: str
    """The characters that opened it, and close it in each piece."""
    opening: str
    """The line that opened it, from the marker on."""

    def is_closed_by(self, line: str) -> bool:
        """Return whether a line ends the block: the same character, at least as often, and nothing else."""
        bare = line.strip()
        return len(bare) >= len(self.marker) and not bare.strip(self.marker[0])


@frozen
class _Cut:
    """A place where a piece may end."""

    at: int
    """The index in the text."""
    fence: _Fence | None
    """The block that is open at this place."""
    rank: int
    """0 after a paragraph, 1 after a line, 2 after a line of a code block, 3 after a word, 4 anywhere, 5 if the
    piece would open a block and leave it empty."""


class _Splitter:
    def __init__(self, text: str, limit: int, length: Length) -> None:
        self._text, self._limit, self._length = text, limit, length
        self._characters = _Characters(text)
        # Most texts have no block: their words and lines need no second look.
        self._has_blocks = _MARKER.search(text) is not None
        # Closing a fence takes at most this much.
        self._closing_room = limit // _MAX_FENCE + 2
        self._at = 0
        # From where on no line ends before which place.
        self._last_line = (0, -1)
        self._fence: _Fence | None = None

    def pieces(self) -> list[str]:
        found: list[str] = []
        self._skip_space()
        while self._at < len(self._text):
            head = f"{self._fence.opening}\n" if self._fence else ""
            cut = self._best_cut(head)
            body = self._text[self._at : cut.at]
            # A piece of nothing but blank lines of a block is not sent.
            if body.strip():
                found.append(_joined(head, body, cut.fence))
            self._at, self._fence = cut.at, cut.fence
            self._skip_separator()
        return found

    def _best_cut(self, head: str) -> _Cut:
        """Return where the piece that begins here ends."""
        window = self._window(self._limit - self._length(head))
        cuts = self._cuts(window)
        if cuts[-1].at == len(self._text) and self._fits(head, cuts[-1]):
            return cuts[-1]
        enough = self._at + (window - self._at) // _MIN_FILL
        cuts.sort(key=lambda cut: (cut.at < enough, cut.rank, -cut.at))
        # There is always one: the two fences of a block take little more than half of a piece.
        return next(cut for cut in cuts if self._fits(head, cut))

    def _window(self, room: int) -> int:
        """Return the end of the longest part from here that fits."""
        low, high = self._at + 1, min(len(self._text), self._at + room)
        while low < high:
            middle = (low + high + 1) // 2
            if self._length(self._text[self._at : middle]) <= room:
                low = middle
            else:
                high = middle - 1
        return low

    def _fits(self, head: str, cut: _Cut) -> bool:
        return cut.fence is None or self._length(_joined(head, self._text[self._at : cut.at], cut.fence)) <= self._limit

    def _cuts(self, window: int) -> list[_Cut]:
        """Return the places where a piece may end, up to the end of the window, in the order of the text."""
        found: list[_Cut] = []
        fence, begin = self._fence, self._at
        while begin < window:
            end = self._line_end(begin)
            before, fence = fence, self._after(begin, end, fence)
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
        """Yield places in one line: after each word, and after the last whole characters."""
        for space in _SPACE.finditer(self._text, begin, end):
            begins_block = self._has_blocks and _FENCE.match(self._text, space.end())
            if space.start() > self._at and not begins_block:
                yield _Cut(space.start(), fence, 3)
        last = end
        while last > begin and self._characters.is_split_at(last):
            last -= 1
        if last == begin:
            # A character longer than the piece is cut somewhere.
            last = end
        # Enough places for one of them to leave room for closing a block.
        for at in range(max(begin + 1, min(window - self._closing_room, last)), last + 1):
            if at == last or not self._characters.is_split_at(at):
                yield _Cut(at, fence, 4)

    def _after(self, begin: int, end: int, fence: _Fence | None) -> _Fence | None:
        """Return the block that is open after a line."""
        if not self._has_blocks:
            return None
        # A line is not copied for each piece that it fills.
        if end - begin > self._limit:
            return fence
        line = self._text[begin:end]
        if self._length(line) > self._limit // _MAX_FENCE:
            return fence
        if fence is not None:
            return None if fence.is_closed_by(line) else fence
        match = _FENCE.fullmatch(line)
        if match is None or (match["marker"][0] == "`" and "`" in match["info"]):
            return None
        return _Fence(match["marker"], f"{match['marker']}{match['info']}".strip())

    def _skip_separator(self) -> None:
        """Skip the white space, or the line end, that the end of the message replaces."""
        if self._fence is None:
            self._skip_space()
        elif self._text.startswith("\n", self._at):
            self._at += 1
            end = self._line_end(self._at)
            if self._fence.is_closed_by(self._text[self._at : end]):
                # The piece before has closed the block already.
                self._at, self._fence = end, None
                self._skip_space()

    def _skip_space(self) -> None:
        """Skip white space up to the next visible line, but keep that line's indentation."""
        space = _SPACE.match(self._text, self._at)
        end = space.end() if space else self._at
        line = self._text.rfind("\n", self._at, end)
        self._at = end if line < 0 or end == len(self._text) else line + 1

    def _line_end(self, begin: int) -> int:
        last_begin, last_end = self._last_line
        if last_begin <= begin <= last_end:
            return last_end
        end = self._text.find("\n", begin)
        self._last_line = begin, len(self._text) if end < 0 else end
        return self._last_line[1]


def _joined(head: str, body: str, fence: _Fence | None) -> str:
    """Return a piece, with its block closed if one is open."""
    if fence is None:
        return head + body.rstrip()
    return f"{head}{body}\n{fence.marker}"


class _Characters:
    """Where one visible character of a text ends and the next begins."""

    def __init__(self, text: str) -> None:
        self._text = text
        # A flag is a pair: whether a cut splits one depends on the beginning of the row, which may be far away.
        self._flag_rows = [row.span() for row in _FLAG_ROW.finditer(text)]
        self._row_starts = [start for start, _ in self._flag_rows]

    def is_split_at(self, at: int) -> bool:
        """Return whether a cut would split what people see as one character, or lay bare a fence character."""
        if not 0 < at < len(self._text):
            return False
        before, after = self._text[at - 1], self._text[at]
        number = ord(after)
        return (
            after in _FENCE_CHARACTERS
            or unicodedata.category(after) in _MARK_CATEGORIES
            or _ZERO_WIDTH_JOINER in {before, after}
            or number in _SKIN_TONES
            or number in _HANGUL_VOWELS_AND_FINALS
            or (ord(before) in _HIGH_SURROGATES and number in _LOW_SURROGATES)
            or (number in _REGIONAL_INDICATORS and self._is_within_flag(at))
        )

    def _is_within_flag(self, at: int) -> bool:
        start, _ = self._flag_rows[bisect_right(self._row_starts, at) - 1]
        return (at - start) % 2 == 1
