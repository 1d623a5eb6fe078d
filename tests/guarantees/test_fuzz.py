"""Answers that were edited at random, and the finds of the fuzzer (`benchmarks/fuzz_wire.py`), break no rule."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_rules import RULES, seeds

FINDS = sorted((Path(__file__).parents[1] / "samples" / "finds").iterdir())
WORDS = st.sampled_from([b'{"', b'"}', b"[", b"]", b",", b":", b"null", b"1e999", b"\\ud800", b"\x00", b"\n", b"\x1b["])


@pytest.mark.parametrize("rule", RULES)
@given(data=st.data())
def test_no_edit_of_an_answer_breaks_a_rule(rule: str, data: st.DataObject) -> None:
    """Parts of an answer cut out, put elsewhere or put in from outside: each rule holds as its docstring says."""
    body = data.draw(st.sampled_from(list(seeds(rule))))
    for _ in range(data.draw(st.integers(0, 4))):
        begin, end, place = sorted(data.draw(st.tuples(*[st.integers(0, len(body))] * 3)))
        put = data.draw(WORDS | st.binary(max_size=8) | st.just(body[begin:end]))
        body = body[:begin] + put + body[end:place] + put + body[place:]
    RULES[rule](body)


@pytest.mark.parametrize("find", FINDS, ids=lambda find: find.stem)
def test_what_broke_a_rule_breaks_it_no_more(find: Path) -> None:
    """A file is named for the rule that it broke, and for how."""
    RULES[find.name.partition("-")[0]](find.read_bytes())
