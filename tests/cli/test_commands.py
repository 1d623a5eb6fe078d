from __future__ import annotations

import json
import math
import os
import signal
from typing import TYPE_CHECKING

import aiohttp
import pytest
from running import Lines, run, started

from nairi_async import __version__
from nairi_async.testing import Done, Fail, Notice, Say, Simulator, Tool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eevil"


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(agents={"quick": "Done.", "slow": [Done(after=math.inf)]}) as running:
        yield running


async def job_of(simulator: Simulator, agent: str = "quick") -> str:
    """Start a conversation, and return its id."""
    url, headers = f"{simulator.url}/api/public/v1", {"Authorization": f"Bearer {simulator.api_key}"}
    body = {"agent_id": agent, "prompt": "Hello"}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.post(f"{url}/conversations/start", json=body) as answer,
    ):
        return str((await answer.json())["job_id"])


async def test_ask_puts_the_reply_alone_on_stdout(simulator: Simulator) -> None:
    """Only the reply's text is on stdout, so that it pipes; the job id and the rest are on stderr."""
    simulator.agent("a", [Say("Grüße\r\nfrom here"), Notice("Opened a pull request.")])
    ended = await run("ask", "a", "Hello", simulator=simulator)
    assert (ended.status, ended.out) == (0, "Grüße\nfrom here\n")
    assert simulator.prompts[0].job_id in ended.err
    assert "completed in" in ended.err


async def test_ask_shows_progress_on_stderr(simulator: Simulator) -> None:
    """With --progress the agent's steps, its status and its notices are on stderr, and stdout is the same."""
    simulator.agent("a", [Tool("Bash", input="ls", output="README.md"), Say("Done."), Notice("It rains.")])
    ended = await run("ask", "a", "Hello", "--progress", simulator=simulator)
    assert (ended.status, ended.out) == (0, "Done.\n")
    assert [text in ended.err for text in ("Bash: ls", "✓ Bash: README.md", "completed", "It rains.")] == [True] * 4


async def test_ask_sends_what_it_was_given(simulator: Simulator) -> None:
    """The prompt comes from stdin for `-`, and mode and files reach the service."""
    file = simulator.attachment("a.txt", b"a")
    ended = await run(
        "ask", "quick", "-", "--ask-mode", "--attachment-id", file, simulator=simulator, stdin="Ä".encode()
    )
    assert ended.status == 0
    asked = simulator.prompts[0]
    assert (asked.prompt, asked.ask_mode, asked.attachment_ids) == ("Ä", True, (file,))


async def test_json_lines_parse(simulator: Simulator) -> None:
    """With --json stdout is one object per line: the reply for `ask`, each message for `watch`."""
    simulator.agent("a", [Say(HOSTILE, usage={"cost_usd": 0.5})])
    asked = await run("ask", "a", "Hello", "--json", "--progress", simulator=simulator)
    reply = json.loads(asked.out)
    assert (reply["text"], reply["usage"]["cost_usd"]) == (HOSTILE, "0.5")
    watched = await run("watch", reply["turn"]["job_id"], "--json", simulator=simulator)
    assert [json.loads(line)["role"] for line in watched.out.splitlines()] == ["user", "assistant"]


async def test_watch_says_how_to_go_on(simulator: Simulator) -> None:
    """The command that `watch` ends with goes on behind the last message, and finds nothing twice."""
    job = await job_of(simulator)
    first = await run("watch", job, "--progress", simulator=simulator)
    assert [line.split()[1:] for line in first.out.splitlines()] == [["you", "Hello"], ["agent", "Done."]]
    again = first.err.splitlines()[-1].partition("nairi-async ")[2].split()
    assert again[:3] == ["watch", job, "--after"]
    second = await run(*again, simulator=simulator)
    assert (second.status, second.out) == (0, "")


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (["ask", "failing", "Hello"], 3, "nairid encountered error: out of disk"),
        (["ask", "slow", "Hello", "--timeout", "0"], 4, "has not ended within the timeout"),
        (["ask", "quick", " "], 2, "the prompt is blank"),
        (["ask", "quick", "Hello", "my", "agent"], 2, 'quote it: "Hello my agent"'),
        (["ask", "quick", "-"], 2, "the prompt on standard input is not utf-8 text"),
        (["ask", "quick", "Hello", "--timeout", "nan"], 2, "timeout must be a non-negative number, got nan"),
        (["ask", "quick", "Hello", "--base-url", "http://example.com"], 2, "plain http"),
        (["watch", "job_unknown"], 1, "404 job not found"),
        (["simulate", "--api-key", "two words"], 2, "white space"),
    ],
)
async def test_an_error_is_one_line_and_a_status(
    simulator: Simulator, words: list[str], status: int, reason: str
) -> None:
    """Each kind of failure is one readable line on stderr, nothing on stdout, and its own exit status."""
    simulator.agent("failing", [Fail("out of disk")])
    ended = await run(*words, simulator=simulator, stdin=b"\xff")
    assert (ended.status, ended.out) == (status, "")
    assert reason in ended.error


