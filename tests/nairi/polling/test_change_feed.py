"""One listing announces for all: trusted once it proves true, dropped when it is wrong or costs more than it saves.

The simulator decides what moves a job's `updated_at`; time is virtual, requests stay in memory, chance has a seed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from nairi_async import ConversationSummary, Polling, Turn, WatchTimeoutError
from nairi_async._core.server_clock import ServerClock
from nairi_async._nairi.polling.feed_trust import FeedTrust, TrustState, WatchedJob, suspension, trial_patience
from nairi_async._nairi.polling.listing_pages import PAGE, ListingPages, PageQuery
from nairi_async.testing import FaultPlan, Quirks, Say, Simulator, Text, VirtualClock, in_memory_session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nairi_async.testing.script import ScriptStep

pytestmark = pytest.mark.usefixtures("seeded", "few_passes")

EPOCH = datetime(2026, 4, 1, tzinfo=UTC)


def row(job_id: str, seconds: float) -> ConversationSummary:
    return ConversationSummary(
        id=job_id, status="active", updated_at=EPOCH + timedelta(milliseconds=round(seconds * 1000))
    )


class Table:
    """A service's table of jobs, as the listing shows it."""

    def __init__(self) -> None:
        self.rows: dict[str, ConversationSummary] = {}

    def touch(self, job_id: str, seconds: float) -> None:
        self.rows[job_id] = row(job_id, seconds)

    def page(self, query: PageQuery) -> list[ConversationSummary]:
        rows = sorted(self.rows.values(), key=lambda entry: (entry.updated_at or EPOCH, entry.id))
        if query.updated_after is None:
            return rows[::-1][:PAGE]
        later = [entry for entry in rows if entry.updated_at and entry.updated_at > query.updated_after]
        return later[query.offset : query.offset + PAGE]

    def read(self, listing: ListingPages) -> set[str]:
        changed: set[str] = set()
        query: PageQuery | None = listing.begin()
        for _ in range(1000):
            found, query = listing.feed(self.page(query or PageQuery(None)))
            changed |= found.keys()
            if query is None:
                return changed
        raise AssertionError("the reading never ends")


@given(st.lists(st.lists(st.tuples(st.integers(0, 400), st.floats(0, 3)), max_size=300), min_size=1, max_size=5))
def test_a_reading_finds_every_change_once(rounds: list[list[tuple[int, float]]]) -> None:
    """With pages, equal times and rows stamped a little late, each change since the last reading is found once."""
    table, listing = Table(), ListingPages()
    table.touch("old", 0)
    table.read(listing)
    for number, changes in enumerate(rounds, 1):
        # Times of this round fall into one second, so many are equal.
        for job, part in changes:
            table.touch(f"job{job}", 10.0 * number + math.floor(part))
        assert table.read(listing) == {f"job{job}" for job, _ in changes}
        assert table.read(listing) == set()


def test_thousands_of_rows_with_one_time_are_read_by_offset() -> None:
    """More rows than a page that share a time do not stop the reading, and none is left out."""
    table, listing = Table(), ListingPages()
    table.touch("old", 0)
    table.read(listing)
    for number in range(1000):
        table.touch(f"job{number}", 5.0)
    assert len(table.read(listing)) == 1000


def test_rows_that_move_between_two_pages_are_not_lost() -> None:
    """A row that moves to the end while pages are read is found; its neighbours are not skipped."""
    table, listing = Table(), ListingPages()
    table.touch("old", 0)
    table.read(listing)
    for number in range(250):
        table.touch(f"job{number:03}", 5.0 + number / 10)
    changed: set[str] = set()
    query: PageQuery | None = listing.begin()
    time = 100.0
    while query is not None:
        found, query = listing.feed(table.page(query))
        changed |= found.keys()
        for number in range(5):
            table.touch(f"job{number:03}", time)
        time = min(time + 1, 102.0)
    assert len(changed) == 250


