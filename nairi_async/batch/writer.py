"""The ledger's thread: it runs calls from the event loop, many of them in one commit.

A commit waits for the disk. All calls that are submitted meanwhile go into the next commit together: with hundreds of
prompts at once each pays a small part of one wait, and a single prompt does not wait for others.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, Final, TypeVar

from nairi_async._core.closing import run_shielded
from nairi_async._nairi.session import API_URL
from nairi_async.batch.ledger import Ledger
from nairi_async.batch.ledger_file import ledger_errors
from nairi_async.batch.replies_file import RepliesFile
from nairi_async.errors import LedgerError, NairiError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from nairi_async.clock import Clock

_T = TypeVar("_T")

log = logging.getLogger("nairi_async.batch")

# Calls in one commit: bounds how long the first of them waits.
_MAX_CALLS: Final = 1000
# Seconds after which a disk is considered dead.
_DISK_TIMEOUT: Final = 120.0
# Seconds between two syncs of the output; lines that were written since the last one are checked after a crash.
_SYNC_INTERVAL: Final = 1.0

_Call = tuple["Callable[[Ledger], Any]", "asyncio.Future[Any]"]


class Writer:
    """A ledger, used from the event loop on which it was opened.

    Calls run in the order in which they were submitted. After a failure no more calls run: each one raises the same
    `LedgerError`, and what was committed before is kept.
    """

    def __init__(self, path: Path, agent_id: str, output: Path | None, clock: Clock, base_url: str) -> None:
        self._path, self._agent_id, self._base_url, self._output_path = path, agent_id, base_url, output
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._opened: asyncio.Future[Ledger] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        # A daemon, since a loop that is closed too early cannot end it.
        self._thread = Thread(target=self._run, name="nairi-ledger", daemon=True)

    @classmethod
    async def open(
        cls, path: Path, agent_id: str, output: Path | None, clock: Clock, *, base_url: str = API_URL
    ) -> Writer:
        """Open the ledger, and write what its output lacks.

        Raises:
            LedgerError: the ledger or the output cannot be used.
        """
        writer = cls(path, agent_id, output, clock, base_url)
        writer._thread.start()
        try:
            await asyncio.shield(writer._opened)
        except asyncio.CancelledError:
            await run_shielded(writer.aclose())
            raise
        return writer

    @property
    def ledger(self) -> Ledger:
        """The ledger, of which the event loop may read `totals` and set `handled`."""
        return self._opened.result()

    def submit(self, call: Callable[[Ledger], _T]) -> asyncio.Future[_T]:
        """Submit a call; its future, to be awaited with `wait`, gets the result once that is durable."""
        future: asyncio.Future[_T] = self._loop.create_future()
        self._calls.put((call, future))
        return future

    async def wait(self, future: asyncio.Future[_T]) -> _T:
        """Wait for the result of a submitted call; virtual time stands still meanwhile."""
        try:
            async with self._clock.timeout(_DISK_TIMEOUT):
                return await future
        except TimeoutError as error:
            raise LedgerError(f"the disk has not responded for {_DISK_TIMEOUT:.0f} s", str(self._path)) from error

    async def call(self, call: Callable[[Ledger], _T]) -> _T:
        """Run a call in the ledger's thread, and wait until its result is durable."""
        return await self.wait(self.submit(call))

    async def aclose(self) -> None:
        """Finish the submitted calls, and close the ledger. Harmless when repeated.

        Runs to its end if it is cancelled meanwhile, so that the ledger is free afterwards, unless the disk hangs.
        """
        self._calls.put(None)
        await run_shielded(asyncio.wait((self._closed,), timeout=_DISK_TIMEOUT))
        if not self._closed.done():
            log.error("%s stays locked: the disk has not responded for %.0f s", self._path, _DISK_TIMEOUT)

    def _run(self) -> None:
        output = None
        try:
            if self._output_path is not None:
                output = RepliesFile(self._output_path, has_ledger=self._path.exists())
            ledger = Ledger(self._path, self._agent_id, self._base_url)
        except Exception as error:  # noqa: BLE001 - raised by `open`
            if output is not None:
                output.discard()
            self._resolve_all([(self._opened, error), (self._closed, None)])
            return
        try:
            if output is not None:
                output.begin(ledger)
            # The ledger must record where the output begins before the first line is written.
            self._commit(ledger, [], output)
            self._resolve(self._opened, ledger)
            self._serve(ledger, output)
        except Exception as error:  # noqa: BLE001 - as above
            self._resolve(self._opened, error)
        finally:
            ledger.close()
            if output is not None:
                output.close()
            self._resolve(self._closed, None)

    def _serve(self, ledger: Ledger, output: RepliesFile | None) -> None:
        synced_at = time.monotonic()
        is_open = True
        failure: Exception | None = None
        while is_open:
            calls, is_open = self._take()
            results: list[Any] = [failure] * len(calls)
            if failure is None:
                try:
                    if output is not None and (not is_open or time.monotonic() - synced_at >= _SYNC_INTERVAL):
                        output.sync(ledger)
                        synced_at = time.monotonic()
                    results = self._commit(ledger, [call for call, _ in calls], output)
                    if output is not None and not is_open:
                        output.sync(ledger)
                except Exception as error:  # noqa: BLE001 - all of them, or calls would wait forever
                    ledger.rollback()
                    failure = error
                    results = [failure] * len(calls)
            self._resolve_all([(future, result) for (_, future), result in zip(calls, results, strict=True)])

    def _commit(
        self, ledger: Ledger, calls: Sequence[Callable[[Ledger], Any]], output: RepliesFile | None
    ) -> list[Any]:
        """Run some calls in one transaction; return the result or error of each, once all is durable."""
        with ledger_errors(self._path):
            ledger.begin()
            results = [_result(call, ledger) for call in calls]
            ledger.commit()
        if output is not None:
            output.catch_up(ledger)
        return results

    def _take(self) -> tuple[list[_Call], bool]:
        """Return the waiting calls, once there is one, and whether more may come."""
        calls: list[_Call] = []
        call = self._calls.get()
        with suppress(Empty):
            while call is not None:
                calls.append(call)
                if len(calls) == _MAX_CALLS:
                    return calls, True
                call = self._calls.get_nowait()
        return calls, call is not None

    def _resolve(self, future: asyncio.Future[Any], result: object) -> None:
        self._resolve_all([(future, result)])

    def _resolve_all(self, results: list[tuple[asyncio.Future[Any], object]]) -> None:
        # Nothing waits in a loop that is closed.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_set_results, results)


def _result(call: Callable[[Ledger], Any], ledger: Ledger) -> object:
    try:
        return call(ledger)
    except NairiError as error:
        return error


def _set_results(results: list[tuple[asyncio.Future[Any], object]]) -> None:
    for future, result in results:
        if future.done():
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
            # Some calls are not awaited; a failure of the ledger reaches the batch through another call.
            future.exception()
        else:
            future.set_result(result)
