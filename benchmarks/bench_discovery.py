"""How many requests, bytes and seconds it takes to find news: the usual loops compared with this library.

    python benchmarks/bench_discovery.py            # a few minutes
    python benchmarks/bench_discovery.py --full     # with 10,000 conversations; much longer

Every competitor speaks real HTTP to the same simulated service in a process of its own; time is virtual (see
`service.py`), so an hour of waiting takes seconds and the counts do not depend on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import math
import multiprocessing
import random
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp
from attrs import field, frozen
from service import NOW, START, prompt, service

from nairi_async import NairiSession, Polling
from nairi_async.testing import Quirks, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

DELAY = 1.0


@frozen
class Scenario:
    """What is asked of whom, and what moves a job's `updated_at`."""

    name: str
    conversations: int
    turns: int
    moves: str = "completion"
    agents: tuple[str, ...] = ("my-agent",)
    sigma: float = 0.7
    replies_every: float = math.inf
    progress_every: float = math.inf
    weight: int = 0
    length: float | None = None
    median: float = 30.0
    window: tuple[float, float] | None = None
    """Seconds between which is counted, while conversations go on from turn to turn; else all turns are counted, but as
    many as there are conversations: how a start in one burst goes, and what it teaches, is left out for all alike."""

    def plan(self) -> list[list[tuple[str, float, str]]]:
        """For each conversation its turns: agent, length in seconds, prompt. The same for every competitor."""
        rng = random.Random(7)
        return [[self._turn(rng) for _ in range(self.turns)] for _ in range(self.conversations)]

    def _turn(self, rng: random.Random) -> tuple[str, float, str]:
        agent = rng.choice(self.agents)
        median = float(agent.partition("-")[2]) if agent.startswith("agent-") else self.median
        length = self.length or min(3600.0, median * math.exp(rng.gauss(0, self.sigma)))
        replies = max(1, round(length / self.replies_every))
        progress = round(length / self.progress_every)
        return agent, length, prompt(length, replies, progress, self.weight)


class Client(Protocol):
    """One way to ask and wait: returns the text of the reply."""

    async def ask(self, agent: str, asked: str) -> str:
        """Ask in a new conversation and wait for the reply."""
        ...


class Bare:
    """aiohttp and json, as the documentation's example does it."""

    def __init__(self, http: aiohttp.ClientSession, url: str, key: str, clock: VirtualClock) -> None:
        self._http = http
        self._base = f"{url}/api/public/v1"
        self._headers = {"Authorization": f"Bearer {key}"}
        self._clock = clock

    async def call(self, method: str, path: str, **options: Any) -> Any:
        """Make one request, bounded by a timeout, which also keeps the virtual clock from running on."""
        async with (
            self._clock.timeout(60),
            self._http.request(method, self._base + path, headers=self._headers, **options) as answer,
        ):
            return await answer.json()

    async def start(self, agent: str, asked: str) -> tuple[str, str]:
        """Begin a conversation."""
        turn = await self.call("POST", "/conversations/start", json={"agent_id": agent, "prompt": asked})
        return turn["job_id"], turn["message_id"]

    async def text(self, job: str) -> str:
        """Return the reply."""
        messages = (await self.call("GET", f"/conversations/{job}/messages"))["messages"]
        return "\n\n".join(message["content"] for message in messages if message["role"] == "assistant")


class Interval(Bare):
    """Polls the user message at intervals, then reads the conversation once."""

    first = 2.0
    factor = 1.0
    longest = 2.0

    async def ask(self, agent: str, asked: str) -> str:
        """Ask as the documentation's loop does, or one with back-off."""
        job, message = await self.start(agent, asked)
        interval = self.first
        while True:
            await self._clock.sleep(interval)
            if (await self.call("GET", f"/messages/{message}"))["status"] in {"completed", "failed"}:
                return await self.text(job)
            interval = min(self.longest, interval * self.factor)


class BackOff(Interval):
    """Exponential back-off, as commonly configured."""

    first, factor, longest = 1.0, 1.5, 30.0


