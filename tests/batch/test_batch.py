"""A batch resumes where another left off: nothing is sent twice, nothing is lost, errors stay with their prompt."""

from __future__ import annotations

import asyncio
import gc
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from aiohttp import web
from batches import AGENT, Runs, is_start, lost
from support import SetClock, until

from nairi_async import (
    AgentNotFoundError,
    AuthenticationError,
    BadRequestError,
    InvalidArgumentError,
    LedgerError,
    NairiSession,
    NotFoundError,
    OutcomeUnknownError,
    PermissionDeniedError,
    SessionClosedError,
    TurnFailedError,
    WatchTimeoutError,
)
from nairi_async.amigo import AmigoSession
from nairi_async.batch import Batch, BatchItem, BatchOutcome, read_status
from nairi_async.batch.item_state import Entry
from nairi_async.testing import Fail, FaultPlan, Quirks, Say, Simulator, VirtualClock
from nairi_async.testing.json_bodies import RefusedError, error_response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from nairi_async.testing.faults import FaultKind

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def script(simulator: Simulator) -> Simulator:
    """Make an agent that fails at `bad`, takes ten minutes for `slow`, and reports its cost."""

    def play(prompt: str, _: int) -> list[Say | Fail]:
        if prompt == "bad":
            return [Fail("no", after=1)]
        after = 600 if prompt == "slow" else 2
        return [Say(f"re {prompt}", after=after, usage={"cost_usd": 0.01, "model": "m"})]

    return simulator.agent(AGENT, play)


def asked(simulator: Simulator) -> list[str]:
    return sorted(entry.prompt for entry in simulator.prompts)


async def test_ended_prompts_are_not_sent_again(runs: Runs, simulator: Simulator) -> None:
    """The second run of the same command does nothing and hands over nothing; the ledger knows all."""
    first = await runs.all(["a", "b", "bad"])
    assert {id_: outcome.reply.text for id_, outcome in first.items() if outcome.reply} == {"#1": "re a", "#2": "re b"}
    assert isinstance(first["#3"].error, TurnFailedError)
    assert all(outcome.is_final and outcome.turn for outcome in first.values())
    assert [(first[id_].place, first[id_].prompt) for id_ in sorted(first)] == [(1, "a"), (2, "b"), (3, "bad")]
    assert await runs.all(["a", "b", "bad"]) == {}
    assert asked(simulator) == ["a", "b", "bad"]
    status = read_status(runs.ledger)
    assert (status.done, status.failed, status.open, status.cost_usd) == (2, 1, 0, Decimal("0.02"))
    assert (status.agent_id, status.is_active) == (AGENT, False)


async def test_what_failed_has_cost_as_well(runs: Runs, simulator: Simulator) -> None:
    """The cost of a batch includes failed turns, and every attempt."""
    simulator.agent(AGENT, lambda *_: [Say("partly", usage={"cost_usd": 0.25}), Fail("no")])
    await runs.all(["a"])
    assert read_status(runs.ledger).cost_usd == Decimal("0.25")
    await runs.all([], retry_failed=True)
    assert read_status(runs.ledger).cost_usd == Decimal("0.50")


@pytest.mark.parametrize("cost", ["1E+99999999", "-1E+999999", "1E-999999"])
async def test_absurd_costs_are_not_summed(runs: Runs, simulator: Simulator, cost: str) -> None:
    """A cost of more digits than any agent has spends neither memory nor the batch."""
    simulator.agent(AGENT, lambda *_: [Say("hi", usage={"cost_usd": cost})])
    outcomes = await runs.all(["a"], output=runs.output)
    assert outcomes["#1"].reply is not None
    assert read_status(runs.ledger).cost_usd == 0
    assert len(runs.output.read_text()) < 500


async def test_outcomes_not_dealt_with_come_again(runs: Runs, simulator: Simulator) -> None:
    """A consumer that fails while it handles an outcome gets it again, equal in every part, and only those behind."""
    prompts = ["a", "b", "bad", "d"]
    seen: list[BatchOutcome] = []

    async def work() -> None:
        async with runs.batch(prompts, limit=1) as outcomes:
            async for outcome in outcomes:
                seen.append(outcome)
                if len(seen) == 3:
                    raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work()
    again = await runs.all(prompts, limit=1)
    assert list(again) == ["#3", "#4"]
    assert (again["#3"].turn, again["#3"].prompt, again["#3"].is_final) == (seen[2].turn, "bad", True)
    assert str(again["#3"].error) == str(seen[2].error)
    assert asked(simulator) == ["a", "b", "bad", "d"]


