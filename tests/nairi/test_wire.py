"""Bytes to models: recorded samples, leniency, and refusal of what cannot be read."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nairi_async import DecodeError, Message, Turn, Usage
from nairi_async._core import json_body
from nairi_async._nairi import wire

if TYPE_CHECKING:
    from collections.abc import Callable

OPENAPI = yaml.safe_load((Path(__file__).parents[1] / "samples" / "nairi.openapi.yaml").read_text())
DECODERS: dict[str, Callable[[bytes], Any]] = {
    "startConversation": wire.decode_turn,
    "continueConversation": wire.decode_turn,
    "listMessages": wire.decode_timeline,
    "getMessage": wire.decode_message,
    "listConversationsForAgent": wire.decode_conversations,
    "uploadAttachment": wire.decode_attachment_id,
    "getAttachment": wire.decode_attachment,
    "listAgents": wire.decode_agents,
    "createAgent": wire.decode_agent,
    "getAgent": wire.decode_agent,
}
# The payloads that the reference prints in full and the OpenAPI document does not.
REFERENCE_ERRORS = {
    b'{"error":"job not found"}': "job not found",
    b'{"error":"job is not an API job"}': "job is not an API job",
    b'{"error":"prompt is required"}': "prompt is required",
    b'{"error":"cannot delete rule: still assigned to N agent(s)"}': "cannot delete rule: still assigned to N agent(s)",
    b'{"error":"rule not found"}': "rule not found",
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
MESSAGE_FIELDS = [
    "id", "job_id", "content", "role", "status", "created_at", "updated_at", "attachment_ids", "cost_usd",
    "input_tokens", "output_tokens", "model", "progress_type", "tool_use_id", "news",
]  # fmt: skip


def encoded(document: object) -> bytes:
    return json.dumps(document).encode()


def printed() -> list[Any]:
    """Every example of an answer in the OpenAPI document: operation, status, payload."""
    found = []
    for operations in OPENAPI["paths"].values():
        for operation in operations.values():
            if not isinstance(operation, dict):
                continue
            for status, answer in operation["responses"].items():
                content = answer.get("content", {}).get("application/json", {})
                payloads = [content["example"]] if "example" in content else []
                payloads += [example["value"] for example in content.get("examples", {}).values()]
                name = operation["operationId"]
                found += [pytest.param(name, status, payload, id=f"{name} {status}") for payload in payloads]
    return found


@pytest.mark.parametrize(("operation", "status", "payload"), printed())
def test_every_printed_answer_is_read(operation: str, status: str, payload: dict[str, Any]) -> None:
    """Each example that the OpenAPI document prints becomes its model, or the text of its error."""
    if status.startswith("2"):
        model = DECODERS[operation](encoded(payload))
        assert all(getattr(model, name) is not None for name in payload)
    else:
        assert json_body.decode_error(encoded(payload)) == payload["error"]


@pytest.mark.parametrize(("body", "text"), REFERENCE_ERRORS.items())
def test_every_error_of_the_reference_is_read(body: bytes, text: str) -> None:
    """The exact error bodies known give their text."""
    assert json_body.decode_error(body) == text


def test_requests_are_as_documented() -> None:
    """The bodies of start and continue hold the documented fields, and attachments only where there are some."""
    start = wire.encode_start("my-agent", "Your task description", ask_mode=False, attachment_ids=())
    example = OPENAPI["paths"]["/conversations/start"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert json.loads(start) == example
    assert json.loads(wire.encode_continue("Additional instructions", attachment_ids=())) == {
        "prompt": "Additional instructions"
    }
    assert json.loads(wire.encode_continue("hé\n\ud800", attachment_ids=["att_1"])) == {
        "prompt": "hé\n\ud800",
        "attachment_ids": ["att_1"],
    }


def test_a_message_with_everything() -> None:
    """Times are aware, the cost is exact, ids are kept in order, and unknown fields are ignored."""
    message = wire.decode_message(
        b'{"id":"cmsg_1","job_id":"job_1","content":"Done.","role":"assistant","status":"completed",'
        b'"created_at":"2026-04-12T18:45:12.000Z","updated_at":"2026-04-12T20:45:12.5+02:00",'
        b'"attachment_ids":["att_1","att_2"],"cost_usd":0.0123456789,"input_tokens":10,"output_tokens":20,'
        b'"cache_read_tokens":0,"cache_write_tokens":3,"model":"claude-opus-4-7","mood":"good"}'
    )
    assert message.created_at == datetime(2026, 4, 12, 18, 45, 12, tzinfo=UTC)
    assert message.updated_at == datetime(2026, 4, 12, 18, 45, 12, 500_000, tzinfo=UTC)
    assert message.attachment_ids == ("att_1", "att_2")
    assert message.usage == Usage(
        cost_usd=Decimal("0.0123456789"),
        input_tokens=10,
        output_tokens=20,
        cache_read_tokens=0,
        cache_write_tokens=3,
        model="claude-opus-4-7",
    )
    assert message.is_terminal


@pytest.mark.parametrize("status", ["queued", "pending", "paused", "Completed", ""])
def test_unknown_words_pass_through_and_are_never_terminal(status: str) -> None:
    """An unknown role or status is kept as it came."""
    raw = {"id": "m", "job_id": "j", "content": "", "role": "oracle", "status": status}
    message = wire.decode_message(encoded(raw))
    assert (message.role, message.status, message.is_terminal) == ("oracle", status, False)
    assert message.usage is None


def test_progress_is_typed_and_keeps_what_is_new() -> None:
    """The envelope in `content` becomes a Progress; unknown types and keys stay in `raw`."""
    envelope = {"progress_type": "dream", "tool_name": "Bash", "tool_use_id": "t1", "depth": 3}
    raw = {"id": "p", "job_id": "j", "role": "progress", "status": "completed", "content": json.dumps(envelope)}
    (message,) = wire.decode_timeline(encoded({"messages": [raw]}), progress=True)
    assert message.progress is not None
    assert (message.progress.progress_type, message.progress.tool_name) == ("dream", "Bash")
    assert message.progress.raw == envelope
    assert wire.decode_timeline(encoded({"messages": [raw]})) == ()


@pytest.mark.parametrize("content", ["not JSON", "[1]", "", None, 7])
def test_progress_without_an_envelope_is_still_delivered(content: object) -> None:
    """Where `content` is no envelope, the copies of its fields at top level stand in."""
    raw = {"id": "p", "role": "progress", "content": content, "progress_type": "tool_use", "tool_status": "running"}
    (message,) = wire.decode_timeline(encoded({"messages": [raw]}), progress=True)
    assert message.progress is not None
    assert (message.progress.progress_type, message.progress.tool_status) == ("tool_use", "running")
    assert message.progress.raw == {}


@given(st.lists(st.dictionaries(st.sampled_from(MESSAGE_FIELDS), json_values), max_size=5))
def test_no_entry_of_a_timeline_is_ever_dropped(entries: list[dict[str, Any]]) -> None:
    """Any entry becomes a message, with text fields that are text and times that are times."""
    messages = wire.decode_timeline(encoded({"messages": entries}), progress=True)
    assert len(messages) == len(entries)
    for message in messages:
        assert all(isinstance(text, str) for text in (message.id, message.role, message.status, message.content))
        assert message.created_at is None or message.created_at.tzinfo is not None


@given(st.binary(max_size=60) | json_values.map(encoded))
@pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS)
def test_any_bytes_give_a_model_or_a_decode_error(decode: Any, body: bytes) -> None:
    """For no body does the wire layer raise anything but DecodeError."""
    with suppress(DecodeError):
        decode(body)
    assert len(json_body.shortened(json_body.decode_error(body))) <= json_body.EXCERPT


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b'{"messages":[{"id":"m"',
        b'{"messages":{}}',
        b'{"messages":["m"]}',
        b'{"messages":null}',
        b"[]",
        b"null",
        b"\xff\xfe\xfd",
        b"[" * 100_000,
        b'{"messages":[{"cost_usd":1e99999999999999999999}]}',
    ],
)
def test_what_is_no_timeline_is_refused(body: bytes) -> None:
    """Not JSON, cut JSON, another shape, nesting and numbers beyond reason: DecodeError with the beginning of it."""
    with pytest.raises(DecodeError):
        wire.decode_timeline(body)


@pytest.mark.parametrize(
    "payload", [{}, {"job_id": "j"}, {"job_id": 1, "message_id": "m"}, {"job_id": "", "message_id": "m"}]
)
def test_a_turn_needs_both_ids(payload: dict[str, Any]) -> None:
    """An answer without both ids starts nothing that could be found again, so it is no Turn."""
    with pytest.raises(DecodeError):
        wire.decode_turn(encoded(payload))


def test_a_number_beyond_reason_does_not_cost_the_timeline() -> None:
    """A number of thousands of digits, which Python refuses to read, counts as absent; its message is delivered."""
    body = b'{"messages":[{"id":"m","role":"assistant","input_tokens":' + b"1" * 5000 + b"}]}"
    (message,) = wire.decode_timeline(body)
    assert (message.id, message.usage) == ("m", None)


def test_a_turn_is_read_and_its_agent_is_no_part_of_its_identity() -> None:
    """Two turns with the same ids are the same turn."""
    turn = wire.decode_turn(b'{"job_id":"j","message_id":"m","eta":3}')
    assert turn == Turn("j", "m", agent_id="my-agent")
    assert hash(turn) == hash(Turn("j", "m", agent_id="my-agent"))


def test_an_attachment_is_decoded_and_a_broken_one_refused() -> None:
    """Base64 becomes bytes; what is not base64 is a DecodeError."""
    attachment = wire.decode_attachment(encoded({"id": "att_1", "filename": "a b.txt", "data": "aGk="}))
    assert (attachment.filename, attachment.data) == ("a b.txt", b"hi")
    for data in ("aGk", "a*k=", 7, None):
        with pytest.raises(DecodeError):
            wire.decode_attachment(encoded({"id": "att_1", "filename": "x", "data": data}))


def test_usage_adds_up_exactly_and_absent_stays_absent() -> None:
    """Decimal sums; a figure that was not reported is None; a sum over different models names none."""
    one = Usage(cost_usd=Decimal("0.1"), input_tokens=1, model="a")
    two = Usage(cost_usd=Decimal("0.2"), output_tokens=2, model="a")
    assert Usage.total([one, None, two]) == Usage(cost_usd=Decimal("0.3"), input_tokens=1, output_tokens=2, model="a")
    assert Usage.total([one, Usage(model="b")]) == Usage(cost_usd=Decimal("0.1"), input_tokens=1)
    assert Usage.total([None]) is None


def test_models_are_frozen_and_slotted() -> None:
    """A message cannot be changed and carries no dictionary."""
    message = Message(id="m", job_id="j", role="user", status="queued", content="hi")
    with pytest.raises(AttributeError):
        message.status = "completed"  # type: ignore[misc]
    assert not hasattr(message, "__dict__")
