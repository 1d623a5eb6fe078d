"""Scripts in files: what they mean, where a mistake is, a simulator in a thread."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nairi_async.testing import (
    AmigoSimulator,
    Done,
    Say,
    ScriptFileError,
    Simulator,
    Tool,
    VirtualClock,
    in_memory_session,
    in_thread,
    load_amigo_scripts,
    load_scripts,
)
from nairi_async.testing.amigo import Cut, Speak
from nairi_async.testing.script_file import slowed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nairi_async.testing.script import Script

TEXT = """{
  "plain": "Done.",
  "steps": [{"tool": "Bash", "input": "ls", "seconds": 2, "description": "Look"}, "Done.", {"done": true, "after": 1}],
  "turns": {"turns": ["One.", [{"fail": "no"}]]},
  "prompts": {"prompts": {"refund": "Refunded.", "": "What?"}},
  "endless": [{"thinking": "Hm."}, {"done": true, "after": "never"}]
}"""


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "agents.json"
        path.write_text(text)
        return path

    return write


@pytest.mark.anyio
async def test_the_scripts_of_a_file_are_played(written: Callable[[str], Path]) -> None:
    """Each agent does what its script says: steps with their settings, one script a turn, or one for each prompt."""
    scripts = load_scripts(written(TEXT))
    described = Tool("Bash", input="ls", seconds=2.0, description="Look")
    assert scripts["steps"] == [described, "Done.", Done(after=1.0)]
    simulator = Simulator(clock=VirtualClock(), agents=scripts)
    async with in_memory_session(simulator) as nairi:
        assert (await nairi.ask("prompts", "a refund, please")).text == "Refunded."
        assert (await nairi.ask("prompts", "hello")).text == "What?"
        conversation = nairi.conversation("turns")
        assert (await conversation.ask("go")).text == "One."
        turn = await nairi.continue_(conversation.job_id or "", "again")
        assert (await nairi.wait(turn)).status == "failed"
        turn = await nairi.start("steps", "go")
        shown = [message.progress async for message in nairi.watch(turn, progress=True) if message.progress]
    assert [progress.tool_description for progress in shown] == ["Look", "Look"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"a": [', "agents.json:1:8: not JSON: Expecting value"),
        ('{"a": "x",\n "b": [{"sya": "x"}]}', "agents.json:2:8: unknown step 'sya': did you mean 'say'?"),
        ('{"a": [\n  {"say": "x", "aftr": 1}]}', "agents.json:2:24: say has no setting 'aftr': did you mean 'after'?"),
        ('{"a": [{"say": 3}]}', "agents.json:1:16: text must be a text"),
        ('{"a": [{"say": "x", "after": -1}]}', "agents.json:1:30: after must be seconds, at least 0"),
        ('{"a": [{"done": "x"}]}', 'agents.json:1:17: write "done": true'),
        ('{"a": [{"done": true}, {"fail": "x"}]}', "agents.json:1:7: a turn ends once"),
        ('{"a": {"turns": []}}', "agents.json:1:7: a script is a text, a list of steps"),
        ('{"a": "x", "a": "y"}', "agents.json:1:17: the key is there twice"),
        ("[]", "agents.json:1:1: expected an object with a script for each agent or service"),
        ("[" * 100_000, "agents.json:1:1: nested too deeply"),
    ],
)
def test_a_mistake_in_a_file_has_a_place(text: str, error: str, written: Callable[[str], Path]) -> None:
    """The error begins with the file, the line and the column."""
    with pytest.raises(ScriptFileError) as caught:
        load_scripts(written(text))
    assert str(caught.value).startswith(error)


_LEAVES = st.sampled_from(["x", "never", 1, -1, 0.5, True, None])
_KEYS = st.sampled_from(["say", "tool", "speak", "done", "cut", "error", "after", "seconds", "turns", "prompts", "x"])
_JSON = st.recursive(_LEAVES, lambda inner: st.lists(inner) | st.dictionaries(_KEYS, inner), max_leaves=8)


@settings(max_examples=60)
@given(_JSON)
def test_any_json_is_a_script_or_an_error(tmp_path_factory: pytest.TempPathFactory, document: object) -> None:
    """No document of JSON raises anything else."""
    path = tmp_path_factory.mktemp("any") / "any.json"
    path.write_text(json.dumps({"a": document}))
    for load in (load_scripts, load_amigo_scripts):
        try:
            load(path)
        except ScriptFileError as error:
            assert str(error).startswith("any.json:1:")  # noqa: PT017 - either way is right


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """It is the same error, without a place."""
    with pytest.raises(ScriptFileError, match=r"agents.json cannot be read: No such file"):
        load_scripts(tmp_path / "agents.json")


def test_the_steps_of_amigo_and_a_slower_pace(written: Callable[[str], Path]) -> None:
    """Amigo's steps have their own names; a slowed script is the same one with longer times."""
    scripts = load_amigo_scripts(written('{"a": [{"speak": "x", "every": 1}, {"cut": true}]}'))
    assert scripts["a"] == [Speak("x", every=1.0), Cut()]
    script: Script = [Say("x", after=2, unfinished_for=1.0), Tool("Bash", seconds=3)]
    slow = slowed(script, 10)
    assert callable(slow)
    assert slow("", 1) == [Say("x", after=20.0, unfinished_for=10.0), Tool("Bash", seconds=30.0)]
    assert slowed("x", 10)("", 1) == ["x"]  # type: ignore[operator]


def get(url: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    """Return status and `Allow` of a response, by a client without an event loop."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method, headers=headers)) as response:  # noqa: S310
            return response.status, response.headers.get("Allow", "")
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, error.headers.get("Allow", "")


def test_a_simulator_in_a_thread() -> None:
    """It serves any client, in real time only; without a key it says nothing but which methods an endpoint has."""
    with in_thread(Simulator()) as nairi, in_thread(AmigoSimulator()) as amigo:
        key = {"Authorization": f"Bearer {nairi.api_key}"}
        base = f"{nairi.url}/api/public/v1"
        assert get(f"{base}/agents", **key) == (200, "")
        assert [get(f"{url}/nothing")[0] for url in (base, f"{amigo.url}/v1/simulated")] == [401, 401]
        assert get(f"{base}/nothing", **key)[0] == 404
        assert get(f"{base}/agents", "OPTIONS") == (204, "GET, OPTIONS, POST")
        assert get(f"{amigo.url}/v1/simulated/conversation/", "OPTIONS") == (204, "GET, HEAD, OPTIONS, POST")
        assert get(f"{base}/nothing", "OPTIONS")[0] == 404
        port = int(nairi.url.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"), in_thread(Simulator(port=port)):
            pass
    with pytest.raises(ValueError, match="lives in real time"), in_thread(Simulator(clock=VirtualClock())):
        pass


@pytest.mark.anyio
async def test_agents_that_run_one_turn_at_a_time() -> None:
    """With `concurrency=1` the second prompt is queued until the first turn has ended, for agents of any name."""
    clock = VirtualClock()
    simulator = Simulator(clock=clock, concurrency=1).agent("slow", [Say("x", after=60)])
    async with in_memory_session(simulator) as nairi:
        first, second = await nairi.start("slow", "one"), await nairi.start("slow", "two")
        assert [(await nairi.message(turn.message_id)).status for turn in (first, second)] == ["pending", "queued"]
        await nairi.reply(second)
        assert clock.monotonic() >= 120
