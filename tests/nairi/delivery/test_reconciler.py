"""A prompt whose response was lost is found again; it never runs twice, and no two calls get the same turn."""

from __future__ import annotations

import asyncio
import pickle
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nairi_async import InvalidArgumentError, NairiSession, OutcomeUnknownError, Turn
from nairi_async._nairi.delivery.claims import Claims
from nairi_async._nairi.delivery.fingerprint import PromptFingerprint
from nairi_async.testing import Quirks, Say, Simulator, VirtualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiohttp import web


pytestmark = pytest.mark.anyio


@pytest.fixture
def echo(simulator: Simulator) -> Simulator:
    return simulator.agent("my-agent", lambda prompt, _: [Say(f"re {prompt}", after=5)])


def lose(simulator: Simulator, *, which: Callable[[int], bool] = lambda _: True) -> None:
    """Make the service lose its responses to prompts after it has accepted them: the nth if `which` says so."""
    count = iter(range(10**9))

    async def answer(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        if request.method == "POST" and which(next(count)):
            raise ConnectionResetError
        return response

    simulator.intercept_response = answer


@asynccontextmanager
async def another(simulator: Simulator, clock: VirtualClock) -> AsyncIterator[NairiSession]:
    """Open a session as another process would, without knowledge of the first one."""
    async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock) as session:
        yield session


async def test_a_lost_prompt_is_found_again(nairi: NairiSession, echo: Simulator) -> None:
    """With `reconcile`, each call that sends a prompt returns the turn that runs, and sends nothing again."""
    lose(echo)
    turn = await nairi.start("my-agent", "one", on_unknown="reconcile")
    assert (turn.job_id, turn.message_id) == (echo.prompts[0].job_id, echo.prompts[0].message_id)
    assert turn.agent_id == "my-agent"
    assert (await nairi.reply(turn)).text == "re one"
    more = await nairi.continue_(turn.job_id, "two", on_unknown="reconcile")
    assert more.message_id == echo.prompts[1].message_id
    assert (await nairi.ask("my-agent", "three", on_unknown="reconcile")).text == "re three"
    conversation = nairi.resume(turn.job_id)
    assert (await conversation.ask("four", on_unknown="reconcile")).text == "re four"
    assert [message.content async for message in conversation.send("five", on_unknown="reconcile")] == ["re five"]
    assert [asked.prompt for asked in echo.prompts] == ["one", "two", "three", "four", "five"]


async def test_the_default_searches_nothing(nairi: NairiSession, echo: Simulator) -> None:
    """By default the error is raised at once, without a search."""
    lose(echo)
    with pytest.raises(OutcomeUnknownError) as caught:
        await nairi.start("my-agent", "one")
    assert caught.value.candidates == ()
    assert [seen.method for seen in echo.requests] == ["POST"]


@pytest.mark.parametrize("call", ["start", "continue_", "ask", "ask_many", "send"])
async def test_another_value_is_refused_before_any_request(nairi: NairiSession, echo: Simulator, call: str) -> None:
    """`on_unknown` takes the two documented values, in every call."""
    wrong: Any = "retry"
    calls: dict[str, Callable[[], Any]] = {
        "start": lambda: nairi.start("my-agent", "x", on_unknown=wrong),
        "continue_": lambda: nairi.continue_("job_1", "x", on_unknown=wrong),
        "ask": lambda: nairi.ask("my-agent", "x", on_unknown=wrong),
        "ask_many": lambda: nairi.ask_many("my-agent", ["x"], on_unknown=wrong),
        "send": lambda: nairi.conversation("my-agent").send("x", on_unknown=wrong),
    }
    with pytest.raises(InvalidArgumentError, match="on_unknown is 'retry'"):
        await calls[call]()
    assert echo.requests == []


