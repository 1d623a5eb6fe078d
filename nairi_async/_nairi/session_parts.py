"""The parts of a session, for the rooms of this package that are built on one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from nairi_async._nairi.attachments import Files
    from nairi_async._nairi.delivery.prompt_sender import PromptSender
    from nairi_async._nairi.turn_reader import TurnReader
    from nairi_async.clock import Clock


class SessionParts:
    """What a batch uses of a session beyond its public methods."""

    __slots__ = ("base_url", "clock", "files", "reader", "sender")

    def __init__(self, clock: Clock, base_url: str, sender: PromptSender, reader: TurnReader, files: Files) -> None:
        self.clock = clock
        self.base_url = base_url
        self.sender = sender
        self.reader = reader
        self.files = files


class HasParts(Protocol):
    """A session of Nairi."""

    _parts: SessionParts


def parts_of(nairi: HasParts) -> SessionParts:
    """Return the parts of a session: the one way into it for other rooms."""
    return nairi._parts  # noqa: SLF001 - for the session's own package only


def sender_of(session: object) -> PromptSender | None:
    """Return what sends the prompts of a session; `None` for an object that is no session of Nairi."""
    parts = getattr(session, "_parts", None)
    return parts.sender if isinstance(parts, SessionParts) else None
