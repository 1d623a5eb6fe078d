"""The decorators of the library's attrs classes: `define` and `frozen` of attrs, with less to compile.

attrs writes and compiles the source of each class's methods as the class is imported. Here classes share the methods
that compare, hash and show them, which behave as attrs's own: a tenth of the time that the import takes.
"""

from __future__ import annotations

from functools import cache
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable

    # Type checkers know what these two do.
    from attrs import define as define  # noqa: PLC0414 - without the alias it is not exported
    from attrs import frozen as frozen  # noqa: PLC0414 - as above
else:

    def define(cls: type | None = None, **options: Any) -> Any:
        """Make an attrs class whose fields can be set."""
        return _build(attrs.define, cls, options)

    def frozen(cls: type | None = None, **options: Any) -> Any:
        """Make an attrs class whose fields cannot be set, which is hashable if it is compared by its fields."""
        return _build(attrs.frozen, cls, options)


def _build(decorator: Callable[..., Any], cls: type | None, options: dict[str, Any]) -> Any:
    """Add the shared methods that attrs would have written for the class, and let attrs write the others."""

    def build(cls: Any) -> Any:
        own = vars(cls)
        # As with attrs, methods of the class itself stand, and exceptions are compared by identity.
        if "__repr__" not in own:
            cls.__repr__ = _show
        if options.get("eq", True) and "__eq__" not in own and not issubclass(cls, BaseException):
            cls.__eq__ = _equal
            cls.__hash__ = _hash if decorator is attrs.frozen else None
        return decorator(**{**options, "eq": False, "repr": False})(cls)

    return build if cls is None else build(cls)


@cache
def _compared(cls: Any) -> Callable[[Any], object]:
    """Return what gives the values of an instance by which it is compared."""
    fields = [field for field in attrs.fields(cls) if field.eq]
    if not fields or any(field.eq_key for field in fields):
        keys = [(attrgetter(field.name), field.eq_key or _itself) for field in fields]
        return lambda instance: tuple(key(get(instance)) for get, key in keys)
    return attrgetter(*(field.name for field in fields))


def _itself(value: object) -> object:
    return value


def _equal(self: Any, other: object) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    cls: Any = type(self)
    values = _compared(cls)
    return values(self) == values(other)


def _hash(self: Any) -> int:
    cls: Any = type(self)
    return hash((cls, _compared(cls)(self)))


@recursive_repr()
def _show(self: Any) -> str:
    name = self.__class__.__qualname__.rsplit(">.", 1)[-1]
    shown = [field.name for field in attrs.fields(self.__class__) if field.repr]
    return f"{name}({', '.join(f'{field}={getattr(self, field, attrs.NOTHING)!r}' for field in shown)})"
