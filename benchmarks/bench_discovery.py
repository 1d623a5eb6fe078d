"""How many requests and seconds it takes to find news: the usual loops compared with this library, on every ground.

    python benchmarks/bench_discovery.py            # ten minutes on two quiet cores
    python benchmarks/bench_discovery.py --quick    # a few minutes: smaller, one run each
    python benchmarks/bench_discovery.py --only cold
    python benchmarks/bench_discovery.py --real 10000   # in real time, with the service in a process of its own

Every client reaches the same simulated service in memory (`in_memory_session`), each at most 100 requests at once, and
with the same latency; time is virtual, so an hour takes seconds and the counts do not depend on the machine. All
clients of a row run the same turns. The loops that people write are made of this library's single requests
(`message`, `messages`), so only the times at which they poll differ.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import multiprocessing
import random
import statistics
import time
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aiohttp import web
from attrs import evolve, field, frozen
from service import prompt, script, service

import nairi_async.testing.clock
from nairi_async import NairiSession, OutcomeUnknownError, Polling, ServerError
from nairi_async.testing import Quirks, Simulator, VirtualClock, in_memory_session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from multiprocessing.pool import AsyncResult, Pool

    from nairi_async import Message, Turn

_T = TypeVar("_T")

HOUR: Final = 3600.0
# Conversations of a row that the usual loops hold, at most; the plan of their turns is the same.
_MOST_LOOPS: Final = 150
# The same for those that follow idle conversations.
_FOLLOWING_LOOPS: Final = 5
# Passes of the event loop before virtual time goes on: without sockets a task needs fewer until its next request. With
# 30 as over HTTP, and with 3, all figures are the same; more than half of the time went into these.
_IDLE_PASSES: Final = 6
# Rows that are measured ahead of the one that is printed next.
_AHEAD: Final = 2


@frozen
class Scenario:
    """What is asked of whom, and how the service behaves."""

    name: str
    conversations: int
    turns: int = 1
    median: float = 60.0
    sigma: float = 0.7
    latency: float = 0.03
    warm: int = 0
    """Turns of the agent before those that count."""
    agents: int = 1
    medians: tuple[float, ...] = ()
    """Where the agents differ: the median of each."""
    is_mixed: bool = False
    """Whether each turn is of an agent drawn at random; otherwise a conversation stays with its agent."""
    instances: int | None = None
    quirks: dict[str, Any] = field(factory=lambda: {"updated_at_moves": "completion"})
    outage: str = ""
    """What fails between one minute and two: "all" or "listing"."""
    most_loops: int = _MOST_LOOPS
    kind: str = "ask"
    """What is done: "ask", "night", "late collection" or "follow"."""

    def plan(self, seed: int) -> list[list[tuple[str, str]]]:
        """Return for each conversation its turns: agent and prompt. The same for every client."""
        rng = random.Random(seed)
        return [
            [self._turn(rng, number % self.agents) for _ in range(self.turns)] for number in range(self.conversations)
        ]

    def for_loops(self) -> Scenario:
        """Return the least that gives a loop the same figures: it learns nothing, and reads no listing.

        Each of its conversations is independent of the others, so a share of them is enough.
        """
        most = _FOLLOWING_LOOPS if self.kind == "follow" else self.most_loops
        return evolve(
            self,
            name="",
            conversations=min(most, self.conversations),
            warm=0,
            quirks={name: quirk for name, quirk in self.quirks.items() if name not in {"updated_at_moves", "listing"}},
            outage="" if self.outage == "listing" else self.outage,
            kind="ask" if self.kind == "night" else self.kind,
        )

    def _turn(self, rng: random.Random, number: int) -> tuple[str, str]:
        number = rng.randrange(self.agents) if self.is_mixed else number
        median = self.medians[number % len(self.medians)] if self.medians else self.median
        return f"agent-{number}", prompt(min(3600.0, median * math.exp(rng.gauss(0, self.sigma))))


class Loop:
    """Polls the user message at intervals, then reads the conversation once."""

    def __init__(self, nairi: NairiSession, clock: VirtualClock, first: float, factor: float, longest: float) -> None:
        self._nairi = nairi
        self._clock = clock
        self._first, self._factor, self._longest = first, factor, longest

    async def wait(self, turn: Turn) -> list[Message]:
        """Return the messages of the conversation once the turn has ended."""
        interval = self._first
        while True:
            await self._clock.sleep(interval)
            if (await self._nairi.message(turn.message_id)).is_terminal:
                return await self._nairi.messages(turn.job_id)
            interval = min(self._longest, interval * self._factor)


class Provider(Loop):
    """The vendor's provider: the user message and the whole conversation, every two seconds."""

    async def wait(self, turn: Turn) -> list[Message]:
        """Poll with two requests."""
        while True:
            await self._clock.sleep(2.0)
            prompted = await self._nairi.message(turn.message_id)
            messages = await self._nairi.messages(turn.job_id)
            if prompted.is_terminal:
                return messages


