"""What is done about one item of a batch, from wherever the ledger says that it stands to its outcome."""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from attrs import define, evolve, field

from nairi_async._nairi.results import Reply
from nairi_async.batch.documents import ended, restored
from nairi_async.batch.items import BatchOutcome
from nairi_async.batch.ledger import Ledger
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

    from nairi_async._core.fan_out import TaskPool
    from nairi_async._nairi.session import NairiSession
    from nairi_async.batch.items import BatchItem
    from nairi_async.batch.ledger import End, Entry
    from nairi_async.batch.lost_prompts import LostPrompts
    from nairi_async.batch.writer import Writer
    from nairi_async.clock import Clock
    from nairi_async.models import Turn

log = logging.getLogger("nairi_async.batch")

OnUnknown = Literal["reconcile", "report"]

# How often a prompt that provably did not run is sent after its answer was lost, in one run.
_SENDINGS: Final = 3
# Seconds between looks for a turn that the service says it does not know: a copy may be behind, a proxy astray. A wait
# that lasted longer than all of them together did find it.
_LOOKS: Final = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
# What a service says of a prompt, its files and where it goes; and what may be said when it was taken after all, so
# that it is not asked again by itself. Everything else, such as a redirect to a page about maintenance or an unpaid
# bill, is no word about the prompt, which can be asked when that is over.
_REFUSALS: Final = frozenset({400, 404, 409, 410, 413, 414, 415, 422, 431, 303, 408})
# Prompts refused with a 403 one after another, from which on it is no matter of the prompts.
_BARRED: Final = 10
# What would meet every other item as well: the batch ends.
_FATAL: Final = (
    LedgerError,
    SessionClosedError,
    ConfigurationError,
    AuthenticationError,
    PermissionDeniedError,
    AgentNotFoundError,
)


class _BarredError(Exception):
    """A 403 that meets one prompt, such as a firewall gives that dislikes its words."""

    def __init__(self, error: PermissionDeniedError, *, is_final: bool) -> None:
        super().__init__(error)
        self.error = error
        self.is_final = is_final


@define(kw_only=True)
class Plan:
    """What the caller decided."""

    agent_id: str
    ask_mode: bool
    timeout: float
    on_unknown: OnUnknown


