"""`nairi-async batch` as it is used: in a process of its own, stopped, gone on with, fed by a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from forking import DEVNULL, PIPE, fork
from running import Lines, environment, run, started
from support import until

from nairi_async.batch import BatchStatus, read_status
from nairi_async.cli.progress_bar import ProgressBar
from nairi_async.cli.screen import Screen, Style
from nairi_async.cli.threaded_reader import ThreadedReader
from nairi_async.testing import Fail, Say, Simulator, VirtualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from aiohttp import web

pytestmark = pytest.mark.anyio


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """Run a service in real time, in which the command lives too."""

    def play(prompt: str, _: int) -> list[Say | Fail]:
        if prompt == "bad":
            return [Fail("no")]
        return [Say(f"re {prompt}", after=600 if prompt == "slow" else 0, usage={"cost_usd": 0.5})]

    async with Simulator() as running:
        yield running.agent("my-agent", play)


@pytest.fixture
def words(tmp_path: Path) -> tuple[str, ...]:
    return ("--agent", "my-agent", "--ledger", str(tmp_path / "run.sqlite"))


def source(tmp_path: Path, *lines: object) -> str:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return str(path)


async def test_replies_go_to_standard_output(simulator: Simulator, words: tuple[str, ...], tmp_path: Path) -> None:
    """Without --output each end is a line there, once; progress and errors are elsewhere, plain in a pipe."""
    prompts = source(tmp_path, '"a"', {"id": "x", "prompt": "b"}, "{", "", '"bad"')
    ended = await run("batch", prompts, *words, simulator=simulator)
    printed = {line["id"]: line for line in map(json.loads, ended.out.splitlines())}
    assert (printed["#1"]["text"], printed["x"]["text"], printed["#5"]["status"]) == ("re a", "re b", "failed")
    assert ended.status == 3
    errors = ended.err.splitlines()
    assert any(line.endswith(", at character 2") and line.startswith("unusable  line 3  not JSON: ") for line in errors)
    assert any(line.startswith("failed  #5  ") for line in errors)
    assert errors[-3:-1] == [
        "2 done, 1 failed, $1.0.",
        "1 record cannot be used: correct it, and run the same command again.",
    ]
    assert errors[-1].startswith(f"To ask again what failed: nairi-async batch {prompts} --agent my-agent")
    assert errors[-1].endswith(" --retry-failed")
    assert "\r" not in ended.err
    again = await run("batch", prompts, *words, simulator=simulator)
    assert (again.out, again.status) == ("", 3)
    simulator.agent("my-agent", "now")
    retried = await run("batch", prompts, *words, "--retry-failed", simulator=simulator)
    assert json.loads(retried.out)["id"] == "#5"
    assert len(simulator.prompts) == 4


async def test_a_clean_end_is_status_zero(simulator: Simulator, words: tuple[str, ...], tmp_path: Path) -> None:
    """All done, the output in its file, the numbers in --status."""
    output = tmp_path / "replies.jsonl"
    ended = await run("batch", source(tmp_path, '"a"', '"b"'), *words, "--output", str(output), simulator=simulator)
    assert (ended.status, ended.out, ended.err) == (0, "", "2 done, 0 failed, $1.0.\n")
    assert len(output.read_text().splitlines()) == 2
    shown = await run("batch", "--status", *words[2:])
    facts = dict(line.split(maxsplit=1) for line in shown.out.splitlines())
    assert facts == {
        "agent": "my-agent", "service": f"{simulator.url}/api/public/v1", "done": "2", "failed": "0", "running": "0",
        "sending": "0", "unsent": "0 (of those read so far)", "unusable": "0 (of those read by the latest run)",
        "cost": "$1.0", "active": "no",
    }  # fmt: skip
    printed = json.loads((await run("batch", "--status", "--json", *words[2:])).out)
    assert printed["done"] == 2
    # Numbers have the same names in both.
    assert {name for name, fact in facts.items() if fact[0].isdigit()} <= set(printed)


async def test_records_that_cannot_be_used_are_to_be_corrected(
    simulator: Simulator, words: tuple[str, ...], tmp_path: Path
) -> None:
    """A bad line, a missing file and an id that is taken are reported by line, without the advice to run again."""
    missing = {"id": "m", "prompt": "b", "attachments": [str(tmp_path / "gone")]}
    for records in ([missing], ["{"]):
        ended = await run("batch", source(tmp_path, *records), *words, simulator=simulator)
        assert (ended.status, "To go on" in ended.err) == (3, False)
        assert (
            ended.err.splitlines()[-1]
            == f"{len(records)} record cannot be used: correct it, and run the same command again."
        )
        (tmp_path / "run.sqlite").unlink()
    prompts = source(tmp_path, {"id": "x", "prompt": "a"}, missing, "", {"id": "x", "prompt": "c"}, "{")
    ended = await run("batch", prompts, *words, simulator=simulator)
    lines = ended.err.splitlines()
    assert "unusable  line 4  the id 'x' was already taken by #1: give it another id" in lines
    assert any(line.startswith("unusable  line 2  ") for line in lines)
    assert lines[-2:] == [
        "1 done, 0 failed, $0.5.",
        "3 records cannot be used: correct them, and run the same command again.",
    ]
    assert ended.status == 3
    shown = await run("batch", "--status", *words[2:])
    assert "unusable  3 (of those read by the latest run)" in shown.out.splitlines()


async def test_a_next_command_is_shown_only_where_there_is_one(
    simulator: Simulator, words: tuple[str, ...], tmp_path: Path
) -> None:
    """A refused key or a ledger that is not this batch's say the same to the same command."""
    prompts = source(tmp_path, '"a"')
    await run("batch", prompts, *words, simulator=simulator)
    for arguments, reason in (
        ((*words[2:], "--agent", "other"), "belongs to a batch for the agent"),
        ((*words, "--base-url", "http://127.0.0.1:1"), "belongs to a batch at http://"),
    ):
        ended = await run("batch", prompts, *arguments, simulator=simulator)
        assert (ended.status, reason in ended.error, "To go on" in ended.err) == (1, True, False)
    simulator.api_key, key = "nr_other", simulator.api_key
    ended = await run("batch", source(tmp_path, '"a"', '"b"'), *words, simulator=simulator, NAIRI_API_KEY=key)
    assert ("error" in ended.err, ended.status != 0, "To go on" in ended.err) == (True, True, False)


