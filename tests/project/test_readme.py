"""The code of the README and of the guides runs as it is printed, against the simulator."""

from __future__ import annotations

import asyncio
import importlib
import os
import re
from pathlib import Path

import pytest
from forking import DEVNULL, PIPE, fork

import nairi_async
from nairi_async import errors
from nairi_async.testing import AmigoSimulator, Say, Simulator, Step

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# The guides are the docstrings of the public packages.
GUIDES = [
    "",
    ".amigo",
    ".batch",
    ".bots",
    ".cluster",
    ".dialogue",
    ".hooks",
    ".otel",
    ".testing",
    ".testing.amigo",
    ".web",
]
TEXTS = [README, *(importlib.import_module(f"nairi_async{name}").__doc__ or "" for name in GUIDES)]
BLOCKS = [block for text in TEXTS for block in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]
_DATABASE = "postgresql://db/nairi"
# Web applications and bots do not end by themselves: recipes have tests of their own.
RECIPES = sorted(path for kind in ("app", "bot") for path in (ROOT / "tests" / "recipes").glob(f"*_{kind}.py"))
# Those with a test function run under pytest: see `tests/testing/test_pytest_plugin.py`.
PROGRAMS = [block for block in BLOCKS if "def test_" not in block]


@pytest.mark.parametrize("code", PROGRAMS, ids=range(len(PROGRAMS)))
async def test_every_python_block_runs(code: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Each block is a program that ends well, with warnings as errors, in an environment that only has keys."""
    if _DATABASE in code:
        code = code.replace(_DATABASE, request.getfixturevalue("database"))
    async with Simulator() as simulator, AmigoSimulator() as amigo:
        simulator.agent("my-agent", lambda prompt, _: [Step("looking", after=0.1), Say(f"re {prompt}", after=0.1)])
        environment = {**os.environ, **simulator.environment, **amigo.environment, "METRICS_PORT": "0"}
        process = await fork("-c", code, env=environment, cwd=tmp_path, stdin=PIPE, stdout=DEVNULL, stderr=PIPE)
        _, errors = await asyncio.wait_for(process.communicate(b"Hello\nAnd now?\n"), 120)
        assert (process.returncode, errors.decode()) == (0, "")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_each_recipe_is_linked(path: Path) -> None:
    """A reader of the README finds each application and bot that the suite runs."""
    assert f"(tests/recipes/{path.name})" in README


def test_the_readme_is_two_screens() -> None:
    """What is longer is not read to its end: details are in the docstrings of the packages."""
    assert len(README.splitlines()) <= 250
    assert len(README.encode()) <= 12 * 1024


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README))
def test_links_lead_somewhere(target: str) -> None:
    """Each relative link names a file of the repository."""
    assert (ROOT / target).exists()


def test_every_error_is_in_the_tree() -> None:
    """The drawing at the top of `nairi_async.errors` names every error that is exported."""
    exported = {name for name in nairi_async.__all__ if name.endswith("Error")}
    assert not [name for name in exported if name not in (errors.__doc__ or "")]


def test_the_first_two_shell_blocks_are_the_demo_and_the_tests() -> None:
    """A stranger's first two commands are each one line that makes its own environment."""
    demo, tests = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)[:2]
    assert demo.count("\n") == tests.count("\n") == 1
    assert demo.rstrip().endswith("nairi-async demo")
    assert "-m pytest" in tests
