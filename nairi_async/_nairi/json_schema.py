"""Describes a type to an agent: the JSON Schema of what `Reply.into` accepts, and a text that asks for it."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import MISSING, is_dataclass
from dataclasses import fields as dataclass_fields
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    NotRequired,
    Required,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)
from uuid import UUID

import attrs

from nairi_async._nairi.structured import check_type, choice_values

_DEFINED: Final = "#/$defs/"
_PLAIN: Final[dict[Any, dict[str, Any]]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    Decimal: {"type": "number"},
    type(None): {"type": "null"},
    None: {"type": "null"},
    datetime: {"type": "string", "format": "date-time"},
    date: {"type": "string", "format": "date"},
    time: {"type": "string", "format": "time"},
    UUID: {"type": "string", "format": "uuid"},
    Any: {},
    object: {},
}
# `ReadOnly` is in typing from Python 3.13 on.
_QUALIFIERS: Final = frozenset({Required, NotRequired, Final, getattr(typing, "ReadOnly", Required)})
_SETS: Final = frozenset({set, frozenset})
_ARRAYS: Final = frozenset({list, tuple, Sequence, Iterable}) | _SETS
_MAPPINGS: Final = frozenset({dict, Mapping, MutableMapping})


def json_schema(kind: Any) -> dict[str, Any]:
    """Return the JSON Schema of the values that `Reply.into` accepts for a type.

    Docstrings of classes become descriptions, and so do texts in `Annotated[int, "Cents"]` and the `description` in the
    metadata of a field. Keys that the schema does not name are ignored by `Reply.into`. The dialect is 2020-12,
    https://json-schema.org/draft/2020-12.

    Args:
        kind: As for `Reply.into`: an attrs class, a dataclass, a `TypedDict`, or a collection.

    Raises:
        InvalidArgumentError: the type is not supported.
    """
    check_type(kind)
    schemas = _Schemas()
    schema, definitions = schemas.of(kind, {}), schemas.definitions
    name = schema.get("$ref", "").removeprefix(_DEFINED)
    if name and json.dumps(schema["$ref"]) not in json.dumps(definitions):
        # A class that nothing refers to stands by itself.
        schema = definitions.pop(name)
    return {**schema, "$defs": definitions} if definitions else schema


def format_instructions(kind: Any) -> str:
    """Return a text that asks for a reply of a type, to be put at the end of a prompt.

        prompt = f"What is on this receipt? {format_instructions(Receipt)}"
        reply = await nairi.ask("my-agent", prompt, into=Receipt, repair=1)

    The service promises no format: what does not fit raises `ReplyFormatError`, or is repaired.

    Args:
        kind: As for `Reply.into`.

    Raises:
        InvalidArgumentError: the type is not supported.
    """
    schema = json.dumps(json_schema(kind), ensure_ascii=False)
    return f"Reply with one JSON value and nothing else. It must fit this JSON Schema:\n{schema}"


class _Schemas:
    """Schemas of types; classes are defined once, since they may contain each other."""

    def __init__(self) -> None:
        self.definitions: dict[str, dict[str, Any]] = {}
        self._names: dict[Any, str] = {}

    def of(self, kind: Any, variables: Mapping[Any, Any]) -> dict[str, Any]:
        """Return the schema of a type; `variables` are the types of its type variables."""
        kind, description = _unwrapped(kind, variables)
        origin, arguments = get_origin(kind) or kind, get_args(kind)
        if kind in _PLAIN:
            schema = dict(_PLAIN[kind])
        elif origin in {Union, types.UnionType}:
            schema = {"anyOf": [self.of(one, variables) for one in arguments]}
        elif origin is Literal or (isinstance(origin, type) and issubclass(origin, Enum)):
            schema = {"enum": choice_values(kind)}
        elif origin in _ARRAYS:
            schema = self._array(origin, arguments, variables)
        elif origin in _MAPPINGS:
            schema = {"type": "object", "additionalProperties": self.of((arguments or (str, Any))[1], variables)}
        else:
            schema = self._reference(kind, origin, arguments, variables)
        return schema if description is None else {**schema, "description": description}

    def _array(self, origin: Any, arguments: tuple[Any, ...], variables: Mapping[Any, Any]) -> dict[str, Any]:
        if origin is tuple and arguments and arguments[-1] is not ...:
            entries = [self.of(one, variables) for one in arguments]
            return {"type": "array", "prefixItems": entries, "minItems": len(entries), "maxItems": len(entries)}
        schema: dict[str, Any] = {"type": "array", "items": self.of((arguments or (Any,))[0], variables)}
        return {**schema, "uniqueItems": True} if origin in _SETS else schema

    def _reference(
        self, kind: Any, origin: Any, arguments: tuple[Any, ...], variables: Mapping[Any, Any]
    ) -> dict[str, Any]:
        key = (kind, tuple(variables.get(one, one) for one in arguments if isinstance(one, TypeVar)))
        if key not in self._names:
            base = name = getattr(origin, "__name__", "Value")
            number = 1
            while name in self.definitions:
                number += 1
                name = f"{base}{number}"
            self._names[key] = name
            self.definitions[name] = {}
            parameters = getattr(origin, "__parameters__", ())
            given = dict(zip(parameters, (variables.get(one, one) for one in arguments), strict=False))
            self.definitions[name].update(self._object(origin, given))
        return {"$ref": f"{_DEFINED}{self._names[key]}"}

    def _object(self, kind: Any, variables: Mapping[Any, Any]) -> dict[str, Any]:
        properties: dict[str, Any] = {}
        required: list[str] = []
        for name, annotation, is_required, description in _fields(kind):
            properties[name] = self.of(annotation, variables)
            if description is not None:
                properties[name]["description"] = description
            required += [name] if is_required else []
        schema: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
        text = inspect.cleandoc(kind.__doc__ or "")
        # Dataclasses without a docstring get their signature as one.
        return schema if not text or text.startswith(f"{kind.__name__}(") else {"description": text, **schema}


def _unwrapped(kind: Any, variables: Mapping[Any, Any]) -> tuple[Any, str | None]:
    """Return a type without what only qualifies it, and the description that it was annotated with."""
    description = None
    while True:
        origin = get_origin(kind)
        if origin is Annotated:
            kind, *notes = get_args(kind)
            description = next((note for note in notes if isinstance(note, str)), description)
        elif origin in _QUALIFIERS:
            kind = get_args(kind)[0]
        elif isinstance(kind, TypeVar):
            kind = variables.get(kind, Any)
        elif hasattr(kind, "__supertype__"):
            kind = kind.__supertype__
        else:
            return kind, description


def _fields(kind: Any) -> Iterable[tuple[str, Any, bool, str | None]]:
    """Yield the fields of a class: name, type, whether the value must have it, and its description."""
    hints = get_type_hints(kind, include_extras=True)
    if hasattr(kind, "__required_keys__"):
        for name, annotation in hints.items():
            qualifier = get_origin(annotation)
            is_qualified = qualifier in {Required, NotRequired}
            yield name, annotation, qualifier is Required if is_qualified else name in kind.__required_keys__, None
    elif attrs.has(kind):
        for field in attrs.fields(kind):
            if field.init:
                is_required = field.default is attrs.NOTHING
                yield field.name, hints[field.name], is_required, field.metadata.get("description")
    elif is_dataclass(kind):
        for one in dataclass_fields(kind):
            if one.init:
                is_required = one.default is MISSING and one.default_factory is MISSING
                yield one.name, hints[one.name], is_required, one.metadata.get("description")
