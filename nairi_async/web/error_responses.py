"""Errors as a web application reports them to a browser: pure functions."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from nairi_async._core.retry import is_transient
from nairi_async._core.visitor_messages import is_shown, visitor_message
from nairi_async.errors import (
    BadRequestError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    OutcomeUnknownError,
    RateLimitedError,
    SessionClosedError,
    StatusError,
    TooManyStreamsError,
    UnknownBatchError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nairi_async.errors import NairiError

_log = logging.getLogger("nairi_async.web")

_BAD_REQUEST, _NOT_FOUND, _CONFLICT, _BAD_GATEWAY, _UNAVAILABLE, _GATEWAY_TIMEOUT = 400, 404, 409, 502, 503, 504
# What a service that checks its input responds with besides 400: unsupported media, and fields that are not valid.
_INPUT_REFUSED: Final = frozenset({415, 422})
# The first four are the fault of the browser's request; other errors arose between the application and the service.
_STATUS: Final[tuple[tuple[type[Exception], int], ...]] = (
    (InvalidArgumentError, _BAD_REQUEST),
    (BadRequestError, _BAD_REQUEST),
    (NotFoundError, _NOT_FOUND),
    (UnknownBatchError, _NOT_FOUND),
    (ConflictError, _CONFLICT),
    (RateLimitedError, _UNAVAILABLE),
    (SessionClosedError, _UNAVAILABLE),
    (TooManyStreamsError, _UNAVAILABLE),
    (TimeoutError, _GATEWAY_TIMEOUT),
)


def http_status(error: NairiError) -> int:
    """Return the status of the response to a browser whose request has failed with this error.

    400, 404 and 409 if the request is at fault, 503 if the service refuses for now, 504 if it was too slow, otherwise
    502. Never 401 or 403: the service refused the application's key, not the visitor.
    """
    if isinstance(error, StatusError) and error.status in _INPUT_REFUSED:
        return _BAD_REQUEST
    return next((status for kind, status in _STATUS if isinstance(error, kind)), _BAD_GATEWAY)


def error_json(error: NairiError) -> Mapping[str, object]:
    """Return an error in the form that a browser gets, ready for `json.dumps`.

    It contains no text of the service, except for 400 and 404, which are about the request; the text goes to the log
    `nairi_async.web`.

    Returns:
        `error`, the name of its class; `message`, a sentence for people; `status`, as from `http_status`; `transient`,
        whether another attempt may help; never where the prompt may have run.
    """
    if not is_shown(error):
        _log.warning("a request of a browser has failed with %s: %.1000r", type(error).__name__, str(error))
    return {
        "error": type(error).__name__,
        "message": visitor_message(error),
        "status": http_status(error),
        "transient": may_pass(error),
    }


def may_pass(error: NairiError) -> bool:
    """Return whether another attempt may help, and is safe: a prompt that may have run must not be sent again."""
    if isinstance(error, OutcomeUnknownError):
        return False
    is_passing = isinstance(error, SessionClosedError | TimeoutError | TooManyStreamsError)
    return is_passing or is_transient(error, idempotent=True, unreadable=True)
