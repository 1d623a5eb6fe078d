"""`Chats`: the dialogues of a bot, one for each channel, chat or thread."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from nairi_async._core import checks
from nairi_async._core.checks import DEFAULT_TIMEOUT
from nairi_async._core.service_session import hooks_of
from nairi_async.bots.chat_queue import ChatQueues
from nairi_async.bots.chat_record import ClockedStore
from nairi_async.bots.chat_reply import ChatReply
from nairi_async.bots.deadline import Deadline
from nairi_async.bots.lost_starts import LostStarts
from nairi_async.bots.open_prompts import OpenPrompts
from nairi_async.bots.prompt_runner import PromptRunner
from nairi_async.bots.recovery import Recovery
from nairi_async.bots.sending_times import SendingTimes
from nairi_async.bots.split import Length, split_text
from nairi_async.bots.store import ChatPrompt, MemoryStore, Record
from nairi_async.bots.typing_indicator import typing_shown
from nairi_async.errors import AlreadyAskedError, InvalidArgumentError
from nairi_async.hooks import ChatQueued
from nairi_async.typing import UNSET, Unset

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

    from nairi_async.bots.chat_queue import Place
    from nairi_async.bots.recovery import LostPrompt
    from nairi_async.bots.store import Store
    from nairi_async.bots.typing_indicator import Typing
    from nairi_async.clock import Clock
    from nairi_async.dialogue import Answer, Dialogues
    from nairi_async.typing import Duration, Source

DISCORD_LIMIT: Final = 2000
"""Characters of a Discord message: the smallest limit of the large platforms."""
MAX_WAITING: Final = 20
"""Prompts of one chat that may wait. Each costs a turn, and a longer queue is not read any more."""
TYPING_EVERY: Final = 4.0
"""Seconds between calls that show the typing indicator: Telegram shows it for five seconds, Discord for ten."""

_log = logging.getLogger("nairi_async.bots")

# Characters from which on a text is split in a thread, since the event loop would be held too long.
_LONG_TEXT: Final = 50_000


class Chats:
    """The dialogues of a bot: each chat has one, its prompts run in order, and different chats run at once.

    It knows no platform: give it the platform's id of the chat, and send the pieces of the reply. It works with any
    session that satisfies `nairi_async.dialogue.Dialogues`. If the agent has ended a dialogue, as Amigo's agents do,
    the chat's next prompt begins another.

    **Restart.** With a store that outlives the process, a chat continues its dialogue. Before a prompt is sent, the
    store holds it; the id of a new dialogue is saved as soon as the service names it; the end of the prompt is saved
    after its reply was handed over. So whenever the process ends, a prompt with a known key is never run again: if the
    platform delivers it again, `AlreadyAskedError` is raised. `recovering` takes over what an earlier process left: it
    finds the prompts that were sent, hands over their replies, and asks the prompts that waited. Without it, an
    interrupted turn is awaited when its chat speaks again, and prompts that waited are not asked.

    With Nairi, `recovering` looks up the reply to a prompt whose response was lost. With Amigo, a conversation's
    `settle()` looks up an interaction that this process sent; after a restart, `recovering` reports it through
    `on_lost`. Only one process may answer a chat: `SQLiteStore` admits one at a time.

    Args:
        session: An open session, such as `NairiSession`.
        target: The agent or service to talk to.
        store: Keeps the records of the chats: `SQLiteStore`, or your own; by default in memory. Each target has its own
            records, so another target begins new dialogues.
        limit: The platform's maximum message length: Discord 2000, Telegram 4096 (with `length=utf16_length`).
        length: How the platform counts; characters by default.
        timeout: Seconds for each prompt; `None` for no limit.
        max_waiting: Maximum number of waiting prompts of one chat; a further one is refused.
        typing_every: Seconds between calls of a typing indicator that is a function.
        clock: The clock to use; in tests the session's own. A virtual clock stands still while the store works.

    Raises:
        InvalidArgumentError: the target, limit or timeout is not valid.
        ConfigurationError: `max_waiting` or `typing_every` is not valid.
    """

    def __init__(
        self,
        session: Dialogues,
        target: str,
        *,
        store: Store | None = None,
        limit: int = DISCORD_LIMIT,
        length: Length = len,
        timeout: Duration | None = DEFAULT_TIMEOUT,
        max_waiting: int = MAX_WAITING,
        typing_every: Duration = TYPING_EVERY,
        clock: Clock | None = None,
    ) -> None:
        split_text("", limit)
        self._session = session
        self._target = checks.identifier("target", target)
        self._limit, self._length = limit, length
        self._timeout = timeout
        self._typing_every = checks.seconds(typing_every)
        checks.positive("typing_every", self._typing_every)
        checks.timeout(timeout)
        self._clock = checks.clock(clock)
        if store is not None:
            checks.part("store", store, "Store", "load", "save", "open_names", "dialogue_ids")
        self._store = ClockedStore(MemoryStore() if store is None else store, self._clock)
        self._queues = ChatQueues(self._store, checks.whole("max_waiting", max_waiting))
        starts = LostStarts(session, self._target, self._store)
        times = SendingTimes(session, self._target, self._clock)
        self._prompts = OpenPrompts(session, self._target, starts, times, self._clock)
        self._runner = PromptRunner(session, self._target, times, starts.taken.add)
        self._recovery = Recovery(
            self._target, self._store, self._queues, starts, self._prompts, self._runner, self._deadline
        )

    def __repr__(self) -> str:
        return f"<Chats with {self._target!r}: {len(self._queues)} busy, {self._store.store!r}>"

    async def ask(
        self,
        chat: str | int,
        prompt: str,
        *,
        key: str | int | None = None,
        attachments: Iterable[Source] = (),
        typing: Typing | None = None,
        timeout: Duration | Unset | None = UNSET,
    ) -> ChatReply:
        """Ask a prompt as `turn` does, for a reply that need not be sent in order. Arguments and errors: see `turn`."""
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
        timeout: Duration | Unset | None = UNSET,
    ) -> AsyncGenerator[ChatReply]:
        """Ask a prompt when its turn in the chat has come; send the reply inside the block: `async with chats.turn(…)`.

        Prompts of one chat run in the order of the calls, so enter it before you await anything else. The chat's next
        prompt waits for the end of the block: replies are sent in the order of the prompts, and do not mix. The reply
        counts as handed over when the block ends without an exception.

        Args:
            chat: The platform's id of the channel, chat or thread; join several parts to one text.
            prompt: What to say; not blank.
            key: The platform's id of the message, if the platform may deliver it again, as webhooks do. The prompt runs
                once.
            attachments: Files, if the service takes them; `File` gives a download its name.
            typing: The platform's typing indicator: its own context manager, or a function that is awaited every
                `typing_every` seconds. It is shown until the turn has ended. Its errors are only logged.
            timeout: Seconds for the whole wait, including the prompts before this one. The wait for those is not cut
                short, but the prompt is not sent afterwards. By default the `timeout` of `Chats`.

        Raises:
            AlreadyAskedError: a prompt with this key was accepted before; its `dialogue_id` leads to the reply.
            ChatBusyError: too many prompts of the chat are waiting; this one was not accepted.
            StoreError: the record could not be read or saved; nothing was sent.
            NairiError: as for the dialogue's own `ask`. If the prompt provably did not run, or the service undid it,
                its key may be used again; likewise after a cancellation before it was sent.
        """
        name, text = self._name(chat), checks.prompt(prompt)
        files = tuple(attachments)
        message = ChatPrompt(text, None if key is None else _id("key", key), has_files=bool(files))
        deadline = self._deadline(timeout)
        with self._queues.join(name, message.key) as place:
            record = await place.chat.load()
            if message.key is not None and (message.key in record.keys or place.is_repeated):
                reason = f"the prompt {message.key!r} was accepted before, and is not run again"
                raise AlreadyAskedError(reason, record.dialogue_id)
            await self._wait_for_turn(place, message)
            async with typing_shown(typing, self._clock, self._typing_every):
                try:
                    if self._recovery.is_unfinished(place.chat):
                        # What an earlier process left comes first.
                        await deadline.bound(self._recovery.complete(place.chat))
                    left = await self._prompts.left_behind(place.chat, deadline)
                except (Exception, asyncio.CancelledError):
                    await place.chat.save_outcome(partial(_withdrawn, prompt=message))
                    raise
                answer = await self._runner.run(place.chat, message, files, deadline, left)
            await place.chat.check_store_is_open()
            yield await self._reply(answer)
            await place.chat.save_outcome(lambda record: record.with_outcome(answer))

    @asynccontextmanager
    async def recovering(
        self,
        deliver: Callable[[str, ChatReply], Awaitable[object]],
        on_lost: Callable[[str, LostPrompt], Awaitable[object]] | None = None,
    ) -> AsyncGenerator[None]:
        """Run the bot in this block, and meanwhile take over what an earlier process left.

        A prompt that was running is looked up, and its reply handed over once its turn has ended. If the prompt
        provably did not run, it is asked; so are the prompts that waited behind it. New prompts of the chat wait behind
        them. While the service fails, it is asked again for five minutes, then every ten minutes and before each new
        prompt of the chat. If it fails then too, the new prompt is refused with the service's error, since it would
        overtake those that wait. After an error of `deliver` a warning is logged, and the next prompt of the chat, or
        the next process, tries once more. A reply that was being sent when the process ended is sent again as a whole.

        Args:
            deliver: Awaited with the chat and a reply, to send it there.
            on_lost: Awaited with the chat and a prompt to which no reply can be given: its turn has failed, its files
                were lost, the service has no lookup for its outcome or cannot decide it, or `deliver` has failed twice.
                Without it, a warning is logged.

        Raises:
            StoreError: the records could not be read.
        """

        async def send(chat: str, answer: Answer) -> None:
            await deliver(chat, await self._reply(answer))

        async with self._recovery.running(send, on_lost):
            yield

    async def dialogue_id(self, chat: str | int) -> str | None:
        """Return the service's id of the chat's dialogue; `None` until it has begun."""
        return (await self._queues.record(self._name(chat)).load()).dialogue_id

    async def forget(self, chat: str | int) -> None:
        """Let the chat's next prompt begin a new dialogue, after the prompts before this call have ended."""
        with self._queues.join(self._name(chat), is_bounded=False) as place:
            await place.turn()
            if await place.chat.load() != Record():
                await place.chat.save(lambda record: Record(keys=record.keys, waiting=record.waiting))

    async def _wait_for_turn(self, place: Place, prompt: ChatPrompt) -> None:
        """Wait for the prompts in front; meanwhile the store holds the prompt, so that the next process can ask it."""
        if place.is_first and not place.chat.record.is_unfinished:
            return
        undo = partial(_withdrawn, prompt=prompt)
        await place.chat.save_or_undo(lambda record: record.with_waiting(prompt), undo)
        if not place.is_first:
            chat = place.chat.name.partition(" ")[2]
            hooks_of(self._session).emit(_log, ChatQueued(chat=chat, target=self._target, waiting=place.waiting))
        try:
            await place.turn()
        except asyncio.CancelledError:
            await place.chat.save_outcome(undo)
            raise

    def _name(self, chat: str | int) -> str:
        # A target contains no space, so that the chat can be read from the name.
        name = _id("chat", chat)
        if not checks.is_storable(name):
            raise InvalidArgumentError(f"chat {name!r:.80} holds a zero byte or half a character")
        return f"{self._target} {name}"

    def _deadline(self, timeout: Duration | Unset | None = UNSET) -> Deadline:
        return Deadline(self._clock, checks.timeout(self._timeout if isinstance(timeout, Unset) else timeout))

    async def _reply(self, answer: Answer) -> ChatReply:
        split = partial(split_text, answer.text, self._limit, length=self._length)
        if len(answer.text) <= _LONG_TEXT:
            return ChatReply(tuple(split()), answer)
        async with self._clock.timeout(math.inf):
            return ChatReply(tuple(await asyncio.to_thread(split)), answer)


def _id(name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise InvalidArgumentError(f"{name} must be a text or a number, not {value!r:.80}")
    return str(value)


def _withdrawn(record: Record, prompt: ChatPrompt) -> Record:
    return record.without_prompt(prompt, record)
