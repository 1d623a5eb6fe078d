"""Events of a session: what hooks get, what is logged, and what the session counts."""

from __future__ import annotations

import asyncio
import functools
import logging
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import support
from support import KEY, MESSAGE, STARTED, Act, RawServer, answer, refusal

from nairi_async import ConfigurationError, NairiSession, RetryPolicy, ServerError, Stats, TurnFailedError, Usage
from nairi_async._nairi.service import SERVICE as NAIRI
from nairi_async.amigo import AmigoSession
from nairi_async.hooks import Event, FeedChanged, PollPlanned, RequestDone, RetryPlanned, TurnEnded
from nairi_async.testing import Fail, Quirks, Say, Simulator, Text, VirtualClock
from nairi_async.testing.amigo import AmigoSimulator

if TYPE_CHECKING:
    from nairi_async.testing.script import Steps

LOGGERS = ("nairi_async.requests", "nairi_async.polling", "nairi_async.prompts", "nairi_async.hooks")
SPENT = {"input_tokens": 10, "output_tokens": 2, "cost_usd": 0.25}
ANSWERED: Steps = [Text("looking", after=20), Say("a confidential answer", after=10, usage=SPENT)]


def ours(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name.startswith("nairi_async")]


async def events_of(steps: Steps, *, wait: str = "reply") -> list[Event]:
    """Return the events of one turn that is waited for in one way."""
    events: list[Event] = []
    clock = VirtualClock()
    async with Simulator(clock=clock) as simulator:
        simulator.agent("my-agent", steps)
        async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock, hooks=[events.append]) as nairi:
            turn = await nairi.start("my-agent", "a confidential prompt")
            if wait == "reply":
                await nairi.reply(turn)
            elif wait == "wait":
                await nairi.wait(turn)
            else:
                async for _ in nairi.watch(turn if wait == "watch" else turn.job_id):
                    pass
    return events


@pytest.mark.anyio
async def test_each_attempt_is_told_with_its_answer_or_its_failure() -> None:
    """A request that fails, is refused and then succeeds is three attempts and two retries, in order."""
    events: list[Event] = []
    async with (
        RawServer(Act.CLOSE, refusal(500, "oops"), answer(200, MESSAGE)) as server,
        support.session(server.url, hooks=[events.append]) as nairi,
    ):
        await nairi.message("cmsg_1")
    broken, first, failed, second, done = events
    assert isinstance(broken, RequestDone)
    assert isinstance(first, RetryPlanned)
    assert (broken.attempt, broken.status, broken.error) == (1, None, first.error)
    assert isinstance(failed, RequestDone)
    assert (failed.attempt, failed.status, failed.error) == (2, 500, None)
    assert isinstance(second, RetryPlanned)
    assert second.attempt == 2
    assert isinstance(second.error, ServerError)
    assert 0 <= second.wait <= RetryPolicy().wait_max
    assert isinstance(done, RequestDone)
    assert (done.method, done.path, done.attempt, done.status) == ("GET", "/messages/cmsg_1", 3, 200)
    assert done.bytes_received == len(MESSAGE)
    assert done.seconds >= 0


@pytest.mark.anyio
async def test_the_plan_of_each_look_is_told_and_kept() -> None:
    """Between two polls lies what was planned: the planned waits add up to the length of the wait."""
    events = await events_of([Say("hi", after=30)], wait="wait")
    plans = [event for event in events if isinstance(event, PollPlanned)]
    polls = [event for event in events if isinstance(event, RequestDone) and event.method == "GET"]
    assert len(plans) == len(polls)
    assert {(plan.agent_id, plan.is_announced) for plan in plans} == {("my-agent", False)}
    (end,) = (event for event in events if isinstance(event, TurnEnded))
    assert sum(plan.wait for plan in plans) == pytest.approx(end.seconds)


