"""What the commands print, as text: pure functions from models to lines.

Whatever the service sent passes `clean` before it reaches a terminal, or a pipe that may end at one.
"""

from __future__ import annotations

import shlex
import textwrap
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

    from nairi_async.cli.style import Style
    from nairi_async.models import Message, Progress, Usage

PROGRAM: Final = "nairi-async"

# Escape sequences begin with one of these, or are undone by one: all controls but newline and tab, and the overrides
# that make text read in another order than it is in.
_HARMFUL: Final = {
    **{code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"},
    **{code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))},
}
_WHEN_COLUMNS: Final = 8
_LABEL_COLUMNS: Final = 9
_INDENT: Final = _WHEN_COLUMNS + 2 + _LABEL_COLUMNS
# Below this many columns for the text, a terminal wraps better by itself.
_NARROWEST: Final = 24
# Of a progress entry, where no terminal says how much fits into one line.
_GLIMPSE: Final = 100

_SPEAKERS: Final = {
    "user": ("you", ("bold", "cyan")),
    "assistant": ("agent", ("bold", "green")),
    "system": ("notice", ("yellow",)),
}
_ACTIVITIES: Final = {"text": "writing", "tool_use": "tool", "tool_heartbeat": "tool", "": "progress"}


def clean(text: str) -> str:
    r"""Text that moves no cursor and sets no colour: harmful characters appear as their escapes, such as `\x1b`."""
    return text.replace("\r\n", "\n").translate(_HARMFUL)


def one_line(text: str) -> str:
    """The clean text with all white space, line ends included, as single spaces."""
    return clean(" ".join(text.split()))


def entry(when: str, label: str, text: str, style: Style, *polls: str, body: tuple[str, ...] = ()) -> str:
    """One entry in columns: when, who or what, and the text, indented as a block; `polls` are the label's."""
    room = (style.width or 0) - _INDENT - 1
    rows = [row for line in clean(text).split("\n") for row in _wrapped(line, room)]
    head = style.paint(f"{when:>{_WHEN_COLUMNS}}", "dim") + "  " + style.paint(f"{label:<{_LABEL_COLUMNS}}", *polls)
    block = f"\n{' ' * (_INDENT + 1)}".join(style.paint(row, *body) for row in rows)
    return "\n".join(line.rstrip() for line in f"{head} {block}".split("\n"))


def message_entry(message: Message, when: str, style: Style) -> str:
    """A message of any role in columns; progress takes one line."""
    if message.progress is not None:
        label, text = _activity(message.progress, message.content, style)
        return entry(when, label, _glimpse(text, style), style, "dim", body=("dim",))
    files = f"\n[files: {', '.join(message.attachment_ids)}]" if message.attachment_ids else ""
    return spoken_entry(message.role, message.content.strip("\n") + files, when, style)


def spoken_entry(role: str, text: str, when: str, style: Style) -> str:
    """What somebody said, in columns."""
    label, polls = _SPEAKERS.get(role, (one_line(role), ()))
    return entry(when, label, text, style, *polls)


def status_entry(status: str, when: str, style: Style) -> str:
    """The status of a turn in columns."""
    polls = ("red",) if status == "failed" else ("dim",)
    return entry(when, "status", one_line(status), style, *polls, body=polls)


def clock_time(moment: datetime | None) -> str:
    """The time of day where the user is, or nothing if it is not known."""
    try:
        return "" if moment is None else f"{moment.astimezone():%H:%M:%S}"
    except (OverflowError, OSError, ValueError):
        # The first and last day of the calendar have no counterpart in every time zone.
        return ""


def usage_text(usage: Usage | None) -> str:
    """What a turn cost, as far as it is known: `2,310 tokens in, 214 out, $0.0231`."""
    if usage is None:
        return ""
    parts = [
        f"{usage.input_tokens:,} tokens in" if usage.input_tokens is not None else "",
        f"{usage.output_tokens:,} out" if usage.output_tokens is not None else "",
        f"${usage.cost_usd:f}" if usage.cost_usd is not None else "",
    ]
    return ", ".join(part for part in parts if part)


def watch_command(job_id: str, after: str | None, base_url: str | None) -> str:
    """The command that goes on watching a conversation behind a message."""
    words = [PROGRAM, "watch", job_id]
    words += ["--after", after] if after is not None else []
    words += ["--base-url", base_url] if base_url is not None else []
    return clean(shlex.join(words))


def error_line(error: BaseException) -> str:
    """What went wrong, on one line."""
    return f"{PROGRAM}: error: {one_line(str(error)) or type(error).__name__}"


def _wrapped(line: str, room: int) -> list[str]:
    if room < _NARROWEST:
        return [line]
    return textwrap.wrap(line, room, break_long_words=False, break_on_hyphens=False) or [""]


def _activity(progress: Progress, content: str, style: Style) -> tuple[str, str]:
    """What the agent is doing: a label, and as much as the service said."""
    label = _ACTIVITIES.get(progress.progress_type, one_line(progress.progress_type))
    told = progress.summary or progress.text_delta or progress.tool_description or ""
    if progress.tool_name is None or progress.progress_type != "tool_use":
        return label, told or progress.tool_name or content
    if progress.tool_output is None and progress.tool_status in {None, "running"}:
        return label, f"{progress.tool_name}: {progress.tool_input or told}"
    mark = style.glyph("error" if progress.tool_status == "error" else "done")
    return label, f"{mark} {progress.tool_name}: {progress.tool_output or told or progress.tool_status}"


def _glimpse(text: str, style: Style) -> str:
    line = one_line(text)
    room = max(_GLIMPSE if style.width is None else style.width - _INDENT - 1, _NARROWEST)
    more = style.glyph("more")
    return line if len(line) <= room else line[: room - len(more)].rstrip() + more
