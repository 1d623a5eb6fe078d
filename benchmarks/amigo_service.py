"""The simulated Amigo in a process of its own, in real time, with a script for each message that a benchmark sends."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from child_process import child

from nairi_async.testing.amigo import Action, AmigoQuirks, AmigoSimulator, Complete, Cut, Error, Line, Speak

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import web

    from nairi_async.testing.amigo.script import Steps

_TEXT = "A few words at a time, as a model says them. "

FAULTS: dict[str, Steps] = {
    "good": "Hello there",
    "unknown event": [Line({"type": "brand-new"}), Speak("Hello")],
    "unknown action": [Action("dynamic-behavior-triggered", {"dynamic_behavior": "x"}), Speak("Hello")],
    "separator": [Speak("Hello\u2028there", pieces=1)],
    "garbage": [Line("<html>bad gateway</html>"), Speak("Hello")],
    "ends early": [Speak("Hello"), Cut(clean=True)],
    "cut": [Speak("Hello"), Cut()],
    "void": [Speak("Hello"), Error(500, "the model failed")],
    "saved, then failed": [Speak("Hello"), Complete(), Error(500, "the analysis failed")],
    "slow": [Speak("Hello"), Speak(" there", after=30.0)],
}


def script(message: str, _turn: int) -> Steps:
    """Return the turn that a message asks for: a fault, or `count seconds`: so many events, so far apart."""
    if message in FAULTS:
        return FAULTS[message]
    count, gap = message.split()
    pieces = int(count)
    return [Speak((_TEXT * pieces)[: pieces * len(_TEXT)], pieces=pieces, every=float(gap))]


class _Service:
    """What the benchmark may ask of the process."""

    def __init__(self, simulator: AmigoSimulator) -> None:
        self.simulator = simulator
        self.simulator.intercept_response = self._late
        self.simulator.intercept = self._slow
        self._spread = 0.0
        self._refused = 0
        self._finish_takes = 0.0

    def quirks(self, **quirks: Any) -> None:
        self.simulator.quirks = AmigoQuirks(one_unfinished=False, **quirks)

    def refuse(self, *arguments: Any, **options: Any) -> None:
        self.simulator.refuse(*arguments, **options)

    def clear(self) -> None:
        self.simulator.forgive()

    def finish_takes(self, seconds: float) -> None:
        self._finish_takes = seconds

    def expire_tokens(self, spread: float = 0.0) -> None:
        """Refuse all tokens; of twenty refusals at once each comes a little later than the one before."""
        self._spread, self._refused = spread / 20, 0
        self.simulator.expire_tokens()

    def counts(self) -> dict[str, int]:
        world = self.simulator._state  # noqa: SLF001 - open streams are nothing that users ask for
        return {
            "sign_ins": self.simulator.sign_ins,
            "asked": len(self.simulator.asked),
            "open": sum(one.streams for one in world.conversations.values()),
        }

    async def _slow(self, request: web.Request) -> None:
        if self._finish_takes and request.path.endswith("/finish/"):
            await asyncio.sleep(self._finish_takes)

    async def _late(self, _request: web.Request, response: web.StreamResponse) -> None:
        if response.status == 401 and self._spread:
            self._refused += 1
            await asyncio.sleep(self._spread * self._refused)


def _serve(pipe: Any) -> None:
    async def main() -> None:
        async with AmigoSimulator(script, quirks=AmigoQuirks(one_unfinished=False)) as simulator:
            service = _Service(simulator)
            pipe.send((simulator.environment, simulator.service_id))
            while command := await asyncio.to_thread(pipe.recv):
                name, arguments, options = command
                pipe.send(getattr(service, name)(*arguments, **options))

    asyncio.run(main())


class Remote:
    """A handle on the process."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        environment, self.service_id = pipe.recv()
        self.known: dict[str, str] = {name.removeprefix("AMIGO_").lower(): value for name, value in environment.items()}

    def __call__(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the service."""
        self._pipe.send((name, arguments, options))
        return self._pipe.recv()


@contextmanager
def amigo_service() -> Iterator[Remote]:
    """Run the service in a process of its own, until the block ends."""
    with child(_serve) as pipe:
        yield Remote(pipe)
