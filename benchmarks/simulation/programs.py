"""Programs of one process: `ask`, `watch`, `Conversation` and `ask_many`, each with the promises that it checks."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from nairi_async import NairiError, OutcomeUnknownError
from simulation.checks import AGENT, PATIENCE, Checks, Session, on_unknown
from simulation.plan import FAILING

if TYPE_CHECKING:
    from collections.abc import Callable

    from nairi_async import NairiSession, Reply, Turn
    from simulation.process import Process

# Turns of a session that is busy, and what they say; after so many seconds it may trust the listing.
_BUSY_TURNS: Final = 30
_BUSY: Final = "busy prompt {}"
_WARMING: Final = 100.0
# Seconds by which an end may be seen late, unless requests fail: the longest interval between two polls, and some. What
# waits for an announcement that was made before is polled after up to two and a half minutes.
_LATE: Final = 40.0


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
            checks.error(prompt, error)
        else:
            universe.note(f"{prompt}: {reply.text}")
            checks.reply(prompt, reply.text)
            if checks.runs(prompt) != 1:
                universe.violate("lost", f"{prompt!r} has a reply and ran {checks.runs(prompt)} times")

    async with session.open() as nairi:
        await asyncio.gather(*(one(nairi, f"prompt {number}") for number in range(universe.plan.size)))
    checks.none_ran_twice()


async def watch(process: Process) -> None:
    """Start and watch turns: each message once and in order, across errors, cancellations and cursors."""
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
        messages, is_resumed = await _watched(session, nairi, turn)
        universe.note(f"{prompt}: {messages}")
        if messages is not None:
            checks.timeline(prompt, messages, is_resumed=is_resumed)

    async with session.open() as nairi:
        await asyncio.gather(*(one(nairi, f"prompt {number}") for number in range(universe.plan.size)))
    checks.none_ran_twice()


async def _watched(session: Session, nairi: NairiSession, turn: Turn) -> tuple[list[str] | None, bool]:
    """Watch a turn to its end, going on after errors, and return its messages and whether a cursor was used.

    No messages are returned if the service fails all the time.
    """
    messages: list[str] = []
    is_resumed, plan = False, session.plan
    watching = nairi.watch(turn)
    for _ in range(PATIENCE):
        try:
            while True:
                message = await session.maybe_cancelled(anext(watching))
                messages.append(message.content)
                if session.chance.random() < 0.1:
                    watching, is_resumed = nairi.watch(turn, after=watching.cursor), True
        except StopAsyncIteration:
            return messages, is_resumed
        except asyncio.CancelledError:
            continue
        except NairiError as error:
            if not (is_resumed and plan.quirks().only_user_messages_by_id):
                # Otherwise a cursor that a lagging list lacks cannot be read by itself either.
                Checks(session.process.universe).error("watch", error)
            await asyncio.sleep(1)
    return None, is_resumed


async def conversation(process: Process) -> None:
    """Talk in conversations, going on after errors: prompts run in the order of the calls, replies are their own."""
    universe, session = process.universe, Session(process, "conversation")
    async with session.open() as nairi:
        await asyncio.gather(*(_talk(session, nairi, f"talk {number}") for number in range(universe.plan.size)))
    Checks(universe).none_ran_twice()


async def _talk(session: Session, nairi: NairiSession, name: str) -> None:
    universe = session.process.universe
    checks, dialogue = Checks(universe), nairi.conversation(AGENT)
    order: list[str] = []

    async def called(prompt: str) -> Reply:
        order.append(prompt)
        return await dialogue.ask(prompt)

    async def one(prompt: str) -> None:
        try:
            reply = await session.maybe_cancelled(called(prompt))
        except asyncio.CancelledError:
            universe.note(f"{prompt}: cancelled")
        except NairiError as error:
            checks.error(prompt, error)
        else:
            universe.note(f"{prompt}: {reply.text}")
            checks.reply(prompt, reply.text)

    prompts = [f"{name} prompt {number}" for number in range(universe.plan.turns)]
    if session.chance.random() < 0.5:
        await asyncio.gather(*map(one, prompts))
    else:
        for prompt in prompts:
            await one(prompt)
    checks.order(prompts, order)


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
            checks.error(outcome.prompt, outcome.error)
    if any(ended[index] != 1 for index in range(len(prompts))):
        universe.violate("lost", f"outcomes by prompt: {dict(ended)}")
    checks.none_ran_twice()


async def found(process: Process) -> None:
    """Find prompts of another process on a busy session that trusts the listing: ends are seen, not announced."""
    universe, session = process.universe, Session(process, "found")
    checks = Checks(universe)

    async def one(busy: NairiSession, other: NairiSession, prompt: str) -> None:
        await asyncio.sleep(_WARMING + session.chance.random() * _WARMING)
        sent_after = datetime.fromtimestamp(process.clock.time(), UTC)
        try:
            await other.start(AGENT, prompt)
        except NairiError as error:
            checks.error(prompt, error)
        await asyncio.sleep(session.chance.random() * 2 * _WARMING)
        try:
            turn = await busy.find_start(AGENT, prompt, sent_after=sent_after, copies=1)
        except NairiError as error:
            universe.note(f"{prompt}: {error!r}"[:300])
            return
        if turn is None:
            if checks.runs(prompt):
                universe.violate("lost", f"{prompt!r} ran, and was said not to have run")
            return
        found_at = universe.time.now
        try:
            reply = await busy.reply(turn)
        except NairiError as error:
            checks.error(prompt, error)
            return
        checks.reply(prompt, reply.text)
        ended_at = max(found_at, checks.ended_at(turn))
        universe.note(f"{prompt}: found {found_at:.1f}, ended {ended_at:.1f}")
        late = universe.time.now - ended_at
        if late > _LATE and not universe.plan.hazards & FAILING:
            universe.violate("late", f"the end of {prompt!r} was seen {late:.0f} s late")

    async def keep_busy(nairi: NairiSession) -> None:
        prompts = map(_BUSY.format, itertools.count())
        async with nairi.ask_many(AGENT, prompts, limit=_BUSY_TURNS) as outcomes:
            async for outcome in outcomes:
                checks.error(outcome.prompt, outcome.error)

    async with session.open() as busy, session.open() as other:
        load = asyncio.create_task(keep_busy(busy))
        await asyncio.gather(*(one(busy, other, f"prompt {number}") for number in range(universe.plan.size)))
        load.cancel()
        await asyncio.wait([load])
    checks.none_ran_twice()


ONE_LIFE: Final[dict[str, Callable[[Process], Any]]] = {
    "ask": ask, "watch": watch, "conversation": conversation, "ask_many": ask_many, "found": found,
}  # fmt: skip
