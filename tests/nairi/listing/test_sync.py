"""Each change is yielded once, and none is lost between two synchronisations."""

from __future__ import annotations

import asyncio
import json
import pickle
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st

from nairi_async import Checkpoint, ConversationSummary, InvalidArgumentError, NairiSession, ServerError
from nairi_async._nairi.listing.checkpoint import OVERLAP
from nairi_async.testing import Quirks, Simulator, VirtualClock
from nairi_async.testing.json_bodies import json_response

if TYPE_CHECKING:
    from aiohttp import web

pytestmark = pytest.mark.anyio

EPOCH = datetime(2026, 4, 12, tzinfo=UTC)


@define
class Service:
    """Jobs with the times of their last change, listed as the service lists them, over real HTTP."""

    rows: dict[str, datetime] = field(factory=dict)
    requests: int = 0
    unseen: set[str] = field(factory=set)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        query = {name: values[0] for name, values in parse_qs(request.rel_url.raw_query_string).items()}
        assert query["sort"] == "updated_at_asc"
        after = datetime.fromisoformat(query["updated_after"]) if "updated_after" in query else None
        rows = sorted((time, job) for job, time in self.rows.items() if job not in self.unseen)
        # The service compares finer times than it prints.
        shown = [(time, job) for time, job in rows if after is None or time > after]
        begin = int(query["offset"])
        page = shown[begin : begin + int(query["limit"])]
        printed = [
            {"id": job, "status": "active", "updated_at": time.isoformat(timespec="milliseconds")} for time, job in page
        ]
        return json_response({"conversations": printed})


@pytest.fixture
def service(simulator: Simulator) -> Service:
    """Answer every request to the simulator with this service's list."""
    service = Service()
    simulator.intercept = service.serve
    return service


async def ids(nairi: NairiSession, since: Checkpoint | None) -> tuple[list[str], Checkpoint]:
    sync = nairi.sync("my-agent", since=since)
    got = [row.id async for row in sync]
    return got, sync.checkpoint


async def test_the_first_synchronisation_yields_everything_and_the_next_only_changes(
    simulator: Simulator, nairi: NairiSession, clock: VirtualClock
) -> None:
    """Without a checkpoint all conversations are yielded, oldest change first; with one, only later changes."""
    made = []
    for _ in range(3):
        made.append((await nairi.start("my-agent", "Go")).job_id)
        clock.advance(60)
    first, checkpoint = await ids(nairi, None)
    assert first == made
    assert await ids(nairi, checkpoint) == ([], checkpoint)
    await nairi.continue_(made[0], "More")
    new = (await nairi.start("my-agent", "New")).job_id
    clock.advance(60)
    second, checkpoint = await ids(nairi, Checkpoint.from_json(checkpoint.to_json()))
    assert sorted(second) == sorted([made[0], new])
    assert (await ids(nairi, checkpoint))[0] == []


@define
class Drawn:
    """A service that changes as hypothesis decides, and what its reader was given."""

    data: st.DataObject
    service: Service
    now: datetime = EPOCH
    given: dict[str, datetime] = field(factory=dict)
    checkpoint: Checkpoint | None = None

    def fill(self) -> None:
        for count in range(130):
            self.service.rows[f"old{count:03}"] = self.now
            if count % 10 == 0:
                self.now += timedelta(milliseconds=self.data.draw(st.sampled_from([0, 1, 40])))

    def change(self, most: int) -> None:
        for _ in range(self.data.draw(st.integers(0, most))):
            self.now += timedelta(microseconds=self.data.draw(st.sampled_from([0, 0, 300, 1_000, 700_000])))
            job = f"job{self.data.draw(st.integers(0, 150)):03}"
            self.service.rows[job] = self.now
            # Some are listed a little later than their time.
            if self.data.draw(st.integers(0, 9)) == 0:
                self.service.unseen.add(job)

    async def read(self, nairi: NairiSession, stop_after: int) -> None:
        """Synchronise, and stop after so many conversations."""
        sync = nairi.sync("my-agent", since=self.checkpoint)
        seen = set()
        async for row in sync:
            assert row.updated_at is not None
            assert row.id not in seen
            assert self.given.get(row.id) != row.updated_at
            seen.add(row.id)
            self.given[row.id] = row.updated_at
            self.checkpoint = sync.checkpoint
            if self.data.draw(st.integers(0, 60)) == 0:
                self.change(2)
            if len(seen) == stop_after:
                break
        self.checkpoint = Checkpoint.from_json((self.checkpoint or sync.checkpoint).to_json())

    async def play(self) -> None:
        clock = VirtualClock()
        async with (
            Simulator(clock=clock) as simulator,
            NairiSession(simulator.api_key, base_url=simulator.url, clock=clock) as nairi,
        ):
            simulator.intercept = self.service.serve
            self.fill()
            for _ in range(self.data.draw(st.integers(1, 4))):
                self.change(8)
                await self.read(nairi, self.data.draw(st.integers(1, 200)))
                self.service.unseen.clear()
            # Changes during one synchronisation are yielded by the next, until nothing changes.
            before = None
            while before != self.given:
                before = dict(self.given)
                await self.read(nairi, 1000)
                self.service.unseen.clear()


