"""How a turn of an item ends: with a reply, or with an error that ends the item, its run, or the whole batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nairi_async._core.records import define
from nairi_async._nairi.results import Reply
from nairi_async.errors import (
    AgentNotFoundError,
    AuthenticationError,
    ConfigurationError,
    LedgerError,
    NairiError,
    PermissionDeniedError,
    ReplyFormatError,
    SessionClosedError,
    StatusError,
    TurnFailedError,
)
from nairi_async.models import Usage

if TYPE_CHECKING:
    from decimal import Decimal

    from nairi_async.batch.item_state import Entry
    from nairi_async.models import Turn

# Statuses that refuse this very prompt, its files or its target: it is not sent again unless the caller asks for it.
# Any other status, such as a redirect to a maintenance page or an unpaid bill, says nothing about the prompt, which can
# be sent later.
_REFUSED_STATUSES: Final = frozenset({400, 404, 409, 410, 413, 414, 415, 422, 431})
# What would affect every other item as well: the batch ends.
FATAL: Final = (
    LedgerError,
    SessionClosedError,
    ConfigurationError,
    AuthenticationError,
    PermissionDeniedError,
    AgentNotFoundError,
)


class ItemForbiddenError(Exception):
    """A 403 for one prompt, as a firewall gives that dislikes its text."""

    def __init__(self, error: PermissionDeniedError, *, is_final: bool) -> None:
        super().__init__(error)
        self.error = error
        self.is_final = is_final


@define(kw_only=True)
class ItemOutcome:
    """How a run left an item."""

    entry: Entry
    """The item, as of its last turn."""
    turn: Turn | None
    result: Reply | NairiError
    replies: tuple[Reply, ...]
    """The replies of all its turns, in order."""
    sequence: int | None
    """Its place in the order of outcomes; `None` if it has not ended, and another run goes on with it."""

    @property
    def is_final(self) -> bool:
        """Whether the store holds it as the end."""
        return self.sequence is not None


def is_refusal(error: NairiError) -> bool:
    """Return whether the service refused this very prompt, and would refuse it again."""
    return isinstance(error, StatusError) and error.status in _REFUSED_STATUSES and not isinstance(error, FATAL)


def cost_of(result: Reply | NairiError) -> Decimal | None:
    """Return what a turn has cost; a failed one as well, as its messages say."""
    if isinstance(result, Reply | ReplyFormatError):
        usage = result.usage if isinstance(result, Reply) else result.reply.usage
    else:
        messages = result.messages if isinstance(result, TurnFailedError) else ()
        usage = Usage.total(message.usage for message in messages)
    return None if usage is None else usage.cost_usd
