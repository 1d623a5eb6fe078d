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

CLEANUP_TIMEOUT: Final = 5.0
"""Seconds for which a reply or an error waits until its conversation is finished."""

log: logging.Logger = logging.getLogger("nairi_async.amigo")


class _Queue:
    """The conversations of a user with one service that `ask` creates: the service allows one at a time."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.callers = 0
        self.unfinished: list[AmigoConversation] = []


class OneShots:
    """Prompts that each take a whole conversation: created, replied to, finished."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # By user and service; a queue is there while it is used, or holds a conversation that is not finished.
        self._queues: dict[tuple[str, str], _Queue] = {}

    async def ask(
        self, whose: tuple[str, str], conversation: AmigoConversation, prompt: str, timeout: float
    ) -> AmigoReply:
        """Ask a service as a user, and finish the conversation afterwards, or else before the next one is created."""
        queue = self._queues.setdefault(whose, _Queue())
        queue.callers += 1
        try:
            async with queue.lock:
                # One that cannot be finished may prevent the next one; then the service says so.
                await _finish_quietly(queue)
                queue.unfinished.append(conversation)
                try:
                    return await conversation.ask(prompt, timeout=timeout)
                finally:
                    # A cancellation must not wait: then the next prompt finishes this conversation first.
                    if not _is_cancelling():
                        await self._finish_soon(queue)
        finally:
            queue.callers -= 1
            if not queue.callers and not queue.unfinished:
                del self._queues[whose]

    async def _finish_soon(self, queue: _Queue) -> None:
        """Finish the conversation, but delay its reply or error by no more than `CLEANUP_TIMEOUT`."""
        async with anyio.create_task_group() as group:

            async def give_up() -> None:
                await self._clock.sleep(CLEANUP_TIMEOUT)
                log.warning("a conversation could not be finished within %g s", CLEANUP_TIMEOUT)
                group.cancel_scope.cancel()

            group.start_soon(give_up)
            await _finish_quietly(queue)
            group.cancel_scope.cancel()


async def _finish_quietly(queue: _Queue) -> None:
    """Finish what is left, the last first: it is the one that may prevent the next conversation."""
    for conversation in reversed(tuple(queue.unfinished)):
        try:
            await conversation.finish()
        except NairiError as error:
            # The next prompt tries again.
            log.warning("a conversation could not be finished: %s", error)
        else:
            queue.unfinished.remove(conversation)


def _is_cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class AmigoAskMany(FanOut[AmigoOutcome]):
    """The outcomes of many prompts, in their order. Made by `AmigoSession.ask_many`.

    Each prompt has a conversation of its own, which is finished before the next is created. At most one prompt is read
    ahead. A prompt that fails does not affect the others. Leave the loop, call `aclose()` or use `async with` to stop:
    nothing more is asked then.
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
