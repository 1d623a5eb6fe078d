"""What a record is recognised by, and what a batch says about its records before it sends anything."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from batches import AGENT, Runs, is_start

from nairi_async import InvalidArgumentError, LedgerError
from nairi_async.batch import BatchItem, JsonLines, read_status
from nairi_async.testing import Say, Simulator
from nairi_async.testing.json_bodies import RefusedError, error_response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aiohttp import web

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def script(simulator: Simulator) -> Simulator:
    return simulator.agent(AGENT, lambda prompt, _: [Say(f"re {prompt}", after=1)])


def sent(simulator: Simulator) -> list[str]:
    return sorted(entry.prompt for entry in simulator.prompts)


def lines(*records: object) -> JsonLines:
    text = "".join(f"{record if isinstance(record, str) else json.dumps(record)}\n" for record in records)
    return JsonLines(io.BytesIO(text.encode()))


async def test_a_corrected_line_moves_no_other(runs: Runs, simulator: Simulator) -> None:
    """A malformed line becomes two: only they are sent, and every line of the output has an id of its own."""
    first = await runs.all(lines('"a"', '"b" "c"', '"d"', '"e"'), output=runs.output)
    assert [(first[id_].is_final, first[id_].place) for id_ in ("#1", "#2", "#3", "#4")] == [
        (True, 1), (False, 2), (True, 3), (True, 4),
    ]  # fmt: skip
    second = await runs.all(lines('"a"', '"b"', '"c"', '"d"', '"e"'), output=runs.output)
    assert {id_: outcome.prompt for id_, outcome in second.items()} == {"#2": "b", "#3-2": "c"}
    assert sent(simulator) == ["a", "b", "c", "d", "e"]
    written = [json.loads(line) for line in runs.output.read_text().splitlines()]
    assert {line["id"]: line["text"] for line in written} == {
        "#1": "re a", "#3": "re d", "#4": "re e", "#2": "re b", "#3-2": "re c",
    }  # fmt: skip
    status = read_status(runs.ledger)
    assert (status.done, status.unusable, status.open) == (5, 0, 0)


async def test_equal_records_are_each_sent_once(runs: Runs, simulator: Simulator) -> None:
    """Each of several identical prompts is sent once, in any order of a later run, and so is one that is added."""
    await runs.all(["a", "same", "same", "b"])
    assert await runs.all(["same", "b", "same", "a"]) == {}
    assert list(await runs.all(["same", "same", "same", "a", "b"])) == ["#3-2"]
    assert sent(simulator) == ["a", "b", "same", "same", "same"]


async def test_files_belong_to_the_identity(runs: Runs, simulator: Simulator, tmp_path: Path) -> None:
    """The same prompt with another file is another record."""
    for name in ("x", "y"):
        (tmp_path / name).write_bytes(name.encode())
    records = [BatchItem("a", attachments=(str(tmp_path / name),)) for name in ("x", "y")]
    await runs.all(records[:1])
    assert len(await runs.all(records)) == 1
    assert len(simulator.prompts) == 2


async def test_other_prompts_are_refused_before_any_is_sent(runs: Runs, simulator: Simulator) -> None:
    """A list of which the ledger knows nothing does not continue it; one with ids, and an empty one, do."""
    await runs.all(["a", "b"])
    for source in (["c", "d"], lines('"c"', '"d"')):
        with pytest.raises(LedgerError, match="holds 2 other prompts and none of these: name another ledger"):
            await runs.all(source)
    assert sent(simulator) == ["a", "b"]
    assert await runs.all([]) == {}
    assert list(await runs.all([{"id": "x", "prompt": "c"}])) == ["x"]
    assert list(await runs.all(["b", "d"])) == ["#2-2"]


async def test_ids_that_come_later_send_nothing_again(runs: Runs, simulator: Simulator, tmp_path: Path) -> None:
    """Records that get ids, or lose them, would all be new: refused. New ids for identical prompts are accepted."""
    await runs.all(["a", "b"])
    with pytest.raises(LedgerError, match="holds the same prompts"):
        await runs.all([{"id": prompt, "prompt": prompt} for prompt in ("a", "b", "c")])
    runs.ledger = tmp_path / "other.sqlite"
    await runs.all([{"id": "monday", "prompt": "news"}])
    with pytest.raises(LedgerError, match="holds the same prompts"):
        await runs.all(["news"])
    assert list(await runs.all([{"id": "tuesday", "prompt": "news"}])) == ["tuesday"]
    assert sent(simulator) == ["a", "b", "news", "news"]


async def test_unsent_prompts_wait_for_the_check(runs: Runs, simulator: Simulator) -> None:
    """What an earlier run left unsent is not sent either by a run with other prompts."""

    async def closed(request: web.Request) -> web.Response | None:
        return error_response(RefusedError(429, "later")) if is_start(request) else None

    simulator.intercept = closed
    await runs.all(["a"])
    simulator.intercept = None
    with pytest.raises(LedgerError, match="none of these"):
        await runs.all(["b"])
    assert simulator.prompts == []
    await runs.all(["a"])
    assert sent(simulator) == ["a"]


async def test_what_is_wrong_is_said_first(runs: Runs, simulator: Simulator) -> None:
    """Errors of a list or a file come before the first prompt is sent, each once, in the order of the records."""
    await runs.all([{"id": "known", "prompt": "old"}])
    records: list[Any] = [
        "a",
        {"id": "x", "prompt": "b"},
        {"id": "x", "prompt": "c"},
        {"id": "known", "prompt": "new"},
        {"prompt": "d", "attachements": ["f"]},
        " ",
        "e",
    ]
    for source in (records, lines(*map(json.dumps, records))):
        before = len(simulator.prompts)
        errors: list[tuple[int, str]] = []
        async with runs.batch(source, limit=2) as outcomes:
            async for outcome in outcomes:
                if outcome.error is not None:
                    errors.append((outcome.place, str(outcome.error)))
                    assert len(simulator.prompts) == before
            assert outcomes.status.unusable == 4
        assert [place for place, _ in errors] == [3, 4, 5, 6]
        reasons = ("already taken by #2", "another prompt", "did you mean 'attachments'?", "blank")
        assert all(reason in error for reason, (_, error) in zip(reasons, errors, strict=True))
    assert sent(simulator) == ["a", "b", "e", "old"]


@pytest.mark.parametrize("key", ["attachements", "attachment", "attachment_ids", "promt", "Prompts", "Prompt", "ID"])
async def test_misspelt_keys_are_errors(runs: Runs, simulator: Simulator, key: str) -> None:
    """A key that looks like one of ours would silently be ignored otherwise; other keys are the caller's own."""
    outcomes = await runs.all([{"prompt": "a", key: "x"}, {"prompt": "b", "topic": 1, "prompt_id": 2, "idx": 3}])
    assert isinstance(outcomes["#1"].error, InvalidArgumentError)
    assert f"the key {key!r} is not read" in str(outcomes["#1"].error)
    assert sent(simulator) == ["b"]