async def test_a_restored_reply_is_the_same(runs: Runs) -> None:
    """The ledger hands over the reply itself again: text, messages, usage, turn."""
    seen: list[BatchOutcome] = []
    async with runs.batch(["a"]) as outcomes:
        async for outcome in outcomes:
            seen.append(outcome)
            break
    assert await runs.all(["a"]) == {"#1": seen[0]}


async def test_turns_that_had_begun_are_waited_for(runs: Runs, simulator: Simulator, clock: VirtualClock) -> None:
    """A run that was left while turns were open picks them up by their jobs, before it reads anything new."""
    async with runs.batch(["slow", "a"]) as outcomes:
        assert (await anext(outcomes)).prompt == "a"
    assert read_status(runs.ledger).running == 1
    again = await runs.all([])
    assert again["#1"].reply is not None
    assert (again["#1"].reply.text, again["#1"].place) == ("re slow", 1)
    assert asked(simulator) == ["a", "slow"]
    assert clock.monotonic() > 600


async def test_a_timeout_leaves_the_turn_to_the_next_run(runs: Runs, simulator: Simulator) -> None:
    """The outcome says that it is not final, and names the turn; the ledger keeps it open."""
    outcome = (await runs.all(["slow"], timeout=10))["#1"]
    assert isinstance(outcome.error, WatchTimeoutError)
    assert (outcome.is_final, outcome.turn is not None) == (False, True)
    assert (await runs.all(["slow"]))["#1"].reply is not None
    assert len(simulator.prompts) == 1


@pytest.mark.parametrize("count", [1, 5])
async def test_a_turn_that_is_not_shown_yet_is_waited_for(runs: Runs, simulator: Simulator, count: int) -> None:
    """A 404 may come from a copy that is behind, or from a proxy: the turn runs, and its reply is not given up."""
    left = count

    async def hide(request: web.Request) -> web.Response | None:
        nonlocal left
        left -= request.method == "GET"
        return error_response(RefusedError(404, "message not found")) if left >= 0 and request.method == "GET" else None

    simulator.intercept = hide
    assert (await runs.all(["a"]))["#1"].reply is not None
    assert (left < 0, read_status(runs.ledger).failed) == (True, 0)


async def test_closing_the_session_ends_the_rest_of_a_turn_that_is_not_shown(
    runs: Runs, nairi: NairiSession, simulator: Simulator, clock: VirtualClock
) -> None:
    """Between two reads of a turn that is not found a batch rests up to half a minute; closing the session ends it."""

    async def hide(request: web.Request) -> web.Response | None:
        return error_response(RefusedError(404, "message not found")) if request.method == "GET" else None

    simulator.intercept = hide
    running = asyncio.create_task(runs.all(["a"]))
    # The ledger is opened in a thread, which takes no virtual time.
    await until(lambda: any(request.method == "GET" for request in simulator.requests))
    await clock.sleep(60)
    assert not running.done()
    closed_at = clock.monotonic()
    await nairi.aclose()
    with pytest.raises(SessionClosedError):
        await running
    assert clock.monotonic() == closed_at
    assert read_status(runs.ledger).failed == 0


async def test_turns_are_not_lost_to_another_organisation(
    runs: Runs, nairi: NairiSession, simulator: Simulator, clock: VirtualClock
) -> None:
    """Where another key leads to, nothing is known of the ledger's turns: all stay open until the right one is back."""
    async with runs.batch(["slow", "a"]) as outcomes:
        await anext(outcomes)
    simulator.intercept_response = lost(1)
    await runs.all(["slow", "a", "lost"], timeout=1, on_unknown="report")
    async with (
        Simulator(clock=clock) as elsewhere,
        NairiSession(elsewhere.api_key, base_url=elsewhere.url, clock=clock) as other,
    ):
        elsewhere.agent(AGENT, "done")
        # Two organisations at one address, as far as the ledger can see.
        other._parts.base_url = nairi._parts.base_url
        runs.nairi = other
        outcomes_ = await runs.all([])
        assert elsewhere.prompts == []
    assert (isinstance(outcomes_["#1"].error, NotFoundError), outcomes_["#1"].is_final) == (True, False)
    assert (isinstance(outcomes_["#3"].error, OutcomeUnknownError), outcomes_["#3"].is_final) == (True, False)
    runs.nairi = nairi
    assert [outcome.reply is not None for outcome in (await runs.all([])).values()] == [True, True]
    assert asked(simulator) == ["a", "lost", "slow"]


