"""The file of replies holds each end once and in order, wherever writing was cut off."""

from __future__ import annotations

import gc
import json
import os
from typing import TYPE_CHECKING

import pytest

from nairi_async import LedgerError
from nairi_async.batch.replies_file import RepliesFile
from nairi_async.testing import Fail, Say

if TYPE_CHECKING:
    from pathlib import Path

    from batches import Runs

    from nairi_async.testing import Simulator

pytestmark = pytest.mark.anyio

PROMPTS = [f"p{number}" for number in range(12)]


@pytest.fixture(autouse=True)
def script(simulator: Simulator) -> Simulator:
    return simulator.agent("my-agent", lambda prompt, _: [Fail("no")] if prompt == "bad" else [Say(f"re {prompt}")])


def lines(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


async def test_each_end_is_one_line(runs: Runs) -> None:
    """Replies and failures, with what programs need, and nothing more in the next run."""
    await runs.all(["a", "bad", " "], output=runs.output)
    written = runs.output.read_bytes()
    reply, failure = sorted((json.loads(line) for line in written.splitlines()), key=lambda line: line["id"])
    assert (reply["id"], reply["status"], reply["text"], reply["attachment_ids"]) == ("#1", "completed", "re a", [])
    assert reply["job_id"].startswith("job_")
    assert (failure["id"], failure["status"], failure["error"]["type"]) == ("#2", "failed", "TurnFailedError")
    await runs.all(["a", "bad"], output=runs.output)
    assert runs.output.read_bytes() == written
    await runs.all([], output=runs.output, retry_failed=True)
    assert lines(runs.output)[2:] == ["#2"]


async def test_a_file_cut_off_anywhere_is_completed(runs: Runs) -> None:
    """More was written than the ledger had noted, and the last line is torn: the file becomes what it should be."""
    await runs.all(PROMPTS[:4], output=runs.output)
    noted = runs.output.read_bytes()
    # The ledger goes on without its file: that is a crash between the ledger's commit and the writing.
    await runs.all(PROMPTS)
    ledger = runs.ledger.read_bytes()
    await runs.all(PROMPTS, output=runs.output)
    whole = runs.output.read_bytes()
    assert len(lines(runs.output)) == 12
    for size in (*range(len(noted), len(noted) + 3), len(noted) + 400, len(whole) - 1, len(whole)):
        runs.ledger.write_bytes(ledger)
        runs.output.write_bytes(whole[:size])
        await runs.all(PROMPTS, output=runs.output)
        assert runs.output.read_bytes() == whole
    # A power failure may leave garbage where nothing was durable yet.
    runs.ledger.write_bytes(ledger)
    runs.output.write_bytes(noted + b"\0" * 100)
    await runs.all(PROMPTS, output=runs.output)
    assert runs.output.read_bytes() == whole


async def test_a_missing_file_is_written_anew(runs: Runs) -> None:
    """Moved away or emptied: the ledger holds every reply."""
    await runs.all(PROMPTS, output=runs.output)
    whole = runs.output.read_bytes()
    runs.output.unlink()
    await runs.all(PROMPTS, output=runs.output)
    assert runs.output.read_bytes() == whole


async def test_an_older_file_is_appended_to(runs: Runs) -> None:
    """The content from before the batch is kept; an incomplete line of another program is not continued."""
    runs.output.write_text("# mine")
    with pytest.raises(LedgerError, match="whole line"):
        await runs.all(["a"], output=runs.output)
    runs.output.write_text("# mine\n")
    await runs.all(["a"], output=runs.output)
    first, second = runs.output.read_text().splitlines()
    assert (first, json.loads(second)["id"]) == ("# mine", "#1")


async def test_other_content_is_refused_and_left_alone(runs: Runs) -> None:
    """A file that is shorter, changed, or longer by foreign lines is an error, and nothing is cut off."""
    await runs.all(PROMPTS, output=runs.output)
    whole = runs.output.read_bytes()
    for content, reason in (
        (whole[:-9], "shorter"),
        (whole[:-9] + b"x" * 9, "others"),
        (whole + b"# mine\n", "something else"),
    ):
        runs.output.write_bytes(content)
        with pytest.raises(LedgerError, match=reason) as raised:
            await runs.all([*PROMPTS, "more"], output=runs.output)
        assert raised.value.file == str(runs.output)
        assert runs.output.read_bytes() == content


async def test_a_file_that_cannot_be_written(runs: Runs, simulator: Simulator, tmp_path: Path) -> None:
    """A directory, or a missing one, is an error before anything is sent."""
    for place in (tmp_path, tmp_path / "gone" / "replies.jsonl"):
        with pytest.raises(LedgerError) as raised:
            await runs.all(["a"], output=place)
        assert raised.value.file == str(place)
    assert simulator.prompts == []


async def test_a_full_disk_under_the_file(runs: Runs, simulator: Simulator) -> None:
    """What cannot be written ends the batch; the ledger has it, and the next run writes it."""
    async with runs.batch(PROMPTS, output=runs.output, limit=2) as outcomes:
        await anext(outcomes)
        made = [thing for thing in gc.get_objects() if isinstance(thing, RepliesFile) and hasattr(thing, "_file")]
        [output] = [
            thing
            for thing in made
            if not thing._file.closed and os.path.samestat(os.fstat(thing._file.fileno()), runs.output.stat())
        ]
        with runs.ledger.open("rb") as read_only:
            os.dup2(read_only.fileno(), output._file.fileno())
        with pytest.raises(LedgerError, match=r"replies\.jsonl"):
            [outcome async for outcome in outcomes]
    await runs.all(PROMPTS, output=runs.output)
    assert sorted(lines(runs.output)) == sorted(f"#{place}" for place in range(1, 13))
    assert len(simulator.prompts) == 12
