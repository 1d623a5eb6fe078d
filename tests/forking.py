"""Starts Python programs in processes of their own, as quickly as a fork: see `zygote.py`."""

from __future__ import annotations

import asyncio
import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from zygote import SIZE

if TYPE_CHECKING:
    from collections.abc import Mapping

PIPE: Final = subprocess.PIPE
DEVNULL: Final = subprocess.DEVNULL
STDOUT: Final = subprocess.STDOUT
_ZYGOTE: Final = Path(__file__).with_name("zygote.py")


class Forked:
    """A running program, with the interface of `asyncio.subprocess.Process`."""

    def __init__(self, pid: int, report: asyncio.StreamReader, report_writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self._report_writer = report_writer
        self._ended = asyncio.create_task(self._end(report))

    @property
    def returncode(self) -> int | None:
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    async def communicate(self, data: bytes = b"") -> tuple[bytes, bytes]:
        """Send what the program reads, and return what it prints, up to its end."""
        _, out, err = await asyncio.gather(self._feed(data), _rest(self.stdout), _rest(self.stderr))
        await self.wait()
        return out, err

    def send_signal(self, number: int) -> None:
        if not self._ended.done():
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    async def _feed(self, data: bytes) -> None:
        if self.stdin is not None:
            try:
                self.stdin.write(data)
                await self.stdin.drain()
            except (BrokenPipeError, ConnectionResetError):
                pass  # it has read enough
            finally:
                self.stdin.close()

    async def _end(self, report: asyncio.StreamReader) -> int:
        try:
            return int.from_bytes(await report.readexactly(SIZE), "big", signed=True)
        finally:
            self._report_writer.close()


async def _rest(stream: asyncio.StreamReader | None) -> bytes:
    return b"" if stream is None else await stream.read()


async def fork(
    *words: str,
    env: Mapping[str, str],
    cwd: Path | None = None,
    stdin: int = DEVNULL,
    stdout: int | None = None,
    stderr: int | None = None,
    imported: tuple[str, ...] = ("nairi_async.cli.batch", "nairi_async.cli.conversation", "nairi_async.cli.demo"),
) -> Forked:
    """Run `python -W error WORDS`; streams are as `asyncio.create_subprocess_exec` takes them.

    Args:
        words: `-m MODULE`, `-c CODE` or a file, and arguments.
        env: All environment variables.
        cwd: The working directory; this process's by default.
        stdin: Where the program reads.
        stdout: Where it prints.
        stderr: Where it prints errors.
        imported: Modules that the program finds imported.
    """
    ours: list[BinaryIO | None] = [None, None, None]
    theirs: list[int] = []
    opened: list[int] = []
    null = os.open(os.devnull, os.O_RDWR)
    try:
        for number, wanted in enumerate((stdin, stdout, stderr)):
            if wanted == PIPE:
                reader, writer = os.pipe()
                own, other = (writer, reader) if number == 0 else (reader, writer)
                ours[number] = os.fdopen(own, "wb" if number == 0 else "rb", buffering=0)
                opened.append(other)
                theirs.append(other)
            else:
                known = {None: number, DEVNULL: null, STDOUT: theirs[-1] if theirs else 0}
                theirs.append(known[wanted] if wanted in known else int(wanted or 0))
        report, child_report = socket.socketpair()
        body = json.dumps({"words": words, "env": dict(env), "cwd": str(cwd or Path.cwd())}).encode()
        requests = _zygote(imported)
        socket.send_fds(requests, [len(body).to_bytes(SIZE, "big")], [*theirs, child_report.fileno()])
        requests.sendall(body)
        child_report.close()
    finally:
        for descriptor in (null, *opened):
            os.close(descriptor)
    reader_, writer_ = await asyncio.open_connection(sock=report)
    process = Forked(int.from_bytes(await reader_.readexactly(SIZE), "big"), reader_, writer_)
    loop = asyncio.get_running_loop()
    if ours[0] is not None:
        transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, ours[0])
        process.stdin = asyncio.StreamWriter(transport, protocol, None, loop)
    for name, pipe in (("stdout", ours[1]), ("stderr", ours[2])):
        if pipe is not None:
            stream = asyncio.StreamReader()
            await loop.connect_read_pipe(functools.partial(asyncio.StreamReaderProtocol, stream), pipe)
            setattr(process, name, stream)
    return process


@functools.cache
def _zygote(imported: tuple[str, ...]) -> socket.socket:
    """Start the process that forks, which ends with this one."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-W", "error", str(_ZYGOTE), str(theirs.fileno()), *imported]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()])  # noqa: S603 - our own

    @atexit.register
    def end() -> None:
        ours.close()
        process.wait()

    return ours