async def test_equal_prompts_take_one_turn_each(nairi: NairiSession, echo: Simulator) -> None:
    """Of many identical prompts some responses are lost: every turn goes to exactly one call."""
    lose(echo, which=lambda nth: nth % 3 != 0)
    outcomes = [
        outcome async for outcome in nairi.ask_many("my-agent", ["hello"] * 30, limit=30, on_unknown="reconcile")
    ]
    assert [outcome.error for outcome in outcomes] == [None] * 30
    assert {outcome.turn.message_id for outcome in outcomes if outcome.turn} == {
        asked.message_id for asked in echo.prompts
    }
    assert len(echo.prompts) == 30


async def test_a_response_in_flight_is_awaited(nairi: NairiSession, echo: Simulator) -> None:
    """An identical prompt in flight may own the turn found, so its response is awaited before a turn is taken."""
    accepted, polled = asyncio.Event(), asyncio.Event()
    count = iter(range(10))

    async def answer(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        if request.method == "POST" and next(count) == 0:
            accepted.set()
            await polled.wait()
            await asyncio.sleep(0.05)  # real time: the search gets every chance to take the turn too early
        return response

    async def drop(request: web.Request) -> None:
        if request.method == "POST" and accepted.is_set():
            await request.read()
            raise ConnectionResetError
        if request.path.endswith("/messages"):
            polled.set()

    echo.intercept, echo.intercept_response = drop, answer
    first = asyncio.create_task(nairi.start("my-agent", "hello"))
    await accepted.wait()
    # The second prompt never arrives. Its search finds the turn of the first, which it must not take.
    with pytest.raises(OutcomeUnknownError) as caught:
        await nairi.start("my-agent", "hello", on_unknown="reconcile")
    assert caught.value.candidates == ()
    assert (await first).job_id == echo.prompts[0].job_id


async def test_turns_that_cannot_be_distinguished_are_candidates(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock
) -> None:
    """If another process sent the same text at the same time, both turns are candidates and neither is taken."""
    lose(echo)
    async with another(echo, clock) as stranger:
        with pytest.raises(OutcomeUnknownError):
            await stranger.start("my-agent", "hello")
    with pytest.raises(OutcomeUnknownError) as caught:
        await nairi.start("my-agent", "hello", on_unknown="reconcile")
    assert {turn.message_id for turn in caught.value.candidates} == {asked.message_id for asked in echo.prompts}
    assert "2 turns may be" in caught.value.__notes__[0]
    assert pickle.loads(pickle.dumps(caught.value)).candidates == caught.value.candidates  # noqa: S301 - our own bytes


async def test_a_prompt_that_is_not_found_stays_unknown(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock
) -> None:
    """A prompt that never arrived may still arrive: after a minute of searching its outcome stays unknown."""
    started_at = clock.monotonic()

    async def drop(request: web.Request) -> None:
        if request.method == "POST":
            await request.read()
            raise ConnectionResetError

    echo.intercept = drop
    with pytest.raises(OutcomeUnknownError) as caught:
        await nairi.start("my-agent", "one", on_unknown="reconcile")
    assert caught.value.__notes__ == ["it was searched for and not found"]
    assert 59 < clock.monotonic() - started_at < 75
    assert echo.prompts == []
    assert len(echo.requests) < 20


async def test_a_deadline_ends_the_search(nairi: NairiSession, echo: Simulator, clock: VirtualClock) -> None:
    """The timeout of `ask` bounds the whole wait, the search included."""
    started_at = clock.monotonic()

    async def drop(request: web.Request) -> None:
        if request.method == "POST":
            await request.read()
            raise ConnectionResetError

    echo.intercept = drop
    with pytest.raises(OutcomeUnknownError):
        await nairi.ask("my-agent", "one", on_unknown="reconcile", timeout=10)
    assert clock.monotonic() - started_at < 12


async def test_a_search_that_fails_leaves_the_prompt_unknown(nairi: NairiSession, echo: Simulator) -> None:
    """The error of the prompt is raised, with a note of the failure of the search."""
    echo.quirks = Quirks(listing=False)
    lose(echo)
    with pytest.raises(OutcomeUnknownError) as caught:
        await nairi.start("my-agent", "one", on_unknown="reconcile")
    assert caught.value.__notes__[0].startswith("the search for it failed: GET /agents/my-agent/conversations")


async def test_a_cancelled_prompt_is_found_by_the_next_step(nairi: NairiSession, echo: Simulator) -> None:
    """A watch whose first step was cancelled while its prompt was in flight finds the turn at the second step."""
    reached, gone = asyncio.Event(), asyncio.Event()

    async def hang(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        if request.method == "POST" and not gone.is_set():
            reached.set()
            await gone.wait()
        return response

    echo.intercept_response = hang
    watch = nairi.conversation("my-agent").send("one", on_unknown="reconcile")
    step = asyncio.ensure_future(anext(watch))
    await reached.wait()
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    gone.set()
    assert (await anext(watch)).content == "re one"
    assert len(echo.prompts) == 1


@pytest.mark.parametrize(
    "quirks",
    [
        Quirks(clock_skew=3600.0),
        Quirks(clock_skew=-86400.0),
        Quirks(order="newest first"),
        Quirks(order="shuffled", order_seed=3),
        Quirks(list_lag=3.0),
        Quirks(timestamps="equal"),
        Quirks(unknown_fields=True, updated_at_moves="never"),
        Quirks(stale_by=4.0, stale_every=2),
    ],
    ids=lambda quirks: ",".join(
        f"{name}={getattr(quirks, name)}"
        for name in ("clock_skew", "order", "list_lag", "timestamps", "updated_at_moves", "stale_by")
        if getattr(quirks, name) != getattr(Quirks(), name)
    ),
)
async def test_searches_work_with_undocumented_behaviour(nairi: NairiSession, echo: Simulator, quirks: Quirks) -> None:
    """With clocks an hour apart, and lists in any order, late or with equal times, the right turn is found."""
    echo.quirks = quirks
    first = await nairi.ask("my-agent", "hello")
    lose(echo)
    again = await nairi.start("my-agent", "hello", on_unknown="reconcile")
    assert again.job_id == echo.prompts[1].job_id
    await nairi.reply(again)
    more = await nairi.continue_(first.turn.job_id, "hello", on_unknown="reconcile")
    assert more.message_id == echo.prompts[2].message_id


async def test_without_times_a_new_conversation_is_not_taken(nairi: NairiSession, echo: Simulator) -> None:
    """If messages have no times, an equal conversation of unknown age is a candidate only."""
    echo.quirks = Quirks(timestamps="omitted")
    lose(echo)
    with pytest.raises(OutcomeUnknownError) as caught:
        await nairi.start("my-agent", "one", on_unknown="reconcile")
    assert [turn.job_id for turn in caught.value.candidates] == [echo.prompts[0].job_id]
    # Within a conversation, the order decides.
    job = echo.prompts[0].job_id
    echo.intercept_response = None
    await nairi.reply(await nairi.continue_(job, "two"))
    lose(echo)
    assert (await nairi.continue_(job, "two", on_unknown="reconcile")).message_id == echo.prompts[2].message_id


async def test_many_lost_prompts_share_their_searches(nairi: NairiSession, echo: Simulator) -> None:
    """After an outage all search at once: each conversation is read once, and listings are shared."""
    lose(echo)
    prompts = [f"prompt {number}" for number in range(300)]
    turns = await asyncio.gather(*(nairi.start("my-agent", prompt, on_unknown="reconcile") for prompt in prompts))
    jobs = {asked.prompt: asked.job_id for asked in echo.prompts}
    assert [turn.job_id for turn in turns] == [jobs[prompt] for prompt in prompts]
    reads = [seen.path for seen in echo.requests if seen.path.endswith("/messages")]
    assert len(reads) == len(set(reads)) <= 300
    assert len(echo.requests) - len(reads) - 300 < 60


async def test_a_prompt_of_a_dead_process_is_found(echo: Simulator, clock: VirtualClock) -> None:
    """Another process that knows only the prompt and its time finds the turn, or that there is none."""
    started_at = datetime.fromtimestamp(clock.time(), UTC)
    lose(echo)
    async with another(echo, clock) as dead:
        for _ in range(2):
            with pytest.raises(OutcomeUnknownError):
                await dead.start("my-agent", "hello")
    await clock.sleep(100)
    async with another(echo, clock) as nairi:
        sent_before = datetime.fromtimestamp(clock.time(), UTC)
        known = {echo.prompts[0].job_id}
        turn = await nairi.find_start(
            "my-agent", "hello", sent_after=started_at, sent_before=sent_before, exclude=known
        )
        assert turn == Turn(echo.prompts[1].job_id, echo.prompts[1].message_id)
        assert (await nairi.reply(turn)).text == "re hello"
        # Its caller may lose it again, so only the caller can exclude it.
        assert turn == await nairi.find_start("my-agent", "hello", sent_after=started_at, exclude=known, settled=0)
        known.add(turn.job_id)
        assert await nairi.find_start("my-agent", "hello", sent_after=started_at, exclude=known, settled=0) is None
        asked = clock.monotonic()
        assert await nairi.find_start("my-agent", "other", sent_after=started_at, exclude=known) is None
        assert 59 < clock.monotonic() - asked < 62
        earlier = started_at - timedelta(hours=2)
        assert await nairi.find_start("my-agent", "hello", sent_after=earlier, sent_before=earlier) is None


async def test_two_prompts_of_a_dead_process_are_candidates(echo: Simulator, clock: VirtualClock) -> None:
    """One search that finds two conversations takes neither; two concurrent searches take one each."""
    started_at = datetime.fromtimestamp(clock.time(), UTC)
    async with another(echo, clock) as dead:
        turns = [await dead.start("my-agent", "hello") for _ in range(2)]
    async with another(echo, clock) as nairi:
        with pytest.raises(OutcomeUnknownError) as caught:
            await nairi.find_start("my-agent", "hello", sent_after=started_at)
        assert list(caught.value.candidates) == turns
        found = await asyncio.gather(
            *(nairi.find_start("my-agent", "hello", sent_after=started_at, settled=5) for _ in range(2))
        )
        assert sorted(turn.job_id for turn in found if turn) == sorted(turn.job_id for turn in turns)


async def test_a_time_without_a_zone_is_refused(nairi: NairiSession, echo: Simulator) -> None:
    """`sent_after` must have a time zone."""
    with pytest.raises(InvalidArgumentError, match="sent_after has no time zone"):
        await nairi.find_start("my-agent", "hello", sent_after=datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point
    assert echo.requests == []


@given(st.integers(1, 6), st.integers(0, 6), st.data())
def test_no_turn_is_given_twice(prompts: int, turns: int, data: st.DataObject) -> None:
    """For any number of identical prompts and turns, decided in any order: each turn has one owner."""
    claims, fingerprint = Claims(), PromptFingerprint.of(None, "hello", ())
    found = [Turn(f"job_{number}", f"cmsg_{number}") for number in range(turns)]
    taken_turns: list[Turn] = []
    scopes = [claims.open(fingerprint) for _ in range(prompts)]
    open_claims = [scope.__enter__() for scope in scopes]
    for claim in open_claims:
        claims.mark_lost(claim)
    for number in data.draw(st.permutations(range(prompts))):
        choice = claims.match(open_claims[number], found)
        if choice.turn is not None:
            claims.assign(open_claims[number], choice.turn)
            taken_turns.append(choice.turn)
        scopes[number].__exit__(None, None, None)
    assert len(set(taken_turns)) == len(taken_turns)
    # More turns than prompts: someone else sent the same text, and the turns cannot be distinguished.
    assert len(taken_turns) == (turns if turns <= prompts else 0)
