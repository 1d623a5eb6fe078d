"""The queues of prompts: one for each chat in which something waits or runs."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from attrs import field

from nairi_async._core.records import define
from nairi_async.bots.chat_record import ChatRecord, ClockedStore
from nairi_async.errors import ChatBusyError

if TYPE_CHECKING:
    from collections.abc import Generator


@define(eq=False)
class _ChatQueue:
    """The places of one chat, the one whose turn it is first."""

    chat: ChatRecord
    places: deque[Place] = field(factory=deque)


@define(eq=False)
class Place:
    """One prompt's place in the queue of its chat."""

    _queue: _ChatQueue
    key: str | None = None
    """The platform's id of its message."""
    _has_turn: asyncio.Event = field(factory=asyncio.Event)

    @property
    def chat(self) -> ChatRecord:
        """The record that all places of the chat share."""
        return self._queue.chat

    @property
    def is_first(self) -> bool:
        """Whether nothing is in front of it."""
        return self._queue.places[0] is self

    @property
    def waiting(self) -> int:
        """Places that wait behind the first."""
        return len(self._queue.places) - 1

    @property
    def is_repeated(self) -> bool:
        """Whether the same message is in front of it."""
        return next(place for place in self._queue.places if place.key == self.key) is not self

    def begin(self) -> None:
        """Let `turn` return."""
        self._has_turn.set()

    async def turn(self) -> None:
        """Wait until everything in front of it has left the queue."""
        if self.is_first:
            self.begin()
        await self._has_turn.wait()

    def leave(self) -> None:
        """Leave the queue, and give the turn to the next."""
        self._queue.places.remove(self)
        if self._queue.places:
            self._queue.places[0].begin()


class ChatQueues:
    """Runs the prompts of each chat one after another; different chats run at once."""

    def __init__(self, store: ClockedStore, max_waiting: int) -> None:
        self._store = store
        self._max_waiting = max_waiting
        self._queues: dict[str, _ChatQueue] = {}

    def __len__(self) -> int:
        """Return the number of chats in which something waits or runs."""
        return sum(bool(queue.places) for queue in self._queues.values())

    def record(self, name: str) -> ChatRecord:
        """Return the record of a chat as its prompts have it; not loaded if there are none."""
        queue = self._queues.get(name)
        return queue.chat if queue else ChatRecord(self._store, name)

    @contextmanager
    def join(self, name: str, key: str | None = None, *, is_bounded: bool = True) -> Generator[Place]:
        """Take the last place in the queue of a chat for as long as the block runs.

        Raises:
            ChatBusyError: `is_bounded`, and too many wait.
        """
        queue = self._queues.get(name)
        if is_bounded and queue is not None and len(queue.places) > self._max_waiting:
            raise ChatBusyError(
                f"{self._max_waiting} messages of this chat are waiting already, and no more can be taken; "
                "please wait for a reply, then send this message again"
            )
        if queue is None:
            queue = self._queues[name] = _ChatQueue(ChatRecord(self._store, name, is_exclusive=True))
        place = Place(queue, key)
        queue.places.append(place)
        try:
            yield place
        finally:
            place.leave()
            # A record that the store refused is kept here, so that the chat continues its dialogue.
            if not queue.places and not queue.chat.is_unsaved:
                del self._queues[name]
                self._store.release(name)
