"""The events of an interaction, typed.

Field names are the service's own (https://api.amigo.ai/v1/openapi.json). Published examples lack fields that the schema
requires, and the set of types has changed over time: a field that is absent, or not of the documented type, is `None`,
and an event of an unknown type is an `UnknownEvent`. `raw` holds the JSON object, so nothing is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import field

from nairi_async._core.records import frozen
from nairi_async.amigo.action import Action


@frozen(kw_only=True)
class Event:
    """The fields that all events have."""

    type: str
    """The name of the event, as the service writes it."""
    raw: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)
    """The JSON object, unknown fields included."""


@frozen(kw_only=True)
class ConversationCreated(Event):
    """The first event of a new conversation."""

    conversation_id: str | None = None
    """Its id."""


@frozen(kw_only=True)
class UserMessageAvailable(Event):
    """The service has accepted the message."""

    message_id: str | None = None
    """Id of the user's message."""
    user_message: str | None = None
    """The text, or the transcript of a voice message."""


@frozen(kw_only=True)
class CurrentAgentAction(Event):
    """What the agent does before it replies; sent only to users who may see insights."""

    action: Action | None = None
    """The action."""


@frozen(kw_only=True)
class NewMessage(Event):
    """A piece of the reply."""

    message: str = ""
    """Text; in a voice reply base64 of PCM16 audio."""
    message_id: str | None = None
    """The message that it belongs to."""
    sequence_number: int | None = None
    """Its position; the first number is not documented."""
    stop: bool | None = None
    """Whether it is the last piece of its message."""
    transcript_alignment: tuple[tuple[int, str], ...] | None = None
    """In a voice reply: pairs of milliseconds from the beginning of the audio and the character spoken then."""


@frozen(kw_only=True)
class InteractionComplete(Event):
    """The interaction is saved; an `ErrorEvent` may still follow."""

    message_id: str | None = None
    """Id of the agent's message."""
    interaction_id: str | None = None
    """Id of the interaction."""
    full_message: str | None = None
    """The whole text, or the transcript of the audio."""
    conversation_completed: bool | None = None
    """Whether the agent has ended the conversation; do not finish it then."""


@frozen(kw_only=True)
class ErrorEvent(Event):
    """Something failed: before `InteractionComplete` nothing was kept, after it only post-processing is missing."""

    http_error_code: int | None = None
    """A code like an HTTP status."""
    error_description: str | None = None
    """What failed, in words."""


@frozen(kw_only=True)
class UnknownEvent(Event):
    """An event of a type that this library does not know, or a line that is no JSON object."""

    text: str = ""
    """The beginning of a line that is not a JSON object; `type` and `raw` are then empty."""


BY_TYPE: Final[Mapping[str, type[Event]]] = {
    "conversation-created": ConversationCreated,
    "user-message-available": UserMessageAvailable,
    "current-agent-action": CurrentAgentAction,
    "new-message": NewMessage,
    "interaction-complete": InteractionComplete,
    "error": ErrorEvent,
}
"""The class for each type of event."""
