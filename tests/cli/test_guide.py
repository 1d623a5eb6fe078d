"""The guide of the command line: each command that it shows runs, in its order."""

from __future__ import annotations

import io
import re
import shlex
from typing import TYPE_CHECKING

import nairi_async.cli
from nairi_async.cli import command_table, main
from nairi_async.testing import AmigoSimulator, Say, Simulator, in_thread

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

GUIDE = nairi_async.cli.__doc__ or ""
# What a reader takes from the output of the command before.
FOUND = {
    "JOB": r"^job (\S+)$",
    "ID": r"^(att_\w+)\t",
    "SERVICE": r"^([0-9a-f]{24})\t",
    "CONVERSATION": r"^conversation (\S+)$",
}


def test_each_command_of_the_guide_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In order, with the ids that earlier ones print, each ends with status 0; only what serves is left out."""
    (text,) = re.findall(r"^```console\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line)[2:] for line in text.splitlines()]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report.pdf").write_bytes(b"%PDF")
    (tmp_path / "prompts.csv").write_text("id,prompt\n1,One\n2,Two\n")
    names: dict[str, str] = {}
    with in_thread(Simulator(default=[Say("Done.")])) as nairi, in_thread(AmigoSimulator()) as amigo:
        for name, value in {**nairi.environment, **amigo.environment}.items():
            monkeypatch.setenv(name, value)
        for words in commands:
            monkeypatch.setattr("sys.stdin", io.StringIO("Thanks.\n"))
            status = main([names.get(word, word) for word in words])
            out, err = capsys.readouterr()
            assert (status, words) == (0, words), err
            for name, pattern in FOUND.items():
                if found := re.search(pattern, f"{out}\n{err}", re.MULTILINE):
                    names.setdefault(name, found[1])
        nairi.assert_asked("Which charges failed?", "And yesterday?", "Thanks.", "One", "Two")
    assert {command.name for command in command_table.COMMANDS} - {words[0] for words in commands} <= {
        "simulate",
        "worker",
    }


def test_the_statuses_of_the_guide_and_of_the_help_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """Both list each status; the help wraps its text at the width of the terminal."""
    main([])
    shown = capsys.readouterr().out.partition("exit status:")[2]
    assert re.findall(r"^  (\d+) ", shown, re.MULTILINE) == re.findall(r"^\| (\d+) \|", GUIDE, re.MULTILINE)
