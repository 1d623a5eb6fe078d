"""The architecture: which way imports point, how large rooms are, what is exported, what the top level contains."""

from __future__ import annotations

import ast
import functools
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nairi_async

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "nairi_async"
# From the lowest floor up: a module imports only from floors below its own, or from its own room.
_FLOORS = (
    ("clock", "models", "typing"),
    ("dialogue", "errors"),
    ("hooks",),
    ("_core", "otel"),
    ("_nairi",),
    ("__init__", "amigo", "batch", "bots", "testing", "web"),
    ("cluster",),
    ("cli",),
    ("__main__",),
)
FLOOR_OF = {name: floor for floor, names in enumerate(_FLOORS) for name in names}
# Only attrs is below them: the decorators of all classes with fields.
_FOUNDATION = frozenset({"_core.error_fields", "_core.records"})
# The rooms of `_nairi` in the same order. A file of `_nairi` itself may use them all.
_NAIRI_ROOMS = ("polling", "listing", "delivery", "journal")
MODULES = sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    """Return the name of a module without the package's; `__init__` for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """Return the modules that a file imports, for its types as well, without the package's name."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "nairi_async":
            for alias in node.names:
                name = f"{node.module}.{alias.name}".removeprefix("nairi_async.")
                module = node.module.removeprefix("nairi_async").removeprefix(".") or "__init__"
                found.add(name if name in _DOTTED else module)
        elif isinstance(node, ast.Import):
            names = (alias.name for alias in node.names if alias.name.split(".")[0] == "nairi_async")
            found |= {name.removeprefix("nairi_async").removeprefix(".") or "__init__" for name in names}
    return frozenset(found)


_DOTTED = {dotted(path) for path in MODULES}
TEXTS = {path: path.read_text(encoding="utf-8") for path in MODULES}


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(TEXTS[path])


def test_imports_point_one_way() -> None:
    """A file imports only from its own room and from floors below: command line, services, Nairi, core, models."""
    for path in MODULES:
        here = dotted(path).split(".")[0]
        allowed = {name for name, floor in FLOOR_OF.items() if floor < FLOOR_OF[here]} | {here}
        if here == "testing":
            allowed = {"testing", "clock"}  # The simulator is an independent implementation of the service.
        if (here, path.name) == ("testing", "server.py"):
            allowed |= {"_core"}  # Cancellations do not interrupt its closing.
        if path.name in {"pytest_plugin.py", "in_memory.py"}:
            allowed |= {"__init__", "_core", "_nairi", "amigo", "errors"}  # They make sessions.
        assert {name.split(".")[0] for name in imports(path) - _FOUNDATION} <= allowed, path


def test_imports_between_the_rooms_of_nairi_point_one_way() -> None:
    """The journal uses delivery, that listing and polling, listing uses polling; none is used the other way round."""
    for floor, room in enumerate(_NAIRI_ROOMS):
        for path in (PACKAGE / "_nairi" / room).rglob("*.py"):
            used = {name.split(".")[1] for name in imports(path) if name.startswith("_nairi.")}
            assert not used & set(_NAIRI_ROOMS[floor + 1 :]), path


def test_no_imports_form_a_circle() -> None:
    """No file imports, for its types either, a file that leads back to it."""
    graph = {dotted(path): imports(path) - {dotted(path)} for path in MODULES}
    while leaves := {name for name, used in graph.items() if not used & graph.keys()}:
        graph = {name: used for name, used in graph.items() if name not in leaves}
    assert not graph


def test_the_root_is_small() -> None:
    """The root of the package has at most eighteen entries; its rooms stand on at most nine floors, all listed here."""
    entries = {path.stem for path in PACKAGE.iterdir() if path.name not in {"__pycache__", "py.typed"}}
    assert len(entries) <= 18
    assert entries == FLOOR_OF.keys()
    assert len(_FLOORS) <= 9


