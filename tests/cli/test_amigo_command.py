"""`nairi-async amigo`, as it is typed."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest

from nairi_async.cli import main
from nairi_async.testing import AmigoSimulator, in_thread
from nairi_async.testing.amigo import Complete, Error, Speak

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[AmigoSimulator]:
    """Run a service in real time, and set the environment to it."""
    with in_thread(AmigoSimulator(lambda message, number: [Speak(f"{number}: {message}")])) as simulator:
        for name, value in simulator.environment.items():
            monkeypatch.setenv(name, value)
        yield simulator


def conversation(err: str) -> str:
    return next(line for line in err.splitlines() if line.startswith("conversation ")).removeprefix("conversation ")


def test_a_conversation(
    service: AmigoSimulator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Created, continued, listed, read and finished; each reply is what standard output has."""
    assert main(["amigo", "create", service.service_id, "Where is it?"]) == 0
    out, err = capsys.readouterr()
    id_ = conversation(err)
    assert out == "1: Where is it?\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("Still there?"))
    assert main(["amigo", "ask", id_, "-", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == "2: Still there?"
    assert main(["amigo", "create", service.service_id, "Another thing"]) == 1
    assert f"amigo ask {id_} PROMPT, or: nairi-async amigo finish {id_}" in capsys.readouterr().err
    assert main(["amigo", "list", "--open", "--service", service.service_id]) == 0
    assert capsys.readouterr().out.split("\t")[:2] == [id_, service.service_id]
    assert main(["amigo", "messages", id_]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["you", "agent", "you", "agent"]
    assert main(["amigo", "finish", id_]) == 0
    assert main(["amigo", "list", "--json", "--limit", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["is_finished"] is True
    assert main(["amigo", "services"]) == 0
    assert service.service_id in capsys.readouterr().out


def test_what_goes_wrong(
    service: AmigoSimulator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A void interaction is status 1 and says how to see what was kept; the agent's end is said; settings count."""
    failing = service.service([Speak("Half of it"), Error(description="no model")])
    assert main(["amigo", "create", failing, "Where is it?"]) == 1
    out, err = capsys.readouterr()
    assert out == "Half of it\n"
    assert f"nairi-async amigo messages {conversation(err)}" in err
    assert "no model" in err
    ending = service.service([Speak("Goodbye"), Complete(ends=True)])
    assert main(["amigo", "create", ending]) == 0
    assert "The agent has ended the conversation." in capsys.readouterr().err
    assert main(["amigo", "ask", "not an id", "Hello"]) == 2
    assert main(["amigo"]) == 0
    assert "create" in capsys.readouterr().out
    monkeypatch.delenv("AMIGO_USER_ID")
    assert main(["amigo", "list"]) == 2
    assert "AMIGO_USER_ID" in capsys.readouterr().err