async def test_a_turn_that_is_gone_has_ended(runs: Runs, simulator: Simulator) -> None:
    """Where the service still knows the turns of an earlier run, the one that it does not know is gone for good."""
    async with runs.batch(["slow", "a"]) as outcomes:
        await anext(outcomes)
    gone = next(entry.message_id for entry in simulator.prompts if entry.prompt == "slow")

    async def purged(request: web.Request) -> web.Response | None:
        return error_response(RefusedError(404, "message not found")) if gone in request.path else None

    simulator.intercept = purged
    outcome = (await runs.all([]))["#1"]
    assert (isinstance(outcome.error, NotFoundError), outcome.is_final) == (True, True)
    assert read_status(runs.ledger).failed == 1


async def test_failures_are_asked_again_on_request(runs: Runs, simulator: Simulator) -> None:
    """With `retry_failed` prompts that ended without a reply are sent once more, also without their source."""
    await runs.all(["bad", "a"])
    assert await runs.all(["bad", "a"]) == {}
    simulator.agent(AGENT, lambda prompt, _: f"now {prompt}")
    again = await runs.all([], retry_failed=True)
    assert [(id_, outcome.reply.text) for id_, outcome in again.items() if outcome.reply] == [("#1", "now bad")]
    assert asked(simulator) == ["a", "bad", "bad"]
    assert (read_status(runs.ledger).done, read_status(runs.ledger).failed) == (2, 0)


async def test_records_have_ids_and_files(runs: Runs, simulator: Simulator, tmp_path: Path) -> None:
    """A record's id is its identity wherever it stands, and its files are uploaded before the prompt is sent."""
    file = tmp_path / "a.txt"
    file.write_bytes(b"data")
    records = [
        {"id": 7, "prompt": "a", "other": True},
        BatchItem("b", id="x", attachments=(str(file),)),
        {"prompt": "c", "attachments": None},
    ]
    assert set(await runs.all(records)) == {"7", "x", "#3"}
    assert {entry.prompt: len(entry.attachment_ids) for entry in simulator.prompts} == {"a": 0, "b": 1, "c": 0}
    # Moved; the third has no id of its own, so that its place says who it is.
    assert await runs.all([records[1], records[0], records[2]]) == {}


async def test_bad_records_are_errors_of_their_own(runs: Runs, simulator: Simulator, tmp_path: Path) -> None:
    """A record that cannot be sent has an error at its place; the others go on, and the next run tries it again."""
    bad: list[tuple[Any, str]] = [
        (" ", "blank"),
        (7, "not int"),
        ({"id": "x"}, "no prompt"),
        ({"prompt": 3}, "not int"),
        ({"prompt": "p", "id": ""}, "id must be"),
        ({"prompt": "p", "id": True}, "id must be"),
        ({"prompt": "p", "id": "x" * 2000}, "id must be"),
        ({"prompt": "p", "attachments": "file"}, "list of paths"),
        ({"prompt": "p", "attachments": [1]}, "list of paths"),
        ({"prompt": "p", "attachments": ["f"] * 11}, "at most 10"),
        ("\ud800", "half a character"),
        ({"prompt": "p", "id": "\ud800"}, "half a character"),
        (BatchItem("p", place=0), "a place must be"),
        (BatchItem("p", place=2**70), "a place must be"),
    ]
    outcomes = await runs.all([record for record, _ in bad] + ["a"])
    for place, (_, reason) in enumerate(bad, 1):
        outcome = outcomes[f"#{place}"]
        assert isinstance(outcome.error, InvalidArgumentError)
        assert reason in str(outcome.error), outcome
        assert (outcome.is_final, outcome.place) == (False, place)
    assert asked(simulator) == ["a"]
    missing = (await runs.all([{"id": "m", "prompt": "with", "attachments": [str(tmp_path / "gone")]}]))["m"]
    assert isinstance(missing.error, InvalidArgumentError)
    assert (read_status(runs.ledger).unusable, read_status(runs.ledger).open) == (1, 0)
    (tmp_path / "gone").write_bytes(b"back")
    assert (await runs.all([]))["m"].reply is not None


async def test_a_record_that_could_not_be_used_may_be_corrected(
    runs: Runs, simulator: Simulator, tmp_path: Path
) -> None:
    """A record that was not sent may change under its id; an uncorrected one is reported by every run."""
    (tmp_path / "there").write_bytes(b"data")
    gone = [{"id": id_, "prompt": id_, "attachments": [str(tmp_path / "gone")]} for id_ in ("m", "n")]
    for _ in range(2):
        outcomes = await runs.all(["", *gone])
        assert [isinstance(outcome.error, InvalidArgumentError) for outcome in outcomes.values()] == [True] * 3
        status = read_status(runs.ledger)
        assert (status.unusable, status.unsent, status.open) == (3, 0, 0)
    corrected = {"id": "m", "prompt": "now", "attachments": [str(tmp_path / "there")]}
    outcomes = await runs.all([corrected], limit=1)
    assert outcomes["m"].reply is not None
    assert isinstance(outcomes["n"].error, InvalidArgumentError)
    assert (read_status(runs.ledger).unusable, asked(simulator)) == (1, ["now"])
    (tmp_path / "gone").write_bytes(b"back")
    assert (await runs.all([]))["n"].reply is not None
    assert (await runs.all([corrected, gone[1]]), read_status(runs.ledger).unusable) == ({}, 0)