@pytest.mark.anyio
@pytest.mark.parametrize("wait", ["reply", "wait", "watch", "watch the conversation"])
async def test_the_end_of_a_turn_is_told_once_with_its_figures(wait: str) -> None:
    """However a turn is waited for, its end is one event, and the last."""
    events = await events_of(ANSWERED, wait=wait)
    end = events[-1]
    assert isinstance(end, TurnEnded)
    assert [event for event in events if isinstance(event, TurnEnded)] == [end]
    assert (end.turn.agent_id, end.status) == ("my-agent", "completed")
    assert 30 <= end.seconds <= 40
    assert 0 <= end.seconds - end.discovery_delay <= 35
    assert end.ended_at == pytest.approx(1_775_000_000 + end.seconds, abs=0.5)
    reads = sum(isinstance(event, RequestDone) and event.method == "GET" for event in events)
    assert end.polls == reads > 3
    spent = Usage(cost_usd=Decimal("0.25"), input_tokens=10, output_tokens=2) if wait in {"reply", "watch"} else None
    assert end.usage == spent


@pytest.mark.anyio
async def test_a_turn_that_fails_is_told_as_failed() -> None:
    """The end is emitted before the error is raised."""
    events: list[Event] = []
    clock = VirtualClock()
    async with Simulator(clock=clock) as simulator:
        simulator.agent("my-agent", [Fail("no")])
        async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock, hooks=[events.append]) as nairi:
            with pytest.raises(TurnFailedError):
                await nairi.ask("my-agent", "go")
            assert nairi.stats.turns_ended == 1
    assert isinstance(events[-1], TurnEnded)
    assert events[-1].status == "failed"


@pytest.mark.anyio
async def test_a_turn_that_several_wait_for_ends_once() -> None:
    """Watchers at the same time, and others afterwards, find one end: one event, one turn counted."""
    events: list[Event] = []
    clock = VirtualClock()
    async with Simulator(clock=clock) as simulator:
        simulator.agent("my-agent", ANSWERED)
        async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock, hooks=[events.append]) as nairi:
            turn = await nairi.start("my-agent", "go")
            await asyncio.gather(nairi.reply(turn), nairi.wait(turn))
            _ = [message async for message in nairi.watch(turn)]
            _ = [message async for message in nairi.watch(turn.job_id)]
            assert nairi.stats.turns_ended == 1
    assert sum(isinstance(event, TurnEnded) for event in events) == 1


@pytest.mark.anyio
async def test_the_end_is_told_also_where_the_reply_cannot_be_read() -> None:
    """Once the end was seen, it is emitted even if reading the result fails."""
    events: list[Event] = []
    async with (
        RawServer(answer(201, STARTED), answer(200, MESSAGE), refusal(500, "oops")) as server,
        support.session(server.url, hooks=[events.append], retry=RetryPolicy(attempts=1)) as nairi,
    ):
        with pytest.raises(ServerError):
            await nairi.ask("my-agent", "go")
    assert isinstance(events[-1], TurnEnded)
    assert events[-1].usage is None


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("quirks", "expected"),
    [
        (Quirks(updated_at_moves="completion"), [("ends of turns", True)]),
        (Quirks(updated_at_moves="never"), [("ends of turns", False)]),
        (Quirks(listing=False), [("anything", False)]),
    ],
    ids=["true", "lies", "missing"],
)
async def test_a_listing_switched_on_or_off_is_told(
    quirks: Quirks, expected: list[tuple[str, bool]], caplog: pytest.LogCaptureFixture
) -> None:
    """A hook gets the reason, and the log says the same, as a warning where the listing is not used any more."""
    caplog.set_level(logging.INFO, logger="nairi_async")
    events: list[Event] = []
    clock = VirtualClock()
    async with Simulator(clock=clock, quirks=quirks) as simulator:
        simulator.agent("my-agent", lambda prompt, _: [Say("hi", after=20.0 + int(prompt))])
        async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock, hooks=[events.append]) as nairi:
            _ = [outcome async for outcome in nairi.ask_many("my-agent", map(str, range(40)))]
    changes = [event for event in events if isinstance(event, FeedChanged)]
    assert [(change.news, change.is_used) for change in changes] == expected
    assert [bool(change.reason) for change in changes] == [not change.is_used for change in changes]
    assert [record.getMessage() for record in ours(caplog)] == [str(change) for change in changes]
    assert {record.levelno for record in ours(caplog)} == {logging.INFO if expected[0][1] else logging.WARNING}
    is_waited_for = any(isinstance(event, PollPlanned) and event.is_announced for event in events)
    assert is_waited_for == expected[0][1]


