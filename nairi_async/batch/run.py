"""Runs each item: records it in the ledger, sends it, records the outcome."""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from attrs import define, evolve, field

from nairi_async._core.checks import DEFAULT_TIMEOUT
from nairi_async._nairi.results import Reply
from nairi_async._nairi.turn_reader import RECOVERY_PATIENCE
from nairi_async.batch.documents import decode_result, encode_result
from nairi_async.batch.items import BatchOutcome, unusable_outcome
from nairi_async.batch.ledger import Ledger
from nairi_async.batch.source_check import check_attachments
from nairi_async.errors import (
    AgentNotFoundError,
    AuthenticationError,
    ConfigurationError,
    InvalidArgumentError,
    LedgerError,
    NairiError,
    NotFoundError,
    OutcomeUnknownError,
    PermissionDeniedError,
    SessionClosedError,
    StatusError,
    TurnFailedError,
)
from nairi_async.models import Usage

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from nairi_async._core.fan_out import TaskPool
    from nairi_async._nairi.session import NairiSession
    from nairi_async.batch.items import BatchItem
    from nairi_async.batch.ledger import Entry, RecordedOutcome
    from nairi_async.batch.lost_prompts import LostPrompts
    from nairi_async.batch.writer import Writer
    from nairi_async.clock import Clock
    from nairi_async.models import Turn

log = logging.getLogger("nairi_async.batch")

BatchOnUnknown = Literal["reconcile", "report"]
"""What a batch does about a prompt whose response was lost: look it up, or only report it."""

# How often one run sends a prompt whose response is lost each time and that provably did not run.
_MAX_SENDS: Final = 3
# Seconds between polls for a turn that the service says it does not know: a replica may lag, a proxy may misroute. If
# the last wait outlasted the whole schedule, the turn was found meanwhile, and the schedule starts again.
_NOT_FOUND_WAITS: Final = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
# Statuses that refuse this very prompt, its files or its target: it is not sent again unless the caller asks for it.
# Any other status, such as a redirect to a maintenance page or an unpaid bill, says nothing about the prompt, which can
# be sent later.
_REFUSED_STATUSES: Final = frozenset({400, 404, 409, 410, 413, 414, 415, 422, 431})
# So many prompts in a row refused with 403 mean that the key is not permitted, and not that the prompts are disliked.
_MAX_FORBIDDEN: Final = 10
# What would affect every other item as well: the batch ends.
_FATAL: Final = (
    LedgerError,
    SessionClosedError,
    ConfigurationError,
    AuthenticationError,
    PermissionDeniedError,
    AgentNotFoundError,
)


class _ItemForbiddenError(Exception):
    """A 403 for one prompt, as a firewall gives that dislikes its text."""

    def __init__(self, error: PermissionDeniedError, *, is_final: bool) -> None:
        super().__init__(error)
        self.error = error
        self.is_final = is_final


@define(kw_only=True)
class BatchOptions:
    """The caller's arguments that apply to each item."""

    agent_id: str
    ask_mode: bool
    attachments_from: Path | None
    timeout: float
    on_unknown: BatchOnUnknown