class TestTrust:
    """A listing is on trial until proven, and off for good when it is wrong or costs more than it saves."""

    def test_three_proofs_make_trust(self) -> None:
        """What polls found had been announced: the listing is trusted."""
        trust = FeedTrust()
        for _ in range(3):
            assert trust.state is TrustState.ON_TRIAL
            trust.observe_discovery(WatchedJob("job", moved_at=5.0), alive=4.0, found=6.0)
        assert trust.state is TrustState.TRUSTED

    def test_a_change_that_was_not_announced_ends_it(self) -> None:
        """A poll finds what no reading shows within the grace: off, also after it was trusted."""
        trust, job = FeedTrust(TrustState.TRUSTED), WatchedJob("job")
        trust.observe_discovery(job, alive=4.0, found=6.0)
        trust.observe_reading(7.0, grace=2.0)
        assert not trust.reason
        trust.observe_reading(8.5, grace=2.0)
        assert trust.state is TrustState.OFF
        assert "did not announce" in trust.reason

    def test_what_costs_more_than_it_saves_is_dropped(self) -> None:
        """Follow-ups and pages near the number of polls saved: off; far below: kept."""
        dear, cheap = FeedTrust(TrustState.TRUSTED), FeedTrust(TrustState.TRUSTED)
        for number in range(20):
            dear.observe_cost(18.0, 20.0)
            cheap.observe_cost(3.0, 20.0)
            dear.observe_reading(float(number), grace=2.0)
            cheap.observe_reading(float(number), grace=2.0)
        assert (dear.state, cheap.state) == (TrustState.OFF, TrustState.TRUSTED)

    def test_a_change_that_a_later_prompt_hides_is_no_evidence(self) -> None:
        """Where the newest row of a job is only a later prompt, nothing shows whether the change was announced."""
        trust, job = FeedTrust(TrustState.TRUSTED), WatchedJob("job")
        trust.observe_discovery(job, alive=4.0, found=6.0)
        job.moved_at, job.is_only_prompt = 6.5, True
        trust.observe_reading(20.0, grace=2.0)
        assert trust.state is TrustState.TRUSTED

    def test_an_outage_is_no_evidence(self) -> None:
        """What polls found before or while the listing could not be read does not switch it off."""
        trust = FeedTrust(TrustState.TRUSTED)
        trust.observe_discovery(WatchedJob("job"), alive=4.0, found=6.0)
        trust.observe_interruption()
        trust.observe_reading(20.0, grace=2.0)
        assert trust.state is TrustState.TRUSTED

    def test_a_listing_that_is_late_is_found_out_without_a_request(self) -> None:
        """Nine ends that earlier readings should have shown: off. Small delays and single late ones do not matter."""
        late, prompt = FeedTrust(TrustState.TRUSTED), FeedTrust(TrustState.TRUSTED)
        for number in range(9):
            assert late.state.name == "TRUSTED"
            late.observe_lateness(3.0, 2.0, float(number))
        for number in range(50):
            prompt.observe_lateness(60.0 if number % 3 == 0 else -0.5, 2.0, float(number))
        assert (late.state, late.reason) == (TrustState.OFF, "it announces changes too late")
        assert prompt.state is TrustState.TRUSTED

    def test_what_was_switched_off_is_tried_anew(self) -> None:
        """After a back-off it is on trial again, and the back-off doubles each time up to an hour."""
        trust, now, waits = FeedTrust(), 0.0, []
        for _ in range(8):
            trust.switch_off("wrong", now)
            trust.try_again(trust.retry_at - 1.0)
            assert trust.state.name == "OFF"
            waits.append(trust.retry_at - now)
            now = trust.retry_at
            trust.try_again(now)
            assert trust.state.name == "ON_TRIAL"
        assert waits == [120, 240, 480, 960, 1920, 3600, 3600, 3600]

    def test_pages_are_charged_to_the_news_that_is_waited_for(self) -> None:
        """Hours of readings for one kind of news do not keep the other kind from being trusted later."""
        trust = FeedTrust()
        for _ in range(10_000):
            trust.observe_page()
        for number in range(200):
            trust.observe_cost(0.0, 1.0)
            trust.observe_discovery(WatchedJob("job", moved_at=number + 0.5), alive=number, found=number + 1.0)
        assert trust.state is TrustState.TRUSTED

    def test_follow_ups_become_few_where_they_find_nothing(self) -> None:
        """Ends without an announcement keep them at three; where there are none, one remains."""
        useful, useless = FeedTrust(), FeedTrust()
        for number in range(300):
            useful.observe_follow_up(found_end=number % 10 == 0)
            useless.observe_follow_up(found_end=False)
        assert (useful.follow_ups, useless.follow_ups, FeedTrust().follow_ups) == (3, 1, 3)

    def test_the_prompts_own_change_is_no_news(self) -> None:
        """The row that a prompt moves is ignored once, if the service's time is known closely."""
        clock = ServerClock()
        for number in range(64):
            at = number * 0.0631
            clock.observe(float(math.floor(1000.0 + at)), at, at)

        def announced(at: float, status: str = "active", known: ServerClock = clock) -> WatchedJob:
            job = WatchedJob("job", prompted=(3.9, 3.95))
            changed = ConversationSummary(id="job", status=status, updated_at=datetime.fromtimestamp(at, UTC))
            job.announce(changed, 5.0, known.at)
            return job

        prompt = announced(1003.93)
        assert not prompt.has_news(4.0, is_own=True)
        assert prompt.has_news(4.0, is_own=False)
        assert announced(1004.4).has_news(4.0, is_own=True)
        assert announced(1003.93, "error").has_news(4.0, is_own=True)
        assert announced(1003.93, known=ServerClock()).has_news(4.0, is_own=True)

    @given(st.floats(0.05, 5.0), st.floats(0.0, 1.0), st.floats(0.05, 30.0))
    def test_the_end_of_a_short_turn_is_not_taken_for_its_prompt(
        self, answered: float, part: float, shortest: float
    ) -> None:
        """However slow the response to the prompt was, a change is its own only as soon as no turn of the agent ends.

        A job that is judged again, when a shorter turn was seen, is judged by that.
        """
        length = answered * part
        job = WatchedJob("job", prompted=(4.0, 4.0 + answered))
        ended = ConversationSummary(id="job", status="active", updated_at=datetime.fromtimestamp(1004 + length, UTC))
        job.announce(ended, 10.0, lambda at: (1000.0 + at, 1000.0 + at), shortest)
        assert job.is_only_prompt or length > min(0.3, shortest / 2) - 1e-5
        assert not job.is_only_prompt or length < min(0.3, shortest / 2) + 1e-5
        job.judge(lambda at: (1000.0 + at, 1000.0 + at), length)
        assert not job.is_only_prompt or length < 1e-4


