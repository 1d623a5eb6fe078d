"""Finds the turn of a prompt whose response was lost, by comparing it with the service's user messages.

The service knows no idempotency key (https://nairi.ai/docs/api). What remains is evidence: a user message of equal text
and files, made after the prompt was sent, that no other prompt of this session started. Equal prompts that are lost at
the same time take one turn each; which takes which does not matter, because they are equal. If more turns are found
than those prompts explain, someone else sent the same text at the same time, and none is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from typing import TYPE_CHECKING, Final

from attrs import evolve, field, frozen

from nairi_async._nairi.delivery.claims import Claims
from nairi_async._nairi.delivery.fingerprint import is_like, skeleton
from nairi_async._nairi.delivery.prompt_search import PromptSearch
from nairi_async._nairi.polling.context import TurnOrigin
from nairi_async.errors import NairiError, OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nairi_async._nairi.agents import Agents
    from nairi_async._nairi.delivery.claims import Claim, Match
    from nairi_async._nairi.delivery.fingerprint import PromptFingerprint
    from nairi_async._nairi.delivery.prompt_search import UserMessage
    from nairi_async._nairi.polling.context import PollingContext
    from nairi_async.models import Turn

SETTLING_TIME: Final = 60.0
"""Seconds for which a lost prompt is searched for; a service that shows it later than that is not waited for."""
# Seconds by which the times of messages may differ from the `Date` of responses.
_MARGIN: Final = 5.0
# Seconds by which the service's clock may differ from this machine's, where no response is dated.
_UNDATED_MARGIN: Final = 300.0
# Searches after the settling time, at most: a service whose servers disagree about the time proves nothing.
_LATE_SEARCHES: Final = 6
# Seconds between the first two searches; it doubles.
_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 8.0


@frozen
class SearchWindow:
    """When a prompt may have arrived, and where to search for it. Times are of the session's monotonic clock."""

    agent_id: str | None
    """The agent; required for a prompt that started a conversation."""
    sent_from: float
    """The earliest time at which it was sent."""
    search_until: float
    """The end of the settling time: the last search begins no earlier."""
    previous_message_id: str | None = None
    """The user message before it, where that is known."""
    arrived_by: float = math.inf
    """The latest time at which it can have arrived."""
    recorded_at: float = math.inf
    """The Unix time recorded when it was sent, by whichever clock; this machine's clock may have been set since."""


@frozen
class _Exclusion:
    """Conversations that cannot be the one searched for. Two are equal if they consist of the same objects."""

    owns: Callable[[str], bool]
    exclude: Container[str] = field(eq=id)

    def __call__(self, job_id: str) -> bool:
        return job_id in self.exclude or self.owns(job_id)


