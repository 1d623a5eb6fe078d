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
`nairi_async.hooks` (events of a session), `nairi_async.otel` (OpenTelemetry), `nairi_async.cli` (the command),
`nairi_async.testing` (simulated services
for tests), `nairi_async.errors`, `nairi_async.typing`. The command `nairi-async demo` shows the library at work without
an account.

**Durable keys.** A process may be killed at any time. With a journal, an SQLite file, each prompt can have a key: the
same key gives the same turn in every later process. Kill this program and run it again, as often as you like, with
hundreds of tickets: what was answered is read, what was running is awaited, what was being sent is looked up, and
nothing is asked twice.

```python
import asyncio

from nairi_async import NairiSession


async def talk(nairi: NairiSession, ticket: str) -> None:
    conversation = nairi.conversation("my-agent")
    await conversation.ask(f"Summarise {ticket}.", key=f"{ticket}, summary")
    reply = await conversation.ask("And in French?", key=f"{ticket}, French")
    print(ticket, reply.text)


async def main() -> None:
    async with NairiSession(journal="run.sqlite") as nairi, asyncio.TaskGroup() as tasks:
        for number in range(20):
            tasks.create_task(talk(nairi, f"ticket {number}"))


asyncio.run(main())
```

`start`, `continue_`, `ask` and `Conversation.send` take a `key` as well, and with a journal the keys of `ask_many`'s
`Prompt`s are durable.

* A key belongs to one prompt: with another text, agent, conversation or other files it is an `InvalidArgumentError`
  before any request. Files are compared by their ids, their paths, or their bytes. A prompt that was refused frees its
  key.
* A lost response raises `OutcomeUnknownError`, as without a key. The next call with the key looks the prompt up, or the
  same one with `on_unknown="reconcile"`. It is sent again only if it provably did not run, a minute after it was sent.
  Where that cannot be decided, the error names the turns that it may be: someone else wrote to the conversation in
  those minutes, or started one with the agent.
* One process at a time uses a journal; a second one gets a `JournalError`. It holds keys, digests and turns, no text.
  It is created for its owner alone (0600), and belongs to one service. Delete it when its keys are not needed any more,
  with the `-lock`, `-wal` and `-shm` files next to it.

Networks: `proxy=` names a proxy, `ssl=` a file of certificates or an `ssl.SSLContext`, and `trust_env=True` reads
`HTTPS_PROXY`, `NO_PROXY` and `SSL_CERT_FILE`. Crash reports: the API key is in no frame of this library, but prompts
are; a reporter that collects local variables collects them.

Speed: on uvloop (`uvloop.run(main())` in place of `asyncio.run(main())`) a read takes a twentieth fewer instructions.
The tests of sessions pass on it; nothing has to be set. Virtual clocks in tests jump sooner on asyncio's own loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nairi_async._core.exports import lazy as _lazy

if TYPE_CHECKING:
    from typing import Any

    from nairi_async._core.checks import DEFAULT_TIMEOUT, MAX_ATTACHMENTS
    from nairi_async._core.outcome import PromptOutcome
    from nairi_async._core.retry import RetryPolicy
    from nairi_async._core.statistics import RequestStats
    from nairi_async._core.upload import MAX_ATTACHMENT_BYTES
    from nairi_async._nairi.activity import Activity
    from nairi_async._nairi.attachment import Attachment
    from nairi_async._nairi.conversation import Conversation
    from nairi_async._nairi.json_schema import format_instructions, json_schema
    from nairi_async._nairi.listing.checkpoint import Checkpoint
    from nairi_async._nairi.listing.listing import ConversationListing, Sync
    from nairi_async._nairi.many import AskMany, Outcome, WatchMany
    from nairi_async._nairi.polling.cadence import Cadence
    from nairi_async._nairi.polling.settings import Polling
    from nairi_async._nairi.polling.statistics import Stats
    from nairi_async._nairi.polling.watch import SentWatch, Watch
    from nairi_async._nairi.prompt import Prompt
    from nairi_async._nairi.results import Reply
    from nairi_async._nairi.session import NairiSession
    from nairi_async._nairi.tool_calls import ActivityNode, ToolCall
    from nairi_async._nairi.usage_report import UsageReport, UsageShare
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
        UnknownBatchError,
        UnreadableOutcomeError,
        WatchTimeoutError,
    )
    from nairi_async.models import Agent, ConversationSummary, Message, Progress, Turn, Usage
    from nairi_async.typing import UNSET

    __version__: str

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
    "UnknownBatchError",
    "UnreadableOutcomeError",
    "Usage",
    "UsageReport",
    "UsageShare",
    "Watch",
    "WatchMany",
    "WatchTimeoutError",
    "format_instructions",
    "json_schema",
]

# The modules of what is exported. A program imports only those that it uses; every other name is an error's.
_HOMES = {
    "_core.checks": ("DEFAULT_TIMEOUT", "MAX_ATTACHMENTS"),
    "_core.outcome": ("PromptOutcome",),
    "_core.retry": ("RetryPolicy",),
    "_core.statistics": ("RequestStats",),
    "_core.upload": ("MAX_ATTACHMENT_BYTES",),
    "_nairi.activity": ("Activity",),
    "_nairi.attachment": ("Attachment",),
    "_nairi.conversation": ("Conversation",),
    "_nairi.json_schema": ("format_instructions", "json_schema"),
    "_nairi.listing.checkpoint": ("Checkpoint",),
    "_nairi.listing.listing": ("ConversationListing", "Sync"),
    "_nairi.many": ("AskMany", "Outcome", "WatchMany"),
    "_nairi.polling.cadence": ("Cadence",),
    "_nairi.polling.settings": ("Polling",),
    "_nairi.polling.statistics": ("Stats",),
    "_nairi.polling.watch": ("SentWatch", "Watch"),
    "_nairi.prompt": ("Prompt",),
    "_nairi.results": ("Reply",),
    "_nairi.session": ("NairiSession",),
    "_nairi.tool_calls": ("ActivityNode", "ToolCall"),
    "_nairi.usage_report": ("UsageReport", "UsageShare"),
    "models": ("Agent", "ConversationSummary", "Message", "Progress", "Turn", "Usage"),
    "typing": ("UNSET",),
}
_load = _lazy(
    globals(),
    {**dict.fromkeys(__all__, "errors"), **{name: home for home, names in _HOMES.items() for name in names}},
    modules=("clock", "errors", "hooks", "models", "typing"),
    renamed=True,
)


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("_"))]


if not TYPE_CHECKING:  # or checkers would believe that every name exists

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version  # noqa: PLC0415 - it takes longer than the rest

            return version("nairi-async")
        return _load(name)