class Ours(Loop):
    """This library."""

    async def wait(self, turn: Turn) -> list[Message]:
        """Wait with one call."""
        return list((await self._nairi.reply(turn, timeout=None)).messages)


CLIENTS: dict[str, tuple[type[Loop], float, float, float]] = {
    "documentation, 2 s": (Loop, 2.0, 1.0, 2.0),
    "provider, 2 x 2 s": (Provider, 2.0, 1.0, 2.0),
    "back-off": (Loop, 1.0, 1.5, 30.0),
    "ours": (Ours, 0.0, 1.0, 0.0),
}


@frozen
class Measured:
    """What one client needed for a turn, or for an hour of following."""

    requests: float
    mean: float
    worst: float
    wrong: int


async def run(client: str, interval: float, scenario: Scenario, seed: int) -> Measured:
    """Let one client hold all conversations at once, against a fresh service."""
    random.seed(seed)  # the jitter of the session
    clock, jitter = VirtualClock(), random.Random(seed)
    simulator = Simulator(clock=clock, quirks=Quirks(**scenario.quirks))
    for number in range(scenario.agents):
        simulator.agent(f"agent-{number}", script, instances=scenario.instances)

    async def fail(request: web.Request) -> web.Response | None:
        is_out = 60.0 <= clock.monotonic() < 120.0 and (scenario.outage == "all" or "/agents/" in request.path)
        return web.Response(status=503, text="no") if is_out else None

    async def travel() -> None:
        with clock.stalled():
            await clock.sleep(scenario.latency / 2.0 * (0.75 + jitter.random() / 2.0))

    if scenario.outage:
        simulator.intercept = fail
    async with in_memory_session(simulator, travel=travel, polling=Polling(delay=1.0)) as nairi:
        made, *intervals = CLIENTS.get(client) or (Loop, interval, 1.0, interval)
        bench = Bench(nairi, simulator, clock, made(nairi, clock, *intervals), scenario)
        return await bench.measure(scenario.plan(seed), is_ours=made is Ours)


