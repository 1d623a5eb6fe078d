"""Server-Sent Events as bytes, and errors as a browser is told of them: pure functions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from nairi_async._core.json_body import json_line
from nairi_async._core.retry import is_transient
from nairi_async.errors import (
    BadRequestError,
    InvalidArgumentError,
    NotFoundError,
    RateLimitedError,
    SessionClosedError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nairi_async._nairi.activity import Activity
    from nairi_async.errors import NairiError
    from nairi_async.models import Message

HEARTBEAT: Final = b":\n\n"
"""A comment: the browser ignores it, and what stands between sees that the connection is alive."""

_BAD_REQUEST, _NOT_FOUND, _BAD_GATEWAY, _UNAVAILABLE, _GATEWAY_TIMEOUT = 400, 404, 502, 503, 504
# Of our own errors, what the browser's request is to blame for; whatever else went wrong went wrong behind us.
_STATUS: Final[tuple[tuple[type[Exception], int], ...]] = (
    (InvalidArgumentError, _BAD_REQUEST),
    (BadRequestError, _BAD_REQUEST),
    (NotFoundError, _NOT_FOUND),
    (RateLimitedError, _UNAVAILABLE),
    (SessionClosedError, _UNAVAILABLE),
    (TimeoutError, _GATEWAY_TIMEOUT),
)


def event(name: str, data: str, *, id: str | None = None) -> bytes:  # noqa: A002 - the field's own name
    """One event; `data` is one line, such as JSON.

    An id that no event can carry is left out: the browser then resumes behind the one before, and nothing is lost.
    """
    lines = [f"event: {name}", f"data: {data}"]
    if id is not None and id.isprintable() and id.isascii():
        lines.insert(0, f"id: {id}")
    return "\n".join((*lines, "", "")).encode()


def retry(seconds: float) -> bytes:
    """How long the browser is to wait before it connects again."""
    return f"retry: {round(seconds * 1000)}\n\n".encode()


def message_event(message: Message) -> bytes:
    """A message; its id is the event's, so that `Last-Event-ID` is a cursor of the watch."""
    return event("message", json_line(message), id=message.id or None)


def activity_event(activity: Activity) -> bytes:
    """What the agent is doing now. Without an id: a stream that resumes tells it anew."""
    since = activity.since
    document = {
        "text": activity.describe(),
        "tools": len(activity.finished),
        "since": since.isoformat() if since is not None else None,
    }
    return event("activity", json.dumps(document))


def failure_event(error: NairiError) -> bytes:
    """Why the stream ends before its conversation; not named `error`, which is the browser's own event."""
    return event("failure", json.dumps(error_json(error)))


def http_status(error: NairiError) -> int:
    """The status that a web application answers with when a call has failed.

    400 and 404 for what the request is to blame for, 503 where the service refuses for now, 504 where it was too slow,
    else 502. Never 401 or 403: it is the application's key that was refused, not the visitor.
    """
    return next((status for kind, status in _STATUS if isinstance(error, kind)), _BAD_GATEWAY)


def error_json(error: NairiError) -> Mapping[str, object]:
    """An error as a browser is told of it, ready for `json.dumps`. It never holds the key.

    Returns:
        `error`, the name of its class; `message`, for people; `status`, as from `http_status`; `transient`, whether
        trying again may help.
    """
    may_pass = isinstance(error, SessionClosedError | TimeoutError)
    return {
        "error": type(error).__name__,
        "message": str(error),
        "status": http_status(error),
        "transient": may_pass or is_transient(error, idempotent=True, unreadable=True),
    }
