"""The simulated service in a process of its own, which takes the time from each request.

Time is virtual: clients send their time with each request, and the service responds as it would then. So hours pass in
seconds, over real HTTP, and what is counted does not depend on the speed of the machine.
"""

from __future__ import annotations

import asyncio
import contextvars
import multiprocessing
from contextlib import contextmanager
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from nairi_async.clock import SystemClock
from nairi_async.testing import Done, Quirks, Say, Simulator, Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import web

    from nairi_async.testing.script import ScriptStep

NOW = "X-Now"
"""The header with the client's time."""
START = 1_775_000_000.0
_now = contextvars.ContextVar("_now", default=START)


class _NamedTime(SystemClock):
    """The time that the request at hand has named."""

    def monotonic(self) -> float:
        return _now.get() - START

    def time(self) -> float:
        return _now.get()


async def _take_time(request: web.Request) -> None:
    _now.set(float(request.headers.get(NOW, START)))


async def _tell_time(_request: web.Request, response: web.StreamResponse) -> None:
    # The simulator reads its clock before the request names the time.
    response.headers["Date"] = formatdate(_now.get(), usegmt=True)


def prompt(length: float, replies: int = 1, progress: int = 0, weight: int = 0) -> str:
    """Return the prompt for a turn of so many seconds, with so many replies and progress entries."""
    return f"{length} {replies} {progress} {weight}"


def script(asked: str, _turn: int) -> list[ScriptStep]:
    """Return the turn that a prompt describes; entries are spread evenly, the last reply is the end."""
    length, replies, progress, weight = (float(part) for part in asked.split())
    count = int(replies + progress)
    steps: list[ScriptStep] = []
    for number in range(1, count):
        is_reply = number * int(replies) // count > (number - 1) * int(replies) // count
        after = length / count
        steps.append(Say("more", after=after) if is_reply else Text("x" * int(weight), after=after))
    return [*steps, Say("done", after=length / count), Done()]


def _serve(pipe: Any, quirks: Quirks, *, is_real: bool) -> None:
    async def main() -> None:
        clock = SystemClock() if is_real else _NamedTime()
        async with Simulator(clock=clock, quirks=quirks) as simulator:
            if not is_real:
                simulator.intercept, simulator.intercept_response = _take_time, _tell_time
            for slug in ("my-agent", "agent-5", "agent-30", "agent-180"):
                simulator.agent(slug, script)
            pipe.send((simulator.url, simulator.api_key))
            while await asyncio.to_thread(pipe.recv):
                seen = simulator.requests
                pipe.send(
                    {
                        "requests": len(seen),
                        "bytes": sum(request.response_bytes for request in seen),
                        "prompts": len(simulator.prompts),
                    }
                )

    asyncio.run(main())


class Service:
    """A handle on the process."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self.url, self.key = pipe.recv()

    def counted(self) -> dict[str, int]:
        """Return what the service has counted so far."""
        self._pipe.send("count")
        counts: dict[str, int] = self._pipe.recv()
        return counts


@contextmanager
def service(quirks: Quirks, *, is_real: bool = False) -> Iterator[Service]:
    """Run the service in a process of its own, until the block ends; with `is_real`, its time is the real one."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, quirks), kwargs={"is_real": is_real}, daemon=True)
    process.start()
    try:
        yield Service(here)
    finally:
        here.send("")
        process.join(5)
        process.kill()
