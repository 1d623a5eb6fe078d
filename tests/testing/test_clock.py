from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from nairi_async import BadRequestError, NairiSession
from nairi_async.bots import Chats
from nairi_async.testing import FaultPlan, Say, Simulator, Tool, VirtualClock
from nairi_async.testing import clock as clock_module

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.anyio
AGENT = "my-agent"


class CountingClock(VirtualClock):
    """Records how many idle passes of the loop a task took between two steps without a pause in virtual time."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    def _step(self, loop: asyncio.AbstractEventLoop, passes: int) -> None:
        if self._busy > self._stalled:
            self.passes = max(self.passes, clock_module.IDLE_PASSES - passes)
        super()._step(loop, passes)


async def ask(nairi: NairiSession) -> None:
    await nairi.ask(AGENT, "Hello")


async def watch(nairi: NairiSession) -> None:
    assert [message.content async for message in nairi.watch(await nairi.start(AGENT, "Hello"))]


async def talk(nairi: NairiSession) -> None:
    conversation = nairi.conversation(AGENT)
    await asyncio.gather(*(conversation.ask(str(number)) for number in range(3)))


async def ask_many(nairi: NairiSession) -> None:
    assert [outcome async for outcome in nairi.ask_many(AGENT, map(str, range(30)))]


async def chat(nairi: NairiSession) -> None:
    chats = Chats(nairi, AGENT)
    await asyncio.gather(*(chats.ask(str(number % 4), "Hello") for number in range(12)))


@pytest.mark.parametrize("work", [ask, watch, talk, ask_many, chat])
@pytest.mark.parametrize("rate", [0.0, 0.15])
async def test_the_clock_waits_long_enough_for_the_next_request(
    work: Callable[[NairiSession], Awaitable[None]], rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that has a response sends its next request within half of the idle passes that the clock allows.

    Fails when a new asyncio or aiohttp needs more of them: then raise `IDLE_PASSES`.
    """
    allowed = clock_module.IDLE_PASSES
    monkeypatch.setattr(clock_module, "IDLE_PASSES", 10 * allowed)
    clock = CountingClock()
    plan = FaultPlan(seed=1, rates={"rate limited": rate})
    script = [Tool("Bash", seconds=30), Say("done", after=5)]
    async with (
        Simulator(clock=clock, agents={AGENT: script}, faults=plan) as simulator,
        NairiSession(simulator.api_key, base_url=simulator.url, clock=clock) as nairi,
    ):
        await work(nairi)
    assert clock.passes <= allowed / 2
    assert clock.monotonic() >= 35


@pytest.mark.parametrize("is_spinning", [False, True])
async def test_time_goes_on_after_few_passes_of_a_loop_with_nothing_to_do(*, is_spinning: bool) -> None:
    """A jump takes seven passes of the loop at most; a task that is never quiet delays it, and does not prevent it."""
    steps = 0

    class StepClock(VirtualClock):
        def _step(self, loop: asyncio.AbstractEventLoop, passes: int) -> None:
            nonlocal steps
            steps += 1
            super()._step(loop, passes)

    async def spin() -> None:
        while True:  # noqa: ASYNC110 - the loop has something to do in each pass
            await asyncio.sleep(0)

    clock = StepClock()
    spinning = asyncio.create_task(spin()) if is_spinning else None
    for _ in range(10):
        await clock.sleep(60)
    if spinning is not None:
        spinning.cancel()
    assert clock.monotonic() == 600
    allowed = clock_module.IDLE_PASSES
    assert (allowed <= steps / 10 <= allowed + 2) if is_spinning else steps / 10 <= 8


async def test_a_clock_shows_its_time_and_its_waiters() -> None:
    """The repr of a clock, and of a simulator with it, says what a test that hangs waits for."""
    clock = VirtualClock()
    simulator = Simulator(clock=clock)
    assert repr(simulator) == "<Simulator not running, 0 requests, <VirtualClock 0.000 s, 0 sleepers, 0 under way>>"
    sleeper = asyncio.create_task(clock.sleep(3))
    await asyncio.sleep(0)
    assert repr(clock) == "<VirtualClock 0.000 s, 1 sleepers, 0 under way>"
    await sleeper
    async with simulator:
        assert simulator.url in repr(simulator)
    assert repr(clock) == "<VirtualClock 3.000 s, 0 sleepers, 0 under way>"


async def test_polls_of_a_session_with_another_clock_are_refused_with_the_remedy() -> None:
    """Virtual time stands still for them: without the error the session would wait for hours of real time."""
    async with Simulator(clock=VirtualClock()) as simulator:
        simulator.agent(AGENT, [Say("done", after=600)])
        async with NairiSession(simulator.api_key, base_url=simulator.url) as nairi:
            with pytest.raises(BadRequestError, match=r"another clock.*`clock=`.*nairi_environment"):
                await nairi.ask(AGENT, "Hello")
            watch = nairi.watch(simulator.prompts[0].job_id)
            with pytest.raises(BadRequestError, match="virtual time stands still"):
                assert [message async for message in watch]
