"""The programs that are simulated, each with the promises that it checks."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from nairi_async import NairiError, OutcomeUnknownError, Polling, RetryPolicy
from nairi_async.batch import Batch
from nairi_async.bots import AlreadyAskedError, Chats, SQLiteStore
from nairi_async.errors import LedgerError
from nairi_async.testing import Notice, Say, Text
from simulation.process import Process, Universe

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from nairi_async import NairiSession
    from nairi_async.bots import ChatReply
    from nairi_async.testing.script import ScriptStep

AGENT: Final = "my-agent"
# How often a program goes on after an error that it may go on after.
_PATIENCE: Final = 60
_LIVES: Final = 6


def script(prompt: str, _turn: int) -> list[ScriptStep | str]:
    """Reply with the prompt, after a time that follows from its text; some replies have several messages."""
    number = sum(map(ord, prompt))
    steps: list[ScriptStep | str] = [Text("working", after=0.1 + number % 3)]
    if number % 3 == 0:
        steps.append(Notice(f"notice on {prompt}", after=0.1 + number % 2))
    if number % 4 == 0:
        steps.append(Say(f"first of {prompt}", after=0.1 + number % 7))
    steps.append(Say(reply_to(prompt), after=0.1 + (number % 5) * 4))
    return steps


def reply_to(prompt: str) -> str:
    """Return the last message of the reply to a prompt."""
    return f"reply to {prompt}"


def whole_reply(prompt: str) -> str:
    """Return the text of a whole reply."""
    return "\n\n".join(step.text for step in script(prompt, 1) if isinstance(step, Say))


def timeline(prompt: str) -> list[str]:
    """Return the messages of a turn that are no progress, in order."""
    return [step.text for step in script(prompt, 1) if isinstance(step, Say | Notice)]


class Checks:
    """What a program has seen, against what the service has done."""

    def __init__(self, universe: Universe) -> None:
        self.universe = universe

    def runs(self, prompt: str) -> int:
        """Return how often a prompt ran."""
        return sum(one.prompt == prompt for one in self.universe.simulator.prompts)

    def reply(self, prompt: str, text: str) -> None:
        """Check a reply."""
        whole = whole_reply(prompt)
        if text != whole:
            if text and whole.startswith(text) and self.universe.plan.is_late:
                # A reply waits for its first text, not for further ones that the service shows later.
                self.universe.note(f"{prompt}: only the beginning of the reply")
                return
            rule = "lost" if not text else "wrong"
            self.universe.violate(rule, f"the reply to {prompt!r} is {text!r}, not {whole!r}")

    def none_ran_twice(self) -> None:
        """Check that no prompt ran more than once."""
        for prompt, times in Counter(one.prompt for one in self.universe.simulator.prompts).items():
            if times > 1:
                self.universe.violate("twice", f"{prompt!r} ran {times} times")


class Session:
    """Makes sessions of one kind, and cancels what is called, once or twice."""

    def __init__(self, process: Process, purpose: str) -> None:
        self.process, self.plan = process, process.universe.plan
        self.chance: Random = self.plan.random(f"{purpose} {process.universe.time.now}")

    def open(self) -> NairiSession:
        """Return a session with drawn settings."""
        chance = self.plan.random("settings")
        return self.process.session(
            retry=RetryPolicy(attempts=chance.choice((1, 3, 8)), total=chance.choice((5.0, 60.0))),
            polling=Polling(delay=chance.choice((0.2, 1.0, 5.0))),
            request_timeout=chance.choice((2.0, 10.0)),
            max_connections=chance.choice((1, 3, 100)),
        )

    async def maybe_cancelled(self, call: Awaitable[Any]) -> Any:
        """Await a call; sometimes cancel it after a while, once or twice."""
        times = self.chance.choice((0, 0, 0, 1, 2)) if self.plan.has("cancels") else 0
        after, again = self.chance.random() ** 2 * 25, self.chance.choice((0.0, 0.01, 1.0))
        if not times or self.process.universe.is_calm:
            return await call
        task = asyncio.ensure_future(call)
        for pause in (after, again)[:times]:
            await asyncio.wait([task], timeout=pause)
            if task.done():
                break
            self.process.universe.note("cancel")
            task.cancel()
        return await task


def on_unknown(session: Session) -> Any:
    """Draw what becomes of a prompt whose response was lost."""
    return session.chance.choice(("raise", "reconcile"))


async def ask(process: Process) -> None:
    """Ask many prompts at once; a reply is the right one, and a prompt that is said not to have run has not."""
    universe, session = process.universe, Session(process, "ask")
    checks = Checks(universe)

    async def one(nairi: NairiSession, prompt: str) -> None:
        try:
            reply = await session.maybe_cancelled(nairi.ask(AGENT, prompt, on_unknown=on_unknown(session)))
        except asyncio.CancelledError:
            universe.note(f"{prompt}: cancelled")
        except NairiError as error:
            universe.note(f"{prompt}: {type(error).__name__}")
        else:
            universe.note(f"{prompt}: {reply.text}")
            checks.reply(prompt, reply.text)
            if checks.runs(prompt) != 1:
                universe.violate("lost", f"{prompt!r} has a reply and ran {checks.runs(prompt)} times")

    async with session.open() as nairi:
        await asyncio.gather(*(one(nairi, f"prompt {number}") for number in range(universe.plan.size)))
    checks.none_ran_twice()


async def watch(process: Process) -> None:
    """Start and watch turns: each message once and in order, across errors and cancellations; and so a cursor."""
    universe, session = process.universe, Session(process, "watch")
    checks = Checks(universe)

    async def one(nairi: NairiSession, prompt: str) -> None:
        try:
            turn = await nairi.start(AGENT, prompt, on_unknown=on_unknown(session))
        except OutcomeUnknownError:
            return
        except NairiError as error:
            if checks.runs(prompt):
                universe.violate("wrong", f"{prompt!r} ran, although start raised {error!r}"[:300])
            return
        messages: list[str] = []
        watching = nairi.watch(turn)
        for _ in range(_PATIENCE):
            try:
                while True:
                    message = await session.maybe_cancelled(anext(watching))
                    messages.append(message.content)
                    if session.chance.random() < 0.1:
                        watching = nairi.watch(turn, after=watching.cursor)
            except StopAsyncIteration:
                break
            except asyncio.CancelledError:
                continue
            except NairiError as error:
                universe.note(f"{prompt}: {type(error).__name__}")
                await asyncio.sleep(1)
                continue
        else:
            universe.note(f"{prompt}: gave up")
            return
        universe.note(f"{prompt}: {messages}")
        if messages != timeline(prompt):
            rule = "out of order" if sorted(messages) == sorted(timeline(prompt)) else "lost"
            rule = "repeated" if len(set(messages)) < len(messages) else rule
            universe.violate(rule, f"watching {prompt!r} gave {messages}, not {timeline(prompt)}")

    async with session.open() as nairi:
        await asyncio.gather(*(one(nairi, f"prompt {number}") for number in range(universe.plan.size)))
    checks.none_ran_twice()


async def conversation(process: Process) -> None:
    """Talk in conversations, going on after errors: prompts run in the order of the calls, replies are their own."""
    universe, session = process.universe, Session(process, "conversation")
    checks, plan = Checks(universe), process.universe.plan

    async def talk(nairi: NairiSession, name: str) -> None:
        dialogue = nairi.conversation(AGENT)
        in_parallel = session.chance.random() < 0.5
        order: list[str] = []

        async def called(prompt: str) -> Any:
            order.append(prompt)
            return await dialogue.ask(prompt)

        async def one(prompt: str) -> None:
            try:
                reply = await session.maybe_cancelled(called(prompt))
            except asyncio.CancelledError:
                universe.note(f"{prompt}: cancelled")
            except NairiError as error:
                universe.note(f"{prompt}: {type(error).__name__}")
            else:
                universe.note(f"{prompt}: {reply.text}")
                checks.reply(prompt, reply.text)

        prompts = [f"{name} prompt {number}" for number in range(plan.turns)]
        if in_parallel:
            await asyncio.gather(*map(one, prompts))
        else:
            for prompt in prompts:
                await one(prompt)
        for job_id in {one.job_id for one in universe.simulator.prompts if one.prompt in prompts}:
            ran = [one.prompt for one in universe.simulator.prompts if one.job_id == job_id]
            if ran != sorted(ran, key=order.index):
                universe.violate("out of order", f"{job_id}: {ran}")

    async with session.open() as nairi:
        await asyncio.gather(*(talk(nairi, f"talk {number}") for number in range(plan.size)))
    checks.none_ran_twice()


async def ask_many(process: Process) -> None:
    """Ask many prompts: one outcome for each, with its own reply."""
    universe, session = process.universe, Session(process, "ask_many")
    checks = Checks(universe)
    prompts = [f"prompt {number}" for number in range(universe.plan.size * universe.plan.turns)]
    ended: Counter[int] = Counter()
    async with (
        session.open() as nairi,
        nairi.ask_many(
            AGENT, prompts, limit=session.chance.choice((1, 3, 20)), on_unknown=on_unknown(session)
        ) as outcomes,
    ):
        while True:
            try:
                outcome = await session.maybe_cancelled(anext(outcomes))
            except StopAsyncIteration:
                break
            except asyncio.CancelledError:
                continue
            ended[outcome.index] += 1
            if outcome.prompt != prompts[outcome.index]:
                universe.violate("wrong", f"outcome {outcome.index} is of {outcome.prompt!r}")
            if outcome.reply is not None:
                checks.reply(outcome.prompt, outcome.reply.text)
            universe.note(f"{outcome.prompt}: {type(outcome.error).__name__}")
    if any(ended[index] != 1 for index in range(len(prompts))):
        universe.violate("lost", f"outcomes by prompt: {dict(ended)}")
    checks.none_ran_twice()


class BatchLives:
    """A batch that is run until it is through, by processes that are killed, cancelled, or go on after errors."""

    def __init__(self, universe: Universe) -> None:
        self.universe = universe
        plan = universe.plan
        chance = plan.random("batch")
        self.records: list[Any] = [f"prompt {number}" for number in range(plan.size * plan.turns)]
        self.prompts = list(self.records)
        if chance.random() < 0.5:
            self.records = [{"id": f"id {number}", "prompt": one} for number, one in enumerate(self.prompts)]
        self.limit = chance.choice((1, 3, 20))
        self.is_through = False
        self.unknown: set[str] = set()

    async def __call__(self, process: Process) -> None:
        """Run the batch in one process, several times if that goes on after errors."""
        session = Session(process, "batch")
        async with session.open() as nairi:
            for _ in range(_LIVES if self.universe.is_calm else session.chance.choice((1, 1, 2, 3))):
                try:
                    await session.maybe_cancelled(self._once(process, nairi, session))
                except asyncio.CancelledError:
                    self.universe.note("batch: cancelled")
                except LedgerError as error:
                    self.universe.note(f"batch: {error}")
                    if "in use" in str(error) or "another process" in str(error):
                        self.universe.violate("locked", f"the ledger is still locked: {error}")
                except NairiError as error:
                    self.universe.note(f"batch: {type(error).__name__}")
                if self.is_through and not self.unknown:
                    return

    async def _once(self, process: Process, nairi: NairiSession, session: Session) -> None:
        directory = process.directory
        stop_after = session.chance.choice((None, None, None, 1, 3))
        unknown: set[str] = set()
        batch = Batch(
            nairi, AGENT, self.records, ledger=directory / "run.sqlite", output=directory / "replies.jsonl",
            limit=self.limit, settle=session.chance.choice((2.0, 10.0)) if not self.universe.is_calm else 10.0,
        )  # fmt: skip
        count = 0
        async with batch as outcomes:
            async for outcome in outcomes:
                count += 1
                self.universe.note(f"{outcome.prompt}: {type(outcome.error).__name__}")
                if isinstance(outcome.error, OutcomeUnknownError):
                    unknown.add(outcome.prompt)
                if outcome.reply is not None:
                    Checks(self.universe).reply(outcome.prompt, outcome.reply.text)
                if count == stop_after and not self.universe.is_calm:
                    if session.chance.random() < 0.5:
                        batch.stop()
                    elif session.plan.has("errors"):
                        return
        if not process.is_dead and stop_after is None:
            self.is_through, self.unknown = True, unknown

    def check(self) -> None:
        """Check the output and the service at the end."""
        universe, checks = self.universe, Checks(self.universe)
        checks.none_ran_twice()
        if not self.is_through:
            universe.violate("stuck", "the batch never ended")
            return
        path = universe.directory / "replies.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        by_id: dict[str, list[Any]] = {}
        for line in lines:
            by_id.setdefault(str(line["id"]), []).append(line)
        names = [one["id"] if isinstance(one, dict) else f"#{place}" for place, one in enumerate(self.records, 1)]
        for name, prompt in zip(names, self.prompts, strict=True):
            found = by_id.get(name, [])
            if len(found) != 1 and prompt not in self.unknown:
                universe.violate("lost" if not found else "twice", f"{prompt!r} has {len(found)} lines")
            for line in found:
                if line.get("text") is not None:
                    checks.reply(prompt, line["text"])
                elif checks.runs(prompt):
                    universe.note(f"{prompt}: ran, and its line is {line}")
            if checks.runs(prompt) == 0 and any(line.get("text") for line in found):
                universe.violate("wrong", f"{prompt!r} has a reply and never ran")


class ChatLives:
    """A bot on a platform that delivers each message until it is acknowledged; killed, and started again."""

    def __init__(self, universe: Universe) -> None:
        self.universe = universe
        plan = universe.plan
        self.messages = {
            f"chat {chat}": [f"chat {chat} prompt {number}" for number in range(plan.turns)]
            for chat in range(plan.size)
        }
        self.acknowledged: set[str] = set()
        self.given_up: set[str] = set()
        """Prompts whose caller was cancelled, or got an error: the caller may read the reply, and does not."""
        self.delivered: dict[str, list[str]] = {chat: [] for chat in self.messages}

    async def __call__(self, process: Process) -> None:
        """Run the bot until all messages are acknowledged."""
        session = Session(process, "chats")

        def deliver(chat: str, reply: ChatReply) -> None:
            if not process.is_dead:
                self.universe.note(f"{chat} <- {reply.answer.text}")
                self.delivered[chat].append(reply.answer.text)

        async def recovered(chat: str, reply: ChatReply) -> None:
            deliver(chat, reply)

        async def talk(chats: Chats, chat: str) -> None:
            for prompt in self.messages[chat]:
                for _ in range(_PATIENCE):
                    if prompt in self.acknowledged:
                        break
                    try:
                        await session.maybe_cancelled(turn(chats, chat, prompt))
                    except asyncio.CancelledError:
                        self.universe.note(f"{prompt}: cancelled")
                        self.given_up.add(prompt)
                    except AlreadyAskedError:
                        self.acknowledge(process, prompt)
                    except NairiError as error:
                        self.universe.note(f"{prompt}: {type(error).__name__}")
                        self.given_up.add(prompt)
                        await asyncio.sleep(1)
                    else:
                        self.acknowledge(process, prompt)

        async def turn(chats: Chats, chat: str, prompt: str) -> None:
            async with chats.turn(chat, prompt, key=prompt) as reply:
                await asyncio.sleep(session.chance.random() * 0.5)
                deliver(chat, reply)

        async with (
            session.open() as nairi,
            SQLiteStore(process.directory / "chats.sqlite") as store,
        ):
            chats = Chats(nairi, AGENT, store=store, clock=process.clock)
            async with chats.recovering(recovered):
                await asyncio.gather(*(talk(chats, chat) for chat in self.messages))
                # Recovery has no end of its own.
                await asyncio.sleep(300)

    def acknowledge(self, process: Process, prompt: str) -> None:
        """Take a message off the platform's list."""
        if not process.is_dead:
            self.acknowledged.add(prompt)

    def check(self) -> None:
        """Check what was delivered, and what ran."""
        universe, checks = self.universe, Checks(self.universe)
        checks.none_ran_twice()
        for chat, prompts in self.messages.items():
            expected = [whole_reply(prompt) for prompt in prompts]
            texts = self.delivered[chat]
            for prompt, text in zip(prompts, expected, strict=True):
                ran = checks.runs(prompt)
                if prompt not in self.acknowledged:
                    universe.violate("stuck", f"{prompt!r} is delivered again and again")
                elif ran and text not in texts and prompt not in self.given_up:
                    universe.violate("lost", f"{prompt!r} ran and its reply was never delivered: {texts}")
                elif not ran and prompt not in self.given_up:
                    universe.violate("lost", f"{prompt!r} was accepted and never ran")
            places = [expected.index(text) if text in expected else -1 for text in dict.fromkeys(texts)]
            if places != sorted(places):
                universe.violate("out of order", f"{chat}: {texts}")
            for text in texts:
                if text not in expected:
                    universe.violate("wrong", f"{chat} got {text!r}")
            jobs = {one.job_id for one in universe.simulator.prompts if one.prompt in prompts}
            if len(jobs) > 1:
                universe.note(f"{chat}: {len(jobs)} conversations")


