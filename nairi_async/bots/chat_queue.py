"""The queues of prompts: one for each chat in which something waits or runs."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from attrs import define, field

from nairi_async.errors import ChatBusyError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


@define(eq=False)
class _ChatQueue:
    """The prompts of one chat: one holds the lock, the others wait for it in the order of their calls."""

    lock: asyncio.Lock = field(factory=asyncio.Lock)
    size: int = 0
    """How many hold the lock or wait for it."""


class ChatQueues:
    """Runs the prompts of each chat one after another; different chats run at once."""

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._queues: dict[str, _ChatQueue] = {}

    def __len__(self) -> int:
        """Return the number of chats in which something waits or runs."""
        return len(self._queues)

    def check_capacity(self, name: str) -> None:
        """Refuse a prompt if too many of its chat wait.

        Raises:
            ChatBusyError: the queue is full.
        """
        queue = self._queues.get(name)
        if queue is not None and queue.size > self._max_waiting:
            raise ChatBusyError(
                f"{self._max_waiting} messages of this chat are waiting already, and no more can be taken; "
                "please wait for a reply, then send this message again"
            )

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncGenerator[None]:
        """Wait until it is the caller's turn in a chat, and hold the chat for as long as the block runs."""
        queue = self._queues.setdefault(name, _ChatQueue())
        queue.size += 1
        try:
            async with queue.lock:
                yield
        finally:
            queue.size -= 1
            if not queue.size:
                del self._queues[name]
