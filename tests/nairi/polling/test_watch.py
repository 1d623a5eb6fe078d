"""What a watch promises, against the simulator in virtual time."""

from __future__ import annotations

import asyncio
import math
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

import pytest
from aiohttp import web

from nairi_async import (
    AuthenticationError,
    ConnectionFailedError,
    InvalidArgumentError,
    NairiSession,
    NotFoundError,
    Polling,
    RetryPolicy,
    ServerError,
    Turn,
    TurnFailedError,
    WatchTimeoutError,
)
from nairi_async.testing import Done, Fail, FaultPlan, Notice, Quirks, Say, Simulator, Text, Tool, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nairi_async import Watch

pytestmark = pytest.mark.anyio


async def said(watch: Watch) -> list[str]:
    """Return everything that a watch gives, as texts."""
    return [message.content async for message in watch]


async def test_messages_come_as_they_are_discovered(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock
) -> None:
    """Several replies of one turn come one by one while it still runs, each within the polling's bound."""
    simulator.agent("my-agent", [Say("one", after=10), Say("two", after=10), Done(after=10)])
    turn = await nairi.start("my-agent", "go")
    seen = [(message.content, clock.monotonic()) async for message in nairi.watch(turn)]
    assert [content for content, _ in seen] == ["one", "two"]
    assert 10 <= seen[0][1] <= 12.3
    assert 20 <= seen[1][1] <= 22.3


async def test_progress_is_left_out_unless_asked_for(nairi: NairiSession, simulator: Simulator) -> None:
    """Progress messages come typed with progress=True and not at all without."""
    simulator.agent("my-agent", [Text("looking"), Tool("Bash", input="ls", seconds=3), Say("done")])
    turn = await nairi.start("my-agent", "go")
    assert await said(nairi.watch(turn)) == ["done"]
    seen = [message async for message in nairi.watch(turn, progress=True)]
    kinds = [message.progress.progress_type for message in seen if message.progress is not None]
    assert kinds == ["text", "tool_use", "tool_use"]
    assert seen[-1].content == "done"


@pytest.mark.parametrize(
    "quirks",
    [
        Quirks(order="newest first"),
        Quirks(order="shuffled", order_seed=3),
        Quirks(timestamps="equal"),
        Quirks(timestamps="omitted"),
        Quirks(repeat_every=1),
        Quirks(stale_by=0.9, stale_every=2),
        Quirks(list_lag=0.9),
        Quirks(status_lag=20),
        Quirks(clock_skew=-3600),
        Quirks(clock_skew=3600),
        Quirks(unknown_fields=True),
        Quirks(first_status="scheduled", first_status_for=3),
        Quirks(only_user_messages_by_id=True),
        Quirks(start_code=200),
    ],
    ids=str,
)
async def test_each_message_comes_once_and_in_order(nairi: NairiSession, simulator: Simulator, quirks: Quirks) -> None:
    """Repeated, reordered and delayed messages come once and in order, in the first turn and in a later one."""
    simulator.quirks = quirks
    simulator.agent("my-agent", [Say("one", after=3, unfinished_for=2), Say("two", after=4), Say("three", after=0.5)])
    turn = await nairi.start("my-agent", "go")
    assert await said(nairi.watch(turn)) == ["one", "two", "three"]
    turn = await nairi.continue_(turn.job_id, "again")
    assert await said(nairi.watch(turn)) == ["one", "two", "three"]


async def test_late_notices_within_the_settling_time_are_delivered(nairi: NairiSession, simulator: Simulator) -> None:
    """A notice 0.3 s after the end comes; the last read happens after the terminal status was seen."""
    simulator.agent("my-agent", [Say("done", after=5), Done(), Notice("Agent opened a pull request", after=0.3)])
    turn = await nairi.start("my-agent", "go")
    assert await said(nairi.watch(turn)) == ["done", "Agent opened a pull request"]


async def test_a_reply_later_than_its_status_is_delivered(nairi: NairiSession, simulator: Simulator) -> None:
    """`watch` and `reply` both wait the settling time for a reply that the service shows after the status."""
    simulator.agent("my-agent", [Done(after=2), Say("late", after=0.7)])
    assert await said(nairi.watch(await nairi.start("my-agent", "go"))) == ["late"]
    assert (await nairi.ask("my-agent", "go")).text == "late"


