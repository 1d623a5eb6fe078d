"""A bot whose process is killed at random instants and started again, counted at the service and at the platform.

Run `python benchmarks/soak_bots.py --minutes 5`: rounds of one bot each, in processes of its own, in real time and with
SIGKILL, each round with another seed and other quirks of a service that breaks every fourth request. The platform
delivers each message until the bot has taken it, as webhooks do. It prints a table of `benchmarks/README.md`, and exits
with 1 if anything was lost or run twice.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import sqlite3
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from attrs import asdict, define, field
from soak import QUIRKS, RATE
from soak_batch import KINDS

from nairi_async.testing import FaultPlan, Quirks, Say, Simulator

if TYPE_CHECKING:
    from aiohttp import web

CHATS: Final = 12
PROMPTS: Final = 4
# The first message of each chat is the same, so nothing but their number tells their conversations apart.
GREETING: Final = "hello"
LOSSES: Final = ("run_twice", "lost", "wrong", "out_of_order", "never_taken")
# Seconds for the last process to finish everything. Only a service that fails all the time takes this long.
_TIMEOUT: Final = 500.0
BOT: Final = """
import asyncio, json, sys
from nairi_async import NairiError, NairiSession
from nairi_async.bots import AlreadyAskedError, Chats, SQLiteStore

def say(**line):
    print(json.dumps(line), flush=True)

async def main():
    async with NairiSession() as nairi, SQLiteStore(sys.argv[1]) as store:
        chats = Chats(nairi, "my-agent", store=store)
        async def deliver(chat, reply):
            say(chat=chat, reply=reply.text)
        async def on_lost(chat, prompt):
            say(key=prompt.key, lost=prompt.reason, may_have_run=prompt.may_have_run)
        async def answer(chat, key, text):
            try:
                async with chats.turn(chat, text, key=key) as reply:
                    say(chat=chat, reply=reply.text)
            except AlreadyAskedError:
                pass
            except NairiError as error:
                say(key=key, error=repr(error))
            say(key=key, taken=True)
        async with chats.recovering(deliver, on_lost), asyncio.TaskGroup() as tasks:
            say(ready=True)
            while line := await asyncio.to_thread(sys.stdin.readline):
                tasks.create_task(answer(*json.loads(line)))

