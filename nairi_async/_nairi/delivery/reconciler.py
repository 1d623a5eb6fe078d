"""Looking up what became of a prompt whose answer did not come back (design section 6).

The service knows no key that would make a prompt its own twin (api: idempotency), so evidence is all there is: a user
message of equal text and attachments, made after the prompt was sent, that belongs to no other prompt of this session.
Equal prompts that are in doubt at once take one turn each; whose is whose does not matter, for they are equal. Where
more is found than they explain, somebody else said the same at the same time, and nothing is claimed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from typing import TYPE_CHECKING, Final

from attrs import evolve, field, frozen

from nairi_async._nairi.delivery.claims import Claims, is_like, skeleton
from nairi_async._nairi.delivery.prompt_search import PromptSearch
from nairi_async._nairi.polling.context import TurnOrigin
from nairi_async.errors import NairiError, OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nairi_async._nairi.agents import Agents
    from nairi_async._nairi.delivery.claims import Claim, Match, PromptFingerprint
    from nairi_async._nairi.delivery.prompt_search import UserMessage
    from nairi_async._nairi.polling.context import PollingContext
    from nairi_async.models import Turn

PATIENCE: Final = 60.0
"""Seconds for which a prompt is looked for; a service that shows it later than that is not waited for."""
# Seconds by which the times of messages may differ from those of the service's answers.
_MARGIN: Final = 5.0
# Seconds by which the service's clock may differ from this machine's, where its answers do not tell.
_UNDATED_MARGIN: Final = 300.0
# Looks when that time is over, at most: a service whose servers differ in time proves nothing.
_LATE_LOOKS: Final = 6
# Seconds between the first two looks; it doubles.
_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 8.0


@frozen
class SearchWindow:
    """A prompt that may have arrived."""

    agent_id: str | None
    """The agent; needed for one that began a conversation."""
    started_at: float
    """When it was sent, by the session's monotonic clock."""
    until: float
    """How long it is looked for, by the same clock."""
    after: str | None = None
    """The user message before it, where that is known."""
    arrived_by: float = math.inf
    """When at the latest it can have arrived, by the same clock."""
    told: float = math.inf
    """When it was sent in Unix time, as was noted by whichever clock; this machine's may have been set since."""


@frozen
class _Others:
    """Conversations that cannot be the one looked for; two are alike if they leave out by the same objects."""

    owns: Callable[[str], bool]
    exclude: Container[str] = field(eq=id)

    def __call__(self, job_id: str) -> bool:
        return job_id in self.exclude or self.owns(job_id)


