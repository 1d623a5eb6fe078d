"""Finding the dialogues whose ids were lost: their first prompt was sent, and its response did not arrive."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from attrs import field

from nairi_async._core.records import define
from nairi_async.bots.capabilities import FindsStarts
from nairi_async.errors import OutcomeUnknownError

if TYPE_CHECKING:
    from nairi_async.bots.chat_record import ClockedStore
    from nairi_async.bots.store import ChatPrompt
    from nairi_async.dialogue import Dialogues
    from nairi_async.models import Turn

    _Words = tuple[str, tuple[str, ...]]


@define(eq=False)
class _IdenticalPrompts:
    """Chats whose lost first prompts have the same text and files; it does not matter which gets which dialogue."""

    lock: asyncio.Lock = field(factory=asyncio.Lock)
    count: int = 0
    """How many of them are still being searched for."""
    undecided: OutcomeUnknownError | None = None
    """Why the last search could not decide, and how many dialogues were known by then: fewer prompts, or no dialogue
    more, decide no more, so those that follow need not search for a minute each."""
    known_dialogues: int = 0


class LostStarts:
    """Looks up lost first prompts, and gives each dialogue to one chat."""

    def __init__(self, session: Dialogues, target: str, store: ClockedStore) -> None:
        self._session = session
        self._target = target
        self._store = store
        self._has_loaded = False
        self._groups: dict[_Words, _IdenticalPrompts] = {}
        self.taken: set[str] = set()
        """The dialogues that chats have: none of them can be a lost one."""

    def announce(self, prompt: ChatPrompt) -> None:
        """Count a prompt that will be searched for. Of identical prompts only the number matters."""
        self._groups.setdefault(_words(prompt), _IdenticalPrompts()).count += 1

    async def find(self, prompt: ChatPrompt) -> Turn | None:
        """Return the turn of an announced prompt; `None` if it provably does not run.

        Raises:
            OutcomeUnknownError: it cannot be decided.
            NairiError: the service could not be asked.
        """
        group = self._groups[_words(prompt)]
        try:
            async with group.lock:
                if group.undecided is not None and group.known_dialogues == len(self.taken):
                    raise OutcomeUnknownError(group.undecided.message) from group.undecided
                try:
                    turn = await self._search(prompt, group)
                except OutcomeUnknownError as error:
                    group.undecided, group.known_dialogues = error, len(self.taken)
                    raise
                if turn is not None:
                    self.taken.add(turn.job_id)
                return turn
        finally:
            group.count -= 1
            if not group.count:
                self._groups.pop(_words(prompt), None)

    async def _search(self, prompt: ChatPrompt, group: _IdenticalPrompts) -> Turn | None:
        if not isinstance(self._session, FindsStarts):
            raise OutcomeUnknownError("the service cannot be asked whether the first message of a chat arrived")
        if not self._has_loaded:
            self.taken.update(await self._store.dialogue_ids())
            self._has_loaded = True
        if prompt.has_files or prompt.sent_after is None:
            raise OutcomeUnknownError("a first message whose files are not known cannot be looked for")
        return await self._session.find_start(
            self._target,
            prompt.text,
            sent_after=datetime.fromtimestamp(prompt.sent_after, UTC),
            sent_before=None if prompt.sent_before is None else datetime.fromtimestamp(prompt.sent_before, UTC),
            attachment_ids=prompt.attachment_ids,
            exclude=self.taken,
            copies=group.count,
        )


def _words(prompt: ChatPrompt) -> _Words:
    return prompt.text, prompt.attachment_ids
