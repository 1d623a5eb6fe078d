"""The simulated service in real time, in a process of its own, over HTTP; and the turns that prompts describe."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from child_process import child

from nairi_async.testing import Done, Quirks, Say, Simulator, Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nairi_async.testing.script import ScriptStep


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


def _serve(pipe: Any, quirks: Quirks) -> None:
    async def main() -> None:
        async with Simulator(quirks=quirks) as simulator:
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
def service(quirks: Quirks) -> Iterator[Service]:
    """Run the service until the block ends."""
    with child(_serve, quirks) as pipe:
        yield Service(pipe)