async def test_what_is_open_is_reported(simulator: Simulator, words: tuple[str, ...], tmp_path: Path) -> None:
    """A turn that outlasts --timeout goes on: status 5, and how to go on."""
    prompts = source(tmp_path, '"slow"')
    ended = await run("batch", prompts, *words, "--timeout", "0.1", simulator=simulator)
    assert ended.status == 5
    assert "1 still running" in ended.err
    assert "--timeout 0.1" in ended.err
    assert ended.err.splitlines()[-1].startswith(f"Nothing is lost. To go on: nairi-async batch {prompts} --agent")


async def test_prompts_come_from_a_pipe(simulator: Simulator, words: tuple[str, ...]) -> None:
    """They are sent as they come; Ctrl-C ends the command while the pipe is still open."""
    async with started("batch", "-", *words, simulator=simulator) as process:
        assert process.stdin is not None
        out = Lines(process.stdout)
        for prompt in ("a", "b"):
            process.stdin.write(json.dumps(prompt).encode() + b"\n")
            assert json.loads(await out.next())["text"] == f"re {prompt}"
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
        shown = await Lines(process.stderr).rest()
        assert "Stopping" in shown
        assert "To go on: nairi-async batch - --agent my-agent" in shown


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
async def test_a_first_signal_leaves_no_doubt(
    simulator: Simulator, words: tuple[str, ...], tmp_path: Path, stop: signal.Signals
) -> None:
    """Prompts on their way are recorded, running turns can be resumed, nothing more is sent; the way on is shown."""
    gate = asyncio.Event()

    async def wait(request: object, _answer: object) -> None:
        if len(simulator.prompts) == 3:
            await gate.wait()

    simulator.intercept_response = wait
    prompts = source(tmp_path, *['"slow"'] * 10)
    async with started("batch", prompts, *words, "--limit", "3", simulator=simulator) as process:
        await until(lambda: len(simulator.prompts) == 3)
        process.send_signal(stop)
        err = Lines(process.stderr)
        while "Stopping" not in await err.next():
            pass
        gate.set()
        assert await process.wait() == 130
        assert "To go on: " in await err.rest()
    status = read_status(tmp_path / "run.sqlite")
    assert (status.running, status.sending) == (3, 0)
    assert len(simulator.prompts) == 3


