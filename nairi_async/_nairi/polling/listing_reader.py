"""The reader of one agent's listing over HTTP: one reading at a time, at a limited rate, page after page."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from nairi_async._core.address import path
from nairi_async._core.request import Request
from nairi_async._nairi.polling.listing_pages import PAGE, ListingPages, PageQuery
from nairi_async._nairi.wire import decode_conversations

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from nairi_async._core.executor import RequestExecutor
    from nairi_async._nairi.polling.counters import PollCounters
    from nairi_async.models import ConversationSummary

# Half the width of the jitter of readings.
_JITTER: Final = 0.1
# Pages of one reading; the next reading continues behind them.
_MOST_PAGES: Final = 50
# Seconds before a first reading of which a second one shows at most what the one page of the first did not.
_LONGEST_MISSED: Final = 60.0
# One reading of so many goes far back, for rows that became visible late.
_DEEP_EVERY: Final = 5
# Pages of which the fastest says how slow the listing is: one that hangs for a moment is no evidence.
_COMPARED: Final = 3
# Seconds that a page may take.
_SLOWEST: Final = 5.0


class ListingReader:
    """The readings of one agent's listing, `interval` seconds apart."""

    def __init__(
        self, executor: RequestExecutor, lane: RequestExecutor, counters: PollCounters, agent_id: str, interval: float
    ) -> None:
        self._executor = executor
        self._lane = lane
        self._counters = counters
        self._agent_id = agent_id
        self._interval = interval
        self._pages = ListingPages()
        self._rest: PageQuery | None = None
        self._watched_since = math.inf
        # Seconds before the first reading of which its one page did not show all.
        self._missed = 0.0
        self.next_at = -math.inf
        """When the next reading is due at the earliest."""
        self.begun_at = math.inf
        """When the first reading began: what happened before is not announced. Infinite before that."""
        self.is_reading = False
        """Whether a reading is under way."""
        self._took: deque[float] = deque([0.0], maxlen=_COMPARED)
        self.previous_at = -math.inf
        """When the reading before the one under way, or before the last one, began; minus infinity before two."""
        self._started_at = -math.inf
        self._readings = 0

    @property
    def page_seconds(self) -> float:
        """How long a page takes."""
        return min(self._took)

    def due_at(self, interval: float) -> float:
        """Return when the next reading is due, where they are at least `interval` seconds apart."""
        return self.next_at + max(0.0, interval - self._interval) if interval < math.inf else math.inf

    def is_due(self, at: float) -> bool:
        """Return whether a reading that is due at `at` should begin now: not while the service has asked for less."""
        is_throttled = self._executor.limiter.is_throttled() or self._lane.limiter.is_throttled()
        return not self.is_reading and not is_throttled and self._executor.clock.monotonic() >= at

    def listed_at(self, job_id: str) -> datetime | None:
        """Return the time of a conversation that was listed in the last seconds; else `None`."""
        return self._pages.listed_at(job_id)

    def postpone(self) -> None:
        """Let the next reading be due no earlier than an interval from now, if it should be due before."""
        now = self._executor.clock.monotonic()
        if self.next_at <= now:
            self.next_at = now + self._interval

    def reset(self) -> None:
        """Forget what was listed: the next reading is a first one."""
        self._pages, self._rest, self.begun_at = ListingPages(), None, math.inf
        self._started_at, self._watched_since, self._missed = -math.inf, math.inf, 0.0

    def watch_since(self, at: float) -> None:
        """Take in that a watcher needs to know what has changed since a time of the session's clock."""
        self._watched_since = min(self._watched_since, at)

    async def read(self, on_page: Callable[[dict[str, ConversationSummary], float], object]) -> bool:
        """Read what has changed since the last reading, and return whether that was all of it.

        `on_page` is called with the changed rows of each page and the time at which the page was received.

        Raises:
            NairiError: a page could not be read.
            ValueError: a row has no time.
        """
        executor = self._executor
        self.is_reading = True
        started_at = executor.clock.monotonic()
        self.previous_at, self._started_at = self._started_at, started_at
        self._readings += 1
        # Not in step with the service's seconds, nor with other sessions.
        self.next_at = started_at + self._interval * (1.0 + _JITTER * (2.0 * executor.random() - 1.0))
        try:
            is_deep = self._readings % _DEEP_EVERY == 0
            query: PageQuery | None = self._rest or self._pages.begin(self._missed, is_deep=is_deep)
            self._rest = None
            for _ in range(_MOST_PAGES):
                if query is None:
                    break
                asked_at = executor.clock.monotonic()
                rows = await self._lane.call(
                    self._request(query),
                    decode_conversations,
                    unreadable_is_transient=True,
                    # Watchers wait for it: it is given up soon, and they poll by themselves.
                    deadline=executor.clock.monotonic() + self._interval,
                    grace=min(_SLOWEST, executor.request_timeout),
                )
                self._counters.polls += 1
                self._took.append(executor.clock.monotonic() - asked_at)
                changed, query = self._pages.feed(rows)
                # A page also shows what changed after the reading began, so its own time counts.
                on_page(changed, executor.clock.monotonic())
            # A reading longer than this would never end if it began anew each time.
            self._rest, self._missed = query, 0.0
            if self._pages.is_cut:
                self._missed = min(_LONGEST_MISSED, executor.clock.monotonic() - self._watched_since)
            self.begun_at = min(self.begun_at, started_at)
        finally:
            self.is_reading = False
        return query is None

    def _request(self, query: PageQuery) -> Request:
        parameters = {"limit": str(PAGE)}
        if query.updated_after is None:
            parameters["sort"] = "updated_at_desc"
        else:
            after = query.updated_after.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            parameters |= {"sort": "updated_at_asc", "updated_after": after}
        if query.offset:
            parameters["offset"] = str(query.offset)
        location = path("agents", self._agent_id, "conversations")
        return Request(method="GET", path=location, query=urlencode(parameters), observe_date=True)
