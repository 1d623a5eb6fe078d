"""Conversations with Amigo's services, in asyncio: create, interact, finish; the reply is a stream of typed events.

Amigo is called Concurrence now; addresses, credentials and package names have stayed. This is the classic API
(https://docs.amigo.ai/developer-guide/classic-api/core-api/conversations), not the Platform API, which is another one.
"""

from __future__ import annotations

from nairi_async.amigo.conversation import AmigoConversation
from nairi_async.amigo.events import (
    ConversationCreated,
    CurrentAgentAction,
    ErrorEvent,
    Event,
    InteractionComplete,
    NewMessage,
    UnknownEvent,
    UserMessageAvailable,
)
from nairi_async.amigo.limits import Limits
from nairi_async.amigo.listing import AmigoConversations, AmigoMessages
from nairi_async.amigo.many import AmigoAskMany
from nairi_async.amigo.models import (
    AmigoMessage,
    AmigoOutcome,
    AmigoReply,
    ConversationInfo,
    Insights,
    MessageSource,
    Starter,
    VersionSetInfo,
)
from nairi_async.amigo.session import AmigoSession
from nairi_async.amigo.stream import AmigoStream

__all__ = [
    "AmigoAskMany",
    "AmigoConversation",
    "AmigoConversations",
    "AmigoMessage",
    "AmigoMessages",
    "AmigoOutcome",
    "AmigoReply",
    "AmigoSession",
    "AmigoStream",
    "ConversationCreated",
    "ConversationInfo",
    "CurrentAgentAction",
    "ErrorEvent",
    "Event",
    "Insights",
    "InteractionComplete",
    "Limits",
    "MessageSource",
    "NewMessage",
    "Starter",
    "UnknownEvent",
    "UserMessageAvailable",
    "VersionSetInfo",
]
