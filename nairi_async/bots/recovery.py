"""Takeover after a restart: delivers the replies that an earlier process left, and asks the prompts that waited."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from attrs import evolve, field

from nairi_async._core.closing import run_shielded
from nairi_async._core.json_body import one_line, shortened
from nairi_async._core.records import define, frozen
from nairi_async.bots.chat_queue import ChatQueues
from nairi_async.bots.chat_record import ClockedStore
from nairi_async.bots.deadline import Deadline
from nairi_async.bots.lost_starts import LostStarts
from nairi_async.bots.open_prompts import OpenPrompts, Outcome, is_lost_start
from nairi_async.bots.prompt_runner import PromptRunner, is_passing
from nairi_async.bots.store import Record
from nairi_async.errors import (
    BadRequestError,
    NairiError,
    NotFoundError,
    OutcomeUnknownError,
    SessionClosedError,
    StoreError,
    TurnFailedError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Generator

    from nairi_async.bots.chat_queue import Place
    from nairi_async.bots.chat_record import ChatRecord
    from nairi_async.bots.store import ChatPrompt
    from nairi_async.dialogue import Answer

    Deliver = Callable[[str, Answer], Awaitable[object]]
    OnLost = Callable[[str, "LostPrompt"], Awaitable[object]]

# Seconds between attempts while the service fails: five minutes in all, in which new prompts of the chat wait.
_WAITS: Final = (2.0, 4.0, 8.0, 16.0, 30.0, 60.0, 60.0, 120.0)
# Seconds between later attempts.
_LATER: Final = 600.0
# How often one prompt is asked whose request never arrives.
_MOST_ATTEMPTS: Final = 5

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
    _unfinished: dict[str, _ChatRecovery] = field(factory=dict, init=False)

    @asynccontextmanager
    async def running(self, deliver: Deliver, on_lost: OnLost | None) -> AsyncGenerator[None]:
        """Recover in tasks while the block runs; cancel what is left at its end."""
        prefix = f"{self.target} "
        names = [name for name in await self.store.open_names() if name.startswith(prefix)]
        announced, searched = _Countdown(len(names)), _Countdown(len(names))
        recoveries = {
            name: _ChatRecovery(self, name.removeprefix(prefix), deliver, on_lost, announced, searched)
            for name in names
        }
        self._unfinished.update(recoveries)
        tasks = [asyncio.create_task(self._recover(name, recovery)) for name, recovery in recoveries.items()]
        try:
            # Let each task enter its chat's queue before the first new prompt.
            await asyncio.sleep(0)
            yield
        finally:
            self._unfinished.clear()
            for task in tasks:
                task.cancel()
            if tasks:
                await run_shielded(asyncio.wait(tasks))

    def is_unfinished(self, chat: ChatRecord) -> bool:
        """Return whether something of a chat is still to be taken over."""
        return chat.name in self._unfinished

    async def complete(self, chat: ChatRecord) -> None:
        """Take over what is left of a chat before a new prompt of it is asked, in the turn of that prompt.

        Raises:
            NairiError: the service or the store fails still, and a new prompt would overtake those that wait.
        """
        await self._unfinished[chat.name].complete(chat)
        self._unfinished.pop(chat.name, None)

    async def _recover(self, name: str, recovery: _ChatRecovery) -> None:
        """Recover a chat; while the service fails, leave the queue now and then, so that new prompts see its errors."""
        while name in self._unfinished:
            with self.queues.join(name, is_bounded=False) as place:
                try:
                    await recovery.attempt(place)
                except Exception as error:  # noqa: BLE001 - a platform and a store may raise anything
                    text = "chat %s could not be given the reply from before a restart: %r"
                    _log.warning(text, recovery.chat_id, error)
                    if not _may_pass(error):
                        return
                else:
                    self._unfinished.pop(name, None)
            await self.store.clock.sleep(_LATER)


@define(eq=False)
class _ChatRecovery:
    """Recovers one chat: settles its open prompt, then asks those that waited."""

    recovery: Recovery
    chat_id: str
    deliver: Deliver
    on_lost: OnLost | None
    announced: _Countdown
    searched: _Countdown
    _is_first_attempt: bool = field(default=True, init=False)
    _is_announced: bool = field(default=False, init=False)
    _has_searched: bool = field(default=False, init=False)
    _is_last_attempt: bool = field(default=False, init=False)
    """Whether errors of the platform are only logged, as a new prompt waits."""

    async def attempt(self, place: Place) -> None:
        """Recover the chat when its turn has come; while the service fails, try again for five minutes.

        Raises:
            Exception: it cannot be recovered now.
        """
        chat = place.chat
        try:
            if self._is_first_attempt:
                self._is_first_attempt = False
                with self.announced.one():
                    await chat.load()
                    if not (place.is_first and self._announce(chat)):
                        self._end_search()
            await chat.load()
            await place.turn()
            self._announce(chat)
            for wait in _WAITS:
                try:
                    return await self._recover(chat)
                except NairiError as error:
                    if not _may_pass(error):
                        raise
                    _log.info("chat %s is recovered again in %.0f s: %r", self.chat_id, wait, error)
                self._announce(chat)
                await self.recovery.store.clock.sleep(wait)
            await self._recover(chat)
        finally:
            self._end_search()

    async def complete(self, chat: ChatRecord) -> None:
        """Recover the chat in the turn of a new prompt, at once.

        A reply that the platform does not take now is lost: what follows would wait for it without an end.

        Raises:
            NairiError: the service or the store fails still.
        """
        self._is_last_attempt = True
        try:
            await self._recover(chat)
        finally:
            self._is_last_attempt = False

    async def _recover(self, chat: ChatRecord) -> None:
        await self._settle_open_prompt(chat)
        while chat.leftover:
            # An earlier attempt may have asked it.
            if chat.record.is_waiting(chat.leftover[0]):
                await self._ask(chat, chat.leftover[0])
                # Its response may have been lost, and the next prompt must not run at the same time.
                await self._settle_open_prompt(chat)
            chat.leftover.popleft()

    async def _settle_open_prompt(self, chat: ChatRecord) -> None:
        """Hand over the reply to the prompt that was running, or ask the prompt again if it provably did not run."""
        for _ in range(_MOST_ATTEMPTS):
            prompt = chat.record.prompt
            if not chat.record.is_open:
                return
            try:
                outcome = await self._outcome(chat)
            except TurnFailedError as error:
                await self._report(prompt, f"its turn has failed: {error}", may_have_run=True)
                await chat.save(partial(Record.with_outcome, outcome=error))
                return
            except (OutcomeUnknownError, NotFoundError, BadRequestError) as error:
                # The last two: the service has no listing, or no such conversation any more.
                await self._report(prompt, error.message, may_have_run=True)
                await chat.save(_without_prompt)
                return
            if prompt is None or not outcome.is_unsent:
                if outcome.answer is not None:
                    await self._hand_over(prompt, outcome.answer)
                await chat.save(partial(Record.with_outcome, outcome=outcome.answer))
                return
            await self._ask(chat, prompt)
            if chat.record.prompt is None:
                return
        reason = f"it was sent {_MOST_ATTEMPTS} times, and it is not known whether it arrived"
        await self._report(chat.record.prompt, reason, may_have_run=True)
        await chat.save(_without_prompt)

    async def _outcome(self, chat: ChatRecord) -> Outcome:
        """Find out what became of the open prompt."""
        if is_lost_start(chat) and not await self._find_dialogue(chat):
            return Outcome(is_unsent=True)
        if chat.record.dialogue_id is None:
            return Outcome()
        return await self.recovery.prompts.outcome(chat, self.recovery.deadline().options(), is_recovery=True)

    async def _find_dialogue(self, chat: ChatRecord) -> bool:
        """Find the dialogue of a lost first prompt; if it cannot be decided, once more after the other chats' search.

        A dialogue that another chat is found to have leaves one fewer that may be this chat's.
        """
        # Of identical prompts only the number matters, so all of them are counted first.
        await self.announced.wait()
        try:
            is_found = await self._search(chat)
        except OutcomeUnknownError:
            if self._has_searched:
                raise
            self._announce(chat)
            self._end_search()
            await self.searched.wait()
            return await self._search(chat)
        self._end_search()
        return is_found

    async def _search(self, chat: ChatRecord) -> bool:
        self._announce(chat)
        # The search takes it off the count.
        self._is_announced = False
        return await self.recovery.prompts.find_dialogue(chat)

    def _announce(self, chat: ChatRecord) -> bool:
        """Count the chat's open prompt among those that are searched for; return whether it is one."""
        prompt = chat.record.prompt
        if prompt is None or not is_lost_start(chat):
            return False
        if not self._is_announced:
            self.recovery.starts.announce(prompt)
            self._is_announced = True
        return True

    def _end_search(self) -> None:
        """Let the others search again, if all have searched."""
        if not self._has_searched:
            self._has_searched = True
            self.searched.step()

    async def _ask(self, chat: ChatRecord, prompt: ChatPrompt) -> None:
        """Ask a prompt that provably did not run, and hand over its reply.

        If it is not known what became of it, the record keeps it as the open prompt.

        Raises:
            NairiError: it did not run this time either, and the record keeps it where it was.
        """
        if prompt.has_files:
            await self._report(prompt, "its files were lost with the process", may_have_run=False)
            await chat.save(lambda record: record.without_prompt(prompt, evolve(record, is_open=False, prompt=None)))
            return
        before = chat.record.prompt
        try:
            answer = await self.recovery.runner.run(chat, prompt, (), self.recovery.deadline(), is_recovery=True)
        except (SessionClosedError, StoreError):
            # The store holds it still, for the next process.
            raise
        except TurnFailedError as error:
            await self._report(prompt, str(error), may_have_run=True)
            return
        except NairiError as error:
            if chat.record.is_waiting(prompt) or (before is not None and chat.record.prompt == before):
                raise
            if chat.record.prompt is None:
                await self._report(prompt, str(error), may_have_run=False)
            else:
                _log.info("chat %s: it is found out what became of a prompt: %r", self.chat_id, error)
                self._announce(chat)
            return
        await self._hand_over(prompt, answer)
        await chat.save_outcome(lambda record: record.with_outcome(answer))

    async def _hand_over(self, prompt: ChatPrompt | None, answer: Answer) -> None:
        try:
            await self.deliver(self.chat_id, answer)
        except Exception as error:
            if not self._is_last_attempt:
                raise
            await self._report(prompt, f"its reply could not be handed over: {error!r}", may_have_run=True)

    async def _report(self, prompt: ChatPrompt | None, reason: str, *, may_have_run: bool) -> None:
        if prompt is None:
            return
        _log.warning(
            "a message of chat %s from before a restart gets no reply: %s", self.chat_id, shortened(one_line(reason))
        )
        if self.on_lost is None:
            return
        lost = LostPrompt(prompt.text, prompt.key, may_have_run=may_have_run, reason=reason)
        try:
            await self.on_lost(self.chat_id, lost)
        except Exception as error:
            if not self._is_last_attempt:
                raise
            _log.warning("chat %s has not taken the report of a lost prompt: %r", self.chat_id, error)


class _Countdown:
    """Lets tasks wait until each of them has done a first step, or failed at it."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._done = asyncio.Event()

    @contextmanager
    def one(self) -> Generator[None]:
        """Take one step at the end of the block."""
        try:
            yield
        finally:
            self.step()

    def step(self) -> None:
        """Take one step."""
        self._count -= 1
        if not self._count:
            self._done.set()

    async def wait(self) -> None:
        """Wait for the last step."""
        await self._done.wait()


def _may_pass(error: Exception) -> bool:
    """Return whether a later attempt may succeed: the service or the disk fails."""
    if isinstance(error, OutcomeUnknownError):
        return False
    return isinstance(error, StoreError) or (isinstance(error, NairiError) and is_passing(error))


def _without_prompt(record: Record) -> Record:
    """Return the record without a prompt that cannot be found; the next one settles a dialogue that is known."""
    return evolve(record, prompt=None, is_open=record.dialogue_id is not None)
