"""`Chats`: the dialogues of a bot, one for each channel, chat or thread."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, cast, runtime_checkable

from attrs import define, evolve, field, frozen

from nairi_async._core import checks, leaving
from nairi_async._core.service_session import ServiceSession
from nairi_async.bots.chat_record import ChatRecord, ClockedStore
from nairi_async.bots.indicator import beside, shown
from nairi_async.bots.split import Length, split_text
from nairi_async.bots.store import MemoryStore, Record
from nairi_async.clock import Clock, SystemClock
from nairi_async.dialogue import Answer
from nairi_async.errors import (
    AlreadyAskedError,
    ChatBusyError,
    ConnectionFailedError,
    InteractionVoidError,
    InvalidArgumentError,
    NairiError,
    OutcomeUnknownError,
    SessionClosedError,
    StatusError,
    TurnFailedError,
    WatchTimeoutError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence

    from nairi_async._nairi.results import Attachment
    from nairi_async.bots.indicator import Typing
    from nairi_async.bots.store import Store
    from nairi_async.dialogue import Dialogue, Dialogues
    from nairi_async.typing import Duration, Source

DISCORD_LIMIT: Final = 2000
"""Characters of a Discord message: the smallest limit of the large platforms."""
MAX_WAITING: Final = 20
"""Prompts of one chat that may wait: each costs a turn, and nobody reads on for so long."""
TYPING_EVERY: Final = 4.0
"""Seconds between showings of a typing indicator: Telegram shows it for five, Discord for ten."""
# Seconds between looks at a new dialogue's id. They cost nothing but a wake-up, and end with the first answer.
_ID_EVERY: Final = 0.1
_log = logging.getLogger("nairi_async.bots")


@runtime_checkable
class _HasFiles(Protocol):
    async def attachments(self) -> list[Attachment]: ...


@runtime_checkable
class _Recalls(Protocol):
    async def last_reply(self, *, after: str | None = None, timeout: Duration | None = None) -> Answer | None: ...


@runtime_checkable
class _Ends(Protocol):
    @property
    def is_completed(self) -> bool: ...

    async def settle(self, *, timeout: float = ...) -> object: ...


@frozen
class ChatReply:
    """What to say in the chat."""

    pieces: tuple[str, ...]
    """The text in pieces that the platform takes, to be sent in order; none where the agent said nothing."""
    answer: Answer
    """The service's own reply: with Nairi a `Reply`."""

    @property
    def text(self) -> str:
        """The whole text."""
        return self.answer.text

    async def attachments(self) -> Sequence[Attachment]:
        """The files that the agent made, downloaded; none where the service knows no files."""
        return await self.answer.attachments() if isinstance(self.answer, _HasFiles) else ()


@define
class _Line:
    """The prompts of one chat, one behind the other."""

    lock: asyncio.Lock = field(factory=asyncio.Lock)
    users: int = 0


