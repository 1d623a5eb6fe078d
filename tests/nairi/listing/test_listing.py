"""Every conversation of an agent is listed once, although the list moves while pages are read by offset."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from attrs import define, evolve, field
from hypothesis import given
from hypothesis import strategies as st

from nairi_async import (
    AgentNotFoundError,
    ConversationSummary,
    DecodeError,
    InvalidArgumentError,
    NairiSession,
    NotFoundError,
    ServerError,
)
from nairi_async._nairi.listing.listing import JOB_STATUSES
from nairi_async._nairi.listing.paging import SORTS, Page, Paging
from nairi_async.testing import Quirks, Simulator, VirtualClock
from nairi_async.testing.json_bodies import json_response

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp import web

    from nairi_async.typing import ConversationStatus

EPOCH = datetime(2026, 4, 12, tzinfo=UTC)
PAGE = 5


@define
class Service:
    """The live list of one agent: how the service applies offsets, orders and filters."""

    rows: dict[str, ConversationSummary] = field(factory=dict)
    left: set[str] = field(factory=set)
    now: int = 0

    def add(self, count: int = 1) -> None:
        for _ in range(count):
            name = f"job{len(self.rows):03}"
            self.rows[name] = ConversationSummary(id=name, status="active", updated_at=self._tick())

    def touch(self, name: str, status: str = "active") -> None:
        self.rows[name] = evolve(self.rows[name], status=status, updated_at=self._tick())
        if status != "active":
            self.left.add(name)

    def read(self, sort: str, page: Page, status: str | None = None) -> list[ConversationSummary]:
        rows = [
            row
            for row in self.rows.values()
            if (status is None or row.status == status)
            and (page.updated_after is None or (row.updated_at or EPOCH) > page.updated_after)
        ]
        if sort.startswith("updated"):
            rows.sort(key=lambda row: row.updated_at or EPOCH)
        if sort.endswith("desc"):
            rows.reverse()
        return rows[page.offset : page.offset + PAGE]

    def _tick(self) -> datetime:
        self.now += 1
        # Several changes share a time.
        return EPOCH + timedelta(milliseconds=self.now // 3)


def walk(service: Service, sort: str, data: st.DataObject, status: str | None = None) -> list[str]:
    """Read the whole list while it changes between pages; return the ids in the order of their arrival."""
    pages = Paging(sort, limit=PAGE)
    out: list[str] = []
    for _ in range(500):
        if pages.is_finished:
            return out
        out += [row.id for row in pages.observe(service.read(sort, pages.page, status))]
        for _ in range(data.draw(st.integers(0, 2))):
            known = list(service.rows)
            match data.draw(st.sampled_from(["add", "touch", "leave"])):
                case "touch" if known:
                    service.touch(data.draw(st.sampled_from(known)))
                case "leave" if known and status is not None:
                    service.touch(data.draw(st.sampled_from(known)), "completed")
                case _ if len(known) < 40:
                    service.add()
    raise AssertionError("the listing does not end")


@pytest.mark.parametrize("sort", SORTS)
@given(data=st.data())
def test_nothing_is_skipped_while_the_list_moves(sort: str, data: st.DataObject) -> None:
    """Entries are added, changed and moved between pages; everything that was there at the beginning is listed."""
    service = Service()
    service.add(data.draw(st.integers(0, 30)))
    before = set(service.rows)
    assert before <= set(walk(service, sort, data))


@pytest.mark.parametrize("sort", SORTS)
@given(data=st.data())
def test_nothing_is_skipped_when_others_leave_a_filter(sort: str, data: st.DataObject) -> None:
    """What leaves the filtered list shifts the rest towards the front, and nothing that stays is skipped."""
    service = Service()
    service.add(data.draw(st.integers(0, 30)))
    before = set(service.rows)
    got = set(walk(service, sort, data, status="active"))
    assert before - service.left <= got


@pytest.mark.parametrize("sort", SORTS)
def test_a_list_without_changes_keeps_its_order(sort: str) -> None:
    """Without changes the order is the service's, and each conversation is listed once."""
    service = Service()
    service.add(23)
    pages, out = Paging(sort, limit=PAGE), list[str]()
    while not pages.is_finished:
        out += [row.id for row in pages.observe(service.read(sort, pages.page))]
    expected = [f"job{number:03}" for number in range(23)]
    assert out == (expected[::-1] if sort.endswith("desc") else expected)


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("time", [EPOCH, None])
def test_equal_and_missing_times_do_not_stop_the_listing(sort: str, time: datetime | None) -> None:
    """More equal times than a page has rows neither stop the listing nor lose a conversation."""
    rows = [ConversationSummary(id=f"{number}", status="active", updated_at=time) for number in range(23)]
    pages, out = Paging(sort, limit=PAGE), list[str]()
    while not pages.is_finished:
        page = pages.page
        after = page.updated_after
        shown = [row for row in rows if after is None or (row.updated_at is not None and row.updated_at > after)]
        out += [row.id for row in pages.observe(shown[page.offset : page.offset + PAGE])]
    assert out == [row.id for row in rows]


