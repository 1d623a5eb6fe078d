"""What the commands print: pure functions from models to lines.

Every text of the service passes `clean` before it reaches a terminal, or a pipe that may lead to one.
"""

from __future__ import annotations

import shlex
import textwrap
from typing import TYPE_CHECKING, Final

from nairi_async._core.json_body import plain_decimal
from nairi_async.cli.arguments import PROGRAM
from nairi_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from datetime import datetime

    from nairi_async.batch import BatchOutcome
    from nairi_async.cli.screen import Style
    from nairi_async.models import Message, Progress, Usage

# Characters that begin escape sequences (all controls but newline and tab), and those that change the order in which
# text is displayed.
_HARMFUL: Final = {
    **{code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"},
    **{code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))},
}
_WHEN_COLUMNS: Final = 8
_LABEL_COLUMNS: Final = 9
_INDENT: Final = _WHEN_COLUMNS + 2 + _LABEL_COLUMNS
# With fewer columns than this for the text, the terminal wraps lines itself.
_MIN_TEXT_COLUMNS: Final = 24
# Length of a progress entry where there is no terminal.
_PROGRESS_LENGTH: Final = 100

_SPEAKERS: Final = {
    "user": ("you", ("bold", "cyan")),
    "assistant": ("agent", ("bold", "green")),
    "system": ("notice", ("yellow",)),
}
_ACTIVITIES: Final = {"text": "writing", "tool_use": "tool", "tool_heartbeat": "tool", "": "progress"}


def clean(text: str) -> str:
    r"""Replace the characters that could control a terminal by visible escapes, such as `\x1b`."""
    return text.replace("\r\n", "\n").translate(_HARMFUL)


def one_line(text: str) -> str:
    """Return the clean text on one line, with single spaces."""
    return clean(" ".join(text.split()))


def entry(when: str, label: str, text: str, style: Style, *painted: str, body: tuple[str, ...] = ()) -> str:
    """Return an entry in columns: when, a label, and the text, indented as a block."""
    columns = (style.width or 0) - _INDENT - 1
    rows = [row for line in clean(text).split("\n") for row in _wrap(line, columns)]
    head = style.paint(f"{when:>{_WHEN_COLUMNS}}", "dim") + "  " + style.paint(f"{label:<{_LABEL_COLUMNS}}", *painted)
    block = f"\n{' ' * (_INDENT + 1)}".join(style.paint(row, *body) for row in rows)
    return "\n".join(line.rstrip() for line in f"{head} {block}".split("\n"))


def message_entry(message: Message, when: str, style: Style) -> str:
    """Return a message of any role in columns; progress takes one line."""
    if message.progress is not None:
        label, text = _activity(message.progress, message.content, style)
        return entry(when, label, _progress_line(text, style), style, "dim", body=("dim",))
    files = f"\n[files: {', '.join(message.attachment_ids)}]" if message.attachment_ids else ""
    return spoken_entry(message.role, message.content.strip("\n") + files, when, style)


def spoken_entry(role: str, text: str, when: str, style: Style) -> str:
    """Return a text and its speaker, in columns."""
    label, styles = _SPEAKERS.get(role, (one_line(role), ()))
    return entry(when, label, text, style, *styles)


def status_entry(status: str, when: str, style: Style) -> str:
    """Return the status of a turn in columns."""
    styles = ("red",) if status == "failed" else ("dim",)
    return entry(when, "status", one_line(status), style, *styles, body=styles)


def clock_time(at: datetime | None) -> str:
    """Return the local time of day, or nothing if it is not known."""
    try:
        return "" if at is None else f"{at.astimezone():%H:%M:%S}"
    except (OverflowError, OSError, ValueError):
        # Not every time zone has the first and last day of the calendar.
        return ""


def usage_text(usage: Usage | None) -> str:
    """Return the known part of the usage, such as `2,310 tokens in, 214 out, $0.0231`."""
    if usage is None:
        return ""
    parts = [
        f"{usage.input_tokens:,} tokens in" if usage.input_tokens is not None else "",
        f"{usage.output_tokens:,} out" if usage.output_tokens is not None else "",
        f"${plain_decimal(usage.cost_usd)}" if usage.cost_usd is not None else "",
    ]
    return ", ".join(part for part in parts if part)


def watch_command(job_id: str, after: str | None, base_url: str | None) -> str:
    """Return the command that continues to watch a conversation after a message."""
    words = [PROGRAM, "watch", job_id]
    words += ["--after", after] if after is not None else []
    words += ["--base-url", base_url] if base_url is not None else []
    return clean(shlex.join(words))


def outcome_label(outcome: BatchOutcome) -> str:
    """Return what to call an outcome of a batch that has an error."""
    if isinstance(outcome.error, InvalidArgumentError) and outcome.turn is None and not outcome.is_final:
        # Named by its line: its id may be missing, or belong to another record.
        return f"unusable  line {outcome.place}"
    return f"{'failed' if outcome.is_final else 'open'}  {one_line(outcome.id)}"


def error_line(error: BaseException) -> str:
    """Return the error on one line."""
    return f"{PROGRAM}: error: {one_line(str(error)) or type(error).__name__}"


def _wrap(line: str, columns: int) -> list[str]:
    if columns < _MIN_TEXT_COLUMNS:
        return [line]
    return textwrap.wrap(line, columns, break_long_words=False, break_on_hyphens=False) or [""]


def _activity(progress: Progress, content: str, style: Style) -> tuple[str, str]:
    """Return a label for what the agent is doing, and what the service says about it."""
    label = _ACTIVITIES.get(progress.progress_type, one_line(progress.progress_type))
    text = progress.summary or progress.text_delta or progress.tool_description or ""
    if progress.tool_name is None or progress.progress_type != "tool_use":
        return label, text or progress.tool_name or content
    if progress.tool_output is None and progress.tool_status in {None, "running"}:
        return label, f"{progress.tool_name}: {progress.tool_input or text}"
    mark = style.glyph("error" if progress.tool_status == "error" else "done")
    return label, f"{mark} {progress.tool_name}: {progress.tool_output or text or progress.tool_status}"


def _progress_line(text: str, style: Style) -> str:
    line = one_line(text)
    length = max(_PROGRESS_LENGTH if style.width is None else style.width - _INDENT - 1, _MIN_TEXT_COLUMNS)
    more = style.glyph("more")
    return line if len(line) <= length else line[: length - len(more)].rstrip() + more