class Provider(Bare):
    """The vendor's provider: the user message and the whole conversation, every two seconds."""

    async def ask(self, agent: str, asked: str) -> str:
        """Poll with two requests."""
        job, message = await self.start(agent, asked)
        while True:
            await self._clock.sleep(2.0)
            status = (await self.call("GET", f"/messages/{message}"))["status"]
            text = await self.text(job)
            if status in {"completed", "failed"}:
                return text


class Ours:
    """This library."""

    def __init__(self, nairi: NairiSession) -> None:
        self._nairi = nairi

    async def ask(self, agent: str, asked: str) -> str:
        """Ask with one call."""
        return (await self._nairi.ask(agent, asked)).text


@frozen
class Measured:
    """One row of the table."""

    client: str
    requests: float
    kilobytes: float
    mean: float
    late: float
    cpu: float
    memory: float
    wrong: int
    exported: dict[str, Any] = field(factory=dict, repr=False)


@frozen
class Mark:
    """The counts at one time."""

    turns: int
    requests: int
    received: int
    cpu: float


async def run(
    client: str, make: Callable[[aiohttp.ClientSession, str, str, VirtualClock], Any], scenario: Scenario, served: Any
) -> Measured:
    """Let one client hold all conversations at once, against a fresh service."""
    clock = VirtualClock(START)

    async def with_time(
        request: aiohttp.ClientRequest, send: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]
    ) -> aiohttp.ClientResponse:
        request.headers[NOW] = repr(clock.time())
        return await send(request)

    delays: list[float] = []
    wrong = 0
    warm_up = scenario.conversations if scenario.turns > 1 else 0
    until = math.inf

    def mark() -> Mark:
        counted = served.counted()
        return Mark(len(delays), counted["requests"], counted["bytes"], time.process_time())

    first = last = mark()

    async def converse(talker: Client, turns: list[tuple[str, float, str]]) -> None:
        nonlocal wrong, first
        for agent, length, asked in turns:
            started_at = clock.monotonic()
            if started_at >= until:
                break
            text = await talker.ask(agent, asked)
            delays.append(clock.monotonic() - started_at - length)
            wrong += not text.endswith("done") or text.count("done") != 1
            if len(delays) == warm_up and scenario.window is None:
                first = mark()

    async def watch_the_window(begin: float, end: float) -> None:
        nonlocal first, last, until
        until = clock.monotonic() + end
        await clock.sleep(begin)
        first = mark()
        await clock.sleep(end - begin)
        last = mark()

    plan = scenario.plan()
    connector = aiohttp.TCPConnector(limit=100)
    async with aiohttp.ClientSession(connector=connector, middlewares=(with_time,)) as http:
        made = make(http, served.url, served.key, clock)
        gc.collect()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        exported: dict[str, Any] = {}
        window = () if scenario.window is None else (watch_the_window(*scenario.window),)
        if isinstance(made, NairiSession):
            async with made:
                await asyncio.gather(*window, *(converse(Ours(made), turns) for turns in plan))
                exported = made.cadence.export()
        else:
            await asyncio.gather(*window, *(converse(made, turns) for turns in plan))
        end = mark()
        last = end if scenario.window is None else last
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    wrong += abs(served.counted()["prompts"] - len(delays))
    turns = last.turns - first.turns
    ordered = sorted(delays[first.turns : last.turns])
    return Measured(
        client=client,
        requests=(last.requests - first.requests) / turns,
        kilobytes=(last.received - first.received) / turns / 1000,
        mean=statistics.fmean(ordered),
        late=ordered[int(0.95 * len(ordered))],
        cpu=(last.cpu - first.cpu) / turns * 1000,
        memory=memory / scenario.conversations,
        wrong=wrong,
        exported=exported,
    )