def test_a_service_that_does_not_page_is_no_endless_loop() -> None:
    """The same full page at each offset is an error, not an endless iteration."""
    rows = [ConversationSummary(id=f"{number}", status="active") for number in range(PAGE)]
    pages = Paging("created_at_desc", limit=PAGE)

    def read_on() -> None:
        while not pages.is_finished:
            pages.observe(rows)

    with pytest.raises(DecodeError, match="same page"):
        read_on()


async def jobs(simulator: Simulator, nairi: NairiSession, count: int, agent: str = "my-agent") -> list[str]:
    """Start conversations, each at its own time."""
    started = []
    for _ in range(count):
        started.append((await nairi.start(agent, "Go")).job_id)
        simulator_clock(simulator).advance(1)
    return started


def simulator_clock(simulator: Simulator) -> VirtualClock:
    clock = simulator._clock
    assert isinstance(clock, VirtualClock)
    return clock


@pytest.mark.anyio
async def test_all_pages_are_read_as_the_iteration_goes_on(simulator: Simulator, nairi: NairiSession) -> None:
    """Nothing is read before the first step, and each further page when the one before is used up."""
    made = await jobs(simulator, nairi, 120)
    before = len(simulator.requests)
    listing = nairi.conversations("my-agent")
    assert len(simulator.requests) == before
    got = [(await anext(listing)).id for _ in range(100)]
    assert len(simulator.requests) == before + 1
    got += [row.id async for row in listing]
    assert got == made[::-1]
    assert [request.query for request in simulator.requests[before:]] == [
        "sort=created_at_desc&limit=100&offset=0",
        "sort=created_at_desc&limit=100&offset=99",
    ]


@pytest.mark.anyio
async def test_filters_reach_the_service(simulator: Simulator, nairi: NairiSession) -> None:
    """Statuses and time are sent as documented; rows are typed, and unknown words are kept."""
    first, second, third = await jobs(simulator, nairi, 3)
    simulator.job_status(first, "abandoned")
    simulator.job_status(second, "completed")
    rows = [row async for row in nairi.conversations("my-agent", status=["completed", "active"], sort="updated_at_asc")]
    assert {row.id: row.status for row in rows} == {second: "completed", third: "active"}
    assert simulator.requests[-1].query.startswith("status=completed,active&sort=updated_at_asc")
    (alone,) = [row async for row in nairi.conversations("my-agent", status="abandoned")]
    assert alone.id == first
    assert alone.updated_at is not None
    just_before = alone.updated_at - timedelta(microseconds=1)
    assert [row async for row in nairi.conversations("my-agent", updated_after=alone.updated_at)] == []
    assert {row.id async for row in nairi.conversations("my-agent", updated_after=just_before)} == {first, second}
    assert "999999Z" in simulator.requests[-1].query


@pytest.mark.anyio
async def test_a_slug_with_a_slash_is_one_agent(simulator: Simulator, nairi: NairiSession) -> None:
    """A slug may contain `/`; it stays one segment of the path."""
    (job,) = await jobs(simulator, nairi, 1, "owner/repo")
    assert [row.id async for row in nairi.conversations("owner/repo")] == [job]
    assert [row.id async for row in nairi.sync("owner/repo")] == [job]
    assert simulator.requests[-1].path.endswith("/agents/owner%2Frepo/conversations")


@pytest.mark.anyio
async def test_a_step_that_was_cancelled_or_failed_is_repeated(simulator: Simulator, nairi: NairiSession) -> None:
    """The listing advances only when a page has arrived: after a cancellation and a failure nothing is missing."""
    made = await jobs(simulator, nairi, 120)
    listing = nairi.conversations("my-agent", sort="created_at_asc")
    got = [(await anext(listing)).id for _ in range(100)]
    hanging = asyncio.Event()

    async def hang(request: web.Request) -> None:
        hanging.set()
        await asyncio.Event().wait()

    simulator.intercept = hang
    step = asyncio.ensure_future(anext(listing))
    await hanging.wait()
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step

    async def fail(request: web.Request) -> web.StreamResponse:
        return json_response({"error": "no"}, 501)

    simulator.intercept = fail
    with pytest.raises(ServerError):
        await anext(listing)
    simulator.intercept = None
    got += [row.id async for row in listing]
    assert got == made
    with pytest.raises(StopAsyncIteration):
        await anext(listing)


