"""What can be done with turns: begin, follow, wait. The session's face and `Conversation` stand on it."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from nairi_async.agents import Agents
from nairi_async.attachments.files import Files
from nairi_async.dispatch import Dispatch
from nairi_async.errors import NairiError, TurnFailedError
from nairi_async.reconciling.reconciler import Reconciler, Sent
from nairi_async.transport.address import path
from nairi_async.transport.exchange import Request
from nairi_async.usage import Meter
from nairi_async.watching.ending import Ending
from nairi_async.watching.pace import Subject
from nairi_async.watching.tracker import Tracker
from nairi_async.watching.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Container, Sequence
    from datetime import datetime

    from nairi_async.models import Reply, Turn
    from nairi_async.reconciling.claims import Words
    from nairi_async.watching.discovery import Discovery

# Seconds that the service is given to tell its time.
_COURTESY: Final = 10.0


class Turns:
    """The turns of one session. Arguments are checked by whoever calls."""

    def __init__(self, discovery: Discovery) -> None:
        self._discovery = discovery
        self.clock = discovery.clock
        self.agents = Agents(discovery.caller)
        self.files = Files(discovery.caller)
        self.meter = Meter()
        self._reconciler = Reconciler(discovery, self.agents)

    def start(self, agent_id: str, prompt: str, *, ask_mode: bool, attachment_ids: Sequence[str]) -> Dispatch:
        """The first prompt of a new conversation, not yet sent."""
        dispatch = Dispatch.start(
            self._discovery, self._reconciler, agent_id, prompt, ask_mode=ask_mode, attachment_ids=attachment_ids
        )
        dispatch.explain, dispatch.note = self.agents.explain, self.meter.learn
        return dispatch

    def continue_(
        self, job_id: str, prompt: str, *, attachment_ids: Sequence[str], agent_id: str | None = None
    ) -> Dispatch:
        """A further prompt of a conversation, not yet sent."""
        return Dispatch.continue_(
            self._discovery, self._reconciler, job_id, prompt, attachment_ids=attachment_ids, agent_id=agent_id
        )

    async def find_start(
        self,
        agent_id: str,
        words: Words,
        *,
        sent: tuple[datetime, datetime],
        exclude: Container[str],
        settled: float,
    ) -> Turn | None:
        """The turn of a prompt that another process sent between two times of this machine; `None` if there is none."""
        first, last = (time.timestamp() - self.clock.time() + self.clock.monotonic() for time in sent)
        looked_for = Sent(agent_id, first, last + settled, arrived_by=last + settled, told=sent[0].timestamp())
        return await self._reconciler.find_start(words, looked_for, exclude)

    async def learn_time(self, agent_id: str) -> None:
        """Have the service tell its time, unless it has. Where it does not, nothing is lost but precision."""
        caller = self._discovery.caller
        if math.isinf(caller.server_clock.at(self.clock.monotonic())[0]):
            request = Request(method="GET", path=path("agents", agent_id), is_dated=True)
            with suppress(NairiError):
                await caller.call(request, bool, deadline=self.clock.monotonic() + _COURTESY)

    def moment(self) -> float:
        """Now in Unix time, by the machine's clock or the service's, whichever is behind."""
        now = self.clock.time()
        earliest, _ = self._discovery.caller.server_clock.at(self.clock.monotonic())
        return now if math.isinf(earliest) else min(now, earliest)

    def ending(self, turn: Turn, timeout: float) -> Ending:
        """A wait for the end of a turn."""
        return Ending(self._discovery, turn, timeout)

    async def reply(self, turn: Turn, timeout: float) -> Reply:
        """What came of a turn, once it has ended: counted in the session's usage, and able to fetch its files."""
        self.meter.learn(turn)
        try:
            reply = await self.ending(turn, timeout).reply()
        except TurnFailedError as failed:
            self.meter.count(failed.messages)
            raise
        self.meter.count(reply.messages)
        return reply.reached_by(self.files.fetch)

    def tracker(
        self,
        target: Turn | str,
        timeout: float,
        *,
        after: str | None = None,
        follow: bool = False,
        progress: bool = False,
    ) -> Tracker:
        """The reading side of a watch over a turn or a whole conversation."""
        if isinstance(target, str):
            subject = Subject(target, None, self._discovery.agent_of_job(target), cursor=after)
        else:
            subject = Subject(target.job_id, target, self._discovery.agent_of(target), cursor=after)
        return Tracker(self._discovery, subject, after=after, follow=follow, progress=progress, timeout=timeout)

    def watch(
        self,
        target: Turn | str,
        timeout: float,
        *,
        after: str | None = None,
        follow: bool = False,
        progress: bool = False,
    ) -> Watch:
        """A watch over a turn or a whole conversation."""
        tracker = self.tracker(target, timeout, after=after, follow=follow, progress=progress)

        async def prepared() -> Tracker:
            return tracker

        if tracker.turn is not None:
            self.meter.learn(tracker.turn)
        return Watch(prepared, turn=tracker.turn, after=after, note=self.meter.count)
