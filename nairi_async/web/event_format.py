"""Server-Sent Events as bytes: pure functions. The format: https://html.spec.whatwg.org/multipage/server-sent-events.html."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from nairi_async._core.json_body import json_line
from nairi_async.web.error_responses import error_json

if TYPE_CHECKING:
    from nairi_async._nairi.activity import Activity
    from nairi_async.errors import NairiError
    from nairi_async.models import Message

# A block without data ends with no empty line: some clients, such as httpx-sse, take it for an event without data.
HEARTBEAT: Final = b":\n"
"""A comment: browsers ignore it, and proxies see that the connection is alive."""


def event(name: str, data: str, *, id: str | None = None) -> bytes:  # noqa: A002 - the field's own name
    """Return one event; `data` is one line, such as JSON.

    An id that no event can carry is left out: the browser then resumes after the event before, and nothing is lost.
    """
    lines = [f"event: {name}", f"data: {data}"]
    if id is not None and id.isprintable() and id.isascii():
        lines.insert(0, f"id: {id}")
    return "\n".join((*lines, "", "")).encode()


def reconnection_time(seconds: float) -> bytes:
    """Return the field that says how long a browser waits before it reconnects."""
    return f"retry: {round(seconds * 1000)}\n".encode()


def message_event(message: Message) -> bytes:
    """Return the event of a message; its id is the message's, so that `Last-Event-ID` is a cursor of the watch."""
    return event("message", json_line(message), id=message.id or None)


def activity_event(activity: Activity) -> bytes:
    """Return the event that says what the agent is doing. It has no id: a stream that resumes sends it again."""
    since = activity.since
    document = {
        "text": activity.describe(),
        "tools": len(activity.finished),
        "since": since.isoformat() if since is not None else None,
    }
    return event("activity", json.dumps(document))


def answer_event(dialogue_id: str | None, text: str) -> bytes:
    """Return the event of a whole reply."""
    return event("answer", json.dumps({"id": dialogue_id, "text": text}))


def end_event(status: str | None) -> bytes:
    """Return the event after which nothing more comes."""
    return event("end", json.dumps({"status": status}))


def failure_event(error: NairiError) -> bytes:
    """Return the event of an error that ends a stream; it is not named `error`, which is the browser's own event."""
    return event("failure", json.dumps(error_json(error)))
