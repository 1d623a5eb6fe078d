"""One setting for each behaviour that Amigo's documentation leaves open or describes in two ways."""

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
    # The oldest supported attrs has no `or_`.
    if not (value is None or callable(value) or (isinstance(value, int) and value >= 1)):
        msg = f"chunks must be a positive number of bytes, a function or None, not {value!r}"
        raise ValueError(msg)


@frozen(kw_only=True)
class AmigoQuirks:
    """How a simulated Amigo behaves where the real one's behaviour is not documented.

    The defaults follow the plainest reading of https://api.amigo.ai/v1/openapi.json. Durations are in seconds.
    """

    create_code: Literal[200, 201] = field(default=201, validator=in_((200, 201)))
    """HTTP status of the response that creates a conversation."""

    events: Literal["schema", "example"] = field(default="schema", validator=in_(("schema", "example")))
    """Whether events have the fields of the OpenAPI document, or those of the documentation's example stream:
    `message_metadata` for `transcript_alignment`, pieces numbered from 1, `stop` never true, and an
    `interaction-complete` without other fields."""

    user_message_in_create: bool = field(default=False, validator=instance_of(bool))
    """Whether the stream of a conversation created with a message has `user-message-available`."""

    first_sequence_number: int = field(default=0, validator=instance_of(int))
    """Number of the first piece of a message."""

    unknown_fields: bool = field(default=False, validator=instance_of(bool))
    """Whether each event and each object of a response has undocumented fields."""

    line_end: Literal["\n", "\r\n"] = field(default="\n", validator=in_(("\n", "\r\n")))
    """What ends a line of a stream."""

    last_newline: bool = field(default=True, validator=instance_of(bool))
    """Whether the last line of a stream has such an end."""

    chunks: Chunks = field(default=None, validator=_makes_chunks)
    """How bytes that are due at one time are cut: into pieces of that many bytes, or by a function. Each piece is sent
    separately; `None` sends one event at a time."""

    disconnect: Literal["keep", "void"] = field(default="keep", validator=in_(("keep", "void")))
    """Whether a turn whose client disconnects continues and is saved, or is void at once."""

    failed_create: Literal["gone", "kept"] = field(default="gone", validator=in_(("gone", "kept")))
    """Whether a conversation whose first turn is void is deleted, or stays without messages until it is finished."""

    empty_finish: Literal["delete", "refuse"] = field(default="delete", validator=in_(("delete", "refuse")))
    """Whether finishing a conversation without messages deletes it, or gets 400."""

    one_unfinished: bool = field(default=True, validator=instance_of(bool))
    """Whether a user has at most one unfinished conversation of a service."""

    limits: Literal["none", "organization", "user"] = field(
        default="none", validator=in_(("none", "organization", "user"))
    )
    """Whether the documented limits per minute and endpoint are enforced, and whether the organisation or each user
    has its own. A minute begins with its first request; a refused request does not count."""

    retry_after: Literal["seconds", "date", "omitted"] = field(
        default="seconds", validator=in_(("seconds", "date", "omitted"))
    )
    """Form of `Retry-After` in a 429 of those limits."""

    error_body: Literal["detail", "message", "text", "empty"] = field(
        default="detail", validator=in_(("detail", "message", "text", "empty"))
    )
    """Body of an error: an object with the text under that name, the plain text, or nothing."""

    token_lifetime: float = field(default=3600.0, validator=(gt(0.0), lt(_YEARS_OF_SKEW)))
    """Lifetime of a token."""

    clock_skew: float = field(default=0.0, validator=(gt(-_YEARS_OF_SKEW), lt(_YEARS_OF_SKEW)))
    """How far the server's clock is ahead, in timestamps, expiries and the `Date` header; negative is behind."""

    order: Literal["oldest first", "newest first"] = field(
        default="oldest first", validator=in_(("oldest first", "newest first"))
    )
    """Order of a list whose request sets none."""

    list_lag: float = field(default=0.0, validator=_DURATION)
    """How far the lists lag behind: what was just saved is not listed yet."""
