"""The README's code runs as it is printed, against the simulator."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

import nairi_async
from nairi_async.testing import AmigoSimulator, Say, Simulator, Step

pytestmark = pytest.mark.anyio

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
# Web applications and bots do not end by themselves: recipes have tests of their own.
_FILES = [path for kind in ("app", "bot") for path in (Path(__file__).parents[1] / "recipes").glob(f"*_{kind}.py")]
RECIPES = {path.name: path.read_text() for path in _FILES}
TESTS = [block for block in BLOCKS if "def test_" in block]
PROGRAMS = [block for block in BLOCKS if block not in RECIPES.values() and block not in TESTS]


@pytest.mark.parametrize("code", PROGRAMS, ids=range(len(PROGRAMS)))
async def test_every_python_block_runs(code: str, tmp_path: Path) -> None:
    """Each block is a program that ends well, with warnings as errors, in an environment that only has keys."""
    # What a block writes stays out of the project; what one reads is there.
    shutil.copy(Path(__file__).parents[2] / "pyproject.toml", tmp_path)
    async with Simulator() as simulator, AmigoSimulator() as amigo:
        simulator.agent("my-agent", lambda prompt, _: [Step("looking", after=0.1), Say(f"re {prompt}", after=0.1)])
        amigo.service(service_id="67d871c23eb91293ecfae8b0")
        environment = {**os.environ, **simulator.environment, **amigo.environment}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-c", code, env=environment, cwd=tmp_path, stderr=asyncio.subprocess.PIPE
        )
        _, errors = await asyncio.wait_for(process.communicate(), 30)
        assert (process.returncode, errors.decode()) == (0, "")


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_shown_as_they_are(name: str) -> None:
    """What the README shows is the file that is tested, letter by letter."""
    assert RECIPES[name] in BLOCKS


def test_every_error_is_in_the_table() -> None:
    """The table of errors names every error that is exported, but the three that are told in its words."""
    table = README[README.index("## Errors") : README.index("## Settings")]
    told_in_words = {"NairiError", "ServerOutcomeError", "UnreadableOutcomeError"}
    exported = {name for name in nairi_async.__all__ if name.endswith("Error")}
    assert {name for name in exported if f"`{name}`" not in table} <= told_in_words


def test_the_first_two_shell_blocks_are_the_demo_and_the_tests() -> None:
    """A stranger's first two commands are each one line that makes its own environment."""
    demo, tests = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)[:2]
    assert demo.count("\n") == tests.count("\n") == 1
    assert demo.rstrip().endswith("nairi-async demo")
    assert "-m pytest" in tests