@given(data=st.data())
@settings(max_examples=40)
def test_each_change_is_yielded_once(data: st.DataObject) -> None:
    """Changes between and during synchronisations, equal times, late listing and interruptions lose nothing.

    A synchronisation that is broken off goes on from the checkpoint of the last conversation that was dealt with.
    """
    drawn = Drawn(data, Service())
    asyncio.run(drawn.play())
    rows = drawn.service.rows
    assert drawn.given == {job: time.replace(microsecond=time.microsecond // 1000 * 1000) for job, time in rows.items()}


async def test_equal_times_at_the_checkpoint_are_not_lost(nairi: NairiSession, service: Service) -> None:
    """`updated_after` is strict; changes with the time of the checkpoint, or listed late, are yielded nevertheless."""
    service.rows = {"a": EPOCH, "b": EPOCH}
    service.unseen = {"b"}
    got, checkpoint = await ids(nairi, None)
    assert got == ["a"]
    service.unseen = set()
    service.rows["late"] = EPOCH - OVERLAP / 2
    service.rows["fine"] = EPOCH + timedelta(microseconds=400)
    got, checkpoint = await ids(nairi, checkpoint)
    assert sorted(got) == ["b", "fine", "late"]
    assert (await ids(nairi, checkpoint))[0] == []


async def test_what_changes_again_meanwhile_is_yielded_by_the_next(nairi: NairiSession, service: Service) -> None:
    """One synchronisation yields a conversation once; its newer form is not lost behind the checkpoint."""
    service.rows = {f"job{number:03}": EPOCH + timedelta(minutes=number) for number in range(150)}
    sync = nairi.sync("my-agent")
    first = [(await anext(sync)).id for _ in range(100)]
    service.rows["job000"] = EPOCH + timedelta(days=1)
    service.rows["job149"] = EPOCH + timedelta(days=2)
    rest = [row.id async for row in sync]
    assert sorted([*first, *rest]) == sorted(service.rows)
    assert (await ids(nairi, sync.checkpoint))[0] == ["job000"]


async def test_the_checkpoint_covers_exactly_what_was_yielded(nairi: NairiSession, service: Service) -> None:
    """After an interruption within a page, the next synchronisation continues with the next conversation."""
    service.rows = {f"job{number}": EPOCH for number in range(9)}
    sync = nairi.sync("my-agent")
    assert sync.checkpoint == Checkpoint()
    got = [(await anext(sync)).id for _ in range(4)]
    rest, _ = await ids(nairi, pickle.loads(pickle.dumps(sync.checkpoint)))  # noqa: S301 - our own
    assert sorted([*got, *rest]) == sorted(service.rows)
    assert len(rest) == 5


async def test_only_the_clock_of_the_service_counts(clock: VirtualClock) -> None:
    """A service whose clock is a day ahead or behind is synchronised correctly."""
    for skew in (-86_400.0, 86_400.0):
        async with (
            Simulator(clock=clock, quirks=Quirks(clock_skew=skew)) as simulator,
            NairiSession(simulator.api_key, base_url=simulator.url, clock=clock) as nairi,
        ):
            job = (await nairi.start("my-agent", "Go")).job_id
            clock.advance(60)
            got, checkpoint = await ids(nairi, None)
            await nairi.continue_(job, "More")
            clock.advance(60)
            assert (got, (await ids(nairi, checkpoint))[0]) == ([job], [job])


async def test_a_failed_page_is_read_again(nairi: NairiSession, simulator: Simulator, service: Service) -> None:
    """A failure in the middle loses nothing: the same synchronisation continues."""
    service.rows = {f"job{number:03}": EPOCH + timedelta(minutes=number) for number in range(150)}
    sync = nairi.sync("my-agent")
    got = [(await anext(sync)).id for _ in range(100)]

    async def fail(request: web.Request) -> web.StreamResponse:
        return json_response({"error": "no"}, 501)

    simulator.intercept = fail
    with pytest.raises(ServerError):
        await anext(sync)
    simulator.intercept = service.serve
    got += [row.id async for row in sync]
    assert got == sorted(service.rows)


async def test_a_few_changes_among_many_cost_a_few_requests(nairi: NairiSession, service: Service) -> None:
    """A hundred changes among thousands are found with two requests, not with one for each page."""
    service.rows = {f"job{number:04}": EPOCH + timedelta(minutes=number) for number in range(2000)}
    _, checkpoint = await ids(nairi, None)
    assert service.requests <= 22
    for number in range(100):
        service.rows[f"job{number:04}"] = EPOCH + timedelta(days=9, minutes=number)
    service.requests = 0
    assert len((await ids(nairi, checkpoint))[0]) == 100
    assert service.requests == 2


async def test_rows_without_a_time_are_yielded_each_time(nairi: NairiSession, simulator: Simulator) -> None:
    """A row without a time is yielded rather than lost, and does not move the checkpoint."""

    async def timeless(request: web.Request) -> web.StreamResponse:
        return json_response({"conversations": [{"id": "a", "status": "active"}]})

    simulator.intercept = timeless
    got, checkpoint = await ids(nairi, None)
    assert (got, checkpoint) == (["a"], Checkpoint())
    assert (await ids(nairi, checkpoint))[0] == ["a"]


@given(
    st.none() | st.datetimes(timezones=st.just(UTC)),
    st.dictionaries(st.text(), st.datetimes(timezones=st.just(UTC)), max_size=4),
)
def test_a_checkpoint_survives_storage(updated_at: datetime | None, seen: dict[str, datetime]) -> None:
    """It is equal after JSON, which has one line, and after pickle."""
    checkpoint = Checkpoint(updated_at, seen)
    assert Checkpoint.from_json(checkpoint.to_json()) == checkpoint
    assert Checkpoint.from_json(checkpoint.to_json().encode()) == checkpoint
    assert pickle.loads(pickle.dumps(checkpoint)) == checkpoint  # noqa: S301 - our own
    assert hash(checkpoint) == hash(Checkpoint(updated_at, seen))
    assert "\n" not in checkpoint.to_json()


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "{}", "3", "nonsense", '{"version":1}', '{"version":2,"updated_at":null,"seen":{}}',
        '{"version":1,"updated_at":"yesterday","seen":{}}', '{"version":1,"updated_at":"2026-04-12","seen":{}}',
        '{"version":1,"updated_at":null,"seen":[]}', '{"version":1,"updated_at":null,"seen":{"a":3}}', None, 3,
    ],
)  # fmt: skip
def test_other_texts_are_refused(text: Any) -> None:
    """A damaged or foreign text is a typed error, and so is an unknown version."""
    with pytest.raises(InvalidArgumentError):
        Checkpoint.from_json(text)


@pytest.mark.parametrize("since", ["{}", {}, 3, EPOCH])
def test_since_must_be_a_checkpoint(since: Any) -> None:
    """A stored text must be read first; other types are refused."""
    with pytest.raises(InvalidArgumentError, match="Checkpoint"):
        NairiSession("nr_x", base_url="http://127.0.0.1:9").sync("my-agent", since=since)


async def test_the_earliest_times_do_not_overflow(nairi: NairiSession, service: Service) -> None:
    """Times at the beginning of the calendar do not overflow."""
    service.rows = {"a": datetime.min.replace(tzinfo=UTC)}
    got, checkpoint = await ids(nairi, None)
    assert got == ["a"]
    assert json.loads(checkpoint.to_json())["seen"] != {}
    assert (await ids(nairi, checkpoint))[0] == []


def test_a_summary_may_have_no_time() -> None:
    """The time is optional."""
    assert ConversationSummary(id="a", status="active").updated_at is None
