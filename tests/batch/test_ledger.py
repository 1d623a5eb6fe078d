"""The ledger's file: what is refused, with which error, and what is kept when the disk fails."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
import threading
from contextlib import closing, contextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from batches import AGENT, Runs

from nairi_async import InvalidArgumentError, LedgerError, NairiSession
from nairi_async._core.sqlite_file import lock_path
from nairi_async._nairi.results import Reply
from nairi_async.batch import BatchItem, read_status
from nairi_async.batch.documents import decode_result, encode_result, output_line
from nairi_async.batch.ledger import Ledger
from nairi_async.batch.writer import Writer
from nairi_async.clock import SystemClock
from nairi_async.errors import RateLimitedError, StatusError, TurnFailedError
from nairi_async.models import Message, Turn, Usage
from nairi_async.testing import Simulator, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio

TURN = Turn("job_1", "cmsg_1", agent_id=AGENT)


async def test_other_files_are_refused_and_left_alone(runs: Runs, tmp_path: Path) -> None:
    """No database, another program's, a newer ledger, another agent's: distinct errors, and the file is unchanged."""
    runs.ledger.write_text("id,prompt\n1,Hello\n" * 9)
    with pytest.raises(LedgerError, match="another kind of file"):
        await runs.all(["a"])
    with pytest.raises(LedgerError, match="another kind of file"):
        read_status(runs.ledger)
    assert not lock_path(runs.ledger).exists()

    runs.ledger.unlink()
    with closing(sqlite3.connect(runs.ledger)) as connection:
        connection.execute("CREATE TABLE users (name)")
    before = runs.ledger.read_bytes()
    with pytest.raises(LedgerError, match="another program's database"):
        await runs.all(["a"])
    with pytest.raises(LedgerError, match="another program's database"):
        read_status(runs.ledger)
    assert runs.ledger.read_bytes() == before

    runs.ledger.unlink()
    await runs.all([])
    with pytest.raises(LedgerError, match="belongs to a batch for the agent 'my-agent', not 'other'"):
        await runs.all([], agent_id="other")
    with closing(sqlite3.connect(runs.ledger)) as connection:
        connection.execute("PRAGMA user_version = 9")
    with pytest.raises(LedgerError, match="has format 9"):
        await runs.all([])


async def test_a_ledger_belongs_to_one_service(runs: Runs, clock: VirtualClock) -> None:
    """A ledger filled by a simulator is refused for another service; another spelling is accepted."""
    await runs.all(["a"])
    begun_at = read_status(runs.ledger).base_url
    assert begun_at == f"{runs.nairi!r}".split()[1]
    async with (
        Simulator(clock=clock) as rehearsal,
        NairiSession(rehearsal.api_key, base_url=rehearsal.url, clock=clock) as elsewhere,
    ):
        with pytest.raises(LedgerError, match=f"belongs to a batch at {begun_at}, not http://"):
            await Runs(elsewhere, runs.ledger.parent).all(["a", "b"])
        assert rehearsal.prompts == []
    async with NairiSession("nr_key", base_url=f"{begun_at}/", clock=clock) as same:
        assert await Runs(same, runs.ledger.parent).all(["a"]) == {}


async def test_places_that_cannot_hold_a_ledger(runs: Runs, tmp_path: Path) -> None:
    """A missing directory, a file for a directory, a directory for a file: a ledger error that names the file."""
    (tmp_path / "file").write_text("")
    for place, reason in (
        (tmp_path / "gone" / "run.sqlite", "its directory must exist"),
        (tmp_path / "file" / "run.sqlite", "irectory"),
        (tmp_path, "irectory"),
    ):
        runs.ledger = place
        with pytest.raises(LedgerError, match=reason) as raised:
            await runs.all(["a"])
        assert raised.value.file == str(place)
        assert str(raised.value).startswith(str(place))


@pytest.fixture
def open_place() -> Iterator[Path]:
    """Make a directory that other users may read, unlike the usual one."""
    with TemporaryDirectory() as directory:
        place = Path(directory)
        _allow(place, 0o777)
        yield place


@contextmanager
def ordinary() -> Iterator[None]:
    """As an ordinary user: to root nothing is read-only."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


