"""The tickets of the queue, explored exhaustively: each open item that nobody owns has one, however it is repeated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import evolve, frozen

from nairi_async.cluster import row as rows
from nairi_async.cluster.row import Row

if TYPE_CHECKING:
    from collections.abc import Iterator


@frozen
class Ticket:
    """A ticket and who runs it; the queue may give it to a second worker while the first still does."""

    items: frozenset[int]
    runs: frozenset[int] = frozenset()
    """Workers that fetched it, and have not claimed yet."""
    claimed: frozenset[int] = frozenset()
    """Workers that claimed, and have not told the queue."""
    is_waiting: bool = True
    """Whether the queue gives it to the next that asks."""


@frozen
class World:
    table: tuple[Row, ...]
    tickets: frozenset[tuple[int, Ticket]]
    alive: tuple[bool, ...]
    numbers: int = 1
    faults: int = 0


def steps(  # noqa: C901, PLR0912 - one case for each step
    world: World, faults: int, capacity: int
) -> Iterator[World]:
    for number, ticket in world.tickets:
        others = world.tickets - {(number, ticket)}
        for worker, lives in enumerate(world.alive):
            if not lives:
                continue
            if ticket.is_waiting:
                fetched = evolve(ticket, is_waiting=False, runs=ticket.runs | {worker})
                yield evolve(world, tickets=others | {(number, fetched)})
            if worker in ticket.runs:
                yield _claim(world, number, ticket, worker, capacity)
                yield _claim(world, number, ticket, worker, capacity, is_kept=True)
            if worker in ticket.claimed:
                # The queue forgets the ticket, also if it has given it to another meanwhile.
                yield evolve(world, tickets=others)
        if not ticket.is_waiting and world.faults < faults:
            # It seems stalled, rightly or not.
            again = evolve(ticket, is_waiting=True)
            yield evolve(world, tickets=others | {(number, again)}, faults=world.faults + 1)
    for row in world.table:
        if row.owner is not None and world.alive[row.owner]:
            yield _with_row(world, evolve(row, state="done", owner=None))
            if world.faults < faults:
                handed_on = _with_row(world, rows.hand_on(row, rows.claim_of(row)))
                yield _with_ticket(evolve(handed_on, faults=world.faults + 1), {row.number})
    for worker, lives in enumerate(world.alive):
        if lives and sum(world.alive) > 1 and world.faults < faults:
            alive = (*world.alive[:worker], False, *world.alive[worker + 1 :])
            yield evolve(world, alive=alive, faults=world.faults + 1)
        owned = {row.number for row in world.table if row.owner == worker}
        if not lives and owned:
            swept = tuple(rows.release(row) if row.number in owned else row for row in world.table)
            yield _with_ticket(evolve(world, table=swept), owned)


def _claim(world: World, number: int, ticket: Ticket, worker: int, capacity: int, *, is_kept: bool = False) -> World:
    """Claim what nobody owns, up to the capacity.

    For what is left over the ticket is kept, until there is capacity again. Or it gets a ticket of its own: after the
    claim, and before the queue forgets the first one.
    """
    free = [row for row in world.table if row.number in ticket.items and rows.can_take(row)]
    for row in free[:capacity]:
        world = _with_row(world, rows.take(row, worker, 0.0))
    if is_kept and free[capacity:]:
        return world
    done = evolve(ticket, runs=ticket.runs - {worker}, claimed=ticket.claimed | {worker})
    world = evolve(world, tickets=world.tickets - {(number, ticket)} | {(number, done)})
    rest = {row.number for row in free[capacity:]}
    return _with_ticket(world, rest) if rest else world


def _with_row(world: World, row: Row) -> World:
    return evolve(world, table=(*world.table[: row.number], row, *world.table[row.number + 1 :]))


def _with_ticket(world: World, items: set[int]) -> World:
    added = (world.numbers, Ticket(frozenset(items)))
    return evolve(world, tickets=world.tickets | {added}, numbers=world.numbers + 1)


def test_each_open_item_is_owned_or_has_a_ticket() -> None:
    """Tickets are run twice, forgotten by a worker that woke up late, or left by a killed one: no item is forgotten."""
    first = World(
        tuple(Row(number=number) for number in range(2)), frozenset({(0, Ticket(frozenset({0, 1})))}), (True, True)
    )
    seen, waiting = {first}, [first]
    while waiting:
        world = waiting.pop()
        tickets = [ticket for _, ticket in world.tickets]
        for row in world.table:
            if rows.can_take(row):
                # One that was fetched comes back if its worker dies.
                assert any(row.number in one.items and (one.is_waiting or one.runs) for one in tickets), world
        for following in steps(world, 2, 1):
            if following not in seen:
                seen.add(following)
                waiting.append(following)
    assert len(seen) > 1000
