"""Prompts that were sent and whose answer nobody has: found again at the service, each conversation claimed once."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from attrs import define, evolve, field

from nairi_async.batch.ledger import Jobs, Ledger
from nairi_async.errors import OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import Generator

    from nairi_async._nairi.session import NairiSession
    from nairi_async.batch.ledger import Entry
    from nairi_async.batch.writer import Writer
    from nairi_async.models import Turn

_Words = tuple[str, tuple[str, ...]]


@define(eq=False)
class _Equals:
    """Items that ask the same and are looked for, one after another."""

    lock: asyncio.Lock = field(factory=asyncio.Lock)
    count: int = 0
    left: deque[Turn] = field(factory=deque)
    """Turns that were found and are, as was shown, theirs; which is whose does not matter."""


class LostPrompts:
    """Settles what is in doubt. What was found is in the ledger before an equal prompt is looked for.

    The session keeps prompts apart that this process sends, and those of other processes are kept apart by the ledger,
    which knows all conversations of the batch. Closing ends no lookup.
    """

    def __init__(self, session: NairiSession, agent_id: str, writer: Writer, settle: float) -> None:
        self._session = session
        self._agent_id = agent_id
        self._writer = writer
        self._settle = settle
        self._jobs = Jobs(writer.ledger.path)
        self._sought: dict[_Words, _Equals] = {}
        self._flying: Counter[_Words] = Counter()

    def close(self) -> None:
        """Let go of the ledger. Harmless when repeated."""
        self._jobs.close()

    @contextmanager
    def sending(self, entry: Entry) -> Generator[None]:
        """The time in which the ledger calls an item `sending` and this process knows better."""
        words = _words(entry)
        self._flying[words] += 1
        try:
            yield
        finally:
            self._flying[words] -= 1
            if not self._flying[words]:
                del self._flying[words]

    async def find(self, entry: Entry, sent_before: float) -> Turn | None:
        """The turn that the prompt has become, noted in the ledger; `None` if it provably does not run.

        Args:
            entry: What is in doubt.
            sent_before: When it was sent at the latest, in seconds since the epoch.

        Raises:
            OutcomeUnknownError: it cannot be decided.
            NairiError: the service could not be asked.
        """
        words = _words(entry)
        equals = self._sought.setdefault(words, _Equals())
        equals.count += 1
        try:
            async with equals.lock:
                turn = equals.left.popleft() if equals.left else await self._found(entry, sent_before, equals)
                if turn is not None:
                    turn = evolve(turn, agent_id=self._agent_id)
                    await self._writer.call(partial(Ledger.running, number=entry.number, turn=turn))
                return turn
        finally:
            equals.count -= 1
            if not equals.count:
                del self._sought[words]

    async def _found(self, entry: Entry, sent_before: float, equals: _Equals) -> Turn | None:
        try:
            return await self._session.find_start(
                self._agent_id,
                entry.prompt,
                sent_after=datetime.fromtimestamp(entry.sent_at or 0.0, UTC),
                sent_before=datetime.fromtimestamp(sent_before, UTC),
                attachment_ids=entry.attachment_ids,
                exclude=self._jobs,
                settled=self._settle,
            )
        except OutcomeUnknownError as error:
            doubtful = await self._writer.call(partial(Ledger.twins, entry=entry)) - self._flying[_words(entry)]
            if not 0 < len(error.candidates) <= doubtful:
                raise
            # No more than the items in doubt that ask the same: each is one of theirs.
            equals.left.extend(error.candidates)
            return equals.left.popleft()


def _words(entry: Entry) -> _Words:
    return entry.prompt, entry.attachment_ids
