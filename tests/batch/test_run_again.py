"""A process that goes on after an error or a cancellation runs its batch again, with the same session."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from random import Random
from threading import Event
from typing import TYPE_CHECKING

import anyio
import pytest
from aiohttp import web
from batches import AGENT, Runs, is_start, lost
from soak_batch import cancelled
from support import until

from nairi_async import LedgerError, NairiSession, OutcomeUnknownError
from nairi_async.batch import Batch, read_status
from nairi_async.testing import Done, Say, Simulator, VirtualClock

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def script(simulator: Simulator) -> Simulator:
    return simulator.agent(AGENT, lambda prompt, _: [Say(f"re {prompt}", after=2)])


def sent(simulator: Simulator) -> Counter[str]:
    return Counter(entry.prompt for entry in simulator.prompts)


class Backup:
    """Another program that holds the ledger from the n-th response to a prompt on, as a backup does."""

    def __init__(self, runs: Runs, simulator: Simulator, number: int) -> None:
        self._path, self._left = runs.ledger, number
        self._connection: sqlite3.Connection | None = None
        simulator.intercept_response = self._hold

    async def _hold(self, request: web.Request, _: object) -> None:
        self._left -= is_start(request)
        if self._left == 0 and self._connection is None:
            self._connection = sqlite3.connect(self._path, isolation_level=None)
            self._connection.execute("BEGIN IMMEDIATE")

    def release(self) -> None:
        assert self._connection is not None
        self._connection.close()


@pytest.mark.parametrize(("count", "held_at"), [(1, 1), (60, 1), (60, 25)])
async def test_a_ledger_that_was_held_runs_nothing_twice(
    runs: Runs, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, count: int, held_at: int
) -> None:
    """Prompts whose turns could not be recorded are found, although this very session has sent them."""
    monkeypatch.setattr("nairi_async._core.sqlite_file._BUSY_TIMEOUT", 0.1)
    prompts = [f"p{number - number % 3 if number < 9 else number}" for number in range(count)]
    backup = Backup(runs, simulator, held_at)
    with pytest.raises(LedgerError, match="locked"):
        await runs.all(prompts, limit=20)
    backup.release()
    for _ in range(2):
        await runs.all(prompts, limit=20)
    assert sent(simulator) == Counter(prompts)
    assert (read_status(runs.ledger).done, read_status(runs.ledger).open) == (count, 0)


@pytest.mark.parametrize("seed", range(4))
async def test_cancelled_and_run_again_in_one_process(runs: Runs, simulator: Simulator, seed: int) -> None:
    """Cancelled at any await, by a task or by a scope, once or often: nothing runs twice, and nothing is lost."""
    choice = Random(seed)
    prompts = [f"p{number - number % 3 if number < 9 else number}" for number in range(30)]

    async def work() -> None:
        async with runs.batch(prompts, limit=8, output=runs.output, settle=2) as outcomes:
            async for _ in outcomes:
                pass

    async def passes() -> None:
        for _ in range(int(400 * choice.random() ** 2)):
            await asyncio.sleep(0)

    for number in range(30):
        if number % 2:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(work)
                    await passes()
                    scope.cancel()
        else:
            task = asyncio.create_task(work())
            await passes()
            for _ in range(choice.randrange(1, 4)):
                task.cancel()
                await asyncio.sleep(0)
            await asyncio.wait([task])
    for _ in range(3):
        await runs.all(prompts, output=runs.output, settle=2)
    assert sent(simulator) == Counter(prompts)
    status = read_status(runs.ledger)
    assert (status.done, status.open) == (30, 0)
    assert len(runs.output.read_text().splitlines()) == 30


async def test_two_batches_of_one_session_keep_their_conversations_apart(
    runs: Runs, simulator: Simulator, nairi: NairiSession, tmp_path: Path
) -> None:
    """A lost prompt does not take the equal conversation of another batch of the same session for its own."""
    await runs.all(["same"])
    simulator.intercept = lost(1)
    async with Batch(nairi, AGENT, ["same"], ledger=tmp_path / "other.sqlite") as outcomes:
        [outcome] = [outcome async for outcome in outcomes]
    assert outcome.reply is not None
    assert sent(simulator) == Counter({"same": 2})


async def test_a_turn_that_is_recorded_while_cancelled_belongs_to_its_batch(
    runs: Runs, simulator: Simulator, nairi: NairiSession, tmp_path: Path
) -> None:
    """A batch is cancelled while the ledger records its turn: no identical prompt of another batch takes that turn."""
    held, reached = Event(), asyncio.Event()

    async def work() -> None:
        async with runs.batch(["same"]) as outcomes:
            assert outcomes._run is not None
            writer = outcomes._run.writer

            async def hold(request: web.Request, _: object) -> None:
                if is_start(request) and not reached.is_set():
                    writer.submit(lambda _: held.wait(10))
                    reached.set()

            simulator.intercept_response = hold
            async for _ in outcomes:
                pass

    task = asyncio.create_task(work())
    await reached.wait()
    # The response arrives, and its turn waits for the ledger's thread.
    await until(lambda: nairi.stats.requests >= len(simulator.requests))
    for _ in range(50):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    held.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert read_status(runs.ledger).running == 1
    simulator.intercept = lost(1)
    async with Batch(nairi, AGENT, ["same"], ledger=tmp_path / "other.sqlite") as outcomes:
        assert [outcome.reply is not None async for outcome in outcomes] == [True]
    await runs.all(["same"])
    assert sent(simulator) == Counter({"same": 2})


async def test_two_batches_at_once(
    simulator: Simulator, clock: VirtualClock, nairi: NairiSession, tmp_path: Path
) -> None:
    """Likewise where both run at once and either loses prompts."""
    prompts = ["same", "same", "a"]

    async def run(name: str) -> set[str]:
        async with Batch(nairi, AGENT, prompts, ledger=tmp_path / name) as outcomes:
            return {outcome.turn.job_id async for outcome in outcomes if outcome.turn and outcome.reply}

    simulator.intercept = lost(2)
    simulator.intercept_response = lost(1)
    first, second = await asyncio.gather(run("x.sqlite"), run("y.sqlite"))
    assert not first & second
    assert sent(simulator) <= Counter({"same": 4, "a": 2})


async def test_the_soak_in_one_process(tmp_path: Path) -> None:
    """A round of the soak: interrupted in every way, at a quarter of faulty requests, nothing is lost or runs twice."""
    counted = await cancelled(tmp_path, count=40, kills=6, seed=5, rate=0.25)
    assert counted.faulty > 0.15 * counted.requests
    assert counted.losses == {}


async def test_a_reply_that_is_shown_late_is_recorded(runs: Runs, simulator: Simulator, clock: VirtualClock) -> None:
    """A replica shows the reply long after the end of the turn: it is looked for before an empty one is recorded."""
    ended_at: float | None = None

    async def behind(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        nonlocal ended_at
        if isinstance(response, web.Response) and request.path.endswith("/messages"):
            body = json.loads(response.text or "")
            ended_at = clock.monotonic() if ended_at is None else ended_at
            if clock.monotonic() < ended_at + 12:
                body["messages"] = [message for message in body["messages"] if message["role"] == "user"]
            return web.json_response(body, headers={"Date": response.headers.get("Date", "")})
        return response

    simulator.intercept_response = behind
    outcome = (await runs.all(["a"], output=runs.output))["#1"]
    assert (outcome.reply and outcome.reply.text) == "re a"
    assert json.loads(runs.output.read_text())["text"] == "re a"


async def test_an_empty_reply_is_recorded_in_the_end(runs: Runs, simulator: Simulator, clock: VirtualClock) -> None:
    """A turn that is completed without a reply is legal, and ends the wait."""
    simulator.agent(AGENT, lambda *_: [Done(after=1)])
    outcome = (await runs.all(["a"]))["#1"]
    assert (outcome.is_final, outcome.reply and outcome.reply.text) == (True, "")
    assert clock.monotonic() < 60


async def test_a_conversation_of_someone_else_is_not_taken(
    runs: Runs, simulator: Simulator, clock: VirtualClock
) -> None:
    """A lost prompt that may be someone else's conversation in another form is neither given it nor sent again."""
    async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock) as someone:
        foreign = await someone.start(AGENT, "meanwhile")
    simulator.intercept = lost(1)
    [outcome] = (await runs.all(["mine"], settle=5)).values()
    assert isinstance(outcome.error, OutcomeUnknownError)
    assert outcome.error.candidates == (foreign,)
    assert sent(simulator) == Counter({"meanwhile": 1})
