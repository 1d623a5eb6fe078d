"""The feeds of a session's agents, and the lane in which their listings are read."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from nairi_async._core.rate_limits import RateLimiter
from nairi_async._nairi.polling.change_feed import ChangeFeed

if TYPE_CHECKING:
    from nairi_async._core.executor import RequestExecutor
    from nairi_async._nairi.polling.counters import PollCounters
    from nairi_async._nairi.polling.settings import Polling
    from nairi_async.models import Turn

# Agents that are remembered; beyond that the ones not used for longest are forgotten.
_REMEMBERED: Final = 1000
# Connections of a session from which on one may be the listing's own.
_MANY_CONNECTIONS: Final = 10


def _lane(executor: RequestExecutor) -> RequestExecutor:
    """Return what reads listings: outside of the queue of polls, so that a cold start does not delay them.

    A listing is optional: where it is refused, only its own readings are held back. The pool of connections bounds
    both. With a bound on requests a second, or few connections, there is one queue.
    """
    if executor.limiter.has_rate or executor.limiter.connections < _MANY_CONNECTIONS:
        return executor
    limiter = RateLimiter(executor.clock, executor.random, connections=1, closing=executor.closing)
    return executor.with_limiter(limiter)


class ChangeFeeds:
    """The feeds of a session's agents."""

    def __init__(self, executor: RequestExecutor, polling: Polling, counters: PollCounters) -> None:
        self._executor = executor
        self._lane: RequestExecutor | None = None
        self._counters = counters
        self._polling = polling
        self._feeds: OrderedDict[str | None, ChangeFeed] = OrderedDict()

    def __len__(self) -> int:
        return len(self._feeds)

    def of(self, agent_id: str | None) -> ChangeFeed:
        """Return the feed of an agent; where the agent is not known, one without a listing."""
        feed = self._feeds.get(agent_id)
        if feed is None:
            # Made at the first use, because a test may have put another transport into the executor.
            self._lane = self._lane or _lane(self._executor)
            feed = self._feeds[agent_id] = ChangeFeed(
                self._executor, self._lane, self._polling, self._counters, agent_id
            )
            if len(self._feeds) > _REMEMBERED:
                self._forget()
        self._feeds.move_to_end(agent_id)
        return feed

    def call(self, turn: Turn) -> None:
        """Let those who follow an idle conversation poll now: this session has sent a prompt there."""
        for agent_id in {turn.agent_id, None}:
            if (feed := self._feeds.get(agent_id)) is not None:
                feed.call_job(turn.job_id)

    def _forget(self) -> None:
        """Forget the agents not used for longest, unless one of their conversations is watched."""
        surplus = len(self._feeds) - _REMEMBERED
        unused = [agent_id for agent_id, feed in self._feeds.items() if not feed.is_watched]
        # The newest is about to be used.
        for agent_id in unused[:-1][:surplus]:
            del self._feeds[agent_id]