@given(st.floats(-1e6, 1e6), st.lists(st.tuples(*[st.floats(0, 1000)] * 3), min_size=1, max_size=100))
def test_the_service_clock_is_bounded_truly(ahead: float, responses: list[tuple[float, float, float]]) -> None:
    """From whole seconds, bounds that always hold the truth, and get closer, however long responses are on their way.

    A process that is busy receives a response seconds late, and that contradicts nothing.
    """
    clock = ServerClock()
    for times in sorted(responses, key=max):
        sent_at, dated_at, received_at = sorted(times)
        clock.observe(float(math.floor(dated_at + ahead)), sent_at, received_at)
        earliest, latest = clock.at(received_at)
        assert earliest - 1e-6 <= received_at + ahead <= latest + 1e-6
        assert latest - earliest <= 1.0 + received_at - sent_at + 1e-6
    assert not clock.contradictions


def test_one_response_with_a_wrong_clock_changes_nothing() -> None:
    """Among several servers one may be an hour off; a clock that was set is what two responses in a row say."""
    clock = ServerClock()
    for second, date in enumerate([1000.0, 1001.0, 4602.0, 1003.0, 4604.0]):
        clock.observe(date, second, second)
    assert clock.at(5.0) == (1005.0, 1006.0)
    clock.observe(4605.0, 5.0, 5.0)
    assert clock.at(6.0) == (4606.0, 4607.0)


def test_a_first_response_may_be_the_wrong_one() -> None:
    """Before two responses have agreed, the newest counts."""
    clock = ServerClock()
    clock.observe(4600.0, 0.0, 0.0)
    clock.observe(1001.0, 1.0, 1.0)
    assert clock.at(2.0) == (1002.0, 1003.0)
    assert clock.contradictions == 1


def lasting(rng: random.Random) -> list[ScriptStep]:
    return [Say("done", after=min(600.0, 30 * math.exp(rng.gauss(0, 0.9))))]


def chatty(rng: random.Random) -> list[ScriptStep]:
    return [*(Text("working", after=1.5) for _ in range(rng.randint(5, 40))), Say("done")]


Rewrite = Callable[[dict[str, Any]], None]


