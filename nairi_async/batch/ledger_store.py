"""The items of a ledger, as running them asks for it: each change is one call in the ledger's thread."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from nairi_async._core.sqlite_file import StoredKeys
from nairi_async._nairi.results import Reply
from nairi_async.batch.documents import encode_result
from nairi_async.batch.ledger import KNOWN_TURN, Ledger
from nairi_async.batch.ledger_file import LEDGER

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable
    from decimal import Decimal

    from nairi_async._core.commit_thread import Submission
    from nairi_async.batch.item_state import Entry
    from nairi_async.batch.writer import Writer
    from nairi_async.errors import NairiError
    from nairi_async.models import Turn


class LedgerStore:
    """The items of a ledger, which one process uses; see `ItemStore`."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.known_jobs: StoredKeys = StoredKeys(LEDGER, writer.ledger.path, KNOWN_TURN)
        self._is_indexed = False
        """Whether there is an index for `known_jobs`."""
        self._lost_at: dict[int, float] = {}
        """When the response to the latest of some identical prompts was lost, by the hash of their content, and by the
        monotonic clock."""

    def close(self) -> None:
        """Close the connection for reading. Harmless when repeated."""
        self.known_jobs.close()

    def mark_sending(self, entry: Entry) -> Awaitable[None]:
        """Store that the prompt is about to leave."""
        return self._writer.submit(partial(Ledger.mark_sending, entry=entry))

    def advance(self, entry: Entry, cost: Decimal | None) -> Awaitable[None]:
        """Store that a turn has ended, and that the prompt that follows it is about to leave, as `entry` has it."""
        return self._writer.submit(partial(Ledger.advance, entry=entry, step=len(entry.earlier), cost=cost))

    def mark_unsent(self, entry: Entry) -> Awaitable[None]:
        """Store that the prompt provably does not run."""
        return self._writer.submit(partial(Ledger.mark_unsent, number=entry.number))

    def mark_unusable(self, entry: Entry) -> Awaitable[None]:
        """Store that an unsent item cannot be sent as it is."""
        return self._writer.submit(partial(Ledger.mark_unusable, number=entry.number))

    def mark_running(self, entry: Entry, turn: Turn) -> Submission[None]:
        """Store the turn that the prompt became."""
        number, is_first = entry.number, entry.conversation is None
        return self._writer.submit(lambda ledger: ledger.mark_running(number, turn, is_first=is_first))

    def finish(
        self, entry: Entry, turn: Turn | None, result: Reply | NairiError, cost: Decimal | None
    ) -> Awaitable[int]:
        """Store an item's end, and return its place in the order of outcomes."""
        is_done, document = isinstance(result, Reply), encode_result(turn, result, entry.earlier)
        return self._writer.submit(lambda ledger: ledger.finish(entry.number, document, is_done=is_done, cost=cost))

    def count_equal_sending(self, entry: Entry) -> Awaitable[int]:
        """Return how many items with this prompt and these files are `sending`, including this one."""
        return self._writer.submit(partial(Ledger.count_equal_sending, entry=entry))

    def earlier_messages(self, excluding: Entry) -> Awaitable[list[str]]:
        """Return user messages of some other items: the latest of those that earlier runs sent."""
        read = partial(Ledger.earlier_messages, excluding=excluding.number)
        return self._writer.submit(read)

    @asynccontextmanager
    async def lookup(self, entry: Entry, sent_before: float) -> AsyncGenerator[float]:
        """Give the time from which the settling time of a prompt counts; one process uses a ledger."""
        if not self._is_indexed:
            await self._writer.submit(Ledger.index_turns)
            self._is_indexed = True
        content = hash((entry.prompt, entry.attachment_ids))
        self._lost_at[content] = max(sent_before, self._lost_at.get(content, -math.inf))
        yield self._lost_at[content]
