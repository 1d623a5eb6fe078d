"""What all watchers of a session have in common: how they read, what was learnt, when turns began, who announces."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from attrs import evolve, frozen

from nairi_async._nairi.polling.cadence import Cadence
from nairi_async._nairi.polling.change_feed import ChangeFeeds
from nairi_async._nairi.polling.shared_reads import SharedReads
from nairi_async._nairi.polling.statistics import PollCounters

if TYPE_CHECKING:
    from nairi_async._core.executor import RequestExecutor
    from nairi_async._nairi.polling.cadence import Polling
    from nairi_async.models import Turn

# Conversations whose last turn is remembered, and turns whose end is.
_JOBS: Final = 10_000


@frozen
class TurnOrigin:
    """What is known of a turn because this session began it."""

    moment: float
    """When its prompt was sent, by the session's own monotonic clock."""
    answered: float | None
    """When the service answered, by the same clock."""
    is_first: bool
    """Whether it began its conversation."""


class PollingContext:
    """The common ground of all watchers of one session."""

    def __init__(self, executor: RequestExecutor, polling: Polling) -> None:
        self.executor = executor
        self.clock = executor.clock
        self.random = executor.random
        self.counters = PollCounters()
        self.polling = polling
        self.reads = SharedReads(executor, self.counters)
        self.cadence = Cadence(polling)
        self.feeds = ChangeFeeds(executor, polling, self.counters)
        # As long as somebody holds the turn: nothing piles up.
        self._origins: WeakKeyDictionary[Turn, TurnOrigin] = WeakKeyDictionary()
        self._jobs: OrderedDict[str, Turn] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()

    def record_origin(self, turn: Turn, origin: TurnOrigin) -> None:
        """Remember how a turn began."""
        self._origins[turn] = origin
        # A copy: the turn itself would keep what is known of its birth alive.
        self._jobs[turn.job_id] = evolve(turn)
        self._jobs.move_to_end(turn.job_id)
        if len(self._jobs) > _JOBS:
            self._jobs.popitem(last=False)

    def has_newly_ended(self, turn: Turn) -> bool:
        """Whether nobody has told of the end of this turn before; from now on somebody has."""
        if turn.message_id in self._ended:
            return False
        self.counters.turns_ended += 1
        self._ended[turn.message_id] = None
        if len(self._ended) > _JOBS:
            self._ended.popitem(last=False)
        return True

    def agent_of(self, turn: Turn) -> str | None:
        """The agent of a turn, where the turn or an earlier one of its conversation tells."""
        return turn.agent_id or self.agent_of_job(turn.job_id)

    def agent_of_job(self, job_id: str) -> str | None:
        """The agent of a conversation in which this session began a turn lately."""
        turn = self._jobs.get(job_id)
        return turn.agent_id if turn is not None else None

    def owns(self, job_id: str) -> bool:
        """Whether this session began a turn in the conversation lately."""
        return job_id in self._jobs

    def latest_prompt(self, job_id: str) -> str | None:
        """The user message of the turn that this session began last in a conversation."""
        turn = self._jobs.get(job_id)
        return turn.message_id if turn is not None else None

    def origin(self, turn: Turn | None) -> TurnOrigin | None:
        """How a turn began, if this session began it."""
        return self._origins.get(turn) if turn is not None else None
