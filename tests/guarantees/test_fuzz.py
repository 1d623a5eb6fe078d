"""Response bodies edited at random, and the finds of the fuzzer (`benchmarks/fuzz_wire.py`), break no rule."""

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
def test_no_edit_of_a_body_breaks_a_rule(rule: str, data: st.DataObject) -> None:
    """Parts of a body are cut out, moved or replaced: each rule holds as its docstring says."""
    body = data.draw(st.sampled_from(list(seeds(rule))))
    for _ in range(data.draw(st.integers(0, 4))):
        begin, end, place = sorted(data.draw(st.tuples(*[st.integers(0, len(body))] * 3)))
        put = data.draw(WORDS | st.binary(max_size=8) | st.just(body[begin:end]))
        body = body[:begin] + put + body[end:place] + put + body[place:]
    RULES[rule](body)


@pytest.mark.parametrize("find", FINDS, ids=lambda find: find.stem)
def test_an_earlier_find_breaks_no_rule(find: Path) -> None:
    """Each file is named after the rule that it broke, and how; the rule holds for it now."""
    RULES[find.name.partition("-")[0]](find.read_bytes())
