from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nairi_async._core.json_body import json_line
from nairi_async.cli.formatting import (
    clean,
    clock_time,
    entry,
    error_line,
    message_entry,
    one_line,
    status_entry,
    usage_text,
    watch_command,
)
from nairi_async.cli.screen import Screen, Style
from nairi_async.errors import NairiError, NotFoundError
from nairi_async.models import Message, Progress, Usage

PLAIN = Style()
FANCY = Style(has_color=True, has_glyphs=True, width=80)
OVERRIDES = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
CONTROLS = {chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))} - {"\n", "\t"}


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def message(content: str = "Hello", role: str = "assistant", **fields: object) -> Message:
    return Message(id="cmsg_1", job_id="job_1", role=role, status="completed", content=content, **fields)  # type: ignore[arg-type]


def doing(**fields: str) -> Message:
    return message("{}", "progress", progress=Progress(**fields))  # type: ignore[arg-type]


def row(text: str, label: str = "tool") -> str:
    return f"   0.1 s  {label:<9} {text}"


@given(st.text())
def test_clean_text_holds_nothing_that_a_terminal_obeys(text: str) -> None:
    """No control but newline and tab, and no bidi override, is left in cleaned text."""
    assert not set(clean(text)) & (CONTROLS | set(OVERRIDES))


@given(st.text(st.characters(exclude_categories=("Cc", "Cf"), include_characters="\n\t")))
def test_harmless_text_stays_as_it_is(text: str) -> None:
    """Cleaning changes nothing that is harmless, in any script."""
    assert clean(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x9b2J", r"\x9b2J"),
        ("a\rb", r"a\x0db"),
        ("a\r\nb", "a\nb"),
        ("gpj\u202efdp", r"gpj\u202efdp"),
    ],
)
def test_harmful_characters_are_seen_as_escapes(text: str, shown: str) -> None:
    """A harmful character is neither obeyed nor hidden; a line end of Windows is a line end."""
    assert clean(text) == shown


@given(st.text())
def test_one_line_is_one_line(text: str) -> None:
    """A text with any number and kind of line ends becomes one line."""
    assert len(one_line(text).splitlines()) <= 1


def test_columns_are_aligned() -> None:
    """When, who and what stand in columns, and further lines of the text under its first."""
    assert entry("0.1 s", "agent", "one\n\ntwo", PLAIN) == "   0.1 s  agent     one\n\n                    two"


def test_no_line_is_longer_than_the_terminal() -> None:
    """Lines fit into any terminal wide enough for columns; into others they go unwrapped, and nothing is lost."""
    words = "word " * 30
    for width in range(200):
        lines = entry("0.1 s", "agent", words, Style(width=width)).split("\n")
        assert " ".join(lines).split()[3:] == words.split()
        assert len(lines) == 1 if width < 44 else max(map(len, lines)) <= width, width


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (doing(progress_type="tool_use", tool_name="Bash", tool_input="ls", tool_status="running"), "Bash: ls"),
        (
            doing(progress_type="tool_use", tool_name="Bash", tool_output="a\nb", tool_status="completed"),
            "ok Bash: a b",
        ),
        (doing(progress_type="tool_use", tool_name="Bash", tool_output="", tool_status="error"), "failed Bash: error"),
        (doing(progress_type="tool_heartbeat", tool_name="Bash", summary="still running"), "still running"),
        (doing(progress_type="tool_use", summary="nameless"), "nameless"),
    ],
)
def test_tools_show_their_input_then_their_output(shown: Message, text: str) -> None:
    """A tool call shows what goes in when it begins and what came out when it ends, on one line each."""
    assert message_entry(shown, "0.1 s", PLAIN) == row(text)


@pytest.mark.parametrize(
    ("shown", "label", "text"),
    [
        (doing(progress_type="thinking", text_delta="Hm."), "thinking", "Hm."),
        (doing(progress_type="text", text_delta="Let me see."), "writing", "Let me see."),
        (doing(progress_type="dreaming\x1b"), "dreaming\\x1b", "{}"),
        (message("no JSON", "progress", progress=Progress(progress_type="")), "progress", "no JSON"),
    ],
)
def test_every_kind_of_progress_is_shown(shown: Message, label: str, text: str) -> None:
    """Known kinds have a label of their own, unknown ones keep their word, and what is no envelope is shown raw."""
    assert message_entry(shown, "0.1 s", PLAIN).split() == ["0.1", "s", label, *text.split()]


