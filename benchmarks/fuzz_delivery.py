"""Random runs of sending, losing, cancelling and finding prompts, counted at the service: nothing twice, nothing lost.

Run `python benchmarks/fuzz_delivery.py --seeds 1000`. Each seed is a service with its own faults and lags, and a caller
with a ledger: it records what it sends, loses responses and recordings, cancels its calls once or twice, exits at any
time, goes on in the same session or in another, and finds its prompts again by `find_start`. It runs in memory and in
virtual time, and a seed replays a run exactly.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections import Counter
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Final

from aiohttp import web
from attrs import define, field

from nairi_async import NairiError, NairiSession, OutcomeUnknownError, RetryPolicy, Turn
from nairi_async.testing import Quirks, Say, Simulator, in_memory_session
from nairi_async.testing.deterministic import DeterministicLoop, LoopClock, VirtualTime

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nairi_async.typing import OnUnknown

AGENT: Final = "my-agent"
SETTLED: Final = 30.0
EQUAL: Final = ("same", "twin")
"""The texts of several prompts each."""
# Whether the request under way is one that was held up.
_is_late: ContextVar[bool] = ContextVar("is_late", default=False)


@define
class Item:
    """A prompt in the caller's ledger."""

    text: str
    sent_at: float | None = None
    """When it was sent, in Unix time; `None` if it is not sent, or is known not to run."""
    turn: Turn | None = None


@define(eq=False)
class Ledger:
    """What survives the caller's process, and what its running process knows besides."""

    items: list[Item]
    in_flight: Counter[str] = field(factory=Counter)
    being_recorded: set[str] = field(factory=set)
    is_new: bool = True
    """Whether no process has used it."""
    continued: list[Turn] = field(factory=list)
    """The turns of further prompts, which are sent once and not recorded."""

    def __contains__(self, job_id: object) -> bool:
        return job_id in self.being_recorded or any(item.turn and item.turn.job_id == job_id for item in self.items)

    def count_lost(self, text: str) -> int:
        """Return how many items of this text were sent and have no turn, apart from those in flight."""
        lost = sum(item.text == text and item.sent_at is not None and item.turn is None for item in self.items)
        return max(1, lost - self.in_flight[text])

    def open_items(self) -> Iterator[Item]:
        """Yield the items without a turn."""
        return (item for item in self.items if item.turn is None)


