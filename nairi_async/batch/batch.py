"""`Batch`: many prompts, with a ledger on disk from which another process can resume."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from attrs import evolve

from nairi_async._core import checks
from nairi_async._core.checks import DEFAULT_TIMEOUT
from nairi_async._core.closing import run_shielded
from nairi_async._core.fan_out import TaskPool
from nairi_async._core.private_files import resolved_path
from nairi_async._core.service_session import hooks_of
from nairi_async._core.sqlite_file import companions
from nairi_async._nairi import arguments
from nairi_async._nairi.arguments import DEFAULT_LIMIT
from nairi_async._nairi.delivery.search_window import SETTLING_TIME
from nairi_async._nairi.prompt import Prompt
from nairi_async._nairi.session import NairiSession
from nairi_async._nairi.session_parts import parts_of
from nairi_async._nairi.structured import check_type
from nairi_async.batch.feed import BatchFeed
from nairi_async.batch.item_runner import BatchOptions, ItemRunner
from nairi_async.batch.items import BatchItem, BatchOutcome, UnusableItem
from nairi_async.batch.ledger_store import LedgerStore
from nairi_async.batch.lost_prompts import LostPrompts
from nairi_async.batch.run import BatchRun
from nairi_async.batch.writer import Writer
from nairi_async.errors import InvalidArgumentError, SessionClosedError
from nairi_async.hooks import BatchProgress

if TYPE_CHECKING:
    import os
    from types import TracebackType
    from typing import Self

    from nairi_async.batch.item_runner import BatchOnUnknown
    from nairi_async.batch.items import BatchStatus
    from nairi_async.typing import Duration

log: logging.Logger = logging.getLogger("nairi_async.batch")

Record = str | Prompt | BatchItem | Mapping[str, object] | UnusableItem
"""What a source may contain: a plain prompt, a `Prompt`, or a record; see `BatchItem`."""


class Batch:
    """An async iterator over the outcomes of many prompts, with a ledger from which a later process can resume.

        async with Batch(nairi, "my-agent", prompts, ledger="run.sqlite", limit=200) as outcomes:
            async for outcome in outcomes:
                ...

    A prompt is durably in the ledger before it is sent, and its result before the outcome is handed over. The process
    may be killed at any time. When the batch is run again with the same arguments:

    * Prompts that have ended are not sent again, and have no further outcome. An outcome counts as handled when your
      code asks for the next one: outcomes that were not handled are handed over again, from the ledger.
    * Running turns are awaited.
    * Prompts that were being sent are looked up at the service (`on_unknown="reconcile"`). If the turn is found, it is
      awaited. If the prompt was provably not run, it is sent. If neither is certain, the outcome contains an
      `OutcomeUnknownError`, and the next run looks the prompt up again.

    The ledger comes first, then the source, which is read only as fast as conversations end: memory does not grow with
    the number of prompts. An error of one prompt is in its outcome. An error that would affect every prompt ends the
    batch, once the prompts being sent are recorded: a refused key, an unknown agent, a ledger that cannot be written.

    Args:
        session: An open session.
        agent_id: Slug or id of the agent; a ledger belongs to one agent of one service.
        prompts: An iterable or async iterable of texts, `Prompt`s whose attachments are paths, or records. A record is
            a mapping with `prompt`, or with `prompts` for several turns in one conversation, and optionally `id`,
            `attachments` and `job_id`, the conversation to continue. Its other keys come back as `outcome.fields` and
            in the output. A record with an `id`, or a `Prompt` with a `key`, is identified by it. One without is
            identified by its prompts, attachments and conversation, at any place in the source; identical ones are
            separate items. A collection, or a `JsonLines` of a file, is checked as a whole before anything is sent.
        ledger: The SQLite file, created if it is missing. One process at a time can use it.
        limit: Maximum number of conversations at once.
        attachments_from: The directory that must contain all attachments, once links are resolved. Give it if you do
            not trust the records: without it they may name any file that this process can read. Paths are checked just
            before each upload, so those who write the records must not be able to change the directory meanwhile.
        output: A file to which each final outcome is appended as one line of JSON, exactly once.
        ask_mode: Restrict the agent to reading, without tools.
        timeout: Seconds to wait for each turn; the next run waits again.
        on_unknown: What to do about a prompt whose response was lost: `reconcile` looks it up, `report` does not.
        retry_failed: Send again, once, the prompts that ended without a reply; each new outcome is a further line of
            the output.
        into: The type of each reply's JSON value, which is `outcome.reply.value`; see `Reply.into`. Of a record with
            several prompts, it is the last reply's. A reply that does not fit is a `ReplyFormatError`, which has it.
        repair: Number of follow-up prompts that may be sent if a reply does not fit `into`; each names what was wrong.
        settle: Seconds for which a lost prompt is searched for before it counts as not arrived.

    Raises:
        InvalidArgumentError: an argument is invalid.
        LedgerError: in `async with`, the ledger or the output is in use, is another kind of file, or cannot be written.
            While iterating, the ledger or the output can no longer be written.
        OtherPromptsError: while iterating, before anything is sent: the ledger was begun with other prompts, or with
            the same prompts but with ids where these have none, or the reverse. It is a `LedgerError`.
    """

    def __init__(
        self,
        session: NairiSession,
        agent_id: str,
        prompts: Iterable[Record] | AsyncIterable[Record],
        *,
        ledger: str | os.PathLike[str],
        limit: int = DEFAULT_LIMIT,
        attachments_from: str | os.PathLike[str] | None = None,
        output: str | os.PathLike[str] | None = None,
        ask_mode: bool = False,
        timeout: Duration | None = DEFAULT_TIMEOUT,
        on_unknown: BatchOnUnknown = "reconcile",
        retry_failed: bool = False,
        into: type[Any] | None = None,
        repair: int = 0,
        settle: Duration = SETTLING_TIME,
    ) -> None:
        if not isinstance(session, NairiSession):
            raise InvalidArgumentError(f"Batch needs a NairiSession, not {type(session).__name__}")
        if isinstance(prompts, str | Mapping) or not isinstance(prompts, Iterable | AsyncIterable):
            raise InvalidArgumentError("prompts must be an iterable of prompts, not a single one")
        if on_unknown not in {"reconcile", "report"}:
            raise InvalidArgumentError(f"on_unknown must be 'reconcile' or 'report', not {on_unknown!r}")
        self._session = session
        self._prompts = prompts
        self._path = resolved_path(ledger)
        self._output = None if output is None else resolved_path(output)
        if self._output in companions(self._path):
            raise InvalidArgumentError("the output must be another file than the ledger and SQLite's files next to it")
        self._limit = checks.limit(limit)
        self._retry_failed = checks.flag("retry_failed", retry_failed)
        self._settle = checks.timeout(settle, "settle")
        self._options = BatchOptions(
            agent_id=checks.identifier("agent_id", agent_id),
            ask_mode=checks.flag("ask_mode", ask_mode),
            attachments_from=None if attachments_from is None else resolved_path(attachments_from),
            timeout=checks.timeout(timeout),
            on_unknown=on_unknown,
            into=into,
            repair=arguments.repairs(repair, into),
        )
        if into is not None:
            check_type(into)
        self._run: BatchRun | None = None
        self._sequence: int | None = None
        """The outcome that was handed over last, by its place in the order of outcomes."""

    def __repr__(self) -> str:
        state = "not begun" if self._run is None else f"{self.status.done} done, {self.status.failed} failed"
        return f"<Batch {self._options.agent_id} {str(self._path)!r} {state}>"

    async def __aenter__(self) -> Self:
        if self._run is not None:
            raise InvalidArgumentError("a batch runs once; make another one to go on")
        parts = parts_of(self._session)
        clock, base_url = parts.clock, parts.base_url
        writer = await Writer.open(self._path, self._options.agent_id, self._output, clock, base_url=base_url)
        try:
            store = LedgerStore(writer)
        except BaseException:
            await writer.aclose()
            raise
        runner = ItemRunner(
            session=self._session,
            clock=clock,
            options=self._options,
            store=store,
            lost_prompts=LostPrompts(self._session, self._options.agent_id, store, self._settle),
            advance=store.advance,
        )
        self._run = BatchRun(
            runner=runner,
            store=store,
            writer=writer,
            pool=TaskPool(self._limit),
            started_at=clock.monotonic(),
        )
        self._run.pool.spawn(BatchFeed(self._run, self._prompts, self._retry_failed).feed())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        run = self._active_run
        try:
            run.stop()
            # Prompts being sent are recorded, unless this was cancelled: then the next run looks them up.
            if kind is None or not issubclass(kind, asyncio.CancelledError):
                while run.pool.tasks:
                    await asyncio.wait(tuple(run.pool.tasks))
        finally:
            await run_shielded(run.aclose())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> BatchOutcome:
        """Return the next outcome, in the order in which they end."""
        run = self._active_run
        if self._sequence is not None:
            run.writer.ledger.handled = self._sequence
            self._sequence = None
        outcome, self._sequence = await run.pool.get()
        hooks = hooks_of(self._session)
        if hooks.listens(log):
            hooks.emit(log, self._progress())
        return outcome

    def stop(self) -> None:
        """Send nothing more and await no reply: the iteration ends when the prompts being sent are recorded.

        The next run resumes everything. May be called again, and from a signal handler of the loop.
        """
        self._active_run.stop()

    @property
    def status(self) -> BatchStatus:
        """How far the batch is: ended prompts as in the ledger, and what this run is doing."""
        run = self._active_run
        return evolve(
            run.writer.ledger.totals, running=run.runner.counts["running"], sending=run.runner.counts["sending"]
        )

    def _progress(self) -> BatchProgress:
        status = self.status
        return BatchProgress(
            agent_id=status.agent_id,
            done=status.done,
            failed=status.failed,
            running=status.running,
            sending=status.sending,
            unsent=status.unsent,
            unusable=status.unusable,
        )

    @property
    def _active_run(self) -> BatchRun:
        if self._run is None:
            raise SessionClosedError("the batch is not open yet; use it in `async with Batch(…) as outcomes`")
        return self._run
