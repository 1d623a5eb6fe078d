"""How long a wait lasts: never without a last poll, the default only while a turn runs; unknown statuses are logged."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from nairi_async import DEFAULT_TIMEOUT, NairiSession, Polling, WatchTimeoutError
from nairi_async.testing import Done, FaultPlan, Quirks, Say, Simulator, VirtualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

HOUR = 3600.0


@pytest.mark.parametrize("timeout", [0, 1e-4, 1, 7.3])
async def test_a_wait_never_ends_without_a_last_poll(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock, timeout: float
) -> None:
    """A turn that ends before the timeout is found, however far away the next poll is."""
    simulator.agent("my-agent", [Say("done", after=20)])
    for wait in ("reply", "watch", "wait"):
        turn = await nairi.start("my-agent", "go")
        await clock.sleep(20 - 0.5 * timeout)
        if wait == "reply":
            assert (await nairi.reply(turn, timeout=timeout)).text == "done"
        elif wait == "watch":
            assert [message.content async for message in nairi.watch(turn, timeout=timeout)] == ["done"]
        else:
            assert (await nairi.wait(turn, timeout=timeout)).status == "completed"


async def test_a_turn_that_ends_just_before_the_timeout_is_found(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock
) -> None:
    """After twenty turns of half a minute nothing would be polled at 11 seconds but for the timeout."""
    simulator.agent("my-agent", lambda prompt, _: [Say("done", after=float(prompt))])
    for _ in range(20):
        await nairi.ask("my-agent", "30")
    assert (await nairi.ask("my-agent", "10.95", timeout=11)).text == "done"
    before = clock.monotonic()
    with pytest.raises(WatchTimeoutError):
        await nairi.ask("my-agent", "11.05", timeout=11)
    assert clock.monotonic() - before == pytest.approx(11, abs=0.01)


async def test_a_consumer_that_is_slower_than_the_timeout_gets_what_there_is(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock
) -> None:
    """The turn ended long ago; the time that the consumer took for its messages does not cost it the rest."""
    simulator.agent("my-agent", [Say("one", after=5), Say("two", after=5), Done()])
    contents = []
    async for message in nairi.watch(await nairi.start("my-agent", "go"), timeout=60):
        contents.append(message.content)
        await clock.sleep(90)
    assert contents == ["one", "two"]


async def test_a_turn_that_goes_on_is_polled_once_after_the_timeout(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock
) -> None:
    """Each further step of a watch whose time is over raises without a request."""
    simulator.agent("my-agent", [Say("one", after=500)])
    watch = nairi.watch(await nairi.start("my-agent", "go"), timeout=5)
    for _ in range(3):
        with pytest.raises(WatchTimeoutError):
            await anext(watch)
    assert clock.monotonic() == pytest.approx(5)
    before = len(simulator.requests)
    with pytest.raises(WatchTimeoutError):
        await anext(watch)
    assert len(simulator.requests) == before


async def test_a_timeout_holds_for_many_while_the_service_hangs(simulator: Simulator, clock: VirtualClock) -> None:
    """Watches that wait for a connection end no later than those that wait for a response, and begin no request."""
    async with NairiSession(
        simulator.api_key, base_url=simulator.url, clock=clock, max_connections=2, polling=Polling(first=1)
    ) as nairi:
        turns = [await nairi.start("my-agent", f"question {number}") for number in range(40)]
        simulator.faults = FaultPlan(rates={"hang before": 1.0})
        before, begun = clock.monotonic(), len(simulator.requests)
        errors = await asyncio.gather(*(nairi.reply(turn, timeout=10) for turn in turns), return_exceptions=True)
        assert {type(error) for error in errors} == {WatchTimeoutError}
        assert clock.monotonic() - before < 20
        assert len(simulator.requests) - begun <= 10


class TestQueued:
    """The default timeout bounds how long a turn runs, not how long it is queued before."""

    @pytest.fixture
    async def nairi(self, simulator: Simulator, clock: VirtualClock) -> AsyncIterator[NairiSession]:
        """Return a session that polls seldom, because these turns take hours."""
        polling = Polling(delay=300, first=300, maximum=600)
        async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock, polling=polling) as session:
            yield session

    async def test_the_default_does_not_count_the_queue(
        self, nairi: NairiSession, simulator: Simulator, clock: VirtualClock
    ) -> None:
        """A turn queued for eight hours behind another one is waited for, in every way."""
        simulator.agent("my-agent", lambda prompt, _: [Say("done", after=float(prompt) * HOUR)], instances=1)
        await nairi.start("my-agent", "8")
        assert (await nairi.ask("my-agent", "0.5")).text == "done"
        assert clock.monotonic() > 8 * HOUR > DEFAULT_TIMEOUT
        await nairi.start("my-agent", "8")
        turn = await nairi.start("my-agent", "0.5")
        assert [message.content async for message in nairi.watch(turn)] == ["done"]
        await nairi.start("my-agent", "8")
        assert (await nairi.wait(await nairi.start("my-agent", "0.5"))).status == "completed"
        await nairi.start("my-agent", "8")
        assert (await nairi.conversation("my-agent").send("0.5").reply()).text == "done"

    async def test_a_stated_timeout_counts_it(
        self, nairi: NairiSession, simulator: Simulator, clock: VirtualClock
    ) -> None:
        """A stated timeout is the whole wait, the time in the queue included."""
        simulator.agent("my-agent", [Say("done", after=HOUR)])
        first = await nairi.start("my-agent", "go")
        with pytest.raises(WatchTimeoutError):
            await nairi.reply(await nairi.continue_(first.job_id, "more"), timeout=60)
        assert clock.monotonic() == pytest.approx(60, abs=0.1)

    async def test_a_turn_that_runs_too_long_is_given_up(
        self, nairi: NairiSession, simulator: Simulator, clock: VirtualClock
    ) -> None:
        """Six hours of running are the default's bound."""
        simulator.agent("my-agent", [Say("done", after=20 * HOUR)])
        with pytest.raises(WatchTimeoutError):
            await nairi.ask("my-agent", "go")
        assert clock.monotonic() == pytest.approx(DEFAULT_TIMEOUT, abs=1)

    async def test_prompts_of_a_conversation_do_not_use_up_each_others_time(
        self, nairi: NairiSession, simulator: Simulator
    ) -> None:
        """Three prompts of four hours each, asked at once in one conversation, all get their replies."""
        simulator.agent("my-agent", [Say("done", after=4 * HOUR)])
        conversation = nairi.conversation("my-agent")
        watches = [conversation.send("go") for _ in range(3)]
        assert [(await watch.reply()).text for watch in watches] == ["done"] * 3


async def test_an_unknown_status_is_logged_once(
    nairi: NairiSession, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    """A status that is neither open nor terminal as documented gets one WARNING that names it; known ones get none."""
    caplog.set_level(logging.WARNING, logger="nairi_async.polling")
    await nairi.ask("my-agent", "go")
    assert caplog.messages == []
    simulator.quirks = Quirks(first_status="cancelled", first_status_for=100)
    simulator.agent("my-agent", [Say("done", after=60)])
    turn = await nairi.start("my-agent", "go")
    with pytest.raises(WatchTimeoutError, match="cancelled"):
        await nairi.wait(turn, timeout=20)
    await nairi.reply(turn)
    assert [message.content async for message in nairi.watch(await nairi.start("my-agent", "go"))]
    (message,) = caplog.messages
    assert "'cancelled'" in message
    assert turn.message_id in message
