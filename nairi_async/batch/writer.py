"""The ledger's thread: calls from the event loop, many of them in one commit.

A commit waits for the disk. Whatever is asked meanwhile goes into the next one together, so that with hundreds of
prompts at once each pays a small part of a wait, and with one prompt nothing waits for company.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, Final, TypeVar

from nairi_async._nairi.session import API_URL
from nairi_async.batch.ledger import Ledger
from nairi_async.batch.ledger_file import ledger_errors
from nairi_async.batch.output import Output
from nairi_async.errors import LedgerError, NairiError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from nairi_async.clock import Clock

_T = TypeVar("_T")

# Calls in one commit: bounds how long the first of them waits.
_MOST: Final = 1000
# Seconds after which a disk is taken to be gone.
_HANGS: Final = 120.0
# Seconds between two notes of how far the output is safe; what was written since is compared after a crash.
_NOTE_EVERY: Final = 1.0

_Call = tuple["Callable[[Ledger], Any]", "asyncio.Future[Any]"]


class Writer:
    """A ledger that is used from the event loop that it was opened on.

    Everything is done in the order in which it was submitted. After a failure nothing more is done: each call ends
    with the same `LedgerError`, and what was committed before stays.
    """

    def __init__(self, path: Path, agent_id: str, output: Path | None, clock: Clock, base_url: str) -> None:
        self._path, self._agent_id, self._base_url, self._output_path = path, agent_id, base_url, output
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._opened: asyncio.Future[Ledger] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        # A loop that is gone cannot end it, and must not have to.
        self._thread = Thread(target=self._run, name="nairi-ledger", daemon=True)

    @classmethod
    async def open(
        cls, path: Path, agent_id: str, output: Path | None, clock: Clock, *, base_url: str = API_URL
    ) -> Writer:
        """Open the ledger and bring its output up to date.

        Raises:
            LedgerError: one of them cannot be used.
        """
        writer = cls(path, agent_id, output, clock, base_url)
        writer._thread.start()
        try:
            await asyncio.shield(writer._opened)
        except asyncio.CancelledError:
            writer._calls.put(None)
            raise
        return writer

    @property
    def ledger(self) -> Ledger:
        """What may be read from here: `totals`; and set: `write_started`."""
        return self._opened.result()

    def submit(self, call: Callable[[Ledger], _T]) -> asyncio.Future[_T]:
        """Have something done with the ledger; the future, to be awaited by `wait`, has a result once it is durable."""
        future: asyncio.Future[_T] = self._loop.create_future()
        self._calls.put((call, future))
        return future

    async def wait(self, future: asyncio.Future[_T]) -> _T:
        """The result of what was submitted; virtual time stands still meanwhile."""
        try:
            async with self._clock.timeout(_HANGS):
                return await future
        except TimeoutError as error:
            raise LedgerError(f"the disk has not answered for {_HANGS:.0f} s", str(self._path)) from error

    async def call(self, call: Callable[[Ledger], _T]) -> _T:
        """Have something done with the ledger, and wait until it is durable."""
        return await self.wait(self.submit(call))

    async def aclose(self) -> None:
        """Finish what was submitted, and close the ledger. Harmless when repeated."""
        self._calls.put(None)
        await asyncio.shield(self._closed)

    def _run(self) -> None:
        try:
            ledger = Ledger(self._path, self._agent_id, self._base_url)
        except Exception as error:  # noqa: BLE001 - raised where the ledger is opened
            self._tell(self._opened, error)
            return
        output = None
        try:
            if self._output_path is not None:
                output = Output(self._output_path, ledger)
            # From here on the mark is in the ledger before the first line is in the file.
            self._commit(ledger, [], output)
            self._tell(self._opened, ledger)
            self._serve(ledger, output)
        except Exception as error:  # noqa: BLE001 - as above
            self._tell(self._opened, error)
        finally:
            ledger.close()
            if output is not None:
                output.close()
            self._tell(self._closed, None)

    def _serve(self, ledger: Ledger, output: Output | None) -> None:
        noted = time.monotonic()
        is_open = True
        failure: Exception | None = None
        while is_open:
            calls, is_open = self._take()
            results: list[Any] = [failure] * len(calls)
            if failure is None:
                try:
                    if output is not None and (not is_open or time.monotonic() - noted >= _NOTE_EVERY):
                        output.sync(ledger)
                        noted = time.monotonic()
                    results = self._commit(ledger, [call for call, _ in calls], output)
                    if output is not None and not is_open:
                        output.sync(ledger)
                except Exception as error:  # noqa: BLE001 - whatever it is: calls that wait for ever would be worse
                    ledger.rollback()
                    failure = error
                    results = [failure] * len(calls)
            self._settle([(future, result) for (_, future), result in zip(calls, results, strict=True)])

    def _commit(self, ledger: Ledger, calls: Sequence[Callable[[Ledger], Any]], output: Output | None) -> list[Any]:
        """The results of some calls, or their errors where those are their own, once all is durable."""
        with ledger_errors(self._path):
            ledger.begin()
            results = [_result(call, ledger) for call in calls]
            ledger.commit()
        if output is not None:
            output.catch_up(ledger)
        return results

    def _take(self) -> tuple[list[_Call], bool]:
        """What there is to do, at least one thing; and whether more may come."""
        calls: list[_Call] = []
        call = self._calls.get()
        with suppress(Empty):
            while call is not None:
                calls.append(call)
                if len(calls) == _MOST:
                    return calls, True
                call = self._calls.get_nowait()
        return calls, call is not None

    def _tell(self, future: asyncio.Future[Any], result: object) -> None:
        self._settle([(future, result)])

    def _settle(self, results: list[tuple[asyncio.Future[Any], object]]) -> None:
        # A loop that is closed awaits nothing.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_settle, results)


def _result(call: Callable[[Ledger], Any], ledger: Ledger) -> object:
    try:
        return call(ledger)
    except NairiError as error:
        return error


def _settle(results: list[tuple[asyncio.Future[Any], object]]) -> None:
    for future, result in results:
        if future.done():
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
            # Not everybody waits for what was submitted; a failure of the ledger reaches the batch in any case.
            future.exception()
        else:
            future.set_result(result)