async def test_a_second_signal_ends_at_once(simulator: Simulator, words: tuple[str, ...], tmp_path: Path) -> None:
    """Then prompts on their way may or may not run, and the next run looks them up."""

    async def never(request: web.Request, _answer: object) -> None:
        if request.method == "POST":
            await asyncio.Event().wait()

    simulator.intercept_response = never
    prompts = source(tmp_path, '"a"')
    async with started("batch", prompts, *words, simulator=simulator) as process:
        await until(lambda: simulator.prompts)
        process.send_signal(signal.SIGINT)
        err = Lines(process.stderr)
        while "Stopping" not in await err.next():
            pass
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
        assert "Traceback" not in await err.rest()
    assert read_status(tmp_path / "run.sqlite").sending == 1
    shown = await run("batch", "--status", *words[2:])
    assert "sending   1 (in doubt)" in shown.out.splitlines()
    simulator.intercept_response = None
    ended = await run("batch", prompts, *words, simulator=simulator)
    assert (ended.status, len(simulator.prompts)) == (0, 1)


async def test_a_second_process_is_refused(simulator: Simulator, words: tuple[str, ...], tmp_path: Path) -> None:
    """Of two processes on one ledger the second is refused; --status works meanwhile."""
    prompts = source(tmp_path, '"slow"')
    async with started("batch", prompts, *words, simulator=simulator):
        await until(lambda: simulator.prompts)
        second = await run("batch", prompts, *words, simulator=simulator)
        assert (second.status, "another process works on this batch" in second.error) == (1, True)
        assert "To go on" not in second.err
        shown = await run("batch", "--status", *words[2:])
        assert "active    yes" in shown.out
        assert "sending" in shown.out


async def test_files_that_may_not_grow(simulator: Simulator, words: tuple[str, ...], tmp_path: Path) -> None:
    """The system refuses to write any more: one line says so, and the next run completes everything."""
    output = tmp_path / "replies.jsonl"
    prompts = [f"{number} {'x' * 400}" for number in range(40)]
    arguments = ("batch", source(tmp_path, *map(json.dumps, prompts)), *words, "--output", str(output))
    program = (
        "import resource, sys; from nairi_async.cli import main;"
        "unlimited = resource.getrlimit(resource.RLIMIT_FSIZE);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, unlimited[1])); status = main();"
        # What measures the coverage writes larger files.
        "resource.setrlimit(resource.RLIMIT_FSIZE, unlimited); sys.exit(status)"
    )
    # What measures coverage would write files of its own.
    unmeasured = {name: value for name, value in environment(simulator).items() if not name.startswith("COVERAGE_")}
    process = await fork("-c", program, *arguments, "--limit", "10", env=unmeasured, stdout=DEVNULL, stderr=PIPE)
    lines = (await process.communicate())[1].decode().splitlines()
    assert process.returncode == 1
    assert lines[-1].startswith("nairi-async: error: ")
    assert "refuses to be read or written" in lines[-1]
    assert lines[-2].startswith("Nothing is lost. To go on: ")
    assert len(simulator.prompts) < 40
    assert (await run(*arguments, simulator=simulator)).status == 0
    assert sorted(entry.prompt for entry in simulator.prompts) == sorted(prompts)
    assert len({json.loads(line)["id"] for line in output.read_text().splitlines()}) == 40
    assert len(output.read_text().splitlines()) == 40


async def test_wrong_use_is_one_line(simulator: Simulator, words: tuple[str, ...], tmp_path: Path) -> None:
    """Wrong use is reported in one line, before anything is sent."""
    prompts = source(tmp_path, '"a"')
    (tmp_path / "other").mkdir()
    for arguments, status, reason in (
        (("gone.jsonl", *words), 2, "cannot read"),
        ((str(tmp_path), *words), 2, "cannot read"),
        ((*words,), 2, "PROMPTS must be given"),
        ((prompts, "--json", *words), 2, "--json goes with --status or --check"),
        (("--status", "--ledger", "gone.sqlite"), 1, "no such ledger"),
        ((prompts, *words[:3], str(tmp_path / "no" / "run.sqlite")), 1, "directory"),
        ((prompts, *words, "--output", str(tmp_path / "other" / ".." / "prompts.jsonl")), 2, "both read and written"),
        ((prompts, *words[:3], prompts), 2, "both read and written"),
    ):
        ended = await run("batch", *arguments, simulator=simulator)
        assert (ended.status, reason in ended.error) == (status, True), ended
    assert simulator.prompts == []