async def test_places_that_may_only_be_read(runs: Runs, open_place: Path, simulator: Simulator) -> None:
    """A read-only directory or ledger is an error before anything is sent; the status can be read."""
    runs.ledger = open_place / "run.sqlite"
    _allow(open_place, 0o555)
    with ordinary(), pytest.raises(LedgerError, match="its directory must exist and be writable"):
        await runs.all(["a"])
    _allow(open_place, 0o777)
    await runs.all([])
    _allow(runs.ledger, 0o444)
    with ordinary():
        with pytest.raises(LedgerError, match="is read-only"):
            await runs.all(["a"])
        assert read_status(runs.ledger).open == 0
    assert simulator.prompts == []


async def test_a_file_that_may_only_be_read(tmp_path: Path) -> None:
    """A ledger that SQLite may not write is an error, and nothing is claimed."""
    writer = await Writer.open(tmp_path / "run.sqlite", AGENT, None, SystemClock())
    await writer.submit(lambda ledger: ledger._db.execute("PRAGMA query_only = ON"))
    with pytest.raises(LedgerError, match="is read-only"):
        await writer.submit(lambda ledger: ledger.claim(BatchItem("b", place=2), 0.0))
    await writer.aclose()
    assert read_status(tmp_path / "run.sqlite").open == 0


async def test_reading_the_status_keeps_the_lock(runs: Runs) -> None:
    """Another program that opens the ledger deletes nothing, also after this process has read the status.

    POSIX drops all locks of a process on a file when the process closes it anywhere.
    """
    visit = (
        "import contextlib, sqlite3, sys\n"
        "with contextlib.closing(sqlite3.connect(sys.argv[1])) as ledger:\n"
        "    print(len(ledger.execute('SELECT 1 FROM outcomes').fetchall()))"
    )

    async def visited() -> int:
        words = (sys.executable, "-c", visit, str(runs.ledger))
        visitor = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
        return int((await visitor.communicate())[0])

    async with runs.batch((f"p{number}" for number in range(60)), limit=5) as outcomes:
        await anext(outcomes)
        assert read_status(runs.ledger).is_active
        with pytest.raises(LedgerError, match="another Batch of this process"):
            await runs.all(["a"])
        assert await visited() < 60
        assert len([outcome async for outcome in outcomes]) == 59
        assert await visited() == 60


def test_a_status_needs_a_ledger(tmp_path: Path) -> None:
    """No file, and an empty one."""
    with pytest.raises(LedgerError, match="no such ledger"):
        read_status(tmp_path / "gone.sqlite")
    (tmp_path / "empty.sqlite").write_bytes(b"")
    with pytest.raises(LedgerError, match="no batch has begun"):
        read_status(tmp_path / "empty.sqlite")


async def test_a_damaged_ledger_is_an_error(runs: Runs) -> None:
    """Pages that are rubbish end in a ledger error, not in anything of SQLite's."""
    await runs.all([f"p{number}" for number in range(20)])
    content = bytearray(runs.ledger.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    runs.ledger.write_bytes(content)
    with pytest.raises(LedgerError):
        await runs.all(["a"])
    with pytest.raises(LedgerError):
        read_status(runs.ledger)


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM meta WHERE name = 'agent_id'",
        "UPDATE meta SET value = 'x' WHERE name = 'done'",
        "INSERT OR REPLACE INTO meta VALUES ('cost_usd', 'x')",
        "UPDATE items SET attachments = 'x'; INSERT OR REPLACE INTO progress (number, state) VALUES (1, 'unsent')",
        "UPDATE outcomes SET document = '{'",
        "DELETE FROM outcomes",
    ],
)
async def test_what_makes_no_sense_in_a_ledger_is_an_error(runs: Runs, damage: str) -> None:
    """A damaged ledger is one error that names it, and it is released."""
    async with runs.batch(["a", "b"], output=runs.output) as outcomes:
        await anext(outcomes)
    with closing(sqlite3.connect(runs.ledger, isolation_level=None)) as connection:
        connection.executescript(damage)
    for _ in range(2):
        with pytest.raises(LedgerError, match="is damaged") as raised:
            await runs.all([], output=runs.output)
        assert raised.value.file == str(runs.ledger)