@define(kw_only=True)
class BatchRun:
    """The items of one run, each in a task of its own. The pool receives each outcome with its place in the ledger."""

    session: NairiSession
    clock: Clock
    options: BatchOptions
    writer: Writer
    lost_prompts: LostPrompts
    pool: TaskPool[tuple[BatchOutcome, int | None]]
    started_at: float
    """When the ledger was opened, in seconds since the epoch: processes that wrote to it earlier had ended by then."""
    counts: dict[Literal["sending", "running"], int] = field(factory=lambda: {"sending": 0, "running": 0})
    _found_earlier_turn: bool = False
    """Whether a turn of an earlier run was found: the service, and the key's organisation, are the same as then."""
    _was_accepted: bool = False
    """Whether a prompt of this run became a turn."""
    _forbidden: int = 0
    """Prompts that were refused with 403 since then."""
    _stoppable: set[asyncio.Task[object]] = field(factory=set)
    _stopped: asyncio.Event = field(factory=asyncio.Event)

    def now(self) -> float:
        """Return the time that the ledger records for a prompt about to leave."""
        return self.session._sender.timestamp()  # noqa: SLF001 - parts of one package

    @property
    def is_stopped(self) -> bool:
        """Whether nothing more is started."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Start nothing more and stop waiting; prompts being sent are still recorded. Harmless when repeated."""
        self._stopped.set()
        for task in self._stoppable:
            task.cancel()

    async def aclose(self) -> None:
        """Cancel what still runs, and close the ledger."""
        try:
            await self.pool.aclose()
        finally:
            self.lost_prompts.close()
            await self.writer.aclose()

    @contextmanager
    def stoppable(self) -> Generator[None]:
        """Let `stop` cancel the current task in this block, where that leaves no prompt in doubt."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        if self.is_stopped:
            # Raised here: a cancellation would only come at the next wait, which may be after the block.
            raise asyncio.CancelledError
        self._stoppable.add(task)
        try:
            yield
        finally:
            self._stoppable.discard(task)

    def pass_over(self, outcome: BatchOutcome, *, is_reported: bool) -> None:
        """Hand over the outcome of a record that cannot be sent, unless the check of the source has done so."""
        if is_reported:
            self.pool.capacity.release()
        else:
            self.writer.submit(Ledger.pass_over)
            self.pool.put((outcome, None))

    async def run_new(self, item: BatchItem, claim: asyncio.Future[Entry | None], *, is_reported: bool) -> None:
        """Run a new item, once it is in the ledger."""
        with self._stopping_on_error():
            try:
                entry = await self.writer.wait(claim)
            except InvalidArgumentError as error:
                self.pass_over(unusable_outcome(error, item.place or 0, item), is_reported=is_reported)
                return
            if entry is None:
                self.pool.capacity.release()
            else:
                await self._run(entry, is_new=True)

    async def run_known(self, entry: Entry) -> None:
        """Go on with an item of an earlier run."""
        with self._stopping_on_error():
            await self._run(entry, is_new=False)

    def restore_outcome(self, recorded: RecordedOutcome) -> BatchOutcome:
        """Return the outcome of an item that has ended."""
        turn, result = decode_result(recorded.document, self.options.agent_id)
        return self._outcome(recorded, turn, result, is_final=True)

    @contextmanager
    def _stopping_on_error(self) -> Generator[None]:
        """Stop the run on an error that gets here: it would affect other items as well."""
        try:
            yield
        except Exception:
            self.stop()
            raise

    async def _run(self, entry: Entry, *, is_new: bool) -> None:
        """Go on with an item until it has ended, or until this run can do no more about it."""
        turn = entry.turn
        try:
            if turn is None:
                with self._counted("sending"):
                    turn = await self._find_or_send(entry, is_new=is_new)
            with self._counted("running"), self.stoppable():
                reply = await self._wait_for_reply(turn)
        except _ItemForbiddenError as forbidden:
            await self._finish(entry, None, forbidden.error, is_final=forbidden.is_final)
        except _FATAL:
            raise
        except NairiError as error:
            if turn is None:
                is_final = _is_refusal(error)
                turn = error.turn
                if isinstance(error, InvalidArgumentError):
                    await self.writer.call(partial(Ledger.mark_unusable, number=entry.number))
            else:
                is_final = isinstance(error, TurnFailedError)
                if isinstance(error, NotFoundError):
                    is_final = entry.turn is None or await self._knows_earlier_turns(entry) is True
            await self._finish(entry, turn, error, is_final=is_final)
        else:
            await self._finish(entry, turn, reply, is_final=True)

    async def _wait_for_reply(self, turn: Turn) -> Reply:
        """Wait for a turn's reply. It runs and is paid for, so a single 404 does not end the wait."""
        deadline = self.clock.monotonic() + self.options.timeout
        waits = iter(_NOT_FOUND_WAITS)
        while True:
            started_at = self.clock.monotonic()
            try:
                # Passed on as it is, the default leaves out the time for which the turn is queued.
                is_default = self.options.timeout == DEFAULT_TIMEOUT
                timeout = DEFAULT_TIMEOUT if is_default else max(0.0, deadline - started_at)
                # An empty reply is recorded for good, and the batch has time: it is read again for longer.
                reader = self.session._reader  # noqa: SLF001 - parts of one package
                return await reader.reply(turn, timeout, patience=RECOVERY_PATIENCE)
            except NotFoundError:
                if self.clock.monotonic() - started_at > sum(_NOT_FOUND_WAITS):
                    waits = iter(_NOT_FOUND_WAITS)
                wait = next(waits, None)
                if wait is None:
                    raise
            await self.clock.sleep(wait)

    async def _knows_earlier_turns(self, excluded: Entry) -> bool | None:
        """Return whether the service knows other turns of earlier runs; `None` if there are none.

        If it knows none of them, the key or the address may be another one than then.
        """
        if self._found_earlier_turn:
            return True
        read = partial(Ledger.earlier_messages, before=self.started_at, excluding=excluded.number)
        message_ids = await self.writer.call(read)
        for message_id in message_ids:
            with suppress(NairiError), self.stoppable():
                await self.session.message(message_id)
                self._found_earlier_turn = True
                return True
        return False if message_ids else None

    async def _finish(self, entry: Entry, turn: Turn | None, result: Reply | NairiError, *, is_final: bool) -> None:
        sequence: int | None = None
        if is_final:
            is_done = isinstance(result, Reply)
            # A failed turn has cost what its messages say.
            messages = result.messages if isinstance(result, TurnFailedError) else ()
            usage = result.usage if isinstance(result, Reply) else Usage.total(message.usage for message in messages)
            cost = None if usage is None else usage.cost_usd
            finish = partial(Ledger.finish, document=encode_result(turn, result), is_done=is_done, cost=cost)
            sequence = await self.writer.call(partial(finish, number=entry.number))
        # No await from here on: outcomes are handed over in the order of the ledger.
        self.pool.put((self._outcome(entry, turn, result, is_final=is_final), sequence))

    def _outcome(
        self, item: Entry | RecordedOutcome, turn: Turn | None, result: Reply | NairiError, *, is_final: bool
    ) -> BatchOutcome:
        return BatchOutcome(
            id=item.id,
            place=item.place,
            prompt=item.prompt,
            turn=turn,
            reply=result if isinstance(result, Reply) else None,
            error=None if isinstance(result, Reply) else result,
            is_final=is_final,
        )

    async def _find_or_send(self, entry: Entry, *, is_new: bool) -> Turn:
        """Return the turn of an item that has none in the ledger yet; it is found or started, and recorded."""
        unknown: OutcomeUnknownError | None = None
        sent_before = self.started_at
        if entry.state == "sending" and not is_new:
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
                unknown, sent_before, is_marked = error, self.clock.time(), False
        assert unknown is not None  # noqa: S101 - the loop ends here only after an error
        raise unknown

    async def _find(self, entry: Entry, sent_before: float) -> Turn | None:
        """Find what the prompt became. A lookup that fails decides nothing about the prompt."""
        try:
            with self.stoppable():
                return await self.lost_prompts.find(entry, sent_before)
        except NairiError as error:
            # A service without listings responds with 404 to the path, which says nothing about the agent.
            if isinstance(error, (OutcomeUnknownError, *_FATAL)) and not isinstance(error, NotFoundError):
                raise
            raise OutcomeUnknownError(f"the prompt was sent, and could not be looked up: {error}") from error

    async def _mark_sending(self, entry: Entry) -> Entry:
        """Upload the item's files, and record that its prompt is about to leave."""
        with self.stoppable():
            check_attachments(entry.attachments, self.options.attachments_from)
            ids = tuple([await self.session.upload(path) for path in entry.attachments])
        now = self.now()
        entry = evolve(entry, sent_at=now, attachment_ids=ids)
        await self.writer.call(partial(Ledger.mark_sending, number=entry.number, now=now, attachment_ids=ids))
        return entry

    async def _send(self, entry: Entry) -> Turn:
        """Send the prompt, and record the turn that it became."""
        with self.lost_prompts.sending(entry):
            # If the batch was stopped since the item was marked, the prompt does not leave.
            if self.is_stopped:
                await self._mark_unsent(entry)
                raise asyncio.CancelledError
            try:
                turn = await self.session.start(
                    self.options.agent_id,
                    entry.prompt,
                    ask_mode=self.options.ask_mode,
                    attachment_ids=entry.attachment_ids,
                )
            except OutcomeUnknownError:
                raise
            except PermissionDeniedError as error:
                await self._mark_unsent(entry)
                self._forbidden += 1
                if self._forbidden >= _MAX_FORBIDDEN:
                    raise
                # Until a prompt is accepted the key may be the cause: then the item has not ended.
                raise _ItemForbiddenError(error, is_final=self._was_accepted) from error
            except NairiError as error:
                if not _is_refusal(error):
                    await self._mark_unsent(entry)
                raise
            self._was_accepted, self._forbidden = True, 0
            await self.lost_prompts.record(entry, turn)
            return turn

    async def _mark_unsent(self, entry: Entry) -> None:
        await self.writer.call(partial(Ledger.mark_unsent, number=entry.number))

    @contextmanager
    def _counted(self, name: Literal["sending", "running"]) -> Generator[None]:
        self.counts[name] += 1
        try:
            yield
        finally:
            self.counts[name] -= 1


def _is_refusal(error: NairiError) -> bool:
    """Return whether the service refused this very prompt, and would refuse it again."""
    return isinstance(error, StatusError) and error.status in _REFUSED_STATUSES and not isinstance(error, _FATAL)
