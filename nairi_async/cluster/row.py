"""One item's row, and every change of it, as pure functions: who may change it, and to what.

The row is the only truth about its item. A worker that runs the item owns the row by a *claim*, which has a number.
Each change states the claim under which it is made. When a worker is found dead its rows are released, which changes
the number: what the worker still writes, if it lives after all, is refused (fencing), and it lets go of the item.

A prompt leaves only after `sending` is stored. What a dead worker left `sending` is *in doubt* until a lookup has
decided. While a row is `sending` and not in doubt, its prompt is on its way, and its conversation may exist without
being known; a lookup of another prompt waits for it.

Every function is idempotent: after a lost connection a change is made again, whether or not it was stored.
"""

from __future__ import annotations

from attrs import evolve

from nairi_async._core.records import frozen
from nairi_async.batch.item_state import TRANSITIONS, State

ENDED: frozenset[State] = frozenset({"done", "failed"})
"""States in which nothing is left to do."""


class ClaimLostError(Exception):
    """The row belongs to another claim: its worker was found dead. The one that sees this lets go of the item."""


@frozen
class Claim:
    """The right to change a row, until the row is released."""

    worker: int
    number: int


@frozen(kw_only=True)
class Row:
    """What the database holds about where an item stands."""

    number: int
    state: State = "unsent"
    owner: int | None = None
    """The worker that runs the item."""
    claim: int = 0
    """How often the row was claimed or released."""
    is_in_doubt: bool = False
    """Whether the prompt may run without that its turn is known, and no response is on its way."""
    lost_at: float | None = None
    """When it became known that the response to the latest sending would not come, in seconds since the epoch. The
    prompt may arrive until the settling time after that, and until then it may be taken for an identical one."""
    sent_at: float | None = None
    job_id: str | None = None
    message_id: str | None = None


def can_take(row: Row) -> bool:
    """Return whether a worker may claim the row."""
    return row.owner is None and row.state not in ENDED


def take(row: Row, worker: int, sent_at: float) -> Row:
    """Return the row as a worker owns it that claims it: a prompt that provably did not run is about to leave."""
    taken = evolve(row, owner=worker, claim=row.claim + 1)
    return mark_sending(taken, claim_of(taken), sent_at) if row.state == "unsent" else taken


def claim_of(row: Row) -> Claim:
    """Return the claim under which the row is owned."""
    assert row.owner is not None  # noqa: S101 - asked for by the worker that took it
    return Claim(row.owner, row.claim)


def release(row: Row) -> Row:
    """Return the row without an owner, after its worker has died: a prompt that was being sent is in doubt."""
    return evolve(row, owner=None, claim=row.claim + 1, is_in_doubt=row.is_in_doubt or row.state == "sending")


def hand_on(row: Row, claim: Claim) -> Row:
    """Return the row without an owner, for another worker or a later time."""
    return release(_held(row, claim))


def mark_sending(row: Row, claim: Claim, sent_at: float) -> Row:
    """Return the row of a prompt that is about to leave, and provably did not run before."""
    moved = _moved(_held(row, claim), "sending")
    return evolve(moved, sent_at=sent_at, is_in_doubt=False, lost_at=None)


def mark_in_doubt(row: Row, claim: Claim, lost_at: float) -> Row:
    """Return the row of a prompt whose response does not come any more, as its lookup begins."""
    held = _held(row, claim)
    return evolve(held, is_in_doubt=row.state == "sending", lost_at=lost_at if held.lost_at is None else held.lost_at)


def mark_unsent(row: Row, claim: Claim) -> Row:
    """Return the row of a prompt that provably does not run."""
    held = _held(row, claim)
    return held if held.state == "unsent" else evolve(_moved(held, "unsent"), is_in_doubt=False)


def mark_running(row: Row, claim: Claim, job_id: str, message_id: str) -> Row:
    """Return the row of a prompt that became a turn."""
    moved = _moved(_held(row, claim), "running")
    return evolve(moved, job_id=job_id, message_id=message_id, is_in_doubt=False)


def mark_ended(row: Row, claim: Claim, *, is_done: bool) -> Row:
    """Return the row of an item that has ended."""
    if row.state in ENDED and row.claim == claim.number:
        return row
    return evolve(_moved(_held(row, claim), "done" if is_done else "failed"), owner=None, is_in_doubt=False)


def _held(row: Row, claim: Claim) -> Row:
    if (row.owner, row.claim) != (claim.worker, claim.number):
        raise ClaimLostError
    return row


def _moved(row: Row, state: State) -> Row:
    if state not in TRANSITIONS[row.state]:
        raise AssertionError(f"an item that is {row.state} cannot become {state}")
    return evolve(row, state=state)
