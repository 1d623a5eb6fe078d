"""The keys by which a ledger recognises records."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from hypothesis import given
from hypothesis import strategies as st

from nairi_async.batch import BatchItem
from nairi_async.batch.record_keys import RecordKeys


def keys_of(prompts: list[str]) -> list[str]:
    with closing(sqlite3.connect("", isolation_level=None)) as connection:
        keys = RecordKeys(connection)
        return [keys.next_key(BatchItem(prompt)) for prompt in prompts]


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


def test_ids_and_contents_are_apart() -> None:
    """An id is never taken for a prompt, however it looks."""
    with closing(sqlite3.connect("", isolation_level=None)) as connection:
        keys = RecordKeys(connection)
        key = keys.next_key(BatchItem("a"))
        assert keys.next_key(BatchItem("b", id=key)) != key
