"""Runs the web recipes as their readers do: a real server in a process of its own, with a simulated service."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
from attrs import define
from forking import PIPE, STDOUT, Forked, fork
from support import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nairi_async.testing import AmigoSimulator, Simulator

RECIPES = Path(__file__).parent / "recipes"
_FRAMEWORKS = ("nairi_async.amigo", "nairi_async.web", "aiohttp.web", "fastapi", "uvicorn")


@define
class Served:
    """A running server."""

    port: int
    process: Forked
    output: str = ""
    """What it printed; known after its end."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def shut_down(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal as a deploy or Ctrl-C does, and return the exit status."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        out, _ = await self.process.communicate()
        self.output += out.decode()
        return await self.process.wait()


@asynccontextmanager
async def served(recipe: str, simulator: Simulator | AmigoSimulator, *, port: int = 0) -> AsyncIterator[Served]:
    """Serve a recipe with warnings as errors, and check that it logs no traceback."""
    port = port or free_port()
    command = [str(RECIPES / f"{recipe}.py")]
    if "run_app(" not in (RECIPES / f"{recipe}.py").read_text():
        command = ["-m", "uvicorn", "--app-dir", str(RECIPES), "--port", str(port), f"{recipe}:app"]
    settings = {**simulator.environment, "PORT": str(port), "SECRET": "of the tests"}
    environment = {**os.environ, **settings}
    process = await fork(*command, env=environment, stdout=PIPE, stderr=STDOUT, imported=_FRAMEWORKS)
    running = Served(port, process)
    try:
        await _until_it_responds(running)
        yield running
    finally:
        async with asyncio.timeout(30):
            await running.shut_down()
    assert "Traceback" not in running.output, running.output


async def _until_it_responds(running: Served) -> None:
    async with aiohttp.ClientSession() as http:
        while running.process.returncode is None:
            try:
                async with http.get(running.url):
                    return
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.02)
    await running.shut_down()
    raise AssertionError(running.output)