async def test_a_terminal_has_a_bar(simulator: Simulator, words: tuple[str, ...], tmp_path: Path) -> None:
    """On a terminal the bar is drawn and wiped; lines above it stay whole."""
    prompts = source(tmp_path, '"bad"', *[f'"{number}"' for number in range(5)], '"slow"')
    leader, follower = os.openpty()
    env = environment(simulator, COLUMNS="80", NO_COLOR="1")
    process = await fork("-m", "nairi_async", "batch", prompts, *words, env=env, stdout=DEVNULL, stderr=follower)
    os.close(follower)
    shown = b""
    try:
        while b"6 of 7: 5 done, 1 failed, $2.5, 1 running" not in shown:
            shown += await asyncio.to_thread(os.read, leader, 65536)
        process.send_signal(signal.SIGINT)
        while process.returncode is None:
            with contextlib.suppress(OSError):  # how Linux says that the other side has closed
                shown += await asyncio.to_thread(os.read, leader, 65536)
            await asyncio.sleep(0)
    finally:
        process.kill()
        os.close(leader)
    lines = shown.decode().replace("\n", "\r").split("\r")
    drawn = [line for line in lines if line.startswith("[")]
    assert all(len(line) <= 79 for line in drawn)
    assert any(line.startswith("failed  #1  ") for line in lines)


def progress(width: int | None, *ended: int, total: int | None) -> Iterator[tuple[str, str]]:
    """Yield the lines of a batch a second apart, and what the screen shows."""
    clock, stream = VirtualClock(), io.StringIO()
    counts = iter((0, *ended))
    current = BatchStatus(agent_id="a")

    def status() -> BatchStatus:
        return current

    shown = ProgressBar(Screen(stream, Style(width=width)), clock, status, lambda: total)
    next(counts)
    for count in counts:
        clock.advance(1)
        current = BatchStatus(agent_id="a", done=count, running=3, cost_usd=Decimal("0.10"))
        yield shown.line(), stream.getvalue()


def test_progress_shows_what_is_left() -> None:
    """The time left is shown once there is a rate; the bar only on a terminal."""
    assert [line for line, _ in progress(None, 1, 20, total=100)] == [
        "1 of 100: 1 done, 0 failed, $0.10, 3 running",
        "20 of 100: 20 done, 0 failed, $0.10, 3 running, 8 s left",
    ]
    assert [line.split(", ")[-1] for line, _ in progress(80, 10, total=6_000)] == ["10 min left"]
    assert [line.split(", ")[-1] for line, _ in progress(80, 10, total=100_000)] == ["2.8 h left"]
    [(bar, _)] = progress(100, 50, total=100)
    assert bar == "[############............] 50 of 100: 50 done, 0 failed, $0.10, 3 running, 1 s left"
    stopping = ProgressBar(
        Screen(io.StringIO(), Style()), VirtualClock(), lambda: BatchStatus(agent_id="a"), lambda: None
    )
    stopping.is_stopping = True
    assert stopping.line() == "0 done, 0 failed, 0 on the way"
    assert [line for line, _ in progress(80, 9, total=None)] == ["9 done, 0 failed, $0.10, 3 running"]


def test_progress_fits_any_terminal() -> None:
    """The bar and the total are shown on every usual terminal; what does not fit is left out as a whole."""
    for width in range(18, 120):
        [(line, _)] = progress(width, 12_345, total=98_765)
        assert len(line) < width
        assert "12,345 of 98,765" in line
        assert line.startswith("[") == (width >= 28)
        assert not line.endswith((",", ":", " "))
    assert [line for line, _ in progress(40, 12_345, total=98_765)] == ["[#.........] 12,345 of 98,765: 7 s left"]
    assert [line for line, _ in progress(5, 12_345, total=98_765)] == ["12,3"]


async def test_progress_in_a_pipe_is_a_line_now_and_then() -> None:
    """Every ten seconds, if anything has changed."""
    clock, stream = VirtualClock(), io.StringIO()
    status = BatchStatus(agent_id="a")
    shown = ProgressBar(Screen(stream, Style()), clock, lambda: status, lambda: None)
    async with shown.running():
        await clock.sleep(25)
        status = BatchStatus(agent_id="a", done=1)
        await clock.sleep(10)
    assert stream.getvalue().splitlines() == ["0 done, 0 failed, 0 running", "1 done, 0 failed, 0 running"]


async def test_a_source_that_blocks_is_fed() -> None:
    """Items come in order, read ahead in a bounded number; an error comes out where they are taken, and stays."""
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(200):
            taken = number
            yield number
        raise ZeroDivisionError

    fed = ThreadedReader(items())
    got = [await anext(fed) for _ in range(100)]
    assert got == list(range(100))
    assert taken < 180
    with pytest.raises(ZeroDivisionError):
        [item async for item in fed]
    with pytest.raises(ZeroDivisionError):
        await anext(fed)


