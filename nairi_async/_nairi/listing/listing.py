"""The two ways to read an agent's conversations: all of them once, and again and again what has changed."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final, get_args
from urllib.parse import quote

from nairi_async._core import checks
from nairi_async._core.address import path
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
    """What both have in common: pages are read one by one, as the consumer asks for them."""

    def __init__(self, agents: Agents, agent_id: str, paging: Paging, *, sort: str, status: str = "") -> None:
        self._agents = agents
        self._agent_id = checks.identifier("agent_id", agent_id)
        self._paging = paging
        self._sort = sort
        self._status = status
        self._ready: deque[ConversationSummary] = deque()
        self._reading = asyncio.Lock()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ConversationSummary:
        """The next conversation; reads a page only when none is left of the last one."""
        # Two tasks may iterate over one listing: each conversation then goes to one of them.
        async with self._reading:
            while not self._ready:
                if self._paging.is_finished:
                    raise StopAsyncIteration
                rows = await self._read(self._paging.page)
                # No await from here on: a page that was learnt from is kept.
                self._ready.extend(self._wanted(self._paging.observe(rows)))
            return self._hand_over(self._ready.popleft())

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
    def _wanted(self, rows: Sequence[ConversationSummary]) -> Sequence[ConversationSummary]:
        """Those of the rows that are to be handed over."""

    def _hand_over(self, row: ConversationSummary) -> ConversationSummary:
        return row


class ConversationListing(_Listing):
    """All conversations of an agent, page by page. Made by `NairiSession.conversations`.

    Each comes once, however the list moves while it is read; one that changes meanwhile may come in its older form, or
    with `updated_at_desc` behind its place in the order. What began after the first page was read may be missing, and
    so may what enters a `status` filter meanwhile. A `__anext__` that was cancelled or has failed can be called again.

    Raises, from `__anext__`:
        AgentNotFoundError: the organisation has no such agent.
        NairiError: a page could not be read (design section 4).
    """

    def __init__(
        self, agents: Agents, agent_id: str, *, status: object, updated_after: datetime | None, sort: str
    ) -> None:
        after = None if updated_after is None else checks.time("updated_after", updated_after)
        statuses = ",".join(checked_statuses(status))
        super().__init__(agents, agent_id, Paging(checked_sort(sort), after), sort=sort, status=statuses)
        self._given: set[str] = set()

    def _wanted(self, rows: Sequence[ConversationSummary]) -> Sequence[ConversationSummary]:
        wanted = []
        for row in rows:
            if row.id not in self._given:
                self._given.add(row.id)
                wanted.append(row)
        return wanted


class Sync(_Listing):
    """The conversations of an agent that changed since a checkpoint, oldest change first. Made by `NairiSession.sync`.

    Each comes once. One that changes again while this runs comes with the next synchronisation, in its newer form; and
    so does what the service shows late, as long as it stamps it no more than `OVERLAP` (5 s) behind what was handed
    over. What counts as a change is the service's decision: which events move `updated_at` is not documented.

    `checkpoint` covers exactly what was handed over. Store it after a conversation was dealt with, or in the end: a
    program that ends in between deals with some of them again, and misses none.

    Raises, from `__anext__`:
        AgentNotFoundError: the organisation has no such agent.
        NairiError: a page could not be read; the synchronisation can go on.
    """

    def __init__(self, agents: Agents, agent_id: str, since: Checkpoint | None) -> None:
        if since is not None and not isinstance(since, Checkpoint):
            raise InvalidArgumentError(f"since is a Checkpoint, not {type(since).__name__}")
        since = since or Checkpoint()
        sort = "updated_at_asc"
        super().__init__(agents, agent_id, Paging(sort, _earlier(since.updated_at, OVERLAP)), sort=sort)
        self._latest = since.updated_at
        # The first change that was seen and not handed over: the checkpoint stays in front of it.
        self._held_back: datetime | None = None
        self._handed_over: OrderedDict[str, datetime] = OrderedDict(sorted(since.seen, key=lambda pair: pair[1]))
        self._given: set[str] = set()

    @property
    def checkpoint(self) -> Checkpoint:
        """What was handed over so far; give it as `since=` to get what came after."""
        reached = self._reached()
        # A change in front of the overlap cannot come again, except for what a printed time hides.
        horizon = _earlier(_earlier(reached, OVERLAP), PRECISION)
        if horizon is None:
            return Checkpoint(reached)
        return Checkpoint(reached, {job: time for job, time in self._handed_over.items() if time >= horizon})

    def _wanted(self, rows: Sequence[ConversationSummary]) -> Sequence[ConversationSummary]:
        wanted = []
        for row in rows:
            if row.updated_at is not None and self._handed_over.get(row.id) == row.updated_at:
                continue
            if row.id not in self._given:
                self._given.add(row.id)
                wanted.append(row)
            elif row.updated_at is not None:
                self._held_back = min(self._held_back or row.updated_at, row.updated_at)
        return wanted

    def _hand_over(self, row: ConversationSummary) -> ConversationSummary:
        if row.updated_at is not None:
            self._latest = max(self._latest or row.updated_at, row.updated_at)
            self._handed_over[row.id] = row.updated_at
            self._handed_over.move_to_end(row.id)
            self._forget()
        return row

    def _reached(self) -> datetime | None:
        if self._latest is None or self._held_back is None:
            return self._latest
        # Strictly in front of it: what was held back must not look as if it had been handed over.
        return min(self._latest, _earlier(self._held_back, PRECISION) or self._latest)

    def _forget(self) -> None:
        """Drop what no checkpoint can need any more."""
        horizon = _earlier(_earlier(self._reached(), OVERLAP), PRECISION)
        while horizon is not None and self._handed_over and next(iter(self._handed_over.values())) < horizon:
            self._handed_over.popitem(last=False)


def checked_sort(sort: object) -> str:
    """One of the orders that the service knows."""
    if sort not in SORTS:
        raise InvalidArgumentError(f"sort is {sort!r}: one of {', '.join(SORTS)} is needed")
    return str(sort)


def checked_statuses(status: object) -> tuple[str, ...]:
    """Statuses to filter by, each once; a single one may stand alone."""
    given = (status,) if isinstance(status, str) else status
    if not isinstance(given, Iterable):
        raise InvalidArgumentError(f"status is one or more of {', '.join(JOB_STATUSES)}, not {type(status).__name__}")
    statuses = tuple(dict.fromkeys(given))
    for name in statuses:
        if name not in JOB_STATUSES:
            close = get_close_matches(str(name).lower(), JOB_STATUSES, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise InvalidArgumentError(f"status {name!r} is none of {', '.join(JOB_STATUSES)}{hint}")
    return statuses


def _stamp(time: datetime) -> str:
    """RFC 3339 as the service writes it; finer only where the caller was."""
    is_whole = time.microsecond % 1000 == 0
    return time.astimezone(UTC).isoformat(timespec="milliseconds" if is_whole else "microseconds")[:-6] + "Z"


def _earlier(time: datetime | None, by: timedelta) -> datetime | None:
    """The time before, as far as the calendar goes."""
    try:
        return None if time is None else time - by
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)
