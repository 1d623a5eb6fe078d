"""Search for messages that may be a lost prompt: the first ones of an agent's conversations, or those of one."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Container
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from attrs import evolve, field

from nairi_async._core.address import path
from nairi_async._core.fan_out import gather_limited
from nairi_async._core.records import define, frozen
from nairi_async._core.request import Request
from nairi_async._nairi.delivery.fingerprint import content_digest
from nairi_async._nairi.listing.listing import ConversationListing
from nairi_async._nairi.wire import decode_timeline
from nairi_async.errors import BadRequestError, NotAnApiJobError, NotFoundError
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
    content: bytes
    """The digest of its text and files."""
    created_at: float
    """Unix time of the service; NaN where the service does not state it, or where that does not single it out."""


@frozen
class FirstMessages:
    """How an agent's conversations began."""

    messages: tuple[UserMessage, ...] = ()
    """Their first user messages, oldest conversation first."""
    is_complete: bool = True
    """Whether each conversation that may have begun in that time could be read."""


@runtime_checkable
class SharedJobs(Container[str], Protocol):
    """Conversations that other processes begin at this time as well, which say later which are theirs."""

    async def settle(self) -> None:
        """Wait until the prompts that are on their way have said so, and learn which conversations they are."""
        ...


@define(eq=False)
class _Reading:
    """The last reading of an agent's conversations, shared by all callers that asked before it began.

    A reading that failed or was cancelled reached nothing.
    """

    lock: asyncio.Lock = field(factory=asyncio.Lock)
    number: int = 0
    since: float = math.inf
    leave_out: Callable[[str], bool] | None = None
    result: FirstMessages = field(factory=FirstMessages)


class PromptSearch:
    """The reader of user messages of one session. Its methods raise `NairiError` when reading fails for good."""

    def __init__(self, executor: RequestExecutor, agents: Agents) -> None:
        self._executor = executor
        self._agents = agents
        self._cache: OrderedDict[str, UserMessage | None] = OrderedDict()
        self._readings: dict[str, _Reading] = {}

    async def first_messages(self, agent_id: str, since: float, *, leave_out: Callable[[str], bool]) -> FirstMessages:
        """Return how the agent's conversations began that were started since `since`, in Unix time of the service.

        Conversations of `leave_out` are not read. Callers that ask for the same while a reading is due share it.
        """
        reading = self._readings.setdefault(agent_id, _Reading())
        asked_at = reading.number
        async with reading.lock:
            if reading.number == asked_at or reading.since > since or reading.leave_out != leave_out:
                reading.number += 1
                reading.since = math.inf
                reading.result = await self._read(agent_id, since, leave_out)
                reading.since, reading.leave_out = since, leave_out
            return reading.result

    async def user_messages(self, job_id: str) -> list[UserMessage]:
        """Return the user messages of a conversation, each once, in the service's order."""
        request = Request(method="GET", path=path("conversations", job_id, "messages"), observe_date=True)
        messages = await self._executor.call(request, decode_timeline, unreadable_is_transient=True)
        found = {message.id: _user_message(message, job_id) for message in messages if message.role == "user"}
        return list(found.values())

    async def _read(self, agent_id: str, since: float, leave_out: Callable[[str], bool]) -> FirstMessages:
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
            firsts = await self._first_of_each(batch)
            in_time = [first for first in firsts if first is not None and not first.created_at < since]
            is_early = [first is not None and first.created_at < since for first in firsts]
            # Newest first: behind conversations that all started too early there is none that did not.
            is_over = is_over or (any(is_early) and not in_time)
            newer = batch[: is_early.index(True)] if any(is_early) else batch
            unread = {job_id for job_id, first in zip(batch, firsts, strict=True) if first is None}
            is_complete = is_complete and all(job_id in self._cache for job_id in newer if job_id in unread)
            found += in_time
            batch.clear()
        return FirstMessages(tuple(reversed(found)), is_complete)

    async def _first_of_each(self, job_ids: Sequence[str]) -> list[UserMessage | None]:
        """Return the first prompts of some conversations; `None` where there is none, or none yet."""
        unread = [job_id for job_id in job_ids if job_id not in self._cache]
        firsts = await gather_limited([partial(self._first, job_id) for job_id in unread], at_once=_AT_ONCE)
        read = dict(zip(unread, firsts, strict=True))
        return [read.get(job_id) or self._cache.get(job_id) for job_id in job_ids]

    async def _first(self, job_id: str) -> UserMessage | None:
        try:
            messages = await self.user_messages(job_id)
        except NotAnApiJobError:
            # Not started through this API, so it cannot be a prompt of ours.
            self._store(job_id, None)
            return None
        except (NotFoundError, BadRequestError):
            # Deleted, or a replica that lags does not know it yet.
            return None
        if not messages:
            # The service may list a new conversation before it shows its first message.
            return None
        first = _earliest(messages)
        self._store(job_id, first)
        return first

    def _store(self, job_id: str, first: UserMessage | None) -> None:
        self._cache[job_id] = first
        if len(self._cache) > _CACHED:
            self._cache.popitem(last=False)


def _earliest(messages: Sequence[UserMessage]) -> UserMessage:
    """Return the first message of a conversation; without its time if times do not single it out."""
    earliest = min(messages, key=lambda message: message.created_at)
    is_alone = sum(not message.created_at > earliest.created_at for message in messages) == 1
    return earliest if is_alone else evolve(messages[0], created_at=math.nan)


def _user_message(message: Message, job_id: str) -> UserMessage:
    created_at = math.nan if message.created_at is None else message.created_at.timestamp()
    return UserMessage(Turn(job_id, message.id), content_digest(message.content, message.attachment_ids), created_at)