async def test_a_record_without_an_id_that_could_not_be_used_is_sent_once_its_file_is_there(
    runs: Runs, tmp_path: Path
) -> None:
    """It keeps the name that its place gave it."""
    records = [{"prompt": "a", "attachments": [str(tmp_path / "late")]}, {"prompt": "b"}]
    assert [name for name, outcome in (await runs.all(records)).items() if outcome.error] == ["#1"]
    (tmp_path / "late").write_bytes(b"data")
    assert (await runs.all(records))["#1"].reply is not None


async def test_what_one_run_finds_unusable_it_does_not_try_again(
    runs: Runs, simulator: Simulator, tmp_path: Path
) -> None:
    """A prompt whose file is gone is reported once in a run, whether or not the source has it."""

    async def closed(request: web.Request) -> web.Response | None:
        return error_response(RefusedError(429, "later")) if is_start(request) else None

    file = tmp_path / "file"
    file.write_bytes(b"data")
    simulator.intercept = closed
    records = [{"id": "m", "prompt": "a", "attachments": [str(file)]}, "b"]
    await runs.all(records)
    assert read_status(runs.ledger).unsent == 2
    simulator.intercept = None
    file.unlink()
    async with runs.batch(records, limit=1) as outcomes:
        assert [(outcome.id, outcome.is_final) async for outcome in outcomes] == [("m", False), ("#2", True)]
        assert outcomes.status.unusable == 1


async def test_ids_are_unlike_each_other(runs: Runs, simulator: Simulator) -> None:
    """A second record with an id, and another prompt under a known id, are errors and are not sent."""
    for _ in range(2):
        async with runs.batch([{"id": "x", "prompt": "a"}, {"id": "x", "prompt": "a"}]) as outcomes:
            errors = [str(outcome.error) async for outcome in outcomes if outcome.error]
        assert errors == ["the id 'x' was already taken by #1: give it another id"]
    changed = await runs.all([{"id": "x", "prompt": "b"}])
    assert "another prompt" in str(changed["x"].error)
    assert asked(simulator) == ["a"]


async def test_prompts_are_read_lazily(runs: Runs, simulator: Simulator) -> None:
    """From an endless source only as many are taken as may go on at once; async sources as well."""
    taken = 0

    async def endless() -> AsyncIterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield f"p{taken}"

    async with runs.batch(endless(), limit=5) as outcomes:
        for count in range(1, 20):
            await anext(outcomes)
            assert taken <= count + 5
    assert len(simulator.prompts) <= 25


async def test_an_error_of_the_source_comes_last(runs: Runs, simulator: Simulator) -> None:
    """An error of the source is raised after the outcomes of everything that was sent before."""

    def source() -> Iterator[str]:
        yield "a"
        raise ZeroDivisionError

    async with runs.batch(source()) as outcomes:
        assert (await anext(outcomes)).reply is not None
        with pytest.raises(ZeroDivisionError):
            await anext(outcomes)


async def test_nothing_is_kept_of_what_has_ended(runs: Runs) -> None:
    """After hundreds of prompts as little is in memory as after a few."""

    def count_kept() -> int:
        gc.collect()
        return sum(isinstance(thing, Entry | BatchOutcome | asyncio.Task) for thing in gc.get_objects())

    counts: list[int] = []
    async with runs.batch((f"p{number}" for number in range(200)), limit=20) as outcomes:
        number = 0
        async for _ in outcomes:
            number += 1
            if number in {50, 190}:
                counts.append(count_kept())
        run = outcomes._run
        assert run is not None
        runner, lost = run.runner, run.runner.lost_prompts
        assert not any((run.pool.tasks, runner.switch._tasks, lost._identical._lookups, lost._identical._in_flight))
    assert abs(counts[1] - counts[0]) <= 60


async def test_a_lost_answer_is_looked_up(runs: Runs, simulator: Simulator) -> None:
    """The prompt ran and its response was lost: the turn is found, nothing is sent again; copies get one each."""
    simulator.intercept_response = lost(3)
    outcomes = await runs.all(["same", "same", "same", "other"])
    assert all(outcome.reply for outcome in outcomes.values())
    assert len({outcome.turn for outcome in outcomes.values()}) == 4
    assert asked(simulator) == ["other", "same", "same", "same"]


