"""`continue`, `chat` and `simulate`, as they are typed."""

from __future__ import annotations

import io
import json
import os
import signal
from argparse import Namespace
from typing import TYPE_CHECKING

import pytest
from running import Lines, started

from nairi_async.cli import main
from nairi_async.cli.simulate import amigo_service, nairi_service
from nairi_async.testing import Fail, FaultPlan, Say, Simulator, Tool, in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    """Run a service in real time, and set the environment to it."""
    with in_thread(Simulator()) as simulator:
        simulator.agent("quick", lambda prompt, number: f"{number}: {prompt}")
        simulator.agent("failing", [Fail("out of disk")])
        for name, value in simulator.environment.items():
            monkeypatch.setenv(name, value)
        yield simulator


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


def job_of(err: str) -> str:
    return next(line for line in err.splitlines() if line.startswith("job ")).removeprefix("job ")


def test_a_conversation_goes_on(service: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    """`continue` sends a further prompt, and prints the reply as `ask` does."""
    assert main(["ask", "quick", "Hello"]) == 0
    out, err = capsys.readouterr()
    assert (out, main(["continue", job_of(err), "And now?", "--json"])) == ("1: Hello\n", 0)
    out, err = capsys.readouterr()
    assert json.loads(out)["text"] == "2: And now?"
    assert main(["continue", job_of(err), "And", "now?"]) == 2
    assert "quote it" in capsys.readouterr().err
    service.assert_asked("Hello", "And now?")


def test_a_chat_takes_a_prompt_a_line(
    service: Simulator, capsys: pytest.CaptureFixture[str], typed: Callable[[str], None]
) -> None:
    """Replies go to standard output; a backslash at the end takes the next line too; the end says how to go on."""
    typed("Hello\n\nsecond \\\nline\n/quit\nnever\n")
    assert main(["chat", "quick"]) == 0
    out, err = capsys.readouterr()
    assert out == "1: Hello\n2: second \nline\n"
    job = job_of(err)
    assert err.rstrip().endswith(f"To go on: nairi-async chat quick --job {job}")
    typed("more\n")
    assert main(["chat", "--job", job, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["text"] == "3: more"
    # What was said last is shown before.
    assert "2: second" in err
    service.assert_asked("Hello", "second \nline", "more")


def test_a_chat_with_errors(
    service: Simulator, capsys: pytest.CaptureFixture[str], typed: Callable[[str], None]
) -> None:
    """A failed turn is status 3, and the chat goes on; without an agent, or with an unknown one, nothing begins."""
    typed("one\ntwo\n")
    assert main(["chat", "failing"]) == 3
    assert capsys.readouterr().err.count("error: nairid encountered error: out of disk") == 2
    assert main(["chat"]) == 2
    assert "AGENT must be given, or --job" in capsys.readouterr().err
    typed("one\n")
    assert main(["chat", "cci_unknown"]) == 1
    assert main(["chat", "--job", "job_unknown"]) == 1
    service.assert_asked("one", "two")


def test_a_chat_waits_longer_than_its_timeout(
    service: Simulator, capsys: pytest.CaptureFixture[str], typed: Callable[[str], None]
) -> None:
    """A wait that is over is no end: the next line waits again for the same turn, and is not sent meanwhile."""
    service.agent("slow", [Say("Done.", after=0.8)])
    typed("go\ntoo early\n" + "\n" * 20)
    assert main(["chat", "slow", "--timeout", "0.3"]) == 0
    out, err = capsys.readouterr()
    assert out == "Done.\n"
    assert "The prompt was not sent" in err
    service.assert_asked("go")


@pytest.mark.anyio
@pytest.mark.usefixtures("interruptible")
async def test_ctrl_c_stops_the_wait_and_not_the_turn() -> None:
    """The chat goes on: the next line waits for the turn, and a second Ctrl-C at the prompt ends with 130."""
    async with Simulator() as simulator:
        simulator.agent("slow", [Tool("Bash", input="sleep", seconds=2), Say("Refunded.")])
        async with started("chat", "slow", simulator=simulator) as process:
            out, err = Lines(process.stdout), Lines(process.stderr)
            assert process.stdin is not None
            process.stdin.write(b"Refund it.\n")
            while "Bash: sleep" not in (line := await err.next()):
                pass
            process.send_signal(signal.SIGINT)
            while "the agent goes on" not in line:
                line = await err.next()
            assert "nairi-async chat slow --job job_" in await err.next()
            process.stdin.write(b"\n")
            assert await out.next() == "Refunded."
            while not line.endswith(" s"):
                line = await err.next()
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
            assert "Traceback" not in await err.rest()
        simulator.assert_asked("Refund it.")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--script", "FILE"], "agents.json:1:7: a script is a text, a list of steps"),
        (["--script", "/no/such/file"], "file cannot be read: No such file or directory"),
        (["--amigo", "--strict-agents"], "--strict-agents and --concurrency are for Nairi"),
        (["--api-key", ""], "--api-key is empty"),
    ],
)
def test_a_simulation_that_cannot_begin(
    words: list[str], error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of scripts is read before anything listens; what is wrong with it has a line and a column."""
    file = tmp_path / "agents.json"
    file.write_text('{"a": 3}')
    assert main(["simulate", *(str(file) if word == "FILE" else word for word in words)]) == 2
    assert error in capsys.readouterr().err


@pytest.mark.anyio
@pytest.mark.usefixtures("interruptible")
async def test_a_simulation_with_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One plays a script slowly, for known agents only; another plays Amigo's; both say what to set."""
    (tmp_path / "agents.json").write_text('{"my-agent": [{"say": "Refunded.", "after": 0.01}]}')
    (tmp_path / "services.json").write_text('{"orders": ["It is ", {"speak": "on its way."}]}')
    nairi = ("--slow", "2", "--faults", "0", "--concurrency", "1", "--strict-agents")
    async with (
        started("simulate", "--script", str(tmp_path / "agents.json"), *nairi) as first,
        started("simulate", "--amigo", "--script", str(tmp_path / "services.json")) as second,
    ):
        for process, count in ((first, 2), (second, 5)):
            out = Lines(process.stdout)
            for _ in range(count):
                name, _, value = (await out.next()).removeprefix("export ").rstrip().partition("=")
                monkeypatch.setenv(name, value)
        note = await Lines(second.stderr).next()
        await _play(note)
        for process in (first, second):
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 0


def test_the_faults_of_a_simulation() -> None:
    """A share of all requests fails, by a seed; of Amigo's, whose streams cannot be changed, only beforehand."""
    given = {"host": "127.0.0.1", "port": 0, "api_key": None, "script": None, "slow": None}
    options = Namespace(**given, faults=0.2, seed=7, concurrency=3, strict_agents=False)
    simulator, _ = nairi_service(options)
    assert simulator.faults == FaultPlan(rate=0.2, seed=7)
    options.concurrency = None
    service, note = amigo_service(options)
    rates = service._middleware.faults.plan.rates
    assert sum(rates.values()) == pytest.approx(0.2)
    assert "reset after" not in rates
    assert service.service_id in note


async def _play(note: str) -> None:
    from nairi_async import AgentNotFoundError, NairiSession  # noqa: PLC0415
    from nairi_async.amigo import AmigoSession  # noqa: PLC0415

    async with NairiSession() as nairi, AmigoSession() as amigo:
        assert os.environ["AMIGO_API_KEY"] == "amigo_simulator"
        assert (await nairi.ask("my-agent", "go", on_unknown="reconcile")).text == "Refunded."
        with pytest.raises(AgentNotFoundError):
            await nairi.start("another", "go")
        service_id = note.split(" (orders)", maxsplit=1)[0].rpartition(" ")[2]
        assert (await amigo.create_conversation(service_id, "Where?").reply()).text == "It is on its way."