def _alone(arguments: tuple[str, Scenario, float, dict[str, Any] | None]) -> Measured:
    """One measurement in a process of its own, so that it shares neither memory nor caches with another."""
    client, scenario, parameter, learnt = arguments
    classes: dict[str, type[Bare]] = {
        "documentation, 2 s": Interval,
        "provider, 2 x 2 s": Provider,
        "back-off": BackOff,
    }

    def make(http: aiohttp.ClientSession, url: str, key: str, clock: VirtualClock) -> Any:
        if client in classes:
            return classes[client](http, url, key, clock)
        if client.startswith("fixed"):
            fixed = Interval(http, url, key, clock)
            fixed.first = fixed.longest = parameter
            return fixed
        polling = Polling(delay=parameter)
        return NairiSession(key, base_url=url, http=http, clock=clock, polling=polling, cadence=learnt)

    moves: Any = scenario.moves
    quirks = Quirks(listing=False) if moves == "no listing" else Quirks(updated_at_moves=moves)
    with service(quirks) as served:
        return asyncio.run(run(client, make, scenario, served))


def measure(
    client: str, scenario: Scenario, parameter: float = DELAY, learnt: dict[str, Any] | None = None
) -> Measured:
    """Measure one row of the table."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_alone, (client, scenario, parameter, learnt)).result()


MIX = ("agent-5", "agent-30", "agent-180")
SCENARIOS = [
    Scenario("1 conversation, one agent", 1, 400, "no listing"),
    Scenario("100, one agent, listing useless", 100, 12, "never"),
    Scenario("100, mix of agents, no listing", 100, 12, "no listing", MIX),
    Scenario("100, one agent, completions listed", 100, 8, "completion"),
    Scenario("1,000, one agent, completions listed", 1000, 4, "completion"),
    Scenario("1,000, one agent, each reply listed", 1000, 4, "reply", replies_every=13.0),
    Scenario("1,000 open, completions listed", 1000, 99, "completion", median=48.0, window=(200.0, 400.0)),
    Scenario("1,000 open, replies listed", 1000, 99, "reply", median=48.0, window=(200.0, 400.0), replies_every=13.0),
    Scenario("100, one agent, each progress listed", 100, 6, "progress", progress_every=1.5, weight=200),
    Scenario("1, heavy timeline (3,000 x 1 KB)", 1, 3, "no listing", progress_every=0.1, weight=1000, length=300.0),
]
FULL = [
    Scenario("1,000, mix of agents, no listing", 1000, 4, "no listing", MIX),
    Scenario("10,000, one agent, completions listed", 10_000, 1, "completion"),
    Scenario("10,000, mix of agents, no listing", 10_000, 1, "no listing", MIX),
]
HEADER = f"{'':<22}{'requests':>9}{'KB':>9}{'delay':>8}{'95 %':>8}{'CPU ms':>9}{'mem KB':>8}{'wrong':>7}"


def show(row: Measured, name: str | None = None) -> None:
    """Print a row, as soon as it is there."""
    print(
        f"{name or row.client:<22}{row.requests:>9.2f}{row.kilobytes:>9.1f}{row.mean:>8.2f}{row.late:>8.2f}"
        f"{row.cpu:>9.1f}{row.memory:>8.1f}{row.wrong:>7}",
        flush=True,
    )


def main() -> None:
    """Print one table; each row is one client in one scenario, per turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="larger scenarios as well")
    parser.add_argument("--quick", action="store_true", help="only the fixed interval and this library")
    parser.add_argument("--only", default="", help="only scenarios whose name holds this text")
    options = parser.parse_args()
    print("per turn, prompt included, after the first turns: requests, kilobytes received, seconds of discovery delay")
    print("(mean, 95th percentile), CPU of the client; per conversation: growth of the client's memory;")
    print("wrong: replies lost, doubled or run twice, in all\n")
    for scenario in [*SCENARIOS, *(FULL if options.full else [])]:
        if options.only not in scenario.name:
            continue
        print(f"{scenario.name}\n{HEADER}")
        ours = measure("ours", scenario)
        learnt = measure("ours", scenario, learnt=ours.exported)
        for client in () if options.quick else ("documentation, 2 s", "provider, 2 x 2 s", "back-off"):
            show(measure(client, scenario))
        show(measure("fixed", scenario, 2 * learnt.mean), "fixed, equal delay")
        show(ours)
        show(learnt, "ours, learnt before")
        print()


if __name__ == "__main__":
    main()