async def test_a_prompt_that_never_arrived_is_asked(runs: Runs, simulator: Simulator) -> None:
    """The prompt left and did not arrive: after the time to settle that is proven, and it is sent again."""
    simulator.intercept = lost(1)
    outcomes = await runs.all(["a", "b"])
    assert all(outcome.reply for outcome in outcomes.values())
    assert asked(simulator) == ["a", "b"]


async def test_a_service_that_loses_everything_is_given_up(runs: Runs, simulator: Simulator) -> None:
    """After some attempts of one run the prompt is left to the next run."""
    simulator.intercept = lost(3)
    outcome = (await runs.all(["a"], settle=1))["#1"]
    assert isinstance(outcome.error, OutcomeUnknownError)
    assert not outcome.is_final
    assert read_status(runs.ledger).sending == 1
    assert (await runs.all(["a"], settle=1))["#1"].reply is not None
    assert asked(simulator) == ["a"]


async def test_doubt_may_be_reported_only(runs: Runs, simulator: Simulator) -> None:
    """With `on_unknown="report"` a lost prompt is only reported, until a run may look it up."""
    simulator.intercept_response = lost(1)
    for _ in range(2):
        outcome = (await runs.all(["a"], on_unknown="report"))["#1"]
        assert isinstance(outcome.error, OutcomeUnknownError)
        assert not outcome.is_final
    found = (await runs.all(["a"]))["#1"]
    assert found.reply is not None
    assert asked(simulator) == ["a"]


async def test_a_service_without_listings_leaves_doubt(tmp_path: Path, clock: VirtualClock) -> None:
    """A lookup that is refused decides nothing about the prompt, which is not sent again."""
    async with (
        Simulator(clock=clock, quirks=Quirks(listing=False)) as simulator,
        NairiSession(simulator.api_key, base_url=simulator.url, clock=clock) as nairi,
    ):
        simulator.agent(AGENT, "done").intercept_response = lost(1)
        runs = Runs(nairi, tmp_path)
        for _ in range(2):
            outcome = (await runs.all(["a", "b"])).get("#1")
            assert outcome
            assert isinstance(outcome.error, OutcomeUnknownError)
            assert not outcome.is_final
        status = read_status(runs.ledger)
        assert (status.sending, status.failed, status.done) == (1, 0, 1)
        assert asked(simulator) == ["a", "b"]


