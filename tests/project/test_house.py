"""The house itself: what is exported, which way imports point, what lies at the top level."""

from __future__ import annotations

import ast
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
# From the ground up: a module imports only from floors below its own, or from its own room.
_STOREYS = (
    ("clock", "models", "typing"),
    ("dialogue", "errors"),
    ("hooks",),
    ("_core", "otel"),
    ("_nairi",),
    ("__init__", "amigo", "batch", "bots", "testing", "web"),
    ("cli",),
    ("__main__",),
)
FLOORS = {name: floor for floor, names in enumerate(_STOREYS) for name in names}
# Inside of `_nairi` the rooms have an order too, from the ground up; a file that stands alone may use them all.
_NAIRI = ("polling", "listing", "delivery")
MODULES = sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    """The name of a module, without the package's own; `__init__` for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports(path: Path) -> set[str]:
    """Modules that a file imports, for its types as well, dotted and without the package's own name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "nairi_async":
            for alias in node.names:
                name = f"{node.module}.{alias.name}".removeprefix("nairi_async.")
                module = node.module.removeprefix("nairi_async").removeprefix(".") or "__init__"
                found.add(name if name in _DOTTED else module)
        elif isinstance(node, ast.Import):
            names = (alias.name for alias in node.names if alias.name.split(".")[0] == "nairi_async")
            found |= {name.removeprefix("nairi_async").removeprefix(".") or "__init__" for name in names}
    return found


_DOTTED = {dotted(path) for path in MODULES}
_FILES = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))


@_FILES
def test_imports_point_one_way(path: Path) -> None:
    """Command line, services, Nairi, the neutral core, hooks, errors, models: each knows only what lies below it."""
    here = dotted(path).split(".")[0]
    allowed = {name for name, floor in FLOORS.items() if floor < FLOORS[here]} | {here}
    if here == "testing":
        allowed = {"testing", "clock"}  # The simulator is an independent idea of the service.
    if path.name == "pytest_plugin.py":
        allowed |= {"__init__", "_nairi"}  # The fixtures make sessions.
    assert {name.split(".")[0] for name in imports(path)} <= allowed


def test_the_rooms_of_nairi_stand_on_each_other() -> None:
    """Delivery uses listing and polling, listing uses polling, and none of them the other way round."""
    for floor, room in enumerate(_NAIRI):
        for path in (PACKAGE / "_nairi" / room).rglob("*.py"):
            used = {name.split(".")[1] for name in imports(path) if name.startswith("_nairi.")}
            assert not used & set(_NAIRI[floor + 1 :]), path


def test_the_house_is_small() -> None:
    """No more than eighteen things lie at the root of the package, so that one look tells what there is."""
    assert len([path for path in PACKAGE.iterdir() if path.name not in {"__pycache__", "py.typed"}]) <= 18


@_FILES
def test_only_the_seam_knows_aiohttp(path: Path) -> None:
    """Aiohttp's client is imported by the transport and its bodies; the simulator uses its server side."""
    text = path.read_text(encoding="utf-8")
    runs = re.sub(r"if TYPE_CHECKING:\n(?:    .*\n|\n)+", "", text)
    is_seam = path.parent == PACKAGE / "_core" and path.name.startswith("aiohttp_")
    if not is_seam and not path.is_relative_to(PACKAGE / "testing"):
        assert not re.search(r"^\s*(?:import|from) aiohttp", runs, re.MULTILINE)


@_FILES
def test_rooms_are_small(path: Path) -> None:
    """Every file is read in one sitting, and says in its first line what lives there."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text))


def test_everything_exported_is_public_and_sorted() -> None:
    """`__all__` equals the public names of the package, sorted."""
    modules = {module.name for module in pkgutil.iter_modules(nairi_async.__path__)}
    public = {name for name in vars(nairi_async) if not name.startswith("_")} - modules - {"annotations"}
    assert nairi_async.__all__ == sorted(public)


_PUBLIC = (
    "amigo",
    "amigo.actions",
    "batch",
    "bots",
    "dialogue",
    "errors",
    "hooks",
    "otel",
    "testing",
    "testing.amigo",
    "typing",
    "web",
)


@pytest.mark.parametrize("name", _PUBLIC)
def test_public_modules_export_what_they_list(name: str) -> None:
    """The other public modules list what they export, sorted."""
    module = importlib.import_module(f"nairi_async.{name}")
    assert module.__all__ == sorted(module.__all__)


def test_the_version_is_the_installed_one() -> None:
    """`__version__` comes from the metadata, and other unknown names are errors."""
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", nairi_async.__version__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        nairi_async.nothing  # noqa: B018 - the access is what is tested


def test_the_top_level_holds_what_was_agreed() -> None:
    """Nothing lies at the top level but the project's files, the package, tests, benchmarks and hidden files."""
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
    tracked = subprocess.run(
        ["git", "ls-files"],  # noqa: S607 - git as the reader has it
        cwd=ROOT, capture_output=True, text=True, check=False,
    ).stdout.split()  # fmt: skip
    top = {name.split("/")[0] for name in tracked}
    assert {name for name in top if not name.startswith(".")} <= agreed
    assert (PACKAGE / "py.typed").exists()


def test_importing_is_cheap() -> None:
    """Importing the library loads neither its simulator, its command line, a database, nor what extras bring."""
    code = "import sys, nairi_async; print(*sys.modules)"
    # A coverage measurement would load modules of its own.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    loaded = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    ).stdout.split()
    costly = {"testing", "cli", "bots", "web"}
    strangers = {"argparse", "sqlite3", "opentelemetry"}
    assert not ({f"nairi_async.{name}" for name in costly} | strangers) & set(loaded)
