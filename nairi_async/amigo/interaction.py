"""One interaction, from the bytes of its stream to its reply: pure functions and classes without input or output.

An interaction ends in one of four ways, and only its events say which, because the service sends its success status
before it has done anything: https://docs.amigo.ai/developer-guide/classic-api/core-api/conversations
"""

from __future__ import annotations

import binascii
from enum import Enum
from typing import TYPE_CHECKING, Final

from nairi_async.amigo import events
from nairi_async.amigo.models import AmigoReply
from nairi_async.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nairi_async.amigo.events import Event

MAX_LINE: Final = 16 * 1024 * 1024
"""Largest event that is read, in bytes: minutes of audio in one piece."""


class LineSplitter:
    """Splits a body at the newline byte, and at nothing else: JSON strings may hold other line ends."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        # The pieces of an unfinished line, joined once, so that many small pieces cost no more than few large ones.
        self._unfinished: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """Return the lines that this piece completes; blank ones are left out.

        Raises:
            DecodeError: a line is longer than the limit.
        """
        lines = piece.split(b"\n")
        rest = lines.pop()
        is_short = self._size + len(piece) <= self._limit
        if lines:
            if self._unfinished:
                lines[0] = b"".join((*self._unfinished, lines[0]))
                self._unfinished, self._size = [], 0
            if not is_short:
                self._check(max(map(len, lines)))
        if rest:
            self._size += len(rest)
            self._check(self._size)
            self._unfinished.append(rest)
        return [line for line in lines if line and not line.isspace()]

    def end(self) -> list[bytes]:
        """Return the last line, if it came without a newline."""
        rest = b"".join(self._unfinished)
        self._unfinished, self._size = [], 0
        return [rest] if rest and not rest.isspace() else []

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise DecodeError(f"the stream cannot be read: an event is longer than {self._limit} bytes")


class InteractionEnd(Enum):
    """How an interaction ended, according to its events."""

    COMPLETE = "complete"
    """It is saved."""
    SAVED = "saved"
    """It is saved, and the post-processing failed."""
    VOID = "void"
    """It failed, and the service kept nothing of it: it may be sent again."""
    UNKNOWN = "unknown"
    """No event said how it ended."""


class Interaction:
    """What the events of one interaction have said so far."""

    def __init__(self, conversation_id: str | None = None) -> None:
        self.conversation_id = conversation_id
        """The conversation, known from the start or from the first event."""
        self.user_message: events.UserMessageAvailable | None = None
        """The event that names the user's message."""
        self.complete: events.InteractionComplete | None = None
        """The event that says that the interaction is saved."""
        self.error: events.ErrorEvent | None = None
        """The event that says that something failed."""
        self.understood: int = 0
        """Number of events of a known type."""
        self.excerpt: str = ""
        """The beginning of the first line that is no event."""
        # The text alone: the events belong to the caller, and a stream may have very many.
        self._pieces: list[str] = []
        self._message_id: str | None = None

    def observe(self, read: Iterable[Event]) -> None:
        """Take in the next events."""
        pieces = self._pieces
        for event in read:
            # First, since nearly all events are of this class.
            if type(event) is events.NewMessage:
                pieces.append(event.message)
                if event.message_id:
                    self._message_id = event.message_id
                self.understood += 1
            else:
                self._observe_other(event)

    def _observe_other(self, event: Event) -> None:
        match event:
            case events.InteractionComplete():
                self.complete = event
            case events.ErrorEvent():
                self.error = event
            case events.ConversationCreated():
                # An interaction stays in its conversation, whichever id a stray event names.
                self.conversation_id = self.conversation_id or event.conversation_id
            case events.UserMessageAvailable():
                self.user_message = event
            case events.UnknownEvent():
                self.excerpt = self.excerpt or event.text
                return
            case _:
                pass
        self.understood += 1

    @property
    def end(self) -> InteractionEnd:
        """How it ended, if no other event comes."""
        if self.complete is not None:
            return InteractionEnd.COMPLETE if self.error is None else InteractionEnd.SAVED
        return InteractionEnd.UNKNOWN if self.error is None else InteractionEnd.VOID

    @property
    def ends_conversation(self) -> bool:
        """Whether the agent has ended the conversation with it."""
        return self.complete is not None and self.complete.conversation_completed is True

    @property
    def message_id(self) -> str | None:
        """The agent's message, as soon as an event names it."""
        if self.complete is not None and self.complete.message_id:
            return self.complete.message_id
        return self._message_id

    @property
    def ids(self) -> list[str]:
        """The ids that events have named: the user's message, the interaction, the agent's message."""
        user, complete = self.user_message, self.complete
        ids = (user and user.message_id, complete and complete.interaction_id, self.message_id)
        return [id_ for id_ in ids if id_]

    def reply(self, *, is_voice: bool = False) -> AmigoReply:
        """Return the reply, once the interaction is saved."""
        complete = self.complete or events.InteractionComplete(type="")
        text = complete.full_message or ""
        audio = b""
        if is_voice:
            audio = b"".join(map(_samples, self._pieces))
        else:
            # The service may leave the whole message out, or empty.
            text = text or "".join(self._pieces)
        return AmigoReply(
            text=text,
            conversation_id=self.conversation_id,
            interaction_id=complete.interaction_id,
            message_id=self.message_id,
            user_message_id=self.user_message.message_id if self.user_message is not None else None,
            user_message=self.user_message.user_message if self.user_message is not None else None,
            conversation_completed=complete.conversation_completed is True,
            warning=self.error,
            audio=audio,
        )


def _samples(piece: str) -> bytes:
    """Decode the audio of one piece; each is encoded on its own, and a broken one is left out."""
    try:
        return binascii.a2b_base64(piece.encode("ascii", "ignore"))
    except ValueError:
        return b""
