"""`SQLiteStore`: the file in which a bot keeps its chats."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from nairi_async import SessionClosedError
from nairi_async.bots import (
    ChatPrompt,
    Record,
    SQLiteStore,
    StoreError,
)

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.anyio


async def test_records_come_back_as_they_were_saved(tmp_path: Path) -> None:
    """The latest record of each name is there for every later process."""
    path = tmp_path / "bot.sqlite"
    prompt = ChatPrompt("what?", "2", ("att_1",), has_files=True, sent_after=1.5)
    records = {
        "a 1": Record("job_1", is_open=True, keys=("1", "\u00e9'"), prompt=prompt, waiting=(ChatPrompt("b"),)),
        "a 2": Record(waiting=(ChatPrompt("c", "3"),)),
        "a 3": Record("job_2"),
    }
    async with SQLiteStore(path) as store:
        assert await store.load("a 1") is None
        await store.save("a 1", Record("job_0"))
        for name, record in records.items():
            await store.save(name, record)
    async with SQLiteStore(path) as store:
        assert {name: await store.load(name) for name in records} == records
        assert await store.open_names() == ["a 1", "a 2"]
        assert await store.dialogue_ids() == {"job_1", "job_2"}
    assert repr(store) == f"SQLiteStore({str(path)!r})"


async def test_a_file_is_used_by_one_store_at_a_time(tmp_path: Path) -> None:
    """Stores that open one new file at the same moment use it one after another; one that may not wait is refused."""
    path = tmp_path / "bot.sqlite"
    users = 0

    async def use(number: int) -> None:
        nonlocal users
        async with SQLiteStore(path) as store:
            users += 1
            assert users == 1
            await store.save(str(number), Record(is_open=True))
            with pytest.raises(StoreError, match="another process uses it"):
                await SQLiteStore(path, lock_timeout=0).__aenter__()
            users -= 1

    await asyncio.gather(*(use(number) for number in range(4)))
    async with SQLiteStore(path) as store:
        assert await store.open_names() == list("0123")


async def test_files_are_private(tmp_path: Path) -> None:
    """Whatever the mask, other users read none of the files; one that they may write, or that is theirs, is refused."""
    path = tmp_path / "bot.sqlite"
    mask = os.umask(0)
    try:
        async with SQLiteStore(path) as store:
            await store.save("a", Record(is_open=True))
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in os.scandir(tmp_path)}
    finally:
        os.umask(mask)
    assert set(modes) >= {"bot.sqlite", "bot.sqlite-lock"}
    assert set(modes.values()) == {0o600}
    for file in (path, tmp_path / "bot.sqlite-lock"):
        file.chmod(0o622)
        with pytest.raises(StoreError, match="chmod 600"):
            await SQLiteStore(path).__aenter__()
        file.chmod(0o600)
    async with SQLiteStore(path) as store:
        assert await store.open_names() == ["a"]


async def test_another_users_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another user of the machine has written may be planted."""
    path = tmp_path / "bot.sqlite"
    async with SQLiteStore(path):
        pass
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(StoreError, match="belongs to another user"):
        await SQLiteStore(path).__aenter__()


async def test_a_damaged_record_is_a_store_error(tmp_path: Path) -> None:
    """A record that another program wrote stops the prompt with a typed error."""
    path = tmp_path / "bot.sqlite"
    async with SQLiteStore(path) as store:
        await store.save("a", Record())
        with sqlite3.connect(path) as other:
            other.execute("UPDATE chats SET record = '{}'")
        other.close()
        with pytest.raises(StoreError, match="cannot be used"):
            await store.load("a")


async def test_a_cancelled_call_leaves_no_thread(tmp_path: Path) -> None:
    """Opening, writing and closing end, although their callers were cancelled."""
    path = tmp_path / "bot.sqlite"

    async def use() -> None:
        async with SQLiteStore(path) as store:
            await store.save("a", Record())

    others = set(threading.enumerate())
    for steps in range(6):
        call = asyncio.create_task(use())
        for _ in range(steps):
            await asyncio.sleep(0.001)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    while any(one.name.startswith("nairi-chats") for one in set(threading.enumerate()) - others):  # noqa: ASYNC110 - threads set no event of ours
        await asyncio.sleep(0.001)
    async with SQLiteStore(path) as store:
        assert await store.load("b") is None


async def test_a_store_is_used_while_open(tmp_path: Path) -> None:
    """A call outside of `async with` is an error that says so."""
    store = SQLiteStore(tmp_path / "bot.sqlite")
    with pytest.raises(SessionClosedError, match="async with"):
        await store.load("a")
    async with store:
        assert await store.load("a") is None
    with pytest.raises(SessionClosedError, match="async with"):
        await store.save("a", Record())


@pytest.mark.parametrize("kind", ["no database", "another program's", "a directory", "no directory"])
async def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path: Path, kind: str) -> None:
    """A file of another kind gives a clear error, and no byte of it is changed."""
    path = tmp_path / "bot.sqlite"
    if kind == "no database":
        path.write_bytes(b"something else entirely" * 100)
    elif kind == "another program's":
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE chats (mine)")
        connection.close()
    elif kind == "a directory":
        path.mkdir()
    else:
        path = tmp_path / "missing" / "bot.sqlite"
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(StoreError, match="cannot be used"):
        async with SQLiteStore(path):
            pass
    assert (path.read_bytes() if path.is_file() else None) == before


async def test_a_busy_file_does_not_block_the_loop(tmp_path: Path) -> None:
    """While another process holds the file, the call waits, and other tasks go on."""
    path = tmp_path / "bot.sqlite"
    async with SQLiteStore(path) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        save = asyncio.create_task(store.save("a", Record("job_1")))
        # A loop that waited for the file would come here when that has given up.
        for _ in range(20):
            await asyncio.sleep(0.005)
        assert not save.done()
        other.execute("COMMIT")
        other.close()
        await save
        assert await store.load("a") == Record("job_1")
