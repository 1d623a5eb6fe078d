"""One knob for each thing the service's documentation leaves open."""

from __future__ import annotations

import math
from contextvars import ContextVar
from typing import Literal, TypeAlias

from attrs import field, frozen
from attrs.validators import ge, gt, in_, instance_of, lt, optional

Moves: TypeAlias = Literal["completion", "reply", "progress", "never"]
ConversationLock: TypeAlias = Literal["oldest first", "newest first", "shuffled"]

_DURATION = (ge(0.0), lt(math.inf))
_YEARS_OF_SKEW = 1e9


@frozen(kw_only=True)
class Quirks:
    """How a simulated service behaves where the real one's behaviour is not documented.

    The defaults are the plainest reading of the documentation. Durations are seconds.
    """

    start_code: Literal[200, 201] = field(default=201, validator=in_((200, 201)))
    """HTTP status of a start that succeeded."""

    updated_at_moves: Moves = field(default="reply", validator=in_(("completion", "reply", "progress", "never")))
    """What moves a job's `updated_at`: the end of a turn; also each user, assistant or system message; also each
    progress message; or nothing at all."""

    timestamps: Literal["kept", "omitted", "equal"] = field(default="kept", validator=in_(("kept", "omitted", "equal")))
    """Whether messages carry their own times, none, or all the time at which their job was made."""

    clock_skew: float = field(default=0.0, validator=(gt(-_YEARS_OF_SKEW), lt(_YEARS_OF_SKEW)))
    """How far the server's clock, seen in timestamps and the `Date` header, is ahead; negative is behind."""

    order: ConversationLock = field(default="oldest first", validator=in_(("oldest first", "newest first", "shuffled")))
    """Order of the message list."""

    order_seed: int = field(default=0, validator=instance_of(int))
    """Which shuffle it is, for the order `shuffled`."""

    list_lag: float = field(default=0.0, validator=_DURATION)
    """How old the message list is, compared with `GET /messages/{id}`: a turn is over before its reply is listed."""

    status_lag: float = field(default=0.0, validator=_DURATION)
    """How long after the end of a turn its user message still shows `pending`: the reply is there before the status."""

    stale_by: float = field(default=0.0, validator=_DURATION)
    """How old the world is that a stale read shows. A user message is always found by its id, as it first was."""

    stale_every: int = field(default=1, validator=ge(1))
    """Every how many reads one is stale: 1 is each, 2 goes back and forth in time."""

    late_by: float = field(default=0.0, validator=_DURATION)
    """How long after it was made a late message is first listed, even if later ones are listed by then."""

    late_every: int = field(default=3, validator=ge(1))
    """One in how many messages is late, the same ones at each read; never a user's."""

    repeat_every: int = field(default=0, validator=ge(0))
    """Every how many messages one is listed a second time, at the end of the list; 0 is none."""

    unknown_fields: bool = field(default=False, validator=instance_of(bool))
    """Whether every object of an answer has fields that no document knows."""

    finished_jobs: Literal["accept", "refuse"] = field(default="accept", validator=in_(("accept", "refuse")))
    """Whether a job that is `completed`, `error` or `abandoned` is continued, becoming `active`, or gets 400."""

    overlapping: Literal["queue", "refuse"] = field(default="queue", validator=in_(("queue", "refuse")))
    """Whether a prompt sent while a turn of its job runs waits for that turn's end, or gets 400."""

    only_user_messages_by_id: bool = field(default=False, validator=instance_of(bool))
    """Whether `GET /messages/{id}` finds only user messages."""

    listing: bool = field(default=True, validator=instance_of(bool))
    """Whether `GET /agents/{agent_id}/conversations` exists; 404 if not."""

    first_status: str | None = field(default=None, validator=optional(instance_of(str)))
    """A word, such as `scheduled`, that a new user message shows instead of `queued` or `pending`."""

    first_status_for: float = field(default=1.0, validator=_DURATION)
    """For how long it shows `first_status`."""

    progress_status: str = field(default="completed", validator=instance_of(str))
    """The status of progress messages."""

    progress_kept_for: float = field(default=math.inf, validator=ge(0))
    """How long a progress message stays in the list."""


quirks_met: ContextVar[Quirks] = ContextVar("quirks_met")
"""The quirks that the request under way meets: the simulator's, or others because of a fault."""