@pytest.mark.anyio
async def test_a_hook_that_raises_disturbs_nothing_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The session goes on, the other hooks are called as well, and the fault is logged once."""
    events: list[Event] = []

    def faulty(event: Event) -> None:
        raise ZeroDivisionError(type(event).__name__)

    clock = VirtualClock()
    async with Simulator(clock=clock) as simulator:
        simulator.agent("my-agent", ANSWERED)
        async with NairiSession(
            simulator.api_key, base_url=simulator.url, clock=clock, hooks=[faulty, events.append]
        ) as nairi:
            assert (await nairi.ask("my-agent", "go")).text == "a confidential answer"
    assert len(events) > 3
    (record,) = ours(caplog)
    assert (record.name, record.levelno) == ("nairi_async.hooks", logging.ERROR)
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def waits(event: Event) -> None:
    """Return a coroutine, which a hook must not."""


class Awaited:
    async def __call__(self, event: Event) -> None:
        """Return a coroutine, which a hook must not."""


@pytest.mark.parametrize("hooks", [3, print, ["no function"], [waits], [Awaited()], [functools.partial(waits)], None])
def test_what_is_no_hook_is_refused(hooks: Any) -> None:
    """Anything but a list of ordinary functions is refused when the session is made."""
    with pytest.raises(ConfigurationError, match="hook"):
        NairiSession(KEY, hooks=hooks)


@pytest.mark.anyio
async def test_no_record_holds_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    """Neither events nor the log at DEBUG hold the key, the prompt, or the agent's text."""
    caplog.set_level(logging.DEBUG)
    events = await events_of(ANSWERED, wait="watch")
    shown = [caplog.text, *map(str, events), *map(repr, events), *(repr(attrs.asdict(event)) for event in events)]
    secrets = ("confidential", "nr_simulator", "Bearer")
    assert not [text for text in shown if any(secret in text for secret in secrets)]


@pytest.mark.anyio
async def test_the_log_says_what_the_hooks_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """At DEBUG each event is one record of a documented logger, with the event among its arguments."""
    caplog.set_level(logging.DEBUG, logger="nairi_async")
    events = await events_of(ANSWERED, wait="reply")
    assert [record.args for record in ours(caplog)] == [(event,) for event in events]
    assert [record.getMessage() for record in ours(caplog)] == [str(event) for event in events]
    assert {record.levelno for record in ours(caplog)} == {logging.DEBUG}
    assert all(record.name.startswith(LOGGERS) for record in ours(caplog))
    # The record names the caller, not the helper that logs.
    assert {record.module for record in ours(caplog)} == {"executor", "poller", "prompt_sender"}


def test_records_cannot_be_changed() -> None:
    """One hook cannot change the event that the next one gets."""
    planned = PollPlanned(job_id="job_1", agent_id=None, wait=1.0, is_announced=False)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        planned.wait = 2.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            PollPlanned(job_id="job_1", agent_id=None, wait=1.0, is_announced=False),
            "conversation job_1 of agent unknown: next poll in 1.00 s",
        ),
        (
            PollPlanned(job_id="job_1", agent_id="a", wait=150.0, is_announced=True),
            "conversation job_1 of agent a: next poll when its listing announces news, or in 150.00 s",
        ),
        (
            FeedChanged(agent_id="a", news="messages", is_used=False, reason="it lies"),
            "the listing of agent a is no longer used to announce messages: it lies",
        ),
    ],
)
def test_a_record_reads_well(event: Event, text: str) -> None:
    """An event is logged as a readable sentence."""
    assert str(event) == text


