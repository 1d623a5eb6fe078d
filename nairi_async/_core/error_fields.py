"""The decorator of errors with fields: it makes of a class what `define(auto_exc=True, slots=False)` of attrs would.

Nothing is compiled as a class is imported, and a program that only names errors needs no attrs: most of the two dozen
classes are never raised in a process.
"""

from __future__ import annotations

from inspect import Parameter, Signature, get_annotations
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # Type checkers know what these two do.
    from attrs import define as error_with_fields
    from attrs import field as field  # noqa: PLC0414 - without the alias it is not exported

    __all__ = ["error_with_fields", "field"]
else:

    def error_with_fields(cls: type[Exception]) -> type[Exception]:
        """Take the annotated attributes of an error as its arguments, after those of its bases.

        One that is declared again stands where it was declared last. All are positional and in `args`, which pickle and
        copy need.
        """
        cls._fields = _fields(cls)
        cls.__signature__ = _SignatureOfFields()
        cls.__match_args__ = tuple(_signature(cls).parameters)
        cls.__init__ = _set_fields
        if "__repr__" not in vars(cls):
            cls.__repr__ = _show
        return cls

    def field(*, default: object = Parameter.empty, init: bool = True, repr: bool = True) -> Any:  # noqa: A002 - as in attrs
        """Return a field that is no argument, or is not shown."""
        return _Field(default, in_init=init, in_repr=repr)


def field_names(cls: type[Exception]) -> tuple[str, ...]:
    """Return the names of the fields of an error's class, in their order."""
    made: Any = cls
    return tuple(made._fields)


class _Field:
    __slots__ = ("default", "in_init", "in_repr", "parameter")

    parameter: Parameter

    def __init__(self, default: object, *, in_init: bool = True, in_repr: bool = True) -> None:
        self.default = default
        self.in_init = in_init
        self.in_repr = in_repr


def _fields(cls: Any) -> dict[str, _Field]:
    """Return the fields of a class by their names, in their order."""
    found: dict[str, _Field] = {}
    for base in reversed(cls.__mro__):
        if base is cls or "_fields" in vars(base):
            for name, annotation in get_annotations(base).items():
                found.pop(name, None)
                found[name] = _own_field(cls, name, annotation) if base is cls else base._fields[name]
    return found


def _own_field(cls: Any, name: str, annotation: Any) -> _Field:
    declared = vars(cls).get(name, Parameter.empty)
    if isinstance(declared, _Field):
        setattr(cls, name, declared.default)
    else:
        declared = _Field(declared)
    kind = Parameter.POSITIONAL_OR_KEYWORD
    declared.parameter = Parameter(name, kind, default=declared.default, annotation=annotation)
    return declared


class _SignatureOfFields:
    """What `inspect.signature` and `help` show of a class."""

    def __get__(self, _error: object, cls: Any) -> Signature:
        if cls.__init__ is not _set_fields:
            raise AttributeError("a subclass has arguments of its own")
        return _signature(cls)


def _signature(cls: Any) -> Signature:
    arguments = [declared.parameter for declared in cls._fields.values() if declared.in_init]
    return Signature(arguments, return_annotation=None)


def _set_fields(self: Any, *args: object, **named: object) -> None:
    try:
        given = _signature(type(self)).bind(*args, **named)
    except TypeError as error:
        raise TypeError(f"{type(self).__name__}: {error}") from None
    given.apply_defaults()
    # An error that is an OSError as well must not give these another meaning.
    BaseException.__init__(self, *given.arguments.values())
    for name, declared in self._fields.items():
        setattr(self, name, given.arguments[name] if declared.in_init else declared.default)


@recursive_repr()
def _show(self: Any) -> str:
    shown = (f"{name}={getattr(self, name)!r}" for name, declared in self._fields.items() if declared.in_repr)
    return f"{type(self).__name__}({', '.join(shown)})"
