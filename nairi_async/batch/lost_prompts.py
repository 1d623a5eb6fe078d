"""Prompts whose response was lost: found again at the service, each conversation claimed once."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from nairi_async._nairi.delivery.fingerprint import PromptFingerprint
from nairi_async._nairi.delivery.identical_prompts import IdenticalPrompts
from nairi_async._nairi.session_parts import parts_of
from nairi_async.batch.item_store import TurnTakenError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from nairi_async._nairi.session import NairiSession
    from nairi_async.batch.item_state import Entry
    from nairi_async.batch.item_store import ItemStore
    from nairi_async.models import Turn


class LostPrompts:
    """Looks up prompts that were sent and whose response was lost.

    A turn that was found is stored before an identical prompt is looked up. A conversation that the store does not know
    may be a lost prompt, even if this session started it: an earlier run may have ended before it could record the
    turn. Closing does not end a lookup.
    """

    def __init__(self, session: NairiSession, agent_id: str, store: ItemStore, settle: float) -> None:
        self._session = session
        self._agent_id = agent_id
        self._store = store
        self._settle = settle
        self._identical = IdenticalPrompts()

    def sending(self, entry: Entry) -> AbstractContextManager[None]:
        """Count an item as being sent by this process, while the store calls it `sending`."""
        return self._identical.sending(_content(entry))

    async def record(self, entry: Entry, turn: Turn) -> None:
        """Record the turn that an item became, in the step of the event loop in which it became known.

        From then on no lookup of this session takes it, unless recording fails. A cancellation is raised once that is
        decided, since the store may hold the turn although its caller was cancelled.

        Raises:
            TurnTakenError: an identical item of another process has it.
        """
        with parts_of(self._session).sender.recording(turn):
            cancellation = await self._store.mark_running(entry, turn).decided()
        if cancellation is not None:
            raise cancellation

    async def find(self, entry: Entry, sent_before: float) -> Turn | None:
        """Find the turn that the prompt became and record it; return `None` if the prompt provably does not run.

        Args:
            entry: The item.
            sent_before: A time after the prompt was sent, by the clock's `monotonic`.

        Raises:
            OutcomeUnknownError: it cannot be decided.
            NairiError: the service could not be asked.
        """
        async with self._identical.lookup(_content(entry)), self._store.lookup(entry, sent_before) as lost_at:
            while True:
                turn = await self._look_up(entry, lost_at)
                if turn is None:
                    return None
                # Taken meanwhile by an identical prompt whose response came late: there is another for this one, or
                # none.
                with suppress(TurnTakenError):
                    await self.record(entry, turn)
                    return turn

    async def _look_up(self, entry: Entry, sent_before: float) -> Turn | None:
        content = _content(entry)

        async def find(copies: int) -> Turn | None:
            return await parts_of(self._session).sender.find_sent(
                self._agent_id,
                content,
                sent_from=entry.sent_at or 0.0,
                sent_before=sent_before,
                exclude=self._store.known_jobs,
                settled=self._settle,
                copies=copies,
                previous=entry.previous,
            )

        return await self._identical.search(content, partial(self._store.count_equal_sending, entry), find)


def _content(entry: Entry) -> PromptFingerprint:
    return PromptFingerprint.of(entry.conversation, entry.prompt, entry.attachment_ids)
