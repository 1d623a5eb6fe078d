"""A message on its way to an agent: its arguments, checked, and what is needed to recognise it later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from nairi_async._core.records import frozen
from nairi_async.amigo import checks
from nairi_async.amigo.voice import read_recording
from nairi_async.errors import InvalidArgumentError
from nairi_async.typing import MessageFormat, SentMessageType

if TYPE_CHECKING:
    from nairi_async.amigo.voice import Recording

SENT_TYPES: Final = ("user-message", "external-event")
"""Types of messages that begin an interaction."""


@frozen(kw_only=True)
class OutgoingMessage:
    """One message, or one event, to an agent; without text and voice the agent speaks first."""

    text: str | None = None
    """The text."""
    voice: Any = None
    """The source of a recording, in place of a text."""
    message_type: SentMessageType = "user-message"
    """Whether it is a user's message or an external event."""
    events: tuple[tuple[str, str], ...] = ()
    """Times and texts of external events that come before it."""
    response_format: MessageFormat = "text"
    """The format of the reply."""
    current_agent_action_type: str | None = None
    """Regular expression on the type of the actions to send as events; `None` for all."""

    @property
    def wants_voice(self) -> bool:
        """Whether the reply is audio."""
        return self.response_format == "voice"

    async def recording(self) -> Recording | None:
        """Read the recording; `None` for text."""
        return None if self.voice is None else await read_recording(self.voice)


def first_message(text: object, *, message_type: object, response_format: object, actions: object) -> OutgoingMessage:
    """Check the message that creates a conversation."""
    kind = checks.one_of("initial_message_type", message_type, SENT_TYPES)
    return OutgoingMessage(
        text=checks.optional_text("initial_message", text),
        message_type=cast("SentMessageType", kind),
        response_format=cast("MessageFormat", checks.one_of("response_format", response_format, checks.FORMATS)),
        current_agent_action_type=checks.optional_text("current_agent_action_type", actions),
    )


def next_message(
    text: object,
    *,
    voice: object,
    message_type: object,
    events: object,
    response_format: object,
    actions: object,
    now: float,
) -> OutgoingMessage:
    """Check a message in a conversation that exists; `now` is the latest Unix time at the service."""
    if (text is None) == (voice is None):
        raise InvalidArgumentError("give either a message or a voice recording, and not both")
    kind = checks.one_of("message_type", message_type, SENT_TYPES)
    return OutgoingMessage(
        text=checks.optional_text("the message", text),
        voice=voice,
        message_type=cast("SentMessageType", kind),
        events=checks.external_events(events, now),
        response_format=cast("MessageFormat", checks.one_of("response_format", response_format, checks.FORMATS)),
        current_agent_action_type=checks.optional_text("current_agent_action_type", actions),
    )
