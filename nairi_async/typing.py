"""The types that arguments of public calls are declared with, for annotations in your own code."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Callable
from datetime import timedelta
from enum import Enum
from typing import Any, Final, Literal, Protocol, TypeAlias

__all__ = [  # noqa: RUF022 - in the order of Python's own sort
    "AmigoConversationSort",
    "AmigoMessageSort",
    "AmigoMessageType",
    "Duration",
    "MessageFormat",
    "OnUnknown",
    "ReadableFile",
    "SentMessageType",
    "Source",
    "UNSET",
    "Unset",
    "UploadProgress",
]

Duration: TypeAlias = float | timedelta
"""Seconds, or a `timedelta`."""

OnUnknown: TypeAlias = Literal["raise", "reconcile"]
"""What to do when a prompt was sent and its response did not come back: raise the error, or look the turn up."""

MessageFormat: TypeAlias = Literal["text", "voice"]
"""The format of a message of Amigo."""

SentMessageType: TypeAlias = Literal["user-message", "external-event"]
"""The type of a message to an agent of Amigo: what a user says, or something that happened."""

AmigoMessageType: TypeAlias = Literal["user-message", "agent-message", "agent-inner-thought", "external-event"]
"""The type of a message in a conversation of Amigo."""

AmigoConversationSort: TypeAlias = Literal["+created_at", "-created_at"]
"""The order of a list of Amigo's conversations: `+` for ascending, `-` for descending."""

AmigoMessageSort: TypeAlias = Literal["+created_at", "-created_at", "+interaction_id", "-interaction_id"]
"""The order of a list of Amigo's messages: `+` for ascending, `-` for descending."""

UploadProgress: TypeAlias = Callable[[int, int | None], object]
"""Called with the bytes of the file that were handed to the connection so far, and its size or `None`."""


class ReadableFile(Protocol):
    """A file object, whose `read` may be a coroutine function, as with anyio and aiofiles."""

    @property
    def read(self) -> Callable[[int], Any]:
        """At most that many bytes; none at the end."""
        ...


Source: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | ReadableFile | AsyncIterable[bytes]
"""A path, the bytes themselves, a file opened for reading bytes, or anything that gives bytes in `async for`."""


class Unset(Enum):
    """The type of `UNSET`: an enum, so that there is one such value also after `pickle` and `copy`."""

    UNSET = "UNSET"
    """A field that a change leaves alone."""

    def __repr__(self) -> str:
        return self.name


UNSET: Final = Unset.UNSET
"""What leaves a field alone where `None` and an empty text would set it."""
