"""Runs an item to its end, whichever store holds it: sends its prompt, or finds or awaits its turn.

What is done next follows from the item's state alone (`item_state`), so that any process can go on with any item.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal
from weakref import WeakValueDictionary

from attrs import evolve, field

from nairi_async._core.checks import DEFAULT_TIMEOUT
from nairi_async._core.permits import LoopLock, Permits
from nairi_async._core.records import define
from nairi_async._nairi.results import Reply
from nairi_async._nairi.session_parts import parts_of
from nairi_async._nairi.structured import repair_prompt
from nairi_async._nairi.turn_reader import RECOVERY_PATIENCE
from nairi_async.batch.documents import decode_result, encode_result
from nairi_async.batch.item_outcome import FATAL, ItemForbiddenError, ItemOutcome, cost_of, is_refusal
from nairi_async.batch.item_state import next_step
from nairi_async.batch.item_store import TurnTakenError
from nairi_async.batch.source_check import check_attachments
from nairi_async.batch.stop_switch import StopSwitch
from nairi_async.errors import (
    InvalidArgumentError,
    NairiError,
    NotFoundError,
    OutcomeUnknownError,
    PermissionDeniedError,
    ReplyFormatError,
    TurnFailedError,
    WatchTimeoutError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from decimal import Decimal
    from pathlib import Path

    from nairi_async._nairi.delivery.prompt_sender import PendingPrompt
    from nairi_async._nairi.session import NairiSession
    from nairi_async.batch.item_state import Entry
    from nairi_async.batch.item_store import ItemStore
    from nairi_async.batch.lost_prompts import LostPrompts
    from nairi_async.clock import Clock
    from nairi_async.models import Turn

log: logging.Logger = logging.getLogger("nairi_async.batch")

_Counts = dict[Literal["sending", "running"], int]
BatchOnUnknown = Literal["reconcile", "report"]
"""What a batch does about a prompt whose response was lost: look it up, or only report it."""

# How often one run sends a prompt whose response is lost each time and that provably did not run.
_MAX_SENDS: Final = 3
# Prompts of a batch that are sent at once, for each connection of the session.
_SENT_PER_CONNECTION: Final = 2
# Seconds between polls for a turn that the service says it does not know: a replica may lag, a proxy may misroute. If
# the last wait outlasted the whole schedule, the turn was found meanwhile, and the schedule starts again.
_NOT_FOUND_WAITS: Final = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
# The same for a conversation that a record names.
_UNKNOWN_WAITS: Final = _NOT_FOUND_WAITS[:4]
# So many prompts in a row refused with 403 mean that the key is not permitted, and not that the prompts are disliked.
_MAX_FORBIDDEN: Final = 10


@define(kw_only=True)
class BatchOptions:
    """The caller's arguments that apply to each item."""

    agent_id: str
    ask_mode: bool
    attachments_from: Path | None
    timeout: float
    on_unknown: BatchOnUnknown
    into: type[Any] | None = None
    repair: int = 0