async def test_a_list_older_than_the_end_is_not_the_reply(nairi: NairiSession, simulator: Simulator) -> None:
    """A stale list that has the first half of a reply, and shows the turn running, is read again after a while."""
    simulator.agent("my-agent", [Say("first"), Say("second", after=10)])
    simulator.faults = FaultPlan(where="GET .*/messages$", script=["stale"], lag=8)
    assert (await nairi.ask("my-agent", "Hello")).text == "first\n\nsecond"


async def test_a_turn_without_a_reply_ends(nairi: NairiSession, simulator: Simulator) -> None:
    """`completed` without any reply is legal: the watch ends, the reply is empty."""
    simulator.agent("my-agent", [Done(after=2)])
    assert await said(nairi.watch(await nairi.start("my-agent", "go"))) == []
    reply = await nairi.ask("my-agent", "go")
    assert (reply.text, reply.messages, reply.usage) == ("", (), None)


async def test_a_failed_turn_gives_what_there_is_and_raises(nairi: NairiSession, simulator: Simulator) -> None:
    """Every message comes first; then TurnFailedError with the service's text, at each further step too."""
    simulator.agent("my-agent", [Say("half", after=2), Fail("out of money", after=1)])
    turn = await nairi.start("my-agent", "go")
    watch = nairi.watch(turn)
    seen: list[str] = []
    with pytest.raises(TurnFailedError, match="out of money") as failed:
        seen += [message.content async for message in watch]
    assert failed.value.turn == turn
    assert [message.content for message in failed.value.messages] == ["half", "nairid encountered error: out of money"]
    with pytest.raises(TurnFailedError):
        await anext(watch)
    with pytest.raises(TurnFailedError, match="out of money"):
        await nairi.reply(turn)
    assert (await nairi.wait(turn)).status == "failed"


async def test_a_conversation_gives_the_whole_timeline(nairi: NairiSession, simulator: Simulator) -> None:
    """A job id gives all messages, prompts included, from `after` on, and ends when no prompt is open."""
    simulator.agent("my-agent", lambda prompt, number: [Say(f"{number}: {prompt}", after=5)])
    turn = await nairi.start("my-agent", "a")
    await nairi.wait(turn)
    await nairi.continue_(turn.job_id, "b")
    messages = [message async for message in nairi.watch(turn.job_id)]
    assert [message.content for message in messages] == ["a", "1: a", "b", "2: b"]
    assert await said(nairi.watch(turn.job_id, after=messages[1].id)) == ["b", "2: b"]


async def test_an_old_turn_gives_its_own_messages(nairi: NairiSession, simulator: Simulator) -> None:
    """A turn watched or read after later turns have ended gives what belongs to it."""
    simulator.agent("my-agent", lambda prompt, _: [Say(f"re {prompt}", after=5)])
    first = await nairi.start("my-agent", "a")
    await nairi.wait(first)
    second = await nairi.continue_(first.job_id, "b")
    await nairi.wait(second)
    assert await said(nairi.watch(first)) == ["re a"]
    assert (await nairi.reply(first)).text == "re a"
    assert (await nairi.reply(second)).text == "re b"


async def test_the_cursor_resumes_in_another_session(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock
) -> None:
    """`after=watch.cursor` goes on behind the last message handed over, without loss or repetition."""
    simulator.agent("my-agent", [Say("one", after=3), Text("hm"), Say("two", after=3), Say("three", after=3)])
    turn = await nairi.start("my-agent", "go")
    watch = nairi.watch(turn, progress=True)
    assert watch.cursor is None
    assert [(await anext(watch)).role for _ in range(2)] == ["assistant", "progress"]
    async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock) as other:
        assert await said(other.watch(turn, after=watch.cursor)) == ["two", "three"]


async def test_a_wrong_cursor_is_an_error(nairi: NairiSession) -> None:
    """A cursor that no message has is a NotFoundError at once, not an endless wait."""
    turn = await nairi.start("my-agent", "go")
    with pytest.raises(NotFoundError):
        await anext(nairi.watch(turn, after="cmsg_nowhere"))