class Chats:
    """The dialogues of a bot: each chat has one, its prompts run in order, and different chats run at once.

    It knows no platform: give it the platform's id of the chat, send the pieces of the reply. It works with any
    session whose dialogues are those of `nairi_async.dialogue`. Where the agent has ended a dialogue, as Amigo's agents
    do, the chat's next prompt begins another.

    **Restart.** With a store that outlives the process, a chat goes on in its dialogue. Before a prompt leaves, the
    store has its key and that it may be running; as soon as the service has named a new dialogue, its id; once the
    answer was handed over, that too. So whenever the process dies, a prompt whose key is known is never run again by
    this class, whether or not the platform delivers it again: `AlreadyAskedError`. `recovering` hands over the answer
    that a process left behind; without it, a turn that was cut off is waited for when its chat speaks again. What a
    crash can lose: prompts that wait behind another, which only the platform can deliver again; one that was taken on
    and had not left yet (once at most is the rule); and, in the moment between a first prompt's leaving and its answer,
    the id of the new dialogue: the chat then begins another.

    Args:
        session: An open session, such as `NairiSession`.
        target: The agent or service to talk to.
        store: Where the mapping is kept: `SQLiteStore`, or your own; in memory unless given. Records are kept for
            each target, so another target begins new dialogues.
        limit: The longest message of the platform: Discord 2000, Telegram 4096 (with `length=utf16_length`).
        length: How the platform counts; characters unless given.
        timeout: Seconds for each prompt; the session's own unless given.
        max_waiting: Prompts of one chat that may wait for their turn; one more is refused.
        typing_every: Seconds after which a typing indicator that is a function is shown again.
        clock: The time to live by; the session's own in tests. A virtual one stands still while the store works.

    Raises:
        InvalidArgumentError: the target, limit or timeout cannot be used.
        ConfigurationError: `max_waiting` or `typing_every` cannot.
    """

    def __init__(
        self,
        session: Dialogues,
        target: str,
        *,
        store: Store | None = None,
        limit: int = DISCORD_LIMIT,
        length: Length = len,
        timeout: Duration | None = None,
        max_waiting: int = MAX_WAITING,
        typing_every: Duration = TYPING_EVERY,
        clock: Clock | None = None,
    ) -> None:
        split_text("", limit)
        self._session = session
        self._target = checks.identifier("target", target)
        self._limit, self._length = limit, length
        self._timeout = timeout
        self._max_waiting = checks.whole("max_waiting", max_waiting)
        self._typing_every = checks.seconds(typing_every)
        checks.positive("typing_every", self._typing_every)
        checks.timeout(timeout, math.inf)
        self._clock = clock or SystemClock()
        self._store = ClockedStore(store or MemoryStore(), self._clock)
        self._lines: dict[str, _Line] = {}

    async def ask(
        self,
        chat: str | int,
        prompt: str,
        *,
        key: str | int | None = None,
        attachments: Iterable[Source] = (),
        typing: Typing | None = None,
        timeout: Duration | None = None,
    ) -> ChatReply:
        """The same as `turn`, for a reply that need not be sent in the order of the prompts. Arguments as there."""
        turn = self.turn(chat, prompt, key=key, attachments=attachments, typing=typing, timeout=timeout)
        async with turn as reply:
            return reply

    @asynccontextmanager
    async def turn(
        self,
        chat: str | int,
        prompt: str,
        *,
        key: str | int | None = None,
        attachments: Iterable[Source] = (),
        typing: Typing | None = None,
        timeout: Duration | None = None,
    ) -> AsyncGenerator[ChatReply]:
        """Say something in a chat's dialogue when its turn has come: `async with chats.turn(…) as reply`, and send it.

        Prompts of one chat run in the order of the calls, so enter it before anything else is awaited. The chat's next
        prompt waits for the end of the block: replies are sent in the order of the prompts, and do not mix. The answer
        counts as handed over when the block ends without an exception.

        Args:
            chat: The platform's id of the channel, chat or thread; join several parts to one text.
            prompt: What to say; not blank.
            key: The platform's id of the message, if it may come again, as webhooks do: it is run once.
            attachments: Files, where the service takes them; `File` gives a download its name.
            typing: The platform's typing indicator: its own context manager, or a function to be awaited every
                `typing_every` seconds. It is shown until the turn has ended; failing to show it is logged, no more.
            timeout: Seconds for the whole wait, prompts before this one included. The wait for those is not cut
                short, but the prompt is not sent after it. As given to `Chats` unless given here.

        Raises:
            AlreadyAskedError: a prompt of this key was taken on before; its `dialogue_id` leads to the answer.
            ChatBusyError: too many prompts of the chat wait already; this one was not taken on.
            StoreError: the mapping could not be read or written; nothing was sent.
            NairiError: as the dialogue's own `ask`. Where the prompt provably did not run, or the service kept nothing
                of it, its key may be used again; so it may after a cancellation before it left.
        """
        name, text = self._name(chat), checks.prompt(prompt)
        known = None if key is None else _id("key", key)
        files = tuple(attachments)
        bound = checks.timeout(self._timeout if timeout is None else timeout, math.inf)
        deadline = self._clock.monotonic() + bound
        if (line := self._lines.get(name)) and line.users > self._max_waiting:
            raise ChatBusyError(f"{self._max_waiting} prompts of this chat wait already")
        async with self._in_line(name):
            kept = await ChatRecord.of(self._store, name)
            record = kept.record
            if known is not None and known in record.keys:
                told = f"the prompt {known!r} was taken on before, and is not run again"
                raise AlreadyAskedError(told, record.dialogue_id)
            async with shown(typing, self._clock, self._typing_every):
                dialogue = self._dialogue(record)
                with suppress(TurnFailedError):
                    await self._last_answer(dialogue, record, self._remaining(deadline))
                if record.is_open and record.dialogue_id is not None and isinstance(dialogue, _Ends):
                    await dialogue.settle(**self._remaining(deadline))
                    if dialogue.is_completed:
                        record = evolve(record, dialogue_id=None)
                        dialogue = self._dialogue(record)
                call = _call(dialogue, text, files, self._remaining(deadline))
                answer = await self._asked(kept, record.asking(known), dialogue, call)
            yield self._reply(answer)
            await kept.put_in_any_case(evolve(kept.record, dialogue_id=_going_on(dialogue)).answered(answer))

    @asynccontextmanager
    async def recovering(self, deliver: Callable[[str, ChatReply], Awaitable[object]]) -> AsyncGenerator[None]:
        """Run the bot in this block: beside it, answers that the process before this one left behind are handed over.

        Each is waited for as long as its turn runs. New prompts of its chat wait behind it. What fails is logged, and
        tried again by the next process unless the chat has spoken by then. An answer that was being sent when the
        process died is sent again as a whole.

        Args:
            deliver: Awaited with the chat and the answer, to be sent there.

        Raises:
            StoreError: the mapping could not be read.
        """
        begin = f"{self._target} "
        names = [name for name in await self._store.open_names() if name.startswith(begin)]
        tasks = [asyncio.create_task(self._recover(name, name.removeprefix(begin), deliver)) for name in names]
        # Each has its place in its chat's line before the first new prompt.
        await asyncio.sleep(0)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    async def dialogue_id(self, chat: str | int) -> str | None:
        """The service's id of the chat's dialogue; `None` until it has begun."""
        record = await self._store.load(self._name(chat))
        return record.dialogue_id if record else None

    async def forget(self, chat: str | int) -> None:
        """Let the chat's next prompt begin a new dialogue, once the prompts before it are done."""
        name = self._name(chat)
        async with self._in_line(name):
            record = await self._store.load(name)
            if record is not None:
                await self._store.save(name, Record(keys=record.keys))

    def _name(self, chat: str | int) -> str:
        # No target holds a space.
        return f"{self._target} {_id('chat', chat)}"

    def _dialogue(self, record: Record) -> Dialogue:
        if record.dialogue_id is not None:
            return self._session.resume(record.dialogue_id)
        return self._session.conversation(self._target)

    def _remaining(self, deadline: float) -> dict[str, Any]:
        """The `timeout=` that is left, if there is one."""
        if deadline == math.inf:
            return {}
        left = deadline - self._clock.monotonic()
        if left <= 0:
            raise WatchTimeoutError("the prompt was not sent: its turn has not come within the timeout")
        return {"timeout": left}

    @asynccontextmanager
    async def _in_line(self, name: str) -> AsyncGenerator[None]:
        line = self._lines.setdefault(name, _Line())
        line.users += 1
        try:
            async with line.lock:
                yield
        finally:
            line.users -= 1
            if not line.users:
                del self._lines[name]

    async def _recover(self, name: str, chat: str, deliver: Callable[[str, ChatReply], Awaitable[object]]) -> None:
        async with self._in_line(name):
            try:
                kept = await ChatRecord.of(self._store, name)
                dialogue = self._dialogue(kept.record)
                if isinstance(dialogue, _Ends):
                    # It cannot be asked for its last answer; the chat's next prompt settles it.
                    return
                bound = {} if self._timeout is None else {"timeout": self._timeout}
                try:
                    answer = await self._last_answer(dialogue, kept.record, bound)
                except TurnFailedError as failed:
                    _log.warning("what chat %s had asked before a restart failed: %s", chat, failed)
                    answer = None
                if answer is not None:
                    await deliver(chat, self._reply(answer))
                await kept.put(kept.record.answered(answer))
            except Exception as error:  # noqa: BLE001 - a platform and a store may raise anything
                _log.warning("what chat %s had asked before a restart could not be answered: %r", chat, error)

    async def _last_answer(self, dialogue: Dialogue, record: Record, bound: dict[str, Any]) -> Answer | None:
        """The answer that was not handed over, once no turn runs; `None` if there is none, or no way to it."""
        if record.is_open and record.dialogue_id is not None and isinstance(dialogue, _Recalls):
            return await dialogue.last_reply(after=record.last, **bound)
        return None

    def _reply(self, answer: Answer) -> ChatReply:
        return ChatReply(tuple(split_text(answer.text, self._limit, length=self._length)), answer)

    async def _asked(
        self, kept: ChatRecord, asking: Record, dialogue: Dialogue, call: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """The answer, with the record kept in step with what is known."""
        before, after = kept.record, asking
        await kept.put_or_undo(asking)
        with leaving.watched() as sent:
            try:
                async with beside(self._note_id(kept, dialogue)):
                    return await call()
            except asyncio.CancelledError:
                # Of another library's session nobody knows.
                if isinstance(self._session, ServiceSession) and not sent.has_left:
                    after = before
                raise
            except TurnFailedError as failed:
                after = asking.answered(failed)
                raise
            except NairiError as error:
                if _did_not_run(error):
                    # Of a dialogue whose first turn is void it is not known whether it exists: that is settled first.
                    is_vague = isinstance(error, InteractionVoidError) and before.dialogue_id is None
                    after = evolve(before, is_open=before.is_open or is_vague)
                raise
            finally:
                await kept.put_in_any_case(evolve(after, dialogue_id=_going_on(dialogue)))

    async def _note_id(self, kept: ChatRecord, dialogue: Dialogue) -> None:
        """Save a new dialogue's id as soon as it is there, which is long before the answer: no event tells it."""
        while dialogue.id is None:
            await self._clock.sleep(_ID_EVERY)
        await kept.put_in_any_case(evolve(kept.record, dialogue_id=dialogue.id))


def _going_on(dialogue: Dialogue) -> str | None:
    """The id of a dialogue, unless nothing more can be said in it: its agent has ended it, or it was finished."""
    return None if isinstance(dialogue, _Ends) and dialogue.is_completed else dialogue.id


def _id(name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise InvalidArgumentError(f"{name} is a text or a number, not {value!r:.80}")
    return str(value)


def _call(
    dialogue: Dialogue, prompt: str, files: tuple[Source, ...], bound: dict[str, Any]
) -> Callable[[], Awaitable[Answer]]:
    if not files:
        return partial(dialogue.ask, prompt, **bound)
    if "attachments" not in inspect.signature(dialogue.ask).parameters:
        raise InvalidArgumentError("the dialogues of this service take no attachments")
    return partial(cast("Any", dialogue).ask, prompt, attachments=files, **bound)


def _did_not_run(error: NairiError) -> bool:
    """Whether a prompt that failed so provably did not run, or the service has undone it."""
    if error.turn is not None or isinstance(error, OutcomeUnknownError):
        return False
    is_unsent = isinstance(error, ConnectionFailedError) and not error.sent
    return is_unsent or isinstance(
        error, InteractionVoidError | InvalidArgumentError | SessionClosedError | StatusError
    )
