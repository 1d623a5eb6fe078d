"""Which prompt owns which turn: the claims of prompts being sent, and the conversations whose first prompt is known.

Identical prompts have the same conversation, text and files; the service's messages do not show which is which.

Identical lost prompts take one turn each; with more candidates than lost prompts, none is assigned.

Bookkeeping without I/O.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Final

from attrs import evolve

from nairi_async._core.records import frozen
from nairi_async.models import Turn

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from nairi_async._core.request import CallState
    from nairi_async._nairi.delivery.fingerprint import PromptFingerprint

# Conversations whose first prompt is remembered. A search that goes back further may count one as unexplained.
_REMEMBERED: Final = 20_000


class Claim:
    """One prompt, from when it is sent until the turn that it started is known."""

    __slots__ = ("call", "copies", "fingerprint", "is_lost", "settled")

    def __init__(self, fingerprint: PromptFingerprint, call: CallState | None, copies: int) -> None:
        self.fingerprint: PromptFingerprint = fingerprint
        self.call: CallState | None = call
        """The call that carries it; `None` for a prompt that is only searched for."""
        self.copies: int = copies
        """How many lost prompts the claim stands for; all are identical."""
        self.is_lost: bool = False
        """Whether it was sent and its response will never arrive."""
        self.settled: asyncio.Event = asyncio.Event()
        """Set when the response arrives, or when it is known that it never will."""

    @property
    def is_in_flight(self) -> bool:
        """Whether the service may have the prompt while its response is still awaited."""
        return not self.settled.is_set() and self.call is not None and self.call.write_started


class _IdenticalPrompts:
    """The open claims of identical prompts, and the turns assigned to such prompts while any of them was open."""

    __slots__ = ("assigned", "claims")

    def __init__(self) -> None:
        self.claims: list[Claim] = []
        self.assigned: set[str] = set()


class Claims:
    """The open claims of one session."""

    def __init__(self) -> None:
        self._open: dict[PromptFingerprint, _IdenticalPrompts] = {}

    @contextmanager
    def open(
        self, fingerprint: PromptFingerprint, call: CallState | None = None, *, copies: int = 1
    ) -> Generator[Claim]:
        """Hold a claim for as long as the block runs."""
        group = self._open.setdefault(fingerprint, _IdenticalPrompts())
        claim = Claim(fingerprint, call, copies)
        group.claims.append(claim)
        try:
            yield claim
        finally:
            claim.settled.set()
            group.claims.remove(claim)
            if not group.claims:
                del self._open[fingerprint]

    def assign(self, claim: Claim, turn: Turn) -> None:
        """Record that the prompt started this turn: no identical prompt may take it."""
        self._open[claim.fingerprint].assigned.add(turn.message_id)
        claim.settled.set()

    def mark_lost(self, claim: Claim) -> None:
        """Record that the response will never arrive."""
        claim.is_lost = True
        claim.settled.set()

    def identical_in_flight(self, claim: Claim) -> list[Claim]:
        """Return the claims of identical prompts whose responses are awaited."""
        return [other for other in self._open[claim.fingerprint].claims if other is not claim and other.is_in_flight]

    def new_conversations_in_flight(self) -> list[Claim]:
        """Return the claims of all prompts that start a conversation and whose responses are awaited."""
        groups = (group for fingerprint, group in self._open.items() if fingerprint.job_id is None)
        return [claim for group in groups for claim in group.claims if claim.is_in_flight]

    def continuations_in_flight(self, job_id: str) -> list[Claim]:
        """Return the claims of all prompts that continue a conversation and whose responses are awaited."""
        groups = (group for fingerprint, group in self._open.items() if fingerprint.job_id == job_id)
        return [claim for group in groups for claim in group.claims if claim.is_in_flight]

    def match(self, claim: Claim, found: Sequence[Turn]) -> Match:
        """Decide which of the turns found, oldest first, is the claim's.

        Identical lost prompts take one turn each; with more candidates than lost prompts, none is assigned.
        """
        group = self._open[claim.fingerprint]
        candidates = tuple(turn for turn in found if turn.message_id not in group.assigned)
        # The larger, not the sum: `copies` counts the caller's lost prompts, and some of them may hold claims here too.
        lost = max(claim.copies, sum(other.is_lost for other in group.claims))
        return Match(candidates[0] if 0 < len(candidates) <= lost else None, candidates)


@frozen
class Match:
    """What follows from the turns that were found."""

    turn: Turn | None
    """The claim's own turn; `None` if there is no candidate, or if there are more than identical lost prompts."""
    candidates: tuple[Turn, ...]
    """The turns found that are assigned to no other prompt."""

    def without_turn(self) -> Match:
        """Return the same candidates, none of them assigned."""
        return Match(None, self.candidates)


