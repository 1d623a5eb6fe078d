"""Error messages for end users, which reveal nothing about the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nairi_async.errors import (
    BadRequestError,
    ChatBusyError,
    ConflictError,
    ConnectionFailedError,
    InvalidArgumentError,
    NotFoundError,
    OutcomeUnknownError,
    RateLimitedError,
    ServerError,
    SessionClosedError,
    StatusError,
    TooManyStreamsError,
    TurnFailedError,
    UnknownBatchError,
)

if TYPE_CHECKING:
    from nairi_async.errors import NairiError

# These name what the visitor has sent, and nothing else.
_SHOWN: Final = (InvalidArgumentError, BadRequestError, NotFoundError, ChatBusyError, TooManyStreamsError)
_SENTENCES: Final[tuple[tuple[type[Exception], str], ...]] = (
    (OutcomeUnknownError, "It is not certain whether your message arrived. Look for a reply before you send it again."),
    (UnknownBatchError, "There is no such batch."),
    (TurnFailedError, "The agent could not finish this turn."),
    (RateLimitedError, "The service is busy. Please try again in a moment."),
    (ConflictError, "The conversation is over, or the agent is still at work in it."),
    (SessionClosedError, "The application is restarting. Please try again in a moment."),
    (TimeoutError, "The agent takes longer than expected. Please try again later."),
    (ConnectionFailedError, "The service cannot be reached. Please try again later."),
    (ServerError, "The service has a problem. Please try again later."),
)
_OTHER: Final = "Something went wrong. The application's log says what."


def is_shown(error: NairiError) -> bool:
    """Return whether people may read the error's own text."""
    return isinstance(error, _SHOWN)


def visitor_message(error: NairiError) -> str:
    """Return the sentence about an error that people who use an application read.

    An error of what they have sent keeps its text. Every other error becomes one sentence for its class, since the
    texts of services name hosts, paths and more.
    """
    if isinstance(error, StatusError) and is_shown(error):
        # Without the path, which holds ids, and without advice for the developer, such as the names of other agents.
        return f"{error.status} {error.message}"
    if is_shown(error):
        return str(error)
    return next((sentence for kind, sentence in _SENTENCES if isinstance(error, kind)), _OTHER)
