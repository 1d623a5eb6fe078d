"""Records of several turns, that continue a conversation, or whose replies are data; the caller's own fields."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any, TypedDict

import pytest
from aiohttp import web
from batches import AGENT, Runs

from nairi_async import InvalidArgumentError, NotFoundError, Prompt, ReplyFormatError, TurnFailedError
from nairi_async.batch import BatchItem, JsonLines, read_status
from nairi_async.testing import Fail, Quirks, Say, Simulator, in_memory_session

if TYPE_CHECKING:
    from pathlib import Path

    from nairi_async import NairiSession

pytestmark = pytest.mark.anyio


class Total(TypedDict):
    total: int


@pytest.fixture(autouse=True)
def script(simulator: Simulator) -> Simulator:
    """Refuse overlapping turns; each reply has the number of its turn."""
    simulator.quirks = Quirks(overlapping="refuse")

    def reply(prompt: str, number: int) -> list[Say | Fail]:
        return [Fail("no", after=1)] if prompt == "fail" else [Say(f"{number}: {prompt}", after=5)]

    return simulator.agent(AGENT, reply)


def asked(simulator: Simulator) -> list[str]:
    return [one.prompt for one in simulator.prompts]


def lines(runs: Runs) -> dict[str, Any]:
    return {line["id"]: line for line in map(json.loads, runs.output.read_text().splitlines())}


async def test_several_turns_in_one_conversation(runs: Runs, simulator: Simulator) -> None:
    """Each prompt is sent behind the turn before it; outcome and line have all replies and the own fields."""
    record = {"id": "t", "prompts": ["a", "b", "c"], "customer": {"no": 7}}
    outcome = (await runs.all([record, "plain"], output=runs.output))["t"]
    assert [reply.text for reply in outcome.replies] == ["1: a", "2: b", "3: c"]
    assert (outcome.prompt, outcome.result().text, outcome.fields) == ("a", "3: c", {"customer": {"no": 7}})
    line = lines(runs)["t"]
    assert (line["text"], line["customer"], line["job_id"]) == ("3: c", {"no": 7}, outcome.replies[0].turn.job_id)
    assert [one["text"] for one in line["replies"]] == ["1: a", "2: b", "3: c"]
    assert "replies" not in lines(runs)["#2"]
    assert len({one.job_id for one in simulator.prompts}) == 2


@pytest.mark.parametrize("after", [1, 2, 3])
async def test_resumed_in_the_middle(runs: Runs, simulator: Simulator, after: int) -> None:
    """A run that ends while a record's second or third turn runs is resumed there: nothing is asked twice."""
    records = [{"id": str(n), "prompts": [f"{n} {turn}" for turn in range(3)]} for n in range(3)]
    async with runs.batch(records) as outcomes:

        async def stop(_request: object, _response: object) -> None:
            if len(simulator.prompts) > 3 * after - 2:
                outcomes.stop()

        simulator.intercept_response = stop
        # One that ended before is handed over here, and not again.
        found = {one.id: one async for one in outcomes}
    assert len(found) < 3
    simulator.intercept_response = None
    found |= await runs.all(records, output=runs.output)
    assert {one.id: [reply.text for reply in one.replies] for one in found.values()} == {
        str(n): [f"{turn + 1}: {n} {turn}" for turn in range(3)] for n in range(3)
    }
    assert sorted(asked(simulator)) == sorted(f"{n} {turn}" for n in range(3) for turn in range(3))
    assert sorted(lines(runs)) == ["0", "1", "2"]


@pytest.mark.parametrize("has_arrived", [True, False])
async def test_a_lost_follow_up_is_looked_up(runs: Runs, simulator: Simulator, *, has_arrived: bool) -> None:
    """A further prompt whose response was lost is found in its conversation, or sent if it provably did not run."""

    async def cut(request: web.Request, *_: object) -> None:
        if request.path.endswith("/continue"):
            await request.read()
            setattr(simulator, hook, None)
            raise ConnectionResetError

    hook = "intercept_response" if has_arrived else "intercept"
    setattr(simulator, hook, cut)
    outcome = (await runs.all([{"prompts": ["a", "b", "b"]}]))["#1"]
    assert [reply.text for reply in outcome.replies] == ["1: a", "2: b", "3: b"]
    assert asked(simulator) == ["a", "b", "b"]


