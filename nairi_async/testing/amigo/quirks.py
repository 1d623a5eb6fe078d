"""One knob for each thing that Amigo's documentation leaves open, or tells in two ways."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

from attrs import Attribute, field, frozen
from attrs.validators import ge, gt, in_, instance_of, lt

Chunks: TypeAlias = int | Callable[[bytes], Iterable[bytes]] | None

_DURATION = (ge(0.0), lt(math.inf))
_YEARS_OF_SKEW = 1e9


def _makes_chunks(_instance: object, _attribute: Attribute[Chunks], value: Chunks) -> None:
    # `or_` of attrs would do, which the oldest that is asked for does not have.
    if not (value is None or callable(value) or (isinstance(value, int) and value >= 1)):
        msg = f"chunks is a number of bytes from 1, a function or None, not {value!r}"
        raise ValueError(msg)


@frozen(kw_only=True)
class AmigoQuirks:
    """How a simulated Amigo behaves where the real one's behaviour is not documented.

    The defaults are the plainest reading of the OpenAPI document. Durations are seconds.
    """

    create_code: Literal[200, 201] = field(default=201, validator=in_((200, 201)))
    """HTTP status of a conversation that begins."""

    events: Literal["schema", "example"] = field(default="schema", validator=in_(("schema", "example")))
    """Whether events have the fields of the OpenAPI document, or those of the documentation's example stream:
    `message_metadata` for `transcript_alignment`, pieces numbered from 1, `stop` never true, and an
    `interaction-complete` with nothing else in it."""

    user_message_in_create: bool = field(default=False, validator=instance_of(bool))
    """Whether a conversation that begins with a message has `user-message-available` in its stream."""

    first_sequence_number: int = field(default=0, validator=instance_of(int))
    """Number of the first piece of a message."""

    unknown_fields: bool = field(default=False, validator=instance_of(bool))
    """Whether every event and every object of an answer has fields that no document knows."""

    line_end: Literal["\n", "\r\n"] = field(default="\n", validator=in_(("\n", "\r\n")))
    """What ends a line of a stream."""

    last_newline: bool = field(default=True, validator=instance_of(bool))
    """Whether the last line of a stream has such an end."""

    chunks: Chunks = field(default=None, validator=_makes_chunks)
    """How what is due at one moment is cut on its way: pieces of that many bytes, or those that a function makes of
    it. Each is sent for itself; `None` sends an event at a time."""

    disconnect: Literal["keep", "void"] = field(default="keep", validator=in_(("keep", "void")))
    """What becomes of a turn whose client goes away: it goes on and is saved, or it is void at once."""

    failed_create: Literal["gone", "kept"] = field(default="gone", validator=in_(("gone", "kept")))
    """Whether a conversation whose first turn is void is gone, or stays, without messages, and has to be finished."""

    empty_finish: Literal["delete", "refuse"] = field(default="delete", validator=in_(("delete", "refuse")))
    """Whether finishing a conversation without messages deletes it, or gets 400."""

    one_unfinished: bool = field(default=True, validator=instance_of(bool))
    """Whether a user has at most one unfinished conversation of a service."""

    limits: Literal["none", "organization", "user"] = field(
        default="none", validator=in_(("none", "organization", "user"))
    )
    """Whether the documented requests per minute and endpoint are all that is let through, and who shares them. A
    minute begins with its first request; one that is refused does not count."""

    retry_after: Literal["seconds", "date", "omitted"] = field(
        default="seconds", validator=in_(("seconds", "date", "omitted"))
    )
    """How a 429 of those limits says when to come back."""

    error_body: Literal["detail", "message", "text", "empty"] = field(
        default="detail", validator=in_(("detail", "message", "text", "empty"))
    )
    """The body of an error: an object with its text under that name, the bare text, or nothing."""

    token_lifetime: float = field(default=3600.0, validator=(gt(0.0), lt(_YEARS_OF_SKEW)))
    """How long a token is good for."""

    clock_skew: float = field(default=0.0, validator=(gt(-_YEARS_OF_SKEW), lt(_YEARS_OF_SKEW)))
    """How far the server's clock, seen in timestamps, expiries and the `Date` header, is ahead; negative is behind."""

    order: Literal["oldest first", "newest first"] = field(
        default="oldest first", validator=in_(("oldest first", "newest first"))
    )
    """Order of the lists where none is asked for."""

    list_lag: float = field(default=0.0, validator=_DURATION)
    """How old the lists are: what was just saved is not there yet."""
