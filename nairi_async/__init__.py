"""Asynchronous conversations with Nairi agents: send prompts, and read messages as they are discovered.

    import asyncio

    from nairi_async import NairiSession


    async def main() -> None:
        async with NairiSession() as nairi:  # the API key: NAIRI_API_KEY
            turn = await nairi.start("my-agent", "Refund the failed charge for cus_123.")
            async for message in nairi.watch(turn):
                print(message.role, message.content)
            reply = await nairi.ask("my-agent", "Which charges failed today?")  # start, wait, read
            print(reply.text, reply.usage)


    asyncio.run(main())

Begin with `NairiSession`: its methods are the calls of the library. Every error is a `NairiError`. Other modules:
`nairi_async.batch` (many prompts, with a ledger on disk), `nairi_async.web` (Server-Sent Events), `nairi_async.bots`
(chat bots), `nairi_async.amigo` (Amigo's services), `nairi_async.dialogue` (the protocol that both services share),
`nairi_async.hooks` (events of a session), `nairi_async.otel` (OpenTelemetry), `nairi_async.testing` (simulated services
for tests), `nairi_async.errors`, `nairi_async.typing`. The command `nairi-async demo` shows the library at work without
an account.

Networks: `proxy=` names a proxy, `ssl=` a file of certificates or an `ssl.SSLContext`, and `trust_env=True` reads
`HTTPS_PROXY`, `NO_PROXY` and `SSL_CERT_FILE`. Crash reports: the API key is in no frame of this
library, but prompts are; a reporter that collects local variables collects them.
"""

from __future__ import annotations

from nairi_async._core.checks import DEFAULT_TIMEOUT, MAX_ATTACHMENTS
from nairi_async._core.exports import set_module as _set_module
from nairi_async._core.outcome import PromptOutcome
from nairi_async._core.retry import RetryPolicy
from nairi_async._core.statistics import RequestStats
from nairi_async._core.upload import MAX_ATTACHMENT_BYTES
from nairi_async._nairi.activity import Activity
from nairi_async._nairi.conversation import Conversation
from nairi_async._nairi.listing.checkpoint import Checkpoint
from nairi_async._nairi.listing.listing import ConversationListing, Sync
from nairi_async._nairi.many import AskMany, WatchMany
from nairi_async._nairi.polling.cadence import Cadence
from nairi_async._nairi.polling.settings import Polling
from nairi_async._nairi.polling.statistics import Stats
from nairi_async._nairi.polling.watch import SentWatch, Watch
from nairi_async._nairi.prompt import Prompt
from nairi_async._nairi.results import Attachment, Outcome, Reply
from nairi_async._nairi.session import NairiSession
from nairi_async._nairi.tool_calls import ActivityNode, ToolCall
from nairi_async._nairi.usage import UsageReport, UsageShare
from nairi_async.errors import (
    AgentNotFoundError,
    AlreadyAskedError,
    AttachmentExistsError,
    AuthenticationError,
    BadRequestError,
    ChatBusyError,
    ConfigurationError,
    ConflictError,
    ConnectionFailedError,
    DecodeError,
    InteractionUnknownError,
    InteractionVoidError,
    InvalidArgumentError,
    JournalError,
    LedgerError,
    NairiError,
    NotAnApiJobError,
    NotFoundError,
    OtherPromptsError,
    OutcomeUnknownError,
    PermissionDeniedError,
    RateLimitedError,
    ReplyFormatError,
    RequestTimeoutError,
    ServerError,
    ServerOutcomeError,
    SessionClosedError,
    StatusError,
    StoreError,
    TooManyStreamsError,
    TurnFailedError,
    UnreadableOutcomeError,
    WatchTimeoutError,
)
from nairi_async.models import Agent, ConversationSummary, Message, Progress, Turn, Usage
from nairi_async.typing import UNSET

__all__ = [  # noqa: RUF022 - in the order of Python's own sort
    "Activity",
    "ActivityNode",
    "Agent",
    "AgentNotFoundError",
    "AlreadyAskedError",
    "AskMany",
    "Attachment",
    "AttachmentExistsError",
    "AuthenticationError",
    "BadRequestError",
    "Cadence",
    "ChatBusyError",
    "Checkpoint",
    "ConfigurationError",
    "ConflictError",
    "ConnectionFailedError",
    "Conversation",
    "ConversationListing",
    "ConversationSummary",
    "DEFAULT_TIMEOUT",
    "DecodeError",
    "InteractionUnknownError",
    "InteractionVoidError",
    "InvalidArgumentError",
    "JournalError",
    "LedgerError",
    "MAX_ATTACHMENTS",
    "MAX_ATTACHMENT_BYTES",
    "Message",
    "NairiError",
    "NairiSession",
    "NotAnApiJobError",
    "NotFoundError",
    "OtherPromptsError",
    "Outcome",
    "OutcomeUnknownError",
    "PermissionDeniedError",
    "Polling",
    "Progress",
    "Prompt",
    "PromptOutcome",
    "RateLimitedError",
    "Reply",
    "ReplyFormatError",
    "RequestStats",
    "RequestTimeoutError",
    "RetryPolicy",
    "SentWatch",
    "ServerError",
    "ServerOutcomeError",
    "SessionClosedError",
    "Stats",
    "StatusError",
    "StoreError",
    "Sync",
    "TooManyStreamsError",
    "ToolCall",
    "Turn",
    "TurnFailedError",
    "UNSET",
    "UnreadableOutcomeError",
    "Usage",
    "UsageReport",
    "UsageShare",
    "Watch",
    "WatchMany",
    "WatchTimeoutError",
]


_set_module(__name__, __all__, globals())


def __getattr__(name: str) -> str:
    if name == "__version__":
        # Read only on demand: it takes longer than the rest of the import.
        from importlib.metadata import version  # noqa: PLC0415

        return version("nairi-async")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
