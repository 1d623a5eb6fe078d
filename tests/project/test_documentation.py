"""Everything public is documented: in the source, in `help()`, and in the generated reference."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import itertools
import os
import pickle
import pydoc
import subprocess
import sys
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest

import nairi_async
from nairi_async import Polling, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(nairi_async.__file__).parent


def dotted(path: Path) -> str:
    parts = ("nairi_async", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(part for part in parts if part != "__init__")


# A module is public if it lists its exports.
PUBLIC = sorted(dotted(path) for path in PACKAGE.rglob("*.py") if "\n__all__ " in path.read_text(encoding="utf-8"))


def described(body: list[ast.stmt]) -> Iterator[str]:
    """Yield the names that are assigned in a body and have a docstring below."""
    for statement, following in itertools.pairwise(body):
        match following:
            case ast.Expr(value=ast.Constant(value=str(text))) if text.strip():
                targets = (
                    statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
                )
                yield from (target.id for target in targets if isinstance(target, ast.Name))


@functools.cache
def trees() -> list[ast.Module]:
    return [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))]


@functools.cache
def described_names() -> frozenset[str]:
    """Return all names of the package's modules that have a docstring below."""
    return frozenset(name for tree in trees() for name in described(tree.body))


@functools.cache
def described_fields() -> dict[str, frozenset[str]]:
    """Return, for every class of the package, the attributes that have a docstring below."""
    fields: dict[str, frozenset[str]] = {}
    for node in (node for tree in trees() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        fields[node.name] = fields.get(node.name, frozenset()) | frozenset(described(node.body))
    return fields


def undescribed_parts(cls: type) -> Iterator[str]:
    """Yield the public methods, properties and attrs fields of a class of the package that have no docstring."""
    ours = [base for base in cls.__mro__ if base.__module__.startswith("nairi_async")]
    names = frozenset[str]().union(*(described_fields()[base.__name__] for base in ours))
    fields = {field.name for field in attrs.fields(cls)} if attrs.has(cls) else set[str]()
    for name in sorted(fields | {name for base in ours for name in vars(base)}):
        member = inspect.getattr_static(cls, name, None)
        is_explained = name not in fields and bool(inspect.getdoc(getattr(member, "fget", member)))
        if not (name.startswith("_") or name in names or is_explained):
            yield f"{cls.__qualname__}.{name}"


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name: str) -> None:
    """Each exported class, function, constant and type has a docstring, and so has each public member of a class."""
    module = importlib.import_module(name)
    missing: list[str] = [] if inspect.getdoc(module) else [name]
    for exported in module.__all__:
        thing: Any = getattr(module, exported)
        if inspect.isclass(thing):
            missing += undescribed_parts(thing)
        if not (inspect.getdoc(thing) if inspect.isclass(thing) or callable(thing) else None):
            missing += {exported} - described_names()
    assert missing == []


@pytest.mark.parametrize("policy", [Polling, RetryPolicy])
def test_help_describes_every_setting(policy: type) -> None:
    """`help()` does not show the docstrings of fields, so the class describes each field with its default."""
    text = inspect.getdoc(policy) or ""
    for field in attrs.fields(policy):
        (line,) = (line for line in text.splitlines() if line.strip().startswith(f"{field.name}:"))
        assert f"({field.default:g}" in line


@pytest.mark.timeout(240)  # four seconds of computing
def test_the_site_is_made_without_a_warning(tmp_path: Path) -> None:
    """The script that the README names makes a page for every public module, and a start page that leads to each."""
    readme = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    (command,) = (line for line in readme.splitlines() if "[docs]" in line)
    script = command.split()[-1]
    made = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-W", "error", script, str(tmp_path)],
        # pdoc compiles the index of the search where it finds Node.js, which takes seconds; pages do that otherwise.
        cwd=PACKAGE.parent, capture_output=True, text=True, check=False, env={**os.environ, "PATH": ""},
    )  # fmt: skip
    assert (made.returncode, made.stderr) == (0, "")
    pages = {".".join(page.relative_to(tmp_path).with_suffix("").parts) for page in tmp_path.rglob("*.html")}
    assert pages == {*PUBLIC, "index"}
    start = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert [name for name in PUBLIC if f'<dt><a href="{name.replace(".", "/")}.html">' not in start] == []
    assert (tmp_path / "search.js").is_file()


def test_exports_name_the_package_as_their_module() -> None:
    """`help()`, reprs and pickles of exported classes do not show private modules; the types of fields resolve."""
    for name in nairi_async.__all__:
        export = getattr(nairi_async, name)
        if isinstance(export, type):
            assert export.__module__ == "nairi_async"
            assert pickle.loads(pickle.dumps(export)) is export  # noqa: S301 - made here
            if attrs.has(export) and not issubclass(export, Exception):
                assert set(typing.get_type_hints(export)) >= {field.name for field in attrs.fields(export)}
    assert pydoc.plain(pydoc.render_doc(nairi_async.Watch)).startswith(
        "Python Library Documentation: class Watch in module nairi_async\n"
    )


def test_help_begins_with_a_program() -> None:
    """`help(nairi_async)` describes the library and shows a program before it lists names."""
    text = pydoc.plain(pydoc.render_doc(nairi_async))
    beginning = text[: text.index("PACKAGE CONTENTS")]
    assert "async with NairiSession() as nairi:" in "\n".join(beginning.splitlines()[:20])
    assert len(beginning.splitlines()) < 80
