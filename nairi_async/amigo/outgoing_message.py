"""What is said in one interaction, checked, and what is needed to find it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from nairi_async.amigo import checks
from nairi_async.amigo.voice import voice
from nairi_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from nairi_async.amigo.voice import Voice

SPOKEN: Final = ("user-message", "external-event")
"""What an interaction can begin with."""


@frozen(kw_only=True)
class OutgoingMessage:
    """One message, or one event, on its way to an agent; nothing at all lets the agent speak first."""

    text: str | None = None
    """What is said."""
    voice: Any = None
    """A recording in its place."""
    message_type: str = "user-message"
    """Who it comes from: the user, or the world."""
    events: tuple[tuple[str, str], ...] = ()
    """Times and texts of events that come before it."""
    response_format: str = "text"
    """How to answer."""
    current_agent_action_type: str | None = None
    """Which actions to tell of: a regular expression; all unless given."""

    @property
    def is_spoken_back(self) -> bool:
        """Whether the answer is audio."""
        return self.response_format == "voice"

    async def recording(self) -> Voice | None:
        """The recording, looked at; `None` for text."""
        return None if self.voice is None else await voice(self.voice)


def first_words(text: object, *, message_type: object, response_format: object, actions: object) -> OutgoingMessage:
    """What a conversation begins with."""
    kind = checks.one_of("initial_message_type", message_type, SPOKEN)
    return OutgoingMessage(
        text=checks.optional_text("initial_message", text),
        message_type=kind,
        response_format=checks.one_of("response_format", response_format, checks.FORMATS),
        current_agent_action_type=checks.optional_text("current_agent_action_type", actions),
    )


def further_words(
    text: object,
    *,
    voice: object,
    message_type: object,
    events: object,
    response_format: object,
    actions: object,
    now: float,
) -> OutgoingMessage:
    """What is said in a conversation that has begun; `now` is Unix time."""
    if (text is None) == (voice is None):
        raise InvalidArgumentError("either a message or a voice recording is needed, and not both")
    kind = checks.one_of("message_type", message_type, SPOKEN)
    return OutgoingMessage(
        text=checks.optional_text("the message", text),
        voice=voice,
        message_type=kind,
        events=checks.external_events(events, now),
        response_format=checks.one_of("response_format", response_format, checks.FORMATS),
        current_agent_action_type=checks.optional_text("current_agent_action_type", actions),
    )