async def test_following_goes_on_until_closed(nairi: NairiSession, simulator: Simulator) -> None:
    """follow=True outlives turns, failed ones too, and gives later prompts and replies."""
    simulator.agent(
        "my-agent", lambda prompt, _: [Fail("no", after=2)] if prompt == "b" else [Say(f"re {prompt}", after=2)]
    )
    turn = await nairi.start("my-agent", "a")
    watch = nairi.watch(turn, follow=True)
    assert (await anext(watch)).content == "re a"
    await nairi.continue_(turn.job_id, "b")
    assert [(await anext(watch)).content for _ in range(2)] == ["b", "nairid encountered error: no"]
    await nairi.continue_(turn.job_id, "c")
    assert [(await anext(watch)).content for _ in range(2)] == ["c", "re c"]
    await watch.aclose()
    assert await said(watch) == []


async def test_the_timeout_is_the_whole_wait(nairi: NairiSession, simulator: Simulator, clock: VirtualClock) -> None:
    """WatchTimeoutError comes at the timeout, says where things stand, and the turn can be watched again."""
    simulator.agent("my-agent", [Say("one", after=2), Say("two", after=60)])
    turn = await nairi.start("my-agent", "go")
    watch = nairi.watch(turn, timeout=10)
    first = await anext(watch)
    with pytest.raises(WatchTimeoutError) as timed_out:
        await anext(watch)
    assert clock.monotonic() == pytest.approx(10)
    assert (timed_out.value.turn, timed_out.value.status, timed_out.value.cursor) == (turn, "pending", first.id)
    with pytest.raises(WatchTimeoutError):
        await nairi.wait(turn, timeout=5)
    with pytest.raises(WatchTimeoutError):
        await nairi.reply(turn, timeout=5)
    with pytest.raises(WatchTimeoutError) as asked:
        await nairi.ask("my-agent", "go", timeout=5)
    assert isinstance(asked.value.turn, Turn)
    assert await said(nairi.watch(turn, after=first.id, timeout=math.inf)) == ["two"]


async def test_a_timeout_counts_from_the_first_step(nairi: NairiSession, clock: VirtualClock) -> None:
    """A watch made now and used later loses none of its time."""
    watch = nairi.watch(await nairi.start("my-agent", "go"), timeout=5)
    await clock.sleep(100)
    assert len(await said(watch)) == 1


async def test_a_timeout_holds_against_a_service_that_is_down(simulator: Simulator, clock: VirtualClock) -> None:
    """Retries do not outlast the whole wait; the fault is the cause of the WatchTimeoutError."""
    async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock) as nairi:
        turn = await nairi.start("my-agent", "go")
        simulator.intercept = _unavailable
        with pytest.raises((WatchTimeoutError, ServerError)):
            await nairi.wait(turn, timeout=3)
        assert clock.monotonic() <= 3


async def test_passing_faults_are_outlived(nairi: NairiSession, simulator: Simulator) -> None:
    """Errors, cut connections and unreadable answers between good ones lose nothing."""
    simulator.agent("my-agent", [Say("one", after=3), Say("two", after=3)])
    turn = await nairi.start("my-agent", "go")
    faults: list[Callable[[web.Request], Awaitable[web.StreamResponse]]] = [
        _unavailable,
        _cut,
        lambda _: _answer(web.Response(text="<html>", content_type="text/html")),
        lambda _: _answer(web.json_response({"messages": "none"})),
        lambda _: _answer(web.json_response([1])),
        lambda _: _answer(web.Response(body=b"")),
        lambda _: _answer(web.json_response({"error": "slow down"}, status=429, headers={"Retry-After": "1"})),
    ]
    calls = 0

    async def sometimes(request: web.Request) -> web.StreamResponse | None:
        nonlocal calls
        calls += 1
        return await faults[calls // 2 % len(faults)](request) if calls % 2 else None

    simulator.intercept = sometimes
    assert await said(nairi.watch(turn)) == ["one", "two"]
    assert calls > 8


async def test_a_lasting_fault_raises_and_the_watch_goes_on_afterwards(
    simulator: Simulator, clock: VirtualClock
) -> None:
    """When the retry policy gives up, the error comes out; the next step goes on where the watch stood."""
    simulator.agent("my-agent", [Say("one", after=3), Say("two", after=3)])
    retry = RetryPolicy(attempts=2)
    async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock, retry=retry) as nairi:
        watch = nairi.watch(await nairi.start("my-agent", "go"))
        assert (await anext(watch)).content == "one"
        simulator.intercept = _unavailable
        with pytest.raises(ServerError):
            await anext(watch)
        simulator.intercept = _cut
        with pytest.raises(ConnectionFailedError):
            await anext(watch)
        simulator.intercept = None
        assert await said(watch) == ["two"]


