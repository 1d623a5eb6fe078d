"""Takeover after a restart: delivers the replies that an earlier process left, and asks the prompts that waited."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from nairi_async._core.closing import run_shielded
from nairi_async._core.json_body import one_line, shortened
from nairi_async.bots.chat_queue import ChatQueues
from nairi_async.bots.chat_record import ClockedStore
from nairi_async.bots.deadline import Deadline
from nairi_async.bots.lost_starts import LostStarts
from nairi_async.bots.open_prompts import OpenPrompts, Outcome, is_lost_start
from nairi_async.bots.prompt_runner import PromptRunner
from nairi_async.errors import NairiError, OutcomeUnknownError, SessionClosedError, TurnFailedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Generator

    from nairi_async.bots.chat_record import ChatRecord
    from nairi_async.bots.store import ChatPrompt, Record
    from nairi_async.dialogue import Answer

    Deliver = Callable[[str, Answer], Awaitable[object]]
    OnLost = Callable[[str, "LostPrompt"], Awaitable[object]]

_log = logging.getLogger("nairi_async.bots")


@frozen
class LostPrompt:
    """A prompt that an earlier process accepted, and to which no reply can be given."""

    text: str
    """The prompt itself."""
    key: str | None
    """The platform's id of the message; it may be used again if the prompt did not run."""
    may_have_run: bool
    """Whether the agent may have received it. If not, it can be sent again without running twice."""
    reason: str
    """Why there is no reply, for a log."""


@frozen
class Recovery:
    """Recovers the chats of one target that an earlier process left unfinished."""

    target: str
    store: ClockedStore
    queues: ChatQueues
    starts: LostStarts
    prompts: OpenPrompts
    runner: PromptRunner
    deadline: Callable[[], Deadline]

    @asynccontextmanager
    async def running(self, deliver: Deliver, on_lost: OnLost | None) -> AsyncGenerator[None]:
        """Recover in tasks while the block runs; cancel what is left at its end."""
        prefix = f"{self.target} "
        names = [name for name in await self.store.open_names() if name.startswith(prefix)]
        announced = _Countdown(len(names))
        tasks = [
            asyncio.create_task(_ChatRecovery(self, name.removeprefix(prefix), deliver, on_lost, announced).run(name))
            for name in names
        ]
        # Let each task enter its chat's queue before the first new prompt.
        await asyncio.sleep(0)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await run_shielded(asyncio.wait(tasks))


@frozen
class _ChatRecovery:
    """Recovers one chat."""

    recovery: Recovery
    chat_id: str
    deliver: Deliver
    on_lost: OnLost | None
    announced: _Countdown

    async def run(self, name: str) -> None:
        """Settle the open prompt, then ask those that waited; log what fails."""
        with self.recovery.queues.join(name, is_bounded=False) as place:
            chat = place.chat
            try:
                with self.announced.one():
                    await chat.load()
                    if place.is_first and is_lost_start(chat) and chat.record.prompt is not None:
                        self.recovery.starts.announce(chat.record.prompt)
                await place.turn()
                await self._settle_open_prompt(chat)
                while chat.leftover:
                    await self._ask(chat, chat.leftover[0])
                    chat.leftover.popleft()
            except Exception as error:  # noqa: BLE001 - a platform and a store may raise anything
                _log.warning("chat %s could not be given the reply from before a restart: %r", self.chat_id, error)

    async def _settle_open_prompt(self, chat: ChatRecord) -> None:
        """Hand over the reply to the prompt that was running, or ask the prompt again if it provably did not run."""
        prompt = chat.record.prompt
        if not chat.record.is_open:
            return
        try:
            outcome = await self._outcome(chat)
        except TurnFailedError as error:
            failed = error
            await self._report(prompt, f"its turn has failed: {error}", may_have_run=True)
            await chat.save(lambda record: record.with_outcome(failed))
            return
        except OutcomeUnknownError as error:
            await self._report(prompt, error.message, may_have_run=True)
            await chat.save(_without_prompt)
            return
        if prompt is not None and outcome.is_unsent:
            await self._ask(chat, prompt)
            return
        if outcome.answer is not None:
            await self.deliver(self.chat_id, outcome.answer)
        await chat.save(lambda record: record.with_outcome(outcome.answer))

    async def _outcome(self, chat: ChatRecord) -> Outcome:
        if is_lost_start(chat):
            # Of identical prompts only the number matters, so all of them are counted first.
            await self.announced.wait()
            if not await self.recovery.prompts.find_dialogue(chat):
                return Outcome(is_unsent=True)
        if chat.record.dialogue_id is None:
            return Outcome()
        return await self.recovery.prompts.outcome(chat, self.recovery.deadline().options(), is_patient=True)

    async def _ask(self, chat: ChatRecord, prompt: ChatPrompt) -> None:
        """Ask a prompt that provably did not run, and hand over its reply."""
        if prompt.has_files:
            await self._report(prompt, "its files were lost with the process", may_have_run=False)
            await chat.save(lambda record: record.without_prompt(prompt, evolve(record, is_open=False, prompt=None)))
            return
        try:
            answer = await self.recovery.runner.run(chat, prompt, (), self.recovery.deadline(), is_recovery=True)
        except SessionClosedError:
            raise
        except NairiError as error:
            may_have_run = chat.record.prompt is not None or isinstance(error, TurnFailedError)
            await self._report(prompt, str(error), may_have_run=may_have_run)
            return
        await self.deliver(self.chat_id, answer)
        await chat.save_outcome(lambda record: record.with_outcome(answer))

    async def _report(self, prompt: ChatPrompt | None, reason: str, *, may_have_run: bool) -> None:
        if prompt is None:
            return
        _log.warning(
            "a message of chat %s from before a restart gets no reply: %s", self.chat_id, shortened(one_line(reason))
        )
        if self.on_lost is not None:
            lost = LostPrompt(prompt.text, prompt.key, may_have_run=may_have_run, reason=reason)
            await self.on_lost(self.chat_id, lost)


class _Countdown:
    """Lets tasks wait until each of them has done a first step, or failed at it."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._done = asyncio.Event()

    @contextmanager
    def one(self) -> Generator[None]:
        """Take one step."""
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._done.set()

    async def wait(self) -> None:
        """Wait for the last step."""
        await self._done.wait()


def _without_prompt(record: Record) -> Record:
    """Return the record without a prompt that cannot be found; the next one settles a dialogue that is known."""
    return evolve(record, prompt=None, is_open=record.dialogue_id is not None)
