"""Models become dictionaries that JSON can hold, and come back equal; other dictionaries are refused clearly."""

from __future__ import annotations

import json
from datetime import UTC, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from nairi_async import Checkpoint, ConversationSummary, Message, Progress, Reply, Turn, Usage

if TYPE_CHECKING:
    from collections.abc import Callable

texts = st.text(max_size=20)
counts = st.none() | st.integers(0, 10**12)
zones = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])
times = st.none() | st.datetimes(timezones=zones)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(texts, children, max_size=3),
    max_leaves=5,
)
turns = st.builds(Turn, texts, texts, agent_id=st.none() | texts)
usages = st.builds(
    Usage,
    cost_usd=st.none() | st.decimals(allow_nan=False, allow_infinity=False),
    input_tokens=counts,
    output_tokens=counts,
    cache_read_tokens=counts,
    cache_write_tokens=counts,
    model=st.none() | texts,
)
progresses = st.builds(
    Progress,
    progress_type=texts,
    text_delta=st.none() | texts,
    tool_input=st.none() | texts,
    raw=st.dictionaries(texts, json_values, max_size=3),
)
messages = st.builds(
    Message,
    id=texts,
    job_id=texts,
    role=texts,
    status=texts,
    content=texts,
    created_at=times,
    updated_at=times,
    attachment_ids=st.lists(texts, max_size=2).map(tuple),
    usage=st.none() | usages,
    progress=st.none() | progresses,
)
replies = st.builds(Reply.of, turns, st.lists(messages, max_size=3))
checkpoints = st.builds(Checkpoint, times, st.dictionaries(texts, st.datetimes(timezones=zones), max_size=3))


@given(st.one_of(turns, messages, replies, checkpoints))
def test_a_model_survives_json(model: Any) -> None:
    """`from_dict` of what JSON made of `to_dict` is the same model, whatever unknown keys are added."""
    data = json.loads(json.dumps(model.to_dict()))
    assert type(model).from_dict(data) == model
    assert type(model).from_dict({**data, "a_later_field": 1}) == model


@given(turns)
def test_a_turn_keeps_its_agent(turn: Turn) -> None:
    """The agent is no part of a turn's identity, and is kept all the same."""
    assert Turn.from_dict(turn.to_dict()).agent_id == turn.agent_id


TURN = {"job_id": "j", "message_id": "m"}
MESSAGE = {"id": "m", "job_id": "j", "role": "user", "status": "completed", "content": "hi"}
REPLY = {"turn": TURN, "text": "", "messages": []}


@pytest.mark.parametrize(
    ("read", "data", "reason"),
    [
        (Turn.from_dict, None, "a Turn is made from a dictionary, not NoneType"),
        (Turn.from_dict, [TURN], "not list"),
        (Turn.from_dict, {}, "'job_id' is missing @ Turn.job_id"),
        (Turn.from_dict, TURN | {"job_id": 1}, "str expected, got 1 @ Turn.job_id"),
        (Message.from_dict, MESSAGE | {"content": None}, "Message.content"),
        (Message.from_dict, MESSAGE | {"created_at": "soon"}, "Message.created_at"),
        (Message.from_dict, MESSAGE | {"created_at": "2026-04-12T00:00:00"}, "no offset"),
        (Message.from_dict, MESSAGE | {"attachment_ids": "abc"}, "list expected"),
        (Message.from_dict, MESSAGE | {"usage": {"cost_usd": 1.5}}, "Message.usage.cost_usd"),
        (Message.from_dict, MESSAGE | {"usage": {"input_tokens": True}}, "int expected"),
        (Message.from_dict, MESSAGE | {"usage": {"cost_usd": "much"}}, "not a decimal number"),
        (Message.from_dict, MESSAGE | {"progress": 3}, "Message.progress"),
        (Reply.from_dict, REPLY | {"messages": [MESSAGE, {}]}, r"Reply.messages\[1\].id"),
        (Reply.from_dict, REPLY | {"turn": "j"}, "Reply.turn"),
        (Reply.from_dict, REPLY | {"messages": MESSAGE}, "Reply.messages"),
        (Checkpoint.from_dict, None, "not a checkpoint"),
        (Checkpoint.from_dict, {"version": 1}, "not a checkpoint"),
        (Checkpoint.from_dict, {"version": 2}, "version 2"),
        (Checkpoint.from_dict, {"version": 1, "updated_at": 3, "seen": {}}, "not a checkpoint"),
    ],
)
def test_other_dictionaries_are_refused(read: Callable[[Any], object], data: Any, reason: str) -> None:
    """The error is a ValueError that names the model and the place."""
    with pytest.raises(ValueError, match=reason):
        read(data)


def test_a_model_of_the_users_with_a_type_that_is_nowhere_is_refused() -> None:
    """The error has the class that every refusal has, and the name of the type."""

    @frozen
    class Tagged(Turn):
        tag: Missing | None = None  # type: ignore[name-defined]  # noqa: F821 - the point

    with pytest.raises(ValueError, match="Missing"):
        Tagged.from_dict(Tagged("job", "message").to_dict())


def test_a_reply_reads_as_its_text() -> None:
    """`str(reply)` is the text, for printing and formatting."""
    turn = Turn("j", "m")
    assert f"{Reply(turn=turn, text='Done.', messages=())}" == "Done."


def test_a_conversation_has_its_id_under_the_name_that_calls_use() -> None:
    """`job_id` is the id of the row, so that it can be passed on as it is named."""
    assert ConversationSummary(id="job_1", status="active").job_id == "job_1"


@given(st.lists(usages, max_size=4))
def test_usage_is_summed_exactly(parts: list[Usage]) -> None:
    """A figure that no part reports stays `None`; the others add up."""
    total = Usage.total(parts)
    tokens = [part.input_tokens for part in parts if part.input_tokens is not None]
    assert (total.input_tokens if total else None) == (sum(tokens) if tokens else None)
    assert Usage.total([Usage(cost_usd=Decimal("0.1")), None, Usage(cost_usd=Decimal("0.2"))]) == Usage(
        cost_usd=Decimal("0.3")
    )


def test_costs_of_any_size_are_summed() -> None:
    """The sum over all costs that are read is exact, and no cost that an application makes up raises an error."""
    large, small = Decimal("1e30"), Decimal("1e-100")
    total = Usage.total([Usage(cost_usd=large), Usage(cost_usd=small)])
    assert total is not None
    assert total.cost_usd is not None
    assert total.cost_usd.as_tuple().digits == (1, *[0] * 129, 1)
    absurd = Usage(cost_usd=Decimal("9e999999"))
    assert Usage.total([absurd, absurd]) == Usage(cost_usd=Decimal("Infinity"))
