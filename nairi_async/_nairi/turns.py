"""What can be done with turns: begin, follow, wait. The session's face and `Conversation` stand on it."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from nairi_async._core.address import path
from nairi_async._core.request import Request
from nairi_async._nairi.agents import Agents
from nairi_async._nairi.attachments import Files
from nairi_async._nairi.delivery.pending_prompt import PendingPrompt
from nairi_async._nairi.delivery.reconciler import Reconciler, SearchWindow
from nairi_async._nairi.polling.poller import WatchTarget
from nairi_async._nairi.polling.tracker import Tracker
from nairi_async._nairi.polling.turn_waiter import TurnWaiter
from nairi_async._nairi.polling.watch import Watch
from nairi_async._nairi.usage import UsageMeter
from nairi_async.errors import NairiError, TurnFailedError

if TYPE_CHECKING:
    from collections.abc import Container, Sequence
    from datetime import datetime

    from nairi_async._nairi.delivery.claims import PromptFingerprint
    from nairi_async._nairi.polling.context import PollingContext
    from nairi_async._nairi.results import Reply
    from nairi_async.models import Turn

# Seconds that the service is given to tell its time.
_COURTESY: Final = 10.0


class TurnService:
    """The turns of one session. Arguments are checked by whoever calls."""

    def __init__(self, context: PollingContext) -> None:
        self._context = context
        self.clock = context.clock
        self.agents = Agents(context.executor)
        self.files = Files(context.executor)
        self.meter = UsageMeter()
        self._reconciler = Reconciler(context, self.agents)

    def start(self, agent_id: str, prompt: str, *, ask_mode: bool, attachment_ids: Sequence[str]) -> PendingPrompt:
        """The first prompt of a new conversation, not yet sent."""
        dispatch = PendingPrompt.start(
            self._context, self._reconciler, agent_id, prompt, ask_mode=ask_mode, attachment_ids=attachment_ids
        )
        dispatch.explain, dispatch.note = self.agents.explain, self.meter.learn
        return dispatch

    def continue_(
        self, job_id: str, prompt: str, *, attachment_ids: Sequence[str], agent_id: str | None = None
    ) -> PendingPrompt:
        """A further prompt of a conversation, not yet sent."""
        return PendingPrompt.continue_(
            self._context, self._reconciler, job_id, prompt, attachment_ids=attachment_ids, agent_id=agent_id
        )

    async def find_start(
        self,
        agent_id: str,
        words: PromptFingerprint,
        *,
        sent: tuple[datetime, datetime],
        exclude: Container[str],
        settled: float,
    ) -> Turn | None:
        """The turn of a prompt that another process sent between two times of this machine; `None` if there is none."""
        first, last = (time.timestamp() - self.clock.time() + self.clock.monotonic() for time in sent)
        looked_for = SearchWindow(agent_id, first, last + settled, arrived_by=last + settled, told=sent[0].timestamp())
        return await self._reconciler.find_start(words, looked_for, exclude)

    async def learn_time(self, agent_id: str) -> None:
        """Have the service tell its time, unless it has. Where it does not, nothing is lost but precision."""
        executor = self._context.executor
        if math.isinf(executor.server_clock.at(self.clock.monotonic())[0]):
            request = Request(method="GET", path=path("agents", agent_id), observe_date=True)
            with suppress(NairiError):
                await executor.call(request, bool, deadline=self.clock.monotonic() + _COURTESY)

    def moment(self) -> float:
        """Now in Unix time, by the machine's clock or the service's, whichever is behind."""
        now = self.clock.time()
        earliest, _ = self._context.executor.server_clock.at(self.clock.monotonic())
        return now if math.isinf(earliest) else min(now, earliest)

    def ending(self, turn: Turn, timeout: float) -> TurnWaiter:
        """A wait for the end of a turn."""
        return TurnWaiter(self._context, turn, timeout)

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
            subject = WatchTarget(target, None, self._context.agent_of_job(target), cursor=after)
        else:
            subject = WatchTarget(target.job_id, target, self._context.agent_of(target), cursor=after)
        return Tracker(self._context, subject, after=after, follow=follow, progress=progress, timeout=timeout)

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
