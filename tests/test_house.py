"""The house itself: what is exported, which way imports point, what lies at the top level (design section 8)."""

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

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "nairi_async"
# From the ground up: a module imports only from floors below its own, or from its own room.
_STOREYS = (
    ("errors", "clock", "files", "gathering"),
    ("models", "checks", "testing"),
    ("wire", "toolcalls", "dialogue", "hooks", "jsonline"),
    ("growing", "transport", "activity", "usage", "otel"),
    ("watching", "agents", "attachments"),
    ("listing",),
    ("reconciling",),
    ("dispatch",),
    ("turns",),
    ("surface", "conversation", "many"),
    ("session", "amigo"),
    ("__init__", "batch", "bots", "pytest_plugin", "web"),
    ("cli",),
    ("__main__",),
)
FLOORS = {name: floor for floor, names in enumerate(_STOREYS) for name in names}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room(module: str) -> str:
    """The floor's key of a dotted module name."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(path: Path) -> set[str]:
    """Rooms that a file imports from when it runs, and for its types unless it only names them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "nairi_async":
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "nairi_async" else []
            known = [name for name in names if room(name) in FLOORS]
            found |= {room(name) for name in (known or [node.module])}
        elif isinstance(node, ast.Import):
            found |= {room(alias.name) for alias in node.names if alias.name.startswith("nairi_async")}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    """Face, session, turns, watching, transport, wire, models, errors: each knows only what lies below it."""
    here = room(".".join(("nairi_async", *path.relative_to(PACKAGE).with_suffix("").parts)))
    allowed = {name for name, floor in FLOORS.items() if floor < FLOORS[here]} | {here}
    if here == "errors":
        allowed.add("models")  # Errors carry turns and messages; models name the error type of an outcome.
    if here == "testing":
        allowed = {"testing", "clock"}  # The simulator is an independent idea of the service.
    assert imports(path) <= allowed


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_seam_knows_aiohttp(path: Path) -> None:
    """Aiohttp's client is imported by one module; the simulator uses its server side."""
    text = path.read_text(encoding="utf-8")
    runs = re.sub(r"if TYPE_CHECKING:\n(?:    .*\n|\n)+", "", text)
    if path != PACKAGE / "transport" / "http.py" and not path.is_relative_to(PACKAGE / "testing"):
        assert not re.search(r"^\s*(?:import|from) aiohttp", runs, re.MULTILINE)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
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
    agreed = {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "nairi_async", "tests", "benchmarks"}
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
