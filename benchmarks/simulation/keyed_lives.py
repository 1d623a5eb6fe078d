"""A program of plain code that outlives its processes: conversations with follow-ups, under durable keys."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from nairi_async import InvalidArgumentError, JournalError, NairiError, OutcomeUnknownError
from simulation.checks import AGENT, PATIENCE, Checks, Session, on_unknown

if TYPE_CHECKING:
    from nairi_async import NairiSession, Turn
    from simulation.process import Process, Universe


class KeyLives:
    """Conversations in which each prompt has a key; the processes are killed, cancelled, or go on after errors."""

    def __init__(self, universe: Universe) -> None:
        self.universe = universe
        plan = universe.plan
        chance = plan.random("keys")
        # Some conversations say the same, so that lost prompts look alike.
        names = [f"talk {number if chance.random() < 0.7 else 0}" for number in range(plan.size)]
        self.prompts = {
            (number, turn): f"{name} prompt {turn if chance.random() < 0.8 else 0}"
            for number, name in enumerate(names)
            for turn in range(plan.turns)
        }
        self.has_handles = chance.random() < 0.6
        self.turns: dict[tuple[int, int], Turn] = {}
        """The turn that each key has given."""
        self.done: set[tuple[int, int]] = set()
        self.undecided: set[tuple[int, int]] = set()

    async def __call__(self, process: Process) -> None:
        """Run all conversations in one process."""
        session = Session(process, "keys")
        try:
            async with session.open(journal=process.directory / "keys.sqlite") as nairi:
                talks = (self._talk(process, session, nairi, number) for number in range(self.universe.plan.size))
                await asyncio.gather(*talks)
        except JournalError as error:
            self.universe.note(f"keys: {error.message}")
            if "uses this journal" in error.message or "in use" in error.message:
                self.universe.violate("locked", str(error))

    async def _talk(self, process: Process, session: Session, nairi: NairiSession, number: int) -> None:
        conversation, last = nairi.conversation(AGENT), None
        for turn in range(self.universe.plan.turns):
            text, key = self.prompts[number, turn], f"{number}/{turn}"
            for _ in range(PATIENCE if self.universe.is_calm else session.chance.choice((1, 2, 5))):
                if self.has_handles:
                    call = conversation.ask(text, key=key, on_unknown=on_unknown(session))
                else:
                    call = self._ask(nairi, last, text, key, session)
                try:
                    reply = await session.maybe_cancelled(call)
                except asyncio.CancelledError:
                    self.universe.note(f"{key}: cancelled")
                except InvalidArgumentError as error:
                    self.universe.violate("wrong", f"{key}: {error}")
                    return
                except OutcomeUnknownError as error:
                    self.universe.note(f"{key}: {error}")
                    self.undecided.add((number, turn))
                    if self.universe.is_calm and not error.path:
                        # Looked up, and not decided.
                        return
                except NairiError as error:
                    self.universe.note(f"{key}: {type(error).__name__}: {getattr(error, 'message', '')}")
                    await asyncio.sleep(session.chance.choice((0.0, 1.0, 15.0)))
                else:
                    self._take(process, (number, turn), reply.turn, reply.text)
                    last = reply.turn
                    break
            else:
                return

    async def _ask(self, nairi: NairiSession, last: Turn | None, text: str, key: str, session: Session):  # type: ignore[no-untyped-def]  # noqa: ANN202
        unknown = on_unknown(session)
        if last is None:
            turn = await nairi.start(AGENT, text, key=key, on_unknown=unknown)
        else:
            turn = await nairi.continue_(last, text, key=key, on_unknown=unknown)
        return await nairi.reply(turn)

    def _take(self, process: Process, place: tuple[int, int], turn: Turn, text: str) -> None:
        if process.is_dead:
            return
        self.universe.note(f"{place}: {turn.message_id} {text}")
        self.undecided.discard(place)
        self.done.add(place)
        known = self.turns.setdefault(place, turn)
        if known != turn:
            self.universe.violate("twice", f"{place} gave {known}, and then {turn}")
        ran = [one for one in self.universe.simulator.prompts if one.message_id == turn.message_id]
        if [one.prompt for one in ran] != [self.prompts[place]]:
            self.universe.violate("wrong", f"{place} gave the turn of {ran}")
        if self.universe.plan.quirks().timestamps == "kept":
            # Otherwise it cannot be told where the reply to an earlier prompt ends.
            Checks(self.universe).reply(self.prompts[place], text)

    def check(self) -> None:
        """Check at the service, at the end, that each key's prompt ran once."""
        universe = self.universe
        ran = Counter(one.prompt for one in universe.simulator.prompts)
        wanted = Counter(self.prompts.values())
        if more := ran - wanted:
            universe.violate("twice", f"{dict(more)} ran too often")
        if len({turn.message_id for turn in self.turns.values()}) < len(self.turns):
            universe.violate("wrong", "two keys have one turn")
        for number, turn in self.prompts:
            places = {(number, earlier) for earlier in range(turn + 1)}
            if (number, turn) not in self.done and not places & self.undecided:
                universe.violate("lost", f"{(number, turn)} has no turn")
        # Without the times of messages, an undecided prompt may stay so.
        if self.undecided and universe.plan.quirks().timestamps == "kept":
            universe.note(f"undecided at the end: {sorted(self.undecided)}")
