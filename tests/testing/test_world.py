from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nairi_async.testing import Done, Fail, Quirks, Say
from nairi_async.testing.ids import IdMaker
from nairi_async.testing.refused import RefusedError
from nairi_async.testing.views import Query, View
from nairi_async.testing.world import World

if TYPE_CHECKING:
    from nairi_async.testing.jobs import Agent
    from nairi_async.testing.script import Script

NOW = 1_775_000_000.0


def world_with(script: Script, instances: int | None = None, queued: float = 0.0) -> tuple[World, Agent]:
    world = World(Quirks(), IdMaker(7))
    agent = world.make_agent("bot", NOW)
    agent.script = script
    agent.set_capacity(instances, queued)
    return world, agent


def status(world: World, message_id: str, at: float) -> str:
    """Return the status of a user message so many seconds after the start."""
    entry = world.messages[message_id]
    return str(View(world.quirks).message(entry, world.jobs[entry.job_id], NOW + at)["status"])


def test_turn_goes_through_its_statuses() -> None:
    """A user message is queued while it waits, pending while its turn runs, then completed."""
    world, _ = world_with([Say("x", after=3)], queued=2)
    asked = world.start("bot", "p", NOW)
    assert [status(world, asked.message_id, at) for at in (0, 1.9, 2, 4.9, 5)] == [
        "queued",
        "queued",
        "pending",
        "pending",
        "completed",
    ]


def test_capacity_is_shared_by_jobs() -> None:
    """No more turns than instances run at a time; the others are queued until one ends."""
    world, _ = world_with([Say("x", after=10)], instances=2)
    asked = [world.start("bot", "p", NOW) for _ in range(5)]
    shown = [[status(world, one.message_id, at) for one in asked] for at in (5, 15, 25)]
    assert shown == [
        ["pending"] * 2 + ["queued"] * 3,
        ["completed"] * 2 + ["pending"] * 2 + ["queued"],
        ["completed"] * 4 + ["pending"],
    ]


def test_turns_of_a_job_run_one_after_another() -> None:
    """A prompt sent while a turn of its job runs waits for the end of that turn, however much capacity there is."""
    world, _ = world_with([Say("x", after=10)])
    first = world.start("bot", "p", NOW)
    second = world.continue_(first.job_id, "q", NOW + 1)
    assert [status(world, second.message_id, at) for at in (5, 10, 20)] == ["queued", "pending", "completed"]


def test_turn_that_never_ends_holds_its_instance() -> None:
    """What waits behind a turn without end is queued for ever."""
    world, _ = world_with([Done(after=math.inf)], instances=1)
    world.start("bot", "p", NOW)
    assert status(world, world.start("bot", "q", NOW).message_id, 1e6) == "queued"


@given(
    st.lists(st.tuples(st.floats(0, 50), st.floats(0.1, 30), st.integers(0, 3)), min_size=1, max_size=15),
    st.integers(1, 4),
)
def test_capacity_is_never_exceeded(arrivals: list[tuple[float, float, int]], instances: int) -> None:
    """Whatever comes when, at no time do more turns run than there are instances, and none of a job overlap."""
    world, agent = world_with(lambda prompt, _number: [Done(after=float(prompt))], instances)
    jobs: dict[int, str] = {}
    for at, seconds, key in sorted(arrivals):
        if key in jobs:
            world.continue_(jobs[key], str(seconds), NOW + at)
        else:
            jobs[key] = world.start(agent.agent_id, str(seconds), NOW + at).job_id
    for moment in (phase.at for entry in world.messages.values() for phase in entry.phases):
        shown = [(entry.job_id, entry.phase(moment)) for entry in world.messages.values()]
        working = [job_id for job_id, phase in shown if phase is not None and phase.status == "pending"]
        assert len(working) <= instances
        assert len(working) == len(set(working))


def test_failure_puts_the_job_into_error() -> None:
    """A job is in error from a failed turn on, and active again with the next turn."""
    world, _ = world_with(lambda _prompt, number: [Fail("no", after=1)] if number == 1 else ["ok"])
    asked = world.start("bot", "p", NOW)
    job = world.jobs[asked.job_id]
    assert [job.status(NOW + at) for at in (0, 1)] == ["active", "error"]
    world.continue_(job.id, "again", NOW + 5)
    assert job.status(NOW + 5) == "active"


def test_ended_job_says_why() -> None:
    """Ending a job sets its status and adds a system message, now."""
    world, _ = world_with("x")
    job_id = world.start("bot", "p", NOW).job_id
    world.end_job(job_id, "abandoned", NOW + 9)
    assert world.jobs[job_id].status(NOW + 9) == "abandoned"
    last = View(world.quirks).messages(world.jobs[job_id], NOW + 9)[-1]
    assert (last["role"], last["content"].split(":")[0]) == ("system", "Job abandoned")


def test_equal_seeds_make_equal_worlds() -> None:
    """Two worlds with one seed and the same calls show the same, ids included."""
    shown = []
    for _ in range(2):
        world, _agent = world_with(["a", "b"])
        job_id = world.start("bot", "p", NOW).job_id
        shown.append(View(world.quirks).messages(world.jobs[job_id], NOW + 1))
    assert shown[0] == shown[1]


def test_new_and_removed_names_of_agents() -> None:
    """An unknown slug becomes an agent when a job starts, but not under strict rules, nor for an unknown id."""
    world = World(Quirks(), IdMaker())
    assert world.start("team/new", "p", NOW).agent_id == "team/new"
    with pytest.raises(RefusedError, match="agent not found"):
        world.start("cci_01KRK1V46BXS73CSNK2VR35NPJ", "p", NOW)
    world.strict_agents = True
    with pytest.raises(RefusedError, match="agent not found"):
        world.start("other", "p", NOW)


@given(st.integers(1, 5), st.sampled_from(["created_at_asc", "created_at_desc", "updated_at_asc", "updated_at_desc"]))
def test_pages_cover_the_listing(limit: int, sort: str) -> None:
    """Pages of any size, put together, are the whole listing in its order."""
    world, _ = world_with("x")
    for second in range(7):
        world.start("bot", "p", NOW + second)
    view, jobs = View(world.quirks), list(world.jobs.values())
    query = [Query(sort=sort, limit=limit, offset=offset) for offset in range(0, 7, limit)]
    paged = [row for one in query for row in view.conversations(jobs, one, NOW + 99)]
    assert paged == view.conversations(jobs, Query(sort=sort), NOW + 99)
    ids = [row["id"] for row in paged]
    assert ids == sorted(world.jobs, reverse=sort.endswith("desc"))


@pytest.mark.parametrize(("instances", "queued"), [(0, 0), (-1, 0), (1, -1), (1, math.inf)])
def test_impossible_capacity_is_refused(instances: int, queued: float) -> None:
    """An agent has at least one instance, and queues for a finite time."""
    with pytest.raises(ValueError, match="instances must be positive"):
        world_with("x", instances, queued)