class Bench:
    """One client in one scenario."""

    def __init__(
        self, nairi: NairiSession, simulator: Simulator, clock: VirtualClock, client: Loop, scenario: Scenario
    ) -> None:
        self._nairi, self._simulator, self._clock, self._client = nairi, simulator, clock, client
        self._scenario = scenario
        self._delays: list[float] = []
        self._wrong = 0

    def polls(self) -> int:
        """Return the requests up to now, prompts left out."""
        return sum(request.method == "GET" for request in self._simulator.requests)

    async def measure(self, plan: list[list[tuple[str, str]]], *, is_ours: bool) -> Measured:
        """Hold the conversations, and return what they took."""
        kind = self._scenario.kind
        if self._scenario.warm:
            warm = self._scenario.plan(99)
            await asyncio.gather(*(self.converse(warm[number % len(warm)]) for number in range(self._scenario.warm)))
        if kind == "night":
            # A few long turns for six hours, then the day that counts.
            long = [[("agent-0", prompt(HOUR * 2.0))] * 3 for _ in range(5)]
            await asyncio.gather(*map(self.converse, long))
        if kind == "follow":
            return await self.follow(is_ours=is_ours)
        self._delays.clear()
        before = self.polls()
        if kind == "late collection":
            turns = await asyncio.gather(*(self._nairi.start(*turns[0]) for turns in plan))
            await self._clock.sleep(300.0)
            await asyncio.gather(*map(self.collect, turns))
            self._delays.clear()
            plan = self._scenario.plan(98)
        await asyncio.gather(*map(self.converse, plan))
        turns_ended = sum(map(len, plan)) * (2 if kind == "late collection" else 1)
        return Measured(
            (self.polls() - before) / turns_ended, statistics.fmean(self._delays), max(self._delays), self._wrong
        )

    async def converse(self, turns: list[tuple[str, str]]) -> None:
        """Hold one conversation, turn after turn without a pause; with another agent, another conversation begins."""
        turn: Turn | None = None
        last_agent = ""
        for agent, asked in turns:
            is_new = turn is None or agent != last_agent
            send = partial(self._nairi.start, agent) if turn is None or is_new else partial(self._nairi.continue_, turn)
            turn, last_agent = await self.insist(partial(send, asked)), agent
            await self.collect(turn)

    async def insist(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Make a call again while the service is out for longer than the session's retries last."""
        while True:
            try:
                return await call()
            except (ServerError, OutcomeUnknownError):
                await self._clock.sleep(1.0)

    async def collect(self, turn: Turn) -> None:
        """Wait for one turn, and note how late its end was found."""
        messages = await self.insist(partial(self._client.wait, turn))
        done = [message for message in messages if message.role == "assistant" and message.content == "done"]
        if not done or done[-1].created_at is None:
            self._wrong += 1
            return
        ended_at = done[-1].created_at.timestamp() + self._scenario.quirks.get("status_lag", 0.0)
        self._delays.append(self._clock.time() - ended_at)

    async def follow(self, *, is_ours: bool) -> Measured:
        """Follow idle conversations for an hour, and return the requests for each; then one is continued elsewhere."""
        many = self._scenario.conversations
        turns = [await self._nairi.start("agent-0", prompt(5.0 + number)) for number in range(many)]
        seen: dict[str, float] = {}

        async def watch(turn: Turn) -> None:
            async for message in self._nairi.watch(turn.job_id, follow=True):
                seen.setdefault(message.id, self._clock.time())

        async def loop(turn: Turn) -> None:
            while True:
                for message in await self._nairi.messages(turn.job_id):
                    seen.setdefault(message.id, self._clock.time())
                await self._clock.sleep(2.0)

        tasks = [asyncio.create_task((watch if is_ours else loop)(turn)) for turn in turns]
        await self._clock.sleep(120.0 + many)
        before = self.polls()
        await self._clock.sleep(HOUR)
        polls = (self.polls() - before) / many
        late = []
        for turn in turns[:5]:
            foreign = await self.prompt_elsewhere(turn)
            await self._clock.sleep(200.0)
            late += [seen.get(one.id, math.inf) - one.created_at.timestamp() for one in foreign if one.created_at]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return Measured(polls, statistics.fmean(late), max(late), int(max(late) == math.inf))

    async def prompt_elsewhere(self, turn: Turn) -> list[Message]:
        """Continue a conversation as another program does, and return its user message."""
        async with in_memory_session(self._simulator) as other:
            sent = await other.continue_(turn, prompt(20.0))
            return [await other.message(sent.message_id)]


def scenarios(*, is_quick: bool) -> list[Scenario]:
    """Return the rows of the table."""
    some, many, most, queued = (36, 120, 300, 24) if is_quick else (100, 1000, 10_000, 60)
    never, replies = {"updated_at_moves": "never"}, {"updated_at_moves": "reply"}
    mix = Scenario(
        "no listing, mix of 3 agents",
        60,
        turns=4 if is_quick else 8,
        agents=3,
        medians=(5, 30, 180),
        quirks={"listing": False},
    )
    rows = [
        Scenario("cold, no latency", many, latency=0.0),
        Scenario("cold, 30 ms", many),
        Scenario("cold, 100 ms", many, latency=0.1),
        Scenario("cold, turns of 300 s", many, median=300.0),
        Scenario("cold, many", most),
        Scenario("warm, one round", some, warm=some),
        Scenario("warm, six rounds", some, turns=6, median=30.0, warm=some),
        Scenario("chats that go on at once", some, turns=6, median=30.0, quirks=replies),
        Scenario("serial agent", queued, median=30.0, sigma=0.5, instances=1),
        Scenario("serial agent, listing lies", queued, median=30.0, sigma=0.5, instances=1, quirks=never),
        Scenario("a night, then a day", some, turns=4, median=30.0, kind="night"),
        Scenario("a minute's outage", some, turns=8, median=30.0, outage="all"),
        Scenario("the listing fails for a minute", some, turns=8, median=30.0, outage="listing"),
        Scenario("status 1 s after the reply", some, turns=4, median=30.0, quirks={**replies, "status_lag": 1.0}),
        Scenario("late collection", some, median=30.0, kind="late collection"),
        Scenario("20 agents", 12 * 20, turns=4, median=30.0, agents=20),
        Scenario("listing lies", some, turns=4, median=30.0, quirks=never),
        mix,
        evolve(mix, name="no listing, each turn one of 3 agents", is_mixed=True),
        Scenario(
            "no listing, one conversation", 1, turns=60 if is_quick else 200, median=30.0, quirks={"listing": False}
        ),
        Scenario("idle follower, an hour", 1, kind="follow", quirks=replies),
        Scenario("50 idle followers, an hour each", 50, kind="follow", quirks=replies),
    ]
    return [evolve(row, most_loops=36) for row in rows] if is_quick else rows


def _alone(arguments: tuple[str, float, Scenario, int]) -> Measured:
    nairi_async.testing.clock.IDLE_PASSES = _IDLE_PASSES
    return asyncio.run(run(*arguments))


def median_of(runs: list[Measured]) -> Measured:
    """Return the run whose requests are the median; wrong replies of all runs."""
    middle = sorted(runs, key=lambda one: one.requests)[len(runs) // 2]
    return Measured(middle.requests, middle.mean, max(one.worst for one in runs), sum(one.wrong for one in runs))


def shown(measured: Measured) -> str:
    """Return one cell of the table: requests for each turn, and the mean and worst delay."""
    wrong = f", {measured.wrong} WRONG" if measured.wrong else ""
    return f"{measured.requests:.1f} ({measured.mean:.1f}, {measured.worst:.0f}{wrong})"


class Runs:
    """The runs of all rows, each made once: many rows mean the same to a loop."""

    def __init__(self, pool: Pool, seeds: int) -> None:
        self._pool = pool
        self._seeds = seeds
        self._made: dict[str, list[AsyncResult[Measured]]] = {}

    def of(self, client: str, interval: float, row: Scenario) -> list[AsyncResult[Measured]]:
        """Begin the runs of one client in one row, unless they were begun, and return them."""
        if client != "ours":
            row = row.for_loops()
        if row.kind == "follow" and client != "ours":
            client, interval = "loop", 0.0  # All loops that follow are the same one.
        key = repr((client, interval, row))
        if key not in self._made:
            arguments = [(client, interval, row, seed) for seed in range(self._seeds)]
            self._made[key] = [self._pool.apply_async(_alone, [one]) for one in arguments]
        return self._made[key]

    def begin(self, row: Scenario) -> None:
        """Begin all runs of a row that do not depend on the figures of another."""
        for client in ("ours", *CLIENTS):
            self.of(client, 0.0, row)

    def line(self, row: Scenario) -> str:
        """Wait for the runs of a row, and return its line of the table."""
        ours = median_of([one.get() for one in self.of("ours", 0.0, row)])
        # A loop sleeps after each response, and then reads the conversation: four latencies that are not interval.
        interval = max(1.0, 2.0 * ours.mean - 4.0 * row.latency)
        runs = [self.of(name, 0.0, row) for name in CLIENTS if name != "ours"] + [self.of("fixed", interval, row)]
        *loops, fixed = [median_of([one.get() for one in each]) for each in runs]
        cells = " | ".join(map(shown, (*loops, fixed, ours)))
        return f"| {row.name} | {row.conversations * row.turns:,} | {cells} | {ours.requests / fixed.requests:.2f} |"


def tabulate(rows: list[Scenario], runs: int, workers: int) -> None:
    """Measure and print row after row."""
    print("GETs for each turn, the last read included (mean and worst delay in seconds); medians\n")
    print(
        "| scenario | turns | documentation, 2 s | provider, 2 x 2 s | back-off | fixed, equal delay | ours | ratio |"
    )
    print("| --- | ---: | --- | --- | --- | --- | --- | ---: |", flush=True)
    context = multiprocessing.get_context("spawn")
    # Not the executor of concurrent.futures: with `max_tasks_per_child` it never ends on some versions of Python
    # (https://github.com/python/cpython/issues/115634).
    with context.Pool(workers, maxtasksperchild=8) as pool:
        made = Runs(pool, runs)
        for number, row in enumerate(rows):
            for ahead in rows[number : number + 1 + _AHEAD]:
                made.begin(ahead)
            print(made.line(row), flush=True)


async def in_real_time(many: int, length: float) -> None:
    """Hold many conversations at once over HTTP, with the service in a process of its own on the same machine."""
    with service(Quirks(updated_at_moves="completion")) as served:
        rng = random.Random(7)
        lengths = [min(900.0, length * math.exp(rng.gauss(0, 0.7))) for _ in range(many)]
        delays: list[float] = []
        # Found while no prompt waited for a connection.
        unhindered: list[float] = []
        texts: list[str] = []
        async with NairiSession(served.key, base_url=served.url) as nairi:
            marks = [(0.0, 0.0, 0)]
            began, cpu = time.monotonic(), time.process_time()

            async def sample() -> None:
                while True:
                    await asyncio.sleep(10.0 if time.monotonic() - began < 60.0 else 60.0)
                    marks.append((time.monotonic() - began, time.process_time() - cpu, nairi.stats.requests))

            sampler = asyncio.create_task(sample())
            asked = (prompt(seconds) for seconds in lengths)
            async for outcome in nairi.ask_many("my-agent", asked, limit=many):
                if outcome.reply is None or outcome.reply.messages[-1].created_at is None:
                    continue
                texts.append(outcome.reply.text)
                ended_at = outcome.reply.messages[-1].created_at.timestamp()
                delays.append(time.time() - ended_at)
                if not nairi.stats.waiting_calls:
                    unhindered.append(delays[-1])
            sampler.cancel()
            seconds, used = time.monotonic() - began, time.process_time() - cpu
            delays.sort()
            print(f"{many:,} conversations in real time, turns of {length:.0f} s (median): {seconds:.0f} s")
            print(f"replies {len(texts):,}, wrong {sum(text != 'done' for text in texts)}; {nairi.stats}")
            late = f"95 % {delays[int(0.95 * len(delays))]:.2f}, worst {delays[-1]:.1f}"
            print(f"delay: mean {statistics.fmean(delays):.2f}, {late}")
            print(f"while no request waited: {len(unhindered):,}, mean {statistics.fmean(unhindered or [0.0]):.2f}")
            print(f"client CPU: {used:.1f} s in all")
            for (t0, c0, r0), (t1, c1, r1) in pairwise(marks):
                cores, rate = (c1 - c0) / (t1 - t0), (r1 - r0) / (t1 - t0)
                print(f"  {t0:5.0f} to {t1:5.0f} s: {cores:.2f} cores, {rate:.0f} requests a second")
        counted = served.counted()
        print(f"prompts that the service ran: {counted['prompts']:,}")


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller scenarios, one run of each")
    parser.add_argument("--only", default="", help="only scenarios whose name holds this text")
    parser.add_argument("--workers", type=int, default=2, help="processes (2)")
    parser.add_argument("--real", type=int, default=0, metavar="N", help="N conversations in real time, and no table")
    parser.add_argument("--length", type=float, default=60.0, help="median length of their turns in seconds (60)")
    options = parser.parse_args()
    if options.real:
        asyncio.run(in_real_time(options.real, options.length))
        return
    rows = [row for row in scenarios(is_quick=options.quick) if options.only in row.name]
    tabulate(rows, 1 if options.quick else 3, options.workers)


if __name__ == "__main__":
    main()