@pytest.mark.anyio
async def test_two_tasks_share_one_listing(simulator: Simulator, nairi: NairiSession) -> None:
    """Iterated by two tasks, each conversation goes to one of them."""
    made = await jobs(simulator, nairi, 30)
    listing = nairi.conversations("my-agent")

    async def drain() -> list[str]:
        return [row.id async for row in listing]

    halves = await asyncio.gather(drain(), drain())
    assert sorted([*halves[0], *halves[1]]) == sorted(made)


@pytest.mark.anyio
async def test_jobs_that_move_between_pages_are_listed_once(simulator: Simulator, nairi: NairiSession) -> None:
    """Conversations that continue, end or start between two pages are neither lost nor repeated."""
    made = await jobs(simulator, nairi, 230)
    for sort in SORTS:
        got = []
        async for row in nairi.conversations("my-agent", sort=sort):
            got.append(row.id)
            if len(got) == 100:
                await nairi.continue_(made[3], "More")
                await nairi.continue_(made[200], "More")
                await nairi.start("my-agent", "New")
                simulator_clock(simulator).advance(1)
        assert len(got) == len(set(got))
        assert set(made) <= set(got)


@pytest.mark.anyio
async def test_an_unknown_agent_is_named_and_a_missing_endpoint_is_not_mistaken_for_one(
    clock: VirtualClock,
) -> None:
    """A 404 for an agent that does not exist lists similar names; for one that exists, it is raised unchanged."""
    async with (
        Simulator(clock=clock, strict_agents=True) as simulator,
        NairiSession(simulator.api_key, base_url=simulator.url, clock=clock) as nairi,
    ):
        with pytest.raises(AgentNotFoundError) as caught:
            await anext(nairi.conversations("my-agnet"))
        assert caught.value.close_names == ("my-agent",)
        simulator.quirks = Quirks(listing=False)
        with pytest.raises(NotFoundError) as plain:
            await anext(nairi.conversations("my-agent"))
        assert type(plain.value) is NotFoundError


def unopened() -> NairiSession:
    return NairiSession("nr_x", base_url="http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"status": "activ"}, "did you mean active"),
        ({"status": ["active", "ACTIVE"]}, "did you mean active"),
        ({"status": ["active", ""]}, "must be one of"),
        ({"status": [3]}, "must be one of"),
        ({"status": 3}, "not int"),
        ({"status": None}, "not NoneType"),
        ({"sort": "newest"}, "created_at_desc"),
        ({"sort": None}, "not None"),
        ({"sort": ["updated_at_asc"]}, "sort must be"),
        ({"updated_after": datetime(2026, 4, 12)}, "time zone"),  # noqa: DTZ001 - what is tested
        ({"updated_after": "2026-04-12T00:00:00Z"}, "not str"),
        ({"updated_after": datetime.max.replace(tzinfo=UTC).astimezone(UTC)}, ""),
    ],
)
def test_bad_arguments_are_refused_before_any_request(arguments: dict[str, Any], reason: str) -> None:
    """Unknown statuses and orders, and times without a zone, never reach the service."""
    if not reason:
        unopened().conversations("my-agent", **arguments)
        return
    with pytest.raises(InvalidArgumentError, match=reason):
        unopened().conversations("my-agent", **arguments)


@pytest.mark.parametrize("agent", ["", "a b", "..", 3, None])
def test_a_wrong_agent_id_is_refused_before_any_request(agent: Any) -> None:
    """Both iterators refuse what cannot be an id."""
    for call in (unopened().conversations, unopened().sync):
        with pytest.raises(InvalidArgumentError):
            call(agent)


def test_every_status_of_the_document_is_known() -> None:
    """The statuses to filter by are those of the OpenAPI document."""
    assert set(JOB_STATUSES) == {"active", "completed", "error", "abandoned"}


def test_iterables_of_statuses_are_read_once() -> None:
    """Statuses may come from a generator."""
    statuses: Iterable[ConversationStatus] = (status for status in ("active", "error", "active"))
    assert unopened().conversations("my-agent", status=statuses)._status == "active,error"
