"""JSON objects to models: one factory derives a reader from the fields of a class, for both services.

A reader is as lenient as the promise needs: what is absent or not of the declared type becomes the field's default and
never costs the rest of the object. A field without a default is text, and takes any value as text.

The reader of a class is generated as straight-line code, as attrs generates `__init__`: a timeline has thousands of
messages, and a stream thousands of events.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeVar, Union, cast, get_args, get_origin

from attrs import NOTHING, fields, has, resolve_types

from nairi_async._core.json_body import Raw, parse_time, text_of

if TYPE_CHECKING:
    from attrs import Attribute

_T = TypeVar("_T")
_Reader = Callable[[Any], Any]
Reader = Callable[[Raw], _T]
"""Makes a model of a JSON object."""

_PAIR: Final = 2
# Sums of figures with more digits before the point overflow; of figures with more behind it they are not exact.
_MOST_ZEROS: Final = 30
_MOST_PLACES: Final = 100


# By class; `cattrs` would only look them up here, and takes a tenth of the import of a session.
_readers: Final[dict[type[Any], Any]] = {}
_computed: Final[dict[type[Any], Mapping[str, Callable[[Raw], object]]]] = {}


def reader(model: type[_T]) -> Reader[_T]:
    """Return what makes a model of this class. It is derived when it is first asked for, which takes a millisecond."""
    found: Reader[_T] | None = _readers.get(model)
    if found is None:
        found = _readers[model] = _derived(model, _computed.get(model, {}))
    return found


def register(model: type[Any], *, computed: Mapping[str, Callable[[Raw], object]]) -> None:
    """Let some fields of a class be computed from the whole object."""
    _computed[model] = computed


def register_choice(base: type[_T], choose: Callable[[Raw], type[_T]]) -> None:
    """Let each object choose its class: an object that is declared as the base becomes one of its subclasses."""
    _readers[base] = lambda raw: reader(choose(raw))(raw)


def _derived(model: type[Any], computed: Mapping[str, Callable[[Raw], object]]) -> _Reader:
    """Generate `read(raw)`, which sets each slot of a new instance."""
    resolve_types(model)
    names: dict[str, Any] = {
        "new": object.__new__,
        "open_model": _open_twin(model),
        "model": model,
        "text_of": text_of,
        "str": str,
        "type": type,
    }
    lines = ["def read(raw):", "    get = raw.get", "    made = new(open_model)"]
    for number, field in enumerate(fields(model)):
        if field.name == "raw":
            lines.append("    made.raw = raw")
        elif field.name in computed:
            names[f"compute{number}"] = computed[field.name]
            lines.append(f"    made.{field.name} = compute{number}(raw)")
        else:
            lines += _value(field, number, names)
    lines += ["    made.__class__ = model", "    return made"]
    exec(compile("\n".join(lines), f"<reader of {model.__qualname__}>", "exec"), names)  # noqa: S102 - of our own fields
    return cast("_Reader", names["read"])


def _open_twin(model: type[Any]) -> type[Any]:
    """Return a class of the same layout that is not frozen.

    A reader fills an instance of it by plain assignments, which the interpreter turns into stores into slots, and then
    makes it one of the model: an eighth of the time of setting the slots of a frozen class one by one.
    """
    is_open = {"__slots__": (), "__setattr__": object.__setattr__, "__delattr__": object.__delattr__}
    return type(f"_Open{model.__name__}", (model,), {**is_open, "__module__": model.__module__})


def _value(field: Attribute[Any], number: int, names: dict[str, Any]) -> list[str]:
    """Return the lines that read one field."""
    lines = [f"    value = get({field.name!r})"]
    if field.default is NOTHING:
        return [*lines, f"    made.{field.name} = value if type(value) is str else text_of(value)"]
    default = f"default{number}"
    # Not by its class, which attrs declares as a function.
    factory = getattr(field.default, "factory", None)
    names[default] = field.default if factory is None else factory
    if factory is not None:
        default += "()"
    kind = _plain(field.type)
    if kind in _EXACT:
        names[f"kind{number}"] = kind
        return [*lines, f"    made.{field.name} = value if type(value) is kind{number} else {default}"]
    names[f"read{number}"] = _reader(kind)
    condition = f"value is None or (value := read{number}(value)) is None"
    return [*lines, f"    made.{field.name} = {default} if {condition} else value"]


# Readers of single values: a value of the declared type as it is, anything else as `None`.

_EXACT: Final = frozenset({str, bool, int})
"""Types of which a JSON decoder makes no subclasses: the type alone decides."""


def _exact(kind: type) -> _Reader:
    return lambda raw: raw if type(raw) is kind else None


def _number(raw: object) -> float | None:
    if not isinstance(raw, int | float | Decimal) or isinstance(raw, bool):
        return None
    try:
        return float(raw)
    except OverflowError:
        return None


def _decimal(raw: object) -> Decimal | None:
    if not isinstance(raw, str | int | Decimal) or isinstance(raw, bool):
        return None
    try:
        figure = Decimal(raw)
    except ArithmeticError:
        return None
    exponent = figure.as_tuple().exponent
    # The exponent of infinity and of NaN is a letter.
    is_exact = isinstance(exponent, int) and exponent >= -_MOST_PLACES
    return figure if is_exact and abs(figure.adjusted()) <= _MOST_ZEROS else None


def _mapping(raw: object) -> Raw | None:
    return raw if isinstance(raw, dict) else None


_PLAIN: Final[Mapping[Any, _Reader]] = {
    **{kind: _exact(kind) for kind in _EXACT},
    float: _number,
    Decimal: _decimal,
    datetime: parse_time,
    Any: lambda raw: raw,
}


def _plain(kind: Any) -> Any:
    """Return the type of an optional value without its `None`."""
    if get_origin(kind) in {Union, types.UnionType}:
        return next(part for part in get_args(kind) if part is not type(None))
    return kind


def _reader(kind: Any) -> _Reader:
    """Return what reads a value of a type; it gives `None` for what is not of it."""
    kind = _plain(kind)
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Mapping:
        return _mapping
    if origin is tuple:
        return rows_of(_reader(parts[0])) if parts[-1] is Ellipsis else _pair(*map(_reader, parts))
    if has(kind):
        read = reader(kind)
        return lambda raw: read(raw) if isinstance(raw, dict) else None
    return _PLAIN[kind]


def rows(model: type[_T]) -> Callable[[object], tuple[_T, ...] | None]:
    """Return what reads a list of objects: entries that are no objects are left out, no list gives `None`."""
    return rows_of(_reader(model))


def rows_of(read: _Reader) -> Callable[[object], tuple[Any, ...] | None]:
    """Return what reads a list, entry by entry."""

    def read_rows(raw: object) -> tuple[Any, ...] | None:
        if not isinstance(raw, list):
            return None
        return tuple(value for value in map(read, raw) if value is not None)

    return read_rows


def _pair(first: _Reader, second: _Reader) -> _Reader:
    def read_pair(raw: object) -> object:
        if not isinstance(raw, list) or len(raw) != _PAIR:
            return None
        pair = (first(raw[0]), second(raw[1]))
        if None in pair:
            # Amigo's schema and its prose disagree about the order of one pair.
            pair = (first(raw[1]), second(raw[0]))
        return None if None in pair else pair

    return read_pair
