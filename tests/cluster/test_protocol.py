"""The protocol of the row, explored exhaustively: the real transitions, every interleaving, a crash at every step.

Two workers run two items with equal prompts. Each step is atomic as it is in reality: one transaction, one request that
leaves, one that arrives, one response. At any step a worker may be killed, or be taken for dead while it goes on (a
network split); a request may be refused, arrive late, or be lost before or after it ran.

What is assumed of the service: a prompt that arrives at all has arrived, and is listed, when the settling time is over.

The invariants:

* never twice: at every moment the service has run at most as many turns as there are items;
* never lost: where nothing more can happen, each item is done with a turn of its own, or is in doubt in its row;
* each turn belongs to one item.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeVar

import pytest
from attrs import evolve, frozen

from nairi_async.batch.item_state import next_step
from nairi_async.cluster import row as rows
from nairi_async.cluster.row import Claim, ClaimLostError, Row

if TYPE_CHECKING:
    from collections.abc import Iterator

_T = TypeVar("_T")

Phase = Literal[
    "taken", "marked", "posted", "received", "refused", "lost", "looking up", "found", "absent", "running", "doubtful"
]


@frozen
class Work:
    """What one worker knows about one item that it runs."""

    phase: Phase
    claim: Claim
    job: str | None = None


@frozen
class Post:
    """A request with a prompt that has left."""

    claim: Claim
    item: int
    is_heard: bool
    """Whether the sender still waits for the response."""


@frozen
class World:
    """Everything at one moment. `work[worker][item]`; worker names never come again."""

    table: tuple[Row, ...]
    work: tuple[tuple[Work | None, ...], ...]
    alive: tuple[bool, ...]
    """Whether the worker's lock is held; one that lost it may go on all the same until it notices."""
    registered: tuple[bool, ...]
    """Whether the worker has a row, which a claim needs, and which the sweeper removes."""
    on_the_way: frozenset[Post] = frozenset()
    responses: frozenset[tuple[Post, str]] = frozenset()
    turns: tuple[str, ...] = ()
    killed: frozenset[int] = frozenset()
    deaths: int = 0
    losses: int = 0


def start(items: int, workers: int) -> World:
    return World(
        tuple(Row(number=n) for n in range(items)),
        tuple((None,) * items for _ in range(workers)),
        (True,) * workers,
        (True,) * workers,
    )


def steps(world: World, deaths: int, losses: int) -> Iterator[World]:
    """Yield every world that may come next."""
    for worker, works in enumerate(world.work):
        for item, work in enumerate(works):
            row = world.table[item]
            if work is None:
                if world.registered[worker] and rows.can_take(row) and worker not in world.killed:
                    taken = rows.take(row, worker, 0.0)
                    phase: Phase = "marked" if row.state == "unsent" else "taken"
                    yield _with_work(_with_row(world, taken), worker, item, Work(phase, rows.claim_of(taken)))
                continue
            yield from _worker_steps(world, worker, item, work)
        if world.alive[worker] and world.deaths < deaths:
            counted = evolve(world, deaths=world.deaths + 1, alive=_replaced(world.alive, worker, value=False))
            yield _killed(counted, worker)
            # A network split: the lock is gone, and the process goes on.
            yield counted
        if not world.alive[worker] and world.registered[worker]:
            # The sweeper.
            table = tuple(rows.release(row) if row.owner == worker else row for row in world.table)
            yield evolve(world, table=table, registered=_replaced(world.registered, worker, value=False))
    yield from _service_steps(world, losses)


def _worker_steps(  # noqa: C901, PLR0912 - one case for each phase
    world: World, worker: int, item: int, work: Work
) -> Iterator[World]:
    row, claim = world.table[item], work.claim
    try:
        match work.phase:
            case "taken":
                step = next_step(row.state)
                if (row.owner, row.claim) != (claim.worker, claim.number):
                    raise ClaimLostError  # noqa: TRY301 - as a change would
                if step == "send":
                    yield _with_work(
                        _with_row(world, rows.mark_sending(row, claim, 0.0)), worker, item, Work("marked", claim)
                    )
                elif step == "look up":
                    yield _with_work(world, worker, item, Work("lost", claim))
                else:
                    yield _with_work(world, worker, item, Work("running", claim))
            case "marked" if world.alive[worker]:
                post = Post(claim, item, is_heard=True)
                left = evolve(world, on_the_way=world.on_the_way | {post})
                yield _with_work(left, worker, item, Work("posted", claim))
            case "marked":
                # The gate in front of each request: the lock is gone, so nothing leaves.
                yield _with_work(world, worker, item, None)
            case "refused":
                yield _with_work(_with_row(world, rows.mark_unsent(row, claim)), worker, item, Work("taken", claim))
            case "received" | "found":
                assert work.job is not None
                if any(other.job_id == work.job for other in world.table if other.number != item):
                    # UNIQUE (job_id): an identical prompt has it.
                    yield _with_work(world, worker, item, Work("lost", claim))
                else:
                    running = rows.mark_running(row, claim, work.job, work.job)
                    yield _with_work(_with_row(world, running), worker, item, Work("running", claim))
            case "lost" if not _is_locked(world):
                # The lock on the text, which is held until a turn is stored, or is known to be absent.
                doubtful = rows.mark_in_doubt(row, claim, 1.0)
                yield _with_work(_with_row(world, doubtful), worker, item, Work("looking up", claim))
            case "looking up":
                yield from _lookup(world, worker, item, work)
            case "absent":
                yield _with_work(
                    _with_row(world, rows.mark_sending(row, claim, 0.0)), worker, item, Work("marked", claim)
                )
            case "running":
                ended = rows.mark_ended(row, claim, is_done=True)
                yield _with_work(_with_row(world, ended), worker, item, None)
            case _:
                pass
    except ClaimLostError:
        yield _with_work(world, worker, item, None)


