"""What all watchers of a session have in common: how they read, what was learnt, when turns began, who announces."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from attrs import frozen

from nairi_async.watching.cadence import Cadence
from nairi_async.watching.feed import Feeds
from nairi_async.watching.reads import Reads

if TYPE_CHECKING:
    from nairi_async.models import Turn
    from nairi_async.transport.caller import Caller
    from nairi_async.watching.cadence import Polling

# Conversations whose agent is remembered for the turns that continue them.
_JOBS: Final = 10_000


@frozen
class Birth:
    """What is known of a turn because this session began it."""

    moment: float
    """When its prompt was sent, by the session's own monotonic clock."""
    answered: float | None
    """When the service answered, by the same clock."""
    is_first: bool
    """Whether it began its conversation."""


class Discovery:
    """The common ground of all watchers of one session."""

    def __init__(self, caller: Caller, polling: Polling) -> None:
        self.caller = caller
        self.clock = caller.clock
        self.random = caller.random
        self.meter = caller.meter
        self.polling = polling
        self.reads = Reads(caller)
        self.cadence = Cadence(polling)
        self.feeds = Feeds(caller, polling)
        # As long as somebody holds the turn: nothing piles up.
        self._births: WeakKeyDictionary[Turn, Birth] = WeakKeyDictionary()
        self._agents: OrderedDict[str, str] = OrderedDict()

    def born(self, turn: Turn, birth: Birth) -> None:
        """Remember how a turn began."""
        self._births[turn] = birth
        if turn.agent_id is not None:
            self._agents[turn.job_id] = turn.agent_id
            self._agents.move_to_end(turn.job_id)
            if len(self._agents) > _JOBS:
                self._agents.popitem(last=False)

    def agent_of(self, turn: Turn) -> str | None:
        """The agent of a turn, where the turn or an earlier one of its conversation tells."""
        return turn.agent_id or self.agent_of_job(turn.job_id)

    def agent_of_job(self, job_id: str) -> str | None:
        """The agent of a conversation in which this session began a turn lately."""
        return self._agents.get(job_id)

    def birth(self, turn: Turn | None) -> Birth | None:
        """How a turn began, if this session began it."""
        return self._births.get(turn) if turn is not None else None