@define
class Tally:
    """What a run has come to."""

    prompts: int = 0
    twice: int = 0
    """Conversations beyond the number of equal items."""
    lost: int = 0
    """Items whose recorded turn does not exist, or is another item's, or that were given up without an error."""
    unknown: int = 0
    """Items that stayed undecided until the end."""
    stuck: int = 0
    """Those of them for which there was no reason: no one else used the agent, and the service has one clock."""
    found: int = 0
    """Turns that `find_start` returned."""
    absent: int = 0
    """Times that it said that a prompt does not run."""

    def add(self, other: Tally) -> None:
        """Add another run."""
        for name in ("prompts", "twice", "lost", "unknown", "stuck", "found", "absent"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Network:
    """What lies between caller and service: it loses, delays and misdates."""

    def __init__(self, simulator: Simulator, clock: LoopClock, rng: random.Random) -> None:
        self.simulator, self.clock, self.rng = simulator, clock, rng
        self.is_quiet = False
        self.late_by = rng.choice([0.0, 5.0, 20.0])
        self.date_offset = rng.choice([0, 0, 0, -60, 60, 240])
        self.tasks: set[asyncio.Task[None]] = set()
        simulator.intercept, simulator.intercept_response = self.before, self.after

    def session(self) -> NairiSession:
        """Return a session of a caller."""
        return in_memory_session(self.simulator, travel=self.travel, retry=RetryPolicy(attempts=3))

    async def travel(self) -> None:
        """Take some time on the way."""
        await self.clock.sleep(self.rng.random() ** 4 * 4)

    async def before(self, request: web.Request) -> web.StreamResponse | None:
        """Lose, delay or refuse a prompt before the service has it."""
        if request.method != "POST" or _is_late.get() or self.is_quiet:
            return None
        fate = self.rng.random()
        if fate < 0.15:
            raise ConnectionResetError
        if fate < 0.3 and self.late_by:
            self.tasks.add(asyncio.create_task(self._arrive_late(request.path, await request.json())))
            raise ConnectionResetError
        if fate < 0.4:
            return web.json_response({"error": "busy"}, status=503)
        return None

    async def after(self, request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        """Lose the response to a prompt, or date a response by another clock."""
        if request.method == "POST" and not self.is_quiet and self.rng.random() < 0.25:
            raise ConnectionResetError
        if self.date_offset:
            date = datetime.fromtimestamp(self.clock.time() + self.simulator.quirks.clock_skew, UTC)
            response.headers["Date"] = format_datetime(date + timedelta(seconds=self.date_offset), usegmt=True)
        return response

    async def _arrive_late(self, path: str, body: dict[str, str]) -> None:
        _is_late.set(True)
        await self.clock.sleep(self.late_by * self.rng.random())
        with suppress(NairiError):
            async with in_memory_session(self.simulator) as courier:
                if path.endswith("/start"):
                    await courier.start(body["agent_id"], body["prompt"])
                else:
                    await courier.continue_(path.split("/")[-2], body["prompt"])


class Caller:
    """A program that wants each of its prompts to run once."""

    def __init__(self, session: NairiSession, ledger: Ledger, clock: LoopClock, rng: random.Random) -> None:
        self.session, self.ledger, self.clock, self.rng = session, ledger, clock, rng
        self.is_first = ledger.is_new
        ledger.is_new = False
        self.tally = Tally()

    async def handle(self, item: Item) -> None:
        """Find the item's prompt if it was sent, and send it if it does not run."""
        await self.clock.sleep(self.rng.random() * 10)
        with suppress(NairiError):
            if item.sent_at is not None:
                await self._find(item)
            if item.sent_at is None:
                await self._send(item)
            if item.turn is not None and self.rng.random() < 0.3:
                job_id, text = item.turn.job_id, self.rng.choice(["more", item.text])
                sends = [self.session.continue_(job_id, text, on_unknown="reconcile") for _ in range(2)]
                turns = await asyncio.gather(*sends, return_exceptions=True)
                self.ledger.continued += [turn for turn in turns if isinstance(turn, Turn)]

    async def _send(self, item: Item) -> None:
        item.sent_at = self.clock.time()
        self.ledger.in_flight[item.text] += 1
        try:
            # A session does not know the equal prompts of earlier ones, so only the ledger can tell them apart.
            may_reconcile = self.is_first or item.text not in EQUAL
            on_unknown: OnUnknown = "reconcile" if may_reconcile and self.rng.random() < 0.5 else "raise"
            turn = await self.session.start(AGENT, item.text, on_unknown=on_unknown)
        except OutcomeUnknownError:
            raise
        except NairiError:
            item.sent_at = None
            raise
        finally:
            self.ledger.in_flight[item.text] -= 1
        await self._record(item, turn)

    async def _find(self, item: Item) -> None:
        assert item.sent_at is not None  # noqa: S101 - it was sent
        copies = self.ledger.count_lost(item.text)
        turn = await self.session.find_start(
            AGENT,
            item.text,
            sent_after=datetime.fromtimestamp(item.sent_at, UTC),
            exclude=self.ledger,
            settled=SETTLED,
            copies=copies,
        )
        if turn is None:
            self.tally.absent += 1
            item.sent_at = None
        else:
            self.tally.found += 1
            await self._record(item, turn)

    async def _record(self, item: Item, turn: Turn) -> None:
        self.ledger.being_recorded.add(turn.job_id)
        try:
            await self.clock.sleep(self.rng.random())
            # A ledger that is locked or full loses what it was given.
            if self.rng.random() > 0.2:
                item.turn = turn
        finally:
            self.ledger.being_recorded.discard(turn.job_id)


async def cancel_some(tasks: list[asyncio.Task[None]], clock: LoopClock, rng: random.Random) -> None:
    """Cancel some of the tasks at random times, once or twice."""
    for task in tasks:
        if rng.random() < 0.3:
            await clock.sleep(rng.random() * 3)
            for _ in range(rng.choice([1, 2])):
                task.cancel()
                for _ in range(rng.randrange(5)):
                    await asyncio.sleep(0)


def service_quirks(rng: random.Random) -> Quirks:
    """Return a service that is as unpleasant as its documentation allows."""
    return Quirks(
        clock_skew=rng.choice([0.0, 0.0, 300.0, -300.0, 86400.0]),
        order=rng.choice(["oldest first", "newest first", "shuffled"]),
        order_seed=rng.randrange(100),
        timestamps=rng.choice(["kept", "kept", "equal"]),
        list_lag=rng.choice([0.0, 2.0]),
        stale_by=rng.choice([0.0, 3.0, 8.0]),
        stale_every=rng.choice([1, 2]),
        repeat_every=rng.choice([0, 2]),
        updated_at_moves=rng.choice(["completion", "reply", "never"]),
    )


class Run:
    """One seed: processes of the caller, one after another, on one ledger."""

    def __init__(self, simulator: Simulator, clock: LoopClock, rng: random.Random, items: int) -> None:
        self.simulator, self.clock, self.rng = simulator, clock, rng
        self.ledger = Ledger([Item(rng.choice([*EQUAL, f"p{number}"])) for number in range(items)])
        self.network = Network(simulator, clock, rng)
        self.is_shared = rng.random() < 0.2
        self.tally = Tally(prompts=items)

    async def run(self) -> None:
        """Let processes come and go; the last ones find a service without faults."""
        if self.is_shared:
            self.network.tasks.add(asyncio.create_task(self._someone_else()))
        for _ in range(self.rng.choice([1, 2, 3])):
            await self._process(is_last=False)
        self.network.is_quiet = True
        await asyncio.gather(*self.network.tasks)
        for _ in range(2):
            await self._process(is_last=True)

    async def _process(self, *, is_last: bool) -> None:
        async with self.network.session() as session:
            for _ in range(3 if is_last else self.rng.choice([1, 2])):
                caller = Caller(session, self.ledger, self.clock, self.rng)
                tasks = [asyncio.create_task(caller.handle(item)) for item in self.ledger.open_items()]
                if not is_last:
                    await self._disturb(tasks)
                await asyncio.gather(*tasks, return_exceptions=True)
                for task in tasks:
                    if not task.cancelled() and (error := task.exception()) is not None:
                        raise error
                self.tally.add(caller.tally)

    async def _disturb(self, tasks: list[asyncio.Task[None]]) -> None:
        await cancel_some(tasks, self.clock, self.rng)
        if self.rng.random() < 0.4:
            await self.clock.sleep(self.rng.random() * 20)
            for task in tasks:
                task.cancel()

    async def _someone_else(self) -> None:
        async with self.network.session() as session:
            for number in range(5):
                await self.clock.sleep(self.rng.random() * 20)
                with suppress(NairiError):
                    await session.start(AGENT, f"foreign {number}")

    def count(self) -> Tally:
        """Count at the service what became of the prompts."""
        starts = {asked.job_id: asked for asked in reversed(self.simulator.prompts)}
        ran = Counter(asked.prompt for asked in starts.values())
        wanted = Counter(item.text for item in self.ledger.items)
        self.tally.twice = sum(max(0, ran[text] - wanted[text]) for text in wanted)
        turns = [(item.text, item.turn) for item in self.ledger.items if item.turn]
        recorded = [turn.message_id for _, turn in turns] + [turn.message_id for turn in self.ledger.continued]
        wrong = sum(turn.job_id not in starts or starts[turn.job_id].prompt != text for text, turn in turns)
        missing = set(recorded) - {asked.message_id for asked in self.simulator.prompts}
        self.tally.lost = len(recorded) - len(set(recorded)) + wrong + len(missing)
        self.tally.unknown = len(self.ledger.items) - len(turns)
        self.tally.stuck = self.tally.unknown if self.network.date_offset == 0 and not self.is_shared else 0
        return self.tally


def fuzz(seed: int, *, items: int = 16) -> Tally:
    """Run one seed and count what became of its prompts."""
    rng, time = random.Random(seed), VirtualTime()
    # Sessions draw their jitter from here.
    random.seed(seed)
    clock = LoopClock(time)
    simulator = Simulator(clock=clock, quirks=service_quirks(rng), seed=seed)
    simulator.agent(AGENT, lambda prompt, _: [Say(f"re {prompt}", after=5)])
    run = Run(simulator, clock, rng, items)
    with asyncio.Runner(loop_factory=lambda: DeterministicLoop(time, rng)) as runner:
        runner.run(run.run())
    return run.count()


def main() -> None:
    """Run many seeds and print what they came to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    total = Tally()
    for seed in range(options.first, options.first + options.seeds):
        tally = fuzz(seed)
        total.add(tally)
        if tally.twice or tally.lost or tally.stuck:
            print(f"seed {seed}: {tally}", flush=True)
    print(total)


if __name__ == "__main__":
    main()
