"""Whose turn it is in each conversation: the service takes one call at a time (api: concurrency)."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from nairi_async.amigo.stream import AmigoStream

# Ids of turns that are remembered: more than the service takes messages in the time that clocks may differ by.
_REMEMBERED: Final = 64
# Orders that are kept although nobody is busy with them, for what they remember.
_KEPT: Final = 256


class ConversationLock(asyncio.Lock):
    """Who holds it may make a call of the conversation; the others wait, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.told: deque[str] = deque(maxlen=_REMEMBERED)
        """Interactions and messages of turns that have told what they are: a later turn is another one."""


class ConversationLocks:
    """The order of each conversation that somebody is busy with, or holds a handle of."""

    def __init__(self) -> None:
        self._of: WeakValueDictionary[str, ConversationLock] = WeakValueDictionary()
        self._recent: deque[ConversationLock] = deque(maxlen=_KEPT)

    def of(self, conversation_id: str) -> ConversationLock:
        """The order of a conversation."""
        order = self._of.get(conversation_id)
        if order is None:
            order = self._of[conversation_id] = ConversationLock()
        return order

    def new(self) -> ConversationLock:
        """The order of a conversation that has not begun."""
        return ConversationLock()

    def note(self, stream: AmigoStream) -> None:
        """Let the order that a conversation was begun in be its own."""
        if stream.conversation_id is not None:
            self._of[stream.conversation_id] = stream.order
            if stream.order not in self._recent:
                self._recent.append(stream.order)
