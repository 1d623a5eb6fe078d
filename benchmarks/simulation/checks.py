"""What the agent of the simulation says, what is checked about it, and sessions with calls that are cancelled."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from nairi_async import NotFoundError, Polling, RetryPolicy, WatchTimeoutError
from nairi_async.testing import Notice, Say, Text

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from random import Random

    from nairi_async import NairiSession, Turn
    from nairi_async.testing.script import ScriptStep
    from simulation.process import Process, Universe

AGENT: Final = "my-agent"
# How often a program goes on after an error that it may go on after.
PATIENCE: Final = 60
LIVES: Final = 6


def script(prompt: str, _turn: int, *, pace: float = 1.0) -> list[ScriptStep | str]:
    """Reply with the prompt, after a time that follows from its text; some replies have several messages."""
    number = sum(map(ord, prompt))
    steps: list[ScriptStep | str] = [Text("working", after=pace * (0.1 + number % 3))]
    if number % 3 == 0:
        steps.append(Notice(f"notice on {prompt}", after=pace * (0.1 + number % 2)))
    if number % 4 == 0:
        steps.append(Say(f"first of {prompt}", after=pace * (0.1 + number % 7)))
    steps.append(Say(reply_to(prompt), after=pace * (0.1 + (number % 5) * 4)))
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

    def ended_at(self, turn: Turn) -> float:
        """Return when the only turn of a conversation ended, or will end."""
        state = self.universe.simulator._state  # noqa: SLF001 - nothing that a program sees says it
        return state.jobs[turn.job_id].busy_until - self.universe.clock.epoch

    def reply(self, prompt: str, text: str) -> None:
        """Check a reply."""
        whole = whole_reply(prompt)
        if text != whole:
            if text and self.universe.plan.is_late and set(text.split("\n\n")) < set(whole.split("\n\n")):
                # A reply waits for its first text, not for further ones that the service shows later.
                self.universe.note(f"{prompt}: a part of the reply")
                return
            rule = "lost" if not text else "wrong"
            self.universe.violate(rule, f"the reply to {prompt!r} is {text!r}, not {whole!r}")

    def error(self, prompt: str, error: BaseException | None) -> None:
        """Check an error: replicas lag for seconds, and no program sets a timeout."""
        self.universe.note(f"{prompt}: {type(error).__name__}")
        if isinstance(error, WatchTimeoutError | NotFoundError):
            self.universe.violate("given up", f"{prompt!r}: {error!r}"[:300])

    def timeline(self, prompt: str, messages: list[str], *, is_resumed: bool) -> None:
        """Check the messages of a turn that was watched, by one watch or by a second that began at a cursor."""
        expected = timeline(prompt)
        if messages == expected:
            return
        if self.universe.plan.is_late and sorted(messages) == sorted(expected):
            # A message that the service lists later than one that follows it is delivered when it is listed.
            self.universe.note(f"{prompt}: in the order in which the service listed its messages")
            return
        if self.universe.plan.is_late and is_resumed and set(messages) < set(expected):
            # A watch that begins at a cursor does not deliver what the service listed too late for the first.
            self.universe.note(f"{prompt}: without a message that was listed behind the cursor")
            return
        rule = "out of order" if sorted(messages) == sorted(expected) else "lost"
        rule = "repeated" if len(set(messages)) < len(messages) else rule
        self.universe.violate(rule, f"watching {prompt!r} gave {messages}, not {expected}")

    def order(self, prompts: list[str], calls: list[str]) -> None:
        """Check that the prompts of a conversation ran in the order of the calls."""
        ran = [one for one in self.universe.simulator.prompts if one.prompt in prompts]
        for job_id in dict.fromkeys(one.job_id for one in ran):
            of_job = [one.prompt for one in ran if one.job_id == job_id]
            if of_job != sorted(of_job, key=calls.index):
                self.universe.violate("out of order", f"{job_id}: {of_job}, called as {calls}")

    def none_ran_twice(self) -> None:
        """Check that no prompt ran more than once; those that ask for another form, once for each reply."""
        ran = self.universe.simulator.prompts
        for prompt, times in Counter(one.prompt for one in ran if "prompt" in one.prompt).items():
            if times > 1:
                self.universe.violate("twice", f"{prompt!r} ran {times} times")


class Session:
    """Makes sessions of one kind, and cancels what is called, once or twice."""

    def __init__(self, process: Process, purpose: str) -> None:
        self.process, self.plan = process, process.universe.plan
        self.chance: Random = self.plan.random(f"{purpose} {process.universe.time.now}")

    def open(self, **settings: Any) -> NairiSession:
        """Return a session with drawn settings, and these."""
        chance = self.plan.random("settings")
        # Polls are most of the work: short turns, and those of hours, are polled seldom.
        scale = 1.0 if self.plan.pace == 1 else 3.0
        return self.process.session(
            retry=RetryPolicy(attempts=chance.choice((1, 3, 8)), total=chance.choice((5.0, 60.0))),
            polling=Polling(delay=chance.choice((0.2, 1.0, 5.0)) * scale),
            request_timeout=chance.choice((2.0, 10.0)),
            max_connections=chance.choice((1, 3, 100)),
            **settings,
        )

    async def maybe_cancelled(self, call: Awaitable[Any]) -> Any:
        """Await a call; sometimes cancel it after a while, once or twice."""
        times = self.chance.choice((0, 0, 0, 1, 2)) if self.plan.has("cancels") else 0
        within = 25 if self.plan.pace >= 1 else 1 + 25 * self.plan.pace
        after, again = self.chance.random() ** 2 * within, self.chance.choice((0.0, 0.01, 1.0))
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
