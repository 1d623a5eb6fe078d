"""An event loop that was blocked, or a process that was stopped, for longer than a timeout: what arrived counts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import textwrap
import threading
import time
from random import Random
from typing import TYPE_CHECKING

import pytest
import support
from support import KEY, MESSAGE, STARTED, answer

from nairi_async import RequestTimeoutError, RetryPolicy, Turn
from nairi_async._core.request import CallState, Request
from nairi_async.clock import LoopIdleTimeout, LoopTimeout, SystemClock
from nairi_async.testing.deterministic import DeterministicLoop, VirtualTime

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager
    from typing import Self

    from nairi_async import NairiSession

pytestmark = pytest.mark.anyio

ONCE = RetryPolicy(attempts=1)


class ThreadedServer:
    """A server in a thread of its own, which a blocked event loop does not block: sends pieces, each after a pause."""

    def __init__(self, *pieces: tuple[float, bytes]) -> None:
        self.requests = 0
        self._closing = threading.Event()
        self._pieces = pieces
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._serve, name="blocked loop", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += connection.recv(65536)
                self.requests += 1
                for pause, piece in self._pieces:
                    self._closing.wait(pause)
                    with contextlib.suppress(OSError):
                        connection.sendall(piece)


@pytest.fixture(autouse=True)
def threads_end() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "blocked loop"]


def session(url: str) -> NairiSession:
    return support.session(url, clock=SystemClock(), request_timeout=0.4, retry=ONCE)


def block_soon(seconds: float, *, after: float = 0.1) -> None:
    """Block the event loop in a moment, as code that calculates or waits without `await` does."""
    asyncio.get_running_loop().call_later(after, time.sleep, seconds)


async def test_a_read_finds_what_arrived() -> None:
    """A response that arrived while the loop was blocked is read, though the timeout is over."""
    with ThreadedServer((0.2, answer(200, MESSAGE))) as server:
        async with session(server.url) as nairi:
            block_soon(1.0)
            assert (await nairi.message("cmsg_1")).content == "Hello"
        assert server.requests == 1


async def test_a_prompt_finds_what_arrived() -> None:
    """A prompt whose response arrived meanwhile has its turn, and no unknown outcome."""
    with ThreadedServer((0.2, answer(201, STARTED))) as server:
        async with session(server.url) as nairi:
            block_soon(1.0)
            assert await nairi.start("my-agent", "Hello") == Turn("job_1", "cmsg_1")
        assert server.requests == 1


async def test_a_large_body_that_arrived_is_read_to_its_end() -> None:
    """Megabytes take many passes of the loop after the block, and are read all the same."""
    body = b'{"messages":[' + MESSAGE.replace(b"Hello", 3_000_000 * b"x") + b"]}"
    with ThreadedServer((0.2, answer(200, body))) as server:
        async with session(server.url) as nairi:
            block_soon(1.0)
            assert len(await nairi.messages("job_1")) == 1
        assert server.requests == 1


async def test_a_loop_that_is_blocked_again_and_again() -> None:
    """Each block is left out of the time that counts."""
    with ThreadedServer((0.1, answer(200, MESSAGE)[:40]), (0.7, answer(200, MESSAGE)[40:])) as server:
        async with session(server.url) as nairi:
            block_soon(0.6, after=0.05)
            block_soon(0.6, after=0.06)
            assert (await nairi.message("cmsg_1")).content == "Hello"
        assert server.requests == 1


async def test_a_service_that_says_nothing_still_times_out() -> None:
    """After a block the wait goes on for a bounded time, not without end."""
    with ThreadedServer((60.0, b"")) as server:
        async with session(server.url) as nairi:
            block_soon(0.8)
            began = time.monotonic()
            with pytest.raises(RequestTimeoutError):
                await nairi.message("cmsg_1")
            assert 0.9 <= time.monotonic() - began <= 20


async def test_a_stream_goes_on_after_a_block() -> None:
    """Data of a stream that arrived while the loop was blocked is delivered, and the stream goes on."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = [(0.0, head + b"3\r\none\r\n"), (0.3, b"3\r\ntwo\r\n"), (0.9, b"5\r\nthree\r\n0\r\n\r\n")]
    with ThreadedServer(*pieces) as server:
        async with support.client(server.url) as http:
            request = Request(method="POST", path="/", body=b"{}", idle_timeout=0.4)
            response = await http.send(request, CallState(), 5.0)
            assert response.stream is not None
            assert await response.stream.read() == b"one"
            block_soon(1.0)
            received = b""
            while piece := await response.stream.read():
                received += piece
            assert received == b"twothree"
            response.stream.close()