ONE_LIFE: Final[dict[str, Callable[[Process], Any]]] = {
    "ask": ask, "watch": watch, "conversation": conversation, "ask_many": ask_many,
}  # fmt: skip
MANY_LIVES: Final[dict[str, Callable[[Universe], Any]]] = {"batch": BatchLives, "chats": ChatLives}


def run_program(universe: Universe) -> None:
    """Run the program of a plan to its end, in one process or in several."""
    plan = universe.plan
    agent_chance = plan.random("agent")
    instances = agent_chance.choice((None, 1, 3)) if plan.has("queues") else None
    universe.simulator.agent(AGENT, script, instances=instances, queued=0.0)
    if plan.program in ONE_LIFE:
        Process(universe, 0, None).run(ONE_LIFE[plan.program])
        return
    program = MANY_LIVES[plan.program](universe)
    chance = plan.random("lives")
    for life in range(chance.choice((1, 2, 3, 5))):
        crash_at = int(10 ** (chance.random() * 3.2)) if plan.has("crashes") else None
        Process(universe, life, crash_at).run(program)
        # What happens at the service goes on while no process runs.
        universe.time.now += chance.random() ** 3 * 60
    universe.calm()
    universe.time.now += 120
    Process(universe, _LIVES, None).run(program)
    program.check()
