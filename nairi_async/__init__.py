"""Conversations with Nairi agents, in asyncio: start, watch, continue."""

from __future__ import annotations

from nairi_async.conversation import Conversation
from nairi_async.errors import (
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    ConnectionFailedError,
    DecodeError,
    InvalidArgumentError,
    NairiError,
    NotAnApiJobError,
    NotFoundError,
    OutcomeUnknownError,
    PermissionDeniedError,
    RateLimitedError,
    RequestTimeoutError,
    ServerError,
    ServerOutcomeError,
    SessionClosedError,
    StatusError,
    TurnFailedError,
    UnreadableOutcomeError,
    WatchTimeoutError,
)
from nairi_async.models import (
    Agent,
    Attachment,
    ConversationSummary,
    Message,
    Outcome,
    Progress,
    Reply,
    Turn,
    Usage,
)
from nairi_async.session import NairiSession
from nairi_async.transport.retry import RetryPolicy
from nairi_async.watching.cadence import Polling
from nairi_async.watching.watch import Watch

__all__ = [
    "Agent",
    "Attachment",
    "AuthenticationError",
    "BadRequestError",
    "ConfigurationError",
    "ConnectionFailedError",
    "Conversation",
    "ConversationSummary",
    "DecodeError",
    "InvalidArgumentError",
    "Message",
    "NairiError",
    "NairiSession",
    "NotAnApiJobError",
    "NotFoundError",
    "Outcome",
    "OutcomeUnknownError",
    "PermissionDeniedError",
    "Polling",
    "Progress",
    "RateLimitedError",
    "Reply",
    "RequestTimeoutError",
    "RetryPolicy",
    "ServerError",
    "ServerOutcomeError",
    "SessionClosedError",
    "StatusError",
    "Turn",
    "TurnFailedError",
    "UnreadableOutcomeError",
    "Usage",
    "Watch",
    "WatchTimeoutError",
]


def __getattr__(name: str) -> str:
    if name == "__version__":
        # Read only when asked for: it costs more than the rest of the import.
        from importlib.metadata import version  # noqa: PLC0415

        return version("nairi-async")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
