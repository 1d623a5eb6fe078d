"""A streamed reply without the stream: bytes to lines, events to an outcome. No clock, no input, no output.

An interaction ends in one of four ways (api: the event stream), and only its events tell which, because the service
sends its success status before it has done anything.
"""

from __future__ import annotations

import binascii
from enum import Enum
from typing import TYPE_CHECKING, Final

from nairi_async.amigo import events
from nairi_async.amigo.models import AmigoReply
from nairi_async.errors import DecodeError

if TYPE_CHECKING:
    from nairi_async.amigo.events import Event

MAX_LINE: Final = 16 * 1024 * 1024
"""Largest event that is read, in bytes: minutes of audio in one piece."""


class Lines:
    """Splits a body at the newline byte, and at nothing else: JSON may hold other line ends as they are."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        # Pieces of a line that has not ended: joined once, so that many small pieces cost no more than few large ones.
        self._open: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that this piece ends; blank ones are left out.

        Raises:
            DecodeError: a line is longer than the limit.
        """
        *ended, rest = piece.split(b"\n")
        if ended:
            if self._open:
                ended[0] = b"".join((*self._open, ended[0]))
                self._open, self._size = [], 0
            self._check(max(map(len, ended)))
        if rest:
            self._hold(rest)
        return [line for line in ended if line and not line.isspace()]

    def end(self) -> list[bytes]:
        """The last line, where it came without a newline."""
        rest = b"".join(self._open)
        self._open, self._size = [], 0
        return [rest] if rest and not rest.isspace() else []

    def _hold(self, piece: bytes) -> None:
        self._size += len(piece)
        self._check(self._size)
        self._open.append(piece)

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise DecodeError(f"the answer cannot be read: an event is longer than {self._limit} bytes")


class End(Enum):
    """How an interaction has ended, as far as its events tell."""

    COMPLETE = "complete"
    """It is saved."""
    SAVED = "saved"
    """It is saved, and the post-processing after it failed."""
    VOID = "void"
    """It failed, and the service kept nothing of it: it may be sent again."""
    UNKNOWN = "unknown"
    """No event told."""


class Interaction:
    """What the events of one interaction have told so far."""

    def __init__(self, conversation_id: str | None = None) -> None:
        self.conversation_id = conversation_id
        """The conversation, known from the start or from the first event."""
        self.begun: events.UserMessageAvailable | None = None
        """The user's message, as the service took it."""
        self.complete: events.InteractionComplete | None = None
        """The event that says that it is saved."""
        self.error: events.ErrorEvent | None = None
        """The event that says that something failed."""
        self.seen = 0
        """Events so far."""
        self.understood = 0
        """Events among them that are of a known type."""
        self.excerpt = ""
        """The beginning of the first line that is no event, if there was one."""
        self._pieces: list[events.NewMessage] = []

    def observe(self, event: Event) -> None:
        """Take in the next event."""
        self.seen += 1
        match event:
            case events.NewMessage():
                self._pieces.append(event)
            case events.InteractionComplete():
                self.complete = event
            case events.ErrorEvent():
                self.error = event
            case events.ConversationCreated():
                self.conversation_id = event.conversation_id or self.conversation_id
            case events.UserMessageAvailable():
                self.begun = event
            case events.UnknownEvent():
                self.excerpt = self.excerpt or event.text
                return
            case _:
                pass
        self.understood += 1

    @property
    def end(self) -> End:
        """How it has ended, if nothing more comes."""
        if self.complete is not None:
            return End.COMPLETE if self.error is None else End.SAVED
        return End.UNKNOWN if self.error is None else End.VOID

    @property
    def message_id(self) -> str | None:
        """The agent's message, as soon as an event names it."""
        if self.complete is not None and self.complete.message_id:
            return self.complete.message_id
        return next((piece.message_id for piece in reversed(self._pieces) if piece.message_id), None)

    @property
    def ids(self) -> list[str]:
        """What the events have named: the interaction, the user's message, the agent's."""
        begun, complete = self.begun, self.complete
        named = (begun and begun.message_id, complete and complete.interaction_id, self.message_id)
        return [name for name in named if name]

    def reply(self, *, is_voice: bool = False) -> AmigoReply:
        """What came of it, once it is saved."""
        complete = self.complete or events.InteractionComplete(type="")
        text = complete.full_message
        audio = b""
        if is_voice:
            audio = b"".join(_samples(piece.message) for piece in self._pieces)
        elif text is None:
            text = "".join(piece.message for piece in self._pieces)
        return AmigoReply(
            text=text or "",
            conversation_id=self.conversation_id,
            interaction_id=complete.interaction_id,
            message_id=self.message_id,
            user_message_id=self.begun.message_id if self.begun is not None else None,
            user_message=self.begun.user_message if self.begun is not None else None,
            conversation_completed=complete.conversation_completed is True,
            warning=self.error,
            audio=audio,
        )


def _samples(piece: str) -> bytes:
    """The audio of one piece, each of which is encoded on its own; a broken one is left out."""
    try:
        return binascii.a2b_base64(piece.encode("ascii", "ignore"))
    except ValueError:
        return b""
