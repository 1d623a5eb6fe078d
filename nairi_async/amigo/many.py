"""Many prompts to one service, each in a conversation of its own, one after another."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

import anyio

from nairi_async._core.fan_out import FanOut
from nairi_async.amigo.models import AmigoOutcome
from nairi_async.errors import NairiError

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Coroutine, Iterable

    from nairi_async.amigo.conversation import AmigoConversation
    from nairi_async.amigo.models import AmigoReply
    from nairi_async.clock import Clock

TIDY_UP: Final = 5.0
"""Seconds for which a known reply or error waits for its conversation to be finished."""

log = logging.getLogger("nairi_async.amigo")


class _Queue:
    """The conversations of one service that `ask` begins: the service allows one at a time."""

    def __init__(self) -> None:
        self.order = asyncio.Lock()
        self.left_open: AmigoConversation | None = None


class OneShots:
    """Prompts that each take a whole conversation: begun, answered, finished."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._queues: dict[str, _Queue] = {}

    async def ask(self, service_id: str, conversation: AmigoConversation, prompt: str, timeout: float) -> AmigoReply:
        """The reply; the conversation is finished afterwards, whatever came of it, or before the next one begins."""
        queue = self._queues.setdefault(service_id, _Queue())
        async with queue.order:
            await _finish(queue)
            queue.left_open = conversation
            try:
                return await conversation.ask(prompt, timeout=timeout)
            finally:
                # Not after a cancellation, which must not wait: there the next prompt finishes it first.
                if not _is_cancelling():
                    await self._tidy_up(queue)

    async def _tidy_up(self, queue: _Queue) -> None:
        """Finish what was left open, if that is soon done: a reply or an error that is known is not kept back."""
        async with anyio.create_task_group() as group:

            async def ring() -> None:
                await self._clock.sleep(TIDY_UP)
                log.warning("a conversation could not be finished within %g s", TIDY_UP)
                group.cancel_scope.cancel()

            group.start_soon(ring)
            await _finish_quietly(queue)
            group.cancel_scope.cancel()


async def _finish(queue: _Queue) -> None:
    if queue.left_open is not None:
        await queue.left_open.finish()
        queue.left_open = None


async def _finish_quietly(queue: _Queue) -> None:
    try:
        await _finish(queue)
    except NairiError as error:
        # The reply counts; the next prompt tries again.
        log.warning("a conversation could not be finished: %s", error)


def _is_cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class AmigoAskMany(FanOut[AmigoOutcome]):
    """The outcomes of many prompts, in their order. Made by `AmigoSession.ask_many`.

    Each prompt has a conversation of its own, which is finished before the next begins. Prompts are read one ahead at
    most; one that fails costs no other. Leaving the loop, `aclose()` or `async with` end it: nothing more is asked.
    """

    def __init__(
        self, prompts: Iterable[str] | AsyncIterable[str], ask: Callable[[str], Coroutine[Any, Any, AmigoReply]]
    ) -> None:
        async def outcome(index: int, prompt: str) -> AmigoOutcome:
            try:
                reply = await ask(prompt)
            except NairiError as error:
                return AmigoOutcome(index=index, prompt=prompt, conversation_id=error.conversation_id, error=error)
            return AmigoOutcome(index=index, prompt=prompt, conversation_id=reply.conversation_id, reply=reply)

        super().__init__(prompts, outcome, limit=1)