STOPPED = """
    import asyncio, os, signal, sys
    from nairi_async import NairiSession, RetryPolicy

    async def main():
        options = {"request_timeout": 0.5, "retry": RetryPolicy(attempts=1)}
        async with NairiSession(sys.argv[2], base_url=sys.argv[1], **options) as nairi:
            task = asyncio.ensure_future(nairi.start("my-agent", "Hello"))
            while not nairi.stats.requests:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            print("sent", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
            print((await task).job_id, flush=True)

    asyncio.run(main())
"""


async def test_a_process_that_was_stopped_finds_what_arrived() -> None:
    """A process that is stopped (Ctrl-Z, a frozen container) for longer than the timeout reads the response."""
    with ThreadedServer((0.4, answer(201, STARTED))) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", textwrap.dedent(STOPPED), server.url, KEY, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"sent\n"
        await asyncio.sleep(1.5)
        os.kill(process.pid, signal.SIGCONT)
        assert await process.stdout.readline() == b"job_1\n"
        assert await process.wait() == 0
        assert server.requests == 1


# The timeouts by themselves.


async def late(timeout: AbstractAsyncContextManager[object]) -> None:
    async with timeout:
        await asyncio.Event().wait()


def test_a_timeout_is_on_time_while_the_loop_runs() -> None:
    """Without a block a timeout ends its block at its time."""

    async def ended_at() -> float:
        with pytest.raises(TimeoutError):
            await late(LoopTimeout(0.2))
        return asyncio.get_running_loop().time()

    loop = DeterministicLoop(VirtualTime(), Random(0))
    assert loop.run_until_complete(ended_at()) == pytest.approx(0.2, abs=0.01)
    loop.close()


async def lag(seconds: float) -> None:
    """Make every pass of the loop slow, as on a machine that is overloaded."""
    while True:
        time.sleep(seconds)  # noqa: ASYNC251 - that is what blocks
        await asyncio.sleep(0)


async def test_a_loop_that_always_lags_does_not_wait_without_end() -> None:
    """The time that is left out is bounded: at most a second, or the timeout once more."""
    slow = asyncio.create_task(lag(0.15))
    expired = asyncio.Event()
    idle = LoopIdleTimeout(0.5, expired.set)
    began = time.monotonic()
    idle.begin()
    with pytest.raises(TimeoutError):
        await late(LoopTimeout(0.5))
    await expired.wait()
    assert 0.5 <= time.monotonic() - began <= 30
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)
    idle.close()


async def test_a_cancellation_is_no_timeout() -> None:
    """A task that is cancelled inside of a timeout is cancelled, and its timer is gone."""
    task = asyncio.create_task(late(LoopTimeout(60)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_timeout_without_a_limit_has_no_timer() -> None:
    """Infinity is no limit."""
    async with LoopTimeout(float("inf")):
        await asyncio.sleep(0)


async def test_an_idle_timeout_leaves_blocks_out() -> None:
    """A wait that was only long because the loop was blocked has not expired."""
    expired = asyncio.Event()
    idle = LoopIdleTimeout(0.2, expired.set)
    idle.begin()
    time.sleep(0.5)  # noqa: ASYNC251 - that is what blocks
    await asyncio.sleep(0.05)
    assert not expired.is_set()
    await expired.wait()
    idle.close()