async def test_a_fatal_answer_raises_at_once(nairi: NairiSession, simulator: Simulator) -> None:
    """401 and 404 are not retried."""
    turn = await nairi.start("my-agent", "go")
    before = len(simulator.requests)
    with pytest.raises(NotFoundError):
        await anext(nairi.watch("job_nowhere"))
    simulator.api_key = "nr_another"
    with pytest.raises(AuthenticationError):
        await anext(nairi.watch(turn))
    assert len(simulator.requests) == before + 2


async def test_a_heavy_timeline_is_read_seldom(nairi: NairiSession, simulator: Simulator) -> None:
    """While a big conversation runs, its status is read by itself, and the whole only at intervals by weight."""
    script = [*(Text("x" * 10_000, after=0.3) for _ in range(200)), Say("done", after=0.1)]
    simulator.agent("my-agent", script)
    turn = await nairi.start("my-agent", "go")
    assert await said(nairi.watch(turn)) == ["done"]
    whole = [seen for seen in simulator.requests if seen.path.endswith("/messages")]
    single = [seen for seen in simulator.requests if "/messages/" in seen.path]
    assert len(single) > len(whole)
    assert len(whole) <= 15


async def test_two_watchers_of_one_job_share_the_reads(nairi: NairiSession, simulator: Simulator) -> None:
    """Ten watchers of one turn cost hardly more reads than one, and each gets everything."""
    simulator.agent("my-agent", [Say("one", after=20), Say("two", after=20)])
    alone = await nairi.start("my-agent", "go")
    await said(nairi.watch(alone))
    cost = len(simulator.requests)
    turn = await nairi.start("my-agent", "go")
    results = await asyncio.gather(*(said(nairi.watch(turn)) for _ in range(10)))
    assert results == [["one", "two"]] * 10
    assert len(simulator.requests) - cost <= 1.5 * cost


async def test_an_abandoned_watch_costs_nothing(nairi: NairiSession, simulator: Simulator, clock: VirtualClock) -> None:
    """After a break nothing polls on: no request, no task."""
    simulator.agent("my-agent", [Say("one", after=2), Say("two", after=100)])
    async for message in nairi.watch(await nairi.start("my-agent", "go")):
        assert message.content == "one"
        break
    before = len(simulator.requests)
    await clock.sleep(1000)
    assert len(simulator.requests) == before


async def test_a_slow_consumer_slows_its_polling(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock
) -> None:
    """While the consumer works on a message, nothing is read."""
    simulator.agent("my-agent", [Say("one", after=2), Say("two", after=2)])
    watch = nairi.watch(await nairi.start("my-agent", "go"))
    await anext(watch)
    before = len(simulator.requests)
    await clock.sleep(3600)
    assert len(simulator.requests) == before
    assert await said(watch) == ["two"]


async def test_settle_of_zero_still_reads_after_the_end(simulator: Simulator, clock: VirtualClock) -> None:
    """The last read happens after the terminal status was seen even when no time is allowed for notices."""
    polling = Polling(settle=0)
    async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock, polling=polling) as nairi:
        assert len(await said(nairi.watch(await nairi.start("my-agent", "go")))) == 1
        assert simulator.requests[-1].path.endswith("/messages")


async def _unavailable(_: web.Request) -> web.StreamResponse:
    return web.json_response({"error": "down"}, status=503)


async def _cut(_: web.Request) -> web.StreamResponse:
    raise ConnectionResetError


async def _answer(response: web.Response) -> web.StreamResponse:
    return response


@pytest.mark.parametrize("timestamps", ["kept", "omitted", "equal"])
async def test_a_lagging_list_never_gives_an_earlier_turn(
    nairi: NairiSession, simulator: Simulator, timestamps: Literal["kept", "omitted", "equal"]
) -> None:
    """While the list does not show the new prompt, nothing in it is taken for its reply."""
    simulator.quirks = Quirks(list_lag=0.5, timestamps=timestamps)
    simulator.agent("my-agent", lambda prompt, _: [Say(f"re {prompt}", after=3)])
    conversation = nairi.conversation("my-agent")
    assert [(await conversation.ask(prompt)).text for prompt in "abc"] == ["re a", "re b", "re c"]


