"""The command in a process of its own, and a simulated service for it to talk to."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from attrs import frozen
from forking import PIPE, Forked, fork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from nairi_async.testing import Simulator

# Generous: only what hangs takes this long.
TIMEOUT = 120
ERROR = "nairi-async: error: "

_COMMAND = ("-m", "nairi_async")
_OURS = ("NAIRI_", "NO_COLOR", "PYTHONIOENCODING", "PYTHONUNBUFFERED", "COLUMNS")


@frozen
class Ended:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The error, which takes exactly one line."""
        lines = [line for line in self.err.splitlines() if line.startswith(ERROR)]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0].removeprefix(ERROR)


def environment(simulator: Simulator | None = None, **extra: str) -> dict[str, str]:
    """Return a command's environment: ours without what would change its output, and the way to the service."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    way = {} if simulator is None else {"NAIRI_BASE_URL": simulator.url, "NAIRI_API_KEY": simulator.api_key}
    return {**kept, "PYTHONIOENCODING": "utf-8", "TERM": "xterm", **way, **extra}


async def run(
    *words: str, simulator: Simulator | None = None, stdin: bytes = b"", encoding: str = "utf-8", **extra: str
) -> Ended:
    """Run a command to its end; further keywords are environment variables."""
    async with asyncio.timeout(TIMEOUT):
        env = environment(simulator, PYTHONIOENCODING=encoding, **extra)
        process = await fork(*_COMMAND, *words, env=env, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        out, err = await process.communicate(stdin)
    return Ended(await process.wait(), out.decode(encoding), err.decode(encoding))


@asynccontextmanager
async def started(
    *words: str,
    simulator: Simulator | None = None,
    extra: Mapping[str, str] | None = None,
    stdout: int = PIPE,
    stderr: int = PIPE,
) -> AsyncIterator[Forked]:
    """Start a command; kill it at the end if it still runs."""
    async with asyncio.timeout(TIMEOUT):
        env = environment(simulator, **(extra or {}))
        process = await fork(*_COMMAND, *words, env=env, stdin=PIPE, stdout=stdout, stderr=stderr)
        try:
            yield process
        finally:
            process.kill()
            await process.communicate()


class Lines:
    """The lines of one of the streams of a running command, as they come."""

    def __init__(self, stream: asyncio.StreamReader | None) -> None:
        assert stream is not None
        self._stream = stream

    async def next(self) -> str:
        """Wait for the next line."""
        return (await self._stream.readuntil(b"\n")).decode().removesuffix("\n")

    async def rest(self) -> str:
        """Everything until the stream ends."""
        return (await self._stream.read()).decode()
