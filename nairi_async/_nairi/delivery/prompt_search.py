"""Search for messages that may be a lost prompt: the first ones of an agent's conversations, or those of one."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from attrs import define, field, frozen

from nairi_async._core.address import path
from nairi_async._core.fan_out import gather_limited
from nairi_async._core.request import Request
from nairi_async._nairi.delivery.fingerprint import canonical, skeleton
from nairi_async._nairi.listing.listing import ConversationListing
from nairi_async._nairi.wire import decode_timeline
from nairi_async.errors import BadRequestError, NotFoundError
from nairi_async.models import Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nairi_async._core.executor import RequestExecutor
    from nairi_async._nairi.agents import Agents
    from nairi_async.models import Message

# Conversations whose first message is cached; it never changes.
_CACHED: Final = 10_000
# Timelines read at once for one agent, so that a search does not crowd out the turns that run.
_AT_ONCE: Final = 5
# Seconds by which `updated_at` may wrongly precede the start of its conversation.
_SLACK: Final = 60.0


@frozen
class UserMessage:
    """A user message that may be the prompt searched for."""

    turn: Turn
    """The turn that it started."""
    prompt: str
    """Its text, in canonical form."""
    attachment_ids: frozenset[str]
    """Its files."""
    created_at: float
    """Unix time of the service; NaN where the service does not state it."""
    skeleton: str = field(eq=False, repr=False)
    """Its text without what the service might have changed; see `fingerprint.skeleton`."""


@define(eq=False)
class _Reading:
    """The last reading of an agent's conversations, shared by all callers that asked before it began.

    A reading that failed or was cancelled reached nothing.
    """

    lock: asyncio.Lock = field(factory=asyncio.Lock)
    number: int = 0
    since: float = math.inf
    leave_out: Callable[[str], bool] | None = None
    first_messages: tuple[UserMessage, ...] = ()
    is_complete: bool = True


class PromptSearch:
    """The reader of user messages of one session. Its methods raise `NairiError` when reading fails for good."""

    def __init__(self, executor: RequestExecutor, agents: Agents) -> None:
        self._executor = executor
        self._agents = agents
        self._cache: OrderedDict[str, UserMessage | None] = OrderedDict()
        self._readings: dict[str, _Reading] = {}

    async def first_messages(
        self, agent_id: str, since: float, *, leave_out: Callable[[str], bool]
    ) -> tuple[Sequence[UserMessage], bool]:
        """Return the first messages of the agent's conversations started since `since`, and whether all were readable.

        `since` is Unix time of the service; the messages come oldest first. Conversations of `leave_out` are not read.
        Callers that ask for the same while a reading is due share it.
        """
        reading = self._readings.setdefault(agent_id, _Reading())
        asked_at = reading.number
        async with reading.lock:
            if reading.number == asked_at or reading.since > since or reading.leave_out != leave_out:
                reading.number += 1
                reading.since = math.inf
                reading.first_messages, reading.is_complete = await self._read(agent_id, since, leave_out)
                reading.since, reading.leave_out = since, leave_out
            return reading.first_messages, reading.is_complete

    async def user_messages(self, job_id: str) -> list[UserMessage]:
        """Return the user messages of a conversation, in the service's order."""
        request = Request(method="GET", path=path("conversations", job_id, "messages"), observe_date=True)
        messages = await self._executor.call(request, decode_timeline, unreadable_is_transient=True)
        return [_user_message(message, job_id) for message in messages if message.role == "user"]

    async def _read(
        self, agent_id: str, since: float, leave_out: Callable[[str], bool]
    ) -> tuple[tuple[UserMessage, ...], bool]:
        after = datetime.fromtimestamp(max(0.0, since - _SLACK), UTC)
        listing = ConversationListing(self._agents, agent_id, status=(), updated_after=after, sort="created_at_desc")
        found: list[UserMessage] = []
        is_complete, is_over = True, False
        batch: list[str] = []
        while not is_over:
            row = await anext(listing, None)
            is_over = row is None
            if row is not None and not leave_out(row.id):
                batch.append(row.id)
            if len(batch) < _AT_ONCE and not is_over:
                continue
            # Newest first: conversations behind one that started too early started earlier still.
            for job_id, first in zip(batch, await self._first_of_each(batch), strict=True):
                if first is None:
                    is_complete = is_complete and job_id in self._cache
                elif first.created_at < since:
                    is_over = True
                else:
                    found.append(first)
            batch.clear()
        return tuple(reversed(found)), is_complete

    async def _first_of_each(self, job_ids: Sequence[str]) -> list[UserMessage | None]:
        """Return the first prompts of some conversations; `None` where there is none, or none yet."""
        unread = [job_id for job_id in job_ids if job_id not in self._cache]
        firsts = await gather_limited([partial(self._first, job_id) for job_id in unread], at_once=_AT_ONCE)
        read = dict(zip(unread, firsts, strict=True))
        return [read.get(job_id) or self._cache.get(job_id) for job_id in job_ids]

    async def _first(self, job_id: str) -> UserMessage | None:
        try:
            messages = await self.user_messages(job_id)
        except (NotFoundError, BadRequestError):
            # Deleted, or not started through this API: it cannot be a prompt of ours.
            self._store(job_id, None)
            return None
        if not messages:
            # The service may list a new conversation before it shows its first message.
            return None
        has_times = all(not math.isnan(message.created_at) for message in messages)
        first = min(messages, key=lambda message: message.created_at) if has_times else messages[0]
        self._store(job_id, first)
        return first

    def _store(self, job_id: str, first: UserMessage | None) -> None:
        self._cache[job_id] = first
        if len(self._cache) > _CACHED:
            self._cache.popitem(last=False)


def _user_message(message: Message, job_id: str) -> UserMessage:
    created_at = math.nan if message.created_at is None else message.created_at.timestamp()
    return UserMessage(
        Turn(job_id, message.id),
        canonical(message.content),
        frozenset(message.attachment_ids),
        created_at,
        skeleton(message.content),
    )
