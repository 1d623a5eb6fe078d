"""`find_start` says that a prompt does not run only if nothing at the service may be it."""

from __future__ import annotations

import asyncio
import html
import itertools
import json
import math
import re
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from support import SetClock

from nairi_async import NairiSession, OutcomeUnknownError
from nairi_async.testing import Quirks, Say, Simulator, VirtualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from nairi_async import Turn

pytestmark = pytest.mark.anyio

AGENT = "my-agent"


@pytest.fixture
def echo(simulator: Simulator) -> Simulator:
    return simulator.agent(AGENT, lambda prompt, _: [Say(f"re {prompt}", after=5)])


@asynccontextmanager
async def another(simulator: Simulator, clock: VirtualClock) -> AsyncIterator[NairiSession]:
    """Open a session as another process would, without knowledge of the first one."""
    async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock) as session:
        yield session


def now(clock: VirtualClock) -> datetime:
    return datetime.fromtimestamp(clock.time(), UTC)


def rewrite(simulator: Simulator, change: Callable[[str], str]) -> None:
    """Make the service show prompts in another form than they were sent."""

    async def changed(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        if not request.path.endswith("/messages") or not isinstance(response, web.Response):
            return response
        document = json.loads(response.text or "")
        for message in document["messages"]:
            if message["role"] == "user":
                message["content"] = change(message["content"])
        return web.json_response(document)

    simulator.intercept_response = changed


async def candidates(nairi: NairiSession, prompt: str, sent_after: datetime, **options: object) -> tuple[Turn, ...]:
    """Search for a prompt that must stay undecided, and return its candidates."""
    with pytest.raises(OutcomeUnknownError) as caught:
        await nairi.find_start(AGENT, prompt, sent_after=sent_after, settled=5, **options)  # type: ignore[arg-type]
    return caught.value.candidates


async def test_a_turn_that_its_caller_lost_is_found_in_the_same_session(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock
) -> None:
    """Whoever started a turn: unless it is excluded, it is found, and found again if its caller loses it again."""
    started_at = now(clock)
    turn = await nairi.start(AGENT, "hello")
    await nairi.start(AGENT, "other")
    for _ in range(2):
        assert await nairi.find_start(AGENT, "hello", sent_after=started_at, settled=5) == turn
    assert await nairi.find_start(AGENT, "hello", sent_after=started_at, exclude={turn.job_id}, settled=5) is None


async def test_own_turns_of_other_prompts_are_explained(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock
) -> None:
    """Conversations of other prompts of this session, sent or found by it, do not keep a prompt undecided."""
    started_at = now(clock)
    async with another(echo, clock) as dead:
        await dead.start(AGENT, "hello")
    await nairi.start(AGENT, "other")
    assert await nairi.find_start(AGENT, "hello", sent_after=started_at, settled=5) is not None
    assert await nairi.find_start(AGENT, "lost", sent_after=started_at, settled=5) is None


async def test_a_prompt_in_flight_does_not_keep_another_undecided(
    nairi: NairiSession, echo: Simulator, clock: VirtualClock
) -> None:
    """A conversation whose response is on its way to this session is explained once the response has come."""
    started_at = now(clock)
    accepted, searched = asyncio.Event(), asyncio.Event()

    async def hold(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        if request.method == "POST":
            accepted.set()
            await searched.wait()
        elif request.path.endswith("/messages"):
            searched.set()
        return response

    echo.intercept_response = hold
    sending = asyncio.create_task(nairi.start(AGENT, "in flight"))
    await accepted.wait()
    assert await nairi.find_start(AGENT, "lost", sent_after=started_at, settled=0) is None
    await sending


async def test_of_equal_lost_prompts_each_finds_a_turn(echo: Simulator, clock: VirtualClock) -> None:
    """`copies` identical prompts take as many turns one after another; with more turns than copies none is taken."""
    started_at = now(clock)
    async with another(echo, clock) as dead:
        turns = [await dead.start(AGENT, "hello") for _ in range(3)]
    async with another(echo, clock) as nairi:
        assert await candidates(nairi, "hello", started_at, copies=2) == tuple(turns)
        known: set[str] = set()
        for left, turn in zip((3, 2, 1), turns, strict=True):
            found = await nairi.find_start(AGENT, "hello", sent_after=started_at, exclude=known, settled=5, copies=left)
            assert found == turn
            known.add(turn.job_id)
        assert await nairi.find_start(AGENT, "hello", sent_after=started_at, exclude=known, settled=5) is None


@pytest.mark.parametrize("minutes", [-4, -1, 1, 4])
async def test_a_turn_dated_by_another_clock_is_not_absent(echo: Simulator, clock: VirtualClock, minutes: int) -> None:
    """If `created_at` and `Date` are minutes apart, a prompt that ran is found or named, and not said to be absent."""

    async def dated(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        date = datetime.fromtimestamp(clock.time(), UTC) + timedelta(minutes=minutes)
        response.headers["Date"] = format_datetime(date, usegmt=True)
        return response

    echo.intercept_response = dated
    await clock.sleep(3600)
    started_at = now(clock)
    async with another(echo, clock) as dead:
        turn = await dead.start(AGENT, "hello")
    async with another(echo, clock) as nairi:
        if minutes > 0:
            # The recorded time bounds the window too, so an earlier message is in it.
            assert await nairi.find_start(AGENT, "hello", sent_after=started_at, settled=5) == turn
        else:
            assert await candidates(nairi, "hello", started_at, sent_before=now(clock)) == (turn,)


@pytest.mark.parametrize(
    "change",
    [
        html.escape,
        lambda text: re.sub(r"<[^>]*>", "", text),
        lambda text: text.translate(str.maketrans("“”", '""')),
        lambda text: f"[API] {text}",
        lambda text: text[:10],
        lambda _: "[redacted]",
    ],
    ids=["escaped", "tags stripped", "quotes straightened", "prefixed", "cut", "redacted"],
)
async def test_a_turn_with_another_text_is_a_candidate(
    echo: Simulator, clock: VirtualClock, change: Callable[[str], str]
) -> None:
    """If the service changes the text of prompts, a prompt that ran is named, and not said to be absent."""
    rewrite(echo, change)
    started_at = now(clock)
    prompt = "<b>Say</b> “it” & go, now"
    async with another(echo, clock) as dead:
        turn = await dead.start(AGENT, prompt)
    async with another(echo, clock) as nairi:
        assert await candidates(nairi, prompt, started_at) == (turn,)
        # Once the caller knows whose it is, nothing may be the prompt any more.
        assert await nairi.find_start(AGENT, prompt, sent_after=started_at, exclude={turn.job_id}, settled=5) is None


async def test_a_conversation_of_someone_else_is_a_candidate(echo: Simulator, clock: VirtualClock) -> None:
    """Any conversation of those minutes that nothing explains may be the prompt; earlier and later ones are not."""
    async with another(echo, clock) as someone:
        await someone.start(AGENT, "long before")
        await clock.sleep(1000)
        started_at = now(clock)
        turn = await someone.start(AGENT, "meanwhile")
        sent_before = now(clock)
        await clock.sleep(1000)
        await someone.start(AGENT, "long after")
    async with another(echo, clock) as nairi:
        assert await candidates(nairi, "hello", started_at, sent_before=sent_before) == (turn,)


@pytest.mark.parametrize("status", [404, 400])
async def test_a_conversation_that_a_replica_does_not_know_yet_is_no_proof(
    echo: Simulator, clock: VirtualClock, status: int
) -> None:
    """A listed conversation that cannot be read yet is read again; if it never can, the prompt stays undecided."""
    started_at = now(clock)
    async with another(echo, clock) as dead:
        turn = await dead.start(AGENT, "hello")
    sent_before = now(clock)
    await clock.sleep(1000)
    left = 3

    async def lag(request: web.Request) -> web.StreamResponse | None:
        nonlocal left
        if request.path.endswith("/messages") and left > 0:
            left -= 1
            return web.json_response({"error": "no such job"}, status=status)
        return None

    echo.intercept = lag
    async with another(echo, clock) as nairi:
        found = await nairi.find_start(AGENT, "hello", sent_after=started_at, sent_before=sent_before)
        assert found == turn
    left = 1000
    async with another(echo, clock) as nairi:
        assert await candidates(nairi, "hello", started_at, sent_before=sent_before) == ()


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_clock_that_was_set_meanwhile_hides_no_turn(echo: Simulator, clock: VirtualClock, hours: int) -> None:
    """If this machine's clock was set between sending and searching, the turn is found or named, and in time."""
    async with another(echo, clock) as dead:
        sent_after = now(clock) + timedelta(hours=hours)
        turn = await dead.start(AGENT, "hello")
    await clock.sleep(10)
    searched_at = clock.monotonic()
    async with another(echo, clock) as nairi:
        if hours < 0:
            found = await nairi.find_start(AGENT, "hello", sent_after=sent_after, sent_before=now(clock))
            assert found == turn
        else:
            # It seems to have been sent after it arrived.
            assert await candidates(nairi, "hello", sent_after, sent_before=now(clock)) == (turn,)
    assert clock.monotonic() - searched_at < 120


@pytest.mark.parametrize("has_arrived", [True, False])
async def test_a_clock_that_was_set_forward_shortens_no_search(
    echo: Simulator, clock: VirtualClock, *, has_arrived: bool
) -> None:
    """The window ends, and the settling time begins, when the service's clock too had shown `sent_before`."""
    sent_after = now(clock)

    async def arrive() -> Turn:
        await clock.sleep(0 if has_arrived else 30)
        async with another(echo, clock) as dead:
            return await dead.start(AGENT, "hello")

    arriving = asyncio.create_task(arrive())
    await clock.sleep(1)
    machine: Any = SetClock(clock, ahead=3600)
    async with another(echo, machine) as nairi:
        found = await nairi.find_start(AGENT, "hello", sent_after=sent_after, sent_before=now(clock))
    assert found == await arriving


async def test_odd_dates_of_two_responses_hide_no_turn(echo: Simulator, clock: VirtualClock) -> None:
    """Whichever two responses in a row are dated by a wrong clock, a prompt that ran is not said to be absent."""
    rewrite(echo, html.escape)
    changed = echo.intercept_response
    assert changed is not None
    first = count = 0

    async def dated(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        nonlocal count
        count += 1
        answer = await changed(request, response) or response
        hours = 1 if count in {first, first + 1} else 0
        answer.headers["Date"] = format_datetime(now(clock) - timedelta(hours=hours), usegmt=True)
        return answer

    echo.intercept_response = dated
    for number in range(30):
        started_at, count, first = now(clock), 0, number
        async with another(echo, clock) as dead:
            turn = await dead.start(AGENT, "1 < 2")
        sent_before, count = now(clock), 0
        await clock.sleep(1000)
        async with another(echo, clock) as nairi:
            assert await candidates(nairi, "1 < 2", started_at, sent_before=sent_before) in ((turn,), ())


@pytest.mark.parametrize("read", ["reply", "watch"])
async def test_a_found_turn_is_seen_at_once_on_a_busy_session(clock: VirtualClock, read: str) -> None:
    """A turn that was found was not polled before, so the listing of a busy session does not replace its first poll."""
    rng = Random(5)
    quirks = Quirks(updated_at_moves="completion" if read == "reply" else "reply")

    def script(prompt: str, _: int) -> list[Say]:
        return [Say(f"re {prompt}", after=5 if prompt == "hello" else min(600.0, 30 * math.exp(rng.gauss(0, 0.9))))]

    async with Simulator(clock=clock, quirks=quirks) as simulator, another(simulator, clock) as nairi:
        simulator.agent(AGENT, script)
        busy = asyncio.create_task(_ask_endlessly(nairi))
        await clock.sleep(300)
        started_at = now(clock)
        async with another(simulator, clock) as dead:
            await dead.start(AGENT, "hello")
        sent_before = now(clock)
        await clock.sleep(20)
        found = await nairi.find_start(AGENT, "hello", sent_after=started_at, sent_before=sent_before)
        assert found is not None
        found_at = clock.monotonic()
        if read == "reply":
            assert (await nairi.reply(found)).text == "re hello"
        else:
            assert (await anext(nairi.watch(found))).content == "re hello"
        assert clock.monotonic() - found_at < 1
        busy.cancel()
        with suppress(asyncio.CancelledError):
            await busy


async def _ask_endlessly(nairi: NairiSession) -> None:
    async for _ in nairi.ask_many(AGENT, map(str, itertools.count()), limit=30):
        pass
