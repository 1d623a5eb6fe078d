"""Who may claim which turn, when several equal prompts are on their way: bookkeeping without I/O."""

from __future__ import annotations

import asyncio
import unicodedata
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from attrs import define, field, frozen

from nairi_async.models import Turn

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Sequence

    from nairi_async._core.request import Request


# Characters of a text from which on the beginning of another is taken for that text, cut off.
_CUT_AT_LEAST: Final = 500
# Characters of a text that are looked at for it: they tell enough, and a hostile one may be very long.
_LOOKED_AT: Final = 20_000


def canonical(text: str) -> str:
    """A text as it is compared: white space around it, and how its lines end, may get lost on the way."""
    return text.replace("\r\n", "\n").strip()


def skeleton(text: str) -> str:
    """What is left of a text when all is gone that a service might change of it: forms, white space, controls."""
    folded = unicodedata.normalize("NFKC", text[:_LOOKED_AT])
    return "".join(letter for letter in folded if letter.isprintable() and letter != " ")


def is_like(shown: str, sent: str) -> bool:
    """Whether a skeleton may be another one, changed or cut off by the service."""
    return shown == sent or (len(shown) >= _CUT_AT_LEAST and sent.startswith(shown))


@frozen
class PromptFingerprint:
    """What a prompt looks like at the service: equal ones cannot be told apart there."""

    job_id: str | None
    """The conversation it was said in; `None` for one that begins a conversation, with whatever agent."""
    prompt: str
    attachment_ids: frozenset[str] = frozenset()

    @classmethod
    def of(cls, job_id: str | None, prompt: str, attachment_ids: Collection[str]) -> PromptFingerprint:
        """The words of a prompt as they are compared."""
        return cls(job_id, canonical(prompt), frozenset(attachment_ids))

    @property
    def content(self) -> tuple[str, frozenset[str]]:
        """What a message of the service is compared with."""
        return self.prompt, self.attachment_ids


@define(eq=False)
class Claim:
    """One prompt on its way, from its sending until it is known which turn it became."""

    words: PromptFingerprint
    request: Request | None
    """What carries it; `None` for one that another process sent."""
    is_in_doubt: bool = False
    """Whether it left and its answer did not come back."""
    answered: asyncio.Event = field(factory=asyncio.Event)
    """Set when the answer came, or will not come."""

    @property
    def is_out(self) -> bool:
        """Whether the service may have it while its answer is still awaited."""
        return not self.answered.is_set() and self.request is not None and self.request.write_started


@define(eq=False)
class _Equals:
    """Claims of equal prompts, and the turns that such prompts became while any of them was open."""

    claims: list[Claim] = field(factory=list)
    taken: set[str] = field(factory=set)


class Claims:
    """The prompts of one session that are on their way."""

    def __init__(self) -> None:
        self._open: dict[PromptFingerprint, _Equals] = {}

    @contextmanager
    def open(self, words: PromptFingerprint, request: Request | None = None) -> Generator[Claim]:
        """A claim for as long as the block runs."""
        equals = self._open.setdefault(words, _Equals())
        claim = Claim(words, request)
        equals.claims.append(claim)
        try:
            yield claim
        finally:
            claim.answered.set()
            equals.claims.remove(claim)
            if not equals.claims:
                del self._open[words]

    def settle(self, claim: Claim, turn: Turn) -> None:
        """The prompt became this turn: nobody else may claim it."""
        self._open[claim.words].taken.add(turn.message_id)
        claim.answered.set()

    def doubt(self, claim: Claim) -> None:
        """The answer will not come."""
        claim.is_in_doubt = True
        claim.answered.set()

    def out(self, claim: Claim) -> list[Claim]:
        """Equal prompts whose answers are still awaited, and may name what was found."""
        return [rival for rival in self._open[claim.words].claims if rival is not claim and rival.is_out]

    def choose(self, claim: Claim, found: Sequence[Turn]) -> Match:
        """Which of the turns that were found, oldest first, is the claim's: equal prompts in doubt take one each."""
        equals = self._open[claim.words]
        free = tuple(turn for turn in found if turn.message_id not in equals.taken)
        doubts = sum(rival.is_in_doubt for rival in equals.claims)
        return Match(free[0] if 0 < len(free) <= doubts else None, free)


@frozen
class Match:
    """What can be said of the turns that were found."""

    turn: Turn | None
    """The claim's own; `None` if nothing was found, or more than the prompts in doubt explain."""
    candidates: tuple[Turn, ...]
    """What was found and belongs to nobody else."""

    def undecided(self) -> Match:
        """The same without a decision."""
        return Match(None, self.candidates)
