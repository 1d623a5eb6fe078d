"""Structures the JSON value of a reply into a type."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin, is_typeddict
from uuid import UUID

import attrs
import cattrs
from cattrs.fns import raise_error
from cattrs.gen import make_dict_structure_fn

from nairi_async._nairi.json_in_text import NoSuchValueError
from nairi_async.errors import InvalidArgumentError

_T = TypeVar("_T")

# Characters of a problem that are quoted to the agent.
_MAX_PROBLEM: Final = 2000


def check_type(kind: object) -> None:
    """Refuse a type that no JSON value can be structured into.

    Raises:
        InvalidArgumentError: the type is not supported.
    """
    try:
        _CONVERTER.get_structure_hook(type(None) if kind is None else kind)
    except Exception as error:
        part = f", because of {error.type_!r:.80}" if isinstance(error, cattrs.StructureHandlerNotFoundError) else ""
        reason = f" ({error})" if isinstance(error, NameError) else ""
        raise InvalidArgumentError(
            f"into={kind!r:.80} is not supported{part}{reason}: "
            "give an attrs class, a dataclass, a TypedDict or a collection"
        ) from error


def repair_prompt(problem: str) -> str:
    """Return the follow-up prompt for a reply that does not fit, from the message of its error."""
    return f"T{problem[1:_MAX_PROBLEM]}. Reply once more, with nothing but the corrected JSON value."


def structure(value: object, kind: type[_T]) -> _T:
    """Return a JSON value as an instance of a type.

    Raises:
        NoSuchValueError: the value does not fit.
    """
    try:
        found: _T = _CONVERTER.get_structure_hook(kind)(value, kind)
    except Exception as error:
        reasons = cattrs.transform_error(error, path="$", format_exception=_reason)
        raise NoSuchValueError("; ".join(reasons)) from error
    return found


def _reason(error: BaseException, _: object) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)


def _shown(value: object) -> str:
    return json.dumps(value, default=float, ensure_ascii=False)[:80]


def _only(kind: type, convert: Callable[[Any], Any] = lambda value: value) -> Callable[[Any, object], Any]:
    """Return a reader of one type of JSON value. Nothing is guessed: a number is no text, and a text is no flag."""

    def read(value: Any, _: object) -> Any:
        if type(value) is not kind:
            raise TypeError(f"{kind.__name__} expected, got {_shown(value)}")
        return convert(value)

    return read


def _read_int(value: Any, _: object) -> int:
    if type(value) in {int, Decimal, float} and value == int(value):
        return int(value)
    raise TypeError(f"int expected, got {_shown(value)}")


def _read_float(value: Any, _: object) -> float:
    if type(value) in {int, Decimal, float}:
        return float(value)
    raise TypeError(f"float expected, got {_shown(value)}")


def _read_decimal(value: Any, _: object) -> Decimal:
    if type(value) not in {int, str, Decimal}:
        raise TypeError(f"a decimal number expected, got {_shown(value)}")
    try:
        return Decimal(value)
    except InvalidOperation:
        raise ValueError(f"a decimal number expected, got {_shown(value)}") from None


def _read_none(value: Any, _: object) -> None:
    if value is not None:
        raise TypeError(f"null expected, got {_shown(value)}")


def _is_choice(kind: Any) -> bool:
    return get_origin(kind) is Literal or (isinstance(kind, type) and issubclass(kind, Enum))


def choice_values(kind: Any) -> list[Any]:
    """Return the values of an enum or a `Literal` as JSON has them: a tuple is an array.

    Raises:
        StructureHandlerNotFoundError: one has no form in JSON, so no reply could have it.
    """
    choices = get_args(kind) or tuple(kind)
    try:
        return [json.loads(json.dumps(getattr(one, "value", one), allow_nan=False)) for one in choices]
    except (TypeError, ValueError) as error:
        raise cattrs.StructureHandlerNotFoundError(str(error), kind) from error


def _choice_reader(kind: Any) -> Callable[[Any, object], Any]:
    """Return a reader of an enum or a `Literal`. Unlike the one of cattrs, it does not take `true` for 1."""
    choices = get_args(kind) or tuple(kind)
    values = choice_values(kind)

    def read(value: Any, _: object) -> Any:
        plain = _read_any(value, None)
        for known, choice in zip(values, choices, strict=True):
            if plain == known and (type(plain) is bool) == (type(known) is bool):
                return choice
        if isinstance(kind, type) and type(plain) is not bool:
            # `Enum._missing_` of the class may know it.
            with suppress(ValueError, TypeError):
                return kind(plain)
        raise ValueError(f"one of {', '.join(map(_shown, values))} expected, got {_shown(value)}")

    return read


def _read_any(value: Any, _: object) -> Any:
    """Return a value as `json` would read it, for fields of any type."""
    match value:
        case Decimal():
            return float(value)
        case list():
            return [_read_any(entry, None) for entry in value]
        case dict():
            return {name: _read_any(entry, None) for name, entry in value.items()}
        case _:
            return value


def _is_array(kind: Any) -> bool:
    return (get_origin(kind) or kind) in _ARRAYS


def _array_reader(kind: Any, converter: cattrs.Converter) -> Callable[[Any, object], Any]:
    """Return a reader of arrays. Unlike the one of cattrs, it takes neither a text nor an object for an array."""
    origin, types = get_origin(kind) or kind, get_args(kind) or (Any, ...)
    is_fixed = origin is tuple and types[-1] is not ...
    readers = [_entry_reader(converter, entry) for entry in types if entry is not ...]

    def read(value: Any, _: object) -> Any:
        if type(value) is not list:
            raise TypeError(f"an array expected, got {_shown(value)}")
        if is_fixed and len(value) != len(readers):
            raise ValueError(f"{len(readers)} entries expected, got {len(value)}")
        return _ARRAYS[origin]([readers[index if is_fixed else 0](index, entry) for index, entry in enumerate(value)])

    return read


def _is_mapping(kind: Any) -> bool:
    return (get_origin(kind) or kind) in {dict, Mapping, MutableMapping}


def _mapping_reader(kind: Any, converter: cattrs.Converter) -> Callable[[Any, object], Any]:
    key_type, entry_type = get_args(kind) or (str, Any)
    if key_type in _NO_KEYS:
        raise cattrs.StructureHandlerNotFoundError("the keys of a JSON object are texts", kind)
    read_key, read_entry = (_entry_reader(converter, entry) for entry in (key_type, entry_type))

    def read(value: Any, _: object) -> Any:
        if type(value) is not dict:
            raise TypeError(f"an object expected, got {_shown(value)}")
        return {read_key(key, key): read_entry(key, entry) for key, entry in value.items()}

    return read


def _entry_reader(converter: cattrs.Converter, kind: Any) -> Callable[[object, Any], Any]:
    """Return a reader of the entries of an array or object; its error names the place."""
    _check_supported(kind, converter)

    def read(place: object, value: Any) -> Any:
        try:
            return converter.get_structure_hook(kind)(value, kind)
        except Exception as error:
            reasons = cattrs.transform_error(error, path=f"[{place!r}]", format_exception=_reason)
            raise ValueError("; ".join(reasons)) from error

    return read


def _check_supported(kind: Any, converter: cattrs.Converter) -> None:
    """Raise for a type that is not supported. One that contains itself is looked up when a value is read."""
    with suppress(RecursionError):
        converter.get_structure_hook(kind)


def _object_reader(kind: Any, converter: cattrs.Converter) -> Callable[[Any, object], Any]:
    """Return a reader of objects. Unlike the one of cattrs, it refuses other values also if every field is optional."""
    if attrs.has(kind):
        # cattrs does this only if an annotation as a whole is a string, not for `list["Node"]`.
        attrs.resolve_types(get_origin(kind) or kind)
    read_fields = make_dict_structure_fn(kind, converter)

    def read(value: Any, _: object) -> Any:
        if type(value) is not dict:
            raise TypeError(f"an object expected, got {_shown(value)}")
        return read_fields(value, kind)

    return read


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in {Union, types.UnionType}


def _union_reader(kind: Any, converter: cattrs.Converter) -> Callable[[Any, object], Any]:
    """Return a reader of unions: the first member that fits, and of several classes the one that reads most keys."""
    members = get_args(kind)
    for member in members:
        _check_supported(member, converter)

    def read(value: Any, _: object) -> Any:
        best: tuple[int, Any] | None = None
        problem: tuple[int, Exception] | None = None
        for member in members:
            keys = _keys_read(member, value)
            try:
                result = converter.get_structure_hook(member)(value, member)
            except Exception as error:  # noqa: BLE001 - raised below, unless another member fits
                if _is_of_shape(member, value) and (problem is None or keys > problem[0]):
                    problem = keys, error
            else:
                if best is None or keys > best[0]:
                    best = keys, result
        if best is not None:
            return best[1]
        if problem is not None:
            # The member that was meant: its error names the place.
            raise problem[1]
        *first, last = (_name(member) for member in members)
        raise TypeError(f"{', '.join(first)} or {last} expected, got {_shown(value)}")

    return read


def _keys_read(kind: Any, value: Any) -> int:
    """Return how many keys of an object are fields of a class."""
    kind = get_origin(kind) or kind
    if type(value) is not dict or not _is_class(kind):
        return 0
    names = getattr(kind, "__attrs_attrs__", None) or getattr(kind, "__dataclass_fields__", None)
    known = {getattr(one, "name", one) for one in names} if names else kind.__annotations__.keys()
    return len(known & value.keys())


def _is_of_shape(kind: Any, value: Any) -> bool:
    if type(value) is dict:
        return _is_class(get_origin(kind) or kind) or _is_mapping(kind)
    return type(value) is list and _is_array(kind)


def _is_class(kind: Any) -> bool:
    return attrs.has(kind) or is_dataclass(kind) or is_typeddict(kind)


def _has_no_form(kind: Any) -> bool:
    """Return whether a class has no form in JSON. cattrs would read some: bytes from an array, a path from a text."""
    origin = get_origin(kind) or kind
    is_read = _is_choice(kind) or _is_array(kind) or _is_mapping(kind) or _is_union(kind) or _is_class(origin)
    return isinstance(origin, type) and not is_read and origin not in _READ


class _Converter(cattrs.Converter):
    def get_structure_hook(self, type: Any, cache_result: bool = True) -> Any:  # noqa: A002, FBT001, FBT002 - its own
        # The hooks of bytes and paths cannot be replaced by ones that refuse a type before there is a value.
        if _has_no_form(type):
            raise cattrs.StructureHandlerNotFoundError("it has no form in JSON", type)
        if _is_choice(type):
            # Before version 26, cattrs prefers its own hook for enums.
            return _choice_reader(type)
        hook = super().get_structure_hook(type, cache_result)
        if hook is raise_error:
            # Before version 25, the error comes only when there is a value.
            raise cattrs.StructureHandlerNotFoundError("it is no type", type)
        return hook


def _name(kind: Any) -> str:
    return "null" if kind is type(None) else getattr(kind, "__name__", str(kind))


_ARRAYS: Final[dict[Any, Callable[[list[Any]], Any]]] = {
    list: list,
    Sequence: list,
    Iterable: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
}
# What is read as one value, and what only marks a type; `Any` and `Annotated` are classes in some versions of Python.
_READ: Final = frozenset(
    {str, bool, int, float, Decimal, datetime, date, time, UUID, object, type(None), Any, Annotated}
)
# Texts are never read as these.
_NO_KEYS: Final = frozenset({bool, int, float, type(None)})
_CONVERTER: Final = _Converter()
_CONVERTER.register_structure_hook(str, _only(str))
_CONVERTER.register_structure_hook(bool, _only(bool))
_CONVERTER.register_structure_hook(int, _read_int)
_CONVERTER.register_structure_hook(float, _read_float)
_CONVERTER.register_structure_hook(Decimal, _read_decimal)
_CONVERTER.register_structure_hook(datetime, _only(str, datetime.fromisoformat))
_CONVERTER.register_structure_hook(date, _only(str, date.fromisoformat))
_CONVERTER.register_structure_hook(time, _only(str, time.fromisoformat))
_CONVERTER.register_structure_hook(UUID, _only(str, UUID))
_CONVERTER.register_structure_hook_func(lambda kind: kind is Any or kind is object, _read_any)
_CONVERTER.register_structure_hook_func(lambda kind: kind is type(None), _read_none)
_CONVERTER.register_structure_hook_factory(_is_array, _array_reader)
_CONVERTER.register_structure_hook_factory(_is_mapping, _mapping_reader)
_CONVERTER.register_structure_hook_factory(lambda kind: attrs.has(kind) or is_dataclass(kind), _object_reader)
_CONVERTER.register_structure_hook_factory(_is_union, _union_reader)
