"""What must hold for any response: for those that hypothesis makes, and for those that a fuzzer finds."""

from __future__ import annotations

import itertools
import json
import re
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING, Final

from nairi_async import Activity, DecodeError
from nairi_async._core import json_body
from nairi_async._core.retry import parse_date, parse_retry_after
from nairi_async._nairi import wire
from nairi_async._nairi.incremental_decoder import IncrementalDecoder
from nairi_async.amigo import wire as amigo
from nairi_async.cli.formatting import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nairi_async import ActivityNode, Message

# Parts the reads of one conversation in the input of the rule on growing timelines.
NEXT_READ: Final = b"\x00"
DECODERS: Final = (
    wire.decode_turn,
    wire.decode_message,
    wire.decode_timeline,
    wire.decode_conversations,
    wire.decode_attachment_id,
    wire.decode_attachment,
    wire.decode_changed_agent,
    wire.decode_deployment,
    wire.decode_agents,
    wire.decode_agent,
    amigo.decode_token,
    amigo.decode_conversations,
    amigo.decode_messages,
    amigo.decode_source,
    amigo.decode_insights,
    amigo.decode_recommended,
    amigo.decode_starters,
)
MESSAGE: Final = {
    "id": "m1",
    "job_id": "j1",
    "content": "Hello \N{WAVING HAND SIGN}",
    "role": "progress",
    "status": "completed",
    "created_at": "2026-01-02T03:04:05.678901Z",
    "updated_at": "2026-01-02T03:04:05Z",
    "attachment_ids": ["a1"],
    "cost_usd": 0.25,
    "input_tokens": 12,
    "output_tokens": 3,
    "model": "large",
    "progress_type": "tool_use",
    "tool_use_id": "t1",
    "tool_name": "Task",
    "tool_status": "running",
    "parent_tool_use_id": "t0",
    "event_key": "k",
}
"""One entry of a timeline with every field that the reference names."""


def decoding(body: bytes) -> None:
    """Check that any bytes are a model or a `DecodeError`, which quotes little of them, and no control character."""
    for decode in DECODERS:
        with suppress(DecodeError):
            decode(body)
    for text in (json_body.decode_error(body), amigo.decode_error(body), json_body.excerpt(body)):
        assert text.isprintable()
        assert len(json_body.shortened(text)) <= json_body.EXCERPT


def timelines(body: bytes) -> None:
    """Check that a timeline without progress is the one with it, less the progress, and that models hash and print."""
    messages, with_progress = read(body, progress=False), read(body, progress=True)
    assert (messages is None) == (with_progress is None)
    if messages is None or with_progress is None:
        return
    assert messages == tuple(message for message in with_progress if message.role != "progress")
    for message in with_progress:
        assert isinstance(hash(message), int)
        assert repr(message)
        assert message.created_at is None or message.created_at.tzinfo is not None


def growing(data: bytes) -> None:
    """Check that decoding only what is new gives what decoding everything gives, for any sequence of bodies."""
    for progress in (False, True):
        timeline = IncrementalDecoder(progress=progress)
        for body in data.split(NEXT_READ):
            try:
                messages = timeline.decode(body)
            except DecodeError:
                messages = None
            assert messages == read(body, progress=progress)


def activity(body: bytes) -> None:
    """Check that the activity of an agent can be shown of any messages, in any order and number."""
    messages = read(body, progress=True) or ()
    view, again = Activity.of(messages), Activity.of([*messages, *messages])
    assert view.describe() == again.describe()
    for seen in (view, Activity.of(reversed(messages))):
        assert len(seen.describe(datetime(2026, 1, 2, tzinfo=UTC), width=60)) <= 60
        assert set(seen.finished).isdisjoint(seen.running)
        assert seen.text is not None
        assert len(list(walk(seen.tree))) <= len(seen.tools)
        seen.end()
        assert seen.current is None


def events(data: bytes) -> None:
    """Check that any line of Amigo's stream is an event that prints."""
    for line in data.split(b"\n"):
        event = amigo.decode_event(line)
        assert repr(event)
        assert isinstance(event.type, str)


def headers(data: bytes) -> None:
    """Check that any header value is a finite, positive wait, a time, or nothing."""
    text = data.decode("latin-1")
    wait = parse_retry_after(text, 1_800_000_000.0)
    assert wait is None or 0 <= wait < float("inf")
    date = parse_date(text)
    assert date is None or isinstance(date, float)


def terminal(data: bytes) -> None:
    """Check that what the commands show holds no control character but the line end and the tab."""
    shown = clean(data.decode("utf-8", "surrogateescape"))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)


RULES: Final = {rule.__name__: rule for rule in (decoding, timelines, growing, activity, events, headers, terminal)}


def read(body: bytes, *, progress: bool) -> tuple[Message, ...] | None:
    """Return the timeline, decoded in full; `None` if it is none."""
    try:
        return wire.decode_timeline(body, progress=progress)
    except DecodeError:
        return None


def walk(nodes: Iterable[ActivityNode]) -> Iterator[ActivityNode]:
    """Walk every node of the tree of calls."""
    pending = list(nodes)
    while pending:
        node = pending.pop()
        pending += node.children
        yield node


def seeds(rule: str) -> Iterator[bytes]:
    """Return where the search begins."""
    result = {**MESSAGE, "id": "m2", "progress_type": "tool_result", "tool_status": "completed"}
    reply = {**MESSAGE, "id": "m3", "role": "assistant"}
    history = [{**MESSAGE, "id": "m0", "role": "user"}, MESSAGE, result, reply]
    bodies = [json.dumps({"messages": history[:count]}).encode() for count in range(len(history) + 1)]
    if rule == "growing":
        yield NEXT_READ.join(bodies)
        yield from (NEXT_READ.join(pair) for pair in itertools.pairwise(bodies))
    elif rule == "headers":
        yield from (b"3", b"0.5", b"1e9", format_datetime(datetime(2026, 1, 2, tzinfo=UTC), usegmt=True).encode())
    elif rule == "terminal":
        yield from (b"plain\r\n\tline", b"\x1b[31mred\x1b[0m", "\N{CYRILLIC SMALL LETTER ZHE}\x9b2J".encode())
    else:
        yield from bodies
    if rule == "decoding":
        yield json.dumps(MESSAGE).encode()
        yield b'{"job_id":"j1","message_id":"m1"}'
        yield b'{"conversations":[{"job_id":"j1","title":"t","status":"running","updated_at":"2026-01-02T03:04:05Z"}]}'
        yield b'{"attachment":{"id":"a1","filename":"f","content_type":"text/plain","content":"aGk=","size":2}}'
        yield b'{"attachment_id":"a1"}'
        yield b'[{"id":"a","name":"n","slug":"s","model":"large","subagents":[]}]'
        yield b'{"error":"job not found"}'
