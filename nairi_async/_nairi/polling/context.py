"""What all watchers of a session share: reads, what was learnt, how turns began, which listings announce changes."""

from __future__ import annotations

import itertools
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from attrs import evolve, field

from nairi_async._core.records import frozen
from nairi_async._nairi.polling.cadence import Cadence
from nairi_async._nairi.polling.change_feeds import ChangeFeeds
from nairi_async._nairi.polling.counters import PollCounters
from nairi_async._nairi.polling.list_order import KnownPrompts
from nairi_async._nairi.polling.shared_reads import SharedReads
from nairi_async.models import TERMINAL_STATUSES

if TYPE_CHECKING:
    from collections.abc import Callable

    from nairi_async._core.executor import RequestExecutor
    from nairi_async._nairi.polling.settings import Polling
    from nairi_async.clock import Clock
    from nairi_async.models import Turn

log = logging.getLogger("nairi_async.polling")

# Conversations whose last turn is remembered, and turns whose end is.
_REMEMBERED: Final = 10_000
# The documented statuses of a user message: https://nairi.ai/docs/api/conversations/message-reference
KNOWN_STATUSES: Final = frozenset({"queued", "pending"}) | TERMINAL_STATUSES
# Unknown statuses that are logged, so that a service which makes them up cannot fill the log.
_MOST_STATUSES: Final = 20


@frozen
class TurnOrigin:
    """What is known of a turn because this session began it."""

    sent_at: float
    """When its prompt was sent, by the session's own monotonic clock."""
    answered_at: float | None
    """When the response to the prompt was received, by the same clock."""
    is_first: bool
    """Whether it began its conversation."""
    number: int = field(factory=itertools.count().__next__, eq=False)
    """The place of this turn among those that this process began, in the order of the responses to their prompts."""


class PollingContext:
    """What all watchers of one session share."""

    def __init__(self, executor: RequestExecutor, polling: Polling) -> None:
        self.executor = executor
        self.clock: Clock = executor.clock
        self.random: Callable[[], float] = executor.random
        self.counters: PollCounters = PollCounters()
        self.polling = polling
        self.reads: SharedReads = SharedReads(executor, self.counters)
        self.cadence: Cadence = Cadence(polling)
        self.feeds: ChangeFeeds = ChangeFeeds(executor, polling, self.counters)
        # Only for as long as a turn is referenced, so that nothing piles up.
        self._origins: WeakKeyDictionary[Turn, TurnOrigin] = WeakKeyDictionary()
        self._latest_turns: OrderedDict[str, tuple[Turn, float]] = OrderedDict()
        # The first turn that this session began in a conversation, and whether it began the conversation too.
        self._first_turns: dict[str, tuple[str, bool]] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._unknown_statuses: set[str] = set()

    def record_origin(self, turn: Turn, origin: TurnOrigin) -> None:
        """Remember how a turn began."""
        self._origins[turn] = origin
        # A copy: the turn itself would keep its entry in the weak dictionary alive.
        self._latest_turns[turn.job_id] = evolve(turn), self.clock.monotonic()
        self._latest_turns.move_to_end(turn.job_id)
        self._first_turns.setdefault(turn.job_id, (turn.message_id, origin.is_first))
        if len(self._latest_turns) > _REMEMBERED:
            forgotten, _ = self._latest_turns.popitem(last=False)
            del self._first_turns[forgotten]
        self.feeds.call(turn)

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
        turn, _ = self._latest_turns.get(job_id, (None, 0.0))
        return turn.agent_id if turn is not None else None

    def latest_prompt(self, job_id: str) -> str | None:
        """Return the user message of the turn that this session began last in a conversation."""
        turn, _ = self._latest_turns.get(job_id, (None, 0.0))
        return turn.message_id if turn is not None else None

    def open_turn(self, job_id: str) -> Turn | None:
        """Return the turn that this session began last in a conversation, unless a poll has shown its end."""
        turn, _ = self._latest_turns.get(job_id, (None, 0.0))
        return None if turn is None or turn.message_id in self._ended else turn

    def known_prompts(self, job_id: str) -> KnownPrompts:
        """Return what this session knows of the order of a conversation's user messages."""
        oldest, has_begun = self._first_turns.get(job_id, (None, False))
        return KnownPrompts(self.latest_prompt(job_id), oldest, has_begun)

    def begun_at(self, id_: str) -> float | None:
        """Return when this session began the newest turn with this job id or message id; `None` if it did not."""
        if (known := self._latest_turns.get(id_)) is not None:
            return known[1]
        return next((at for turn, at in self._latest_turns.values() if turn.message_id == id_), None)

    def observe_status(self, job_id: str, message_id: str, status: str) -> None:
        """Log a status that this version does not know, once for each: a turn that has it is polled on."""
        if (
            status in KNOWN_STATUSES
            or status in self._unknown_statuses
            or len(self._unknown_statuses) >= _MOST_STATUSES
        ):
            return
        self._unknown_statuses.add(status)
        text = "message %s of conversation %s has the status %r, which is not known: it is polled until its timeout"
        log.warning(text, message_id, job_id, status)

    def origin(self, turn: Turn | None) -> TurnOrigin | None:
        """Return how a turn began, if this session began it."""
        return self._origins.get(turn) if turn is not None else None
