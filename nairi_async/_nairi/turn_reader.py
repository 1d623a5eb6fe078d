"""Reading of turns: watch the messages of a turn, wait for its end, fetch its reply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nairi_async._nairi.polling.tracker import Tracker
from nairi_async._nairi.polling.turn_waiter import TurnWaiter
from nairi_async._nairi.polling.watch import Watch
from nairi_async._nairi.polling.watch_target import WatchTarget
from nairi_async.errors import TurnFailedError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from nairi_async._nairi.attachments import Files
    from nairi_async._nairi.polling.context import PollingContext
    from nairi_async._nairi.results import Reply
    from nairi_async._nairi.usage import UsageMeter
    from nairi_async.models import Message, Turn


RECOVERY_PATIENCE: Final = 30.0
"""Seconds for which a batch or a recovery reads a reply without text again: it is recorded for good."""


class TurnReader:
    """The reading side of one session: reads its turns and counts their usage. Callers check the arguments."""

    def __init__(self, context: PollingContext, files: Files, meter: UsageMeter) -> None:
        self.meter = meter
        self._context = context
        self._files = files

    def wait(self, turn: Turn, timeout: float) -> Coroutine[Any, Any, Message]:
        """Return the turn's user message once it is terminal."""
        # Returned and not awaited here: thousands wait, and each frame less is memory.
        return TurnWaiter(self._context, turn, timeout).wait()

    async def reply(self, turn: Turn, timeout: float, *, patience: float = 0.0) -> Reply:
        """Return the reply of a turn once it has ended; the reply can fetch its files.

        `patience` is for callers that keep the reply for good and have time: seconds for which a reply without text is
        read again before it counts.
        """
        self.meter.learn(turn)
        try:
            waiter = TurnWaiter(self._context, turn, timeout)
            # In two steps: thousands wait in the first, and each frame less is memory.
            reply = await waiter.reply(await waiter.wait_for_end(), patience)
        except TurnFailedError as failed:
            self.meter.count(failed.messages)
            raise
        return self.counted(reply)

    def counted(self, reply: Reply) -> Reply:
        """Count the usage of a reply, and return it able to fetch its files."""
        self.meter.count(reply.messages)
        return reply.reached_by(self._files.fetch)

    async def rest(self, seconds: float) -> None:
        """Wait between two reads; closing the session ends that with `SessionClosedError`."""
        await self._context.executor.sleep(seconds)

    def count(self, messages: Iterable[Message]) -> None:
        """Count the usage of messages in their final form."""
        self.meter.count(messages)

    def tracker(
        self,
        target: Turn | str,
        timeout: float,
        *,
        after: str | None = None,
        follow: bool = False,
        progress: bool = False,
    ) -> Tracker:
        """Return what polls for a watch over a turn or a whole conversation."""
        if isinstance(target, str):
            watched = WatchTarget(target, None, self._context.agent_of_job(target), cursor=after)
        else:
            watched = WatchTarget(target.job_id, target, self._context.agent_of(target), cursor=after)
        return Tracker(self._context, watched, after=after, follow=follow, progress=progress, timeout=timeout)

    def watch(
        self,
        target: Turn | str,
        timeout: float,
        *,
        after: str | None = None,
        follow: bool = False,
        progress: bool = False,
    ) -> Watch:
        """Return a watch over a turn or a whole conversation."""
        tracker = self.tracker(target, timeout, after=after, follow=follow, progress=progress)

        async def prepared() -> Tracker:
            return tracker

        if tracker.turn is not None:
            self.meter.learn(tracker.turn)
        return Watch(prepared, self, target=target, after=after)
