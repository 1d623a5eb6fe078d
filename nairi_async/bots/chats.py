"""`Chats`: the dialogues of a bot, one for each channel, chat or thread."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from attrs import evolve

from nairi_async._core import checks
from nairi_async._core.checks import DEFAULT_TIMEOUT
from nairi_async.bots.chat_dialogue import continued_id, open_dialogue, prepared_call, settled, unsent_reply
from nairi_async.bots.chat_queue import ChatQueues
from nairi_async.bots.chat_record import ChatRecord, ClockedStore
from nairi_async.bots.chat_reply import ChatReply
from nairi_async.bots.prompt_runner import run_prompt
from nairi_async.bots.recovery import Recovery
from nairi_async.bots.split import Length, split_text
from nairi_async.bots.store import MemoryStore, Record
from nairi_async.bots.typing_indicator import typing_shown
from nairi_async.clock import Clock, SystemClock
from nairi_async.errors import AlreadyAskedError, InvalidArgumentError, TurnFailedError, WatchTimeoutError
from nairi_async.typing import UNSET, Unset

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

    from nairi_async.bots.store import Store
    from nairi_async.bots.typing_indicator import Typing
    from nairi_async.dialogue import Answer, Dialogues
    from nairi_async.typing import Duration, Source

DISCORD_LIMIT: Final = 2000
"""Characters of a Discord message: the smallest limit of the large platforms."""
MAX_WAITING: Final = 20
"""Prompts of one chat that may wait. Each costs a turn, and a longer queue is not read any more."""
TYPING_EVERY: Final = 4.0
"""Seconds between calls that show the typing indicator: Telegram shows it for five seconds, Discord for ten."""


class Chats:
    """The dialogues of a bot: each chat has one, its prompts run in order, and different chats run at once.

    It knows no platform: give it the platform's id of the chat, and send the pieces of the reply. It works with any
    session that satisfies `nairi_async.dialogue.Dialogues`. If the agent has ended a dialogue, as Amigo's agents do,
    the chat's next prompt begins another.

    **Restart.** With a store that outlives the process, a chat continues its dialogue. Before a prompt is sent, the
    store holds its key and that it may be running; the id of a new dialogue is saved as soon as the service names it;
    the end of the prompt is saved after its reply was handed over. So whenever the process ends, a prompt whose key is
    known is never run again, even if the platform delivers it again: `AlreadyAskedError`. `recovering` hands over the
    replies that an earlier process left behind; without it, an interrupted turn is waited for when its chat speaks
    again. A crash can lose: prompts that wait behind another, which only the platform can deliver again; one that was
    accepted and not sent yet (each runs at most once); and, between the sending of a first prompt and its response, the
    id of the new dialogue: the chat then begins another.

    Args:
        session: An open session, such as `NairiSession`.
        target: The agent or service to talk to.
        store: Where the records of the chats are kept: `SQLiteStore`, or your own; by default in memory. Records are
            kept for each target, so another target begins new dialogues.
        limit: The longest message of the platform: Discord 2000, Telegram 4096 (with `length=utf16_length`).
        length: How the platform counts; characters by default.
        timeout: Seconds for each prompt; `None` for no limit.
        max_waiting: Prompts of one chat that may wait for their turn; a further one is refused.
        typing_every: Seconds between calls of a typing indicator that is a function.
        clock: The clock to use; in tests the session's own. A virtual one stands still while the store works.

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
        self._clock = clock or SystemClock()
        self._store = ClockedStore(store or MemoryStore(), self._clock)
        self._queues = ChatQueues(checks.whole("max_waiting", max_waiting))
        self._recovery = Recovery(session, self._target, self._store, self._queues, {"timeout": timeout})

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
        """Ask a prompt as `turn` does, for a reply that need not be sent in order. Arguments and errors as there."""
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
            key: The platform's id of the message, if the platform may deliver it again, as webhooks do: it runs once.
            attachments: Files, if the service takes them; `File` gives a download its name.
            typing: The platform's typing indicator: its own context manager, or a function that is awaited every
                `typing_every` seconds. It is shown until the turn has ended. An error of it is only logged.
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
        message_key = None if key is None else _id("key", key)
        files = tuple(attachments)
        limit = checks.timeout(self._timeout if isinstance(timeout, Unset) else timeout)
        deadline = self._clock.monotonic() + limit
        self._queues.check_capacity(name)
        async with self._queues.turn(name):
            chat_record = await ChatRecord.load(self._store, name)
            record = chat_record.record
            if message_key is not None and message_key in record.keys:
                reason = f"the prompt {message_key!r} was accepted before, and is not run again"
                raise AlreadyAskedError(reason, record.dialogue_id)
            async with typing_shown(typing, self._clock, self._typing_every):
                dialogue = open_dialogue(self._session, self._target, record)
                with suppress(TurnFailedError):
                    await unsent_reply(dialogue, record, self._options(deadline))
                record, dialogue = await settled(self._session, self._target, record, dialogue, self._options(deadline))
                call = prepared_call(dialogue, text, files, self._options(deadline))
                answer = await run_prompt(chat_record, record.with_prompt(message_key), dialogue, call)
            yield self._reply(answer)
            delivered = evolve(chat_record.record, dialogue_id=continued_id(dialogue)).with_outcome(answer)
            await chat_record.save_outcome(delivered)

    @asynccontextmanager
    async def recovering(self, deliver: Callable[[str, ChatReply], Awaitable[object]]) -> AsyncGenerator[None]:
        """Run the bot in this block: meanwhile the replies that an earlier process left behind are handed over.

        Each is waited for as long as its turn runs. New prompts of its chat wait behind it. A failure is logged, and
        tried again by the next process unless the chat has spoken by then. A reply that was being sent when the process
        ended is sent again as a whole.

        Args:
            deliver: Awaited with the chat and the reply, to send it there.

        Raises:
            StoreError: the records could not be read.
        """

        async def send(chat: str, answer: Answer) -> None:
            await deliver(chat, self._reply(answer))

        async with self._recovery.running(send):
            yield

    async def dialogue_id(self, chat: str | int) -> str | None:
        """Return the service's id of the chat's dialogue; `None` until it has begun."""
        record = await self._store.load(self._name(chat))
        return record.dialogue_id if record else None

    async def forget(self, chat: str | int) -> None:
        """Let the chat's next prompt begin a new dialogue, after the prompts before this call have ended."""
        name = self._name(chat)
        async with self._queues.turn(name):
            record = await self._store.load(name)
            if record is not None:
                await self._store.save(name, Record(keys=record.keys))

    def _name(self, chat: str | int) -> str:
        # A target contains no space, so that the chat can be read from the name.
        return f"{self._target} {_id('chat', chat)}"

    def _options(self, deadline: float) -> dict[str, Any]:
        """Return the `timeout=` for a call; `None` if there is no deadline."""
        if deadline == math.inf:
            return {"timeout": None}
        left = deadline - self._clock.monotonic()
        if left <= 0:
            raise WatchTimeoutError("the prompt was not sent: its turn has not come within the timeout")
        return {"timeout": left}

    def _reply(self, answer: Answer) -> ChatReply:
        return ChatReply(tuple(split_text(answer.text, self._limit, length=self._length)), answer)


def _id(name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise InvalidArgumentError(f"{name} must be a text or a number, not {value!r:.80}")
    return str(value)
