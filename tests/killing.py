"""A batch whose process is killed at random instants, and begun again until it is done; counted at the service."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from attrs import frozen

from nairi_async.batch import read_status
from nairi_async.testing import Say, Simulator

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from aiohttp import web

# Generous: only what hangs takes this long.
_TIMEOUT = 60


@frozen(kw_only=True)
class Counted:
    """What the service and the output of all runs together show."""

    prompts: int
    kills: int
    doubtful: int
    """Prompts that were on their way when their process was killed, over all kills."""
    twice: int
    """Prompts that ran more than once, each time too often counted."""
    lost: int
    """Prompts that never ran."""
    lines_missing: int
    """Items without a line in the output."""
    lines_doubled: int
    """Lines too many in the output, or with another item's reply."""
    status: int
    """How the last run ended."""


async def killed(directory: Path, *, count: int, kills: int, seed: int) -> Counted:
    """Run a batch of so many prompts, several of them word for word the same, with so many kills."""
    choice = random.Random(seed)
    # Equal ones stand together, so that they are on their way together.
    prompts = [f"prompt {number - number % 3 if number % 10 < 3 else number}" for number in range(count)]
    source, ledger, output = (directory / name for name in ("prompts.jsonl", "run.sqlite", "replies.jsonl"))
    records = [{"id": str(number), "prompt": prompt} for number, prompt in enumerate(prompts)]
    source.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    words = (str(source), "--agent", "my-agent", "--ledger", str(ledger), "--output", str(output))
    asked, sent, gone = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def linger(request: web.Request, *_: object) -> None:
        """Time to be killed in, while a prompt is on its way and while its answer is."""
        asked.set()
        if request.method == "POST":
            sent.set()
            await gone.wait()
            await asyncio.sleep(choice.uniform(0, 0.06))

    doubtful = 0
    async with Simulator() as simulator:
        simulator.agent("my-agent", lambda prompt, _: [Say(f"re {prompt}", after=choice.uniform(0, 0.4))])
        simulator.intercept = simulator.intercept_answer = linger
        environment = {**os.environ, "NAIRI_BASE_URL": simulator.url, "NAIRI_API_KEY": simulator.api_key}

        async def run() -> asyncio.subprocess.Process:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", "nairi_async", "batch", *words, "--limit", "15", "--settle", "0.2",
                env=environment, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip

        for number in range(kills):
            # Every second time the first prompt has no answer before the process is killed.
            is_held = number % 2 == 0
            asked.clear()
            sent.clear()
            gone.clear() if is_held else gone.set()
            process = await run()
            # From the first request on: before it nothing is at stake. There may be nothing left to do as well.
            await _first(process.wait(), (sent if is_held else asked).wait())
            if not is_held:
                await asyncio.sleep(choice.uniform(0, 0.3))
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            doubtful += read_status(ledger).sending
        gone.set()
        process = await run()
        status = await asyncio.wait_for(process.wait(), _TIMEOUT + count)
        ran, wanted = Counter(entry.prompt for entry in simulator.prompts), Counter(prompts)
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    right = Counter(line["id"] for line in lines if line["text"] == f"re {prompts[int(line['id'])]}")
    jobs = Counter(line["job_id"] for line in lines)
    return Counted(
        prompts=count,
        kills=kills,
        doubtful=doubtful,
        twice=(ran - wanted).total(),
        lost=(wanted - ran).total(),
        lines_missing=count - len(right),
        lines_doubled=len(lines) - len(right) + len(lines) - len(jobs),
        status=status,
    )


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait for the first of some events."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    ended, _ = await asyncio.wait(tasks, timeout=_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert ended, "the process neither asks nor ends"