@define(kw_only=True)
class BatchRun:
    """The items of one run, each in a task of its own. An outcome goes to the crowd with its place in the ledger."""

    session: NairiSession
    clock: Clock
    plan: Plan
    writer: Writer
    doubts: LostPrompts
    pool: TaskPool[tuple[BatchOutcome, int | None]]
    started_at: float
    """When the ledger was opened, in seconds since the epoch: whoever wrote in it before had ended by then."""
    counts: dict[Literal["sending", "running"], int] = field(factory=lambda: {"sending": 0, "running": 0})
    _knows_earlier: bool = False
    """Whether a turn of an earlier run was found here: the service, and the organisation of the key, are the same."""
    _is_let_in: bool = False
    """Whether a prompt of this run has become a turn."""
    _barred: int = 0
    """Prompts that were refused with a 403 since."""
    _stoppable: set[asyncio.Task[object]] = field(factory=set)
    _stopped: asyncio.Event = field(factory=asyncio.Event)

    def moment(self) -> float:
        """When a prompt is about to leave, for the ledger."""
        return self.session._sender.timestamp()  # noqa: SLF001 - parts of one package

    @property
    def is_stopped(self) -> bool:
        """Whether nothing more is begun."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Begin nothing more and stop waiting; what is on its way is still noted. Harmless when repeated."""
        self._stopped.set()
        for task in self._stoppable:
            task.cancel()

    @contextmanager
    def stoppable(self) -> Generator[None]:
        """A time in which the current task may be cancelled without leaving a doubt behind."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        if self.is_stopped:
            # At once: a cancellation would come at the next wait only, which may be behind the block.
            raise asyncio.CancelledError
        self._stoppable.add(task)
        try:
            yield
        finally:
            self._stoppable.discard(task)

    async def take(self, item: BatchItem, claim: asyncio.Future[Entry | None]) -> None:
        """Ask what is new, once it is in the ledger."""
        with self._ending_all():
            try:
                entry = await self.writer.wait(claim)
            except InvalidArgumentError as error:
                place = item.place or 0
                outcome = BatchOutcome(id=item.identity, place=place, prompt=item.prompt, error=error, is_final=False)
                self.pool.put((outcome, None))
                return
            if entry is None:
                self.pool.capacity.release()
            else:
                await self._pursue(entry, is_new=True)

    async def resume(self, entry: Entry) -> None:
        """Go on with what an earlier run left."""
        with self._ending_all():
            await self._pursue(entry, is_new=False)

    def outcome(self, end: End) -> BatchOutcome:
        """The outcome of an item that had ended before."""
        turn, result = restored(end.document, self.plan.agent_id)
        return self._outcome(end, turn, result, is_final=True)

    @contextmanager
    def _ending_all(self) -> Generator[None]:
        """What gets through to here would meet other items as well, so nothing more is begun."""
        try:
            yield
        except Exception:
            self.stop()
            raise

    async def _pursue(self, entry: Entry, *, is_new: bool) -> None:
        """Go on with an item until it has ended, or until this run can do no more about it."""
        turn = entry.turn
        try:
            if turn is None:
                with self._counted("sending"):
                    turn = await self._begun(entry, is_new=is_new)
            with self._counted("running"), self.stoppable():
                reply = await self._reply(turn)
        except _BarredError as barred:
            await self._put(entry, None, barred.error, is_final=barred.is_final)
        except _FATAL:
            raise
        except NairiError as error:
            if turn is None:
                is_final = _is_refusal(error)
                turn = error.turn
                if isinstance(error, InvalidArgumentError):
                    await self.writer.call(partial(Ledger.unusable, number=entry.number))
            else:
                is_final = isinstance(error, TurnFailedError)
                if isinstance(error, NotFoundError):
                    is_final = entry.turn is None or await self._is_at_home(entry) is True
            await self._put(entry, turn, error, is_final=is_final)
        else:
            await self._put(entry, turn, reply, is_final=True)

    async def _reply(self, turn: Turn) -> Reply:
        """What came of a turn. It runs and is paid for, so it takes more than one 404 to give it up."""
        deadline = self.clock.monotonic() + self.plan.timeout
        polls = iter(_LOOKS)
        while True:
            started_at = self.clock.monotonic()
            try:
                return await self.session.reply(turn, timeout=max(0.0, deadline - started_at))
            except NotFoundError:
                if self.clock.monotonic() - started_at > sum(_LOOKS):
                    polls = iter(_LOOKS)
                wait = next(polls, None)
                if wait is None:
                    raise
            await self.clock.sleep(wait)

    async def _is_at_home(self, but: Entry) -> bool | None:
        """Whether other turns of an earlier run are known here; if not, another key or address may have led astray.

        `None` if there are none.
        """
        if self._knows_earlier:
            return True
        others = await self.writer.call(partial(Ledger.earlier, before=self.started_at, but=but.number))
        for message_id in others:
            with suppress(NairiError), self.stoppable():
                await self.session.message(message_id)
                self._knows_earlier = True
                return True
        return False if others else None

    async def _put(self, entry: Entry, turn: Turn | None, result: Reply | NairiError, *, is_final: bool) -> None:
        finished: int | None = None
        if is_final:
            is_done = isinstance(result, Reply)
            # A turn that failed has cost what it said until then.
            seen = result.messages if isinstance(result, TurnFailedError) else ()
            usage = result.usage if isinstance(result, Reply) else Usage.total(message.usage for message in seen)
            cost = None if usage is None else usage.cost_usd
            finish = partial(Ledger.finish, document=ended(turn, result), is_done=is_done, cost=cost)
            finished = await self.writer.call(partial(finish, number=entry.number))
        # No await from here on: outcomes are handed over in the order of ends.
        self.pool.put((self._outcome(entry, turn, result, is_final=is_final), finished))

    def _outcome(
        self, item: Entry | End, turn: Turn | None, result: Reply | NairiError, *, is_final: bool
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

    async def _begun(self, entry: Entry, *, is_new: bool) -> Turn:
        """The turn of an item that has none in the ledger yet, found or begun, and noted."""
        doubt: OutcomeUnknownError | None = None
        sent_before = self.started_at
        if entry.state == "sending" and not is_new:
            doubt = OutcomeUnknownError("the prompt was sent by an earlier run, and whether it runs is not known")
        is_marked = is_new and entry.state == "sending"
        for _ in range(_SENDINGS):
            if doubt is not None:
                if self.plan.on_unknown == "report":
                    raise doubt
                turn = await self._found(entry, sent_before)
                if turn is not None:
                    return turn
                if not is_new and await self._is_at_home(entry) is False:
                    raise OutcomeUnknownError("neither the prompt nor earlier turns of the batch are known here")
                log.info("%r left and is nowhere to be found: it is sent again", entry.id)
            if not is_marked:
                entry = await self._marked(entry)
            try:
                return await self._sent(entry)
            except OutcomeUnknownError as error:
                doubt, sent_before, is_marked = error, self.clock.time(), False
        assert doubt is not None  # noqa: S101 - the loop ends here by it only
        raise doubt

    async def _found(self, entry: Entry, sent_before: float) -> Turn | None:
        """What the prompt has become. That it cannot be looked up decides nothing about it."""
        try:
            with self.stoppable():
                return await self.doubts.find(entry, sent_before)
        except NairiError as error:
            # A service without listings does not know the path, which says nothing about the agent.
            if isinstance(error, (OutcomeUnknownError, *_FATAL)) and not isinstance(error, NotFoundError):
                raise
            raise OutcomeUnknownError(f"the prompt was sent, and could not be looked up: {error}") from error

    async def _marked(self, entry: Entry) -> Entry:
        """The item with its files uploaded, and the ledger saying that its prompt is about to leave."""
        with self.stoppable():
            ids = tuple([await self.session.upload(path) for path in entry.attachments])
        now = self.moment()
        entry = evolve(entry, sent_at=now, attachment_ids=ids)
        await self.writer.call(partial(Ledger.sending, number=entry.number, now=now, attachment_ids=ids))
        return entry

    async def _sent(self, entry: Entry) -> Turn:
        """Send the prompt, and note what it has become."""
        with self.doubts.sending(entry):
            # Between the note and the prompt the batch may have been stopped: then it did not leave.
            if self.is_stopped:
                await self._unsent(entry)
                raise asyncio.CancelledError
            try:
                turn = await self.session.start(
                    self.plan.agent_id,
                    entry.prompt,
                    ask_mode=self.plan.ask_mode,
                    attachment_ids=entry.attachment_ids,
                )
            except OutcomeUnknownError:
                raise
            except PermissionDeniedError as error:
                await self._unsent(entry)
                self._barred += 1
                if self._barred >= _BARRED:
                    raise
                # Where nobody was let in yet, it may still be the key: then nothing ends by it.
                raise _BarredError(error, is_final=self._is_let_in) from error
            except NairiError as error:
                if not _is_refusal(error):
                    await self._unsent(entry)
                raise
            self._is_let_in, self._barred = True, 0
            await self.writer.call(partial(Ledger.running, number=entry.number, turn=turn))
            return turn

    async def _unsent(self, entry: Entry) -> None:
        await self.writer.call(partial(Ledger.unsent, number=entry.number))

    @contextmanager
    def _counted(self, name: Literal["sending", "running"]) -> Generator[None]:
        self.counts[name] += 1
        try:
            yield
        finally:
            self.counts[name] -= 1


def _is_refusal(error: NairiError) -> bool:
    """Whether the service said no to this very prompt, so that asking again would be refused again."""
    return isinstance(error, StatusError) and error.status in _REFUSALS and not isinstance(error, _FATAL)
