"""The files of a batch: for their owner alone, none left behind, none trusted that others could have written."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from batches import AGENT, Runs

from nairi_async import ConfigurationError, InvalidArgumentError, LedgerError, NairiSession, StoreError
from nairi_async._core.sqlite_file import companions, lock_path
from nairi_async.batch import Batch, read_status
from nairi_async.bots import SQLiteStore
from nairi_async.testing import Say, Simulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def script(simulator: Simulator) -> Simulator:
    return simulator.agent(AGENT, lambda prompt, _: [Say(f"re {prompt}")])


@pytest.fixture
def lenient() -> Iterator[None]:
    """Let new files be readable and writable by everyone, as far as their maker allows."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))  # noqa: PTH208 - names are enough


@pytest.mark.usefixtures("lenient")
async def test_files_are_for_their_owner_alone(runs: Runs) -> None:
    """Ledger, lock, log, index and output are created with 0600, whatever the permission mask."""
    async with runs.batch(["a", "b"], output=runs.output) as outcomes:
        await anext(outcomes)
        made = [path for path in (*companions(runs.ledger), runs.output) if path.exists()]
        assert {path.name.removeprefix(runs.ledger.name) for path in made} >= {"", "-lock", "-wal", "-shm"}
        assert {mode(path) for path in made} == {0o600}
    assert not [name for name in names(runs.ledger.parent) if name.startswith(".")]


@pytest.mark.parametrize("kind", ["", "-wal", "-lock"])
async def test_what_others_can_write_is_refused(runs: Runs, simulator: Simulator, kind: str) -> None:
    """A planted row could have any file uploaded: nothing is sent from a ledger that others can write."""
    await runs.all(["a"])
    file = runs.ledger.with_name(f"{runs.ledger.name}{kind}")
    file.touch()
    for bits in (0o620, 0o602):
        file.chmod(bits)
        with pytest.raises(LedgerError, match="can be written by other users: run chmod go-w "):
            await runs.all(["a", "b"])
    file.chmod(0o644)
    await runs.all(["a"])
    assert len(simulator.prompts) == 1


@pytest.mark.parametrize("kind", ["-journal", "-lock", "-wal"])
async def test_a_link_next_to_a_file_is_refused(runs: Runs, tmp_path: Path, kind: str) -> None:
    """A link leads elsewhere what SQLite writes next to a ledger or a store, or plays back what is there."""
    store = tmp_path / "chats.sqlite"
    for file in (runs.ledger, store):
        link = file.with_name(f"{file.name}{kind}")
        link.symlink_to(tmp_path / "other")
    with pytest.raises(LedgerError, match="is a link to another file"):
        await runs.all(["a"])
    with pytest.raises(StoreError, match="is a link to another file"):
        await SQLiteStore(store).__aenter__()
    link.unlink()
    link.touch(mode=0o666)
    link.chmod(0o666)
    with pytest.raises(StoreError, match="other users may write"):
        await SQLiteStore(store).__aenter__()
    assert not (tmp_path / "other").exists()


async def test_what_belongs_to_another_user_is_refused(
    runs: Runs, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ledger of another user is refused; its status may be read."""
    await runs.all(["a"])
    with monkeypatch.context() as patched:
        patched.setattr(os, "geteuid", lambda: os.getuid() + 1)
        with pytest.raises(LedgerError, match="belongs to another user"):
            await runs.all(["a", "b"])
        assert read_status(runs.ledger).done == 1
    assert len(simulator.prompts) == 1


async def test_a_reader_cannot_hold_the_lock(runs: Runs) -> None:
    """A lock file that others could read is closed to them, so that a mere reader cannot stop the owner."""
    await runs.all(["a"])
    lock = lock_path(runs.ledger)
    lock.chmod(0o644)
    await runs.all(["a", "b"])
    assert mode(lock) == 0o600
    # A ledger that others may read does not let them stop the owner either.
    runs.ledger.chmod(0o644)
    with closing(sqlite3.connect(f"{runs.ledger.as_uri()}?mode=ro", uri=True, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM items").fetchone()
        await runs.all(["a", "b", "c"])
    assert read_status(runs.ledger).done == 3


async def test_a_failed_output_leaves_nothing_behind(runs: Runs, simulator: Simulator, tmp_path: Path) -> None:
    """An output that cannot be written, or appended to, creates no ledger; a failed ledger creates no output."""
    torn = tmp_path / "torn.jsonl"
    torn.write_text("# mine")
    for output in (tmp_path / "gone" / "replies.jsonl", tmp_path, torn):
        with pytest.raises(LedgerError):
            await runs.all(["a"], output=output)
        assert names(tmp_path) == ["torn.jsonl"]
    runs.ledger.write_text("no ledger at all, but long enough to be told from one" * 9)
    with pytest.raises(LedgerError, match="another kind of file"):
        await runs.all(["a"], output=runs.output)
    assert names(tmp_path) == ["run.sqlite", "torn.jsonl"]
    assert simulator.prompts == []


@pytest.mark.parametrize("path", ["", b"", "a\0b", 3, []])
async def test_what_is_no_path_is_refused_at_once(path: Any, simulator: Simulator) -> None:
    """A ledger, journal or store that is not named, or not by a path, is an error that says so, before any file."""
    nairi = NairiSession(simulator.api_key, base_url=simulator.url)
    for make in (
        lambda: Batch(nairi, AGENT, ["a"], ledger=path),
        lambda: NairiSession("key", journal=path),
        lambda: SQLiteStore(path),
    ):
        with pytest.raises((ConfigurationError, InvalidArgumentError), match=r"path|cannot be resolved"):
            make()
