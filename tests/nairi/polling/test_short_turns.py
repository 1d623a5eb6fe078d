"""Turns that end at once: found soon where they are usual, and never minutes late where one is the first such turn."""

from __future__ import annotations

import asyncio
import math
import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nairi_async import ConversationSummary, Polling, Turn
from nairi_async._nairi.polling.cadence import Cadence
from nairi_async._nairi.polling.feed_trust import FeedTrust, TrustState, WatchedJob
from nairi_async._nairi.polling.listing_pages import PAGE, ListingPages, PageQuery
from nairi_async._nairi.polling.turn_lengths import TurnLengths
from nairi_async.testing import FaultPlan, Quirks, Say, Simulator, VirtualClock, in_memory_session

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

pytestmark = pytest.mark.usefixtures("seeded", "few_passes")

EPOCH = datetime(2026, 4, 1, tzinfo=UTC)


async def lateness(
    length: Callable[[int], float], *, many: int, rounds: int, slow: float = 0.0, **service: Any
) -> list[float]:
    """Return how late each turn of dialogues that go on at once was found; responses to prompts take up to `slow`."""
    clock, rng, late = VirtualClock(), random.Random(5), list[float]()
    lengths: dict[str, float] = {}
    simulator = Simulator(clock=clock, **service)
    simulator.agent("my-agent", lambda prompt, _: [Say("done", after=lengths[prompt])])

    async def delay(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        if request.method == "POST" and slow:
            with clock.stalled():
                await clock.sleep(rng.uniform(0.0, slow))
        return response

    simulator.intercept_response = delay
    async with in_memory_session(simulator) as nairi:

        async def converse(number: int) -> None:
            turn: Turn | None = None
            for count in range(rounds):
                prompt = f"{number} {count}"
                lengths[prompt] = length(number * rounds + count)
                turn = await (nairi.continue_(turn, prompt) if turn else nairi.start("my-agent", prompt))
                # A server that lags may not list the reply yet.
                ended = await nairi.wait(turn) if "faults" in service else (await nairi.reply(turn)).messages[-1]
                ended_at = ended.updated_at
                assert ended_at is not None
                late.append(clock.time() - ended_at.timestamp())

        await asyncio.gather(*(converse(number) for number in range(many)))
    return late


@pytest.mark.anyio
@pytest.mark.parametrize("moves", ["completion", "reply"])
@pytest.mark.parametrize("share", [0.05, 0.5])
async def test_very_short_turns_among_long_ones_are_found_soon(moves: Any, share: float) -> None:
    """Turns of 0.05 s among turns of a minute, where a prompt's response takes up to a second."""
    rng = random.Random(7)

    def length(_number: int) -> float:
        return 0.05 if rng.random() < share else 60.0 * math.exp(rng.gauss(0, 0.5))

    late = await lateness(length, many=40, rounds=3, slow=1.0, quirks=Quirks(updated_at_moves=moves))
    assert max(late) < 30
    assert sum(late) / len(late) < 1.6


@pytest.mark.anyio
async def test_the_first_instant_turn_of_an_agent_is_not_minutes_late() -> None:
    """A trusted listing shows the end as what the prompt itself may have changed: a poll within half a minute tells."""
    late = await lateness(lambda number: 0.01 if number % 4 == 3 else 20.0, many=20, rounds=4, slow=0.9)
    assert max(late) < 30


@pytest.mark.anyio
async def test_turns_without_length_on_a_coarse_clock_are_found() -> None:
    """A turn that is over at the very time at which it was sent, and at which a reading was received."""
    rng = random.Random(3)
    late = await lateness(lambda _number: 0.0 if rng.random() < 0.1 else rng.uniform(5, 90), many=60, rounds=4)
    assert max(late) < 30


@pytest.mark.anyio
async def test_only_turns_without_length_are_found_soon() -> None:
    """The times of the service do not differ, and show no lengths: they are estimated from when the ends were found."""
    late = await lateness(lambda _number: 0.0, many=200, rounds=3, slow=1.0)
    assert max(late) < 10


@pytest.mark.anyio
async def test_only_very_short_turns_are_found_within_the_stated_delay() -> None:
    """What is learnt of an agent whose turns take 0.05 s is how late they really were found."""
    late = await lateness(lambda _number: 0.05, many=5, rounds=30, quirks=Quirks(listing=False))
    assert sum(late) / len(late) < 1.3


@pytest.mark.anyio
async def test_a_server_that_lags_delays_no_turn_for_long() -> None:
    """Responses that are seconds old show turns as queued that have ended: they are polled again all the same."""
    faults = FaultPlan(seed=1, rates={"stale": 0.3})
    quirks = Quirks(updated_at_moves="completion", stale_by=5.0)
    late = await lateness(lambda number: 0.05 + number % 7, many=30, rounds=4, quirks=quirks, faults=faults)
    assert max(late) < 30


class TestTurnLengths:
    """What the last turns say about the next one."""

    @given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=300))
    def test_it_follows_the_last_turns(self, seconds: list[float]) -> None:
        """The shortest of the last 200 counts, and an early poll comes within the delay, if turns end by then."""
        lengths = TurnLengths(1.0)
        for one in seconds:
            lengths.observe(one)
        last = seconds[-200:]
        short = [one for one in last if one < 1.0]
        assert lengths.shortest == min(last)
        assert (lengths.early < math.inf) == (len(short) > 0 and len(short) >= 0.03 * len(last))
        assert lengths.early == math.inf or 0.2 <= lengths.early <= 1.0


