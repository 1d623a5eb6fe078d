"""From a script to a stream: what a turn sends when, and which messages it leaves once it is saved."""

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

# A spoken character lasts that long, in as many samples of 16 bits; what is said is silence.
_MILLISECONDS = 50
_SAMPLES = 16

_SENDERS: Mapping[MessageType, str] = {
    "user-message": "User",
    "agent-message": "Agent",
    "agent-inner-thought": "Agent",
    "external-event": "External event",
}


@frozen
class AmigoAsked:
    """A turn that was accepted and thus runs, once."""

    conversation_id: str
    """The conversation."""
    interaction_id: str
    """The turn."""
    service_id: str
    """The service."""
    user_id: str
    """Who said it."""
    kind: Kind | None
    """What began the turn; `None` where the agent speaks first."""
    message: str
    """The text, or the transcript of a voice message; empty where the agent speaks first or goes on."""
    at: float
    """When it was accepted, in seconds since the epoch."""
    events: tuple[tuple[str, datetime], ...] = ()
    """External events that were sent along, each with its time."""
    audio: bytes | None = None
    """The bytes of a voice message."""
    response_format: Format = "text"
    """The form of the reply that was asked for."""
    actions: str = "^.*$"
    """The regular expression on the types of the actions that are sent."""


@frozen
class Entry:
    """A message of the list."""

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
        """The name that is shown for it."""
        return _SENDERS[self.type]


@frozen
class Emission:
    """Something that happens to a stream at a moment (seconds since the epoch; never: `math.inf`)."""

    at: float
    kind: Literal["line", "cut", "end", "hang"]
    data: bytes = b""


@define(eq=False)
class Turn:
    """One interaction: its stream, and what is kept of it from `completed_at` on (never: `math.inf`)."""

    asked: AmigoAsked
    emissions: tuple[Emission, ...]
    entries: tuple[Entry, ...]
    reflections: tuple[str, ...]
    completed_at: float
    ended_at: float
    """When the service is done with it."""
    ends: bool
    """Whether the conversation ends with it."""
    is_processed: bool
    """Whether nothing failed after it was saved."""

    def void(self, now: float) -> None:
        """Stop it; what was not saved by now never is."""
        if self.completed_at > now:
            self.completed_at = math.inf
        self.ended_at = min(self.ended_at, now)


@define
class _Stage:
    """Plays the steps of one turn; `at` is the moment the play has come to."""

    asked: AmigoAsked
    quirks: AmigoQuirks
    make_id: MakeId
    wanted: Callable[[str], bool]
    at: float
    emissions: list[Emission] = field(factory=list)
    entries: list[Entry] = field(factory=list)
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
        odd = {"x_unknown": {"nested": [1, None]}} if self.quirks.unknown_fields else {}
        self._line(_json({"type": event_type, **fields, **odd}))

    def play(self, step: ScriptStep) -> None:
        self.at += step.after
        match step:
            case Speak():
                self._speak(step)
            case Think():
                self.thoughts.append(step.text)
                self._keep(step.text, "agent-inner-thought", self.at)
            case Action():
                if self.wanted(step.type):
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
                raise TypeError(f"{type(step).__name__} is no step that can be played")

    def begin(self, conversation_created: str | None, user_audio_type: str | None) -> None:
        """Send what comes before all steps, and keep what the user sent."""
        asked = self.asked
        if conversation_created is not None:
            self.event("conversation-created", conversation_id=conversation_created)
        for content, moment in asked.events:
            self._keep(content, "external-event", moment.timestamp())
        if asked.kind in {"user-message", "external-event"}:
            form: Format = "text" if asked.audio is None else "voice"
            message_type: MessageType = "user-message" if asked.kind == "user-message" else "external-event"
            message_id = self._keep(asked.message, message_type, self.at, form, user_audio_type)
            if conversation_created is None or self.quirks.user_message_in_create:
                self.event("user-message-available", message_id=message_id, user_message=asked.message)

    def finish(self) -> Turn:
        """Return the whole turn."""
        self.ended_at = self.at
        return Turn(
            self.asked,
            self._framed(),
            tuple(self.entries),
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

    def _keep(
        self, text: str, message_type: MessageType, at: float, form: Format = "text", audio_type: str | None = None
    ) -> str:
        message_id = self.make_id(at)
        self.entries.append(Entry(message_id, self.asked.interaction_id, at, text, message_type, form, audio_type))
        return message_id

    def _speak(self, step: Speak) -> None:
        if step.apart or not self.spoken:
            message_id = self.make_id(self.at)
            self.spoken[message_id], self.spoken_at[message_id] = [], self.at
        message_id = list(self.spoken)[-1]
        said = self.spoken[message_id]
        for number, piece in enumerate(step.split()):
            self.at += step.every if number else 0.0
            said.append(piece)
            self.pieces_left -= 1
            self._piece(piece, message_id, len(said) - 1)

    def _piece(self, piece: str, message_id: str, number: int) -> None:
        message: str = piece
        alignment: list[list[object]] | None = None
        if self.asked.response_format == "voice":
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
        for message_id, said in self.spoken.items():
            at, audio = self.spoken_at[message_id], self.asked.response_format == "voice"
            form: Format = "voice" if audio else "text"
            entry = Entry(
                message_id, self.asked.interaction_id, at, "".join(said), "agent-message", form,
                "audio/wav" if audio else None,
            )  # fmt: skip
            self.entries.append(entry)
        if self.quirks.events == "example":
            self.event("interaction-complete")
            return
        full = "".join(piece for said in self.spoken.values() for piece in said) if step.text is None else step.text
        self.event(
            "interaction-complete",
            message_id=list(self.spoken)[-1] if self.spoken else self.make_id(self.at),
            interaction_id=self.asked.interaction_id,
            full_message=full,
            conversation_completed=step.ends,
        )


def perform(
    steps: tuple[ScriptStep, ...],
    asked: AmigoAsked,
    quirks: AmigoQuirks,
    *,
    make_id: MakeId,
    wanted: Callable[[str], bool],
    created: bool,
    audio_type: str | None = None,
) -> Turn:
    """Play the steps of a turn that begins when it was asked; `created` is whether it makes the conversation."""
    stage = _Stage(asked, quirks, make_id, wanted, asked.at)
    stage.pieces_left = sum(len(step.split()) for step in steps if isinstance(step, Speak))
    stage.begin(asked.conversation_id if created else None, audio_type)
    for step in steps:
        stage.play(step)
    return stage.finish()


def _json(content: Mapping[str, object] | str) -> bytes:
    """Text stays as it is; an object becomes JSON that keeps every character of its strings raw."""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")
