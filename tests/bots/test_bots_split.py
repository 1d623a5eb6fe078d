"""Long texts become messages that a platform accepts, without broken code blocks (pure)."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nairi_async import InvalidArgumentError
from nairi_async.bots import split_text, utf16_length
from nairi_async.bots.split import MIN_LIMIT, Length

WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="`~"), max_size=300)
LINES = st.lists(st.text("ab (){}=\t'\"\u00e9\U0001f600", max_size=90), max_size=30)
LIMITS = st.integers(MIN_LIMIT, 200)


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Draw paragraphs and code blocks as agents write them, the last block perhaps left open."""
    parts: list[str] = []
    for _ in range(draw(st.integers(1, 6))):
        if draw(st.booleans()):
            parts.append(draw(WORDS))
        else:
            marker = draw(st.sampled_from(["```", "~~~", "````"]))
            code = "\n".join(draw(LINES))
            parts.append(f"{marker}{draw(st.sampled_from(['', 'py', 'json']))}\n{code}\n{marker}")
    joint = draw(st.sampled_from(["\n", "\n\n", "\n\n\n"]))
    text = joint.join(parts)
    return text[: draw(st.integers(0, len(text)))] if draw(st.booleans()) else text


def is_balanced(text: str) -> bool:
    """Return whether every code block is closed, by the rules of CommonMark."""
    opened = ""
    for line in text.split("\n"):
        marker = re.match(r"[ \t]*(`{3,}(?=[^`]*$)|~{3,})", line)
        if opened and re.fullmatch(rf"[ \t]*{opened}{opened[0]}*[ \t]*", line):
            opened = ""
        elif not opened and marker:
            opened = marker[1]
    return not opened


def shown(text: str) -> str:
    """Return what a reader sees of a text: no fences, no white space."""
    lines = [line for line in text.split("\n") if not re.match(r"\s*(```|~~~)", line)]
    return "".join("".join(lines).split())


@given(documents(), LIMITS, st.sampled_from([len, utf16_length]))
def test_pieces_fit_are_self_contained_and_show_everything(text: str, limit: int, length: Length) -> None:
    """No piece is too long or blank; each closes what it opens; together they show what the text shows, in order."""
    pieces = split_text(text, limit, length=length)
    assert all(length(piece) <= limit for piece in pieces)
    assert all(piece.strip() for piece in pieces)
    assert all(is_balanced(piece) for piece in pieces)
    assert "".join(shown(piece) for piece in pieces) == shown(text)


@given(WORDS, LIMITS)
def test_plain_text_is_cut_and_nothing_else(text: str, limit: int) -> None:
    """Without code blocks the pieces are parts of the text, with only white space between them."""
    rest = text
    for piece in split_text(text, limit):
        before, found, rest = rest.partition(piece)
        assert found
        assert not before.strip()
    assert not rest.strip()