@given(st.lists(st.tuples(st.floats(0, 300), st.floats(0, 25)), min_size=1, max_size=200))
def test_rows_that_become_visible_late_are_found(changes: list[tuple[float, float]]) -> None:
    """Whatever became visible up to half a minute late is found once, by the next deep reading."""
    listing, found, rows = ListingPages(), list[str](), [(0.0, -1.0, "old")]
    rows += [(at, at + late, f"job{number}") for number, (at, late) in enumerate(changes)]
    for now in range(0, 340, 2):
        query: PageQuery | None = listing.begin(is_deep=now % 10 == 0)
        while query is not None:
            after = query.updated_after or EPOCH - timedelta(days=1)
            seen = sorted((EPOCH + timedelta(seconds=at), job) for at, visible, job in rows if visible <= now)
            page = [ConversationSummary(id=job, status="active", updated_at=at) for at, job in seen if at > after]
            page = page[query.offset : query.offset + PAGE] if query.updated_after else page[::-1][:PAGE]
            changed, query = listing.feed(page)
            found += changed
    assert sorted(found) == sorted(job for _, _, job in rows)


def test_a_listing_that_was_wrong_must_prove_more() -> None:
    """Each time that a trusted listing has not announced a change, four times as many proofs are asked for."""
    trust, needed = FeedTrust(), list[int]()
    for round_ in range(4):
        start, proofs = 1e6 * (round_ + 1), 0
        trust.try_again(start)
        while trust.state is TrustState.ON_TRIAL:
            trust.observe_discovery(WatchedJob("job", moved_at=start + 0.5), alive=start, found=start + 1.0)
            proofs += 1
        needed.append(proofs)
        trust.observe_discovery(WatchedJob("job"), alive=start + 4.0, found=start + 6.0)
        trust.observe_reading(start + 60.0, grace=2.0)
        assert trust.state.name == "OFF"
    assert needed == [3, 12, 48, 48]


def test_agents_that_become_known_share_the_delay() -> None:
    """Where one more agent becomes known, what is short is polled more often at once: the mean delay is that of all."""
    cadence = Cadence(Polling())

    def learn(agent_id: str, length: float) -> None:
        for _ in range(6):
            cadence.observe_survival(agent_id, "turn", 0.0, length - 1.0)
            cadence.observe_news(agent_id, "turn", length - 1.0, length + 1.0)

    learn("quick", 5.0)
    before, _ = cadence.plan_interval("quick", "turn", 4.0, jitter=0.5)
    learn("slow", 200.0)
    after, _ = cadence.plan_interval("quick", "turn", 4.0, jitter=0.5)
    assert after < before


@pytest.mark.anyio
async def test_a_turn_that_rests_holds_no_message() -> None:
    """Between polls that are far apart, or where a listing is awaited, nothing of the last response stays in memory."""
    clock = VirtualClock()
    simulator = Simulator(clock=clock)
    simulator.agent("my-agent", [Say("done", after=5000)])
    async with in_memory_session(simulator, polling=Polling(delay=100, first=100, maximum=500)) as nairi:
        turn = await nairi.start("my-agent", "x" * 100_000)
        tasks = [asyncio.create_task(call) for call in (nairi.wait(turn), nairi.reply(turn))]
        await clock.sleep(1000)
        tasks.pop().cancel()
        await clock.sleep(1)
        shared = nairi._context.reads.message(turn.message_id)
        assert shared._latest is not None  # two have read it, so one may still want it
        del shared
        tasks.append(asyncio.create_task(nairi.wait(await nairi.start("my-agent", "y" * 100_000))))
        await clock.sleep(1000)
        reads = [one for one in nairi._context.reads._shared.values() if not one.is_shared]
        assert [(one._latest, one._message, one._request.address) for one in reads] == [(None, None, None)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
