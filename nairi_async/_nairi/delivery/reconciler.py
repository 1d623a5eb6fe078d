"""Finds the turn of a prompt whose response was lost, by comparing it with the service's user messages.

The service knows no idempotency key (https://nairi.ai/docs/api). What remains is evidence: a user message with the
same text and files, created after the prompt was sent, that started no other prompt's turn. Identical lost prompts take
one turn each; which takes which does not matter. With more candidates than lost prompts, none is assigned, because
someone else sent the same text at the same time.

To prove that a prompt does *not* run takes more: every conversation of the agent that began within minutes of the
prompt must be explained, because the service may have changed the text, or dated it by another clock. A conversation is
explained

* if the caller excludes it, because it knows whose it is;
* if this session sent, or found, another prompt that started it;
* if an identical prompt takes it during the search.

A conversation that this session started with an *identical* prompt is not explained by that: an exception or a
cancellation may have lost the turn before the caller recorded it. It is explained if the caller excludes it, or if the
caller has recorded the turn (`StartedConversations.recording`), as a batch does.
"""

from __future__ import annotations

import math
from collections.abc import Container
from typing import TYPE_CHECKING, Final

from attrs import evolve, field

from nairi_async._core.records import frozen
from nairi_async._core.time_scales import to_unix
from nairi_async._nairi.delivery.claims import Match, StartedConversation, StartedConversations
from nairi_async._nairi.delivery.prompt_search import PromptSearch, SharedJobs, UserMessage
from nairi_async._nairi.polling.context import TurnOrigin
from nairi_async.errors import NairiError, OutcomeUnknownError
from nairi_async.models import Turn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from nairi_async._nairi.agents import Agents
    from nairi_async._nairi.delivery.claims import Claim, KnownTurns
    from nairi_async._nairi.delivery.fingerprint import PromptFingerprint
    from nairi_async._nairi.delivery.search_window import SearchWindow
    from nairi_async._nairi.polling.context import PollingContext

# Seconds by which the times of messages may differ from the `Date` of responses for a turn to be taken.
_MARGIN: Final = 5.0
# Seconds by which they may differ for a conversation to stand against the proof that a prompt does not run.
_WIDE_MARGIN: Final = 300.0
# Seconds by which the service's clock may differ from this machine's, where no response is dated.
_UNDATED_MARGIN: Final = 300.0
# Searches after the settling time, at most: conversations may be explained a little later.
_LATE_SEARCHES: Final = 6
# Seconds between the first two searches; it doubles.
_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 8.0


@frozen
class _Exclusion:
    """Conversations that need not be read. Two are equal if they consist of the same objects."""

    known: StartedConversations = field(eq=id)
    exclude: Container[str] = field(eq=id)

    def __call__(self, job_id: str) -> bool:
        return job_id in self.exclude or job_id in self.known


@frozen
class _Findings:
    """What one search found."""

    match: Match
    unexplained: tuple[Turn, ...] = ()
    """Conversations that do not match, but may be the prompt in another form, or with another time."""
    is_complete: bool = True
    """Whether everything could be read."""

    @property
    def is_clear(self) -> bool:
        """Whether the prompt did not run, if the search is believed."""
        return self.is_complete and not self.unexplained


_NONE: Final = frozenset[str]()