async def rewritten(rewrite: Rewrite, request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Return the response with each row of a listing changed."""
    if "/agents/" not in request.path or not isinstance(response, web.Response) or response.body is None:
        return response
    listing = json.loads(bytes(response.body))  # type: ignore[arg-type]
    for row in listing["conversations"]:
        rewrite(row)
    return web.json_response(listing)


def backwards(row: dict[str, Any]) -> None:
    """Its time runs backwards: each change is dated earlier than the one before."""
    mirrored = datetime.fromtimestamp(2 * 1.8e9 - datetime.fromisoformat(row["updated_at"]).timestamp(), UTC)
    row["updated_at"] = mirrored.isoformat().replace("+00:00", "Z")


async def asked(
    quirks: Quirks,
    *,
    many: int = 30,
    rounds: int = 2,
    script: object = lasting,
    intercept: object = None,
    rewrite: Rewrite | None = None,
) -> tuple[Simulator, float]:
    """Ask many prompts of one agent at once; the simulator afterwards, and the mean delay of discovery."""
    random.seed(7)  # of the session
    clock, rng = VirtualClock(), random.Random(5)
    async with Simulator(clock=clock, quirks=quirks) as simulator:
        simulator.agent("my-agent", lambda _prompt, _turn: script(rng))  # type: ignore[operator]
        simulator.intercept = intercept  # type: ignore[assignment]
        simulator.intercept_response = None if rewrite is None else partial(rewritten, rewrite)
        async with in_memory_session(simulator) as nairi:
            prompts = (str(number) for number in range(many * rounds))
            replies = [outcome async for outcome in nairi.ask_many("my-agent", prompts, limit=many)]
            assert [outcome.error for outcome in replies if outcome.error] == []
            assert sorted(int(outcome.prompt) for outcome in replies) == list(range(many * rounds))
            assert len(simulator.prompts) == many * rounds
            return simulator, nairi.stats.discovery_delay or 0.0


# By script: the same for each test that asks, because everything is seeded.
_PLAIN: dict[object, tuple[int, float]] = {}


async def plain_polls(script: object = lasting) -> tuple[int, float]:
    """Return the requests and mean delay of the same prompts where there is no listing."""
    if script not in _PLAIN:
        simulator, delay = await asked(Quirks(listing=False), script=script)
        _PLAIN[script] = len(simulator.requests), delay
    return _PLAIN[script]


def listings(simulator: Simulator) -> int:
    return sum("/agents/" in seen.path for seen in simulator.requests)


@pytest.mark.anyio
async def test_a_true_listing_replaces_polls() -> None:
    """Where completions move it, conversations cost a fraction of the requests, at the same delay."""
    with_feed, delay = await asked(Quirks(updated_at_moves="completion"))
    without, plain_delay = await plain_polls()
    assert len(with_feed.requests) < 0.4 * without
    assert delay < 1.6
    assert plain_delay < 1.6


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("quirks", "reason"),
    [
        (Quirks(updated_at_moves="never"), "did not announce a change"),
        (Quirks(listing=False), "cannot be read"),
    ],
    ids=["wrong", "missing"],
)
async def test_a_useless_listing_is_dropped_with_one_record(
    quirks: Quirks, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A listing that is wrong or missing is switched off with one record, and costs hardly anything."""
    caplog.set_level(logging.WARNING, logger="nairi_async.polling")
    simulator, delay = await asked(quirks)
    (record,) = caplog.records
    assert reason in record.getMessage()
    assert listings(simulator) < 0.1 * len(simulator.requests)
    assert delay < 1.7


@pytest.mark.anyio
@pytest.mark.parametrize(
    "quirks",
    [
        Quirks(updated_at_moves="progress"),
        Quirks(updated_at_moves="reply", clock_skew=-3600),
        Quirks(updated_at_moves="completion", clock_skew=3600),
        Quirks(updated_at_moves="completion", stale_by=3, stale_every=2),
        Quirks(updated_at_moves="reply", timestamps="omitted"),
    ],
    ids=str,
)
async def test_nothing_is_lost_whatever_the_listing_does(quirks: Quirks) -> None:
    """Skewed clocks, stale responses, busy agents: every reply comes, for hardly more than plain polling."""
    simulator, _ = await asked(quirks, script=chatty)
    without, _ = await plain_polls(chatty)
    assert len(simulator.requests) < 1.2 * without


@pytest.mark.anyio
@pytest.mark.parametrize(
    "rewrite",
    [
        backwards,
        lambda row: row.pop("updated_at"),
        lambda row: row.update(updated_at="2026-01-01T00:00:00.000Z"),
        lambda row: row.update(updated_at="yesterday"),
        lambda row: row.update(id="job_unknown"),
    ],
    ids=["backwards", "missing", "all equal", "no times", "other ids"],
)
async def test_a_listing_with_senseless_times_is_dropped(rewrite: Rewrite, caplog: pytest.LogCaptureFixture) -> None:
    """With any content of `updated_at`, every reply comes in time, for about the polls of a loop, logged once."""
    caplog.set_level(logging.WARNING, logger="nairi_async.polling")
    simulator, delay = await asked(Quirks(), rewrite=rewrite)
    # A loop with the same delay polls every two delays, half a time more, and reads each reply. Of 60 turns of two
    # waves that nothing is known of, the figure varies by a fifth with chance.
    rng = random.Random(5)
    fixed = sum(1.0 + lasting(rng)[0].after / (2.0 * delay) + 1.5 for _ in range(60))
    assert len(simulator.requests) < 1.4 * fixed
    assert delay < 1.7
    assert len(caplog.records) <= 2
    assert len({record.getMessage() for record in caplog.records}) == len(caplog.records)


@pytest.mark.anyio
async def test_a_listing_that_becomes_silent_is_found_out() -> None:
    """Trusted, then silent: the verifying polls notice, and every turn is still found."""
    calls = 0

    async def silent_later(request: web.Request) -> web.StreamResponse | None:
        nonlocal calls
        if "/agents/" not in request.path:
            return None
        calls += 1
        return web.json_response({"conversations": []}) if calls > 30 else None

    simulator, _ = await asked(Quirks(updated_at_moves="completion"), intercept=silent_later)
    assert 30 < calls < 400
    assert len(simulator.prompts) == 60


@pytest.mark.anyio
async def test_failing_readings_do_not_fail_watchers() -> None:
    """A listing that breaks down now and then is read again; one that stays broken is given up. No turn notices."""

    async def broken(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=502, text="<html>") if "/agents/" in request.path else None

    simulator, delay = await asked(Quirks(), intercept=broken)
    assert listings(simulator) < 60
    assert delay < 1.7


@pytest.mark.anyio
async def test_foreign_jobs_do_no_harm() -> None:
    """Thousands of conversations of the same agent that another client began are skipped and not followed."""
    clock = VirtualClock()
    async with Simulator(clock=clock, quirks=Quirks(updated_at_moves="completion")) as simulator:
        simulator.agent("my-agent", [Say("done", after=30)])
        for _ in range(1500):
            simulator.foreign_job("my-agent")
        async with in_memory_session(simulator) as nairi:
            prompts = (str(number) for number in range(200))
            outcomes = [outcome async for outcome in nairi.ask_many("my-agent", prompts, limit=50)]
        assert all(outcome.reply for outcome in outcomes)
        assert not [seen for seen in simulator.requests if seen.status != 200 and seen.method == "GET"]


@pytest.mark.anyio
async def test_a_cancelled_leader_hands_over() -> None:
    """The watcher that reads the listing for all may be cancelled at any time; the others are still woken."""
    clock = VirtualClock()
    async with Simulator(clock=clock, quirks=Quirks(updated_at_moves="completion")) as simulator:
        simulator.agent("my-agent", lambda prompt, _: [Say("done", after=float(prompt))])
        async with in_memory_session(simulator) as nairi:
            async for _ in nairi.ask_many("my-agent", ["20"] * 60, limit=20):
                pass  # the listing becomes trusted
            feed = nairi._context.feeds.of("my-agent")
            assert feed is not None
            assert feed.ends.state is TrustState.TRUSTED
            tasks = [asyncio.create_task(nairi.ask("my-agent", "100")) for _ in range(15)]
            cancelled: Sequence[asyncio.Task[object]] = tasks[:14]
            for task in cancelled:
                await clock.sleep(3)
                task.cancel()
            assert (await tasks[14]).text == "done"
            await asyncio.gather(*cancelled, return_exceptions=True)
            assert not feed._waiters
            assert feed._waiters.leader is None


@pytest.mark.anyio
async def test_a_rate_limit_does_not_switch_the_listing_off() -> None:
    """A 429 with Retry-After throttles the session; the listing is trusted as before, so the load stays low."""
    refused = 0

    async def refuse_once(request: web.Request) -> web.StreamResponse | None:
        nonlocal refused
        if "/agents/" not in request.path or refused or len(simulated.requests) < 600:
            return None
        refused += 1
        return web.json_response({"error": "slow down"}, status=429, headers={"Retry-After": "10"})

    clock, rng = VirtualClock(), random.Random(5)
    async with Simulator(clock=clock, quirks=Quirks(updated_at_moves="completion")) as simulated:
        simulated.agent("my-agent", lambda _prompt, _turn: lasting(rng))
        simulated.intercept = refuse_once
        async with in_memory_session(simulated) as nairi:
            async for _ in nairi.ask_many("my-agent", (str(number) for number in range(300)), limit=30):
                pass
            feed = nairi._context.feeds.of("my-agent")
            assert refused == 1
            assert feed is not None
            assert feed.ends.state is TrustState.TRUSTED


@pytest.mark.anyio
async def test_a_timeout_holds_while_another_watcher_reads_the_listing() -> None:
    """A watcher that waits for announcements is not late for its own timeout."""
    clock = VirtualClock()
    async with Simulator(clock=clock, quirks=Quirks(updated_at_moves="completion")) as simulator:
        simulator.agent("my-agent", lambda prompt, _: [Say("done", after=float(prompt))])
        polling = Polling(delay=20)
        async with in_memory_session(simulator, polling=polling) as nairi:
            async for _ in nairi.ask_many("my-agent", ["60"] * 160, limit=40):
                pass
            feed = nairi._context.feeds.of("my-agent")
            assert feed is not None
            assert feed.ends.state is TrustState.TRUSTED
            tasks = [asyncio.create_task(nairi.ask("my-agent", "300")) for _ in range(15)]
            await clock.sleep(45)
            turn = await nairi.start("my-agent", "300")
            started_at = clock.monotonic()
            with pytest.raises(WatchTimeoutError):
                await nairi.reply(turn, timeout=3)
            assert clock.monotonic() - started_at == pytest.approx(3, abs=0.01)
            await asyncio.gather(*tasks)


@pytest.mark.anyio
async def test_a_reading_of_more_pages_than_allowed_is_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows at once than one reading takes are all announced, by the readings that follow."""
    monkeypatch.setattr("nairi_async._nairi.polling.listing_reader._MOST_PAGES", 1)
    simulator, delay = await asked(Quirks(updated_at_moves="completion"), many=250, rounds=2)
    assert listings(simulator) > 5
    assert delay < 2.5


@pytest.mark.anyio
async def test_what_happens_while_a_long_reading_goes_on_is_announced_by_its_later_pages(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A page shows all that had changed when it was received, not only what had when its reading began."""
    caplog.set_level(logging.WARNING, logger="nairi_async.polling")
    rng = random.Random(5)

    async def slow(request: web.Request) -> None:
        if "/agents/" in request.path:
            with clock.stalled():
                await clock.sleep(0.7)

    async with Simulator(clock=clock, quirks=Quirks(updated_at_moves="completion")) as simulator:
        simulator.agent("my-agent", lambda _prompt, _turn: lasting(rng))
        simulator.intercept = slow
        async with in_memory_session(simulator) as nairi:
            prompts = (str(number) for number in range(800))
            replies = [outcome async for outcome in nairi.ask_many("my-agent", prompts, limit=400)]
    assert [outcome.error for outcome in replies if outcome.error] == []
    assert caplog.messages == []


@pytest.mark.anyio
async def test_stale_polls_are_no_evidence_against_the_listing(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """An announced turn that a stale response shows as running is found later, and the listing had announced it."""
    caplog.set_level(logging.WARNING, logger="nairi_async.polling")
    rng = random.Random(5)
    faults = FaultPlan(seed=1, rates={"stale": 0.05})
    async with Simulator(clock=clock, quirks=Quirks(updated_at_moves="completion"), faults=faults) as simulator:
        simulator.agent("my-agent", lambda _prompt, _turn: lasting(rng))
        async with in_memory_session(simulator) as nairi:
            outcomes = [one async for one in nairi.ask_many("my-agent", map(str, range(200)), limit=40)]
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    assert any(seen.fault == "stale" for seen in simulator.requests)
    assert caplog.messages == []


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["find_start", "late reply", "another session"])
async def test_a_turn_that_ended_before_it_was_watched_is_found_at_once(clock: VirtualClock, way: str) -> None:
    """On a busy session with a trusted listing, a turn whose announcement is over does not wait for another one."""
    async with Simulator(clock=clock, quirks=Quirks(updated_at_moves="completion")) as simulator:
        simulator.agent("my-agent", lambda prompt, _: [Say("done", after=float(prompt.split()[0]))])
        async with in_memory_session(simulator) as nairi:
            async for _ in nairi.ask_many("my-agent", ["20"] * 60, limit=20):
                pass
            feed = nairi._context.feeds.of("my-agent")
            assert feed is not None
            assert feed.ends.state is TrustState.TRUSTED
            busy = [asyncio.create_task(nairi.ask("my-agent", "200")) for _ in range(15)]
            await clock.sleep(10)
            sent_at = datetime.fromtimestamp(clock.time(), UTC)
            if way == "late reply":
                turn: Turn | None = await nairi.start("my-agent", "5 late")
            else:
                async with in_memory_session(simulator) as other:
                    turn = await other.start("my-agent", "5 late")
            await clock.sleep(20)
            if way == "find_start":
                until = sent_at + timedelta(seconds=5)
                turn = await nairi.find_start("my-agent", "5 late", sent_after=sent_at, sent_before=until)
            assert turn is not None
            before = clock.monotonic()
            assert (await nairi.reply(turn)).text == "done"
            assert clock.monotonic() - before < 5
            await asyncio.gather(*busy)


@pytest.mark.anyio
async def test_a_turn_that_ends_before_the_response_to_its_prompt_is_found_soon(clock: VirtualClock) -> None:
    """A change within a slow call is not taken for the prompt's own: not on trial, and not with a trusted listing."""
    rng, lengths, late = random.Random(3), dict[str, float](), list[float]()
    async with Simulator(clock=clock) as simulator:
        simulator.agent("my-agent", lambda prompt, _: [Say("done", after=lengths[prompt])])

        async def delay(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
            if request.method == "POST":
                with clock.stalled():
                    await clock.sleep(rng.uniform(0.3, 0.9))
            return response

        simulator.intercept_response = delay
        async with in_memory_session(simulator) as nairi:
            gate = asyncio.Semaphore(120)

            async def ask(prompt: str) -> None:
                async with gate:
                    sent_at, lengths[prompt] = clock.monotonic(), rng.uniform(0.1, 1.0)
                    await nairi.ask("my-agent", prompt)
                    late.append(clock.monotonic() - sent_at - lengths[prompt])

            await asyncio.gather(*(ask(str(number)) for number in range(300)))
            assert nairi._context.feeds.of("my-agent").ends.state is TrustState.TRUSTED
    assert max(late) < 8
    assert sum(seen.method == "GET" for seen in simulator.requests) < 600


@pytest.mark.anyio
async def test_what_ended_before_a_first_reading_of_one_page_is_found(clock: VirtualClock) -> None:
    """The first reading shows the newest rows only: the second one shows the others that changed since the prompts."""
    late: list[float] = []
    async with Simulator(clock=clock) as simulator:
        simulator.agent("my-agent", lambda prompt, _: [Say("done", after=float(prompt))])

        async def hold(request: web.Request) -> None:
            if "/agents/" in request.path and clock.monotonic() < 6:
                with clock.stalled():
                    await clock.sleep(6)

        simulator.intercept = hold
        async with in_memory_session(simulator) as nairi:

            async def ask(number: int) -> None:
                await clock.sleep(number / 80)
                sent_at, length = clock.monotonic(), 0.5 + number * 7 % 50 / 10
                await nairi.ask("my-agent", str(length))
                late.append(clock.monotonic() - sent_at - length)

            await asyncio.gather(*(ask(number) for number in range(400)))
    assert max(late) < 10


async def lateness(simulator: Simulator, clock: VirtualClock, *, rounds: int = 3, many: int = 30) -> list[float]:
    """Return how late each reply of dialogues that go on at once was found, in seconds after its last message."""
    late: list[float] = []
    async with in_memory_session(simulator) as nairi:

        async def converse() -> None:
            conversation = nairi.conversation("my-agent")
            for _ in range(rounds):
                reply = await conversation.ask("go")
                assert reply.messages[-1].created_at is not None
                late.append(clock.time() - reply.messages[-1].created_at.timestamp())

        await asyncio.gather(*(converse() for _ in range(many)))
    return late


@pytest.mark.anyio
@pytest.mark.parametrize("lag", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("moves", ["completion", "reply"])
async def test_an_end_that_is_not_announced_is_not_missed(clock: VirtualClock, lag: float, moves: Any) -> None:
    """Where the status turns after the reply was listed, no turn waits for the verifying poll minutes later."""
    rng = random.Random(5)
    async with Simulator(clock=clock, quirks=Quirks(updated_at_moves=moves, status_lag=lag)) as simulator:
        simulator.agent("my-agent", lambda _prompt, _turn: lasting(rng))
        late = await lateness(simulator, clock)
    assert max(late) < lag + 15
    assert sum(late) / len(late) < lag + 1.5


@pytest.mark.anyio
async def test_a_listing_that_alone_is_refused_slows_nothing_but_itself(clock: VirtualClock) -> None:
    """While the listing gets 429 for a minute, watchers poll by themselves; afterwards it replaces polls again."""
    rng, refused = random.Random(5), 0

    async def refuse(request: web.Request) -> web.StreamResponse | None:
        nonlocal refused
        if "/agents/" not in request.path or not 60 < clock.monotonic() < 120:
            return None
        refused += 1
        return web.json_response({"error": "slow down"}, status=429, headers={"Retry-After": "20"})

    async with Simulator(clock=clock, quirks=Quirks(updated_at_moves="completion")) as simulator:
        simulator.agent("my-agent", lambda _prompt, _turn: lasting(rng))
        simulator.intercept = refuse
        late = await lateness(simulator, clock, rounds=6)
        after = [seen for seen in simulator.requests if seen.at > simulator.requests[0].at + 160]
    assert 0 < refused < 10
    assert max(late) < 15
    assert sum(late) / len(late) < 1.6
    assert sum("/agents/" in seen.path for seen in after) > 10


@pytest.mark.anyio
@pytest.mark.parametrize("moves", ["completion", "never"])
async def test_a_panel_tests_the_listing_for_many(clock: VirtualClock, moves: Any) -> None:
    """From a cold start, most of many conversations wait for the listing on trial; if it is wrong, not for long."""
    async with Simulator(clock=clock, quirks=Quirks(updated_at_moves=moves)) as simulator:
        rng = random.Random(5)
        simulator.agent("my-agent", lambda _prompt, _turn: lasting(rng))
        late = await lateness(simulator, clock, rounds=1, many=150)
        polled: dict[str, int] = {}
        for seen in simulator.requests:
            if "/messages/" in seen.path and seen.at < simulator.requests[0].at + 6:
                polled[seen.path] = polled.get(seen.path, 0) + 1
    assert len(polled) < 150
    assert max(late) < 12
    assert sum(late) / len(late) < 1.9


@pytest.mark.anyio
@pytest.mark.parametrize(("hangs", "readings"), [(range(1, 10**6), 60), (range(20, 22), 400)], ids=["always", "twice"])
async def test_a_listing_that_answers_late_is_not_waited_for(clock: VirtualClock, hangs: range, readings: int) -> None:
    """Where pages take seconds longer than a poll, announcements are as late; two such pages prove nothing."""
    rng, pages = random.Random(5), 0

    async def answer_late(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        nonlocal pages
        pages += "/agents/" in request.path
        if "/agents/" in request.path and pages in hangs:
            with clock.stalled():
                await clock.sleep(4.0)
        return response

    async with Simulator(clock=clock, quirks=Quirks(updated_at_moves="completion")) as simulator:
        simulator.agent("my-agent", lambda _prompt, _turn: lasting(rng))
        simulator.intercept_response = answer_late
        late = await lateness(simulator, clock, many=40)
    assert sum(late) / len(late) < 2.5
    assert max(late) < 10
    assert readings / 8 < pages < readings


@given(st.integers(0, 10**6), st.none() | st.floats(0.0, 1e6), st.floats(0.0, 1.0, exclude_max=True))
def test_a_listing_is_read_again_soon_after_it_can_be(failures: int, retry_after: float | None, jitter: float) -> None:
    """However long it failed, it is asked again within 80 seconds; never earlier than the service has asked for."""
    seconds = suspension(failures, retry_after, jitter)
    assert 3.0 <= seconds <= max(80.0, retry_after or 0.0)
    assert seconds >= (retry_after or 0.0)


@given(st.floats(0, 1, exclude_max=True))
def test_the_wait_for_a_listing_on_trial_is_bounded(jitter: float) -> None:
    """What a wrong listing can cost before it is found out: less than 30 s."""
    assert 15 < trial_patience(jitter) < 30
