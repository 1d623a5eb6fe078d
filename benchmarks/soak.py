"""Conversations under constant faults, counted at the service: what was run twice, lost, doubled or leaked.

Run `python benchmarks/soak.py --minutes 5`: rounds of some hundred conversations each, over real HTTP and in virtual
time, each round with another seed and other quirks of the service. It prints the table of `benchmarks/README.md` and
exits with 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import os
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final, Self
from zlib import crc32

from attrs import define, field

from nairi_async import NairiError, NairiSession, OutcomeUnknownError, TurnFailedError
from nairi_async.testing import Fail, FaultPlan, Notice, Quirks, Say, Simulator, Text, Tool, VirtualClock
from nairi_async.testing.faults import FAULT_KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nairi_async import Conversation, Message, Turn, Watch
    from nairi_async.testing import RecordedPrompt, RecordedRequest
    from nairi_async.testing.script import ScriptStep
    from nairi_async.typing import OnUnknown

AGENT: Final = "my-agent"
RATE: Final = 0.25
LOSSES: Final = (
    "prompts run twice",
    "turns lost",
    "messages lost",
    "messages doubled",
    "messages out of order",
    "tasks leaked",
    "files and sockets leaked",
)
# Seconds that stale reads and late messages are behind. With the quirks' own they stay below `Polling.settle`, up to
# which the library promises to bear them.
LAG: Final = 0.3
QUIRKS: Final = (
    Quirks(),
    Quirks(order="shuffled", updated_at_moves="completion", unknown_fields=True),
    Quirks(order="newest first", list_lag=0.3, updated_at_moves="progress"),
    Quirks(timestamps="omitted", status_lag=0.3, updated_at_moves="never"),
    Quirks(timestamps="equal", listing=False, start_code=200, first_status="scheduled"),
    Quirks(clock_skew=-5400, only_user_messages_by_id=True, repeat_every=3),
)


def script(prompt: str, _turn: int) -> list[ScriptStep]:
    """Return what the agent does: some seconds of work, and messages that name the prompt; one turn in twenty fails."""
    roll = crc32(prompt.encode())
    work: list[ScriptStep] = [
        Text("Looking."),
        Tool("Bash", seconds=1 + roll % 40),
        Notice(f"{prompt} notice", after=1.0),
    ]
    if roll % 20 == 0:
        return [*work, Fail("no luck", after=1.0)]
    if prompt.startswith("watched"):
        work += [Say(f"{prompt} first", after=1.0, unfinished_for=roll % 3), Text("Still looking.", after=1.0)]
    return [*work, Say(f"{prompt} reply", after=1 + roll % 7)]


def expected(prompt: str) -> list[str]:
    """Return the contents of the messages that the script makes, in order."""
    kept = [step for step in script(prompt, 1) if isinstance(step, Notice | Say)]
    failed = any(isinstance(step, Fail) for step in script(prompt, 1))
    return [step.text for step in kept] + ["nairid encountered error: no luck"] * failed


@define
class Tally:
    """What has happened, all rounds together."""

    requests: Counter[str | None] = field(factory=Counter)
    """By fault; `None` is without."""
    prompts: Counter[str | None] = field(factory=Counter)
    """Those among them that were prompts."""
    reports: Counter[str] = field(factory=Counter)
    """What the library reported of the prompts, and what had happened."""
    lost: Counter[str] = field(factory=Counter)
    """What must be zero."""
    virtual: float = 0.0
    """Virtual seconds."""

    def __iadd__(self, other: Tally) -> Self:
        self.requests.update(other.requests)
        self.prompts.update(other.prompts)
        self.reports.update(other.reports)
        self.lost.update(other.lost)
        self.virtual += other.virtual
        return self

    @property
    def faulty(self) -> float:
        """Share of the requests that a fault met."""
        return 1 - self.requests[None] / max(1, self.requests.total())

    def observe(self, requests: Iterable[RecordedRequest]) -> None:
        """Count what the service did to requests."""
        for seen in requests:
            self.requests[seen.fault] += 1
            if seen.method == "POST":
                self.prompts[seen.fault] += 1

    def judge(self, reports: dict[str, Report], asked: Sequence[RecordedPrompt], held_back: set[str]) -> None:
        """Compare what the library said with what ran; messages of jobs that were held back may come late."""
        ran = Counter(one.prompt for one in asked)
        orderly = {one.prompt for one in asked if one.job_id not in held_back}
        self.lost.update(dict.fromkeys(LOSSES, 0))
        self.lost["prompts run twice"] += sum(times - 1 for times in ran.values())
        for prompt, one in reports.items():
            truth = "ran" if ran[prompt] else "did not run"
            looked_up = " after looking it up" if one.is_looked_up and one.verdict == "unknown" else ""
            self.reports[f"{one.verdict}{looked_up}, {truth}"] += 1
            self.reports["reading failed, and continued"] += one.failures
            if one.verdict == "not reported" or (one.verdict, truth) in {
                ("delivered", "did not run"),
                ("not sent", "ran"),
            }:
                self.lost["turns lost"] += 1
            elif one.verdict == "delivered":
                got, due = Counter(one.contents), Counter(expected(prompt))
                self.lost["messages lost"] += (due - got).total()
                self.lost["messages doubled"] += (got - due).total()
                self.lost["messages out of order"] += prompt in orderly and one.contents != expected(prompt)


@define
class Report:
    """What the library reported of one prompt."""

    verdict: str = "not reported"
    contents: list[str] = field(factory=list)
    failures: int = 0
    is_looked_up: bool = False


@define
class Soak:
    """One round: a session, and all that is asked through it."""

    nairi: NairiSession
    random: Random
    reports: dict[str, Report] = field(factory=dict)

    async def run(self, count: int) -> None:
        """Run so many conversations, of all kinds at once."""
        fifth = max(1, count // 5)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.ask_many("one of many", fifth, on_unknown="raise"))
            group.create_task(self.ask_many("one of many looked up", fifth, on_unknown="reconcile"))
            group.create_task(self.watch_many(fifth))
            for number in range(fifth):
                group.create_task(self.dialogue(number))
                group.create_task(self.watch(f"watched {number}"))

    async def ask_many(self, name: str, count: int, *, on_unknown: OnUnknown) -> None:
        """Ask with `ask_many`: each prompt has its outcome."""
        prompts = [f"{name} {number}" for number in range(count)]
        self.reports.update((prompt, Report(is_looked_up=on_unknown == "reconcile")) for prompt in prompts)
        outcomes = self.nairi.ask_many(AGENT, prompts, limit=20, on_unknown=on_unknown)
        async with asyncio.TaskGroup() as group, outcomes:
            async for outcome in outcomes:
                if outcome.reply is not None:
                    self._deliver(outcome.prompt, outcome.reply.messages)
                elif outcome.error is not None:
                    group.create_task(self._settle(outcome.prompt, outcome.error))

    async def dialogue(self, number: int) -> None:
        """Run four turns of one `Conversation`, two of them watched."""
        conversation = self.nairi.conversation(AGENT)
        for turn in range(4):
            name = "watched dialogue" if turn % 2 else "dialogue"
            on_unknown: OnUnknown = "reconcile" if number % 2 else "raise"
            await self._speak(
                conversation, f"{name} {number}, turn {turn}", watched=turn % 2 == 1, on_unknown=on_unknown
            )

    async def _speak(self, conversation: Conversation, prompt: str, *, watched: bool, on_unknown: OnUnknown) -> None:
        self.reports[prompt] = Report(is_looked_up=on_unknown == "reconcile")
        try:
            if watched:
                watch = await conversation.send(prompt, on_unknown=on_unknown)
                await self._follow(prompt, watch)
            else:
                self._deliver(prompt, (await conversation.ask(prompt, on_unknown=on_unknown)).messages)
        except NairiError as error:
            await self._settle(prompt, error)

    async def watch(self, prompt: str) -> None:
        """Use `start` and `watch`; now and then leave the watch, and continue with another one behind its cursor."""
        self.reports[prompt] = Report()
        try:
            turn = await self.nairi.start(AGENT, prompt)
        except NairiError as error:
            await self._settle(prompt, error)
            return
        await self._follow(prompt, self.nairi.watch(turn, progress=self.random.random() < 0.5), turn)

    async def watch_many(self, count: int) -> None:
        """Use `watch_many` over turns begun before; a turn that cannot be read there is watched by itself."""
        turns: dict[Turn, str] = {}
        for number in range(count):
            prompt = f"watched together {number}"
            self.reports[prompt] = Report()
            try:
                turns[await self.nairi.start(AGENT, prompt)] = prompt
            except NairiError as error:
                await self._settle(prompt, error)
        last: dict[Turn, str] = {}
        async with self.nairi.watch_many(turns) as stream:
            async for turn, message in stream:
                self.reports[turns[turn]].contents.append(message.content)
                last[turn] = message.id
        for turn, prompt in turns.items():
            bad = stream.errors.get(turn)
            if bad is None or isinstance(bad, TurnFailedError):
                self.reports[prompt].verdict = "delivered"
            else:
                await self._follow(prompt, self.nairi.watch(turn, after=last.get(turn)))

    async def _follow(self, prompt: str, watch: Watch, turn: Turn | None = None) -> None:
        """Watch to the end through all failures; with a turn, change to another watch now and then."""
        report = self.reports[prompt]
        while report.verdict != "delivered":
            try:
                async for message in watch:
                    if message.role != "progress":
                        report.contents.append(message.content)
                    if turn is not None and self.random.random() < 0.2:
                        break
                else:
                    report.verdict = "delivered"
            except TurnFailedError:
                report.verdict = "delivered"
            except NairiError:
                report.failures += 1
            else:
                if turn is not None and report.verdict != "delivered":
                    watch = self.nairi.watch(turn, after=watch.cursor)

    async def _settle(self, prompt: str, error: NairiError) -> None:
        """Handle an error as a caller does: read the turn where there is one, otherwise believe the error."""
        report, turn = self.reports[prompt], error.turn
        if isinstance(error, TurnFailedError):
            self._deliver(prompt, error.messages)
        elif isinstance(error, OutcomeUnknownError):
            report.verdict = "unknown"
        elif turn is None:
            report.verdict = "not sent"
        else:
            report.failures += 1
            try:
                self._deliver(prompt, (await self.nairi.reply(turn)).messages)
            except NairiError as again:
                again.turn = turn
                await self._settle(prompt, again)

    def _deliver(self, prompt: str, messages: Sequence[Message]) -> None:
        self.reports[prompt].verdict = "delivered"
        self.reports[prompt].contents += (message.content for message in messages)


def handles() -> set[tuple[int, int, int]]:
    """Return the open files and sockets of this process, each as its number and what it stands for."""
    found = set()
    for path in Path("/dev/fd").iterdir() if Path("/dev/fd").exists() else ():
        # The descriptor that listed the folder is closed by now.
        with suppress(OSError):
            number = int(path.name)
            status = os.fstat(number)
            found.add((number, status.st_dev, status.st_ino))
    return found


def faults(seed: int, rate: float, quirks: Quirks, *, retry_after: float) -> FaultPlan:
    """Return all kinds in equal shares; a list whose messages have no times could not be put in order again."""
    if quirks.timestamps == "kept":
        return FaultPlan(seed=seed, rate=rate, retry_after=retry_after, lag=LAG)
    kinds = [kind for kind in FAULT_KINDS if kind != "reordered"]
    return FaultPlan(seed=seed, rates=dict.fromkeys(kinds, rate / len(kinds)), retry_after=retry_after, lag=LAG)


async def soak(seed: int, *, conversations: int, rate: float = RATE) -> Tally:
    """One round, from nothing open to nothing open."""
    tasks, files = len(asyncio.all_tasks()), handles()
    clock, random, tally = VirtualClock(), Random(seed), Tally()
    quirks = QUIRKS[seed % len(QUIRKS)]
    plan = faults(seed, rate, quirks, retry_after=random.choice([0.5, 3.0, 20.0]))
    async with Simulator(clock=clock, quirks=quirks, faults=plan, agents={AGENT: script}, seed=seed) as simulator:
        async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock, max_connections=50) as nairi:
            round_ = Soak(nairi, random)
            await round_.run(conversations)
        held_back = {seen.path.split("/")[-2] for seen in simulator.requests if seen.fault in {"late", "stale"}}
        tally.judge(round_.reports, simulator.prompts, held_back)
    tally.observe(simulator.requests)
    tally.virtual = clock.monotonic()
    gc.collect()
    for _ in range(10):
        await asyncio.sleep(0)
    tally.lost["tasks leaked"] += len(asyncio.all_tasks()) - tasks
    # Not the difference of two counts: what earlier work of this process left is closed meanwhile by the collector.
    tally.lost["files and sockets leaked"] += len(handles() - files)
    return tally


def table(tally: Tally) -> str:
    """Return the result as the README shows it."""
    rows = [
        "| fault | requests | prompts among them |",
        "| --- | --- | --- |",
        *(f"| {kind or 'none'} | {tally.requests[kind]:,} | {tally.prompts[kind]:,} |" for kind in _kinds(tally)),
        "",
        "| what the library said of a prompt | turns |",
        "| --- | --- |",
        *(f"| {report} | {count:,} |" for report, count in sorted(tally.reports.items())),
        "",
        "| lost | count |",
        "| --- | --- |",
        *(f"| {what} | {count:,} |" for what, count in tally.lost.items()),
    ]
    return "\n".join(rows)


def _kinds(tally: Tally) -> list[str | None]:
    return sorted(tally.requests, key=lambda kind: (kind is not None, kind or ""))


def main() -> int:
    """Go on for so long, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    parser.add_argument("--rate", type=float, default=RATE, help="share of the requests that go wrong")
    parser.add_argument("--conversations", type=int, default=300, help="of each round")
    options = parser.parse_args()
    total, until = Tally(), time.monotonic() + 60 * options.minutes
    for number in itertools.count():
        seed = options.seed + number
        tally = asyncio.run(soak(seed, conversations=options.conversations, rate=options.rate))
        if +tally.lost:
            print(f"seed {seed}: {dict(+tally.lost)}", file=sys.stderr)
        total += tally
        if time.monotonic() > until:
            break
    print(table(total))
    print(f"\n{number + 1} rounds, {total.faulty:.0%} of the requests faulty, {total.virtual / 3600:.1f} virtual hours")
    return 1 if +total.lost else 0


if __name__ == "__main__":
    sys.exit(main())