def test_nothing_refers_to_a_document_that_is_not_shipped() -> None:
    """Docstrings and comments cite pages of the service by their address, and no notes of the authors."""
    notes = re.compile(r"design section|[(]api: (?!Api)|api/(?:nairi|amigo)|perf-limits|anchors[.]md")
    assert [path for path, text in TEXTS.items() if notes.search(text)] == []


def test_only_the_seam_knows_aiohttp() -> None:
    """Aiohttp's client is imported by the transport alone; the simulator uses the server side."""
    for path, text in TEXTS.items():
        runtime_text = re.sub(r"if TYPE_CHECKING:\n(?:    .*\n|\n)+", "", text)
        is_seam = path.parent == PACKAGE / "_core" and path.name.startswith("aiohttp_")
        if not is_seam and not path.is_relative_to(PACKAGE / "testing"):
            assert not re.search(r"^\s*(?:import|from) aiohttp", runtime_text, re.MULTILINE), path


def test_classes_with_fields_are_made_in_one_way() -> None:
    """The decorators of attrs classes come from `_core.records`; the simulator stands alone."""
    for path, text in TEXTS.items():
        if path.name != "records.py" and not path.is_relative_to(PACKAGE / "testing"):
            assert not re.search(r"^from attrs import .*\b(?:define|frozen)\b", text, re.MULTILINE), path


def test_files_are_small() -> None:
    """A file has at most 400 lines, and its first line is a sentence about its contents."""
    for path, text in TEXTS.items():
        assert len(text.splitlines()) <= 400, path
        first_line = (ast.get_docstring(tree(path)) or "").partition("\n")[0]
        assert len(first_line) > 20, path
        assert first_line.endswith((".", ":")), path


def test_everything_exported_is_public_and_sorted() -> None:
    """`__all__` equals the public names of the package, sorted."""
    modules = {module.name for module in pkgutil.iter_modules(nairi_async.__path__)}
    public = {name for name in dir(nairi_async) if not name.startswith("_")} - modules
    assert nairi_async.__all__ == sorted(public)


_PUBLIC = sorted(dotted(path) for path, text in TEXTS.items() if "\n__all__ " in text)


def test_public_modules_export_what_they_list() -> None:
    """A module that lists its exports is public, and lists them sorted; private ones list nothing."""
    for name in _PUBLIC:
        module = importlib.import_module("nairi_async" if name == "__init__" else f"nairi_async.{name}")
        assert module.__all__ == sorted(module.__all__), name
        assert not any(part.startswith("_") for part in name.removeprefix("__init__").split(".")), name


def test_the_version_is_the_installed_one() -> None:
    """`__version__` comes from the metadata, and other unknown names are errors."""
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", nairi_async.__version__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        nairi_async.nothing  # type: ignore[attr-defined]  # noqa: B018 - the access is what is tested


def test_the_top_level_contains_what_was_agreed() -> None:
    """The top level contains only the project's files, the package, tests, benchmarks and hidden files."""
    agreed = {
        "pyproject.toml",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "nairi_async",
        "tests",
        "benchmarks",
        "findings",
    }
    if (ROOT / ".git").exists():  # in what is released there is none
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
        top = {name.split("/")[0] for name in listed.stdout.split()}
    else:
        top = {path.name for path in ROOT.iterdir()} - {"PKG-INFO", "build", "dist", "site"}
    assert {name for name in top if not name.startswith(".")} <= agreed
    assert (PACKAGE / "py.typed").exists()


def test_importing_is_cheap() -> None:
    """Importing the library loads neither its simulator, its command line, a database, nor the extras."""
    code = "import sys, nairi_async; print(*sys.modules)"
    # A coverage measurement would load modules of its own.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    loaded = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    ).stdout.split()
    expensive = {"testing", "cli", "bots", "web", "cluster"}
    foreign = {"argparse", "sqlite3", "opentelemetry", "psycopg", "procrastinate"}
    assert not ({f"nairi_async.{name}" for name in expensive} | foreign) & set(loaded)
