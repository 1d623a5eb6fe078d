"""Iterators over an agent's conversations: `ConversationListing` yields all of them, `Sync` those that changed.

The list is documented at https://nairi.ai/docs/api/conversations/list-for-agent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, get_args
from urllib.parse import quote

from nairi_async._core import checks
from nairi_async._core.address import path
from nairi_async._core.exports import publish
from nairi_async._core.permits import LoopLock
from nairi_async._core.request import Request
from nairi_async._nairi.listing.checkpoint import OVERLAP, Checkpoint
from nairi_async._nairi.listing.paging import LIMIT, PRECISION, SORTS, Paging
from nairi_async._nairi.wire import decode_conversations
from nairi_async.errors import InvalidArgumentError
from nairi_async.typing import ConversationStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from nairi_async._nairi.agents import Agents
    from nairi_async._nairi.listing.paging import Page
    from nairi_async.models import ConversationSummary

JOB_STATUSES: Final = get_args(ConversationStatus)
"""The statuses that the service can filter by."""


class _Listing(ABC):
    """The base of both iterators: it reads a page when the consumer needs it."""

    def __init__(self, agents: Agents, agent_id: str, paging: Paging, *, sort: str, status: str = "") -> None:
        self._agents = agents
        self._agent_id = checks.identifier("agent_id", agent_id)
        self._paging = paging
        self._sort = sort
        self._status = status
        self._ready: deque[ConversationSummary] = deque()
        self._count = 0
        self._lock = LoopLock()

    def __repr__(self) -> str:
        state = "at the end" if self._paging.is_finished and not self._ready else "more to read"
        return f"<{type(self).__name__} of {self._agent_id!r}: {self._count} conversations read, {state}>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ConversationSummary:
        """Return the next conversation; a page is read only when none is left of the last one."""
        # Two tasks may iterate over one listing: each conversation then goes to one of them.
        async with self._lock:
            while not self._ready:
                if self._paging.is_finished:
                    raise StopAsyncIteration
                rows = await self._read(self._paging.page)
                # No await from here on: a page that was observed is delivered.
                self._ready.extend(self._select(self._paging.observe(rows)))
            self._count += 1
            return self._deliver(self._ready.popleft())

    async def _read(self, page: Page) -> Sequence[ConversationSummary]:
        location = path("agents", self._agent_id, "conversations")
        parameters = {
            "status": self._status,
            "updated_after": "" if page.updated_after is None else _stamp(page.updated_after),
            "sort": self._sort,
            "limit": str(LIMIT),
            "offset": str(page.offset),
        }
        query = "&".join(f"{name}={quote(value, safe=',:')}" for name, value in parameters.items() if value)
        request = Request(method="GET", path=location, query=query, observe_date=True)
        return await self._agents.call(self._agent_id, request, decode_conversations)

    @abstractmethod
    def _select(self, rows: Sequence[ConversationSummary]) -> Sequence[ConversationSummary]:
        """Return the rows to deliver."""

    def _deliver(self, row: ConversationSummary) -> ConversationSummary:
        return row


class ConversationListing(_Listing):
    """All conversations of an agent, page by page. Made by `NairiSession.conversations`.

    Each conversation is yielded once, even if the list changes while it is read. One that changes meanwhile may be
    yielded in its older form, or with `updated_at_desc` later than its place in the order. A conversation that started
    after the first page was read may be missing, and so may one that enters the `status` filter meanwhile. A
    `__anext__` that was cancelled or has failed can be called again.

    Raises, from `__anext__`:
        AgentNotFoundError: the organisation has no such agent.
        NairiError: a page could not be read.
    """

    def __init__(
        self, agents: Agents, agent_id: str, *, status: object, updated_after: datetime | None, sort: str
    ) -> None:
        after = None if updated_after is None else checks.time("updated_after", updated_after)
        statuses = ",".join(checked_statuses(status))
        super().__init__(agents, agent_id, Paging(checked_sort(sort), after), sort=sort, status=statuses)
        self._yielded: set[str] = set()

    def _select(self, rows: Sequence[ConversationSummary]) -> Sequence[ConversationSummary]:
        selected = []
        for row in rows:
            if row.job_id not in self._yielded:
                self._yielded.add(row.job_id)
                selected.append(row)
        return selected


class Sync(_Listing):
    """The conversations of an agent that changed since a checkpoint, oldest change first. Made by `NairiSession.sync`.

    Each conversation is yielded once. One that changes again meanwhile is yielded by the next synchronisation, in its
    newer form. So is one that the service lists late, if its time is at most 5 s older than what was yielded. The
    service decides what a change is: it does not document which events change `updated_at`.

    `checkpoint` covers exactly what was yielded. Store it after each conversation was processed, or at the end: a
    program that ends in between processes some conversations again, and misses none.

    Raises, from `__anext__`:
        AgentNotFoundError: the organisation has no such agent.
        NairiError: a page could not be read; the iteration can continue.
    """

    def __init__(self, agents: Agents, agent_id: str, since: Checkpoint | None) -> None:
        if since is not None and not isinstance(since, Checkpoint):
            raise InvalidArgumentError(f"since must be a Checkpoint, not {type(since).__name__}")
        since = since or Checkpoint()
        sort = "updated_at_asc"
        super().__init__(agents, agent_id, Paging(sort, _earlier(since.updated_at, OVERLAP)), sort=sort)
        self._latest = since.updated_at
        # The earliest change that was seen and not yielded; the checkpoint stays before it.
        self._deferred: datetime | None = None
        self._delivered: OrderedDict[str, datetime] = OrderedDict(sorted(since.seen, key=lambda pair: pair[1]))
        self._yielded: set[str] = set()

    @property
    def checkpoint(self) -> Checkpoint:
        """How far the synchronisation is; given as `since=`, the next one yields what changed later."""
        reached = self._reached()
        # A change before the overlap is not listed again; printed times are less precise than those compared.
        horizon = _earlier(_earlier(reached, OVERLAP), PRECISION)
        if horizon is None:
            return Checkpoint(reached)
        return Checkpoint(reached, {job: time for job, time in self._delivered.items() if time >= horizon})

    def _select(self, rows: Sequence[ConversationSummary]) -> Sequence[ConversationSummary]:
        selected = []
        for row in rows:
            if row.updated_at is not None and self._delivered.get(row.job_id) == row.updated_at:
                continue
            if row.job_id not in self._yielded:
                self._yielded.add(row.job_id)
                selected.append(row)
            elif row.updated_at is not None:
                self._deferred = min(self._deferred or row.updated_at, row.updated_at)
        return selected

    def _deliver(self, row: ConversationSummary) -> ConversationSummary:
        if row.updated_at is not None:
            self._latest = max(self._latest or row.updated_at, row.updated_at)
            self._delivered[row.job_id] = row.updated_at
            self._delivered.move_to_end(row.job_id)
            self._forget()
        return row

    def _reached(self) -> datetime | None:
        if self._latest is None or self._deferred is None:
            return self._latest
        # Strictly before it: what was deferred must not count as yielded.
        return min(self._latest, _earlier(self._deferred, PRECISION) or self._latest)

    def _forget(self) -> None:
        """Forget what no later checkpoint needs."""
        horizon = _earlier(_earlier(self._reached(), OVERLAP), PRECISION)
        while horizon is not None and self._delivered and next(iter(self._delivered.values())) < horizon:
            self._delivered.popitem(last=False)


def checked_sort(sort: object) -> str:
    """Return the order if the service knows it."""
    if sort not in SORTS:
        raise InvalidArgumentError(f"sort must be one of {', '.join(SORTS)}, not {sort!r}")
    return str(sort)


def checked_statuses(status: object) -> tuple[str, ...]:
    """Return the statuses to filter by, each once; a single one may be given as a string."""
    given = (status,) if isinstance(status, str) else status
    if not isinstance(given, Iterable):
        kind = type(status).__name__
        raise InvalidArgumentError(f"status must be one or more of {', '.join(JOB_STATUSES)}, not {kind}")
    statuses = tuple(dict.fromkeys(given))
    for name in statuses:
        if name not in JOB_STATUSES:
            from difflib import get_close_matches  # noqa: PLC0415 - for an error only

            close = get_close_matches(str(name).lower(), JOB_STATUSES, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise InvalidArgumentError(f"status must be one of {', '.join(JOB_STATUSES)}, not {name!r}{hint}")
    return statuses


def _stamp(time: datetime) -> str:
    """Return a time in RFC 3339 with milliseconds, as the service prints it; finer only if the time is."""
    is_whole = time.microsecond % 1000 == 0
    return time.astimezone(UTC).isoformat(timespec="milliseconds" if is_whole else "microseconds")[:-6] + "Z"


def _earlier(time: datetime | None, by: timedelta) -> datetime | None:
    """Return the time earlier by that much, or the first time of the calendar."""
    try:
        return None if time is None else time - by
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)


publish(__name__)
