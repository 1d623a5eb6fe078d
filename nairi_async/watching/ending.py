"""Waiting for the end of a turn without reading the whole conversation until then (design sections 5 and 7)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nairi_async.models import Reply
from nairi_async.watching.pace import Pace, watch_timed_out
from nairi_async.watching.timeline import Timeline
from nairi_async.watching.tracker import turn_failed

if TYPE_CHECKING:
    from nairi_async.errors import WatchTimeoutError
    from nairi_async.models import Message, Turn
    from nairi_async.transport.caller import Caller
    from nairi_async.watching.cadence import Polling
    from nairi_async.watching.reads import Reads


class Ending:
    """One wait for the end of one turn."""

    def __init__(
        self, caller: Caller, reads: Reads, polling: Polling, turn: Turn, timeout: float, *, fresh: bool = False
    ) -> None:
        self._clock = caller.clock
        self._polling = polling
        self._turn = turn
        self._prompt = reads.message(turn.message_id)
        self._whole = reads.timeline(turn.job_id)
        self._status: str | None = None
        self._pace = Pace(caller, polling, timeout, self._timed_out)
        if fresh:
            self._pace.looked(self._clock.monotonic(), news=True)

    async def wait(self) -> Message:
        """The turn's user message once it is terminal, whether `completed` or `failed`."""
        newer = -math.inf
        while True:
            await self._pace.pause()
            snapshot = await self._pace.read(self._prompt, newer)
            self._status = snapshot.value.status
            if snapshot.value.is_terminal:
                return snapshot.value
            newer = math.nextafter(snapshot.began, math.inf)
            self._pace.looked(snapshot.began, news=False)

    async def reply(self) -> Reply:
        """What came of the turn: read once after its end, and once more if the reply is slower than the status."""
        prompt = await self.wait()
        ended = self._clock.monotonic()
        messages, is_complete = await self._read_turn(prompt, ended)
        if not is_complete:
            await self._clock.sleep(ended + self._polling.settle - self._clock.monotonic())
            messages, _ = await self._read_turn(prompt, ended + self._polling.settle)
        if prompt.status == "failed":
            raise turn_failed(self._turn, messages)
        return Reply.of(self._turn, messages)

    async def _read_turn(self, prompt: Message, moment: float) -> tuple[list[Message], bool]:
        """The turn's messages, and whether what a caller waits for is among them: a reply, or why there is none."""
        timeline = Timeline(turn=self._turn.message_id)
        timeline.observe_message(prompt)
        whole = await self._pace.read(self._whole, moment)
        messages = timeline.observe(whole.value)
        messages += timeline.finish()
        expected = "system" if prompt.status == "failed" else "assistant"
        told = (message for message in messages if message.role == expected)
        return messages, any(message.is_terminal and message.content.strip() for message in told)

    def _timed_out(self) -> WatchTimeoutError:
        return watch_timed_out(f"turn {self._turn.message_id}", self._turn, self._status, None)