@frozen
class StartedConversation:
    """A conversation and the prompt that started it."""

    turn: Turn
    prompt_digest: bytes
    """The digest of the prompt."""
    sent_at: float
    """When the prompt was sent, by the session's monotonic clock."""


class ReceivedTurns:
    """The turns that this session handed over to callers which record nothing: no lost prompt can be one of these.

    A container of the ids of their messages and of the conversations that they started. Beyond a fixed number, the
    oldest is forgotten.
    """

    def __init__(self) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, id_: object) -> bool:
        return id_ in self._ids

    def add(self, turn: Turn, *, is_first: bool) -> None:
        """Remember a turn."""
        self._ids[turn.message_id] = None
        if is_first:
            self._ids[turn.job_id] = None
        while len(self._ids) > 2 * _REMEMBERED:
            self._ids.popitem(last=False)


class StartedConversations:
    """The conversations whose first prompt this session knows, because it sent or found that prompt."""

    def __init__(self) -> None:
        self._starts: OrderedDict[str, StartedConversation] = OrderedDict()
        self._by_digest: dict[bytes, dict[str, StartedConversation]] = {}
        # Those whose turn the caller has recorded, or is recording.
        self._recorded: set[str] = set()

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._starts

    def add(self, start: StartedConversation) -> None:
        """Remember a conversation. Beyond a fixed number, the oldest is forgotten."""
        job_id = start.turn.job_id
        if job_id in self._starts:
            return
        self._starts[job_id] = start
        self._by_digest.setdefault(start.prompt_digest, {})[job_id] = start
        if len(self._starts) > _REMEMBERED:
            forgotten, old = self._starts.popitem(last=False)
            self._recorded.discard(forgotten)
            group = self._by_digest[old.prompt_digest]
            del group[forgotten]
            if not group:
                del self._by_digest[old.prompt_digest]

    def recording(self, turn: Turn) -> AbstractContextManager[None]:
        """Exclude the turn from searches while the block records it, and for good if the block succeeds."""
        return _Recording(self._recorded, turn.job_id if turn.job_id in self._starts else None)

    def unrecorded(self, prompt_digest: bytes) -> list[StartedConversation]:
        """Return the conversations that such a prompt started and whose turn the caller may not have recorded."""
        return [
            start for job_id, start in self._by_digest.get(prompt_digest, {}).items() if job_id not in self._recorded
        ]


class _Recording(AbstractContextManager[None]):
    """A block that records a turn. A class and no generator: every prompt of a batch is in one."""

    __slots__ = ("_job_id", "_recorded")

    def __init__(self, recorded: set[str], job_id: str | None) -> None:
        self._recorded, self._job_id = recorded, job_id

    def __enter__(self) -> None:
        if self._job_id is not None:
            self._recorded.add(self._job_id)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._job_id is not None:
            self._recorded.discard(self._job_id)


class KnownTurns:
    """What one session knows of its prompts and turns."""

    def __init__(self) -> None:
        self.claims: Claims = Claims()
        self.received: ReceivedTurns = ReceivedTurns()
        self.started_conversations: StartedConversations = StartedConversations()

    def record_start(self, fingerprint: PromptFingerprint, turn: Turn, sent_at: float) -> None:
        """Remember which prompt started a conversation; `sent_at` is by the session's monotonic clock."""
        # A copy: the turn itself would keep the context's memory of it alive.
        self.started_conversations.add(StartedConversation(evolve(turn), fingerprint.content, sent_at))