class Reconciler:
    """Finds the lost prompts of one session."""

    def __init__(self, context: PollingContext, agents: Agents, known: KnownTurns) -> None:
        self._context = context
        self._known = known
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
        self._known.claims.mark_lost(claim)

        async def search() -> _Findings:
            if claim.fingerprint.job_id is not None:
                return await self._search_conversation(claim, window)
            findings = await self._search_starts(
                claim, window, _Exclusion(self._known.started_conversations, _NONE), margin=_MARGIN
            )
            # Nothing is proven here, so conversations that do not match are no reason to search again.
            return _Findings(findings.match)

        try:
            found = await self._repeat(search, window, deadline)
        except NairiError as failure:
            error.add_note(f"the search for it failed: {failure}")
            raise error from None
        if found.match.turn is not None:
            self._known.claims.assign(claim, found.match.turn)
            return found.match.turn
        error.candidates = found.match.candidates
        error.add_note(_several(error.candidates) if error.candidates else "it was searched for and not found")
        raise error

    async def find_start(
        self,
        fingerprint: PromptFingerprint,
        window: SearchWindow,
        exclude: Container[str],
        *,
        copies: int,
        deadline: float,
    ) -> Turn | None:
        """Return the turn of a prompt that started a conversation; `None` if it provably does not run.

        `copies` is the number of identical lost prompts, including this one: up to as many candidates, one is taken.

        Raises:
            OutcomeUnknownError: more turns match than that, or some conversation remains unexplained: `candidates`
                names them. Or some conversation could not be read, or not until the deadline.
            NairiError: reading failed for good.
        """
        exclusion = _Exclusion(self._known.started_conversations, exclude)

        async def search(claim: Claim) -> _Findings:
            return await self._search_starts(claim, window, exclusion, margin=_WIDE_MARGIN)

        turn = await self._find_or_refute(
            fingerprint, window, search, copies=copies, deadline=deadline, searched="conversations of that time"
        )
        if turn is not None:
            self._known.record_start(fingerprint, turn, window.sent_from)
        return turn

    async def find_continuation(
        self,
        fingerprint: PromptFingerprint,
        window: SearchWindow,
        exclude: Container[str],
        *,
        copies: int,
        deadline: float,
    ) -> Turn | None:
        """Return the turn of a prompt that continued a conversation; `None` if it provably does not run.

        As `find_start`, but `exclude` holds ids of messages: a user message is explained if it is excluded, if this
        session received it as the turn of another prompt, or if it is no later than the one that the prompt followed.

        Raises:
            OutcomeUnknownError: as for `find_start`; also if the service does not date the messages.
            NairiError: reading failed for good.
        """

        async def search(claim: Claim) -> _Findings:
            return await self._search_later(claim, window, exclude)

        return await self._find_or_refute(
            fingerprint, window, search, copies=copies, deadline=deadline, searched="messages of the conversation"
        )

    async def _find_or_refute(
        self,
        fingerprint: PromptFingerprint,
        window: SearchWindow,
        search: Callable[[Claim], Awaitable[_Findings]],
        *,
        copies: int,
        deadline: float,
        searched: str,
    ) -> Turn | None:
        with self._known.claims.open(fingerprint, copies=copies) as claim:
            self._known.claims.mark_lost(claim)
            found = await self._repeat(lambda: search(claim), window, deadline)
            if found.match.turn is not None:
                turn = evolve(found.match.turn, agent_id=window.agent_id)
                self._known.claims.assign(claim, turn)
                is_first = fingerprint.job_id is None
                self._context.record_origin(turn, TurnOrigin(window.sent_from, None, is_first=is_first))
                return turn
        if found.match.candidates:
            unknown = OutcomeUnknownError(_several(found.match.candidates))
            unknown.candidates = found.match.candidates
            raise unknown
        if found.unexplained:
            text = f"not found, but {len(found.unexplained)} {searched} are not known to be others'"
            unknown = OutcomeUnknownError(text)
            unknown.candidates = found.unexplained
            raise unknown
        if not found.is_complete:
            raise OutcomeUnknownError(f"not found, but some {searched} could not be read in time")
        return None

    async def _repeat(
        self, search: Callable[[], Awaitable[_Findings]], window: SearchWindow, deadline: float
    ) -> _Findings:
        """Search until a turn matches or the time is over; return the last findings.

        Raises:
            NairiError: reading failed for good.
        """
        clock = self._context.clock
        server_clock = self._context.executor.server_clock
        wait, proofs, late_searches = _FIRST_WAIT, 0, 0
        while True:
            searched_at, contradictions = clock.monotonic(), server_clock.contradictions
            found = await search()
            if found.match.candidates:
                return found
            now = clock.monotonic()
            # One search may be answered by a replica that lags, or dated by a server whose clock is wrong: two in a row
            # must show nothing. Only one that began after the settling time can have seen everything.
            is_proof = found.is_clear and server_clock.contradictions == contradictions
            proofs = proofs + 1 if is_proof else 0
            is_late = searched_at >= window.search_until
            if proofs > 1 and is_late:
                return found
            late_searches += is_late
            if late_searches == _LATE_SEARCHES or now >= deadline:
                return evolve(found, is_complete=False)
            rest = window.search_until - now if now < window.search_until else math.inf
            seconds = min(wait * (0.5 + self._context.random()), _LONGEST_WAIT, rest, deadline - now)
            await self._context.executor.sleep(seconds)
            wait *= 2.0

    async def _search_starts(
        self, claim: Claim, window: SearchWindow, exclusion: _Exclusion, *, margin: float
    ) -> _Findings:
        """Search the agent's conversations that began in the window, widened by a margin."""
        assert window.agent_id is not None  # noqa: S101 - a prompt that starts a conversation names its agent
        since = self._bounds(window, margin)[0]
        read = await self._search.first_messages(window.agent_id, since, leave_out=exclusion)
        is_wide = margin > _MARGIN
        # Responses in flight may name a conversation that was read. Prompts sent from now on cannot have started it.
        claims = self._known.claims
        in_flight = claims.new_conversations_in_flight() if is_wide else claims.identical_in_flight(claim)
        await _wait_until_settled(in_flight)
        if is_wide and isinstance(exclusion.exclude, SharedJobs):
            await exclusion.exclude.settle()
        content = claim.fingerprint.content
        # The window is taken anew: the responses have narrowed down the service's time.
        near = [one for one in read.messages if not exclusion(one.turn.job_id) and self._is_in(window, one, margin)]
        identical = [one for one in near if one.content == content and self._is_in(window, one, _MARGIN)]
        if is_wide:
            known = map(self._as_message, self._known.started_conversations.unrecorded(content))
            unclaimed = (one for one in known if one.turn.job_id not in exclusion.exclude)
            identical += (one for one in unclaimed if self._is_in(window, one, _MARGIN))
            identical.sort(key=lambda one: one.created_at)
        match = self._known.claims.match(claim, [one.turn for one in identical])
        if any(math.isnan(one.created_at) for one in identical):
            # Without a time, the conversation may be years old.
            match = match.without_turn()
        identical_ids = {one.turn.message_id for one in identical}
        unexplained = tuple(one.turn for one in near if one.turn.message_id not in identical_ids)
        return _Findings(match, unexplained, read.is_complete)

    async def _search_conversation(self, claim: Claim, window: SearchWindow) -> _Findings:
        """Search the conversation that the prompt continued."""
        job_id = claim.fingerprint.job_id
        assert job_id is not None  # noqa: S101 - such a prompt names its conversation
        messages = await self._search.user_messages(job_id)
        await _wait_until_settled(self._known.claims.identical_in_flight(claim))
        later = self._later(messages, window)
        return _Findings(
            self._known.claims.match(claim, [one.turn for one in later if one.content == claim.fingerprint.content])
        )

    async def _search_later(self, claim: Claim, window: SearchWindow, exclude: Container[str]) -> _Findings:
        """Search the conversation that the prompt continued, and account for each of its user messages."""
        job_id = claim.fingerprint.job_id
        assert job_id is not None  # noqa: S101 - such a prompt names its conversation
        messages = await self._search.user_messages(job_id)
        # Responses in flight may name messages that were read. Prompts sent from now on cannot have become them.
        await _wait_until_settled(self._known.claims.continuations_in_flight(job_id))
        later = self._unexplained(messages, window, exclude)
        content = claim.fingerprint.content
        identical = [one for one in later if one.content == content and self._is_in(window, one, _MARGIN)]
        match = self._known.claims.match(claim, [one.turn for one in identical])
        if any(math.isnan(one.created_at) for one in identical):
            # Without a time, the message may be an earlier one.
            match = match.without_turn()
        identical_ids = {one.turn.message_id for one in identical}
        unexplained = tuple(one.turn for one in later if one.turn.message_id not in identical_ids)
        # A replica may lag: without the message that the prompt followed, this is no complete answer.
        previous = window.previous_message_id
        is_complete = previous is None or any(one.turn.message_id == previous for one in messages)
        return _Findings(match, unexplained, is_complete)

    def _unexplained(
        self, messages: Sequence[UserMessage], window: SearchWindow, exclude: Container[str]
    ) -> list[UserMessage]:
        """Return the user messages of a conversation that may be the prompt."""
        previous = window.previous_message_id
        left = [
            one
            for one in messages
            if not (
                one.turn.message_id == previous
                or one.turn.message_id in self._known.received
                or one.turn.message_id in exclude
            )
        ]
        times = {one.created_at for one in messages}
        if any(math.isnan(time) for time in times) or len(times) == 1 < len(messages):
            # Messages without times of their own cannot be excluded by them.
            return left
        at = next((one.created_at for one in messages if one.turn.message_id == previous), -math.inf)
        return [one for one in left if one.created_at >= at and self._is_in(window, one, _WIDE_MARGIN)]

    def _as_message(self, start: StartedConversation) -> UserMessage:
        return UserMessage(start.turn, start.prompt_digest, self._service_time(start.sent_at)[0])

    def _later(self, messages: Sequence[UserMessage], window: SearchWindow) -> list[UserMessage]:
        """Return the user messages of a conversation that are later than the sending of the prompt."""
        previous = window.previous_message_id
        times = {one.created_at for one in messages}
        if len(messages) > 1 and len(times) > 1 and not any(math.isnan(time) for time in times):
            return [one for one in messages if one.turn.message_id != previous and self._is_in(window, one, _MARGIN)]
        # Without times of their own, messages have only their order.
        ids = [one.turn.message_id for one in messages]
        return list(messages[ids.index(previous) + 1 :]) if previous in ids else []

    def _is_in(self, window: SearchWindow, message: UserMessage, margin: float) -> bool:
        earliest, latest = self._bounds(window, margin)
        # A time that is not stated (NaN) may be any.
        return not (message.created_at < earliest or message.created_at > latest)

    def _bounds(self, window: SearchWindow, margin: float) -> tuple[float, float]:
        """Return the earliest and latest service time at which the prompt can have arrived."""
        earliest = min(self._service_time(window.sent_from)[0], window.recorded_at)
        return earliest - margin, self._service_time(window.arrived_by)[1] + margin

    def _service_time(self, at: float) -> tuple[float, float]:
        earliest, latest = self._context.executor.server_clock.at(at)
        if math.isfinite(earliest) or at == math.inf:
            return earliest, latest
        # This machine's clock may have been set back meanwhile, and be far behind the service's.
        return to_unix(self._context.clock, at) - _UNDATED_MARGIN, math.inf


async def _wait_until_settled(claims: Sequence[Claim]) -> None:
    for claim in claims:
        await claim.settled.wait()


def _several(candidates: Sequence[Turn]) -> str:
    return f"{len(candidates)} turns may be the one that was sent"
