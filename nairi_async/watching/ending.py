"""Waiting for the end of a turn without reading the whole conversation until then (design sections 5 and 7)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from nairi_async.models import Reply, Usage
from nairi_async.watching.pace import Pace, Subject
from nairi_async.watching.timeline import Timeline
from nairi_async.watching.tracker import turn_failed

if TYPE_CHECKING:
    from nairi_async.models import Message, Turn
    from nairi_async.watching.discovery import Discovery
    from nairi_async.watching.reads import SharedRead, Snapshot

# Bytes of a conversation up to which it is read whole on an announcement that may turn out to be something else.
_LIGHT: Final = 4096


class Ending:
    """One wait for the end of one turn."""

    __slots__ = ("_clock", "_is_light", "_pace", "_polling", "_prompt", "_reads", "_subject", "_turn", "_whole")

    def __init__(self, discovery: Discovery, turn: Turn, timeout: float) -> None:
        self._clock = discovery.clock
        self._polling = discovery.polling
        self._turn = turn
        self._subject = Subject(turn.job_id, turn, discovery.agent_of(turn))
        self._prompt = discovery.reads.message(turn.message_id)
        self._reads = discovery.reads
        self._whole: SharedRead[tuple[Message, ...]] | None = None
        birth = discovery.birth(turn)
        self._pace = Pace(discovery, self._subject, timeout, "turn", birth)
        # Whether the whole conversation is likely to weigh little: a new one is, one that was continued may not be.
        self._is_light = birth is not None and birth.is_first

    async def wait(self) -> Message:
        """The turn's user message once it is terminal, whether `completed` or `failed`."""
        newer = -math.inf
        while True:
            await self._pace.pause()
            snapshot = await self._pace.read(self._prompt, max(newer, self._pace.began))
            if self._has_ended(snapshot.value, snapshot, explained=False):
                self._pace.tell_end(self._turn, snapshot.value.status, None)
                return snapshot.value
            newer = math.nextafter(snapshot.began, math.inf)

    async def reply(self) -> Reply:
        """What came of the turn: read once after its end, and once more if the reply is slower than the status."""
        prompt, ended, whole = await self._end()
        messages: list[Message] = []
        try:
            if whole is None:
                whole = await self._pace.read(self._timeline(), ended)
            messages, is_complete = self._turn_of(prompt, whole)
            if not is_complete:
                await self._clock.sleep(ended + self._polling.settle - self._clock.monotonic())
                whole = await self._pace.read(self._timeline(), ended + self._polling.settle)
                messages, _ = self._turn_of(prompt, whole)
        finally:
            # Also where it ends here without the reply: that the turn has ended is known all the same.
            self._pace.tell_end(self._turn, prompt.status, Usage.total(message.usage for message in messages))
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
            await self._pace.pause()
            moment = max(newer, self._pace.began)
            if self._pace.was_announced and self._is_light:
                whole = await self._pace.read(self._timeline(), moment)
                self._is_light = whole.weight < _LIGHT
                prompt = next((message for message in whole.value if message.id == self._turn.message_id), None)
                began = whole.began
                explained = whole.weight != weight and len(whole.value) > 1
                weight = whole.weight
                if prompt is not None and self._has_ended(prompt, whole, explained=explained):
                    return prompt, whole.came, whole
                if prompt is None:
                    self._pace.looked(began, whole.came, news=False, explained=False)
            else:
                snapshot = await self._pace.read(self._prompt, moment)
                began = snapshot.began
                if self._has_ended(snapshot.value, snapshot, explained=False):
                    return snapshot.value, snapshot.came, None
            newer = math.nextafter(began, math.inf)

    def _timeline(self) -> SharedRead[tuple[Message, ...]]:
        """Made only when needed: thousands of turns wait, and few are read at a time."""
        if self._whole is None:
            self._whole = self._reads.timeline(self._turn.job_id)
        return self._whole

    def _has_ended(self, prompt: Message, read: Snapshot[Any], *, explained: bool) -> bool:
        self._subject.status = prompt.status
        if prompt.is_terminal:
            self._pace.ended(read.began)
        else:
            self._pace.looked(read.began, read.came, news=False, explained=explained)
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
