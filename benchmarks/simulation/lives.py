"""Programs that outlive their processes: a `Batch` on its ledger, and `Chats` on a store."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from nairi_async import NairiError, OutcomeUnknownError
from nairi_async.batch import Batch
from nairi_async.bots import AlreadyAskedError, Chats, SQLiteStore
from nairi_async.errors import LedgerError, StoreError
from simulation.checks import AGENT, LIVES, PATIENCE, Checks, Session, whole_reply
from simulation.keyed_lives import KeyLives

if TYPE_CHECKING:
    from collections.abc import Callable

    from nairi_async import NairiSession
    from nairi_async.bots import ChatReply, LostPrompt
    from simulation.process import Process, Universe


class BatchLives:
    """A batch that is run until it is through, by processes that are killed, cancelled, or go on after errors."""

    def __init__(self, universe: Universe) -> None:
        self.universe = universe
        plan = universe.plan
        chance = plan.random("batch")
        prompts = [f"prompt {number}" for number in range(plan.size * plan.turns)]
        self.records: list[Any] = list(prompts)
        if chance.random() < 0.5:
            self.records = [{"id": f"id {number}", "prompt": one} for number, one in enumerate(prompts)]
        self.prompts = [[one] for one in prompts]
        """The prompts of each record."""
        if plan.random("several turns").random() < 0.5:
            self.prompts = [prompts[first :: plan.size] for first in range(plan.size)]
            self.records = [{"id": f"id {number}", "prompts": some} for number, some in enumerate(self.prompts)]
        self.limit = chance.choice((1, 3, 20))
        # No reply is an object: each record ends after so many follow-ups that ask for one.
        self.repairs = plan.random("repairs").choice((None, None, 0, 1, 2))
        self.is_through = False
        self.unknown: set[str] = set()

    async def __call__(self, process: Process) -> None:
        """Run the batch in one process, several times if that goes on after errors."""
        session = Session(process, "batch")
        async with session.open() as nairi:
            for _ in range(
                LIVES
                if self.universe.is_calm
                else session.chance.choice((1, 1, 2, 3) if session.plan.pace >= 1 else (1, 2, 3, 5))
            ):
                try:
                    await session.maybe_cancelled(self._once(process, nairi, session))
                except asyncio.CancelledError:
                    self.universe.note("batch: cancelled")
                except LedgerError as error:
                    self.universe.note(f"batch: {error.message}")
                    await asyncio.sleep(session.chance.choice((0.0, 15.0)))
                    if "in use" in str(error) or "another process" in str(error):
                        self.universe.violate("locked", f"the ledger is still locked: {error}")
                except NairiError as error:
                    self.universe.note(f"batch: {type(error).__name__}")
                if self.is_through and not self.unknown:
                    return

    async def _once(self, process: Process, nairi: NairiSession, session: Session) -> None:
        directory = process.directory
        stop_after = None if self.universe.is_calm else session.chance.choice((None, None, None, 1, 3))
        unknown: set[str] = set()
        batch = Batch(
            nairi, AGENT, self.records, ledger=directory / "run.sqlite", output=directory / "replies.jsonl",
            into=None if self.repairs is None else dict, repair=self.repairs or 0,
            limit=self.limit, settle=session.chance.choice((2.0, 10.0)) if not self.universe.is_calm else 10.0,
        )  # fmt: skip
        count = 0
        async with batch as outcomes:
            async for outcome in outcomes:
                count += 1
                Checks(self.universe).error(outcome.prompt, outcome.error)
                if isinstance(outcome.error, OutcomeUnknownError):
                    unknown.add(outcome.prompt)
                for reply in outcome.replies:
                    (asked,) = (
                        one for one in self.universe.simulator.prompts if one.message_id == reply.turn.message_id
                    )
                    self._check_reply(asked.prompt, reply.text)
                if count == stop_after:
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
        repairs = Counter(one.job_id for one in universe.simulator.prompts if "prompt" not in one.prompt)
        if any(times > (self.repairs or 0) for times in repairs.values()):
            universe.violate("twice", f"{repairs} follow-ups ask for another form, not {self.repairs}")
        if not self.is_through:
            universe.violate("stuck", "the batch never ended")
            return
        path = universe.directory / "replies.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        by_id: dict[str, list[Any]] = {}
        for line in lines:
            by_id.setdefault(str(line["id"]), []).append(line)
        names = [one["id"] if isinstance(one, dict) else f"#{place}" for place, one in enumerate(self.records, 1)]
        for name, prompts in zip(names, self.prompts, strict=True):
            found = by_id.get(name, [])
            if len(found) != 1 and prompts[0] not in self.unknown:
                universe.violate("lost" if not found else "twice", f"{prompts} have {len(found)} lines")
            for line in found:
                texts = [one["text"] for one in line.get("replies", [line] if "text" in line else [])]
                has_ended = line["status"] == "completed" or line["error"]["type"] == "ReplyFormatError"
                if has_ended and len(texts) != len(prompts) + (self.repairs or 0):
                    universe.violate("lost", f"{prompts} have the replies {texts}")
                for prompt, text in zip(prompts, texts, strict=False):
                    self._check_reply(prompt, text)
                    if checks.runs(prompt) == 0:
                        universe.violate("wrong", f"{prompt!r} has a reply and never ran")

    def _check_reply(self, prompt: str, text: str) -> None:
        # Without times, it cannot be told where the reply to an earlier prompt of a conversation ends.
        if len(self.prompts[0]) == 1 or self.universe.plan.quirks().timestamps == "kept":
            Checks(self.universe).reply(prompt, text)


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
        self.reported: dict[str, LostPrompt] = {}
        """Prompts that were reported as lost."""
        self.delivered: dict[str, list[str]] = {chat: [] for chat in self.messages}

    async def __call__(self, process: Process) -> None:
        """Run the bot until all messages are acknowledged."""
        try:
            await self._run(process)
        except StoreError as error:
            # The platform starts the bot again, as it does after a crash.
            self.universe.note(f"bot: {error.message}")

    async def _run(self, process: Process) -> None:
        session = Session(process, "chats")

        async def recovered(chat: str, reply: ChatReply) -> None:
            self._deliver(process, chat, reply)

        async def on_lost(_chat: str, prompt: LostPrompt) -> None:
            if not process.is_dead:
                self.universe.note(f"{prompt.text}: lost, {prompt.reason}")
                self.reported[prompt.text] = prompt

        async with session.open() as nairi, SQLiteStore(process.directory / "chats.sqlite") as store:
            chats = Chats(nairi, AGENT, store=store, clock=process.clock)
            async with chats.recovering(recovered, on_lost):
                await asyncio.gather(*(self._talk(session, chats, chat) for chat in self.messages))
                # Recovery has no end of its own.
                await asyncio.sleep(3000 if self.universe.is_calm else 300)

    async def _talk(self, session: Session, chats: Chats, chat: str) -> None:
        for prompt in self.messages[chat]:
            for _ in range(PATIENCE):
                if prompt in self.acknowledged:
                    break
                try:
                    await session.maybe_cancelled(self._turn(session, chats, chat, prompt))
                except asyncio.CancelledError:
                    self.universe.note(f"{prompt}: cancelled")
                    self.given_up.add(prompt)
                except AlreadyAskedError:
                    self.acknowledge(session.process, prompt)
                except NairiError as error:
                    self.universe.note(f"{prompt}: {type(error).__name__}")
                    self.given_up.add(prompt)
                    await asyncio.sleep(1)
                else:
                    self.acknowledge(session.process, prompt)

    async def _turn(self, session: Session, chats: Chats, chat: str, prompt: str) -> None:
        async with chats.turn(chat, prompt, key=prompt) as reply:
            await asyncio.sleep(session.chance.random() * 0.5)
            self._deliver(session.process, chat, reply)

    def _deliver(self, process: Process, chat: str, reply: ChatReply) -> None:
        if not process.is_dead:
            self.universe.note(f"{chat} <- {reply.answer.text}")
            self.delivered[chat].append(reply.answer.text)

    def acknowledge(self, process: Process, prompt: str) -> None:
        """Take a message off the platform's list."""
        if not process.is_dead:
            self.acknowledged.add(prompt)

    def check(self) -> None:
        """Check what was delivered, and what ran."""
        universe, checks = self.universe, Checks(self.universe)
        checks.none_ran_twice()
        self._check_reports(checks)
        for chat, prompts in self.messages.items():
            expected = [whole_reply(prompt) for prompt in prompts]
            texts = self.delivered[chat]
            for prompt, text in zip(prompts, expected, strict=True):
                ran = checks.runs(prompt)
                if prompt not in self.acknowledged:
                    universe.violate("stuck", f"{prompt!r} is delivered again and again")
                elif ran and not self._has(texts, text) and not self._is_excused(prompt):
                    universe.violate("lost", f"{prompt!r} ran and its reply was never delivered: {texts}")
                elif not ran and not self._is_excused(prompt):
                    universe.violate("lost", f"{prompt!r} was accepted and never ran")
            kept = [text for text, prompt in zip(expected, prompts, strict=True) if prompt not in self.given_up]
            places = [kept.index(text) for text in dict.fromkeys(texts) if text in kept]
            if places != sorted(places):
                universe.violate("out of order", f"{chat}: {texts}")
            for text in texts:
                if not any(self._has([text], one) for one in expected):
                    universe.violate("wrong", f"{chat} got {text!r}")
            jobs = {one.job_id for one in universe.simulator.prompts if one.prompt in prompts}
            if len(jobs) > 1:
                universe.note(f"{chat}: {len(jobs)} conversations")

    def _check_reports(self, checks: Checks) -> None:
        for prompt, lost in self.reported.items():
            if not lost.may_have_run and checks.runs(prompt):
                reason = f"{prompt!r} ran, and was reported not to have run: {lost.reason}"
                self.universe.violate("wrong", reason)

    def _is_excused(self, prompt: str) -> bool:
        """Return whether a prompt may have no reply: its caller has given up, or its loss was rightly reported."""
        lost = self.reported.get(prompt)
        # Without times, or with other texts, it cannot be decided which conversation a lost prompt has started; nor if
        # the service had no listing when the first message of the chat was lost.
        plan, quirks = self.universe.plan, self.universe.plan.quirks()
        is_undecidable = quirks.timestamps != "kept" or not quirks.listing or plan.has("edits")
        return prompt in self.given_up or (lost is not None and (is_undecidable or not lost.may_have_run))

    def _has(self, texts: list[str], whole: str) -> bool:
        """Return whether a reply is among some; a part counts where a service shows the rest later."""
        is_late = self.universe.plan.is_late
        parts = set(whole.split("\n\n"))
        return any(text == whole or (is_late and text and set(text.split("\n\n")) <= parts) for text in texts)


MANY_LIVES: Final[dict[str, Callable[[Universe], Any]]] = {"batch": BatchLives, "chats": ChatLives, "keys": KeyLives}