async def test_a_check_reads_everything_and_sends_nothing(
    simulator: Simulator, words: tuple[str, ...], tmp_path: Path
) -> None:
    """Without a key, with or without a ledger: each record that cannot be sent is named by its line."""
    records = ['"a"', {"id": "x", "prompt": "b"}, "{", {"prompt": "c", "attachements": []}, {"id": "x", "prompt": "d"}]
    prompts = source(tmp_path, *records, {"prompt": "e", "attachments": [str(tmp_path / "gone")]})
    for extra in ((), words):
        ended = await run("batch", prompts, "--check", *extra)
        lines = ended.err.splitlines()
        assert [line[:16] for line in lines[:-1]] == [f"unusable  line {number}" for number in (3, 4, 5, 6)]
        assert "did you mean 'attachments'?" in lines[1]
        assert (ended.status, ended.out) == (3, "6 records: 0 in the ledger, 4 cannot be used.\n")
        assert not (tmp_path / "run.sqlite").exists()
    empty = await run("batch", source(tmp_path), "--check")
    assert (empty.status, "no records" in empty.err) == (3, True)
    await run("batch", source(tmp_path, '"a"', '"b"'), *words, simulator=simulator)
    sent = len(simulator.prompts)
    known = await run("batch", source(tmp_path, '"b"', '"c"'), *words, "--check", "--json")
    assert (known.status, json.loads(known.out)) == (0, {"records": 2, "known": 1, "unusable": 0})
    other = await run("batch", source(tmp_path, '"c"'), *words, "--check")
    assert (other.status, "holds 2 other prompts and none of these" in other.error) == (1, True)
    refused = await run("batch", source(tmp_path, '"c"'), *words, simulator=simulator)
    assert (refused.status, "To go on" in refused.err) == (1, False)
    assert len(simulator.prompts) == sent


async def test_what_a_pipe_holds_is_checked_first(simulator: Simulator, words: tuple[str, ...]) -> None:
    """Errors in what is read ahead come before the first prompt is sent, and a pipe that is slow is not waited for."""
    lines = [f'"{number}"' for number in range(10)] + ["{"]
    async with started("batch", "-", *words, simulator=simulator) as process:
        assert process.stdin is not None
        process.stdin.write("".join(f"{line}\n" for line in lines).encode())
        err = Lines(process.stderr)
        assert (await err.next()).startswith("unusable  line 11  not JSON")
        process.stdin.write(b'"last"\n')
        process.stdin.close()
        assert await process.wait() == 3
    assert len(simulator.prompts) == 11
    first = next(index for index, seen in enumerate(simulator.requests) if seen.method == "POST")
    assert first >= 0


async def test_attachments_come_from_one_directory(
    simulator: Simulator, words: tuple[str, ...], tmp_path: Path
) -> None:
    """A records file of someone else cannot have other files uploaded; the help warns of that."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "ours").write_bytes(b"data")
    (tmp_path / "secret").write_bytes(b"data")
    records = [{"prompt": name, "attachments": [str(tmp_path / name)]} for name in ("files/ours", "secret")]
    options = ("--attachments-from", str(tmp_path / "files"))
    for extra in (("--check",), ()):
        ended = await run("batch", source(tmp_path, *records), *words, *options, *extra, simulator=simulator)
        assert ended.status == 3
        assert "unusable  line 2  the attachment" in ended.err
    assert [entry.prompt for entry in simulator.prompts] == ["files/ours"]
    assert "may name any file that you can read" in " ".join((await run("batch", "--help")).out.split())


async def test_warnings_of_the_library_stand_above_the_bar(
    simulator: Simulator, words: tuple[str, ...], tmp_path: Path
) -> None:
    """A warning is a clean line of its own, and does not tear the bar apart."""
    leader, follower = os.openpty()
    program = (
        "import asyncio, logging, sys; from nairi_async.cli import main\n"
        "from nairi_async.cli.progress_bar import ProgressBar\n"
        "draw = ProgressBar._draw\n"
        "def warn(self):\n    draw(self)\n    logging.getLogger('nairi_async.polling').warning('odd\\x1b[2J %s', 1)\n"
        "ProgressBar._draw = warn\n"
        "sys.exit(main())"
    )
    command = ("-c", program, "batch", source(tmp_path, '"slow"'), *words, "--timeout", "1")
    env = environment(simulator, COLUMNS="80", NO_COLOR="1")
    process = await fork(*command, env=env, stdout=DEVNULL, stderr=follower)
    os.close(follower)
    shown = b""
    while process.returncode is None:
        try:
            shown += await asyncio.to_thread(os.read, leader, 65536)
        except OSError:
            await process.wait()
    os.close(leader)
    warnings = [line for line in shown.decode().replace("\r", "\n").split("\n") if "odd" in line]
    assert warnings
    assert set(warnings) == {r"warning: odd\x1b[2J 1"}
