"""One setting for each behaviour that the service's documentation leaves open."""

from __future__ import annotations

import math
from contextvars import ContextVar
from typing import Literal, TypeAlias

from attrs import field, frozen
from attrs.validators import ge, gt, in_, instance_of, lt, optional

Moves: TypeAlias = Literal["completion", "reply", "progress", "never"]
Order: TypeAlias = Literal["oldest first", "newest first", "shuffled"]

_DURATION = (ge(0.0), lt(math.inf))
_YEARS_OF_SKEW = 1e9


@frozen(kw_only=True)
class Quirks:
    """How a simulated service behaves where the real one's behaviour is not documented.

    The defaults follow the plainest reading of https://nairi.ai/docs/api. Durations are in seconds.
    """

    start_code: Literal[200, 201] = field(default=201, validator=in_((200, 201)))
    """HTTP status of a start that succeeded."""

    updated_at_moves: Moves = field(default="reply", validator=in_(("completion", "reply", "progress", "never")))
    """What moves a job's `updated_at`. `completion`: the end of a turn. `reply`: also each user, assistant or system
    message. `progress`: also each progress message. `never`: nothing."""

    timestamps: Literal["kept", "omitted", "equal"] = field(default="kept", validator=in_(("kept", "omitted", "equal")))
    """Whether messages carry their own times, no times, or all of them the time of their job's creation."""

    clock_skew: float = field(default=0.0, validator=(gt(-_YEARS_OF_SKEW), lt(_YEARS_OF_SKEW)))
    """How far the server's clock is ahead, in timestamps and in the `Date` header; negative is behind."""

    order: Order = field(default="oldest first", validator=in_(("oldest first", "newest first", "shuffled")))
    """Order of the message list."""

    order_seed: int = field(default=0, validator=instance_of(int))
    """Selects the permutation, for the order `shuffled`."""

    list_lag: float = field(default=0.0, validator=_DURATION)
    """How far the message list lags behind `GET /messages/{id}`: a turn ends before its reply is listed."""

    status_lag: float = field(default=0.0, validator=_DURATION)
    """How long after the end of a turn its user message still shows `pending`: the reply precedes the status."""

    stale_by: float = field(default=0.0, validator=_DURATION)
    """How old the state is that a stale read shows. A user message is always found by its id, in its first version."""

    stale_every: int = field(default=1, validator=ge(1))
    """One read in this many is stale: 1 is each, 2 alternates between old and new."""

    late_by: float = field(default=0.0, validator=_DURATION)
    """How long after its creation a late message is first listed, even if later ones are listed before it."""

    late_every: int = field(default=3, validator=ge(1))
    """One message in this many is late, the same ones at each read; a user message never is."""

    repeat_every: int = field(default=0, validator=ge(0))
    """One message in this many is listed twice, the second time at the end of the list; 0 is none."""

    unknown_fields: bool = field(default=False, validator=instance_of(bool))
    """Whether each object of a response has undocumented fields."""

    finished_jobs: Literal["accept", "refuse"] = field(default="accept", validator=in_(("accept", "refuse")))
    """Whether a prompt to a job that is `completed`, `error` or `abandoned` makes it `active` again, or gets 400."""

    overlapping: Literal["queue", "refuse"] = field(default="queue", validator=in_(("queue", "refuse")))
    """Whether a prompt that arrives while a turn of its job runs is queued behind that turn, or gets 400."""

    only_user_messages_by_id: bool = field(default=False, validator=instance_of(bool))
    """Whether `GET /messages/{id}` finds only user messages."""

    listing: bool = field(default=True, validator=instance_of(bool))
    """Whether `GET /agents/{agent_id}/conversations` exists; 404 if not."""

    first_status: str | None = field(default=None, validator=optional(instance_of(str)))
    """An undocumented status, such as `scheduled`, that a new user message has instead of `queued` or `pending`."""

    first_status_for: float = field(default=1.0, validator=_DURATION)
    """How long it has `first_status`."""

    progress_status: str = field(default="completed", validator=instance_of(str))
    """The status of progress messages."""

    progress_kept_for: float = field(default=math.inf, validator=ge(0))
    """How long a progress message stays in the list."""


quirks_in_effect: ContextVar[Quirks] = ContextVar("quirks_in_effect")
"""The quirks for the request under way: the simulator's, or others because of a fault."""
