"""What can be done with turns: begin, follow, wait. The session's face and `Conversation` stand on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nairi_async.dispatch import Dispatch
from nairi_async.watching.ending import Ending
from nairi_async.watching.reads import Reads
from nairi_async.watching.tracker import Tracker
from nairi_async.watching.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nairi_async.models import Turn
    from nairi_async.transport.caller import Caller
    from nairi_async.watching.cadence import Polling


class Turns:
    """The turns of one session. Arguments are checked by whoever calls."""

    def __init__(self, caller: Caller, polling: Polling) -> None:
        self._caller = caller
        self._polling = polling
        self._reads = Reads(caller)
        self.clock = caller.clock

    def start(self, agent_id: str, prompt: str, *, ask_mode: bool, attachment_ids: Sequence[str]) -> Dispatch:
        """The first prompt of a new conversation, not yet sent."""
        return Dispatch.start(self._caller, agent_id, prompt, ask_mode=ask_mode, attachment_ids=attachment_ids)

    def continue_(
        self, job_id: str, prompt: str, *, attachment_ids: Sequence[str], agent_id: str | None = None
    ) -> Dispatch:
        """A further prompt of a conversation, not yet sent."""
        return Dispatch.continue_(self._caller, job_id, prompt, attachment_ids=attachment_ids, agent_id=agent_id)

    def ending(self, turn: Turn, timeout: float, *, fresh: bool = False) -> Ending:
        """A wait for the end of a turn; `fresh` if it began this moment."""
        return Ending(self._caller, self._reads, self._polling, turn, timeout, fresh=fresh)

    def tracker(
        self,
        target: Turn | str,
        timeout: float,
        *,
        after: str | None = None,
        follow: bool = False,
        progress: bool = False,
        fresh: bool = False,
    ) -> Tracker:
        """The reading side of a watch over a turn or a whole conversation."""
        return Tracker(
            self._caller,
            self._reads,
            self._polling,
            job_id=target if isinstance(target, str) else target.job_id,
            turn=None if isinstance(target, str) else target,
            after=after,
            follow=follow,
            progress=progress,
            timeout=timeout,
            fresh=fresh,
        )

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

        return Watch(prepared, turn=tracker.turn, after=after)
