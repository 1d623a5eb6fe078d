"""What the service knows of prompts: how an agent's newest conversations began, what was said in one of them."""

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
from nairi_async._nairi.delivery.claims import canonical, skeleton
from nairi_async._nairi.listing.listing import ConversationListing
from nairi_async._nairi.wire import decode_timeline
from nairi_async.errors import BadRequestError, NotFoundError
from nairi_async.models import Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nairi_async._core.executor import RequestExecutor
    from nairi_async._nairi.agents import Agents
    from nairi_async.models import Message

# Conversations whose beginning is remembered; it never changes.
_REMEMBERED: Final = 10_000
# Timelines read at once for one agent: looking back must not crowd out what goes on.
_AT_ONCE: Final = 5
# Seconds for which `updated_at` may lie before the beginning of its conversation, by whatever fault.
_SLACK: Final = 60.0


@frozen
class UserMessage:
    """One user message, as evidence."""

    turn: Turn
    prompt: str
    attachment_ids: frozenset[str]
    at: float
    """When, in Unix time of the service; NaN if it does not tell."""
    skeleton: str = field(eq=False, repr=False)
    """What is left of the prompt when all is gone that the service might have changed of it."""


@define(eq=False)
class _Reading:
    """The last reading of an agent's conversations, which all may use who asked before it began.

    One that failed or was cancelled reached nothing.
    """

    lock: asyncio.Lock = field(factory=asyncio.Lock)
    begun: int = 0
    reached: float = math.inf
    leave_out: Callable[[str], bool] | None = None
    beginnings: tuple[UserMessage, ...] = ()
    is_whole: bool = True


class PromptSearch:
    """Reads it for one session. Every method raises `NairiError` as reading does."""

    def __init__(self, executor: RequestExecutor, agents: Agents) -> None:
        self._executor = executor
        self._agents = agents
        self._known: OrderedDict[str, UserMessage | None] = OrderedDict()
        self._readings: dict[str, _Reading] = {}

    async def beginnings(
        self, agent_id: str, since: float, *, leave_out: Callable[[str], bool]
    ) -> tuple[Sequence[UserMessage], bool]:
        """How the agent's conversations began since a moment of Unix time, oldest first, and whether all could be told.

        Those of `leave_out` are not read. A reading is shared by all who asked for the like of it before it began.
        """
        reading = self._readings.setdefault(agent_id, _Reading())
        asked = reading.begun
        async with reading.lock:
            if reading.begun == asked or reading.reached > since or reading.leave_out != leave_out:
                reading.begun += 1
                reading.reached = math.inf
                reading.beginnings, reading.is_whole = await self._read(agent_id, since, leave_out)
                reading.reached, reading.leave_out = since, leave_out
            return reading.beginnings, reading.is_whole

    async def said(self, job_id: str) -> list[UserMessage]:
        """The user messages of a conversation, oldest first as far as the service tells."""
        request = Request(method="GET", path=path("conversations", job_id, "messages"), observe_date=True)
        messages = await self._executor.call(request, decode_timeline, unreadable_is_transient=True)
        return [_said(message, job_id) for message in messages if message.role == "user"]

    async def _read(
        self, agent_id: str, since: float, leave_out: Callable[[str], bool]
    ) -> tuple[tuple[UserMessage, ...], bool]:
        after = datetime.fromtimestamp(max(0.0, since - _SLACK), UTC)
        listing = ConversationListing(self._agents, agent_id, status=(), updated_after=after, sort="created_at_desc")
        beginnings: list[UserMessage] = []
        is_whole, is_over = True, False
        batch: list[str] = []
        while not is_over:
            row = await anext(listing, None)
            is_over = row is None
            if row is not None and not leave_out(row.id):
                batch.append(row.id)
            if len(batch) < _AT_ONCE and not is_over:
                continue
            # Newest first: behind one that began earlier, all others did, too.
            for job_id, said in zip(batch, await self._begun(batch), strict=True):
                if said is None:
                    is_whole = is_whole and job_id in self._known
                elif said.at < since:
                    is_over = True
                else:
                    beginnings.append(said)
            batch.clear()
        return tuple(reversed(beginnings)), is_whole

    async def _begun(self, job_ids: Sequence[str]) -> list[UserMessage | None]:
        """The first prompts of some conversations; `None` where there is none, or none yet."""
        unknown = [job_id for job_id in job_ids if job_id not in self._known]
        firsts = await gather_limited([partial(self._first, job_id) for job_id in unknown], at_once=_AT_ONCE)
        found = dict(zip(unknown, firsts, strict=True))
        return [found.get(job_id) or self._known.get(job_id) for job_id in job_ids]

    async def _first(self, job_id: str) -> UserMessage | None:
        try:
            said = await self.said(job_id)
        except (NotFoundError, BadRequestError):
            # Gone, or not made through this API: it can be nobody's.
            self._remember(job_id, None)
            return None
        if not said:
            # The service may show a new conversation before its first message.
            return None
        first = min(said, key=lambda one: one.at) if all(one.at == one.at for one in said) else said[0]
        self._remember(job_id, first)
        return first

    def _remember(self, job_id: str, said: UserMessage | None) -> None:
        self._known[job_id] = said
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)


def _said(message: Message, job_id: str) -> UserMessage:
    at = math.nan if message.created_at is None else message.created_at.timestamp()
    turn = Turn(job_id, message.id)
    return UserMessage(
        turn, canonical(message.content), frozenset(message.attachment_ids), at, skeleton(message.content)
    )
