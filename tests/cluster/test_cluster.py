"""Batches over several workers and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import anyio
import psycopg
import pytest
from clusters import AGENT, CuttingProxy

from nairi_async import AgentNotFoundError, AuthenticationError, InvalidArgumentError, NairiSession, TurnFailedError
from nairi_async.cluster.liveness import LEASE
from nairi_async.cluster.stored_rows import NO_ONE
from nairi_async.errors import LedgerError
from nairi_async.testing import Fail, Say

if TYPE_CHECKING:
    from clusters import Field
    from postgres import Postgres

pytestmark = pytest.mark.anyio
_LEFT_SENDING = "UPDATE nairi_items SET state = 'sending', owner = 0, claim = 1, sent_at = {}"


def sql(database: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(database, autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


async def test_two_workers_run_each_prompt_once(field: Field) -> None:
    """Each prompt runs once, whichever worker takes it; a reader goes on at its place, another gets everything."""
    texts = [f"Prompt {number}" for number in range(60)]
    async with field.cluster() as cluster, field.worker(limit=20), field.worker(limit=20):
        batch = await cluster.submit("run-1", AGENT, texts)
        outcomes = batch.outcomes(reader="report")
        first = [await anext(outcomes) for _ in range(5)]
        await outcomes.aclose()
        rest = [outcome async for outcome in batch.outcomes(reader="report")]
        # The fifth was handed over, and not handled.
        assert [one.id for one in first[4:]] == [one.id for one in rest[:1]]
        assert {one.id for one in first + rest} == {f"#{place}" for place in range(1, 61)}
        assert all(one.reply and one.reply.text == f"Answer to {one.prompt}" and one.is_final for one in rest)
        assert [one async for one in batch.outcomes(reader="report")] == []
        assert len([one async for one in batch.outcomes(reader="other")]) == 60
        status = await batch.status()
        assert (status.done, status.open, status.failed, status.in_doubt) == (60, 0, 0, 0)
        assert [(one.capacity, one.items) for one in status.workers] == [(20, 0), (20, 0)]
        turn = await batch.turn("#1")
        assert turn is not None
        assert turn.job_id in {one.job_id for one in field.simulator.prompts}
    assert field.asked == Counter(texts)


async def test_submitting_again_adds_what_is_missing(field: Field) -> None:
    """A name goes on with its batch: known records are not added, also those of a submission that was cut short."""
    records = [{"id": f"ticket-{number}", "prompt": "Same"} for number in range(30)]
    async with field.cluster() as cluster:
        await cluster.submit("run-1", AGENT, records[:10])
        mixed: list[Any] = [*records, "Same", "Same"]
        batch = await cluster.submit("run-1", AGENT, iter(mixed))
        assert (await batch.status()).unsent == 32
        await cluster.submit("run-1", AGENT, ["Same", "Same", *records])
        assert (await batch.status()).unsent == 32
        with pytest.raises(InvalidArgumentError, match="with another prompt"):
            await cluster.submit("run-1", AGENT, [{"id": "ticket-1", "prompt": "Other"}])
        with pytest.raises(LedgerError, match=r"one of the agent 'my-agent', not 'other'.*another name"):
            await cluster.submit("run-1", "other", ["a"])
        async with field.worker(limit=40):
            assert len([one async for one in batch.outcomes()]) == 32
    assert field.asked == Counter({"Same": 32})


async def test_submissions_that_overlap_lose_nothing(field: Field) -> None:
    """Records without an id stand at other places in another submission, which may run at the same time."""
    async with field.cluster() as cluster, field.cluster() as other:
        batch = await cluster.submit("run-1", AGENT, ["a", "b", "c", "d"])
        await cluster.submit("run-1", AGENT, ["c", "d", "e", "a"])
        assert (await batch.status()).unsent == 5
        halves = [f"Prompt {number}" for number in range(60)], [f"Prompt {number}" for number in range(20, 80)]
        batch, _ = await asyncio.gather(
            cluster.submit("run-2", AGENT, iter(halves[0])), other.submit("run-2", AGENT, iter(halves[1]))
        )
        assert (await batch.status()).unsent == 80


async def test_failures_are_outcomes(field: Field) -> None:
    """A turn that fails, and an agent that does not exist, end their items only; failures are sent again on request."""
    field.simulator.agent("broken", lambda _, number: [Fail("no")] if number == 1 else [Say("yes")])
    async with field.cluster() as cluster, field.worker():
        broken = await cluster.submit("broken", "broken", ["a"])
        nobody = await cluster.submit("nobody", "nobody", ["a"])
        assert [type(one.error) async for one in broken.outcomes()] == [TurnFailedError]
        assert [type(one.error) async for one in nobody.outcomes()] == [AgentNotFoundError]
        broken = await cluster.submit("broken", "broken", ["a"], retry_failed=True)
        assert len([one async for one in broken.outcomes()]) == 1
        assert [(one.name, one.open) for one in await cluster.batches()] == [("broken", 0), ("nobody", 0)]
        await cluster.delete("nobody")
        with pytest.raises(LedgerError, match="there is no batch 'nobody'"):
            await cluster.batch("nobody")


async def test_a_stopped_worker_hands_on_what_runs(field: Field) -> None:
    """Stopped, a worker records what it sends and hands on the rest: another waits for the turns, and sends nothing."""
    field.simulator.agent(AGENT, lambda prompt, _: [Say(prompt, after=2)])
    texts = [f"Prompt {number}" for number in range(20)]
    async with field.cluster() as cluster:
        batch = await cluster.submit("run-1", AGENT, texts)
        async with field.worker() as (first, task):
            await field.until_asked(20)
            first.stop()
            assert await task == 20
        status = await batch.status()
        assert (status.running + status.sending, status.in_doubt, status.workers) == (20, 0, ())
        with pytest.raises(LedgerError, match="20 prompts that have not ended"):
            await cluster.delete("run-1")
        async with field.worker():
            assert len([one async for one in batch.outcomes()]) == 20
    assert field.asked == Counter(texts)


async def test_a_worker_that_lost_its_lock_begins_anew(field: Field, postgres: Postgres) -> None:
    """A worker whose lock's session ends lets go of its items, and takes them up again under another id, each once."""
    texts = [f"Prompt {number}" for number in range(30)]
    async with field.cluster() as cluster, field.worker(), field.worker():
        batch = await cluster.submit("run-1", AGENT, texts, settle=2)
        await field.until_asked(15)
        ids = {one.id for one in (await batch.status()).workers}
        postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM (SELECT DISTINCT pid FROM pg_locks WHERE locktype = 'advisory'"
            " AND classid = 1312901458 AND objid > 0) AS holders"
        )
        assert len([one async for one in batch.outcomes()]) == 30
        assert not ids & {one.id for one in (await batch.status()).workers}
    assert field.asked == Counter(texts)