@pytest.mark.parametrize(("kind", "count"), [("stale", 1), ("late", 1), ("skewed", 1), ("skewed", 2)])
async def test_one_wrong_answer_is_no_proof(
    runs: Runs, simulator: Simulator, clock: VirtualClock, kind: FaultKind, count: int
) -> None:
    """A prompt that ran is not sent again because a poll lagged, or came from a server whose clock is wrong."""
    simulator.intercept_response = lost(1)
    await runs.all(["a"], on_unknown="report")
    simulator.faults = FaultPlan(script=(kind,) * count, where="GET", lag=600)
    async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock) as other:
        runs.nairi = other
        assert (await runs.all(["a"], settle=0))["#1"].reply is not None
    assert asked(simulator) == ["a"]


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [("a\u0301 b", "\xe1 b"), ("a\tb", "a b"), ("a\x00b", "ab"), ("word " * 300, "word " * 200)],
)
async def test_a_prompt_shown_otherwise_is_not_sent_again(
    runs: Runs, simulator: Simulator, prompt: str, shown: str
) -> None:
    """Where the service shows something that may be the prompt, it is not proven that it does not run."""
    cut = lost(1)

    async def altered(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        await cut(request)
        if isinstance(response, web.Response) and request.path.endswith("/messages"):
            body = json.loads(response.text or "")
            for message in body["messages"]:
                message["content"] = message["content"].replace(prompt, shown)
            return web.json_response(body, headers={"Date": response.headers.get("Date", "")})
        return response

    simulator.intercept_response = altered
    outcome = (await runs.all([prompt]))["#1"]
    assert (isinstance(outcome.error, OutcomeUnknownError), outcome.is_final) == (True, False)
    assert len(simulator.prompts) == 1


async def test_how_lines_end_does_not_matter(runs: Runs, simulator: Simulator) -> None:
    """A service that ends lines its own way still shows the same prompt."""
    cut = lost(1)

    async def altered(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        await cut(request)
        if isinstance(response, web.Response) and request.path.endswith("/messages"):
            return web.json_response(text=(response.text or "").replace("\\r\\n", "\\n"))
        return response

    simulator.intercept_response = altered
    assert (await runs.all(["a\r\nb"]))["#1"].reply is not None
    assert len(simulator.prompts) == 1


@pytest.mark.parametrize(("before", "after"), [(120, 0), (0, -120), (0, 120), (-120, 0), (7200, 0), (0, -7200)])
async def test_a_clock_that_was_set_is_no_proof(
    runs: Runs, simulator: Simulator, clock: VirtualClock, before: int, after: int
) -> None:
    """A prompt that ran is not sent again because the machine's clock was set between two runs."""
    simulator.intercept_response = lost(1)
    for ahead, settling in ((before, "report"), (after, "reconcile")):
        machine = SetClock(clock, ahead)
        async with NairiSession(simulator.api_key, base_url=simulator.url, clock=machine) as runs.nairi:
            outcome = (await runs.all(["a"], on_unknown=settling))["#1"]
        await clock.sleep(900)
    assert outcome.reply is not None
    assert asked(simulator) == ["a"]


async def test_equal_prompts_of_a_killed_run_take_one_turn_each(
    runs: Runs, simulator: Simulator, clock: VirtualClock
) -> None:
    """Of three identical prompts being sent two arrived: each takes one turn, and the third is sent."""
    simulator.intercept_response = lost(2)
    simulator.intercept = None
    async with runs.batch(["same", "same"], on_unknown="report") as outcomes:
        assert [outcome.is_final async for outcome in outcomes] == [False, False]
    simulator.intercept_response, simulator.intercept = None, lost(1)
    async with runs.batch(["same", "same", "same"], on_unknown="report", limit=3) as outcomes:
        assert [outcome.is_final async for outcome in outcomes] == [False, False, False]
    # Another session, as in another process: it owns no conversation.
    async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock) as other:
        runs.nairi = other
        # One at a time: none can lean on another's lookup.
        outcome = await runs.all(["same"] * 3, limit=1)
    assert len({found.turn for found in outcome.values()}) == 3
    assert len(simulator.prompts) == 3


async def test_a_foreign_conversation_is_not_claimed(runs: Runs, simulator: Simulator, clock: VirtualClock) -> None:
    """With two equal conversations and one lost prompt nothing is claimed or sent, since either may be its own."""
    simulator.intercept_response = lost(1)
    await runs.all(["same"], on_unknown="report")
    async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock) as other:
        await other.start(AGENT, "same")
    outcome = (await runs.all(["same"]))["#1"]
    assert isinstance(outcome.error, OutcomeUnknownError)
    assert (len(outcome.error.candidates), outcome.is_final) == (2, False)
    assert len(simulator.prompts) == 2


async def test_what_is_refused_has_ended(runs: Runs, simulator: Simulator) -> None:
    """A prompt that the service refuses has failed, and is not sent by the next run."""

    async def refuse(request: web.Request) -> web.Response | None:
        return (
            error_response(RefusedError(400, "too long"))
            if is_start(request) and "long" in await request.text()
            else None
        )

    simulator.intercept = refuse
    outcomes = await runs.all(["long", "a"])
    assert isinstance(outcomes["#1"].error, BadRequestError)
    assert (outcomes["#1"].is_final, outcomes["#1"].turn) == (True, None)
    assert await runs.all(["long", "a"]) == {}
    async with runs.batch([], retry_failed=True) as outcomes_:
        restored = await anext(outcomes_)
    again = (await runs.all([]))["#1"]
    assert isinstance(again.error, BadRequestError)
    assert (str(again.error), again.error.status) == (str(restored.error), 400)


@pytest.mark.parametrize("status", [302, 402, 405, 407, 429, 451])
async def test_what_was_not_accepted_is_sent_by_the_next_run(runs: Runs, simulator: Simulator, status: int) -> None:
    """Prompts that a proxy or a closed service refuses stay unsent, and are sent when it is back."""

    async def closed(request: web.Request) -> web.Response | None:
        return error_response(RefusedError(status, "later")) if is_start(request) else None

    simulator.intercept = closed
    outcomes = await runs.all(["a", "b"])
    assert not any(outcome.is_final for outcome in outcomes.values())
    assert read_status(runs.ledger).unsent == 2
    simulator.intercept = None
    assert all(outcome.reply for outcome in (await runs.all(["a", "b"])).values())
    assert asked(simulator) == ["a", "b"]