@pytest.mark.parametrize("more", [[], ["--progress"]])
async def test_an_error_of_a_turn_says_how_to_see_it(simulator: Simulator, more: list[str]) -> None:
    """Where a turn was started before the failure, a further line shows the command that watches it."""
    ended = await run("ask", "slow", "Hello", "--timeout", "0.1", *more, simulator=simulator)
    asked = simulator.prompts[0]
    assert ended.error.startswith(f"turn {asked.message_id} has not ended")
    assert ended.err.rstrip().endswith(f"nairi-async watch {asked.job_id} --after {asked.message_id}")


async def test_watch_reports_a_failed_turn(simulator: Simulator) -> None:
    """A conversation whose last turn failed is printed whole, and the exit status says that it failed."""
    simulator.agent("failing", [Fail("out of disk")])
    ended = await run("watch", await job_of(simulator, "failing"), simulator=simulator)
    assert (ended.status, ended.error) == (3, "the last turn of the conversation failed")
    assert "nairid encountered error: out of disk" in ended.out


async def test_the_key_comes_from_the_environment_only(simulator: Simulator) -> None:
    """Without a key in the environment nothing is sent; a wrong one is never repeated; an argument is refused."""
    missing = await run("ask", "quick", "Hello", NAIRI_BASE_URL=simulator.url)
    assert missing.status == 2
    assert missing.error.startswith("no API key: set the environment variable NAIRI_API_KEY; ")
    assert "nairi-async simulate" in missing.error
    wrong = await run("ask", "quick", "Hello", simulator=simulator, NAIRI_API_KEY="nr_secret")
    assert (wrong.status, "401" in wrong.error, "nr_secret" in wrong.err) == (1, True, False)
    argument = await run("ask", "quick", "Hello", "--api-key", "nr_simulator", simulator=simulator)
    assert (argument.status, simulator.prompts) == (2, [])


async def test_an_unreachable_service_is_an_error() -> None:
    """A service that is not there is one line and status 1."""
    async with Simulator() as simulator:
        url = simulator.url
    ended = await run("ask", "quick", "Hello", NAIRI_BASE_URL=url, NAIRI_API_KEY="nr_1")
    assert (ended.status, "connection failed" in ended.error) == (1, True)


