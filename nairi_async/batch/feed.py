"""What a run of a batch works on, in order: the ledger first, then the source."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Collection, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from attrs import field

from nairi_async._core.fan_out import ItemReader
from nairi_async._core.records import define
from nairi_async._nairi.session_parts import parts_of
from nairi_async.batch.items import BatchItem, UnusableItem, unusable_outcome
from nairi_async.batch.jsonl import JsonLines
from nairi_async.batch.ledger import Ledger
from nairi_async.batch.ledger_file import LEDGER
from nairi_async.batch.source_check import SourceCheck, check_attachments
from nairi_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nairi_async.batch.item_state import Entry
    from nairi_async.batch.run import BatchRun

# Rows that are read from the ledger at a time.
_PAGE_SIZE: Final = 256
# Records that are checked before the event loop has its turn.
_CHECKED_AT_ONCE: Final = 100


@runtime_checkable
class PeekableSource(Protocol):
    """A source that cannot be read twice, but says what comes next."""

    is_at_end: bool
    """Whether `peek` has returned everything."""

    async def peek(self) -> Sequence[Any]:
        """Return a bounded number of the next items, without taking them."""
        ...


@define
class BatchFeed:
    """Feeds the pool of a run."""

    run: BatchRun
    source: Iterable[Any] | AsyncIterable[Any]
    retry_failed: bool
    _reported: set[int] = field(factory=set)
    """Places of records whose errors were handed over by the check of the source."""
    _is_whole: bool = False
    """Whether the check has read a source with records to its end: what is not in it, is not in the batch any more."""

    async def feed(self) -> None:
        """Feed outcomes that were not handled, then what has not ended, what is new, and what was unusable before."""
        run = self.run
        # An error of the source is raised when everything that was sent before has ended.
        with run.runner.switch.stoppable():
            await self._feed_outcomes()
            await self._check_source()
            # A lost prompt can then be looked up by the service's time, even if this machine's clock is set meanwhile.
            await parts_of(run.runner.session).sender.observe_server_time(run.runner.options.agent_id)
            if self.retry_failed:
                await run.writer.submit(Ledger.retry_failed)
            await self._feed_known(Ledger.open_entries)
            await self._feed_new()
            if self._is_whole:
                await run.writer.submit(Ledger.forget_replaced)
            await self._feed_known(Ledger.unusable_entries)

    async def _feed_outcomes(self) -> None:
        run = self.run
        after = run.writer.ledger.handled
        while recorded := await run.writer.submit(partial(Ledger.outcomes, after=after, count=_PAGE_SIZE)):
            for one in recorded:
                await run.pool.capacity.acquire()
                with LEDGER.errors(run.writer.ledger.path):
                    outcome = run.restore_outcome(one)
                run.pool.put((outcome, one.sequence))
                after = one.sequence

    async def _check_source(self) -> None:
        """Hand over the errors of the source's records before anything is sent, as far as it can be read in advance.

        Raises:
            LedgerError: the source does not continue the ledger.
        """
        is_whole = _is_rereadable(self.source)
        if is_whole:
            items: Iterable[Any] = self.source  # type: ignore[assignment]  # no async iterable is a collection
        elif isinstance(self.source, PeekableSource):
            items = await self.source.peek()
            is_whole = self.source.is_at_end
        else:
            return
        check = SourceCheck(self.run.writer.ledger.path, self.run.runner.options.attachments_from)
        try:
            is_whole = await self._check_items(check, items) and is_whole
            if is_whole:
                check.check_continuation()
        finally:
            check.close()
        self._is_whole = is_whole and check.records > 0

    async def _check_items(self, check: SourceCheck, items: Iterable[Any]) -> bool:
        """Check the items, and return whether the source could be read to its end."""
        iterator = iter(items)
        while True:
            try:
                given = next(iterator)
            except StopIteration:
                return True
            except Exception:  # noqa: BLE001 - raised again, after what comes before it, when the source is read
                return False
            if (problem := check.problem(given)) is not None:
                await self.run.pool.capacity.acquire()
                self._reported.add(problem.place)
                self.run.writer.submit(Ledger.pass_over)
                self.run.pool.put((problem, None))
            if check.records % _CHECKED_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _feed_known(self, read_page: Callable[..., list[Entry]]) -> None:
        run, after = self.run, 0
        while entries := await run.writer.submit(partial(read_page, after=after, count=_PAGE_SIZE)):
            for entry in entries:
                await run.pool.capacity.acquire()
                run.pool.spawn(run.run_known(entry))
                after = entry.number

    async def _feed_new(self) -> None:
        run = self.run
        source: ItemReader[Any] = ItemReader(self.source)
        place = 0
        while True:
            await run.pool.capacity.acquire()
            try:
                given = await source.next()
            except StopAsyncIteration:
                run.pool.capacity.release()
                return
            place += 1
            try:
                if isinstance(given, UnusableItem):
                    place = given.place
                    raise given.error
                item = BatchItem.of(given, place)
                check_attachments(item.attachments, run.runner.options.attachments_from)
            except InvalidArgumentError as error:
                run.pass_over(unusable_outcome(error, place), is_reported=place in self._reported)
                continue
            place = item.place or place
            claim = run.writer.submit(partial(Ledger.claim, item=item, now=run.runner.now()))
            run.pool.spawn(run.run_new(item, claim, is_reported=place in self._reported))


def _is_rereadable(source: object) -> bool:
    if isinstance(source, JsonLines):
        return source.is_rereadable
    return isinstance(source, Collection) and not isinstance(source, Iterator)
