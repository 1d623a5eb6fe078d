"""Replies as data: the one JSON value of a text, structured into a type, repaired on demand."""

from __future__ import annotations

import json
import pickle
import time
from collections import Counter, deque
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nairi_async import InvalidArgumentError, NairiSession, Reply, ReplyFormatError, Turn, json_schema
from nairi_async.testing import Say, Simulator

TURN = Turn("job_1", "cmsg_1")
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=6,
)


class Pair(NamedTuple):
    a: int
    b: int = 0


@attrs.frozen
class WithPath:
    path: Path


class Size(Enum):
    SMALL = (1, 2)
    LARGE = (10, 20)


class Kind(Enum):
    CHARGE = "charge"
    REFUND = "refund"


@attrs.frozen
class Line:
    name: str
    price: Decimal
    kind: Kind = Kind.CHARGE


@attrs.frozen
class Invoice:
    number: int
    due: date
    lines: list[Line]
    currency: Literal["USD", "EUR"] = "USD"
    corrects: Invoice | None = None


@dataclass
class Node:
    name: str
    children: tuple[Node, ...] = ()


class Charge(TypedDict):
    id: str
    amount: float


@attrs.frozen
class Unsupported:
    value: object
    when: type[int]


INVOICE = {"number": 7, "due": "2026-05-01", "lines": [{"name": "a", "price": 1.10, "kind": "refund"}], "note": "-"}
TEXT = json.dumps(INVOICE)
EXPECTED = Invoice(7, date(2026, 5, 1), [Line("a", Decimal("1.1"), Kind.REFUND)])


def reply(text: str) -> Reply:
    return Reply(turn=TURN, text=text, messages=())


@given(json_values, st.sampled_from(["{}", "  {}\n", "Here it is:\n```json\n{}\n```\nDone.", "~~~\n{}\n~~~"]))
def test_any_value_is_read_back_alone_or_in_a_fence(value: Any, form: str) -> None:
    """`json` returns the value of the whole text or of its one fenced block."""
    assert reply(form.replace("{}", json.dumps(value))).json() == value


@given(st.dictionaries(st.text(), json_values, max_size=3))
def test_an_object_is_found_in_prose(value: dict[str, Any]) -> None:
    """An object may stand anywhere in a text, an array at the beginning of a line; references are no arrays."""
    text = json.dumps(value)
    assert reply(f"As in [1] and [2], it is {text}, I think.").json() == value
    assert reply(f"The list:\n  [{text}]\nThat is all [3].").json() == [value]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no JSON value"),
        ("I could not find it.", "no JSON value"),
        ("{'number': 7}", "no JSON value"),
        ("NaN", "no JSON value"),
        (f"{TEXT}\n{TEXT}", "2 JSON values"),
        (f"```json\n{TEXT}\n```\nor\n```\n{TEXT}\n```", "2 JSON values"),
        ('{"a":' * 20_000, "nested too deeply|no JSON value"),
        ("{" * 300_000, "no JSON value"),
        ("[" * 300_000, "nested too deeply|no JSON value"),
    ],
)
def test_no_value_and_several_are_errors_soon(text: str, reason: str) -> None:
    """The error has the reply and its turn, is a ValueError, survives pickle, and comes without a long search."""
    started_at = time.perf_counter()
    with pytest.raises(ReplyFormatError, match=reason) as caught:
        reply(text).json()
    assert time.perf_counter() - started_at < 5
    assert isinstance(caught.value, ValueError)
    assert (caught.value.reply.text, caught.value.turn) == (text, TURN)
    assert pickle.loads(pickle.dumps(caught.value)).reply == reply(text)  # noqa: S301 - made here


