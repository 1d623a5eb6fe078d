"""Prompts with the same content, whose turns could be mistaken for each other."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from nairi_async._core.permits import LoopLock
from nairi_async._nairi.delivery.fingerprint import PromptFingerprint
from nairi_async.errors import OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nairi_async.models import Turn


class IdenticalPrompts:
    """The prompts that this process sends, and the lookups of lost ones: identical ones run one after another.

    It serves a store that keeps prompts as `sending` over the end of a process: a batch's ledger, a session's journal.
    """

    def __init__(self) -> None:
        self._lookups = WeakValueDictionary[PromptFingerprint, LoopLock]()
        # Prompts that the store calls `sending`, and that this process is sending.
        self._in_flight: dict[PromptFingerprint, int] = {}

    def sending(self, fingerprint: PromptFingerprint) -> AbstractContextManager[None]:
        """Count a prompt as being sent by this process, while the store calls it `sending`."""
        return _InFlight(self._in_flight, fingerprint)

    def lookup(self, fingerprint: PromptFingerprint) -> LoopLock:
        """Return the lock to hold from the lookup of a prompt until its turn is recorded."""
        return self._lookups.setdefault(fingerprint, LoopLock())

    async def search(
        self,
        fingerprint: PromptFingerprint,
        count_sending: Callable[[], Awaitable[int]],
        find: Callable[[int], Awaitable[Turn | None]],
    ) -> Turn | None:
        """Return what `find` returns for the number of identical lost prompts, the one that is searched included.

        Args:
            fingerprint: The prompt's.
            count_sending: Returns how many identical prompts the store calls `sending`.
            find: Searches for one of so many.

        Raises:
            OutcomeUnknownError: it cannot be decided.
            NairiError: the service or the store could not be read.
        """
        copies = await self._count_lost(fingerprint, count_sending)
        while True:
            try:
                return await find(copies)
            except OutcomeUnknownError:
                # More identical prompts may have been lost meanwhile, and explain what was found.
                before, copies = copies, await self._count_lost(fingerprint, count_sending)
                if copies <= before:
                    raise

    async def _count_lost(self, fingerprint: PromptFingerprint, count_sending: Callable[[], Awaitable[int]]) -> int:
        return max(1, await count_sending() - self._in_flight.get(fingerprint, 0))


class _InFlight(AbstractContextManager[None]):
    """Counts a prompt in a block. A class and no generator: every prompt of a batch is in one."""

    __slots__ = ("_counts", "_fingerprint")

    def __init__(self, counts: dict[PromptFingerprint, int], fingerprint: PromptFingerprint) -> None:
        self._counts, self._fingerprint = counts, fingerprint

    def __enter__(self) -> None:
        self._counts[self._fingerprint] = self._counts.get(self._fingerprint, 0) + 1

    def __exit__(self, *_: object) -> None:
        left = self._counts.pop(self._fingerprint) - 1
        if left:
            self._counts[self._fingerprint] = left
