"""Waiting for the end of a turn without reading the whole conversation until then (design sections 5 and 7)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from nairi_async._nairi.polling.poller import Poller, WatchTarget
from nairi_async._nairi.polling.timeline import Timeline
from nairi_async._nairi.polling.tracker import turn_failed
from nairi_async._nairi.results import Reply
from nairi_async.models import Usage

if TYPE_CHECKING:
    from nairi_async._nairi.polling.context import PollingContext
    from nairi_async._nairi.polling.shared_reads import SharedRead, Snapshot
    from nairi_async.models import Message, Turn

# Bytes of a conversation up to which it is read whole on an announcement that may turn out to be something else.
_LIGHT: Final = 4096


class TurnWaiter:
    """One wait for the end of one turn."""

    __slots__ = ("_clock", "_is_light", "_poller", "_polling", "_prompt", "_reads", "_target", "_turn", "_whole")

    def __init__(self, context: PollingContext, turn: Turn, timeout: float) -> None:
        self._clock = context.clock
        self._polling = context.polling
        self._turn = turn
        self._target = WatchTarget(turn.job_id, turn, context.agent_of(turn))
        self._prompt = context.reads.message(turn.message_id)
        self._reads = context.reads
        self._whole: SharedRead[tuple[Message, ...]] | None = None
        origin = context.origin(turn)
        self._poller = Poller(context, self._target, timeout, "turn", origin)
        # Whether the whole conversation is likely to weigh little: a new one is, one that was continued may not be.
        self._is_light = origin is not None and origin.is_first

    async def wait(self) -> Message:
        """The turn's user message once it is terminal, whether `completed` or `failed`."""
        newer = -math.inf
        while True:
            await self._poller.pause()
            snapshot = await self._poller.read(self._prompt, max(newer, self._poller.started_at))
            if self._has_ended(snapshot.value, snapshot, explained=False):
                self._poller.tell_end(self._turn, snapshot.value.status, None)
                return snapshot.value
            newer = math.nextafter(snapshot.started_at, math.inf)

    async def reply(self) -> Reply:
        """What came of the turn: read once after its end, and once more if the reply is slower than the status."""
        prompt, ended, whole = await self._end()
        messages: list[Message] = []
        try:
            if whole is None:
                whole = await self._poller.read(self._timeline(), ended)
            messages, is_complete = self._turn_of(prompt, whole)
            if not is_complete:
                await self._clock.sleep(ended + self._polling.settle - self._clock.monotonic())
                whole = await self._poller.read(self._timeline(), ended + self._polling.settle)
                messages, _ = self._turn_of(prompt, whole)
        finally:
            # Also where it ends here without the reply: that the turn has ended is known all the same.
            self._poller.tell_end(self._turn, prompt.status, Usage.total(message.usage for message in messages))
        if prompt.status == "failed":
            raise turn_failed(self._turn, messages)
        return Reply.of(self._turn, messages)

    async def _end(self) -> tuple[Message, float, Snapshot[tuple[Message, ...]] | None]:
        """The ended turn's user message, when it was seen, and the read of the whole that showed it, if that is how.

        Where a listing has announced news and the conversation weighs little, the whole is read at once: it tells
        the status and the reply in one request.
        """
        newer = -math.inf
        weight = 0
        while True:
            await self._poller.pause()
            moment = max(newer, self._poller.started_at)
            if self._poller.was_announced and self._is_light:
                whole = await self._poller.read(self._timeline(), moment)
                self._is_light = whole.weight < _LIGHT
                prompt = next((message for message in whole.value if message.id == self._turn.message_id), None)
                started_at = whole.started_at
                explained = whole.weight != weight and len(whole.value) > 1
                weight = whole.weight
                if prompt is not None and self._has_ended(prompt, whole, explained=explained):
                    return prompt, whole.received_at, whole
                if prompt is None:
                    self._poller.polled(started_at, whole.received_at, news=False, explained=False)
            else:
                snapshot = await self._poller.read(self._prompt, moment)
                started_at = snapshot.started_at
                if self._has_ended(snapshot.value, snapshot, explained=False):
                    return snapshot.value, snapshot.received_at, None
            newer = math.nextafter(started_at, math.inf)

    def _timeline(self) -> SharedRead[tuple[Message, ...]]:
        """Made only when needed: thousands of turns wait, and few are read at a time."""
        if self._whole is None:
            self._whole = self._reads.timeline(self._turn.job_id)
        return self._whole

    def _has_ended(self, prompt: Message, read: Snapshot[Any], *, explained: bool) -> bool:
        self._target.status = prompt.status
        if prompt.is_terminal:
            self._poller.ended(read.started_at)
        else:
            self._poller.polled(read.started_at, read.received_at, news=False, explained=explained)
        return prompt.is_terminal

    def _turn_of(self, prompt: Message, whole: Snapshot[tuple[Message, ...]]) -> tuple[list[Message], bool]:
        """The turn's messages, and whether what a caller waits for is among them: a reply, or why there is none."""
        # A list that shows the turn still running is older than its end, and so may lack some of the reply.
        is_listed = any(message.id == self._turn.message_id and message.is_terminal for message in whole.value)
        timeline = Timeline(turn=self._turn.message_id)
        timeline.observe_message(prompt)
        messages = timeline.observe(whole.value)
        messages += timeline.finish()
        expected = "system" if prompt.status == "failed" else "assistant"
        told = (message for message in messages if message.role == expected)
        return messages, is_listed and any(message.is_terminal and message.content.strip() for message in told)
