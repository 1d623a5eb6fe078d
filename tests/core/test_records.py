"""The decorators of classes with fields: what the library's own make, and what attrs would have made."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nairi_async._core import error_fields, records


def classes(decorators: Any) -> tuple[type, ...]:
    """Return classes of each kind that the library has, made by these decorators."""

    @decorators.frozen
    class Value:
        first: object
        second: object = attrs.field(default=0, eq=False, kw_only=True)
        third: object = attrs.field(default=0, repr=False, kw_only=True)
        key: object = attrs.field(default="", eq=id, kw_only=True)

    @decorators.define
    class Variable:
        first: object
        second: object = 0

    @decorators.frozen(kw_only=True)
    class Empty:
        pass

    @decorators.define(eq=False)
    class Entity:
        first: object = 0

    @decorators.frozen
    class Own:
        first: object

        def __repr__(self) -> str:
            return "own"

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 7

    return Value, Variable, Empty, Entity, Own


PAIRS = [*zip(classes(records), classes(attrs), strict=True)]
SMALL = st.sampled_from([0, 1, "a", (1, 2), None])


@given(st.integers(0, len(PAIRS) - 1), st.lists(st.tuples(SMALL, SMALL, SMALL), min_size=2, max_size=2))
def test_they_behave_as_attrs_own(kind: int, rows: list[tuple[object, ...]]) -> None:
    """Instances are equal, hashable, shown and copied exactly as those of a class that attrs made alone."""
    seen = []
    for cls in PAIRS[kind]:
        fields = [field for field in attrs.fields(cls) if field.init]
        made = []
        for row in rows:
            values = dict(zip((field.name for field in fields), row, strict=False))
            made.append(cls(**{field.name: values.get(field.name, "text") for field in fields}))
        one, two = made
        is_hashable = cls.__hash__ is not None
        seen.append(
            (
                *map(repr, made),
                one == two,
                one == one,  # noqa: PLR0124 - what is tested
                one == object(),
                copy.copy(one) == one,
                is_hashable,
                is_hashable and one == two and hash(one) == hash(two),
                str(two),
            )
        )
    assert seen[0] == seen[1]


def test_classes_of_other_types_are_never_equal() -> None:
    """An instance of a subclass, or of another class with the same values, is not equal."""

    @records.frozen
    class Base:
        first: int

    @records.frozen
    class Wider(Base):
        second: int = 0

    @records.frozen
    class Other:
        first: int

    assert len({Base(1), Base(1), Wider(1), Wider(1), Wider(1, 1), Other(1)}) == 4


def test_what_contains_itself_can_be_shown() -> None:
    """A record that is a part of itself is shown once."""
    variable = PAIRS[1][0]([])
    variable.first.append(variable)
    assert repr(variable).endswith("Variable(first=[...], second=0)")


def test_pickles_and_copies_of_the_public_models_are_equal() -> None:
    """A model survives `pickle`, `copy` and `attrs.evolve`, and is usable as a key."""
    from nairi_async import Turn  # noqa: PLC0415 - the exported one

    turn = Turn("job", "message", agent_id="agent")
    for again in (pickle.loads(pickle.dumps(turn)), copy.deepcopy(turn), attrs.evolve(turn, agent_id="another")):  # noqa: S301
        assert again == turn
        assert {turn: 1}[again] == 1


def errors(decorator: Any, field: Any) -> tuple[type[Exception], ...]:
    """Return errors that share, move and hide fields, made by a decorator."""

    @decorator
    class Error(Exception):
        message: str
        status: object = 0

    @decorator
    class LateError(Error, TimeoutError):
        hint: object = field(default="", repr=False)
        found: object = field(default=(), init=False)

    @decorator
    class GoneError(Exception):
        path: object
        status: object = 404

    class HeirError(GoneError):
        pass

    @decorator
    class BothError(LateError, HeirError):
        message: str = "both"

    return Error, LateError, GoneError, HeirError, BothError


OUR_ERRORS = errors(error_fields.error_with_fields, error_fields.field)
ERRORS = [
    *zip(
        OUR_ERRORS,
        errors(attrs.define(auto_exc=True, slots=False), attrs.field),
        strict=True,
    )
]


@given(
    st.sampled_from(ERRORS),
    st.lists(SMALL, max_size=5),
    st.dictionaries(st.sampled_from(["message", "status", "path", "hint", "found"]), SMALL),
)
def test_errors_behave_as_those_of_attrs(
    kinds: tuple[Any, Any], values: list[object], named: dict[str, object]
) -> None:
    """Errors take, keep and show their fields exactly as those of classes that attrs made."""
    seen: list[tuple[object, ...]] = []
    for kind in kinds:
        try:
            error = kind(*values, **named)
        except TypeError:
            seen.append(("refused",))
        else:
            seen.append((repr(error), error.args, sorted(vars(error)), vars(copy.copy(error)) == vars(error)))
    assert seen[0] == seen[1]
    ours, theirs = map(inspect.signature, kinds)
    assert str(ours) == str(theirs)
    assert kinds[0].__match_args__ == kinds[1].__match_args__


def test_an_error_of_the_users_has_its_own_arguments() -> None:
    """A subclass with its own arguments shows these; wrong ones are refused with the name of the class."""
    gone: Any = OUR_ERRORS[2]

    class TaggedError(gone):  # type: ignore[misc]
        def __init__(self, tag: str) -> None:
            super().__init__("/path", status=500)
            self.tag = tag

    assert list(inspect.signature(TaggedError).parameters) == ["tag"]
    assert (TaggedError("a").args, TaggedError("a").tag) == (("/path", 500), "a")
    with pytest.raises(TypeError, match=r"^GoneError: "):
        gone()