def test_a_reply_is_structured_into_a_type() -> None:
    """Classes, typed dicts and collections are made; unknown keys are ignored; decimals are exact."""
    assert reply(TEXT).into(Invoice) == EXPECTED
    nested = json.dumps(INVOICE | {"corrects": INVOICE})
    assert reply(nested).into(Invoice) == attrs.evolve(EXPECTED, corrects=EXPECTED)
    tree = '{"name": "a", "children": [{"name": "b", "children": [{"name": "c"}]}]}'
    assert reply(tree).into(Node) == Node("a", (Node("b", (Node("c"),)),))
    assert reply('{"id": "ch_1", "amount": 3}').into(Charge) == {"id": "ch_1", "amount": 3.0}
    assert reply(f"[{TEXT}]").into(list[Invoice]) == [EXPECTED]
    assert reply('{"a": {"b": 0.5}}').into(dict[str, Any]) == {"a": {"b": 0.5}}
    assert reply('["a", 1]').into(tuple[str, int]) == ("a", 1)
    assert reply("[10, 20]").into(Size) is Size.LARGE
    assert json_schema(Size) == {"enum": [[1, 2], [10, 20]]}


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        (Invoice, INVOICE | {"number": "7"}, 'int expected, got "7" @ $.number'),
        (Invoice, INVOICE | {"number": 7.5}, "int expected, got 7.5"),
        (Invoice, INVOICE | {"number": True}, "int expected, got true"),
        (Invoice, INVOICE | {"due": "May"}, "@ $.due"),
        (Invoice, INVOICE | {"lines": "none"}, "an array expected"),
        (Invoice, INVOICE | {"lines": {"name": "a"}}, "an array expected"),
        (Invoice, INVOICE | {"lines": [{"name": 1, "price": 1}]}, "str expected, got 1"),
        (Invoice, INVOICE | {"lines": [{"name": "a", "price": "much"}]}, "a decimal number expected"),
        (Invoice, INVOICE | {"currency": "GBP"}, "@ $.currency"),
        (Invoice, {}, "'number' is missing"),
        (Invoice, [], "an object expected, got []"),
        (Node, "a", "an object expected"),
        (Charge, {"id": "ch_1", "amount": "3"}, "float expected"),
        (list[str], "abc", "an array expected"),
        (dict[str, int], [1], "an object expected"),
        (dict[str, int], {"a": None}, "int expected, got null"),
        (tuple[str, int], ["a"], "2 entries expected"),
        (bool, "false", "bool expected"),
    ],
)
def test_what_does_not_fit_is_an_error_that_names_the_place(kind: Any, value: Any, reason: str) -> None:
    """Values are not converted into each other, so nothing is guessed."""
    with pytest.raises(ReplyFormatError) as caught:
        reply(json.dumps(value)).into(kind)
    assert reason in caught.value.message


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (int | str, 3, 3),
        (int | str, "x", "x"),
        (int | str | None, None, None),
        (list[date | None], ["2026-05-01", None], [date(2026, 5, 1), None]),
        (Node | Charge, {"id": "ch_1", "amount": 3}, {"id": "ch_1", "amount": 3.0}),
        (Line | Node, {"name": "a", "children": []}, Node("a")),
        (list[Line] | Line, {"name": "a", "price": 1}, Line("a", Decimal(1))),
    ],
)
def test_of_a_union_the_member_that_fits_is_made(kind: Any, value: Any, expected: object) -> None:
    """The first member that fits is taken; of several classes, the one that reads most of the keys."""
    made = reply(json.dumps(value)).into(kind)
    assert made == expected
    assert type(made) is type(expected)


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        (int | str, True, "int or str expected, got true @ $"),
        (int | str | None, [1], "int, str or null expected, got [1]"),
        (Line | Charge, {"id": "ch_1", "amount": "3"}, 'float expected, got "3" @ $.amount'),
        (Invoice, INVOICE | {"corrects": INVOICE | {"number": "7"}}, 'int expected, got "7" @ $.corrects.number'),
        (Literal[1, "a"], True, 'one of 1, "a" expected, got true'),
        (Kind, "tip", 'one of "charge", "refund" expected, got "tip"'),
    ],
)
def test_what_fits_no_member_is_an_error_of_the_member_that_was_meant(kind: Any, value: Any, reason: str) -> None:
    """The error, which repairs quote to the agent, names the place in the nearest class, or all that is allowed."""
    with pytest.raises(ReplyFormatError) as caught:
        reply(json.dumps(value)).into(kind)
    assert reason in caught.value.message


@pytest.mark.anyio
@pytest.mark.parametrize(
    "kind",
    [
        Unsupported,
        list[Unsupported],
        int | type[int],
        3,
        "Invoice",
        # cattrs reads these in ways of its own, and no schema describes them.
        bytes,
        bytes | None,
        Path,
        deque[int],
        Counter,
        Pair,
        WithPath,
        Enum("Objects", {"A": object()}),
        # The keys of an object are texts.
        dict[int, str],
    ],
)
async def test_unsupported_types_are_refused_before_any_request(
    nairi: NairiSession, simulator: Simulator, kind: Any
) -> None:
    """A type that nothing can be structured into costs no turn."""
    with pytest.raises(InvalidArgumentError, match="not supported"):
        await nairi.ask("my-agent", "hi", into=kind)
    for refuse in (reply(TEXT).into, json_schema):
        with pytest.raises(InvalidArgumentError, match="not supported"):
            refuse(kind)
    assert simulator.requests == []


@pytest.mark.anyio
async def test_ask_returns_a_value_of_the_type(nairi: NairiSession, simulator: Simulator) -> None:
    """`ask(into=T)` gives the reply with its value, which is no part of the reply's identity."""
    simulator.agent("my-agent", [Say(f"Here you are:\n\n```json\n{TEXT}\n```")])
    answer = await nairi.ask("my-agent", "The invoice as JSON, please.", into=Invoice)
    assert answer.value == EXPECTED
    same: Any = await nairi.reply(answer.turn)
    assert answer == same
    assert pickle.loads(pickle.dumps(answer)).value == EXPECTED  # noqa: S301 - made here
    assert Reply.from_dict(answer.to_dict()) == same
    assert (await nairi.ask("my-agent", "again")).value is None


@pytest.mark.anyio
async def test_a_reply_is_repaired_in_its_conversation(nairi: NairiSession, simulator: Simulator) -> None:
    """Each follow-up says what was wrong; no more are sent than were allowed, and the last error has the last reply."""
    simulator.agent("my-agent", lambda _, number: [Say('{"number": "7"}' if number < 3 else TEXT)])
    answer = await nairi.ask("my-agent", "The invoice", into=Invoice, repair=2)
    assert answer.value == EXPECTED
    asked = [prompt.prompt for prompt in simulator.prompts]
    assert len(asked) == 3
    assert 'int expected, got "7" @ $.number' in asked[1]
    assert len({prompt.job_id for prompt in simulator.prompts}) == 1
    with pytest.raises(ReplyFormatError) as caught:
        await nairi.ask("my-agent", "The invoice", into=Invoice, repair=1)
    assert len(simulator.prompts) == 5
    assert caught.value.reply.turn.message_id == simulator.prompts[-1].message_id


@pytest.mark.anyio
@pytest.mark.parametrize("repair", [-1, 1.5, True, "1", None])
async def test_bad_numbers_of_repairs_are_refused(nairi: NairiSession, simulator: Simulator, repair: Any) -> None:
    """`repair` is a whole number, and needs `into`."""
    with pytest.raises(InvalidArgumentError, match="repair must be"):
        await nairi.ask("my-agent", "hi", into=Invoice, repair=repair)
    with pytest.raises(InvalidArgumentError, match="repair needs into="):
        await nairi.ask("my-agent", "hi", repair=1)
    assert simulator.requests == []
