"""The shipped fixtures in projects of users, each run by pytest in its own process."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from attrs import define
from forking import PIPE, STDOUT, fork

import nairi_async.testing
import nairi_async.web
from nairi_async.testing import Simulator

# Plugins of the environment that these projects do not need, and that take seconds to import.
HEAVY = ("schemathesis", "hypothesispytest", "randomly", "xdist", "xdist.looponfail")
PLAIN = "--assert=plain"  # to rewrite what is imported takes most of the time; one mode is as users have it
_REWRITTEN = ("anyio.pytest_plugin", "pytest_asyncio.plugin", "nairi_async.amigo", "nairi_async.testing")
README = Path(__file__).parents[2] / "README.md"

TESTS = """
import asyncio
import pytest
from nairi_async import Polling, TurnFailedError
from nairi_async.testing import Fail, FaultPlan, Quirks, Say, VirtualClock

@MARK
async def test_ten_minutes(nairi, nairi_simulator, nairi_clock):
    nairi_simulator.agent("my-agent", [Say("done", after=600)])
    assert (await nairi.ask("my-agent", "go")).text == "done"
    assert nairi_clock.monotonic() >= 600
    nairi_simulator.assert_asked("go")

@MARK
async def test_each_test_has_a_service_of_its_own(nairi_simulator, nairi):
    nairi_simulator.assert_asked()
    assert nairi.stats.requests == 0

@MARK
@pytest.mark.nairi_simulator(faults=FaultPlan(where="POST", script=["rate limited"]), seed=3)
async def test_faults(nairi, nairi_simulator):
    assert "go" in (await nairi.ask("my-agent", "go")).text
    assert [seen.fault for seen in nairi_simulator.requests][:1] == ["rate limited"]

@MARK
@pytest.mark.nairi_simulator(in_memory=True, seed=3)
async def test_without_sockets(nairi, nairi_simulator):
    assert "go" in (await nairi.ask("my-agent", "go")).text
    nairi_simulator.assert_asked("go")
    assert "not running" in repr(nairi_simulator)

@FIXTURE
async def reply(nairi, nairi_simulator):
    nairi_simulator.agent("my-agent", "from a fixture")
    yield await nairi.ask("my-agent", "go")
    assert await nairi.ask("my-agent", "again")

@MARK
async def test_fixtures_of_the_user_may_use_it(reply, nairi):
    assert reply.text == "from a fixture"
    assert asyncio.get_running_loop() is nairi._http._loop

class TestInAClass:
    @pytest.fixture
    def nairi_options(self):
        return {"request_timeout": 7.0}

    @MARK
    async def test_options(self, nairi):
        assert nairi._executor.request_timeout == 7.0

@MARK
@pytest.mark.amigo_simulator(script="Hello there")
async def test_amigo(amigo, amigo_simulator, nairi_clock):
    assert (await amigo.create_conversation(amigo_simulator.service_id, "Hi").reply()).text == "Hello there"
    assert [asked.message for asked in amigo_simulator.asked] == ["Hi"]
    assert amigo._executor.clock is nairi_clock

@MARK
@pytest.mark.nairi_simulator(strict_agents=True, concurrency=1)
async def test_code_that_makes_its_own_session(nairi_environment, amigo_environment):
    from nairi_async import AgentNotFoundError, NairiSession
    from nairi_async.amigo import AmigoSession
    async with NairiSession() as nairi, AmigoSession() as amigo:
        nairi_environment.agent("quick", "Hi")
        assert (await nairi.ask("quick", "go")).text == "Hi"
        with pytest.raises(AgentNotFoundError):
            await nairi.start("other", "go")
        assert (await amigo.create_conversation(amigo_environment.service_id).reply()).text
    nairi_environment.assert_asked("go")
