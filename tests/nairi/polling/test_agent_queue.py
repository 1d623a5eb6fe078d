"""Turns that queue at one agent, and conversations in which nothing happens, are polled seldom, and found in time."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nairi_async import WatchTimeoutError
from nairi_async._nairi.polling.agent_queue import AgentQueue, QueuedTurn
from nairi_async._nairi.polling.feed_trust import WatchedJob
from nairi_async.testing import Quirks, Say, Simulator, VirtualClock, in_memory_session

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from nairi_async import NairiSession, Turn
    from nairi_async.testing.script import ScriptStep


def queued(number: int, *, second: float = 0.0) -> QueuedTurn:
    return QueuedTurn(WatchedJob(f"job{number}"), (second, number), is_awaited=True)


@given(st.integers(1, 4), st.integers(1, 12), st.randoms(use_true_random=False))
def test_each_turn_is_called_although_only_few_are_polled(capacity: int, many: int, chance: random.Random) -> None:
    """With any capacity and any order of the first polls, ends and calls alone reach every turn, in order."""
    queue, turns = AgentQueue(), [queued(number) for number in range(many)]
    running = list(range(min(capacity, many)))
    for number in chance.sample(range(many), many):
        queue.observe(turns[number], is_queued=number not in running, at=0.0)
    now, left = 0.0, list(range(many))
    while left:
        now += 1.0
        ended = chance.choice([number for number in left if number < capacity + many - len(left)])
        left.remove(ended)
        queue.end(now)
        called = queue.leave(turns[ended], now)
        begun = capacity + many - len(left)
        waiting = [number for number in left if turns[number].is_queued]
        # The one that runs now is called.
        if waiting and waiting[0] < begun:
            assert called is turns[waiting[0]]
        while called is not None:
            number = called.order[1]
            called = queue.observe(called, is_queued=number >= begun, at=now)
    assert len(queue) == 0


def test_the_place_decides_how_long_a_turn_can_wait() -> None:
    """None before it: it may begin at any time; behind running turns it is the next; behind queued ones they count."""
    queue, turns = AgentQueue(), [queued(number) for number in range(5)]
    for turn in turns[1:]:
        queue.observe(turn, is_queued=True, at=1.0)
    assert [queue.place(turn, 1.0) for turn in turns[1:]] == [0, 2, 3, 4]
    queue.observe(turns[0], is_queued=False, at=2.0)
    assert [queue.place(turn, 2.0) for turn in turns[1:]] == [1, 2, 3, 4]


def test_a_turn_that_came_together_with_the_running_one_is_the_next() -> None:
    """Prompts of one moment may run in any order: the earliest waits for the running one, as the next one does."""
    queue, first, running = AgentQueue(), queued(0), queued(1, second=0.5)
    queue.observe(running, is_queued=False, at=1.0)
    queue.observe(first, is_queued=True, at=1.0)
    assert queue.place(first, 1.0) == 1


def test_where_none_runs_the_neighbours_are_polled_in_order() -> None:
    """After an end the next turn is still queued: those behind it are polled one by one, each once."""
    queue, turns = AgentQueue(), [queued(number) for number in range(8)]
    for turn in turns:
        queue.observe(turn, is_queued=True, at=1.0)
    queue.end(2.0)
    called, order = queue.first(3.0), list[int]()
    while called is not None and len(order) < 5:
        order.append(called.order[1])
        called = queue.observe(called, is_queued=True, at=3.0)
    assert order == [0, 1, 2, 3, 4]


@pytest.mark.anyio
async def test_a_turn_that_is_queued_behind_strangers_is_not_polled_in_quick_succession() -> None:
    """One conversation of this session, queued behind others for minutes: polls no denser than those of a turn."""
    clock = VirtualClock()
    simulator = Simulator(clock=clock)
    simulator.agent("my-agent", [Say("done", after=60)], instances=1)
    async with in_memory_session(simulator) as other, in_memory_session(simulator) as nairi:
        await other.start("my-agent", "before")
        await nairi.ask("my-agent", "behind")
    assert polls(simulator) < 75


def test_an_agent_that_runs_its_turns_in_another_order_is_noticed() -> None:
    """A turn that is overtaken by one sent seconds later has no place any more: all are polled by themselves."""
    queue, first, later = AgentQueue(), queued(0), queued(1, second=30.0)
    queue.observe(first, is_queued=True, at=40.0)
    queue.observe(later, is_queued=True, at=40.0)
    queue.observe(later, is_queued=False, at=50.0)
    queue.observe(first, is_queued=True, at=52.0)  # perhaps a server that lags
    assert queue.place(first, 52.0) == 0
    third = queued(2, second=31.0)
    assert queue.observe(third, is_queued=True, at=53.0) is None
    assert queue.place(third, 53.0) == 2
    queue.observe(first, is_queued=True, at=60.0)
    assert queue.place(third, 60.0) == 0


def test_turns_whose_watchers_have_gone_hold_nothing_up() -> None:
    """A turn that is no longer polled stands before no other, and is forgotten."""
    queue = AgentQueue()
    for number in range(100):
        gone = queued(number)
        gone.is_awaited = False
        queue.observe(gone, is_queued=True, at=100.0 * number)
        assert queue.place(gone, 100.0 * number) == 0
    assert len(queue) == 1


def serial(simulator: Simulator, lengths: Sequence[float], capacity: int = 1) -> None:
    """Let an agent run few turns at a time, of such lengths."""
    left = iter(lengths)

    def script(_prompt: str, _turn: int) -> list[ScriptStep]:
        return [Say("done", after=next(left))]

    simulator.agent("my-agent", script, instances=capacity)


def polls(simulator: Simulator) -> int:
    return sum(seen.method == "GET" for seen in simulator.requests)


@pytest.mark.anyio
@pytest.mark.parametrize("moves", ["completion", "never"])
@pytest.mark.parametrize("capacity", [1, 3])
async def test_a_queue_costs_hardly_more_than_its_running_turns(moves: Any, capacity: int) -> None:
    """Forty prompts to an agent that runs few at a time: each is found in time, for the polls of its own length."""
    random.seed(7)
    rng, clock = random.Random(5), VirtualClock()
    simulator = Simulator(clock=clock, quirks=Quirks(updated_at_moves=moves))
    serial(simulator, [rng.uniform(15, 45) for _ in range(40)], capacity)
    async with in_memory_session(simulator) as nairi:
        outcomes = [one async for one in nairi.ask_many("my-agent", map(str, range(40)))]
        assert all(one.reply for one in outcomes)
        assert nairi.stats.discovery_delay is not None
        assert nairi.stats.discovery_delay < 1.6
    assert polls(simulator) < 40 * 30


@pytest.mark.anyio
async def test_a_queued_turn_whose_watcher_was_cancelled_is_no_obstacle() -> None:
    """The waits for the first turns in a queue are cancelled one after another; the last one is found in time."""
    random.seed(7)
    clock = VirtualClock()
    simulator = Simulator(clock=clock)
    serial(simulator, [20.0] * 10)
    async with in_memory_session(simulator) as nairi:
        turns = [await nairi.start("my-agent", str(number)) for number in range(10)]
        tasks = [asyncio.create_task(nairi.reply(turn)) for turn in turns]
        for task in tasks[:9]:
            await clock.sleep(10)
            task.cancel()
        await tasks[9]
        assert clock.monotonic() < 10 * 20 + 5
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not nairi._context.feeds.of("my-agent").queue


@pytest.mark.anyio
async def test_a_timeout_of_ones_own_holds_in_a_queue() -> None:
    """A wait of thirty seconds for a turn that is queued for minutes ends after thirty seconds."""
    clock = VirtualClock()
    simulator = Simulator(clock=clock)
    serial(simulator, [100.0] * 5)
    async with in_memory_session(simulator) as nairi:
        turns = [await nairi.start("my-agent", str(number)) for number in range(5)]
        with pytest.raises(WatchTimeoutError):
            await asyncio.gather(*(nairi.reply(turn, timeout=30) for turn in turns))
        assert clock.monotonic() == pytest.approx(30, abs=0.1)


@pytest.mark.anyio
async def test_progress_is_watched_in_a_queue_too() -> None:
    """Twenty turns of a serial agent, watched with their progress: each message is found in time, for few polls."""
    random.seed(7)
    clock = VirtualClock()
    simulator = Simulator(clock=clock)
    simulator.agent("my-agent", [Say("one", after=5), Say("done", after=20)], instances=1)
    late: list[float] = []

    async def watched(turn: Turn) -> None:
        async for message in nairi.watch(turn, progress=True):
            assert message.created_at is not None
            late.append(clock.time() - message.created_at.timestamp())

    async with in_memory_session(simulator) as nairi:
        turns = [await nairi.start("my-agent", str(number)) for number in range(20)]
        await asyncio.gather(*map(watched, turns))
    assert len(late) == 40
    assert max(late) < 4
    assert polls(simulator) < 20 * 30


async def followed(nairi: NairiSession, job_id: str, got: list[str]) -> None:
    async with nairi.watch(job_id, follow=True) as watch:
        async for message in watch:
            got += [message.content]


@pytest.mark.anyio
async def test_to_follow_an_idle_conversation_is_cheap_and_heeds_prompts(clock: VirtualClock) -> None:
    """An hour costs at most 150 requests; a prompt of the session is noticed at once, a foreign one within 30 s."""
    simulator = Simulator(clock=clock)
    simulator.agent("my-agent", [Say("done", after=5)])
    async with in_memory_session(simulator) as nairi, in_memory_session(simulator) as other:
        reply = await nairi.ask("my-agent", "hello")
        assert reply.turn is not None
        got: list[str] = []
        follower = asyncio.create_task(followed(nairi, reply.turn.job_id, got))
        await clock.sleep(60)
        before = polls(simulator)
        await clock.sleep(3600)
        assert polls(simulator) - before <= 150
        await nairi.continue_(reply.turn, "mine")
        await clock.sleep(1)
        assert got[2:] == ["mine"]
        await clock.sleep(8)
        assert got[2:] == ["mine", "done"]
        await clock.sleep(1000)
        await other.continue_(reply.turn, "foreign")
        await clock.sleep(31)
        assert got[4:5] == ["foreign"]
        follower.cancel()
        await asyncio.gather(follower, return_exceptions=True)


@pytest.mark.anyio
async def test_many_idle_conversations_share_a_trusted_listing(clock: VirtualClock) -> None:
    """Beside a listing that announces messages, each that is followed costs at most 40 requests an hour."""
    random.seed(7)
    rng = random.Random(5)
    simulator = Simulator(clock=clock, quirks=Quirks(updated_at_moves="reply"))
    simulator.agent("my-agent", lambda _prompt, _turn: [Say("done", after=rng.uniform(5, 40))])
    async with in_memory_session(simulator) as nairi:
        turns = [await nairi.start("my-agent", str(number)) for number in range(20)]
        got: list[str] = []
        followers = [asyncio.create_task(followed(nairi, turn.job_id, got)) for turn in turns]
        await clock.sleep(200)
        assert nairi._context.feeds.of("my-agent").messages.state.name == "TRUSTED"
        before = polls(simulator)
        await clock.sleep(3600)
        assert polls(simulator) - before <= 20 * 40
        # A prompt from elsewhere is announced.
        simulator.quirks = Quirks(updated_at_moves="reply")
        async with in_memory_session(simulator) as other:
            await other.continue_(turns[3], "foreign")
        await clock.sleep(45)
        assert got[-2:] == ["foreign", "done"] or got[-1:] == ["foreign"]
        for task in followers:
            task.cancel()
        await asyncio.gather(*followers, return_exceptions=True)


@pytest.mark.anyio
async def test_nothing_grows_with_agents_and_turns(clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents that are not watched are forgotten, turns that ended leave no queue, no doubt and no waiter behind."""
    monkeypatch.setattr("nairi_async._nairi.polling.change_feeds._REMEMBERED", 10)
    simulator = Simulator(clock=clock, quirks=Quirks(updated_at_moves="completion"))
    for number in range(40):
        simulator.agent(f"agent-{number}", [Say("done", after=5)], instances=1)
    async with in_memory_session(simulator) as nairi:
        held = asyncio.create_task(nairi.ask("agent-0", "x"))
        await clock.sleep(1)
        kept = nairi._context.feeds.of("agent-0")
        for number in range(1, 40):
            await asyncio.gather(*(nairi.ask(f"agent-{number}", "x") for _ in range(4)))
        feeds = nairi._context.feeds
        assert len(feeds) <= 11
        await held
        for feed in (kept, feeds.of("agent-39")):
            assert not feed.queue
            assert not feed._waiters
            assert not feed._jobs
            assert len(feed.ends._doubts) + len(feed.messages._doubts) == 0
