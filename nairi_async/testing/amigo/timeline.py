"""The stream that a script makes: what a turn sends when, and which messages are saved."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Literal, TypeAlias

from attrs import define, field, frozen

from nairi_async.testing.amigo.script import Action, Complete, Cut, Error, Hang, Line, Speak, Think

if TYPE_CHECKING:
    from nairi_async.testing.amigo.quirks import AmigoQuirks
    from nairi_async.testing.script import ScriptStep

Format: TypeAlias = Literal["text", "voice"]
Kind: TypeAlias = Literal["user-message", "external-event", "skip"]
MessageType: TypeAlias = Literal["user-message", "agent-message", "agent-inner-thought", "external-event"]
MakeId: TypeAlias = Callable[[float], str]

# A spoken character lasts that long, in as many samples of 16 bits; what is message is silence.
_MILLISECONDS = 50
_SAMPLES = 16

_SENDERS: Mapping[MessageType, str] = {
    "user-message": "User",
    "agent-message": "Agent",
    "agent-inner-thought": "Agent",
    "external-event": "External event",
}


@frozen
class RecordedInteraction:
    """A turn that the service accepted, and so ran."""

    conversation_id: str
    """The conversation."""
    interaction_id: str
    """The turn."""
    service_id: str
    """The service."""
    user_id: str
    """The user."""
    kind: Kind | None
    """Kind of the message that began the turn; `None` where the agent speaks first."""
    message: str
    """The text, or the transcript of a voice message; empty if the agent speaks first or continues."""
    at: float
    """When it was accepted, in seconds since the epoch."""
    events: tuple[tuple[str, datetime], ...] = ()
    """External events sent with the message, each with its time."""
    audio: bytes | None = None
    """The bytes of a voice message."""
    response_format: Format = "text"
    """The requested format of the reply."""
    actions: str = "^.*$"
    """The regular expression that selects the types of the actions to send."""


@frozen
class ScriptedMessage:
    """A saved message."""

    id: str
    interaction_id: str
    created: float
    text: str
    type: MessageType
    format: Format = "text"
    audio_type: str | None = None
    """Content type of the audio behind a voice message."""

    @property
    def sender(self) -> str:
        """The displayed name of its author."""
        return _SENDERS[self.type]


@frozen
class Emission:
    """Something that happens to a stream at a time (seconds since the epoch; `math.inf` is never)."""

    at: float
    kind: Literal["line", "cut", "end", "hang"]
    data: bytes = b""


@define(eq=False)
class Turn:
    """One interaction: its stream, and the messages that are saved at `completed_at` (`math.inf` is never)."""

    interaction: RecordedInteraction
    emissions: tuple[Emission, ...]
    messages: tuple[ScriptedMessage, ...]
    reflections: tuple[str, ...]
    completed_at: float
    ended_at: float
    """When the service has finished processing it."""
    ends: bool
    """Whether the conversation ends with it."""
    is_processed: bool
    """Whether the post-processing succeeded."""

    def void(self, now: float) -> None:
        """Stop the turn; it is not saved unless it was before."""
        if self.completed_at > now:
            self.completed_at = math.inf
        self.ended_at = min(self.ended_at, now)


@define
class _ScriptPlayer:
    """Plays the steps of one turn; `at` is the time of the step that it plays."""

    interaction: RecordedInteraction
    quirks: AmigoQuirks
    make_id: MakeId
    includes: Callable[[str], bool]
    at: float
    emissions: list[Emission] = field(factory=list)
    messages: list[ScriptedMessage] = field(factory=list)
    thoughts: list[str] = field(factory=list)
    spoken: dict[str, list[str]] = field(factory=dict)
    spoken_at: dict[str, float] = field(factory=dict)
    pieces_left: int = 0
    completed_at: float = math.inf
    ended_at: float = math.inf
    ends: bool = False
    is_processed: bool = True

    def event(self, event_type: str, **fields: object) -> None:
        """Send an event."""
        extra = {"x_unknown": {"nested": [1, None]}} if self.quirks.unknown_fields else {}
        self._line(_json({"type": event_type, **fields, **extra}))

    def play(self, step: ScriptStep) -> None:
        self.at += step.after
        match step:
            case Speak():
                self._speak(step)
            case Think():
                self.thoughts.append(step.text)
                self._save(step.text, "agent-inner-thought", self.at)
            case Action():
                if self.includes(step.type):
                    self.event("current-agent-action", action={"type": step.type, **step.fields})
            case Line():
                content = step.content
                self._line(content if isinstance(content, bytes) else _json(content))
            case Complete():
                self._complete(step)
            case Error():
                self.event("error", http_error_code=step.code, error_description=step.description)
                self.is_processed = False
            case Cut():
                self.emissions.append(Emission(self.at, "end" if step.clean else "cut"))
            case Hang():
                self.emissions.append(Emission(self.at, "hang"))
                self.at = math.inf
            case _:
                raise TypeError(f"{type(step).__name__} cannot be played: use the steps of nairi_async.testing.amigo")

    def begin(self, conversation_created: str | None, user_audio_type: str | None) -> None:
        """Send the events before the first step, and save what the user sent."""
        interaction = self.interaction
        if conversation_created is not None:
            self.event("conversation-created", conversation_id=conversation_created)
        for content, at in interaction.events:
            self._save(content, "external-event", at.timestamp())
        if interaction.kind in {"user-message", "external-event"}:
            form: Format = "text" if interaction.audio is None else "voice"
            message_type: MessageType = "user-message" if interaction.kind == "user-message" else "external-event"
            message_id = self._save(interaction.message, message_type, self.at, form, user_audio_type)
            if conversation_created is None or self.quirks.user_message_in_create:
                self.event("user-message-available", message_id=message_id, user_message=interaction.message)

    def finish(self) -> Turn:
        """Return the whole turn."""
        self.ended_at = self.at
        return Turn(
            self.interaction,
            self._framed(),
            tuple(self.messages),
            tuple(self.thoughts),
            self.completed_at,
            self.ended_at,
            self.ends,
            self.is_processed,
        )

    def _framed(self) -> tuple[Emission, ...]:
        end = self.quirks.line_end.encode()
        last = max((place for place, one in enumerate(self.emissions) if one.kind == "line"), default=-1)
        unended = -1 if self.quirks.last_newline else last
        return tuple(
            Emission(one.at, one.kind, one.data + end) if one.kind == "line" and place != unended else one
            for place, one in enumerate(self.emissions)
        )

    def _line(self, data: bytes) -> None:
        self.emissions.append(Emission(self.at, "line", data))

    def _save(
        self, text: str, message_type: MessageType, at: float, form: Format = "text", audio_type: str | None = None
    ) -> str:
        message_id = self.make_id(at)
        self.messages.append(
            ScriptedMessage(message_id, self.interaction.interaction_id, at, text, message_type, form, audio_type)
        )
        return message_id

    def _speak(self, step: Speak) -> None:
        if step.apart or not self.spoken:
            message_id = self.make_id(self.at)
            self.spoken[message_id], self.spoken_at[message_id] = [], self.at
        message_id = list(self.spoken)[-1]
        pieces = self.spoken[message_id]
        for number, piece in enumerate(step.split()):
            self.at += step.every if number else 0.0
            pieces.append(piece)
            self.pieces_left -= 1
            self._piece(piece, message_id, len(pieces) - 1)

    def _piece(self, piece: str, message_id: str, number: int) -> None:
        message: str = piece
        alignment: list[list[object]] | None = None
        if self.interaction.response_format == "voice":
            begun = sum(map(len, self.spoken[message_id])) - len(piece)
            alignment = [[_MILLISECONDS * (begun + place), character] for place, character in enumerate(piece)]
            message = base64.b64encode(bytes(2 * _SAMPLES * len(piece))).decode()
        if self.quirks.events == "example":
            shape: dict[str, object] = {"message_metadata": [], "stop": False, "sequence_number": number + 1}
        else:
            place = number + self.quirks.first_sequence_number
            shape = {"transcript_alignment": alignment, "stop": not self.pieces_left, "sequence_number": place}
        self.event("new-message", message=message, **shape, message_id=message_id)

    def _complete(self, step: Complete) -> None:
        self.completed_at, self.ends = self.at, step.ends
        for message_id, pieces in self.spoken.items():
            at, audio = self.spoken_at[message_id], self.interaction.response_format == "voice"
            form: Format = "voice" if audio else "text"
            saved = ScriptedMessage(
                message_id, self.interaction.interaction_id, at, "".join(pieces), "agent-message", form,
                "audio/wav" if audio else None,
            )  # fmt: skip
            self.messages.append(saved)
        if self.quirks.events == "example":
            self.event("interaction-complete")
            return
        full = (
            "".join(piece for message in self.spoken.values() for piece in message) if step.text is None else step.text
        )
        self.event(
            "interaction-complete",
            message_id=list(self.spoken)[-1] if self.spoken else self.make_id(self.at),
            interaction_id=self.interaction.interaction_id,
            full_message=full,
            conversation_completed=step.ends,
        )


def play_script(
    steps: tuple[ScriptStep, ...],
    interaction: RecordedInteraction,
    quirks: AmigoQuirks,
    *,
    make_id: MakeId,
    includes: Callable[[str], bool],
    created: bool,
    audio_type: str | None = None,
) -> Turn:
    """Play the steps of a turn from its interaction on; `created` means that it creates the conversation."""
    player = _ScriptPlayer(interaction, quirks, make_id, includes, interaction.at)
    player.pieces_left = sum(len(step.split()) for step in steps if isinstance(step, Speak))
    player.begin(interaction.conversation_id if created else None, audio_type)
    for step in steps:
        player.play(step)
    return player.finish()


def _json(content: Mapping[str, object] | str) -> bytes:
    """Encode an object as JSON without escaping its characters; text stays as it is."""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")
