from __future__ import annotations

import json
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from nairi_async._core import json_body
from nairi_async._core.request import MAX_BODY
from nairi_async.amigo import UnknownEvent, wire
from nairi_async.amigo.interaction import MAX_LINE
from nairi_async.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Callable

ENTRIES = 1_000_000


def measured(read: Callable[[], object]) -> tuple[float, int]:
    """Return the CPU seconds and the peak of memory that a call takes."""
    tracemalloc.start()
    started_at = time.process_time()
    try:
        read()
    finally:
        seconds, peak = time.process_time() - started_at, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return seconds, peak


def refused(decode: Callable[[bytes], object], body: bytes) -> None:
    """Check that a body is refused in a moment, within a few times its size."""

    def read() -> None:
        with pytest.raises(DecodeError):
            decode(body)

    seconds, peak = measured(read)
    assert seconds < 1
    assert peak <= 3.1 * len(body)


@pytest.mark.parametrize(
    ("name", "decode"),
    [
        ("conversations", wire.decode_conversations),
        ("messages", wire.decode_messages),
        ("prompts", wire.decode_starters),
        ("recommended_responses", wire.decode_recommended),
        ("working_memory", wire.decode_insights),
        ("url", wire.decode_source),
        ("id_token", wire.decode_token),
    ],
)
def test_a_body_of_many_tiny_values_is_refused_before_it_is_decoded(
    name: str, decode: Callable[[bytes], object]
) -> None:
    """A hostile response costs a moment and a few times its size, not minutes and gigabytes."""
    refused(decode, b'{"%s":[%b]}' % (name.encode(), b",".join([b"{}"] * ENTRIES)))


@pytest.mark.parametrize("entry", [b"[]", b"0", b'""', b'"\\\\"', b'"\\""'])
def test_tiny_values_of_any_type_are_refused(entry: bytes) -> None:
    """Objects, lists, numbers and strings are all counted, and no escape hides a string."""
    refused(json_body.decode, b"[%b]" % b",".join([entry] * ENTRIES))


def test_an_event_of_many_tiny_values_is_no_event() -> None:
    """A hostile line costs no more than a hostile body, and does not end the stream."""
    line = b'{"type":"new-message","transcript_alignment":[%b]}' % b",".join([b"{}"] * ENTRIES)
    seen: list[Any] = []
    seconds, peak = measured(lambda: seen.append(wire.decode_event(line)))
    assert isinstance(seen[0], UnknownEvent)
    assert seconds < 1
    assert peak <= 3.1 * len(line)


@pytest.mark.parametrize("pair", [b'"%x":1.5', b'"%x":0', b'"%x":{}', b'"%x":[]'])
def test_the_heaviest_body_that_is_read_takes_three_times_the_limit(pair: bytes) -> None:
    """So many values as a body or an event may have take at most three times the largest body or event."""
    count = 20_000
    body = b'{"values":{%b}}' % b",".join(pair % number for number in range(count))
    _, peak = measured(lambda: json_body.decode(body))
    each = peak / (count * (1 + pair.count(b"{") + pair.count(b"[")))
    assert each * json_body.MAX_VALUES <= 3 * MAX_BODY
    assert each * wire.MOST_EVENT_VALUES <= 3 * MAX_LINE


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"detail": "no such service"}', "no such service"),
        (b'{"message": "no"}', "no"),
        (b'{"error": "no"}', "no"),
        (b'{"detail": null, "message": "no"}', "no"),
        (
            b'{"detail": [{"loc": ["body", 0, "id"], "msg": "bad", "type": "x"}, {"msg": "worse"}]}',
            "body.0.id: bad; worse",
        ),
        (b'{"detail": ["plain", 7]}', "plain; 7"),
        (b'{"detail": [{"loc": "x"}]}', '{"loc": "x"}'),
        (b'{"detail": []}', '{"detail": []}'),
        (b'{"detail": "two\\nlines\\u001b[31m"}', "two lines\ufffd[31m"),
        (b"<html>busy", "<html>busy"),
        (b"[1]", "[1]"),
    ],
)
def test_the_text_of_an_error_is_read_in_every_form(body: bytes, text: str) -> None:
    """The service documents no form of its errors: each that was seen gives its text, on one line."""
    assert wire.decode_error(body) == text


def test_a_page_has_a_bounded_number_of_rows() -> None:
    """More rows than any page has are refused."""
    with pytest.raises(DecodeError, match="more than 10,000"):
        wire.decode_messages(json.dumps({"messages": [{}] * 10_001, "has_more": False}).encode())


def test_what_is_handed_over_as_it_came_can_be_written_as_json_again() -> None:
    """Fractions in insights are `float`, and what is no number is nothing."""
    insights = wire.decode_insights(b'{"working_memory":[{"temperature":0.25,"score":NaN}],"reflections":["a",1]}')
    assert json.dumps(insights.working_memory) == '[{"temperature": 0.25, "score": null}]'
    assert insights.reflections == ("a",)
