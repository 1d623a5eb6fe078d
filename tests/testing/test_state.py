from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nairi_async.testing import Done, Fail, Quirks, Say
from nairi_async.testing.ids import IdMaker
from nairi_async.testing.json_bodies import RefusedError
from nairi_async.testing.state import NairiState
from nairi_async.testing.views import ListingQuery, View

if TYPE_CHECKING:
    from nairi_async.testing.jobs import Agent
    from nairi_async.testing.script import Script

NOW = 1_775_000_000.0


def state_with(script: Script, instances: int | None = None, queued: float = 0.0) -> tuple[NairiState, Agent]:
    state = NairiState(Quirks(), IdMaker(7))
    agent = state.make_agent("bot", NOW)
    agent.script = script
    agent.set_capacity(instances, queued)
    return state, agent


def status(state: NairiState, message_id: str, at: float) -> str:
    """Return the status of a user message so many seconds after the start."""
    message = state.messages[message_id]
    return str(View(state.quirks).message(message, state.jobs[message.job_id], NOW + at)["status"])


def test_turn_goes_through_its_statuses() -> None:
    """A user message is queued while it waits, pending while its turn runs, then completed."""
    state, _ = state_with([Say("x", after=3)], queued=2)
    asked = state.start("bot", "p", NOW)
    assert [status(state, asked.message_id, at) for at in (0, 1.9, 2, 4.9, 5)] == [
        "queued",
        "queued",
        "pending",
        "pending",
        "completed",
    ]


def test_capacity_is_shared_by_jobs() -> None:
    """No more turns than instances run at a time; the others are queued until one ends."""
    state, _ = state_with([Say("x", after=10)], instances=2)
    asked = [state.start("bot", "p", NOW) for _ in range(5)]
    shown = [[status(state, one.message_id, at) for one in asked] for at in (5, 15, 25)]
    assert shown == [
        ["pending"] * 2 + ["queued"] * 3,
        ["completed"] * 2 + ["pending"] * 2 + ["queued"],
        ["completed"] * 4 + ["pending"],
    ]


def test_turns_of_a_job_run_one_after_another() -> None:
    """A prompt sent while a turn of its job runs waits for the end of that turn, however much capacity there is."""
    state, _ = state_with([Say("x", after=10)])
    first = state.start("bot", "p", NOW)
    second = state.continue_(first.job_id, "q", NOW + 1)
    assert [status(state, second.message_id, at) for at in (5, 10, 20)] == ["queued", "pending", "completed"]


def test_turn_that_never_ends_holds_its_instance() -> None:
    """A prompt behind a turn without end stays queued."""
    state, _ = state_with([Done(after=math.inf)], instances=1)
    state.start("bot", "p", NOW)
    assert status(state, state.start("bot", "q", NOW).message_id, 1e6) == "queued"


@given(
    st.lists(st.tuples(st.floats(0, 50), st.floats(0.1, 30), st.integers(0, 3)), min_size=1, max_size=15),
    st.integers(1, 4),
)
def test_capacity_is_never_exceeded(arrivals: list[tuple[float, float, int]], instances: int) -> None:
    """Never more turns run than there are instances, and the turns of a job never overlap."""
    state, agent = state_with(lambda prompt, _number: [Done(after=float(prompt))], instances)
    jobs: dict[int, str] = {}
    for at, seconds, key in sorted(arrivals):
        if key in jobs:
            state.continue_(jobs[key], str(seconds), NOW + at)
        else:
            jobs[key] = state.start(agent.agent_id, str(seconds), NOW + at).job_id
    for at in (version.at for message in state.messages.values() for version in message.versions):
        shown = [(message.job_id, message.version(at)) for message in state.messages.values()]
        working = [job_id for job_id, version in shown if version is not None and version.status == "pending"]
        assert len(working) <= instances
        assert len(working) == len(set(working))


def test_failure_puts_the_job_into_error() -> None:
    """A job is in error from a failed turn on, and active again with the next turn."""
    state, _ = state_with(lambda _prompt, number: [Fail("no", after=1)] if number == 1 else ["ok"])
    asked = state.start("bot", "p", NOW)
    job = state.jobs[asked.job_id]
    assert [job.status(NOW + at) for at in (0, 1)] == ["active", "error"]
    state.continue_(job.id, "again", NOW + 5)
    assert job.status(NOW + 5) == "active"


def test_ended_job_says_why() -> None:
    """Ending a job sets its status and adds a system message, now."""
    state, _ = state_with("x")
    job_id = state.start("bot", "p", NOW).job_id
    state.end_job(job_id, "abandoned", NOW + 9)
    assert state.jobs[job_id].status(NOW + 9) == "abandoned"
    last = View(state.quirks).messages(state.jobs[job_id], NOW + 9)[-1]
    assert (last["role"], last["content"].split(":")[0]) == ("system", "Job abandoned")


def test_equal_seeds_make_equal_states() -> None:
    """Two states with one seed and the same calls show the same, ids included."""
    shown = []
    for _ in range(2):
        state, _agent = state_with(["a", "b"])
        job_id = state.start("bot", "p", NOW).job_id
        shown.append(View(state.quirks).messages(state.jobs[job_id], NOW + 1))
    assert shown[0] == shown[1]


def test_new_and_removed_names_of_agents() -> None:
    """An unknown slug becomes an agent when a job starts, but not under strict rules, nor for an unknown id."""
    state = NairiState(Quirks(), IdMaker())
    assert state.start("team/new", "p", NOW).agent_id == "team/new"
    with pytest.raises(RefusedError, match="agent not found"):
        state.start("cci_01KRK1V46BXS73CSNK2VR35NPJ", "p", NOW)
    state.strict_agents = True
    with pytest.raises(RefusedError, match="agent not found"):
        state.start("other", "p", NOW)


@given(st.integers(1, 5), st.sampled_from(["created_at_asc", "created_at_desc", "updated_at_asc", "updated_at_desc"]))
def test_pages_cover_the_listing(limit: int, sort: str) -> None:
    """Pages of any size, put together, are the whole listing in its order."""
    state, _ = state_with("x")
    for second in range(7):
        state.start("bot", "p", NOW + second)
    view, jobs = View(state.quirks), list(state.jobs.values())
    query = [ListingQuery(sort=sort, limit=limit, offset=offset) for offset in range(0, 7, limit)]
    paged = [row for one in query for row in view.conversations(jobs, one, NOW + 99)]
    assert paged == view.conversations(jobs, ListingQuery(sort=sort), NOW + 99)
    ids = [row["id"] for row in paged]
    assert ids == sorted(state.jobs, reverse=sort.endswith("desc"))


@pytest.mark.parametrize(("instances", "queued"), [(0, 0), (-1, 0), (1, -1), (1, math.inf)])
def test_impossible_capacity_is_refused(instances: int, queued: float) -> None:
    """An agent has at least one instance, and queues for a finite time."""
    with pytest.raises(ValueError, match="instances must be positive"):
        state_with("x", instances, queued)