async def test_a_refused_key_ends_the_batch(runs: Runs, simulator: Simulator) -> None:
    """A refused key is raised and marks nothing as failed; with the right key everything goes on."""
    key = simulator.api_key
    prompts = ["a", "slow", *(f"p{number}" for number in range(50))]
    async with runs.batch(prompts[:2]) as outcomes:
        await anext(outcomes)
        simulator.api_key = "nr_other"
        with pytest.raises(AuthenticationError):
            await anext(outcomes)
    assert read_status(runs.ledger).running == 1
    simulator.api_key = key
    await runs.all(prompts[:2])
    simulator.api_key = "nr_other"
    with pytest.raises(AuthenticationError):
        await runs.all(prompts, limit=5)
    status = read_status(runs.ledger)
    assert (status.failed, status.sending, status.running) == (0, 0, 0)
    assert 1 <= status.unsent <= 5
    simulator.api_key = key
    await runs.all(prompts)
    assert asked(simulator) == sorted(prompts)


@pytest.mark.parametrize("limit", [1, 5])
async def test_a_firewall_that_dislikes_a_prompt_stops_no_other(runs: Runs, simulator: Simulator, limit: int) -> None:
    """A 403 ends one prompt if others are accepted; if none is accepted, it ends the batch and marks nothing."""

    async def firewall(request: web.Request) -> web.Response | None:
        is_bad = is_start(request) and "drop table" in await request.text()
        return error_response(RefusedError(403, "blocked")) if is_bad else None

    simulator.intercept = firewall
    prompts = ["drop table a", "b", "c", "drop table d", "e"]
    outcomes = await runs.all(prompts, limit=limit)
    assert sorted(id_ for id_, outcome in outcomes.items() if outcome.reply) == ["#2", "#3", "#5"]
    assert all(isinstance(outcomes[id_].error, PermissionDeniedError) for id_ in ("#1", "#4"))
    if limit == 1:
        # When the first was refused, none had been accepted.
        assert (outcomes["#1"].is_final, outcomes["#4"].is_final) == (False, True)
    with pytest.raises(PermissionDeniedError):
        await runs.all([*prompts, *(f"drop table {number}" for number in range(50))])
    status = read_status(runs.ledger)
    assert (status.sending, status.failed <= 2) == (0, True)


async def test_an_unknown_agent_ends_the_batch(clock: VirtualClock, tmp_path: Path) -> None:
    """An agent that does not exist ends the batch."""
    async with (
        Simulator(clock=clock, strict_agents=True) as simulator,
        NairiSession(simulator.api_key, base_url=simulator.url, clock=clock) as nairi,
    ):
        with pytest.raises(AgentNotFoundError):
            await Runs(nairi, tmp_path).all(["a"], agent_id="nobody")


async def test_stopping_leaves_no_doubt(runs: Runs, simulator: Simulator) -> None:
    """`stop` sends nothing more, waits for no reply, and records prompts on their way; the next run does the rest."""
    prompts = [f"p{number}" for number in range(40)]
    async with runs.batch(prompts, limit=8) as outcomes:
        for _ in range(10):
            await anext(outcomes)
        outcomes.stop()
        outcomes.stop()
        rest = [outcome async for outcome in outcomes]
        assert outcomes.status.sending == 0
    assert len(rest) <= 8
    assert read_status(runs.ledger).sending == 0
    await runs.all(prompts)
    assert asked(simulator) == sorted(prompts)


async def test_stopping_keeps_back_what_waits_for_a_connection(
    simulator: Simulator, clock: VirtualClock, tmp_path: Path
) -> None:
    """Of sixty that may be sent at once three have a connection, and three are next: no other leaves after `stop`."""
    arrived, may_go_on = asyncio.Event(), asyncio.Event()

    async def hold(request: web.Request) -> None:
        if is_start(request):
            arrived.set()
            await may_go_on.wait()

    simulator.intercept = hold
    async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock, max_connections=3) as nairi:
        runs, prompts = Runs(nairi, tmp_path), [f"p{number:02}" for number in range(60)]
        async with runs.batch(prompts, limit=1000) as outcomes:
            await arrived.wait()
            outcomes.stop()
            may_go_on.set()
            assert [outcome async for outcome in outcomes] == []
        assert read_status(runs.ledger).sending == 0
        assert len(asked(simulator)) <= 6
        assert len(await runs.all(prompts)) == 60
    assert asked(simulator) == prompts


async def test_stopping_puts_nothing_into_doubt(runs: Runs, simulator: Simulator) -> None:
    """What provably does not run still does not where the next run is stopped just as it begins with it."""

    async def closed(request: web.Request) -> web.Response | None:
        return error_response(RefusedError(429, "later")) if is_start(request) else None

    simulator.intercept = closed
    await runs.all([f"p{number}" for number in range(10)])
    async with runs.batch([]) as outcomes:
        run = outcomes._run
        assert run is not None
        while len(run.pool.tasks) < 2:  # noqa: ASYNC110 - each pass is looked at: an item takes some of them
            await asyncio.sleep(0)
        outcomes.stop()
        assert [outcome async for outcome in outcomes] == []
    status = read_status(runs.ledger)
    assert (status.unsent, status.sending) == (10, 0)