def _lookup(world: World, worker: int, item: int, work: Work) -> Iterator[World]:
    """Look for the turn of a lost prompt, as `LostPrompts` does."""
    known = {row.job_id for row in world.table}
    candidates = [turn for turn in world.turns if turn not in known]
    mine = sum(other is not None and other.phase in {"marked", "posted", "received"} for other in world.work[worker])
    lost = max(1, sum(row.state == "sending" for row in world.table) - mine)
    # The settling time, counted from the latest loss of an identical prompt, is over.
    is_settled = all(post.item != item and world.table[post.item].lost_at is None for post in world.on_the_way)
    if candidates and len(candidates) <= lost:
        yield _with_work(world, worker, item, Work("found", work.claim, candidates[0]))
    elif not candidates and is_settled:
        yield _with_work(world, worker, item, Work("absent", work.claim))
    elif candidates and is_settled:
        # More turns than lost prompts: it stays in doubt.
        yield _with_work(world, worker, item, Work("doubtful", work.claim))


def _is_locked(world: World) -> bool:
    """Return whether a worker whose session with the database lives holds the lock on the text."""
    held = {"looking up", "found"}
    works = [work for works, alive in zip(world.work, world.alive, strict=True) if alive for work in works]
    return any(work is not None and work.phase in held for work in works)


def _service_steps(world: World, losses: int) -> Iterator[World]:
    for post in world.on_the_way:
        rest = evolve(world, on_the_way=world.on_the_way - {post})
        job = f"job-{len(world.turns)}"
        ran = evolve(rest, turns=(*world.turns, job))
        yield evolve(ran, responses=ran.responses | {(post, job)}) if post.is_heard else ran
        if post.is_heard:
            # Refused before it ran, as a busy service does.
            if world.losses < losses:
                yield _heard(evolve(rest, losses=world.losses + 1), post, Work("refused", post.claim))
                # The connection breaks: the sender does not know, and the prompt arrives later, or never.
                deaf = evolve(rest, losses=world.losses + 1)
                late = evolve(deaf, on_the_way=deaf.on_the_way | {evolve(post, is_heard=False)})
                yield _heard(late, post, Work("lost", post.claim))
        else:
            yield rest
    for post, job in world.responses:
        rest = evolve(world, responses=world.responses - {(post, job)})
        yield _heard(rest, post, Work("received", post.claim, job))
        if world.losses < losses:
            yield _heard(evolve(rest, losses=world.losses + 1), post, Work("lost", post.claim))


def _heard(world: World, post: Post, work: Work) -> World:
    """Return the world after the sender has heard something, if it still listens."""
    present = world.work[post.claim.worker][post.item]
    if present is None or present.claim != post.claim or present.phase != "posted":
        return world
    return _with_work(world, post.claim.worker, post.item, work)


def _killed(world: World, worker: int) -> World:
    """Return the world without a process: what it sent is still on its way, and it hears nothing."""
    posts = frozenset(evolve(p, is_heard=False) if p.claim.worker == worker else p for p in world.on_the_way)
    responses = frozenset(each for each in world.responses if each[0].claim.worker != worker)
    work = _replaced(world.work, worker, value=(None,) * len(world.table))
    return evolve(world, work=work, on_the_way=posts, responses=responses, killed=world.killed | {worker})


def _with_row(world: World, row: Row) -> World:
    return evolve(world, table=_replaced(world.table, row.number, value=row))


def _with_work(world: World, worker: int, item: int, work: Work | None) -> World:
    return evolve(world, work=_replaced(world.work, worker, value=_replaced(world.work[worker], item, value=work)))


def _replaced(values: tuple[_T, ...], index: int, *, value: _T) -> tuple[_T, ...]:
    return (*values[:index], value, *values[index + 1 :])


def explore(world: World, *, deaths: int, losses: int) -> tuple[int, int]:
    """Visit every world that can be reached; return how many there are, and how many are ends."""
    seen, waiting, ends = {world}, [world], 0
    while waiting:
        world = waiting.pop()
        assert len(world.turns) <= len(world.table), f"ran twice: {world}"
        jobs = [row.job_id for row in world.table if row.job_id]
        assert len(jobs) == len(set(jobs)), f"two items have one turn: {world}"
        is_end = True
        for following in steps(world, deaths, losses):
            is_end = False
            if following not in seen:
                seen.add(following)
                waiting.append(following)
        if is_end:
            ends += 1
            for row in world.table:
                assert row.state == "done" or row.is_in_doubt, f"lost: {world}"
            assert len(world.turns) == len(world.table) or any(row.is_in_doubt for row in world.table)
    return len(seen), ends


@pytest.mark.parametrize(
    ("items", "workers", "deaths", "losses"), [(1, 3, 2, 2), (2, 2, 1, 1)], ids=["one item", "equal prompts"]
)
def test_nothing_runs_twice_and_nothing_is_lost(items: int, workers: int, deaths: int, losses: int) -> None:
    """The invariants hold in every world that two deaths and two losses (one each with equal prompts) can lead to."""
    seen, ends = explore(start(items, workers), deaths=deaths, losses=losses)
    assert seen > 500
    assert ends > 0
