"""`Batch`: many prompts, with a ledger on disk that lets another process go on where this one ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

from attrs import evolve

from nairi_async._core import checks
from nairi_async._core.fan_out import ItemReader, TaskPool
from nairi_async._nairi.delivery.reconciler import SETTLING_TIME
from nairi_async._nairi.many import DEFAULT_LIMIT
from nairi_async._nairi.polling.watch import DEFAULT_TIMEOUT
from nairi_async._nairi.session import NairiSession
from nairi_async.batch.items import BatchItem, BatchOutcome, UnusableItem, place_name
from nairi_async.batch.ledger import Ledger
from nairi_async.batch.ledger_file import companions, ledger_errors, ledger_path
from nairi_async.batch.lost_prompts import LostPrompts
from nairi_async.batch.run import BatchRun, Plan
from nairi_async.batch.writer import Writer
from nairi_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Self

    from nairi_async.batch.items import BatchStatus
    from nairi_async.batch.ledger import Entry
    from nairi_async.batch.run import OnUnknown
    from nairi_async.typing import Duration

# Entries of the ledger that are read at a time.
_PAGE: Final = 256

Prompt = str | BatchItem | Mapping[str, object] | UnusableItem
"""What a source may give: a plain prompt, or a record with `prompt` and, if wanted, `id` and `attachments`."""


class Batch:
    """The outcomes of many prompts, as each ends, and a ledger from which any later process goes on.

        async with Batch(nairi, "my-agent", prompts, ledger="run.sqlite", limit=200) as outcomes:
            async for outcome in outcomes:
                ...

    A prompt is in the ledger, durably, before it leaves; so is what came of it before the outcome is handed over.
    Killed at any instant and begun again with the same arguments:

    * What has ended is not asked again, and passed over without an outcome. Your code has dealt with an outcome when it
      comes back for the next one: those that it did not come back from are handed over once more, from the ledger.
    * What had begun is waited for, by its job id.
    * What was on its way is looked for at the service (`on_unknown="reconcile"`): found, it is waited for; provably
      not there, it is asked; undecided, its outcome holds an `OutcomeUnknownError`, and the next run looks again.

    The ledger comes first, then the source, which is read only as far as there is room: memory does not depend on the
    number of prompts. Errors of one prompt are in its outcome. What would meet every prompt ends the batch when what
    is on its way has been noted: a refused key, an unknown agent, a ledger that cannot be written.

    Args:
        session: An open session.
        agent_id: Slug or id of the agent; a ledger belongs to one, and to one service.
        prompts: An iterable or async iterable of prompts or records. Identity is the record's `id`, else the place.
        ledger: The SQLite file, made if it is missing. One process at a time.
        limit: Conversations at once.
        output: A file to which each end is appended as one line of JSON, exactly once.
        ask_mode: Let the agent read only, without tools.
        timeout: Seconds to wait for each turn; 6 hours unless given. The next run waits on.
        on_unknown: What to do about a prompt whose answer was lost: `reconcile`, or only `report` it.
        retry_failed: Ask again, once, what had ended without a reply; its new end is a further line of the output.
        settle: Seconds for which a prompt whose answer was lost is looked for, before it is taken not to have arrived.

    Raises:
        InvalidArgumentError: an argument cannot be used.
        LedgerError: from `async with`: the ledger or the output is in use, something else's, or cannot be written;
            from the iteration: not any more.
    """

    def __init__(
        self,
        session: NairiSession,
        agent_id: str,
        prompts: Iterable[Prompt] | AsyncIterable[Prompt],
        *,
        ledger: str | os.PathLike[str],
        limit: int = DEFAULT_LIMIT,
        output: str | os.PathLike[str] | None = None,
        ask_mode: bool = False,
        timeout: Duration | None = None,
        on_unknown: OnUnknown = "reconcile",
        retry_failed: bool = False,
        settle: Duration = SETTLING_TIME,
    ) -> None:
        if not isinstance(session, NairiSession):
            raise InvalidArgumentError(f"Batch needs a NairiSession, not {type(session).__name__}")
        if isinstance(prompts, str | Mapping) or not isinstance(prompts, Iterable | AsyncIterable):
            raise InvalidArgumentError("prompts is an iterable of prompts, not a single one")
        if on_unknown not in {"reconcile", "report"}:
            raise InvalidArgumentError(f"on_unknown is {on_unknown!r}: 'reconcile' or 'report' is needed")
        self._session = session
        self._prompts = prompts
        self._path = ledger_path(ledger)
        self._output = None if output is None else ledger_path(output)
        if self._output in companions(self._path):
            raise InvalidArgumentError("the output is another file than the ledger and what SQLite keeps beside it")
        self._limit = checks.limit(limit)
        self._retry_failed = checks.flag("retry_failed", retry_failed)
        self._settle = checks.timeout(settle, SETTLING_TIME, "settle")
        self._plan = Plan(
            agent_id=checks.identifier("agent_id", agent_id),
            ask_mode=checks.flag("ask_mode", ask_mode),
            timeout=checks.timeout(timeout, DEFAULT_TIMEOUT),
            on_unknown=on_unknown,
        )
        self._work: BatchRun | None = None
        self._given: int | None = None

    async def __aenter__(self) -> Self:
        if self._work is not None:
            raise InvalidArgumentError("a batch runs once; make another one to go on")
        clock = self._session._executor.clock  # noqa: SLF001 - parts of one package
        base_url = self._session._base_url  # noqa: SLF001 - as above
        writer = await Writer.open(self._path, self._plan.agent_id, self._output, clock, base_url=base_url)
        try:
            doubts = LostPrompts(self._session, self._plan.agent_id, writer, self._settle)
        except BaseException:
            await writer.aclose()
            raise
        self._work = BatchRun(
            session=self._session,
            clock=clock,
            plan=self._plan,
            writer=writer,
            doubts=doubts,
            pool=TaskPool(self._limit),
            started_at=clock.time(),
        )
        self._work.pool.spawn(self._feed(self._work))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        work = self._running
        try:
            work.stop()
            # What is on its way is noted, unless there is no time: then it is in doubt, and the next run settles it.
            if kind is None or not issubclass(kind, asyncio.CancelledError):
                while work.pool.tasks:
                    await asyncio.wait(tuple(work.pool.tasks))
        finally:
            await work.pool.aclose()
            work.doubts.close()
            await work.writer.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> BatchOutcome:
        """The next outcome, in the order in which they end."""
        work = self._running
        if self._given is not None:
            work.writer.ledger.write_started = self._given
            self._given = None
        outcome, self._given = await work.pool.get()
        return outcome

    def stop(self) -> None:
        """Begin nothing more and wait for no reply: the iteration ends when what is on its way has been noted.

        Everything can be gone on with by the next run. May be called again, and from a signal handler of the loop.
        """
        self._running.stop()

    @property
    def status(self) -> BatchStatus:
        """Where the batch stands: ends as in the ledger, and what this run is doing."""
        work = self._running
        counts = work.counts
        return evolve(work.writer.ledger.totals, running=counts["running"], sending=counts["sending"])

    @property
    def _running(self) -> BatchRun:
        if self._work is None:
            raise InvalidArgumentError("use Batch in `async with`: `async with Batch(…) as outcomes`")
        return self._work

    async def _feed(self, work: BatchRun) -> None:
        """Give out the work: what was not handed over, what has not ended, what is new, what could not be used."""
        # What the source of prompts raises comes out when everything asked before has ended.
        with work.stoppable():
            await self._feed_ends(work)
            # A prompt that gets lost can be looked for by the service's own time, should this machine's clock be set.
            await self._session._sender.observe_server_time(self._plan.agent_id)  # noqa: SLF001 - as above
            if self._retry_failed:
                await work.writer.call(Ledger.retry_failed)
            await self._feed_known(work, Ledger.open_entries)
            await self._feed_new(work)
            await self._feed_known(work, Ledger.unusable_entries)

    async def _feed_ends(self, work: BatchRun) -> None:
        after = work.writer.ledger.write_started
        while ends := await work.writer.call(partial(Ledger.ends, after=after, count=_PAGE)):
            for end in ends:
                await work.pool.capacity.acquire()
                with ledger_errors(self._path):
                    outcome = work.outcome(end)
                work.pool.put((outcome, end.finished))
                after = end.finished

    async def _feed_known(self, work: BatchRun, page: Callable[..., list[Entry]]) -> None:
        after = 0
        while entries := await work.writer.call(partial(page, after=after, count=_PAGE)):
            for entry in entries:
                await work.pool.capacity.acquire()
                work.pool.spawn(work.resume(entry))
                after = entry.number

    async def _feed_new(self, work: BatchRun) -> None:
        source: ItemReader[Any] = ItemReader(self._prompts)
        place = 0
        while True:
            await work.pool.capacity.acquire()
            try:
                given = await source.next()
            except StopAsyncIteration:
                work.pool.capacity.release()
                return
            place += 1
            try:
                if isinstance(given, UnusableItem):
                    place = given.place
                    raise given.error
                item = BatchItem.of(given, place)
            except InvalidArgumentError as error:
                outcome = BatchOutcome(id=place_name(place), place=place, prompt="", error=error, is_final=False)
                work.writer.submit(Ledger.pass_over)
                work.pool.put((outcome, None))
                continue
            place = item.place or place
            claim = work.writer.submit(partial(Ledger.claim, item=item, now=work.moment()))
            work.pool.spawn(work.take(item, claim))