@pytest.mark.parametrize("ran", [True, False])
async def test_a_dead_workers_prompts_are_looked_up(
    field: Field, monkeypatch: pytest.MonkeyPatch, *, ran: bool
) -> None:
    """What a dead worker was sending is in doubt; it is found, or provably did not run and is sent. Equal ones too."""
    monkeypatch.setattr("nairi_async.cluster.worker.LEASE", LEASE / 100)
    async with field.cluster() as cluster, field.session() as session:
        batch = await cluster.submit("run-1", AGENT, ["Same", "Same", "Other"], settle=0.5)
        sent_at = time.time()
        if ran:
            for text in ("Same", "Same", "Other"):
                await session.start(AGENT, text)
        sql(field.database, "INSERT INTO nairi_workers VALUES (0, 'x', 'gone', 1, 1, 1)")
        sql(field.database, _LEFT_SENDING.format(sent_at))
        sql(field.database, "DELETE FROM procrastinate_jobs")
        async with field.worker(), field.worker():
            outcomes = [one async for one in batch.outcomes()]
    assert len({one.turn.job_id for one in outcomes if one.turn}) == 3
    assert field.asked == Counter(["Same", "Same", "Other"])


async def test_the_clock_of_the_database_may_be_another(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be hours behind, and set forward while a prompt is in doubt: identical prompts keep their own turns."""
    monkeypatch.setattr("nairi_async.cluster.worker.LEASE", LEASE / 100)
    name, behind = field.database.rpartition("/")[2], "SELECT pg_catalog.clock_timestamp() - interval '{} minutes'"
    replace = "CREATE OR REPLACE FUNCTION fake.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql AS $${}$$"
    for query in (
        "CREATE SCHEMA fake",
        replace.format(behind.format(300)),
        f"ALTER DATABASE {name} SET search_path = fake, public, pg_catalog",
    ):
        sql(field.database, query)
    async with field.cluster() as cluster, field.session() as session:
        batch = await cluster.submit("run-1", AGENT, ["Same"], settle=0.5)
        async with field.worker():
            first = [one async for one in batch.outcomes()]
        batch = await cluster.submit("run-2", AGENT, ["Same"], settle=0.5)
        sent_at = time.time()
        turn = await session.start(AGENT, "Same")
        sql(field.database, "INSERT INTO nairi_workers VALUES (0, 'x', 'gone', 1, 1, 1)")
        lost_at = "extract(epoch FROM fake.clock_timestamp())"
        left = f"{_LEFT_SENDING.format(sent_at)}, is_in_doubt = true, lost_at = {lost_at} WHERE state = 'unsent'"
        sql(field.database, left)
        sql(field.database, "DELETE FROM procrastinate_jobs")
        sql(field.database, replace.format(behind.format(290)))
        async with field.worker():
            async with asyncio.timeout(120):
                outcomes = [one async for one in batch.outcomes()]
    assert [one.turn for one in outcomes] == [turn]
    assert first[0].turn != turn
    assert field.asked == Counter({"Same": 2})


async def test_what_cannot_be_decided_stays_in_doubt_and_is_said(field: Field) -> None:
    """With `report` nothing is looked up: the prompt is not sent again, and the status says that it is in doubt."""
    async with field.cluster() as cluster:
        batch = await cluster.submit("run-1", AGENT, ["Lost"], on_unknown="report")
        sql(field.database, "INSERT INTO nairi_workers VALUES (0, 'x', 'gone', 1, 1, 1)")
        sql(field.database, _LEFT_SENDING.format(time.time()))
        async with field.worker():
            async with asyncio.timeout(100):
                while not (status := await batch.status()).in_doubt:  # noqa: ASYNC110 - in a database
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.5)
        assert (status.sending, status.in_doubt, (await batch.status()).in_doubt) == (1, 1, 1)
    assert not field.asked


async def test_the_rate_is_shared_polls_included(field: Field) -> None:
    """Two workers together keep to the rate with everything that they request.

    At any moment no more has arrived than the rate allows since the beginning, and a quarter of a second ahead.
    """
    async with field.cluster() as cluster:
        batch = await cluster.submit("run-1", AGENT, [f"Prompt {number}" for number in range(25)])
        began = time.time()
        async with field.worker(requests_per_second=30), field.worker(requests_per_second=30):
            assert len([one async for one in batch.outcomes()]) == 25
    times = sorted(one.at for one in field.simulator.requests)
    assert len(times) >= 50
    for number, at in enumerate(times, 1):
        assert number <= 30 * (at - began + 0.25) + 4


async def test_concurrency_is_one_number_for_all_workers(field: Field) -> None:
    """Two workers together never run more than that, as the service sees it, and all prompts get their turn."""
    field.simulator.agent(AGENT, lambda prompt, _: [Say(prompt, after=0.2)])
    async with field.cluster() as cluster:
        batch = await cluster.submit("run-1", AGENT, [f"Prompt {number}" for number in range(24)])
        async with field.worker(concurrency=5), field.worker(concurrency=5):
            assert len([one async for one in batch.outcomes()]) == 24
    began = [one.at for one in field.simulator.prompts]
    running = [sum(other <= at < other + 0.2 for other in began) for at in began]
    assert max(running) <= 5


async def test_a_refused_key_ends_the_worker(field: Field) -> None:
    """A wrong key would fail every prompt: the worker ends with the error, and nothing is lost or counted as failed."""
    async with field.cluster() as cluster, NairiSession("nr_wrong", base_url=field.simulator.url) as session:
        batch = await cluster.submit("run-1", AGENT, ["a", "b"])
        with pytest.raises(AuthenticationError):
            await cluster.work(session)
        status = await batch.status()
        assert (status.unsent, status.failed) == (2, 0)
        async with field.worker():
            assert len([one async for one in batch.outcomes()]) == 2


async def test_calls_may_be_cancelled_anywhere(field: Field) -> None:
    """Cancelled in an anyio scope a call leaves the cluster usable, and what it began ends as a whole."""
    async with field.cluster() as cluster:
        batch = await cluster.submit("run-1", AGENT, ["a"])
        for tenth_millisecond in range(0, 60, 3):
            with anyio.move_on_after(tenth_millisecond / 10_000):
                await cluster.submit("run-1", AGENT, [f"Prompt {number}" for number in range(10)])
            with anyio.move_on_after(tenth_millisecond / 10_000):
                await batch.status()
        texts = [f"Prompt {number}" for number in range(10)]
        task = asyncio.create_task(cluster.submit("run-1", AGENT, texts))
        await asyncio.sleep(0.001)
        task.cancel()
        task.cancel()
        await asyncio.wait((task,))
        await cluster.submit("run-1", AGENT, [f"Prompt {number}" for number in range(10)])
        async with field.worker():
            assert len([one async for one in batch.outcomes()]) == 11
    assert set(field.asked.values()) == {1}


async def test_a_cancelled_worker_hands_on(field: Field) -> None:
    """Cancelling `work`, twice in a row, hands on as `stop` does; the session sends freely again afterwards."""
    field.simulator.agent(AGENT, lambda prompt, _: [Say(prompt, after=1)])
    async with field.cluster() as cluster, field.session() as session:
        batch = await cluster.submit("run-1", AGENT, ["a", "b"])
        task = asyncio.create_task(cluster.work(session))
        await field.until_asked(2)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
        assert sql(field.database, "SELECT DISTINCT owner FROM nairi_items") == [(NO_ONE,)]
        assert session._executor.gate.wait is None
        async with field.worker():
            assert len([one async for one in batch.outcomes()]) == 2
    assert field.asked == Counter(["a", "b"])


async def test_ends_have_one_order(field: Field) -> None:
    """Outcomes are numbered without gaps in the order of their commits, so that no reader passes over one."""
    async with field.cluster() as cluster, field.worker(limit=50), field.worker(limit=50):
        batch = await cluster.submit("run-1", AGENT, [str(number) for number in range(80)])
        seen = [one.id async for one in batch.outcomes()]
    found = sql(field.database, "SELECT sequence, id FROM nairi_outcomes JOIN nairi_prompts USING (number) ORDER BY 1")
    assert [id_ for _, id_ in found] == seen
    assert all(int(str(after)) - int(str(before)) == 1 for (before, _), (after, _) in pairwise(found))


async def test_the_database_may_crash(field: Field, postgres: Postgres) -> None:
    """PostgreSQL crashes and starts again: workers and readers go on, and each prompt runs once."""
    texts = [f"Prompt {number}" for number in range(20)]
    async with field.cluster() as cluster, field.worker(), field.worker():
        batch = await cluster.submit("run-1", AGENT, texts, settle=2)
        outcomes = batch.outcomes()
        following = asyncio.create_task(anext(outcomes))
        await field.until_asked(10)
        await asyncio.to_thread(postgres.crash)
        await asyncio.sleep(0.3)
        await asyncio.to_thread(postgres.start)
        seen = [await following, *[one async for one in outcomes]]
    assert len({one.id for one in seen}) == 20
    assert field.asked == Counter(texts)


async def test_connections_that_drop_again_and_again(field: Field, postgres: Postgres) -> None:
    """Connections to the database drop before an answer arrives, in the middle of every kind of statement: none shows.

    Whether the statement was committed is then not known; it is made again, and has its effect once.
    """
    texts = [f"Prompt {number}" for number in range(6)]
    async with CuttingProxy(postgres.port) as proxy:
        field.database = field.database.replace(f":{postgres.port}/", f":{proxy.port}/")
        async with field.cluster() as cluster:
            batch = await cluster.submit("run-1", AGENT, texts[:3], settle=2)
            async with field.worker(requests_per_second=200), field.worker(requests_per_second=200):
                # A cluster that cannot be opened says so at once.
                proxy.every = 23
                await cluster.submit("run-1", AGENT, texts)
                seen = [one.prompt async for one in batch.outcomes()]
                assert (await batch.status()).done == 6
                proxy.every = 0
        assert proxy.cuts
    assert Counter(seen) == field.asked == Counter(texts)