async def test_a_process_without_files_left_frees_the_ledger(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second connection cannot be had: a ledger error, and the ledger can be used when there is room again."""

    def refuse(path: Path) -> sqlite3.Connection:
        raise sqlite3.OperationalError("unable to open database file")

    with monkeypatch.context() as patched:
        patched.setattr("nairi_async._core.sqlite_file.open_read_only", refuse)
        with pytest.raises(LedgerError, match="cannot be opened"):
            await runs.all(["a"])
    assert len(await runs.all(["a"])) == 1


def test_a_link_to_itself_is_no_ledger(tmp_path: Path) -> None:
    """A link that leads to itself is an invalid argument."""
    (tmp_path / "run.sqlite").symlink_to(tmp_path / "run.sqlite")
    with pytest.raises((InvalidArgumentError, LedgerError)):
        read_status(tmp_path / "run.sqlite")


async def test_a_full_disk_loses_nothing(runs: Runs, simulator: Simulator) -> None:
    """When the ledger cannot grow, nothing more is sent, the error says why, and a later run completes everything."""
    prompts = [f"prompt {number} {'x' * 500}" for number in range(60)]

    async def work() -> None:
        async with runs.batch(prompts, limit=10) as outcomes:
            assert outcomes._run is not None
            await outcomes._run.writer.submit(lambda ledger: _only(ledger, 20))
            async for _ in outcomes:
                pass

    with pytest.raises(LedgerError, match="the disk is full"):
        await work()
    begun = len(simulator.prompts)
    assert begun < 60
    await runs.all(prompts)
    assert sorted(entry.prompt for entry in simulator.prompts) == sorted(prompts)
    status = read_status(runs.ledger)
    assert (status.done, status.open) == (60, 0)


def test_what_a_failed_commit_has_undone_counts_once(tmp_path: Path) -> None:
    """Outcomes, costs and unusable records of a commit that failed happen again: closing the ledger keeps none."""
    path = tmp_path / "run.sqlite"
    for is_undone in (True, False):
        with closing(Ledger(path, AGENT, "https://api")) as ledger:
            ledger.begin()
            done, unusable = (ledger.claim(BatchItem("a", attachments=files), 1.0) for files in ((), ("missing.txt",)))
            assert done is not None
            assert unusable is not None
            ledger.mark_running(done.number, TURN)
            ledger.finish(done.number, "{}", is_done=True, cost=Decimal("1.5"))
            ledger.mark_unusable(unusable.number)
            if is_undone:
                ledger.rollback()
            else:
                ledger.commit()
        status = read_status(path)
        expected = (0, 0, 0) if is_undone else (1, 1, Decimal("1.5"))
        assert (status.done, status.unusable, status.cost_usd) == expected


def test_an_error_of_a_newer_version_comes_back_as_a_failure() -> None:
    """An error type that this version does not know is restored as a failed turn."""
    document = json.dumps({"messages": [], "error": {"type": "NewError", "message": "something new"}})
    turn, error = decode_result(document, AGENT)
    assert (turn, str(error)) == (None, "something new")


def _only(ledger: Ledger, pages: int) -> int:
    return int(ledger._db.execute(f"PRAGMA max_page_count = {pages}").fetchone()[0])


async def test_calls_share_commits_and_keep_their_order(tmp_path: Path) -> None:
    """What is submitted while a commit waits for the disk goes into the next one together, in order."""
    writer = await Writer.open(tmp_path / "run.sqlite", AGENT, None, SystemClock())
    commits = 0
    commit = writer.ledger.commit

    def counted() -> None:
        nonlocal commits
        commits += 1
        commit()

    writer.ledger.commit = counted  # type: ignore[method-assign]
    futures = [
        writer.submit(partial(Ledger.claim, item=BatchItem(f"p{number}", place=number), now=0.0))
        for number in range(1, 501)
    ]
    entries = await asyncio.gather(*futures)
    assert [entry.number for entry in entries if entry] == list(range(1, 501))
    assert commits < 20
    await writer.aclose()
    await writer.aclose()


async def test_one_call_that_fails_costs_no_other(tmp_path: Path) -> None:
    """An error of one call is its own; one of the database is everybody's, and lasting."""
    writer = await Writer.open(tmp_path / "run.sqlite", AGENT, None, SystemClock())
    item = BatchItem("a", id="x", place=1)
    first, second, third = (
        writer.submit(partial(Ledger.claim, item=one, now=0.0)) for one in (item, item, BatchItem("b", id="y", place=3))
    )
    assert await first
    with pytest.raises(InvalidArgumentError):
        await second
    assert await third
    with pytest.raises(LedgerError, match="no such table"):
        await writer.submit(lambda ledger: ledger._db.execute("INSERT INTO missing VALUES (1)"))
    with pytest.raises(LedgerError, match="no such table"):
        await writer.submit(Ledger.retry_failed)
    await writer.aclose()
    assert read_status(tmp_path / "run.sqlite").sending == 2


async def test_a_disk_that_never_answers(tmp_path: Path) -> None:
    """Waiting for the disk is bounded, for each call that waits; what was submitted is done when it goes on."""
    writer = await Writer.open(tmp_path / "run.sqlite", AGENT, None, SystemClock())
    held = threading.Event()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nairi_async._core.commit_thread._DISK_TIMEOUT", 0.05)
        writer.submit(lambda _: held.wait())
        waits = [writer.submit(partial(Ledger.claim, item=BatchItem(text, place=1), now=0.0)) for text in "ab"]
        for wait in waits:
            with pytest.raises(LedgerError, match="not responded"):
                await wait
    held.set()
    assert await writer.submit(lambda ledger: len(ledger.open_entries(0, 9))) == 2
    await writer.aclose()


async def test_opening_may_be_cancelled(tmp_path: Path) -> None:
    """A ledger whose opening is cancelled is released as soon as it was opened."""
    opening = asyncio.create_task(Writer.open(tmp_path / "run.sqlite", AGENT, None, SystemClock()))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    writer = await Writer.open(tmp_path / "run.sqlite", AGENT, None, SystemClock())
    await writer.aclose()


MESSAGE = Message(
    id="cmsg_2",
    job_id="job_1",
    role="assistant",
    status="completed",
    content="Grüße \ud83d \x00",
    attachment_ids=("att_1",),
    usage=Usage(cost_usd=Decimal("1E-7"), input_tokens=3, model="m"),
)


@pytest.mark.parametrize(
    "result",
    [
        Reply.of(TURN, [MESSAGE]),
        Reply.of(TURN, []),
        StatusError(418, "teapot", 2.5, "POST", "/conversations/start"),
        RateLimitedError(429, "later"),
        TurnFailedError("no", TURN, (MESSAGE,)),
    ],
)
def test_what_is_stored_comes_back(result: Any) -> None:
    """An end survives being written and read, and its line is always the same."""
    document = encode_result(TURN, result)
    turn, again = decode_result(document, AGENT)
    assert turn == TURN
    assert type(again) is type(result)
    assert str(again) == str(result)
    if isinstance(result, Reply):
        assert again == result
    else:
        assert getattr(again, "turn", None) == TURN
    assert output_line("x", document) == output_line("x", encode_result(turn, again))
    assert output_line("x", document).isascii()
    printed = json.loads(output_line("x", document))
    assert (printed["id"], printed["status"]) == ("x", "completed" if isinstance(result, Reply) else "failed")


def _allow(path: Path, mode: int) -> None:
    path.chmod(mode)
