"""What all watchers of a session share: reads, what was learnt, how turns began, which listings announce changes."""

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
    from nairi_async._nairi.polling.settings import Polling
    from nairi_async.models import Turn

# Conversations whose last turn is remembered, and turns whose end is.
_REMEMBERED: Final = 10_000


@frozen
class TurnOrigin:
    """What is known of a turn because this session began it."""

    sent_at: float
    """When its prompt was sent, by the session's own monotonic clock."""
    answered_at: float | None
    """When the response to the prompt was received, by the same clock."""
    is_first: bool
    """Whether it began its conversation."""


class PollingContext:
    """What all watchers of one session share."""

    def __init__(self, executor: RequestExecutor, polling: Polling) -> None:
        self.executor = executor
        self.clock = executor.clock
        self.random = executor.random
        self.counters = PollCounters()
        self.polling = polling
        self.reads = SharedReads(executor, self.counters)
        self.cadence = Cadence(polling)
        self.feeds = ChangeFeeds(executor, polling, self.counters)
        # Only for as long as a turn is referenced, so that nothing piles up.
        self._origins: WeakKeyDictionary[Turn, TurnOrigin] = WeakKeyDictionary()
        self._latest_turns: OrderedDict[str, Turn] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()

    def record_origin(self, turn: Turn, origin: TurnOrigin) -> None:
        """Remember how a turn began."""
        self._origins[turn] = origin
        # A copy: the turn itself would keep its entry in the weak dictionary alive.
        self._latest_turns[turn.job_id] = evolve(turn)
        self._latest_turns.move_to_end(turn.job_id)
        if len(self._latest_turns) > _REMEMBERED:
            self._latest_turns.popitem(last=False)

    def record_end(self, turn: Turn) -> bool:
        """Count the end of a turn once, and return whether this was the first call for the turn."""
        if turn.message_id in self._ended:
            return False
        self.counters.turns_ended += 1
        self._ended[turn.message_id] = None
        if len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)
        return True

    def agent_of(self, turn: Turn) -> str | None:
        """Return the agent of a turn, where the turn or an earlier one of its conversation names it."""
        return turn.agent_id or self.agent_of_job(turn.job_id)

    def agent_of_job(self, job_id: str) -> str | None:
        """Return the agent of a conversation in which this session recently began a turn."""
        turn = self._latest_turns.get(job_id)
        return turn.agent_id if turn is not None else None

    def owns(self, job_id: str) -> bool:
        """Return whether this session recently began a turn in the conversation."""
        return job_id in self._latest_turns

    def latest_prompt(self, job_id: str) -> str | None:
        """Return the user message of the turn that this session began last in a conversation."""
        turn = self._latest_turns.get(job_id)
        return turn.message_id if turn is not None else None

    def origin(self, turn: Turn | None) -> TurnOrigin | None:
        """Return how a turn began, if this session began it."""
        return self._origins.get(turn) if turn is not None else None