@pytest.mark.anyio
async def test_open_watches_are_counted_while_they_wait_and_while_they_read() -> None:
    """Every watcher that is waiting counts, and none that has ended."""
    counts: list[int] = []
    clock = VirtualClock()
    async with Simulator(clock=clock) as simulator:
        simulator.agent("my-agent", ANSWERED)
        session = NairiSession(
            simulator.api_key,
            base_url=simulator.url,
            clock=clock,
            hooks=[lambda event: counts.append(session.stats.open_watches) if isinstance(event, RequestDone) else None],
        )
        async with session as nairi:
            turns = [await nairi.start("my-agent", "go") for _ in range(3)]
            counts.clear()
            await asyncio.gather(*(nairi.wait(turn) for turn in turns))
            assert counts[0] == 3
            assert nairi.stats.open_watches == 0


def test_what_is_counted_reads_well() -> None:
    """The session's figures print as four lines, and without figures that do not exist yet."""
    counted = {"requests": 12_345, "retries": 12, "bytes_received": 1_234_567, "polls": 9_800, "turns_ended": 1_000}
    now = {"open_watches": 12, "open_connections": 5, "free_connections": 95, "waiting_calls": 3}
    stats = Stats(**counted, **now, discoveries=1_001, discovery_delay=0.943)
    assert str(stats) == (
        "requests  12,345 (12 retries), 1.2 MB received\n"
        "polls     9,800: 9.8 for each of 1,000 turns that ended\n"
        "news      found 1,001 times, 0.94 s late on average\n"
        "now       12 watches open, 5 connections in use, 3 calls waiting"
    )
    fresh = NairiSession(KEY).stats
    assert fresh.polls_per_turn is None
    assert str(fresh).splitlines()[:3] == [
        "requests  0 (0 retries), 0 bytes received",
        "polls     0",
        "news      found 0 times",
    ]


@pytest.mark.anyio
async def test_each_request_has_the_template_of_its_path() -> None:
    """`route` is one of few values whatever the ids are, for both services."""
    events: list[Event] = []
    clock = VirtualClock()
    async with (
        Simulator(clock=clock) as simulator,
        NairiSession(simulator.api_key, base_url=simulator.url, clock=clock, hooks=[events.append]) as nairi,
    ):
        reply = await nairi.ask("my-agent", "hi")
        await nairi.continue_(reply.turn, "more")
        await nairi.messages(reply.turn)
        file_id = await nairi.upload(b"x")
        await nairi.download(file_id)
        await nairi.agents()
        await nairi.deploy((await nairi.agent("my-agent")).id)
        assert [row async for row in nairi.conversations("my-agent")]
    async with (
        AmigoSimulator(clock=clock) as service,
        AmigoSession(**service.settings, clock=clock, hooks=[events.append]) as amigo,
    ):
        dialogue = amigo.conversation(service.service_id)
        answer = await dialogue.ask("hi")
        await dialogue.ask("more")
        assert answer.conversation_id is not None
        assert [row async for row in amigo.messages(answer.conversation_id)]
        assert [row async for row in amigo.conversations()]
        await dialogue.finish()
    routes = {(event.method, event.route) for event in events if isinstance(event, RequestDone)}
    assert routes == {
        ("POST", "/conversations/start"),
        ("POST", "/conversations/{job_id}/continue"),
        ("GET", "/conversations/{job_id}/messages"),
        ("GET", "/messages/{message_id}"),
        ("GET", "/agents"),
        ("GET", "/agents/{agent_id}"),
        ("GET", "/agents/{agent_id}/conversations"),
        ("POST", "/agents/{agent_id}/deploy"),
        ("POST", "/attachments"),
        ("GET", "/attachments/{attachment_id}"),
        ("POST", "/{organization_id}/user/signin_with_api_key"),
        ("POST", "/{organization_id}/conversation/"),
        ("GET", "/{organization_id}/conversation/"),
        ("POST", "/{organization_id}/conversation/{conversation_id}/interact"),
        ("GET", "/{organization_id}/conversation/{conversation_id}/messages/"),
        ("POST", "/{organization_id}/conversation/{conversation_id}/finish/"),
    }


def test_an_unknown_path_has_one_route_too() -> None:
    """A path that no template matches gives one value, so that labels stay few."""
    assert NAIRI.route("/something/else") == NAIRI.route("/messages/a/b/c") == "/{unknown}"
    assert NAIRI.route("/conversations/start/messages") == "/conversations/{job_id}/messages"