class Reconciler:
    """Finds the lost prompts of one session."""

    def __init__(self, context: PollingContext, agents: Agents) -> None:
        self.claims = Claims()
        self._context = context
        self._search = PromptSearch(context.executor, agents)

    async def find_lost(
        self, claim: Claim, window: SearchWindow, error: OutcomeUnknownError, *, deadline: float
    ) -> Turn:
        """Return the turn that a lost prompt of this session started.

        Raises:
            OutcomeUnknownError: `error`, if no turn was found within the settling time or until the deadline; a prompt
                may always arrive later still, so this proves nothing. Likewise if several turns match: then
                `candidates` names them.
        """
        self.claims.mark_lost(claim)
        try:
            turn, _ = await self._find(claim, window, self._context.owns, deadline)
        except OutcomeUnknownError as undecided:
            error.candidates = undecided.candidates
            error.add_note(undecided.message)
        except NairiError as failure:
            error.add_note(f"the search for it failed: {failure}")
        else:
            if turn is not None:
                return turn
            error.add_note("it was searched for and not found")
        raise error

    async def find_start(
        self, fingerprint: PromptFingerprint, window: SearchWindow, exclude: Container[str]
    ) -> Turn | None:
        """Return the turn of a prompt that started a conversation in another process; `None` if there is none.

        Raises:
            OutcomeUnknownError: several turns match, or not everything could be compared.
            NairiError: reading failed for good.
        """
        with self.claims.open(fingerprint) as claim:
            self.claims.mark_lost(claim)
            exclusion = _Exclusion(self._context.owns, exclude)
            turn, is_complete = await self._find(claim, window, exclusion, math.inf)
            if turn is None and not is_complete:
                raise OutcomeUnknownError("not found, but some conversations could not be compared with it")
            if turn is None:
                return None
            turn = evolve(turn, agent_id=window.agent_id)
            self._context.record_origin(turn, TurnOrigin(window.sent_from, None, is_first=True))
            return turn

    async def _find(
        self, claim: Claim, window: SearchWindow, leave_out: Callable[[str], bool], deadline: float
    ) -> tuple[Turn | None, bool]:
        """Search until the turn is found or the time is over; return it, and whether everything could be compared.

        Raises:
            OutcomeUnknownError: several turns match.
            NairiError: reading failed for good.
        """
        clock = self._context.clock
        server_clock = self._context.executor.server_clock
        wait, proofs, late_searches = _FIRST_WAIT, 0, 0
        while True:
            searched_at, contradictions = clock.monotonic(), server_clock.contradictions
            match, is_complete = await self._search_once(claim, window, leave_out)
            if match.turn is not None:
                self.claims.assign(claim, match.turn)
                return match.turn, is_complete
            if match.candidates:
                undecided = OutcomeUnknownError(f"{len(match.candidates)} turns may be the one that was sent")
                undecided.candidates = match.candidates
                raise undecided
            now = clock.monotonic()
            # One search may be answered by a replica that lags, or dated by a server whose clock is wrong. Only a
            # search that began after the settling time can have seen everything.
            proofs += server_clock.contradictions == contradictions
            is_late = searched_at >= window.search_until
            if now >= deadline or (proofs > 1 and is_late):
                return None, is_complete
            late_searches += is_late
            if late_searches == _LATE_SEARCHES:
                return None, False
            rest = window.search_until - now if now < window.search_until else math.inf
            await clock.sleep(min(wait * (0.5 + self._context.random()), _LONGEST_WAIT, rest, deadline - now))
            wait *= 2.0

    async def _search_once(
        self, claim: Claim, window: SearchWindow, leave_out: Callable[[str], bool]
    ) -> tuple[Match, bool]:
        fingerprint = claim.fingerprint
        if fingerprint.job_id is None:
            assert window.agent_id is not None  # noqa: S101 - a prompt that starts a conversation names its agent
            since = self._bounds(window)[0]
            messages, is_complete = await self._search.first_messages(window.agent_id, since, leave_out=leave_out)
            # Read again: the responses of the search have narrowed down the service's time.
            found = [one for one in messages if not leave_out(one.turn.job_id) and self._fits(one, window)]
        else:
            messages, is_complete = await self._search.user_messages(fingerprint.job_id), True
            found = self._later(messages, window)
        equal = [one for one in found if (one.prompt, one.attachment_ids) == fingerprint.content]
        # Responses in flight may name a turn that was found. Prompts sent from now on cannot have started it.
        for rival in self.claims.in_flight(claim):
            await rival.decided.wait()
        match = self.claims.match(claim, [one.turn for one in equal])
        if not equal:
            is_complete = is_complete and not _any_like(found, fingerprint)
        if any(math.isnan(one.created_at) for one in equal) and fingerprint.job_id is None:
            # Without a time, the conversation may be years old.
            match = match.undecided()
        return match, is_complete

    def _later(self, messages: Sequence[UserMessage], window: SearchWindow) -> list[UserMessage]:
        """Return the user messages of a conversation that are later than the sending of the prompt."""
        times = {one.created_at for one in messages}
        if len(messages) > 1 and len(times) > 1 and not any(math.isnan(time) for time in times):
            return [
                one for one in messages if self._fits(one, window) and one.turn.message_id != window.previous_message_id
            ]
        # Without times of their own, messages have only their order.
        ids = [one.turn.message_id for one in messages]
        if window.previous_message_id not in ids:
            return []
        return list(messages[ids.index(window.previous_message_id) + 1 :])

    def _fits(self, message: UserMessage, window: SearchWindow) -> bool:
        earliest, latest = self._bounds(window)
        # A time that is not stated (NaN) fits.
        return not (message.created_at < earliest or message.created_at > latest)

    def _bounds(self, window: SearchWindow) -> tuple[float, float]:
        """Return the earliest and latest service time at which the prompt can have arrived."""
        earliest = min(self._service_time(window.sent_from)[0], window.recorded_at)
        return earliest - _MARGIN, self._service_time(window.arrived_by)[1] + _MARGIN

    def _service_time(self, at: float) -> tuple[float, float]:
        earliest, latest = self._context.executor.server_clock.at(at)
        if math.isfinite(earliest) or at == math.inf:
            return earliest, latest
        here = self._context.clock.time() - self._context.clock.monotonic() + at
        return here - _UNDATED_MARGIN, here + _UNDATED_MARGIN


def _any_like(found: Sequence[UserMessage], fingerprint: PromptFingerprint) -> bool:
    """Return whether one of the messages may be the prompt with its text or files changed by the service."""
    sent = skeleton(fingerprint.prompt)
    return any(one.attachment_ids <= fingerprint.attachment_ids and is_like(one.skeleton, sent) for one in found)