def test_progress_takes_one_line() -> None:
    """A long progress entry is cut to the terminal's width, since the reply repeats what matters."""
    line = message_entry(
        doing(progress_type="text", text_delta="long " * 99), "0.1 s", Style(width=60, has_glyphs=True)
    )
    assert len(line) <= 60
    assert line.endswith("…")


def test_files_are_named() -> None:
    """A message that carries files says which."""
    assert message_entry(message(attachment_ids=("att_1", "att_2")), "", PLAIN).endswith("[files: att_1, att_2]")


def test_roles_and_statuses_yet_unknown_are_shown() -> None:
    """A role or status that no document knows is shown under its own word."""
    assert message_entry(message("Hi", "moderator"), "", PLAIN).split() == ["moderator", "Hi"]
    assert status_entry("scheduled", "", PLAIN).split() == ["status", "scheduled"]


def test_colour_only_where_it_is_wanted() -> None:
    """Lines hold escape sequences of our own with colour, and none without."""
    assert "\x1b[" in message_entry(message(), "", FANCY)
    assert "\x1b" not in message_entry(message(), "", PLAIN)


@pytest.mark.parametrize(
    ("environ", "has_color"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_the_environment_decides_on_colour(environ: dict[str, str], has_color: bool) -> None:  # noqa: FBT001
    """A terminal has colour unless NO_COLOR is set (empty counts as unset) or the terminal is dumb."""
    assert Style.of(Terminal(), environ).has_color is has_color


def test_a_pipe_is_plain() -> None:
    """What is no terminal gets neither colour nor wrapped lines."""
    style = Style.of(io.StringIO(), {})
    assert (style.has_color, style.width) == (False, None)


@pytest.mark.parametrize(("encoding", "has_glyphs"), [("utf-8", True), ("ascii", False), ("latin-1", False)])
def test_glyphs_only_where_the_encoding_has_them(encoding: str, has_glyphs: bool) -> None:  # noqa: FBT001
    """Decorations outside ASCII are used only where they can be encoded."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    assert Style.of(stream, {}).has_glyphs is has_glyphs


def test_a_closed_stream_swallows_lines() -> None:
    """A program that was started with a closed stream goes on."""
    Screen.on(None).show("not read by anyone")


def test_json_is_one_line_of_ascii() -> None:
    """Times and decimals are strings, line ends and controls are escaped, and the raw envelope is not repeated."""
    full = message(
        "Grüße\n\x1b[31m\u2028",
        created_at=datetime(2026, 4, 1, tzinfo=UTC),
        usage=Usage(cost_usd=Decimal("0.10")),
        progress=Progress(progress_type="step", raw={"a": 1}),
    )
    line = json_line(full)
    assert line.isascii()
    assert line.isprintable()
    document = json.loads(line)
    assert document["content"] == full.content
    assert document["created_at"] == "2026-04-01T00:00:00+00:00"
    assert document["usage"]["cost_usd"] == "0.10"
    assert "raw" not in document["progress"]


@pytest.mark.parametrize(
    ("usage", "text"),
    [
        (None, ""),
        (Usage(model="m"), ""),
        (Usage(output_tokens=0), "0 out"),
        (Usage(input_tokens=2310, output_tokens=21, cost_usd=Decimal("1E-7")), "2,310 tokens in, 21 out, $0.0000001"),
    ],
)
def test_usage_tells_what_is_known(usage: Usage | None, text: str) -> None:
    """Figures that the agent did not report are left out; a cost is never in scientific notation."""
    assert usage_text(usage) == text


@pytest.mark.parametrize("at", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
@pytest.mark.parametrize("hours", [-12, 0, 12])
def test_no_time_is_too_strange(at: datetime, hours: int) -> None:
    """The ends of the calendar are shown or left out, and never break the output."""
    assert len(clock_time(at.replace(tzinfo=timezone(timedelta(hours=hours))))) in {0, 8}
    assert clock_time(None) == ""


def test_the_command_to_go_on_can_be_pasted() -> None:
    """Ids are quoted for a shell, and cannot smuggle controls into it."""
    assert watch_command("job_1", None, None) == "nairi-async watch job_1"
    assert watch_command("$(id)\x1b", "m 1", "http://localhost") == (
        r"nairi-async watch '$(id)\x1b' --after 'm 1' --base-url http://localhost"
    )


def test_errors_are_one_line() -> None:
    """An error of several lines, of the service or without any text, takes one line."""
    assert error_line(NotFoundError(404, "no\nsuch\x1b[2J job")) == r"nairi-async: error: 404 no such\x1b[2J job"
    assert error_line(OSError()) == "nairi-async: error: OSError"
    assert isinstance(NotFoundError(404, ""), NairiError)