"""
MODES = {
    "anyio": ("@pytest.mark.anyio", "@pytest.fixture", ["-p", "no:asyncio"]),
    "anyio with pytest-asyncio": ("@pytest.mark.anyio", "@pytest.fixture", [PLAIN, "-o", "asyncio_mode=strict"]),
    "strict": ("@pytest.mark.asyncio", "@__import__('pytest_asyncio').fixture", [PLAIN, "-o", "asyncio_mode=strict"]),
    "auto": ("@pytest.mark.filterwarnings('error')", "@pytest.fixture", [PLAIN, "-o", "asyncio_mode=auto"]),
}


@define
class Ran:
    """A run of pytest that has ended."""

    returncode: int
    stdout: str


async def run(directory: Path, code: str, *options: str) -> Ran:
    """Run a user's tests, with warnings as errors, on the fixtures of this very source."""
    (directory / "conftest.py").write_text(
        "import pytest\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n"
    )
    (directory / "test_theirs.py").write_text(code)
    (directory / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    scope = ["-o", "asyncio_default_fixture_loop_scope=function"] if "no:asyncio" not in options else []
    ours = ["-p", "no:nairi_async", "-p", "nairi_async.testing.pytest_plugin"]
    without = [word for name in ("cacheprovider", *HEAVY) for word in ("-p", f"no:{name}")]
    words = ["-m", "pytest", "-q", *ours, *scope, *without, *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    imported = ("pytest", "aiohttp.web", *(_REWRITTEN if PLAIN in options else ()))
    process = await fork(*words, env=environment, cwd=directory, stdout=PIPE, stderr=STDOUT, imported=imported)
    out, _ = await process.communicate()
    return Ran(await process.wait(), out.decode())


@pytest.mark.anyio
@pytest.mark.parametrize("mode", MODES)
async def test_the_fixtures_work_with_each_plugin(tmp_path: Path, mode: str) -> None:
    """Sessions live on the test's own loop, in virtual time, one for each test, and can be set up as the user likes."""
    mark, fixture, options = MODES[mode]
    ran = await run(tmp_path, TESTS.replace("@MARK", mark).replace("@FIXTURE", fixture), *options)
    assert (ran.returncode, "8 passed" in ran.stdout) == (0, True), ran.stdout


LOOP_SCOPES = """
import asyncio
import pytest

loops = []

@pytest.mark.asyncio(loop_scope="module")
async def test_module(nairi):
    assert await nairi.ask("my-agent", "go")
    loops.append(asyncio.get_running_loop())

@pytest.mark.asyncio(loop_scope="module")
async def test_same_module(nairi_simulator, nairi):
    assert await nairi.ask("my-agent", "go")
    assert loops == [asyncio.get_running_loop()]

@pytest.mark.asyncio(loop_scope="class")
class TestClass:
    async def test_class(self, nairi, amigo, amigo_simulator):
        assert await nairi.ask("my-agent", "go")
        assert await amigo.create_conversation(amigo_simulator.service_id).reply()

@pytest.mark.asyncio
async def test_default(nairi):
    assert await nairi.ask("my-agent", "go")
"""


@pytest.mark.anyio
async def test_the_fixtures_run_on_a_loop_of_any_scope(tmp_path: Path) -> None:
    """The session is opened on the loop of the test, whether the test's mark or the configuration names its scope."""
    scope = "asyncio_default_test_loop_scope=session"
    ran = await run(tmp_path, LOOP_SCOPES, PLAIN, "-o", "asyncio_mode=strict", "-o", scope)
    assert (ran.returncode, "4 passed" in ran.stdout) == (0, True), ran.stdout


@pytest.mark.anyio
async def test_two_plugins_that_claim_one_test_are_named(tmp_path: Path) -> None:
    """With anyio's mark in pytest-asyncio's automatic mode, the test fails with the cause and the remedy."""
    code = "import pytest\n@pytest.mark.anyio\nasync def test_mix(nairi): await nairi.ask('my-agent', 'go')\n"
    ran = await run(tmp_path, code, PLAIN, "-o", "asyncio_mode=auto")
    assert "would run on two event loops" in ran.stdout
    assert "asyncio_mode = strict" in ran.stdout
    assert ran.returncode == 1
    assert "pytest_plugin.py" not in ran.stdout


@pytest.mark.anyio
async def test_runs_on_trio_are_skipped_with_the_reason(tmp_path: Path) -> None:
    """A test for both backends of anyio runs on asyncio; the reason says how to leave the other out."""
    code = (
        "import pytest\n@pytest.fixture(params=['asyncio', 'trio'])\ndef anyio_backend(request): return request.param\n"
        "@pytest.mark.anyio\nasync def test_both(nairi): await nairi.ask('my-agent', 'go')\n"
    )
    ran = await run(tmp_path, code, PLAIN, "-rs", "-p", "no:asyncio")
    assert "1 passed, 1 skipped" in ran.stdout
    assert "nairi_async needs asyncio, and this run of the test is on trio" in ran.stdout


@pytest.mark.anyio
@pytest.mark.parametrize("test", ["def test_sync(nairi): pass", "async def test_unmarked(nairi_simulator): pass"])
async def test_a_test_without_a_loop_fails_with_one_sentence(tmp_path: Path, test: str) -> None:
    """The sentence says what is missing, without a traceback."""
    ran = await run(tmp_path, test, PLAIN, "-o", "asyncio_mode=strict")
    assert ran.returncode == 1
    assert "need a test that runs on an event loop" in ran.stdout
    assert "pytest_plugin.py" not in ran.stdout


@pytest.mark.anyio
async def test_the_tests_in_the_readme_and_the_guides_run(tmp_path: Path) -> None:
    """As they are printed, for anyio, and with the other mark for pytest-asyncio."""
    texts = (README.read_text(), nairi_async.testing.__doc__ or "", nairi_async.web.__doc__ or "")
    blocks = [block.split("```")[0] for text in texts for block in text.split("```python\n")[1:]]
    codes = [block for block in blocks if "def test_" in block]
    for number, code in enumerate(codes):
        (tmp_path / f"test_{number}_anyio.py").write_text(code)
        other = code.replace("@pytest.mark.anyio  # or pytest.mark.asyncio", "@pytest.mark.asyncio")
        (tmp_path / f"test_{number}_asyncio.py").write_text(other)
    # What Starlette says about its own dependency is not ours.
    ran = await run(tmp_path, "", PLAIN, "-o", "asyncio_mode=strict", "-W", "ignore:Using `httpx`")
    assert (ran.returncode, len(codes), "10 passed" in ran.stdout) == (0, 4, True), ran.stdout


def test_the_plugin_costs_nothing_where_it_is_not_used() -> None:
    """The module that pytest imports in every project does not import the package, so coverage measures all of it."""
    (entry,) = entry_points(group="pytest11", name="nairi_async")
    code = f"import sys, {entry.value}; print(*sys.modules)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    loaded = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    ).stdout.split()
    assert not {"nairi_async", "aiohttp"} & set(loaded)


def test_what_was_asked_is_asserted_readably() -> None:
    """The failure compares the expected prompts with those that ran, of one agent or of all."""
    simulator = Simulator()
    for agent, prompt in (("a", "one"), ("b", "other"), ("a", "two")):
        simulator._state.start(agent, prompt, 0.0)
    simulator.assert_asked("one", "other", "two")
    simulator.assert_asked("one", "two", agent_id="a")
    with pytest.raises(AssertionError) as caught:
        simulator.assert_asked("one", "three", agent_id="a")
    assert str(caught.value) == "prompts of a: - expected, + asked\n  'one'\n- 'three'\n+ 'two'"
    with pytest.raises(AssertionError, match="prompts: - expected"):
        simulator.assert_asked()