async def test_follow_ups_to_a_conversation(runs: Runs, simulator: Simulator, nairi: NairiSession) -> None:
    """Records with a job id wait for its last turn, and take turns in their order; an unknown one is an error."""
    turn = await nairi.start(AGENT, "begin")
    prompts = [
        Prompt("x", key="X", job_id=turn),
        {"id": "Y", "prompt": "y", "job_id": turn.job_id},
        {"prompts": ["z", "w"]},
    ]
    found = await runs.all([*prompts, {"id": "gone", "prompt": "v", "job_id": "job_gone"}])
    assert [found[name].result().text for name in ("X", "Y", "#3")] == ["2: x", "3: y", "2: w"]
    assert isinstance(found["gone"].error, NotFoundError)
    assert found["gone"].is_final
    assert await runs.all(prompts) == {}
    assert sorted(asked(simulator)) == ["begin", "w", "x", "y", "z"]


async def test_a_replica_that_does_not_know_a_conversation_yet(runs: Runs, simulator: Simulator) -> None:
    """A record may continue what another process has begun a moment ago: a 404 for some seconds does not end it."""
    async with in_memory_session(simulator) as other:
        job_id = (await other.ask(AGENT, "begun elsewhere")).turn.job_id
    left = 3

    async def lag(request: web.Request) -> web.Response | None:
        nonlocal left
        if request.method == "GET" and job_id in request.path and left:
            left -= 1
            return web.json_response({"error": "not found"}, status=404)
        return None

    simulator.intercept = lag
    found = await runs.all([{"id": "a", "prompt": "a", "job_id": job_id}])
    assert found["a"].result().text == "2: a"


async def test_a_turn_that_fails_ends_its_record(runs: Runs, simulator: Simulator) -> None:
    """What follows is not sent; the outcome has the replies before it; `retry_failed` goes on there."""
    outcome = (await runs.all([{"prompts": ["a", "fail", "c"]}]))["#1"]
    assert isinstance(outcome.error, TurnFailedError)
    assert [reply.text for reply in outcome.replies] == ["1: a"]
    assert asked(simulator) == ["a", "fail"]
    simulator.agent(AGENT, lambda prompt, number: [Say(f"{number}: {prompt}", after=5)])
    again = (await runs.all([{"prompts": ["a", "fail", "c"]}], retry_failed=True))["#1"]
    assert [reply.text for reply in again.replies] == ["1: a", "3: fail", "4: c"]


async def test_replies_as_data(runs: Runs, simulator: Simulator) -> None:
    """Each reply is structured; one that does not fit is repaired in its conversation, or is an error that has it."""
    said = {"good": '{"total": 1}', "bad": "none", "worse": "none"}
    simulator.agent(
        AGENT,
        lambda prompt, number: [Say(said.get(prompt) or ('{"total": 2}' if number == 2 else "never"), after=5)],
    )
    found = await runs.all(["good", "bad"], into=Total, repair=1, output=runs.output)
    assert [found[name].result().value for name in ("#1", "#2")] == [{"total": 1}, {"total": 2}]
    assert [reply.text for reply in found["#2"].replies] == ["none", '{"total": 2}']
    simulator.agent(AGENT, "nothing")
    outcome = (await runs.all(["good", "bad", "worse"], into=Total, repair=2, output=runs.output))["#3"]
    assert isinstance(outcome.error, ReplyFormatError)
    assert outcome.error.reply == outcome.replies[-1]
    assert (outcome.is_final, len(outcome.replies)) == (True, 3)
    assert lines(runs)["#3"]["error"]["type"] == "ReplyFormatError"
    assert len(simulator.prompts) == 6
    with pytest.raises(InvalidArgumentError, match="repair needs into"):
        runs.batch(["a"], repair=1)
    with pytest.raises(InvalidArgumentError, match="into="):
        runs.batch(["a"], into=lambda: None)


