"""Waiting for the end of a turn without reading the whole conversation until then."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from nairi_async._nairi.polling.poller import Poller
from nairi_async._nairi.polling.turn_messages import (
    FIRST_PATIENCE,
    LONGEST_LAG,
    TurnMessages,
    check_conversation,
    turn_failed,
    turn_messages,
)
from nairi_async._nairi.polling.watch_target import FoundEnd, WatchTarget
from nairi_async._nairi.results import Reply
from nairi_async.models import Message, Usage

if TYPE_CHECKING:
    from typing import Any

    from nairi_async._nairi.polling.context import PollingContext
    from nairi_async._nairi.polling.shared_reads import SharedRead, Snapshot
    from nairi_async.models import Turn

EndedTurn = tuple[Message, float, "Snapshot[tuple[Message, ...]] | None", FoundEnd]
"""The turn's user message, when it was received, the read of the whole that showed it, if any, and what is known of the
end."""
# Bytes of a conversation up to which it is read whole on an announcement that may turn out to be something else.
_LIGHT: Final = 4096


class TurnWaiter:
    """One wait for the end of one turn."""

    __slots__ = ("_context", "_is_light", "_poller", "_prompt", "_timeline", "_turn")

    def __init__(self, context: PollingContext, turn: Turn, timeout: float) -> None:
        self._context = context
        self._turn = turn
        self._prompt = context.reads.message(turn.message_id)
        self._timeline: SharedRead[tuple[Message, ...]] | None = None
        origin = context.origin(turn)
        target = WatchTarget(turn.job_id, turn, context.agent_of(turn))
        self._poller = Poller(context, target, timeout, "turn", origin)
        # Whether the whole conversation probably weighs little: a new one does, a continued one may not.
        self._is_light = origin is not None and origin.is_first

    async def wait(self) -> Message:
        """Return the turn's user message once it is terminal, whether `completed` or `failed`."""
        newer = -math.inf
        while True:
            await self._poller.pause()
            read = await self._poller.read(self._prompt, max(newer, self._poller.started_at))
            end = self._judge(read.value, read)
            if end is not None:
                self._poller.emit_end(end, self._turn, read.value.status, None)
                return read.value
            newer = math.nextafter(read.started_at, math.inf)
            del read
            self._rest()

    async def reply(self, ended: EndedTurn, patience: float = 0.0) -> Reply:
        """Return what came of the turn, given what `wait_for_end` has returned.

        The conversation is read once after the end, and once more if the reply is slower than the status. Without a
        reply, the conversation is read again for `patience` seconds, seldom, before the reply counts as empty; so it is
        where the reads are older than the end, for up to half a minute.

        Raises:
            TurnFailedError: the turn failed.
            WatchTimeoutError: none of the reads after the turn's end shows that or a reply.
            NairiError: reading failed.
        """
        prompt, ended_at, whole, end = ended
        del ended
        found, was_current = TurnMessages([], has_outcome=False, is_current=False), False
        prompts = self._context.known_prompts(self._turn.job_id)
        wait = self._context.polling.settle
        settled_at = ended_at + max(wait, patience)
        # A read that is older than the end proves nothing, so the wait goes on for as long as the caller's may.
        longest = max(settled_at, min(ended_at + LONGEST_LAG, ended_at + self._poller.remaining))
        read_at = ended_at
        try:
            if whole is None:
                whole = await self._poller.read(self._conversation(), ended_at)
            found = turn_messages(self._turn, prompt, whole.value, prompts=prompts)
            was_current = found.is_current
            while not found.is_complete and read_at < (until := settled_at if found.is_current else longest):
                read_at = min(until, read_at + wait)
                wait = max(2.0 * wait, FIRST_PATIENCE)
                await self._context.executor.sleep(read_at - self._context.clock.monotonic())
                whole = await self._poller.read(self._conversation(), read_at)
                found = turn_messages(self._turn, prompt, whole.value, found.messages, prompts=prompts)
                if found.is_current and not was_current:
                    # The reply may be listed later than the end, as in a list that does not lag.
                    settled_at, was_current = max(settled_at, read_at + self._context.polling.settle), True
        finally:
            # Also where the reply could not be read: that the turn has ended is known all the same.
            usage = Usage.total(message.usage for message in found.messages)
            self._poller.emit_end(end, self._turn, prompt.status, usage)
        if prompt.status == "failed":
            raise turn_failed(self._turn, found.messages)
        if not was_current and not found.has_outcome:
            raise self._poller.target.unlisted_error()
        return Reply.of(self._turn, found.messages)

    async def wait_for_end(self) -> EndedTurn:
        """Wait until the turn has ended.

        Where the end is likely and the conversation weighs little, the whole is read at once: it shows the status and
        the reply in one request.

        Raises:
            WatchTimeoutError: the turn has not ended in time.
            NairiError: reading failed.
        """
        newer = -math.inf
        while True:
            await self._poller.pause()
            at = max(newer, self._poller.started_at)
            if self._poller.is_end_likely and self._is_light:
                whole = await self._poller.read(self._conversation(), at)
                self._is_light = whole.weight < _LIGHT
                prompt = next((message for message in whole.value if message.id == self._turn.message_id), None)
                started_at = whole.started_at
                if prompt is None:
                    self._poller.observe_poll(whole, news=False)
                elif (end := self._judge(prompt, whole)) is not None:
                    return prompt, whole.received_at, whole, end
                del whole, prompt
            else:
                read = await self._poller.read(self._prompt, at)
                started_at = read.started_at
                if (end := self._judge(read.value, read)) is not None:
                    return read.value, read.received_at, None, end
                del read
            self._rest()
            newer = math.nextafter(started_at, math.inf)

    def _rest(self) -> None:
        """Keep little in memory until the next poll, if that is not due soon: thousands of turns wait."""
        if self._poller.rests:
            self._prompt.forget()
            self._timeline = None

    def _conversation(self) -> SharedRead[tuple[Message, ...]]:
        """Return the read of the whole, made only when needed: thousands of turns wait, and few are read at a time."""
        if self._timeline is None:
            self._timeline = self._context.reads.timeline(self._turn.job_id)
        return self._timeline

    def _judge(self, prompt: Message, read: Snapshot[Any]) -> FoundEnd | None:
        """Take in a read of the user message, and return the end if it shows one."""
        check_conversation(prompt, self._turn.job_id)
        self._poller.observe_prompt(prompt)
        if prompt.is_terminal:
            return self._poller.observe_end(read)
        self._poller.observe_poll(read, news=False)
        return None
