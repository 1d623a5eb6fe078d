"""The guide's program is killed by SIGKILL and run again: each prompt runs once, and each reply is printed."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING

import pytest

import nairi_async
from nairi_async.testing import Say, Simulator

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp import web

pytestmark = pytest.mark.anyio

# A prompt that did not arrive is sent again after a minute; this service needs no such time.
HURRY = "from nairi_async._nairi.journal import keyed_prompts; keyed_prompts.SETTLING_TIME = 0.5\n"
COUNT = 10
KILLS = 2


async def test_killed_at_random_instants(tmp_path: Path) -> None:
    """Conversations with follow-ups survive `kill -9`, with prompts on their way whose responses are held back."""
    (code,) = (
        one for one in re.findall(r"```python\n(.*?)```", nairi_async.__doc__ or "", re.DOTALL) if "journal" in one
    )
    code = code.replace("range(20)", f"range({COUNT})")
    assert len([line for line in code.splitlines() if line]) < 25
    random, held = Random(5), asyncio.Event()
    sent = asyncio.Event()

    async def hold(request: web.Request, _: object) -> None:
        # Some responses come too late for the process: their turns are known to the service alone.
        if request.method == "POST" and random.random() < 0.3:
            sent.set()
            await held.wait()

    async with Simulator() as simulator:
        simulator.agent("my-agent", lambda prompt, _: [Say(f"re {prompt}", after=random.uniform(0, 0.3))])
        simulator.intercept_response = hold
        environment = {**os.environ, **simulator.environment}

        async def run() -> asyncio.subprocess.Process:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-c", HURRY + code, env=environment, cwd=tmp_path, stdout=asyncio.subprocess.PIPE
            )

        for _ in range(KILLS):
            sent.clear()
            process = await run()
            with suppress(TimeoutError):
                await asyncio.wait_for(sent.wait(), 2)
            await asyncio.sleep(random.uniform(0, 0.3))
            with suppress(ProcessLookupError):
                process.kill()
            await process.communicate()
        held.set()
        simulator.intercept_response = None
        process = await run()
        output, _ = await asyncio.wait_for(process.communicate(), 200)
    assert process.returncode == 0
    assert sorted(output.decode().splitlines()) == sorted(f"ticket {n} re And in French?" for n in range(COUNT))
    expected = [f"Summarise ticket {n}." for n in range(COUNT)] + ["And in French?"] * COUNT
    assert sorted(one.prompt for one in simulator.prompts) == sorted(expected)