class Reconciler:
    """Looks up the prompts of one session."""

    def __init__(self, context: PollingContext, agents: Agents) -> None:
        self.claims = Claims()
        self._context = context
        self._evidence = PromptSearch(context.executor, agents)

    async def settle(self, claim: Claim, sent: SearchWindow, error: OutcomeUnknownError, *, deadline: float) -> Turn:
        """The turn that a prompt in doubt became.

        Raises:
            OutcomeUnknownError: the error that was given, if nothing was found until the deadline or within a minute,
                or more than can be told apart: then `candidates` names it. It is never certain that a prompt will not
                arrive yet, so finding nothing decides nothing.
        """
        try:
            turn, _ = await self._find(claim, sent, self._context.owns, deadline)
        except OutcomeUnknownError as undecided:
            error.candidates = undecided.candidates
            error.add_note(undecided.message)
        except NairiError as failure:
            error.add_note(f"it could not be looked up: {failure}")
        else:
            if turn is not None:
                return turn
            error.add_note("it was looked for, and not found")
        raise error

    async def find_start(self, words: PromptFingerprint, sent: SearchWindow, exclude: Container[str]) -> Turn | None:
        """The turn of a prompt that began a conversation, sent by another process; `None` if there is none.

        Raises:
            OutcomeUnknownError: it cannot be told.
            NairiError: reading failed for good.
        """
        with self.claims.open(words) as claim:
            self.claims.doubt(claim)
            turn, is_whole = await self._find(claim, sent, _Others(self._context.owns, exclude), math.inf)
            if turn is None and not is_whole:
                raise OutcomeUnknownError("not found, but not all that may be it could be told apart from it")
            if turn is None:
                return None
            turn = evolve(turn, agent_id=sent.agent_id)
            self._context.record_origin(turn, TurnOrigin(sent.started_at, None, is_first=True))
            return turn

    async def _find(
        self, claim: Claim, sent: SearchWindow, leave_out: Callable[[str], bool], deadline: float
    ) -> tuple[Turn | None, bool]:
        """The turn, or `None` if none was found in time; and whether everything that might be it could be read.

        Raises:
            OutcomeUnknownError: more was found than can be told apart.
            NairiError: reading failed for good.
        """
        clock = self._context.clock
        wait, is_whole = _FIRST_WAIT, False
        server_clock, proofs = self._context.executor.server_clock, 0
        late = 0
        while True:
            polled, contradictions = clock.monotonic(), server_clock.contradictions
            choice, is_whole = await self._look(claim, sent, leave_out)
            if choice.turn is not None:
                self.claims.settle(claim, choice.turn)
                return choice.turn, is_whole
            if choice.candidates:
                undecided = OutcomeUnknownError(f"{len(choice.candidates)} turns may be the one that was sent")
                undecided.candidates = choice.candidates
                raise undecided
            now = clock.monotonic()
            # One look may be behind, or dated by a server whose clock is wrong; and only one that began when the time
            # was over has seen all of it.
            proofs += server_clock.contradictions == contradictions
            if now >= deadline or (proofs > 1 and polled >= sent.until):
                return None, is_whole
            late += polled >= sent.until
            if late == _LATE_LOOKS:
                return None, False
            rest = sent.until - now if now < sent.until else math.inf
            await clock.sleep(min(wait * (0.5 + self._context.random()), _LONGEST_WAIT, rest, deadline - now))
            wait *= 2.0

    async def _look(self, claim: Claim, sent: SearchWindow, leave_out: Callable[[str], bool]) -> tuple[Match, bool]:
        if claim.words.job_id is None:
            assert sent.agent_id is not None  # noqa: S101 - whoever began a conversation knows with whom
            since = self._window(sent)[0]
            said, is_whole = await self._evidence.beginnings(sent.agent_id, since, leave_out=leave_out)
            # The reading has told the service's time more closely.
            found = [one for one in said if not leave_out(one.turn.job_id) and self._fits(one, sent)]
        else:
            said, is_whole = await self._evidence.said(claim.words.job_id), True
            found = self._later(said, sent)
        equal = [one for one in found if (one.prompt, one.attachment_ids) == claim.words.content]
        # Those whose answers are still under way may own what was found; what is sent from now on cannot.
        for rival in self.claims.out(claim):
            await rival.answered.wait()
        choice = self.claims.choose(claim, [one.turn for one in equal])
        if not equal:
            is_whole = is_whole and not _any_like(found, claim.words)
        if any(math.isnan(one.at) for one in equal) and claim.words.job_id is None:
            # Nobody knows how old it is.
            choice = choice.undecided()
        return choice, is_whole

    def _later(self, said: Sequence[UserMessage], sent: SearchWindow) -> list[UserMessage]:
        """What was said in a conversation after the prompt was sent."""
        times = {one.at for one in said}
        if len(said) > 1 and len(times) > 1 and not any(math.isnan(time) for time in times):
            return [one for one in said if self._fits(one, sent) and one.turn.message_id != sent.after]
        # Without times of their own, messages have only their order.
        ids = [one.turn.message_id for one in said]
        return list(said[ids.index(sent.after) + 1 :]) if sent.after in ids else []

    def _fits(self, one: UserMessage, sent: SearchWindow) -> bool:
        earliest, latest = self._window(sent)
        return not (one.at < earliest or one.at > latest)

    def _window(self, sent: SearchWindow) -> tuple[float, float]:
        """Between which moments of the service's time the prompt can have arrived."""
        earliest = min(self._service_time(sent.started_at)[0], sent.told)
        return earliest - _MARGIN, self._service_time(sent.arrived_by)[1] + _MARGIN

    def _service_time(self, moment: float) -> tuple[float, float]:
        earliest, latest = self._context.executor.server_clock.at(moment)
        if math.isfinite(earliest) or moment == math.inf:
            return earliest, latest
        here = self._context.clock.time() - self._context.clock.monotonic() + moment
        return here - _UNDATED_MARGIN, here + _UNDATED_MARGIN


def _any_like(found: Sequence[UserMessage], words: PromptFingerprint) -> bool:
    """Whether one of the messages may be the prompt after all, with its text or files not as they were sent."""
    sent = skeleton(words.prompt)
    return any(one.attachment_ids <= words.attachment_ids and is_like(one.skeleton, sent) for one in found)
