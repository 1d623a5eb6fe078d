"""The real command in a process of its own, and a simulated service for it to talk to."""

from __future__ import annotations

import os
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream
from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from anyio.abc import ByteReceiveStream, Process

    from nairi_async.testing import Simulator

# Generous: only what hangs takes this long.
TIMEOUT = 30
ERROR = "nairi-async: error: "

_COMMAND = (sys.executable, "-W", "error", "-m", "nairi_async")
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
    env = environment(simulator, PYTHONIOENCODING=encoding, **extra)
    with anyio.fail_after(TIMEOUT):
        ended = await anyio.run_process([*_COMMAND, *words], input=stdin, check=False, env=env)
    return Ended(ended.returncode, ended.stdout.decode(encoding), ended.stderr.decode(encoding))


@asynccontextmanager
async def started(
    *words: str, simulator: Simulator | None = None, extra: Mapping[str, str] | None = None, **options: Any
) -> AsyncIterator[Process]:
    """Start a command; kill it at the end if it still runs."""
    with anyio.fail_after(TIMEOUT):
        process = await anyio.open_process([*_COMMAND, *words], env=environment(simulator, **(extra or {})), **options)
        async with process:
            try:
                yield process
            finally:
                if process.returncode is None:
                    process.kill()


class Lines:
    """The lines of one of the streams of a running command, as they come."""

    def __init__(self, stream: ByteReceiveStream | None) -> None:
        assert stream is not None
        self._stream = BufferedByteReceiveStream(stream)

    async def next(self) -> str:
        """Wait for the next line."""
        return (await self._stream.receive_until(b"\n", 1 << 16)).decode()

    async def rest(self) -> str:
        """Everything until the stream ends."""
        return b"".join([chunk async for chunk in self._stream]).decode()