async def test_cancelled_it_goes_on_as_well(runs: Runs, simulator: Simulator) -> None:
    """A cancelled task ends at once; prompts that were on their way are looked up by the next run."""
    prompts = [f"p{number}" for number in range(30)]
    reached = asyncio.Event()

    async def work() -> None:
        async with runs.batch(prompts, limit=10) as outcomes:
            async for outcome in outcomes:
                if outcome.place >= 5:
                    reached.set()

    task = asyncio.create_task(work())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not [one for one in asyncio.all_tasks() if "Work" in repr(one)]
    await runs.all(prompts)
    assert asked(simulator) == sorted(prompts)


@pytest.mark.parametrize("count", [2, 5])
async def test_cancelled_more_than_once_it_releases_the_ledger(runs: Runs, simulator: Simulator, count: int) -> None:
    """However often the task is cancelled, the ledger is free when it has ended, and the next run does the rest."""
    prompts = [f"p{number}" for number in range(30)]
    reached = asyncio.Event()

    async def work() -> None:
        async with runs.batch(prompts, limit=10, output=runs.output) as outcomes:
            async for outcome in outcomes:
                if outcome.place >= 5:
                    reached.set()

    task = asyncio.create_task(work())
    await reached.wait()
    for _ in range(count):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    await runs.all(prompts, output=runs.output)
    assert asked(simulator) == sorted(prompts)
    assert len(runs.output.read_text().splitlines()) == 30


async def test_a_scope_that_ends_a_batch_releases_the_ledger(runs: Runs, simulator: Simulator) -> None:
    """Anyio cancels in every pass of the loop, at any await: while opening, running or closing."""
    prompts = [f"p{number}" for number in range(12)]
    for passes in range(0, 200, 7):
        with anyio.CancelScope() as scope:
            async with runs.batch(prompts, limit=4) as outcomes, anyio.create_task_group() as group:
                group.start_soon(cancel_after, scope, passes)
                async for _ in outcomes:
                    pass
                group.cancel_scope.cancel()
    await runs.all(prompts)
    assert asked(simulator) == sorted(prompts)


async def cancel_after(scope: anyio.CancelScope, passes: int) -> None:
    for _ in range(passes):
        await asyncio.sleep(0)
    scope.cancel()


async def test_opening_may_be_cancelled_often(runs: Runs) -> None:
    """A ledger that is being opened is free as soon as its task has ended."""
    for passes in range(4):
        task = asyncio.create_task(runs.all(["a"]))
        for _ in range(passes):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not read_status(runs.ledger).is_active if runs.ledger.exists() else True
    assert len(await runs.all(["a"])) == 1


async def test_one_process_at_a_time(runs: Runs) -> None:
    """A ledger in use is refused, and free as soon as it is not."""
    async with runs.batch(["a"]) as outcomes:
        with pytest.raises(LedgerError, match="another Batch of this process"):
            await runs.all(["a"])
        assert read_status(runs.ledger).is_active
        assert [outcome.id async for outcome in outcomes] == ["#1"]
    assert await runs.all(["a"]) == {}


async def test_wrong_use_is_refused(runs: Runs, nairi: NairiSession) -> None:
    """Wrong arguments are refused before anything is touched."""
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        ("a", {}, "not a single one"),
        ({"prompt": "a"}, {}, "not a single one"),
        (7, {}, "not a single one"),
        ([], {"on_unknown": "hope"}, "on_unknown"),
        ([], {"limit": 0}, "limit"),
        ([], {"timeout": -1}, "timeout"),
        ([], {"settle": -1}, "settle"),
        ([], {"agent_id": "a b"}, "agent_id"),
        ([], {"output": runs.ledger}, "another file"),
        ([], {"output": f"{runs.ledger}-lock-journal"}, "another file"),
        ([], {"retry_failed": 1}, "retry_failed"),
    ]
    for prompts, options, reason in wrong:
        with pytest.raises(InvalidArgumentError, match=reason):
            runs.batch(prompts, **options)
    async with AmigoSession("key", api_key_id="id", user_id="user", organization_id="org") as amigo:
        with pytest.raises(InvalidArgumentError, match="Batch needs a NairiSession, not AmigoSession"):
            Batch(amigo, AGENT, ["a"], ledger=runs.ledger)  # type: ignore[arg-type]
    batch = runs.batch(["a"])
    with pytest.raises(SessionClosedError, match="async with"):
        await anext(batch)
    assert not runs.ledger.exists()
    async with batch:
        pass
    with pytest.raises(InvalidArgumentError, match="once"):
        await batch.__aenter__()