async def test_a_conversation_that_shows_no_prompt_yet_is_not_over(nairi: NairiSession, simulator: Simulator) -> None:
    """A list that lags by more than the settling time does not end the watch of a job empty and in silence."""
    simulator.quirks = Quirks(list_lag=3)
    simulator.agent("my-agent", [Say("done", after=10)])
    turn = await nairi.start("my-agent", "go")
    assert "done" in await said(nairi.watch(turn.job_id))
    async with NairiSession(simulator.api_key, base_url=simulator.url, clock=nairi._context.clock) as stranger:
        later = await nairi.start("my-agent", "go")
        assert await said(stranger.watch(later.job_id)) == ["go", "done"]


async def test_a_followed_turn_that_was_over_at_once_is_settled(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock
) -> None:
    """Following, a turn that began and ended between two polls still gives its growing reply whole."""
    simulator.agent("my-agent", [Done(), Say("a long reply that grows", unfinished_for=0.8)])
    turn = await nairi.start("my-agent", "go")
    watch = nairi.watch(turn, follow=True)
    assert (await anext(watch)).content == "a long reply that grows"
    for _ in range(5):
        await clock.sleep(7.3)
        await nairi.continue_(turn.job_id, "again")
        assert [(await anext(watch)).content for _ in range(2)] == ["again", "a long reply that grows"]


async def test_a_followed_heavy_conversation_is_left_alone_while_idle(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock
) -> None:
    """Between turns, a conversation of megabytes is not read every other second."""
    simulator.agent("my-agent", [*(Text("x" * 100_000) for _ in range(20)), Say("done")])
    turn = await nairi.start("my-agent", "go")
    async with nairi.watch(turn, follow=True, timeout=120) as watch:
        with pytest.raises(WatchTimeoutError):
            await said(watch)
    assert clock.monotonic() == pytest.approx(120)
    assert len(simulator.requests) < 15