@pytest.mark.usefixtures("interruptible")
async def test_ctrl_c_ends_a_watch(simulator: Simulator) -> None:
    """Ctrl-C ends `watch --follow` with 130, the command to go on, and no traceback."""
    job = await job_of(simulator)
    async with started("watch", job, "--follow", "--json", simulator=simulator) as process:
        out, err = Lines(process.stdout), Lines(process.stderr)
        messages = [json.loads(await out.next()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        shown = await err.rest()
        assert await process.wait() == 130
    assert shown.rstrip().endswith(f"nairi-async watch {job} --after {messages[-1]['id']}")
    assert "Traceback" not in shown


@pytest.mark.usefixtures("interruptible")
async def test_ctrl_c_leaves_the_turn_of_an_ask_to_be_watched(simulator: Simulator) -> None:
    """Ctrl-C during `ask` ends it with 130 and the command that watches the turn, which goes on."""
    async with started("ask", "slow", "Hello", simulator=simulator) as process:
        err = Lines(process.stderr)
        assert await err.next() == f"job {simulator.prompts[0].job_id}"
        process.send_signal(signal.SIGINT)
        shown = await err.rest()
        assert await process.wait() == 130
    asked = simulator.prompts[0]
    assert shown.rstrip().endswith(f"nairi-async watch {asked.job_id} --after {asked.message_id}")
    assert "Traceback" not in shown


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
async def test_simulate_serves_until_it_is_stopped(end: signal.Signals) -> None:
    """`simulate` prints what to export, a line per request, and ends well on Ctrl-C and SIGTERM."""
    async with started("simulate", "--api-key", "nr_$1") as process:
        out, err = Lines(process.stdout), Lines(process.stderr)
        url = (await out.next()).removeprefix("export NAIRI_BASE_URL=")
        assert await out.next() == "export NAIRI_API_KEY='nr_$1'"
        assert "Ctrl-C" in await err.next()
        ended = await run("ask", "anyone", "Hello", NAIRI_BASE_URL=url, NAIRI_API_KEY="nr_$1")
        assert (ended.status, ended.out) == (0, 'You asked: "Hello"\n')
        assert (await err.next()).endswith("201  POST   /api/public/v1/conversations/start")
        process.send_signal(end)
        shown = await err.rest()
        assert await process.wait() == 0
    assert "Stopped after" in shown
    assert "Traceback" not in shown


async def test_simulate_refuses_a_port_that_it_cannot_have(simulator: Simulator) -> None:
    """A port in use is one line and status 1; what is no port is wrong usage."""
    used = await run("simulate", "--port", simulator.url.rpartition(":")[2])
    assert (used.status, "in use" in used.error) == (1, True)
    wrong = await run("simulate", "--port", "70000")
    assert (wrong.status, "70000 is not a port" in wrong.err) == (2, True)


@pytest.mark.parametrize("words", [["watch"], ["ask", "quick", "Hello"], ["demo", "--fast"], ["--help"], ["--version"]])
async def test_a_reader_that_leaves_is_no_error(simulator: Simulator, words: list[str]) -> None:
    """When the reader of stdout is gone, as behind `| head`, the command ends without a word about it."""
    reader, writer = os.pipe()
    os.close(reader)
    words = [*words, await job_of(simulator)] if words == ["watch"] else words
    async with started(*words, simulator=simulator, stdout=writer) as process:
        os.close(writer)
        shown = await Lines(process.stderr).rest()
        assert await process.wait() == 141
    assert not [word for word in ("Traceback", "BrokenPipe", "error") if word in shown]


async def test_the_demo_shows_everything() -> None:
    """The demo shows both replies, the late notice, the number of requests and how to do it for real, in plain text."""
    ended = await run("demo", "--fast")
    assert (ended.status, ended.err) == (0, "")
    parts = ("queued", "pending", "thinking", "✓ Bash", "I refunded", "The apology is", "was delivered", "requests")
    places = [ended.out.index(part) for part in (*parts, "NAIRI_API_KEY", "nairi-async ask", "async with NairiSession")]
    assert places == sorted(places)
    assert "\x1b" not in ended.out


@pytest.mark.parametrize("words", [["demo", "--fast"], ["ask", "a", "Hello"], ["--help"]])
async def test_a_stdout_without_unicode_is_enough(simulator: Simulator, words: list[str]) -> None:
    """On a stdout that knows only ASCII nothing crashes; what it cannot show is replaced."""
    simulator.agent("a", "Grüße 🎉")
    ended = await run(*words, simulator=simulator, encoding="ascii")
    assert ended.status == 0
    assert words[0] != "ask" or ended.out == "Gr??e ?\n"


async def test_the_service_cannot_drive_the_terminal(simulator: Simulator) -> None:
    """Escape sequences and overrides of the service come out as visible escapes, on both streams."""
    simulator.agent("a", [Tool(HOSTILE, output=HOSTILE), Say(HOSTILE), Notice(HOSTILE), Fail(HOSTILE)])
    asked = await run("ask", "a", "Hello", "--progress", simulator=simulator)
    watched = await run("watch", simulator.prompts[0].job_id, "--progress", simulator=simulator)
    shown = asked.out + asked.err + watched.out + watched.err
    assert asked.status == watched.status == 3
    assert r"\x1b]0;owned\x07\x1b[2J\x9b31m\u202eevil" in shown
    assert not set(shown) & set("\x1b\x07\x9b\u202e")


@pytest.mark.parametrize(("extra", "has_color"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
async def test_colour_is_for_terminals_that_want_it(extra: dict[str, str], has_color: bool) -> None:  # noqa: FBT001
    """On a terminal there is colour, unless NO_COLOR or a dumb terminal forbids it."""
    ours, theirs = os.openpty()
    try:
        async with started("ask", "a", "b", stderr=theirs, extra=extra) as process:
            assert await process.wait() == 2
        shown = os.read(ours, 1 << 16)
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"error: no API key" in shown
    assert (b"\x1b[" in shown) is has_color


async def test_help_and_version() -> None:
    """The version and the help are on stdout; without a command the program prints its help."""
    version = await run("--version")
    assert (version.status, version.out) == (0, f"nairi-async {__version__}\n")
    shown = await run("--help")
    assert (shown.status, "examples:" in shown.out, "NAIRI_API_KEY" in shown.out) == (0, True, True)
    alone = await run()
    assert (alone.status, alone.out, alone.err) == (0, shown.out, "")
    wrong = await run("--nothing")
    assert (wrong.status, "unrecognized arguments: --nothing" in wrong.err) == (2, True)
    # A misspelt option, or a user name that is none of the service's, must not put a password into a log.
    for words in (
        ("worker", "--databas", "postgresql://a:hunter2@h/d"),
        ("agents", "--base-url", "https://a:hunter2@h"),
    ):
        refused = await run(*words)
        assert refused.status == 2
        assert "hunter2" not in refused.err
