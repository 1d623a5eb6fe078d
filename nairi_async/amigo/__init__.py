"""Conversations with Amigo's services, in asyncio: begin, interact, finish; the reply streams back as typed events."""

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