asyncio.run(main())
"""


@define(kw_only=True)
class Counted:
    """What the service and the platform together show."""

    messages: int = 0
    kills: int = 0
    requests: int = 0
    faulty: int = 0
    errors: int = 0
    """Messages to which the bot replied with an error, so that their senders know."""
    reported: int = 0
    """Messages that a recovery reported as lost, because their outcome could not be found out."""
    delivered_again: int = 0
    """Replies that were delivered more than once: their process was killed before it could note the delivery."""
    run_twice: int = 0
    lost: int = 0
    """Messages without a reply, an error or a report; or that never ran and were not reported so."""
    wrong: int = 0
    """Replies in another chat than their message, or to nothing that was said."""
    out_of_order: int = 0
    """Chats whose replies came in another order than their messages."""
    never_taken: int = 0
    """Messages that the platform still delivers at the end."""

    def add(self, other: Counted) -> None:
        """Count another bot as well."""
        for name, count in asdict(other).items():
            setattr(self, name, getattr(self, name) + count)

    @property
    def losses(self) -> dict[str, int]:
        """What must not be, as far as it was."""
        return {name: getattr(self, name) for name in LOSSES if getattr(self, name)}


@define
class Platform:
    """The messages of people, and what the bot has done about them."""

    chats: dict[str, list[str]] = field(
        factory=lambda: {
            f"chat {chat}": [GREETING, *(f"chat {chat} prompt {number}" for number in range(1, PROMPTS))]
            for chat in range(CHATS)
        }
    )
    taken: set[str] = field(factory=set)
    errors: set[str] = field(factory=set)
    reports: dict[str, bool] = field(factory=dict)
    replies: dict[str, list[str]] = field(factory=dict)

    def waiting(self) -> list[tuple[str, str, str]]:
        """Return chat, key and text of the messages that no bot has taken, in the order of each chat."""
        messages = [(chat, f"{chat} {n}", text) for chat, texts in self.chats.items() for n, text in enumerate(texts)]
        return [message for message in messages if message[1] not in self.taken]

    def note(self, line: dict[str, Any]) -> None:
        """Take in what a bot did."""
        match line:
            case {"reply": reply}:
                self.replies.setdefault(line["chat"], []).append(reply)
            case {"lost": _}:
                self.reports[line["key"]] = line["may_have_run"]
            case {"error": _}:
                self.errors.add(line["key"])
            case {"taken": _}:
                self.taken.add(line["key"])

    def judge(self, counted: Counted, ran: Counter[str]) -> None:
        """Compare what ran and what was delivered with what was said."""
        said = Counter(text for texts in self.chats.values() for text in texts)
        counted.run_twice = (ran - said).total()
        counted.never_taken = len(self.waiting())
        for chat, texts in self.chats.items():
            replies, expected = self.replies.get(chat, []), [f"re {text}" for text in texts]
            counted.wrong += sum(reply not in expected for reply in replies)
            counted.delivered_again += len(replies) - len(set(replies))
            known = [reply for n, reply in enumerate(expected) if f"{chat} {n}" not in self.errors]
            places = [known.index(reply) for reply in dict.fromkeys(replies) if reply in known]
            counted.out_of_order += places != sorted(places)
            for number, text in enumerate(texts):
                key = f"{chat} {number}"
                is_known = key in self.errors or key in self.reports
                if (expected[number] not in replies and not is_known) or (
                    text != GREETING and ran[text] and self.reports.get(key) is False and key not in self.errors
                ):
                    counted.lost += 1
                    print(f"lost: {key!r} ran {ran[text]} times, {replies}", file=sys.stderr)
        counted.errors, counted.reported = len(self.errors), len(self.reports)


async def killed(directory: Path, *, kills: int, seed: int, rate: float, quirks: Quirks) -> Counted:
    """Run a bot with so many kills."""
    choice, platform = Random(seed), Platform()
    counted = Counted(messages=CHATS * PROMPTS, kills=kills)
    plan = FaultPlan(seed=seed, rates=dict.fromkeys(KINDS, rate / len(KINDS)), retry_after=0.5, slow_for=0.5, lag=0.3)
    asked = asyncio.Event()

    async def note_request(_request: web.Request) -> None:
        asked.set()

    path = directory / "bot.sqlite"
    async with Simulator(faults=plan, quirks=quirks, seed=seed) as simulator:
        simulator.agent("my-agent", lambda prompt, _: [Say(f"re {prompt}", after=choice.uniform(0, 1.0))])
        simulator.intercept = note_request
        environment = {**os.environ, **simulator.environment}

        async def run(lasts: float | None) -> None:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", BOT, str(path), env=environment, stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            assert process.stdin is not None  # noqa: S101 - for mypy
            assert process.stdout is not None  # noqa: S101 - for mypy
            await process.stdout.readline()
            for message in platform.waiting():
                process.stdin.write(json.dumps(message).encode() + b"\n")
            reading = asyncio.create_task(_read(process.stdout, platform))
            if lasts is None:
                await _until_idle(path, platform)
                process.stdin.close()
            else:
                with suppress(TimeoutError):
                    await asyncio.wait_for(asked.wait(), 20)
                await asyncio.sleep(lasts)
                with suppress(ProcessLookupError):
                    process.kill()
            await process.wait()
            await reading
            asked.clear()

        for _ in range(kills):
            await run(choice.uniform(0, 2.5))
        await run(None)
        counted.requests = len(simulator.requests)
        counted.faulty = sum(request.fault is not None for request in simulator.requests)
        platform.judge(counted, Counter(one.prompt for one in simulator.prompts))
    return counted


async def _read(lines: asyncio.StreamReader, platform: Platform) -> None:
    while line := await lines.readline():
        # The last line of a process that was killed may be a part of one.
        with suppress(json.JSONDecodeError):
            platform.note(json.loads(line))


async def _until_idle(path: Path, platform: Platform) -> None:
    """Wait until all messages are taken, and no chat has anything to recover."""
    until = time.monotonic() + _TIMEOUT
    while time.monotonic() < until:
        await asyncio.sleep(0.5)
        if platform.waiting():
            continue
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=60)) as store:
            if store.execute("SELECT count(*) FROM chats WHERE is_unfinished").fetchone() == (0,):
                return


def main() -> int:
    """Go on for so long, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1, help="of the first round (%(default)s)")
    parser.add_argument("--rate", type=float, default=RATE, help="share of the requests that go wrong (%(default)s)")
    parser.add_argument("--kills", type=int, default=8, help="of each round (%(default)s)")
    options = parser.parse_args()
    total, begun = Counted(), time.monotonic()
    for number in itertools.count(1):
        seed = options.seed + number - 1
        with TemporaryDirectory() as directory:
            quirks = QUIRKS[seed % len(QUIRKS)]
            round_ = killed(Path(directory), kills=options.kills, seed=seed, rate=options.rate, quirks=quirks)
            counted = asyncio.run(round_)
        if counted.losses:
            print(f"seed {seed}: {counted.losses}", file=sys.stderr)
        total.add(counted)
        print(f"{number} bots, {time.monotonic() - begun:.0f} s: {total}", file=sys.stderr)
        if time.monotonic() - begun > 60 * options.minutes:
            break
    print("| bots killed and started again | count |", "| --- | --- |", sep="\n")
    for name, count in {"bots": number, **asdict(total)}.items():
        print(f"| {name.replace('_', ' ')} | {count:,} |")
    print(f"\n{time.monotonic() - begun:.0f} s, {total.faulty / max(1, total.requests):.0%} of the requests faulty")
    return 1 if total.losses else 0


if __name__ == "__main__":
    sys.exit(main())
