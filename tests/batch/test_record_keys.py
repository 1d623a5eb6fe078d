"""The keys by which a ledger recognises records."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from nairi_async.batch import BatchItem
from nairi_async.batch.ledger import Ledger
from nairi_async.batch.record_keys import RecordCopies, record_key

PROMPTS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=8)


def keys_of(prompts: list[str]) -> list[str]:
    keys = []
    with closing(sqlite3.connect("", isolation_level=None)) as connection:
        copies = RecordCopies(connection)
        for item in map(BatchItem, prompts):
            key = record_key(item)
            assert isinstance(key, bytearray)
            keys.append(str(record_key(item, copies.next(key, 1))))
    return keys


@given(st.data())
def test_the_order_never_matters(data: st.DataObject) -> None:
    """A source's records have different keys, which are the same set in any order."""
    prompts = data.draw(st.lists(st.sampled_from(["a", "b", "c"]), max_size=8))
    shuffled = data.draw(st.permutations(prompts))
    keys = keys_of(prompts)
    assert sorted(keys_of(shuffled)) == sorted(keys)
    assert len(set(keys)) == len(prompts)


@given(st.lists(st.sampled_from(["a", "b"]), max_size=8), st.integers(0, 8))
def test_what_is_added_at_the_end_changes_nothing(prompts: list[str], count: int) -> None:
    """The keys of the first records do not depend on those that follow."""
    assert keys_of(prompts)[:count] == keys_of(prompts[:count])


@settings(max_examples=15)
@given(st.lists(PROMPTS, min_size=2, max_size=3))
def test_each_copy_is_taken_once(runs: list[list[str]]) -> None:
    """Of identical records, a run takes as many as the ledger does not hold, and all items have names of their own."""
    held, names = Counter[str](), set[str]()
    with TemporaryDirectory() as directory:
        for prompts in runs:
            with closing(Ledger(Path(directory, "run.sqlite"), "my-agent", "https://example.org")) as ledger:
                ledger.begin()
                entries = [ledger.claim(BatchItem(prompt, place=place), 0.0) for place, prompt in enumerate(prompts, 1)]
                ledger.commit()
            new = [entry for entry in entries if entry is not None]
            assert Counter(entry.prompt for entry in new) == Counter(prompts) - held
            held |= Counter(prompts)
            names |= {entry.id for entry in new}
    assert len(names) == held.total()


def test_ids_and_contents_are_apart() -> None:
    """An id is never taken for a prompt, however it looks."""
    key = record_key(BatchItem("a"))
    assert isinstance(key, bytearray)
    assert record_key(BatchItem("b", id=key.decode("latin-1"))) != key
    assert record_key(BatchItem("a", id="a")) != key
    for item, copy in ((BatchItem("a"), 2), (BatchItem("a", follow_ups=("b",)), 1)):
        content = json.dumps([item.prompts, item.attachments, item.job_id, copy])
        assert record_key(item, copy) != record_key(BatchItem(content))
