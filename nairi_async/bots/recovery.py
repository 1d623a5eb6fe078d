"""Handing over the replies that an earlier process left behind."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from nairi_async._core.closing import run_shielded
from nairi_async.bots.capabilities import CanComplete
from nairi_async.bots.chat_dialogue import open_dialogue, unsent_reply
from nairi_async.bots.chat_record import ChatRecord
from nairi_async.errors import TurnFailedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from nairi_async.bots.chat_queue import ChatQueues
    from nairi_async.bots.chat_record import ClockedStore
    from nairi_async.dialogue import Answer, Dialogues

    Deliver = Callable[[str, Answer], Awaitable[object]]

_log = logging.getLogger("nairi_async.bots")


class Recovery:
    """Finds the chats of one target whose replies were not handed over, and hands them over."""

    def __init__(
        self, session: Dialogues, target: str, store: ClockedStore, queues: ChatQueues, options: Mapping[str, Any]
    ) -> None:
        self._session = session
        self._target = target
        self._store = store
        self._queues = queues
        self._options = options

    @asynccontextmanager
    async def running(self, deliver: Deliver) -> AsyncGenerator[None]:
        """Recover in tasks while the block runs; cancel what is left at its end."""
        prefix = f"{self._target} "
        names = [name for name in await self._store.open_names() if name.startswith(prefix)]
        tasks = [asyncio.create_task(self._recover(name, name.removeprefix(prefix), deliver)) for name in names]
        # Let each task enter its chat's queue before the first new prompt.
        await asyncio.sleep(0)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await run_shielded(asyncio.wait(tasks))

    async def _recover(self, name: str, chat: str, deliver: Deliver) -> None:
        async with self._queues.turn(name):
            try:
                record = await ChatRecord.load(self._store, name)
                dialogue = open_dialogue(self._session, self._target, record.record)
                if isinstance(dialogue, CanComplete):
                    # Its last reply cannot be read; the chat's next prompt settles it.
                    return
                try:
                    answer = await unsent_reply(dialogue, record.record, self._options)
                except TurnFailedError as failed:
                    _log.warning("the turn that chat %s began before a restart has failed: %s", chat, failed)
                    answer = None
                if answer is not None:
                    await deliver(chat, answer)
                await record.save(record.record.with_outcome(answer))
            except Exception as error:  # noqa: BLE001 - a platform and a store may raise anything
                _log.warning("chat %s could not be given the reply from before a restart: %r", chat, error)