@define(kw_only=True)
class ItemRunner:
    """Runs the items of one batch. Each call may run in a task of its own."""

    session: NairiSession
    clock: Clock
    options: BatchOptions
    store: ItemStore
    lost_prompts: LostPrompts
    advance: Callable[[Entry, Decimal | None], Awaitable[None]] | None = None
    """Stores that a turn has ended and the next prompt is about to leave; needed for items of several turns."""
    switch: StopSwitch = field(factory=StopSwitch)
    counts: _Counts = field(factory=lambda: {"sending": 0, "running": 0})
    _found_earlier_turn: bool = False
    """Whether a turn of an earlier run was found: the service, and the key's organisation, are the same as then."""
    _was_accepted: bool = False
    """Whether a prompt of this run became a turn."""
    _forbidden: int = 0
    """Prompts that were refused with 403 since then."""
    _conversations: WeakValueDictionary[str, LoopLock] = field(factory=WeakValueDictionary)
    _permits: Permits = field(init=False)
    """For prompts that are sent at once: as many as leave no connection idle."""

    def __attrs_post_init__(self) -> None:
        limiter = parts_of(self.session).sender.context.executor.limiter
        self._permits = Permits(_SENT_PER_CONNECTION * limiter.connections)

    def now(self) -> float:
        """Return the time that the store records for a prompt about to leave."""
        return parts_of(self.session).sender.timestamps.earliest()

    def run(self, entry: Entry, *, is_new: bool, sent_before: float) -> Coroutine[Any, Any, ItemOutcome]:
        """Go on with an item until it has ended, or until this run can do no more about it.

        Args:
            entry: The item.
            is_new: Whether this very run has taken the item up, and nothing of it has left yet.
            sent_before: A time after everything that others may have sent for it, by the clock's `monotonic`.

        Raises:
            NairiError: what would affect every other item as well.
            CancelledError: the run was stopped.
        """
        # Returned and not awaited here: thousands wait, and each frame less is memory.
        run = self._run_turns if entry.conversation is None else self._run_in_order
        return run(entry, sent_before, is_new=is_new)

    async def _run_in_order(self, entry: Entry, sent_before: float, *, is_new: bool) -> ItemOutcome:
        """Run an item of a conversation; those of one take turns, in the order in which they were read."""
        assert entry.conversation is not None  # noqa: S101 - decided by the caller
        lock = self._conversations.setdefault(entry.conversation, LoopLock())
        with self.switch.stoppable():
            await lock.acquire()
        try:
            return await self._run_turns(entry, sent_before, is_new=is_new)
        finally:
            lock.release()

    async def _run_turns(self, entry: Entry, sent_before: float, *, is_new: bool) -> ItemOutcome:
        replies = [reply for reply in map(self._decode, entry.earlier) if isinstance(reply, Reply)]
        while True:
            turn, result, is_final = await self._run_turn(entry, sent_before, is_new=is_new)
            replies += [result] if isinstance(result, Reply) else []
            follow_up = None
            if isinstance(result, Reply):
                result, follow_up = self._judge(entry, result)
            if follow_up is None or turn is None:
                sequence = await self.store.finish(entry, turn, result, cost_of(result)) if is_final else None
                return ItemOutcome(entry=entry, turn=turn, result=result, replies=tuple(replies), sequence=sequence)
            entry, is_new = await self._follow(entry, turn, replies[-1], follow_up), True

    def _decode(self, document: str) -> Reply | NairiError:
        return decode_result(document, self.options.agent_id)[1]

    def _judge(self, entry: Entry, reply: Reply) -> tuple[Reply | NairiError, str | None]:
        """Return the result of a turn that has completed, and the prompt that follows it, if any."""
        if entry.rest:
            return reply, entry.rest[0]
        if self.options.into is None:
            return reply, None
        try:
            return reply.with_value(reply.into(self.options.into)), None
        except ReplyFormatError as error:
            return error, repair_prompt(error.message) if entry.repairs < self.options.repair else None

    async def _follow(self, entry: Entry, turn: Turn, reply: Reply, prompt: str) -> Entry:
        """Store the end of a turn, and the prompt that follows it as about to leave."""
        following = evolve(
            entry,
            state="sending",
            prompt=prompt,
            rest=entry.rest[1:],
            repairs=entry.repairs + (not entry.rest),
            attachments=(),
            attachment_ids=(),
            conversation=turn.job_id,
            previous=turn.message_id,
            earlier=(*entry.earlier, encode_result(turn, reply)),
            sent_at=self.now(),
            turn=None,
        )
        assert self.advance is not None  # noqa: S101 - stores without it take single prompts
        await self.advance(following, cost_of(reply))
        return following

    async def _run_turn(
        self, entry: Entry, sent_before: float, *, is_new: bool
    ) -> tuple[Turn | None, Reply | NairiError, bool]:
        """Return the turn of an item's prompt, what it ended with, and whether that is its end."""
        turn = entry.turn
        try:
            if turn is None:
                with _Counted(self.counts, "sending"):
                    turn = await self._find_or_send(entry, sent_before, is_new=is_new)
            with _Counted(self.counts, "running"), self.switch.stoppable():
                deadline = self.clock.monotonic() + self.options.timeout
                try:
                    # Awaited in this frame: thousands wait, and each frame less is memory.
                    reply = await self._reply(turn, deadline)
                except NotFoundError:
                    reply = await self._reply_once_found(turn, deadline)
        except ItemForbiddenError as forbidden:
            return None, forbidden.error, forbidden.is_final
        except FATAL:
            raise
        except NairiError as error:
            if turn is None:
                is_final = is_refusal(error)
                turn = error.turn
                if isinstance(error, InvalidArgumentError):
                    await self.store.mark_unusable(entry)
            else:
                is_final = isinstance(error, TurnFailedError)
                if isinstance(error, NotFoundError):
                    is_final = entry.turn is None or await self._knows_earlier_turns(entry) is True
            return turn, error, is_final
        else:
            return turn, reply, True

    def _reply(self, turn: Turn, deadline: float) -> Coroutine[Any, Any, Reply]:
        """Return the wait for a turn's reply."""
        # Passed on as it is, the default leaves out the time for which the turn is queued.
        is_default = self.options.timeout == DEFAULT_TIMEOUT
        timeout = DEFAULT_TIMEOUT if is_default else max(0.0, deadline - self.clock.monotonic())
        # An empty reply is recorded for good, and the batch has time: it is read again for longer.
        return parts_of(self.session).reader.reply(turn, timeout, patience=RECOVERY_PATIENCE)

    async def _reply_once_found(self, turn: Turn, deadline: float) -> Reply:
        """Wait for the reply of a turn that was not found. It runs and is paid for, so a single 404 ends no wait."""
        waits = iter(_NOT_FOUND_WAITS)
        wait = next(waits)
        while True:
            await parts_of(self.session).reader.rest(wait)
            started_at = self.clock.monotonic()
            try:
                return await self._reply(turn, deadline)
            except NotFoundError:
                if self.clock.monotonic() - started_at > sum(_NOT_FOUND_WAITS):
                    waits = iter(_NOT_FOUND_WAITS)
                following = next(waits, None)
                if following is None:
                    raise
                wait = following

    async def _knows_earlier_turns(self, excluded: Entry) -> bool | None:
        """Return whether the service knows other turns of earlier runs; `None` if there are none.

        If it knows none of them, the key or the address may be another one than then.
        """
        if self._found_earlier_turn:
            return True
        message_ids = await self.store.earlier_messages(excluded)
        for message_id in message_ids:
            with suppress(NairiError), self.switch.stoppable():
                await self.session.message(message_id)
                self._found_earlier_turn = True
                return True
        return False if message_ids else None

    async def _find_or_send(self, entry: Entry, sent_before: float, *, is_new: bool) -> Turn:
        """Return the turn of an item that has none in its store yet; it is found or started, and recorded."""
        unknown: OutcomeUnknownError | None = None
        if next_step(entry.state, is_mine=is_new) == "look up":
            unknown = OutcomeUnknownError("the prompt was sent by an earlier run, and whether it runs is not known")
        is_marked = is_new and entry.state == "sending"
        for _ in range(_MAX_SENDS):
            if unknown is not None:
                if self.options.on_unknown == "report":
                    raise unknown
                turn = await self._find(entry, sent_before)
                if turn is not None:
                    return turn
                if not is_new and await self._knows_earlier_turns(entry) is False:
                    raise OutcomeUnknownError("neither the prompt nor earlier turns of the batch are known here")
                log.info("prompt %r was sent and did not arrive: sending it again", entry.id)
            if not is_marked:
                entry = await self._mark_sending(entry)
            try:
                return await self._send(entry)
            except OutcomeUnknownError as error:
                unknown, sent_before, is_marked = error, self.clock.monotonic(), False
        assert unknown is not None  # noqa: S101 - the loop ends here only after an error
        raise unknown

    async def _find(self, entry: Entry, sent_before: float) -> Turn | None:
        """Find what the prompt became. A lookup that fails decides nothing about the prompt."""
        try:
            with self.switch.stoppable():
                return await self.lost_prompts.find(entry, sent_before)
        except NairiError as error:
            # A service without listings responds with 404 to the path, which says nothing about the agent.
            if isinstance(error, (OutcomeUnknownError, *FATAL)) and not isinstance(error, NotFoundError):
                raise
            raise OutcomeUnknownError(f"the prompt was sent, and could not be looked up: {error}") from error

    async def _mark_sending(self, entry: Entry) -> Entry:
        """Upload the item's files, and record that its prompt is about to leave."""
        with self.switch.stoppable():
            check_attachments(entry.attachments, self.options.attachments_from)
            ids = tuple([await self.session.upload(path) for path in entry.attachments])
            previous = entry.previous
            if entry.conversation is not None and previous is None:
                previous = await self._through_not_found(partial(self._wait_until_idle, entry.conversation))
        entry = evolve(entry, sent_at=self.now(), attachment_ids=ids, previous=previous)
        await self.store.mark_sending(entry)
        return entry

    async def _through_not_found(self, read: Callable[[], Awaitable[str | None]]) -> str | None:
        """Read a given conversation: a replica may not know yet what another process has begun a moment ago."""
        for wait in _UNKNOWN_WAITS:
            with suppress(NotFoundError):
                return await read()
            await parts_of(self.session).reader.rest(wait)
        return await read()

    async def _wait_until_idle(self, job_id: str) -> str | None:
        """Wait until no turn of a conversation runs; return its last user message."""
        last = None
        try:
            async for message in parts_of(self.session).reader.watch(job_id, self.options.timeout):
                last = message.id if message.role == "user" else last
        except WatchTimeoutError as error:
            text = "the prompt was not sent: the turn before it has not ended within the timeout"
            raise WatchTimeoutError(text, None, error.status) from error
        return last

    async def _send(self, entry: Entry) -> Turn:
        """Send the prompt, and record the turn that it became."""
        with self.lost_prompts.sending(entry):
            # In front of the call: thousands wait for a connection, and a call takes more memory.
            await self._permits.acquire()
            try:
                return await self._send_now(entry)
            finally:
                self._permits.release()

    async def _send_now(self, entry: Entry) -> Turn:
        # If the batch was stopped since the item was marked, the prompt does not leave.
        if self.switch.is_stopped:
            await self.store.mark_unsent(entry)
            raise asyncio.CancelledError
        try:
            turn = await self._pending(entry).send()
        except OutcomeUnknownError:
            raise
        except PermissionDeniedError as error:
            await self.store.mark_unsent(entry)
            self._forbidden += 1
            if self._forbidden >= _MAX_FORBIDDEN:
                raise
            # Until a prompt is accepted the key may be the cause: then the item has not ended.
            raise ItemForbiddenError(error, is_final=self._was_accepted) from error
        except NairiError as error:
            if not is_refusal(error):
                await self.store.mark_unsent(entry)
            raise
        self._was_accepted, self._forbidden = True, 0
        try:
            await self.lost_prompts.record(entry, turn)
        except TurnTakenError as error:
            # A lookup of an identical prompt came first; what that prompt became, if it runs, is this item's.
            raise OutcomeUnknownError("the turn was given to an identical prompt") from error
        return turn

    def _pending(self, entry: Entry) -> PendingPrompt:
        sender, agent_id = parts_of(self.session).sender, self.options.agent_id
        files, prompt = entry.attachment_ids, entry.prompt
        if entry.conversation is not None:
            return sender.continue_(
                entry.conversation, prompt, attachment_ids=files, agent_id=agent_id, is_recorded=True
            )
        is_reading = self.options.ask_mode
        return sender.start(agent_id, prompt, ask_mode=is_reading, attachment_ids=files, is_recorded=True)


class _Counted(AbstractContextManager[None]):
    """Count an item in a block, as `StopSwitch.stoppable` is made."""

    __slots__ = ("_counts", "_name")

    def __init__(self, counts: _Counts, name: Literal["sending", "running"]) -> None:
        self._counts = counts
        self._name: Literal["sending", "running"] = name

    def __enter__(self) -> None:
        self._counts[self._name] += 1

    def __exit__(self, *_: object) -> None:
        self._counts[self._name] -= 1
