"""Which prompt owns which turn: the claims of prompts on their way, and the conversations whose start is known.

Bookkeeping without I/O.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from attrs import define, field, frozen

from nairi_async.models import Turn

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from nairi_async._core.request import CallState
    from nairi_async._nairi.delivery.fingerprint import PromptFingerprint

# Conversations whose start is remembered. A search that looks back further may call one of them unexplained.
_REMEMBERED: Final = 20_000


@define(eq=False)
class Claim:
    """One prompt, from its sending until it is known which turn it started."""

    fingerprint: PromptFingerprint
    call: CallState | None
    """The call that carries it; `None` for a prompt that is only searched for."""
    copies: int = 1
    """How many lost prompts the claim stands for; all are equal."""
    is_lost: bool = False
    """Whether it was sent and its response will not come."""
    decided: asyncio.Event = field(factory=asyncio.Event)
    """Set when the response came, or when it is known that it will not come."""

    @property
    def is_in_flight(self) -> bool:
        """Whether the service may have the prompt while its response is still awaited."""
        return not self.decided.is_set() and self.call is not None and self.call.write_started


@define(eq=False)
class _EqualPrompts:
    """The open claims of equal prompts, and the turns assigned to such prompts while any of them was open."""

    claims: list[Claim] = field(factory=list)
    assigned: set[str] = field(factory=set)


class Claims:
    """The claims of one session that are open."""

    def __init__(self) -> None:
        self._open: dict[PromptFingerprint, _EqualPrompts] = {}

    @contextmanager
    def open(
        self, fingerprint: PromptFingerprint, call: CallState | None = None, *, copies: int = 1
    ) -> Generator[Claim]:
        """Hold a claim for as long as the block runs."""
        equals = self._open.setdefault(fingerprint, _EqualPrompts())
        claim = Claim(fingerprint, call, copies)
        equals.claims.append(claim)
        try:
            yield claim
        finally:
            claim.decided.set()
            equals.claims.remove(claim)
            if not equals.claims:
                del self._open[fingerprint]

    def assign(self, claim: Claim, turn: Turn) -> None:
        """Record that the prompt started this turn: no equal prompt may take it."""
        self._open[claim.fingerprint].assigned.add(turn.message_id)
        claim.decided.set()

    def mark_lost(self, claim: Claim) -> None:
        """Record that the response will not come."""
        claim.is_lost = True
        claim.decided.set()

    def equal_in_flight(self, claim: Claim) -> list[Claim]:
        """Return the claims of equal prompts whose responses are awaited."""
        return [rival for rival in self._open[claim.fingerprint].claims if rival is not claim and rival.is_in_flight]

    def starts_in_flight(self) -> list[Claim]:
        """Return the claims of all prompts that start a conversation and whose responses are awaited."""
        starts = (equals.claims for fingerprint, equals in self._open.items() if fingerprint.job_id is None)
        return [claim for claims in starts for claim in claims if claim.is_in_flight]

    def match(self, claim: Claim, found: Sequence[Turn]) -> Match:
        """Decide which of the turns found, oldest first, is the claim's; equal lost prompts take one each."""
        equals = self._open[claim.fingerprint]
        free = tuple(turn for turn in found if turn.message_id not in equals.assigned)
        lost = max(claim.copies, sum(rival.is_lost for rival in equals.claims))
        return Match(free[0] if 0 < len(free) <= lost else None, free)


@frozen
class Match:
    """What follows from the turns that were found."""

    turn: Turn | None
    """The claim's own turn; `None` if no turn was found, or more turns than there are equal lost prompts."""
    candidates: tuple[Turn, ...]
    """The turns found that are assigned to no other prompt."""

    def undecided(self) -> Match:
        """Return the same candidates without a decision."""
        return Match(None, self.candidates)


@frozen
class KnownStart:
    """A conversation and the prompt that started it."""

    turn: Turn
    content: bytes
    """The digest of the prompt."""
    at: float
    """When the prompt was sent, by the session's monotonic clock."""


class KnownStarts:
    """The conversations of which this session knows the prompt that started them: it sent or found that prompt."""

    def __init__(self) -> None:
        self._starts: OrderedDict[str, KnownStart] = OrderedDict()
        self._by_content: dict[bytes, dict[str, KnownStart]] = {}
        # Those whose turn is recorded, or about to be, by its receiver.
        self._kept: set[str] = set()

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._starts

    def add(self, start: KnownStart) -> None:
        """Remember a conversation; the oldest of very many is forgotten."""
        job_id = start.turn.job_id
        if job_id in self._starts:
            return
        self._starts[job_id] = start
        self._by_content.setdefault(start.content, {})[job_id] = start
        if len(self._starts) > _REMEMBERED:
            forgotten, old = self._starts.popitem(last=False)
            self._kept.discard(forgotten)
            equals = self._by_content[old.content]
            del equals[forgotten]
            if not equals:
                del self._by_content[old.content]

    @contextmanager
    def keeping(self, turn: Turn) -> Generator[None]:
        """Leave the turn out of searches while the block records it, and from then on if the block succeeds."""
        job_id = turn.job_id
        if job_id not in self._starts:
            yield
            return
        self._kept.add(job_id)
        try:
            yield
        except BaseException:
            self._kept.discard(job_id)
            raise

    def unkept(self, content: bytes) -> list[KnownStart]:
        """Return the conversations that a prompt of this content started and whose turn may have been lost since."""
        return [start for job_id, start in self._by_content.get(content, {}).items() if job_id not in self._kept]
