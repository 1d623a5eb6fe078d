"""What an import costs is counted in modules, since times depend on the machine."""

from __future__ import annotations

import ast
import json
import pickle
import subprocess
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

import nairi_async
import nairi_async.amigo
from nairi_async._core import exports

if TYPE_CHECKING:
    from types import ModuleType

_COUNT = """
import json, sys
found = []
for statement in sys.argv[1:]:
    exec(statement)
    ours = [name for name in sys.modules if name.startswith("nairi_async")]
    values = [value for name in ours for value in vars(sys.modules[name]).values()]
    compiled = {value for value in values if isinstance(value, type) and "__attrs_attrs__" in vars(value)}
    found.append([len(ours), "aiohttp" in sys.modules, "cattrs" in sys.modules, len(compiled)])
print(json.dumps(found))
"""


def loaded(*statements: str) -> list[tuple[int, bool, bool, int]]:
    """Return, after each statement in a new process: our modules, whether aiohttp and cattrs are loaded, our classes.

    Classes with fields count, since attrs compiles code for each.
    """
    ran = subprocess.run([sys.executable, "-c", _COUNT, *statements], capture_output=True, text=True, check=True)  # noqa: S603
    return [tuple(entry) for entry in json.loads(ran.stdout)]


def test_an_import_loads_what_is_used() -> None:
    """The package and its errors need no HTTP library; sessions need no cattrs, as stored models do."""
    package, errors, message, session, amigo = loaded(
        "import nairi_async",
        "import nairi_async.errors",
        "from nairi_async import Message",
        "from nairi_async import NairiSession",
        "from nairi_async.amigo import AmigoSession",
    )
    assert package == (3, False, False, 0)
    assert errors[:3] == (5, False, False)
    assert message[0] <= 7
    assert not message[1]
    assert session[0] <= 87
    assert session[3] <= 23
    assert amigo[0] <= 124
    assert amigo[3] <= 54
    assert not amigo[2]


@pytest.mark.parametrize("package", [nairi_async, nairi_async.amigo])
def test_checkers_and_programs_see_the_same_names(package: ModuleType) -> None:
    """The names that type checkers read from the source are those of `__all__`, `dir()` and `import *`."""
    assert package.__file__ is not None
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    (checked,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    imported = {
        alias.name: node.module
        for node in checked.body
        if isinstance(node, ast.ImportFrom) and node.module != "typing"
        for alias in node.names
    }
    assert sorted(imported) == package.__all__
    assert {name for name in dir(package) if not name.startswith("_")} == set(package.__all__)
    for name, module in imported.items():
        assert getattr(package, name) is getattr(sys.modules[str(module)], name)
    star: dict[str, object] = {}
    exec(f"from {package.__name__} import *", star)  # noqa: S102 - our own
    assert star.keys() >= set(package.__all__)


def test_pickles_are_read_by_a_process_that_has_imported_nothing() -> None:
    """A pickle names the package, which imports the class when it is read."""
    turn = nairi_async.Turn("job_1", "cmsg_1")
    code = "import pickle, sys; print(repr(pickle.loads(bytes.fromhex(sys.argv[1]))))"
    ran = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code, pickle.dumps(turn).hex()], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == repr(turn)


def test_what_a_method_imports_is_exported_too() -> None:
    """Classes of modules that are imported when a method is called report the package, as those that came with it."""
    code = """
import pickle, sys
from nairi_async import NairiSession
assert not {name for name in sys.modules if name.endswith((".many", ".listing", ".statistics", ".usage_report"))}
nairi = NairiSession("nr_key", base_url="http://localhost")
made = [nairi.stats, nairi.usage, nairi.ask_many("agent", []), nairi.watch_many([])]
made += [nairi.sync("agent"), nairi.conversations("agent")]
print(*{type(one).__module__ for one in made}, pickle.loads(pickle.dumps(nairi.usage)) == nairi.usage)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - our own interpreter
    assert ran.stdout.split() == ["nairi_async", "True"]


def test_a_turn_imports_only_what_it_needs() -> None:
    """Asking for a text imports neither cattrs, which structures replies, nor what other calls need."""
    code = """
import asyncio, sys
from nairi_async.testing import Simulator, VirtualClock, in_memory_session

async def ask():
    clock = VirtualClock()
    async with Simulator(clock=clock) as simulator, in_memory_session(simulator) as nairi:
        simulator.agent("agent", "done")
        before = set(sys.modules)
        await nairi.ask("agent", "prompt")
        return {name for name in set(sys.modules) - before if name.startswith(("nairi_async", "cattrs"))}

print(asyncio.run(ask()))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - our own interpreter
    assert ran.stdout.strip() == "set()"


def test_two_threads_may_load_the_same_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """An export that another thread publishes in the middle of the same step is published, and renamed, once."""

    @attrs.define
    class Late:
        size: int

    def find(name: str) -> type:
        # As if another thread came here at this moment.
        vars(module)[name] = Late
        load(name)
        return Late

    module = types.ModuleType("rooms.home")
    module.__getattr__ = find  # type: ignore[method-assign]
    Late.__module__, Late.__annotations__ = module.__name__, {"size": "int"}
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "rooms", types.ModuleType("rooms"))
    monkeypatch.setattr(exports, "_packages", {})
    load = exports.lazy({"__name__": "rooms"}, {"Late": "home"}, renamed=True)
    assert load("Late") is Late
    assert (Late.__module__, Late.__annotations__) == ("rooms", {"size": int})
