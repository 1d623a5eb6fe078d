"""One run of a batch: each item in a task of its own, each outcome handed over with its place in the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nairi_async._core.records import define
from nairi_async._nairi.results import Reply
from nairi_async.batch.documents import decode_replies, decode_result
from nairi_async.batch.item_state import Entry
from nairi_async.batch.items import BatchOutcome, unusable_outcome
from nairi_async.batch.ledger import Ledger
from nairi_async.errors import InvalidArgumentError, ReplyFormatError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from nairi_async._core.commit_thread import Submission
    from nairi_async._core.fan_out import TaskPool
    from nairi_async.batch.item_runner import ItemRunner
    from nairi_async.batch.items import BatchItem
    from nairi_async.batch.ledger import RecordedOutcome
    from nairi_async.batch.ledger_store import LedgerStore
    from nairi_async.batch.writer import Writer
    from nairi_async.errors import NairiError
    from nairi_async.models import Turn


@define(kw_only=True)
class BatchRun:
    """The items of one run. The pool receives each outcome with its place in the ledger."""

    runner: ItemRunner
    store: LedgerStore
    writer: Writer
    pool: TaskPool[tuple[BatchOutcome, int | None]]
    started_at: float
    """When the ledger was opened, by the monotonic clock: processes that wrote to it earlier had ended by then."""

    def stop(self) -> None:
        """Start nothing more and stop waiting; prompts being sent are still recorded. Harmless when repeated."""
        self.runner.switch.stop()

    async def aclose(self) -> None:
        """Cancel what still runs, and close the ledger."""
        try:
            await self.pool.aclose()
        finally:
            self.store.close()
            await self.writer.aclose()

    def pass_over(self, outcome: BatchOutcome, *, is_reported: bool) -> None:
        """Hand over the outcome of a record that cannot be sent, unless the check of the source has done so."""
        if is_reported:
            self.pool.capacity.release()
        else:
            self.writer.submit(Ledger.pass_over)
            self.pool.put((outcome, None))

    async def run_new(self, item: BatchItem, claim: Submission[Entry | None], *, is_reported: bool) -> None:
        """Run a new item, once it is in the ledger."""
        try:
            entry = await claim
        except InvalidArgumentError as error:
            self.pass_over(unusable_outcome(error, item.place or 0, item), is_reported=is_reported)
            return
        except Exception:
            self.stop()
            raise
        if entry is None:
            self.pool.capacity.release()
        else:
            await self._run(entry, is_new=True)

    def run_known(self, entry: Entry) -> Coroutine[Any, Any, None]:
        """Go on with an item of an earlier run."""
        return self._run(entry, is_new=False)

    def restore_outcome(self, recorded: RecordedOutcome) -> BatchOutcome:
        """Return the outcome of an item that has ended."""
        agent_id, into = self.runner.options.agent_id, self.runner.options.into
        turn, result = decode_result(recorded.document, agent_id)
        replies = decode_replies(recorded.document, agent_id)
        if into is not None and isinstance(result, Reply):
            try:
                result = result.with_value(result.into(into))
            except ReplyFormatError as error:
                # An earlier run asked for another type, or for none.
                result = error
        return _outcome(recorded, turn, result, replies, is_final=True)

    async def _run(self, entry: Entry, *, is_new: bool) -> None:
        try:
            ending = await self.runner.run(entry, is_new=is_new, sent_before=self.started_at)
        except Exception:
            # An error that gets here would affect other items as well.
            self.stop()
            raise
        # No await from here on: outcomes are handed over in the order of the ledger.
        outcome = _outcome(ending.entry, ending.turn, ending.result, ending.replies, is_final=ending.is_final)
        self.pool.put((outcome, ending.sequence))


def _outcome(
    item: Entry | RecordedOutcome,
    turn: Turn | None,
    result: Reply | NairiError,
    replies: tuple[Reply, ...],
    *,
    is_final: bool,
) -> BatchOutcome:
    prompts = item.prompts if isinstance(item, Entry) else ()
    return BatchOutcome(
        id=item.id,
        place=item.place,
        prompt=prompts[0] if prompts else item.prompt,
        turn=turn,
        reply=result if isinstance(result, Reply) else None,
        error=None if isinstance(result, Reply) else result,
        replies=replies,
        fields=item.fields,
        is_final=is_final,
    )