async def test_endless_sources_are_not_read_ahead(runs: Runs, simulator: Simulator) -> None:
    """A generator is read as fast as conversations end, and its errors come at their places."""

    async def source() -> AsyncIterator[object]:
        yield "a"
        yield " "
        yield "b"

    async with runs.batch(source(), limit=1) as outcomes:
        assert [outcome.place async for outcome in outcomes] == [1, 2, 3]
    assert sent(simulator) == ["a", "b"]


async def test_an_error_of_a_list_comes_in_its_place(runs: Runs, simulator: Simulator) -> None:
    """A collection that raises is read as far as it goes, and its error is raised after what was sent before."""

    class Broken(list[str]):
        def __iter__(self) -> Any:
            yield "a"
            raise ZeroDivisionError

    async with runs.batch(Broken(["a", "b"])) as outcomes:
        assert (await anext(outcomes)).reply is not None
        with pytest.raises(ZeroDivisionError):
            await anext(outcomes)
    assert sent(simulator) == ["a"]


async def test_a_corrected_attachment_replaces_its_record(runs: Runs, simulator: Simulator, tmp_path: Path) -> None:
    """A record without an id whose file was missing: corrected, the old one is forgotten, wherever it stands."""
    (tmp_path / "there").write_bytes(b"data")
    wrong = {"prompt": "a", "attachments": [str(tmp_path / "gone")]}
    right = {"prompt": "a", "attachments": [str(tmp_path / "there")]}
    assert not (await runs.all(["b", wrong]))["#2"].is_final
    # Without records nothing is said to be gone.
    assert not (await runs.all([]))["#2"].is_final
    again = await runs.all([right, "b"])
    assert [outcome.reply is not None for outcome in again.values()] == [True]
    status = read_status(runs.ledger)
    assert (status.done, status.unusable, sent(simulator)) == (2, 0, ["a", "b"])
    assert await runs.all([right, "b"]) == {}


async def test_attachments_come_from_one_directory(runs: Runs, simulator: Simulator, tmp_path: Path) -> None:
    """With `attachments_from` a record, or a planted row, cannot have another file uploaded; links are resolved."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for directory in (inside, outside):
        directory.mkdir()
        (directory / "file").write_bytes(b"data")
    (inside / "link").symlink_to(outside / "file")
    names = [inside / "file", outside / "file", inside / "link", inside / ".." / "outside" / "file", inside]
    records = [{"id": str(number), "prompt": "p", "attachments": [str(name)]} for number, name in enumerate(names)]
    await runs.all(records[:1], attachments_from=inside)
    outcomes = await runs.all(records[1:4], attachments_from=inside)
    assert all("outside of the permitted directory" in str(outcome.error) for outcome in outcomes.values())
    assert len(outcomes) == 3

    async def closed(request: web.Request) -> web.Response | None:
        return error_response(RefusedError(429, "later")) if is_start(request) else None

    simulator.intercept = closed
    await runs.all([records[1]])
    simulator.intercept = None
    uploads = len([request for request in simulator.requests if "attachments" in request.path])
    planted = await runs.all([], attachments_from=inside)
    assert "outside of the permitted directory" in str(planted["1"].error)
    assert len([request for request in simulator.requests if "attachments" in request.path]) == uploads
    assert len(simulator.prompts) == 1


@pytest.mark.parametrize("id_", [None, "x"])
async def test_an_unusable_record_that_moved_keeps_its_name(
    runs: Runs, simulator: Simulator, tmp_path: Path, id_: str | None
) -> None:
    """An unchanged record whose file was missing is sent when it is there, under the name that it had."""
    record = {"prompt": "a", "attachments": [str(tmp_path / "late")], "id": id_}
    (first,) = (await runs.all([record])).values()
    assert isinstance(first.error, InvalidArgumentError)
    (tmp_path / "late").write_text("here")
    found = await runs.all(["b", record])
    assert set(found) == ({"#1", "#1-2"} if id_ is None else {"x", "#1"})
    assert (found[id_ or "#1"].prompt, sent(simulator)) == ("a", ["a", "b"])
    assert read_status(runs.ledger).unusable == 0