async def test_outcomes_are_restored_as_they_were(runs: Runs, simulator: Simulator) -> None:
    """An outcome that was not handled comes again from the ledger, with its value, replies, fields or error."""
    said = {"a": "1", "b": "[2]", "c": "none"}
    simulator.agent(AGENT, lambda prompt, _: [Say(said[prompt], after=1)])
    records = [{"id": "x", "prompts": ["a", "b"], "n": 1}, {"id": "y", "prompt": "c"}]
    async with runs.batch(records, into=list[int]) as outcomes:
        await anext(outcomes)
    first = await runs.all(records, into=list[int])
    assert first["x"].reply is not None
    assert str(first["x"].reply.value) == "[2]"
    assert first["x"].fields == {"n": 1}
    assert [reply.text for reply in first["x"].replies] == ["1", "[2]"]
    assert isinstance(first["y"].error, ReplyFormatError)
    assert first["y"].error.reply.text == "none"
    status = read_status(runs.ledger)
    assert (status.done, status.failed) == (1, 1)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompts": []}, "at least one"),
        ({"prompts": "a"}, "list"),
        ({"prompts": ["a", " "]}, "blank"),
        ({"prompts": ["a", 7]}, "string"),
        ({"prompt": "a", "prompts": ["b"]}, "one of them"),
        ({"prompt": "a", "job_id": None}, "job_id is null"),
        ({"prompt": "a", "job_id": ""}, "job_id is empty"),
        ({"prompt": "a", "job_id": 7}, "job_id"),
        ({"prompt": "a", "jobid": "job_1"}, "did you mean 'job_id'"),
        ({"prompt": "a", "text": "mine"}, "output's own"),
        ({"prompt": "a", "mine": {1, 2}}, "JSON"),
        ({"prompt": "a", "mine": float("nan")}, "JSON"),
        ({"prompt": "a", 7: "x"}, "no text"),
        (Prompt("a", attachments=[b"bytes"]), "must be paths"),
        (Prompt("a", key=" "), "id"),
        (BatchItem("a", follow_ups=("",)), "blank"),
    ],
    ids=str,
)
async def test_bad_records(runs: Runs, simulator: Simulator, record: Any, reason: str) -> None:
    """Each is an outcome with a clear error; nothing of it is sent, and the others are."""
    found = await runs.all([record, "fine"])
    error = found["#1"].error if "#1" in found else found[" "].error
    assert isinstance(error, InvalidArgumentError)
    assert reason in str(error)
    assert asked(simulator) == ["fine"]


async def test_five_hundred_lines_of_which_four_are_bad(simulator: Simulator, tmp_path: Path) -> None:
    """The bad ones are said first, before anything is sent; the others run, and each has a line."""
    good = [{"id": n, "prompt": f"ticket {n}", "team": "A"} for n in range(496)]
    bad = [{"prompt": " "}, {"promt": "misspelt"}, {"id": 7, "prompt": "twice"}, {"prompt": "a", "job_id": None}]
    source = io.BytesIO("\n".join(map(json.dumps, [*good[:250], *bad, *good[250:]])).encode())
    async with in_memory_session(simulator) as nairi:
        runs = Runs(nairi, tmp_path)
        async with runs.batch(JsonLines(source), output=runs.output, limit=200) as outcomes:
            first = [await anext(outcomes) for _ in bad]
            assert [one.place for one in first] == [251, 252, 253, 254]
            assert simulator.prompts == []
            assert len([one async for one in outcomes if one.error is None]) == 496
            assert (outcomes.status.done, outcomes.status.unusable) == (496, 4)
    assert {line["team"] for line in lines(runs).values()} == {"A"}
    assert len(lines(runs)) == 496


async def test_a_changed_record_is_refused(runs: Runs, simulator: Simulator) -> None:
    """Another follow-up or conversation under a known id is an error; other own fields are not."""
    await runs.all([{"id": "x", "prompts": ["a", "b"], "n": 1}])
    for changed in ({"prompts": ["a", "c"]}, {"prompts": ["a"]}, {"prompts": ["a", "b"], "job_id": "job_1"}):
        found = await runs.all([{"id": "x", **changed}])
        assert isinstance(found["x"].error, InvalidArgumentError)
    assert await runs.all([{"id": "x", "prompts": ["a", "b"], "n": 2}]) == {}
    assert asked(simulator) == ["a", "b"]