class TestReply:
    """`watch.reply()` gives the reply of the watched turn, instead of iterating or after it."""

    async def test_after_iterating_nothing_is_read_again(self, nairi: NairiSession, simulator: Simulator) -> None:
        """The reply after the iteration equals that of `nairi.reply`, and takes no request."""
        simulator.agent(
            "my-agent", [Say("one", after=3), Text("hm"), Say("two", after=3, usage={"cost_usd": 0.5}), Notice("pr")]
        )
        turn = await nairi.start("my-agent", "go")
        for progress in (False, True):
            watch = nairi.watch(turn, progress=progress)
            await said(watch)
            before = len(simulator.requests)
            reply = await watch.reply()
            assert len(simulator.requests) == before
            assert reply == await nairi.reply(turn)
            assert (reply.text, reply.turn) == ("one\n\ntwo", turn)

    async def test_behind_a_cursor_the_reply_is_whole(self, nairi: NairiSession, simulator: Simulator) -> None:
        """A watch that began behind a message still gives the whole turn's reply, without another request."""
        simulator.agent("my-agent", [Say("one", after=3), Say("two", after=3)])
        turn = await nairi.start("my-agent", "go")
        first = await anext(nairi.watch(turn))
        watch = nairi.watch(turn, after=first.id)
        assert await said(watch) == ["two"]
        before = len(simulator.requests)
        assert (await watch.reply()).text == "one\n\ntwo"
        assert len(simulator.requests) == before

    async def test_before_iterating_it_waits_and_the_iteration_is_whole(
        self, nairi: NairiSession, simulator: Simulator
    ) -> None:
        """Asked for first or in the middle, the reply is awaited, and every message is still delivered."""
        simulator.agent("my-agent", [Say("one", after=3), Say("two", after=3)])
        watch = nairi.watch(await nairi.start("my-agent", "go"))
        assert (await watch.reply()).text == "one\n\ntwo"
        assert await said(watch) == ["one", "two"]
        watch = nairi.watch(await nairi.start("my-agent", "go"))
        assert (await anext(watch)).content == "one"
        assert (await watch.reply()).text == "one\n\ntwo"
        assert await said(watch) == ["two"]

    async def test_a_sent_prompt_is_sent_once(self, nairi: NairiSession, simulator: Simulator) -> None:
        """`conversation.send(…).reply()` sends the prompt, gives its reply, and sends nothing when repeated."""
        conversation = nairi.conversation("my-agent")
        watch = conversation.send("go")
        assert (await watch.reply()).text
        assert await watch.reply() == await nairi.reply(watch.turn or Turn("", ""))
        assert len(simulator.prompts) == 1
        unsent = conversation.send("more")
        await unsent.aclose()
        with pytest.raises(InvalidArgumentError, match="call `send` again"):
            await unsent.reply()
        assert len(simulator.prompts) == 1

    async def test_a_failed_turn_raises(self, nairi: NairiSession, simulator: Simulator) -> None:
        """Before and after iterating, the reply of a failed turn is its TurnFailedError with all messages."""
        simulator.agent("my-agent", [Say("half", after=2), Fail("out of money", after=1)])
        watch = nairi.watch(await nairi.start("my-agent", "go"))
        for _ in range(2):
            with pytest.raises(TurnFailedError, match="out of money") as failed:
                await watch.reply()
            assert [message.role for message in failed.value.messages] == ["assistant", "system"]
            with pytest.raises(TurnFailedError):
                await said(watch)

    async def test_a_whole_conversation_has_no_single_reply(self, nairi: NairiSession) -> None:
        """For a watch of a job, the error says what to do instead."""
        turn = await nairi.start("my-agent", "go")
        with pytest.raises(InvalidArgumentError, match="watch a Turn"):
            await nairi.watch(turn.job_id).reply()

    async def test_usage_is_counted_once(self, nairi: NairiSession, simulator: Simulator) -> None:
        """Iterating, the reply of the watch and `nairi.reply` together count the turn's cost once."""
        simulator.agent("my-agent", [Say("done", after=2, usage={"cost_usd": 0.5})])
        watch = nairi.watch(await nairi.start("my-agent", "go"))
        await watch.reply()
        await said(watch)
        await watch.reply()
        assert nairi.usage.total is not None
        assert nairi.usage.total.cost_usd == Decimal("0.5")

    async def test_its_timeout_is_that_of_the_watch(
        self, nairi: NairiSession, simulator: Simulator, clock: VirtualClock
    ) -> None:
        """The time that iterating took is not there again for the reply."""
        simulator.agent("my-agent", [Say("one", after=4), Say("two", after=60)])
        watch = nairi.watch(await nairi.start("my-agent", "go"), timeout=10)
        await anext(watch)
        with pytest.raises(WatchTimeoutError):
            await watch.reply()
        assert clock.monotonic() == pytest.approx(10)

    async def test_it_can_fetch_its_attachments(self, nairi: NairiSession) -> None:
        """The reply of a watch is bound to the session, as that of `nairi.reply` is."""
        watch = nairi.watch(await nairi.start("my-agent", "go"))
        await said(watch)
        assert await (await watch.reply()).attachments() == []


async def test_only_what_sends_is_awaitable(nairi: NairiSession) -> None:
    """`await nairi.watch(turn)` would do nothing, so it is a TypeError; awaiting `send` sends the prompt."""
    turn = await nairi.start("my-agent", "go")
    with pytest.raises(TypeError):
        await nairi.watch(turn)  # type: ignore[misc]
    async with nairi.watch(turn) as watch:
        assert watch.turn == turn
    async with nairi.conversation("my-agent").send("go") as sent:
        assert sent.turn is not None


async def test_a_watch_shows_what_it_watches(nairi: NairiSession) -> None:
    """Its repr names the turn or job, the status and the cursor; that of the cadence how much was learnt."""
    turn = await nairi.start("my-agent", "go")
    watch = nairi.watch(turn)
    assert repr(watch) == f"<Watch of {turn.message_id} status=None cursor=None>"
    message = await anext(watch)
    assert f"status={watch.status} cursor={message.id}>" in repr(watch)
    assert turn.job_id in repr(nairi.watch(turn.job_id, after="cmsg_1"))
    assert "an unsent prompt" in repr(nairi.conversation("my-agent").send("go"))
    assert repr(nairi.cadence).startswith("<Cadence agents=1 delay=1 ")
