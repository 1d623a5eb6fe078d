"""The types of the arguments of public calls, for annotations in your own code."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterable, Callable
from datetime import timedelta
from enum import Enum
from typing import Any, Final, Literal, Protocol, TypeAlias

__all__ = [  # noqa: RUF022 - in the order of Python's own sort
    "AmigoConversationSort",
    "AmigoMessageSort",
    "AmigoMessageType",
    "AmigoServiceSort",
    "AmigoUserSort",
    "ConversationSort",
    "ConversationStatus",
    "Duration",
    "MessageFormat",
    "OnUnknown",
    "ReadableFile",
    "SentMessageType",
    "Source",
    "Tls",
    "UNSET",
    "Unset",
    "UploadProgress",
]

Duration: TypeAlias = float | timedelta
"""Seconds, or a `timedelta`."""

ConversationStatus: TypeAlias = Literal["active", "completed", "error", "abandoned"]
"""The statuses of a Nairi conversation that the service can filter by. They are not the statuses of a turn."""

ConversationSort: TypeAlias = Literal["created_at_asc", "created_at_desc", "updated_at_asc", "updated_at_desc"]
"""The orders in which the service can list Nairi conversations."""

OnUnknown: TypeAlias = Literal["raise", "reconcile"]
"""What to do when a prompt was sent and no response came back: raise the error, or look the turn up."""

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

AmigoServiceSort: TypeAlias = Literal["+name", "-name", "+is_active", "-is_active"]
"""The order of a list of Amigo's services."""

AmigoUserSort: TypeAlias = Literal[
    "+first_name",
    "-first_name",
    "+last_name",
    "-last_name",
    "+email",
    "-email",
    "+user_stats.num_conversations",
    "-user_stats.num_conversations",
    "+user_stats.num_messages",
    "-user_stats.num_messages",
    "+user_stats.last_message_time",
    "-user_stats.last_message_time",
]
"""The order of a list of Amigo's users."""

UploadProgress: TypeAlias = Callable[[int, int | None], object]
"""Called with the bytes of the file that were handed to the connection so far, and its size (`None` if unknown)."""


class ReadableFile(Protocol):
    """A file object. Its `read` may be a coroutine function, as with anyio and aiofiles."""

    @property
    def read(self) -> Callable[[int], Any]:
        """At most so many bytes; none at the end."""
        ...


Source: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | ReadableFile | AsyncIterable[bytes]
"""A path, bytes, a file opened for reading bytes, or an async iterable of bytes."""

Tls: TypeAlias = ssl.SSLContext | str | os.PathLike[str]
"""A TLS context, or the path of a file of certificates: the authorities to trust instead of the system's."""


class Unset(Enum):
    """The type of `UNSET`. As an enum, it has one value, also after `pickle` and `copy`."""

    UNSET = "UNSET"
    """A field that a change leaves as it is."""

    def __repr__(self) -> str:
        return self.name


UNSET: Final = Unset.UNSET
"""Leaves a field as it is, where `None` or an empty text would set it."""
