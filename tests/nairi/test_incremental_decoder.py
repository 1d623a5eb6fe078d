"""Incremental decoding gives the same result as decoding each body in full, after any edit."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nairi_async import DecodeError, Message
from nairi_async._nairi import wire
from nairi_async._nairi.incremental_decoder import IncrementalDecoder

entries = st.fixed_dictionaries(
    {"id": st.text(max_size=4), "role": st.sampled_from(["user", "assistant", "progress"])},
    optional={
        "content": st.text(max_size=8),
        "status": st.sampled_from(["pending", "completed"]),
        "cost_usd": st.floats(),
    },
)
timelines = st.lists(entries, max_size=6)


def body(timeline: list[dict[str, Any]], style: str = "compact") -> bytes:
    """Return a timeline as a service might print it."""
    document: dict[str, Any] = {"messages": timeline}
    if style == "compact":
        return json.dumps(document, separators=(",", ":")).encode()
    if style == "roomy":
        return json.dumps(document, indent=2).encode()
    if style == "unicode":
        return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")
    if style == "more behind":
        return json.dumps({**document, "next": None}).encode()
    if style == "more before":
        return json.dumps({"total": 3, **document}).encode()
    return json.dumps(document).encode("utf-16")


STYLES = ["compact", "roomy", "unicode", "more behind", "more before", "utf-16"]


@st.composite
def edited(draw: st.DrawFn, timeline: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Draw the timeline after an edit: grown, changed in the middle, shortened, reordered, or the same."""
    kind = draw(st.sampled_from(["grow", "grow", "change", "insert", "remove", "shuffle", "same"]))
    place = draw(st.integers(0, max(0, len(timeline) - 1)))
    if kind == "grow":
        return [*timeline, *draw(st.lists(entries, max_size=3))]
    if kind == "change" and timeline:
        return [*timeline[:place], {**timeline[place], **draw(entries)}, *timeline[place + 1 :]]
    if kind == "insert":
        return [*timeline[:place], draw(entries), *timeline[place:]]
    if kind == "remove":
        return timeline[:place] + timeline[place + 1 :]
    return draw(st.permutations(timeline)) if kind == "shuffle" else timeline


def outcome(decode: Any, raw: bytes) -> tuple[Message, ...] | str:
    try:
        return tuple(decode(raw))
    except DecodeError as error:
        return str(error)


@given(st.data(), st.booleans())
def test_any_sequence_of_reads_decodes_as_if_each_were_the_first(data: st.DataObject, progress: bool) -> None:  # noqa: FBT001
    """Grown, edited, shuffled, cut and damaged bodies, in any style: equal to the full decode, errors included."""
    decoder = IncrementalDecoder(progress=progress)
    timeline = data.draw(timelines)
    for _ in range(data.draw(st.integers(1, 6))):
        timeline = data.draw(edited(timeline))
        raw = body(timeline, data.draw(st.sampled_from(STYLES)))
        if data.draw(st.integers(0, 4)) == 0:
            cut = data.draw(st.integers(0, len(raw)))
            raw = raw[:cut] + data.draw(st.sampled_from([b"", b"}", b"]", b",", b"]}", b"\xff", b"1", b" "]))
        expected = outcome(lambda whole: wire.decode_timeline(whole, progress=progress), raw)
        assert outcome(decoder.decode, raw) == expected


def test_an_unchanged_timeline_is_the_same_tuple() -> None:
    """An identical body is not decoded again: the same models are returned."""
    decoder = IncrementalDecoder()
    raw = body([{"id": "a", "role": "user"}, {"id": "b", "role": "assistant"}])
    assert decoder.decode(raw) is decoder.decode(bytes(bytearray(raw)))


def test_known_entries_keep_their_models() -> None:
    """When a timeline has grown, the models of its earlier entries are returned again."""
    decoder = IncrementalDecoder()
    first = decoder.decode(body([{"id": str(number), "role": "user"} for number in range(10)]))
    second = decoder.decode(body([{"id": str(number), "role": "user"} for number in range(12)]))
    assert all(kept is old for kept, old in zip(second, first, strict=False))
    assert [message.id for message in second[10:]] == ["10", "11"]


@pytest.mark.parametrize("number", ["1", "12"])
def test_an_entry_at_the_end_of_the_common_part_is_decoded_again(number: str) -> None:
    """If the common part ends exactly at the end of an entry, the entry is decoded again."""
    decoder = IncrementalDecoder()
    decoder.decode(b'{"messages":[{"id":"a","input_tokens":1}]}')
    with pytest.raises(DecodeError):
        decoder.decode(f'{{"messages":[{{"id":"a","input_tokens":1}}{number}]}}'.encode())


def test_a_large_timeline_is_in_memory_once() -> None:
    """Besides the body, the first decode takes its text and its models, and a grown one only what is new."""
    text = "x" * 2_000_000
    first = body([{"id": "a", "role": "assistant", "content": text}])
    grown = body([{"id": "a", "role": "assistant", "content": text}, {"id": "b", "role": "user"}])
    decoder, peaks = IncrementalDecoder(), list[float]()
    tracemalloc.start()
    for raw in (first, bytes(bytearray(first)), grown):
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        decoder.decode(raw)
        peaks.append((tracemalloc.get_traced_memory()[1] - before) / len(text))
    tracemalloc.stop()
    assert peaks[0] < 2.1
    assert max(peaks[1:]) < 0.1
