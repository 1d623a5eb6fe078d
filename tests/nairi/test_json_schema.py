"""Schemas of types: they say what `Reply.into` accepts, and go into a prompt as text."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Generic, Literal, NewType, NotRequired, Required, TypedDict, TypeVar
from uuid import UUID  # noqa: TC003 - the type of a field is read when the tests run

import attrs
import pytest
from attrs import evolve

from nairi_async import (
    InvalidArgumentError,
    NairiSession,
    Reply,
    ReplyFormatError,
    Turn,
    format_instructions,
    json_schema,
)
from nairi_async.testing import Say, Simulator

_T = TypeVar("_T")
Cents = NewType("Cents", int)


class Colour(Enum):
    RED = "red"
    BLUE = 2


@attrs.frozen
class Node:
    """A node of a tree."""

    name: str
    children: list[Node] = attrs.field(factory=list)
    colour: Colour | None = attrs.field(default=None, metadata={"description": "As painted"})
    hidden: int = attrs.field(default=0, init=False)


@dataclass
class Invoice:
    total: Annotated[Decimal, "In dollars"]
    lines: tuple[str, ...]
    paid: bool = False
    tags: set[str] = field(default_factory=set)
    extra: Any = None


class Record(TypedDict, total=False):
    id: Required[UUID]
    at: datetime
    kind: NotRequired[Literal["a", "b"]]
    price: Cents


@attrs.frozen
class Page(Generic[_T]):
    items: list[_T]
    next: _T | None = None


STRING, INTEGER = {"type": "string"}, {"type": "integer"}


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        (list[int], {"type": "array", "items": INTEGER}),
        (dict[str, float], {"type": "object", "additionalProperties": {"type": "number"}}),
        (tuple[int, str], {"type": "array", "prefixItems": [INTEGER, STRING], "minItems": 2, "maxItems": 2}),
        (date | None, {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]}),
        (list, {"type": "array", "items": {}}),
        (
            Invoice,
            {
                "type": "object",
                "properties": {
                    "total": {"type": "number", "description": "In dollars"},
                    "lines": {"type": "array", "items": STRING},
                    "paid": {"type": "boolean"},
                    "tags": {"type": "array", "items": STRING, "uniqueItems": True},
                    "extra": {},
                },
                "required": ["total", "lines"],
            },
        ),
        (
            Record,
            {
                "type": "object",
                "properties": {
                    "id": {"type": "string", "format": "uuid"},
                    "at": {"type": "string", "format": "date-time"},
                    "kind": {"enum": ["a", "b"]},
                    "price": INTEGER,
                },
                "required": ["id"],
            },
        ),
    ],
    ids=str,
)
def test_types_are_described(kind: Any, schema: dict[str, Any]) -> None:
    """Fields without a default are required; classes that nothing else refers to stand by themselves."""
    assert json_schema(kind) == schema


def test_classes_may_contain_each_other() -> None:
    """A class is defined once, under its name; docstrings, annotations and metadata describe."""
    node = {
        "description": "A node of a tree.",
        "type": "object",
        "properties": {
            "name": STRING,
            "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
            "colour": {"anyOf": [{"enum": ["red", 2]}, {"type": "null"}], "description": "As painted"},
        },
        "required": ["name"],
    }
    assert json_schema(Node) == {"$ref": "#/$defs/Node", "$defs": {"Node": node}}


def test_generic_classes_are_described_by_what_they_hold() -> None:
    """Two uses of a generic class are two definitions, and are read as such."""
    reply = Reply.of(Turn("job_1", "cmsg_1"), [])
    assert evolve(reply, text='{"items": [1], "next": 2}').into(Page[int]) == Page([1], 2)
    with pytest.raises(ReplyFormatError, match="int expected"):
        evolve(reply, text='{"items": ["1"]}').into(Page[int])
    schema = json_schema(tuple[Page[int], Page[str]])
    assert schema["$defs"]["Page"]["properties"]["items"] == {"type": "array", "items": INTEGER}
    assert schema["$defs"]["Page2"]["properties"]["items"] == {"type": "array", "items": STRING}


@pytest.mark.parametrize("kind", [lambda: None, object(), "text", 7, list[int].__class__])
def test_other_types_are_refused(kind: Any) -> None:
    """What `Reply.into` refuses has no schema."""
    for describe in (json_schema, format_instructions):
        with pytest.raises(InvalidArgumentError):
            describe(kind)


@pytest.mark.anyio
async def test_an_agent_that_follows_the_schema_fits(nairi: NairiSession, simulator: Simulator) -> None:
    """The instructions end with the schema, from which an agent can make a value that is accepted."""

    def follow(prompt: str, _: int) -> list[Say]:
        schema = json.loads(prompt.splitlines()[-1])
        values = {"string": "x", "number": 1.5, "boolean": True, "array": []}
        return [Say(json.dumps({name: values[schema["properties"][name]["type"]] for name in schema["required"]}))]

    simulator.agent("my-agent", follow)
    reply = await nairi.ask("my-agent", f"What is on it? {format_instructions(Invoice)}", into=Invoice)
    assert reply.value == Invoice(Decimal("1.5"), ())
