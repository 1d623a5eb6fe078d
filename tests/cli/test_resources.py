"""The commands around conversations, in processes of their own: tables for people, rows and JSON for programs."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from running import run

from nairi_async.cli.command_table import SHELLS
from nairi_async.cli.completion import script
from nairi_async.cli.screen import Screen, Style
from nairi_async.cli.table import Table
from nairi_async.testing import Say, Simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

HOSTILE = "\x1b]0;owned\x07\nevil\trow"


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(agents={"quick": "Done."}, strict_agents=True) as running:
        yield running


async def test_agents_are_rows_separated_by_tabs(simulator: Simulator) -> None:
    """In a pipe each agent is one line of four cells, for any description."""
    simulator.agent("quick", "Done.", name="Quick", description=HOSTILE)
    ended = await run("agents", simulator=simulator)
    rows = [line.split("\t") for line in ended.out.splitlines()]
    assert [(row[0], row[2]) for row in rows] == [("my-agent", "my-agent"), ("quick", "Quick")]
    assert rows[1][3] == r"\x1b]0;owned\x07 evil row"
    assert (ended.status, ended.err) == (0, "")


async def test_json_is_one_object_on_each_line(simulator: Simulator, tmp_path: Path) -> None:
    """With --json every command prints objects that a program can read."""
    await run("ask", "quick", "Hello", simulator=simulator)
    job = simulator.prompts[0].job_id
    file = tmp_path / "a.txt"
    file.write_bytes(b"data")
    id_ = simulator.attachment("b.txt", b"data")
    for words, field, value in (
        (("agents",), "agent_id", "my-agent"),
        (("conversations", "quick"), "id", job),
        (("messages", job), "content", "Hello"),
        (("upload", str(file)), "file", str(file)),
        (("download", id_, "--directory", str(tmp_path)), "path", str(tmp_path / "b.txt")),
    ):
        ended = await run(*words, "--json", simulator=simulator)
        assert json.loads(ended.out.splitlines()[0])[field] == value, ended


async def test_conversations_are_filtered_sorted_and_limited(simulator: Simulator) -> None:
    """The options reach the service, and --limit stops the reading."""
    for _ in range(3):
        await run("ask", "quick", "Hello", simulator=simulator)
    jobs = [asked.job_id for asked in simulator.prompts]
    simulator.job_status(jobs[1], "abandoned")
    options = ("--sort", "created_at_asc", "--limit", "2")
    ended = await run("conversations", "quick", "--status", "active", *options, simulator=simulator)
    assert [line.split("\t")[:2] for line in ended.out.splitlines()] == [[jobs[0], "active"], [jobs[2], "active"]]
    alone = await run("conversations", "quick", "--status", "abandoned", "--status", "error", simulator=simulator)
    assert alone.out.startswith(f"{jobs[1]}\tabandoned\t2")


async def test_messages_are_printed_as_they_are(simulator: Simulator) -> None:
    """All messages of a conversation, progress only when asked for."""
    await run("ask", "my-agent", "Hello", simulator=simulator)
    job = simulator.prompts[0].job_id
    plain, full = [await run("messages", job, *extra, simulator=simulator) for extra in ((), ("--progress",))]
    assert "you" in plain.out
    assert 'You asked: "Hello"' in plain.out
    assert "Bash" not in plain.out
    assert "Bash" in full.out


async def test_files_go_up_and_come_down(simulator: Simulator, tmp_path: Path) -> None:
    """The id of an upload is the first cell; a download writes the file, or its bytes to standard output."""
    file = tmp_path / "größe.bin"
    file.write_bytes(bytes(range(256)))
    up = await run("upload", str(file), "-", simulator=simulator, stdin=b"from a pipe")
    ids = [line.split("\t")[0] for line in up.out.splitlines()]
    assert up.status == 0
    place = tmp_path / "down"
    down = await run("download", *ids, "--directory", str(place), simulator=simulator)
    assert down.out.splitlines() == [str(place / "größe.bin"), str(place / "stdin")]
    assert (place / "größe.bin").read_bytes() == bytes(range(256))
    assert (place / "stdin").read_bytes() == b"from a pipe"
    out = await run("download", ids[0], "--stdout", simulator=simulator, encoding="latin-1")
    assert out.out.encode("latin-1") == bytes(range(256))
    again = await run("download", ids[0], "--directory", str(place), simulator=simulator)
    assert (again.status, "exists already" in again.error) == (1, True)
    assert (await run("download", ids[0], "--directory", str(place), "--overwrite", simulator=simulator)).status == 0


async def test_ask_attaches_files(simulator: Simulator, tmp_path: Path) -> None:
    """With --attach files are uploaded before the prompt is sent."""
    file = tmp_path / "a.txt"
    file.write_bytes(b"data")
    ended = await run("ask", "quick", "Look", "--attach", str(file), simulator=simulator)
    assert ended.status == 0
    assert len(simulator.prompts[0].attachment_ids) == 1


async def test_wrong_usage_takes_one_line(simulator: Simulator, tmp_path: Path) -> None:
    """Missing files and unknown words end with status 2, an unknown agent with close names and status 1."""
    missing = await run("upload", str(tmp_path / "gone"), simulator=simulator)
    assert (missing.status, "No such file" in missing.error) == (2, True)
    several = await run("download", "a", "b", "--stdout", simulator=simulator)
    assert (several.status, "one id" in several.error) == (2, True)
    unknown = await run("conversations", "quik", simulator=simulator)
    assert (unknown.status, "did you mean quick" in unknown.error) == (1, True)
    for words in (
        ("conversations", "a", "--status", "activ"),
        ("conversations", "a", "--limit", "0"),
        ("completion", "ksh"),
    ):
        ended = await run(*words, simulator=simulator)
        assert (ended.status, "Traceback" in ended.err) == (2, False)


def table(width: int | None, *rows: tuple[str, str], color: bool = False) -> list[str]:
    stream = io.StringIO()
    shown = Table(Screen(stream, Style(width=width, has_color=color)), ("NAME", "TEXT"))
    shown.fit(rows)
    for row in rows:
        shown.show(*row)
    return stream.getvalue().splitlines()


def test_a_table_is_aligned_on_a_terminal() -> None:
    """People get headings and columns, cut to the width of the terminal or stacked; pipes get every character."""
    rows = [("a", "one"), ("longer", "x" * 40)]
    assert table(24, *rows) == ["NAME    TEXT", "a       one", "longer  " + "x" * 13 + "..."]
    assert table(None, *rows) == ["a\tone", "longer\t" + "x" * 40]
    assert table(80, *rows, color=True)[0].startswith("\x1b[1m")
    assert table(20, *rows) == [
        "NAME  a",
        "TEXT  one",
        "",
        "NAME  longer",
        *("TEXT  " + "x" * 14, *["      " + "x" * 14], "      " + "x" * 12),
    ]
    assert table(None, ("a\tb", "c\nd")) == ["a b\tc d"]


@pytest.mark.parametrize("shell", sorted(SHELLS))
async def test_completion_knows_every_command_and_option(shell: str) -> None:
    """The script is made from the parser, so it cannot fall behind."""
    ended = await run("completion", shell)
    assert ended.status == 0
    for word in ("conversations", "download", "attach", "overwrite", "updated_at_asc", "abandoned", "zsh"):
        assert word in ended.out


@pytest.mark.parametrize("shell", sorted(SHELLS))
def test_shells_accept_their_script(shell: str) -> None:
    """Where the shell is installed, it finds no fault in the script."""
    program = shutil.which(shell)
    flag = "--no-execute" if shell == "fish" else "-n"
    if program is not None:
        done = subprocess.run(  # noqa: S603 - a shell that checks our own text
            [program, flag], input=script(shell), text=True, capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["conv"], ["conversations"]),
        (["download", "--over"], ["--overwrite"]),
        (["conversations", "a", "--status", ""], ["active", "completed", "error", "abandoned"]),
        (["completion", ""], ["bash", "fish", "zsh"]),
        (["upload", "x"], []),
    ],
)
def test_bash_completes(typed: list[str], offered: list[str]) -> None:
    """What bash would offer for a line that was typed so far."""
    program = shutil.which("bash")
    if program is not None:
        words = " ".join(f"'{word}'" for word in ("nairi-async", *typed))
        line = f"COMP_WORDS=({words}); COMP_CWORD={len(typed)}; _nairi_async; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        done = subprocess.run(  # noqa: S603 - our own text
            [program, "-c", f"{script('bash')}\n{line}"], text=True, capture_output=True, check=True
        )
        assert done.stdout.split() == offered


async def test_replies_with_files_can_be_fetched_by_their_ids(simulator: Simulator, tmp_path: Path) -> None:
    """What `ask` names as files, `download` fetches."""
    id_ = simulator.attachment("made.txt", b"made")
    simulator.agent("quick", [Say("Here.", attachment_ids=[id_])])
    asked = await run("ask", "quick", "Make", "--json", simulator=simulator)
    ids = json.loads(asked.out)["attachment_ids"]
    await run("download", *ids, "--directory", str(tmp_path), simulator=simulator)
    assert (tmp_path / "made.txt").read_bytes() == b"made"