@given(st.lists(st.text("ab ", min_size=1, max_size=30).filter(str.strip), min_size=1, max_size=30), LIMITS)
def test_code_is_kept_to_the_character(lines: list[str], limit: int) -> None:
    """Lines of code that fit into a piece are never cut, changed or lost."""
    code = [line[: limit // 4] or "x" for line in lines]
    pieces = split_text("\n".join(["```py", *code, "```"]), limit)
    inside = [piece.split("\n")[1:-1] for piece in pieces]
    assert [line for piece in inside for line in piece if line.strip()] == [line for line in code if line.strip()]
    assert all(piece.startswith("```py\n") and piece.endswith("\n```") for piece in pieces)


@given(st.text(max_size=2000), LIMITS)
def test_any_text_ends_in_pieces_that_fit(text: str, limit: int) -> None:
    """Any text is split, including lone surrogates and rows of backticks."""
    assert all(utf16_length(piece) <= limit for piece in split_text(text, limit, length=utf16_length))


@pytest.mark.parametrize(
    "text",
    [
        "`" * 5000,
        "```" + "x" * 5000,
        "~" * 30 + "\n" + "y" * 500,
        "```\n" * 900,
        "\n" * 9000,
        "\U0001f1e6" * 5000,
        "- " * 50_000,
    ],
)
@pytest.mark.parametrize("limit", [32, 33, 2000])
def test_hostile_texts_end_in_pieces_that_fit(text: str, limit: int) -> None:
    """Endless fences, words and rows of flags are split into pieces that fit, none blank, within a moment."""
    pieces = split_text(text, limit)
    assert all(len(piece) <= limit and piece.strip() for piece in pieces)


def test_many_flags_take_no_longer_than_as_many_letters() -> None:
    """Whether a cut splits a flag depends on the beginning of the row: it is found once, not for each cut."""

    def seconds(text: str) -> float:
        """Return the least of three, since a garbage collection of the suite's own may take longer."""

        def once() -> float:
            started_at = time.process_time()
            assert len(split_text(text, 2000)) == 100
            return time.process_time() - started_at

        return min(once() for _ in range(3))

    assert seconds("\U0001f1e6" * 200_000) < 10 * seconds("a" * 200_000)


def test_paragraph_before_line_before_word() -> None:
    """The best place is taken, unless it would leave the piece less than a quarter full."""
    paragraph = "one two three four\nfive six\n\nseven eight nine ten eleven"
    assert split_text(paragraph, 40) == ["one two three four\nfive six", "seven eight nine ten eleven"]
    assert split_text("one two three four five\nsix seven eight nine", 35) == [
        "one two three four five",
        "six seven eight nine",
    ]
    assert split_text("one two three four five six seven eight", 32) == ["one two three four five six", "seven eight"]
    assert split_text("a\n\n" + "word " * 12, 40)[0] == "a\n\nword word word word word word word"


def test_a_block_that_fits_is_not_cut() -> None:
    """A code block goes to the next piece as a whole."""
    text = "An introduction of some words.\n```py\nx = 1\ny = 2\n```"
    assert split_text(text, 40) == ["An introduction of some words.", "```py\nx = 1\ny = 2\n```"]


def test_a_cut_block_is_closed_and_opened_again_with_its_language() -> None:
    """Each piece is a block of its own, and the text after the block stays text."""
    code = "\n".join(f"line {number}" for number in range(6))
    assert split_text(f"```python\n{code}\n```\nDone.", 40) == [
        "```python\nline 0\nline 1\nline 2\n```",
        "```python\nline 3\nline 4\nline 5\n```\nDone.",
    ]


@pytest.mark.parametrize("mark", ["-", "*", "1.", "12)", "- 1."])
def test_a_block_in_a_list_is_a_block(mark: str) -> None:
    """The text after its end is text; a cut inside closes and reopens it, without the marker of the item."""
    after = "\n".join(f"Plain words, line {n}." for n in range(10))
    pieces = split_text(f"First:\n{mark} ```sh\n   npm install\n   ```\n{after}", 60)
    assert "".join(pieces).count("```") == 2
    code = "\n".join(f"   step {n}" for n in range(10))
    first, *others = split_text(f"{mark} ```sh\n{code}\n   ```", 60)
    assert first.startswith(f"{mark} ```sh\n")
    assert all(piece.startswith("```sh\n") and piece.endswith("```") for piece in others)


@pytest.mark.parametrize(
    "character", ["e\u0301", "\U0001f469\u200d\U0001f680", "\U0001f44d\U0001f3fd", "\U0001f1e9\U0001f1ea"]
)
def test_what_is_seen_as_one_character_stays_whole(character: str) -> None:
    """An accent, a joined emoji, a skin tone and a flag are not cut off."""
    for offset in range(4):
        pieces = split_text("x" * offset + character * 40, 32)
        assert all(piece.replace(character, "").strip("x") == "" for piece in pieces)


@pytest.mark.parametrize("limit", [31, 0, -1, True, 40.0, "40"])
def test_an_impossible_limit_is_refused(limit: int) -> None:
    """A limit below 32, or one that is not a whole number, is a clear error."""
    with pytest.raises(InvalidArgumentError, match="limit must be"):
        split_text("text", limit)


def test_a_blank_text_has_no_pieces() -> None:
    """An empty or blank text needs no message; a short one is a single unchanged message."""
    assert split_text("", 32) == split_text(" \n\n ", 32) == []
    assert split_text("Hello *you*", 32) == ["Hello *you*"]


def test_telegram_counts_in_utf16() -> None:
    """Most emoji count as two there."""
    assert utf16_length("a\U0001f600") == 3
    assert [len(piece) for piece in split_text("\U0001f600" * 40, 32, length=utf16_length)] == [16, 16, 8]
