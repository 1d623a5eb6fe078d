"""What running an item asks of the store that holds it; an SQLite ledger is one, a row in PostgreSQL another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from asyncio import CancelledError
    from collections.abc import Awaitable, Container
    from contextlib import AbstractAsyncContextManager
    from decimal import Decimal

    from nairi_async._nairi.results import Reply
    from nairi_async.batch.item_state import Entry
    from nairi_async.errors import NairiError
    from nairi_async.models import Turn


class Decision(Protocol):
    """A change that is being stored, whether or not someone waits for it."""

    async def decided(self) -> CancelledError | None:
        """Wait until it is known whether the change is stored, however often the caller is cancelled meanwhile.

        Returns:
            The cancellation that came meanwhile, for the caller to raise; the change is stored.
        """
        ...


class ItemStore(Protocol):
    """Where items stand durably. When a wait is over, what was stored survives every process.

    A cancelled call may have stored its change or not.
    """

    @property
    def known_jobs(self) -> Container[str]:
        """What belongs to items: the conversations that they started, by job id, and their turns, by message id."""
        ...

    def mark_sending(self, entry: Entry) -> Awaitable[None]:
        """Store that the prompt is about to leave, with `sent_at` and `attachment_ids` of the entry."""
        ...

    def mark_unsent(self, entry: Entry) -> Awaitable[None]:
        """Store that the prompt provably does not run."""
        ...

    def mark_unusable(self, entry: Entry) -> Awaitable[None]:
        """Store that an unsent item cannot be sent as it is."""
        ...

    def mark_running(self, entry: Entry, turn: Turn) -> Decision:
        """Store the turn that the prompt became.

        Raises:
            TurnTakenError: when it is decided: an identical item has it.
        """
        ...

    def finish(
        self, entry: Entry, turn: Turn | None, result: Reply | NairiError, cost: Decimal | None
    ) -> Awaitable[int]:
        """Store an item's end, and return its place in the order of outcomes."""
        ...

    def count_equal_sending(self, entry: Entry) -> Awaitable[int]:
        """Return how many items with this prompt and these files are `sending`, including this one."""
        ...

    def earlier_messages(self, excluding: Entry) -> Awaitable[list[str]]:
        """Return user messages of some other items: the latest of those that earlier runs sent."""
        ...

    def lookup(self, entry: Entry, sent_before: float) -> AbstractAsyncContextManager[float]:
        """Return a context in which no other process looks up an identical prompt of the same agent.

        It gives the time, by the clock's `monotonic`, from which the settling time counts: `sent_before`, or later if
        the response to an identical prompt was lost later. Until that prompt has arrived, it may seem to be this one.
        """
        ...


class TurnTakenError(Exception):
    """The turn that an item was given belongs to an identical item: of equal prompts, each has one."""
