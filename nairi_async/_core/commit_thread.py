"""The thread of a database: it runs calls from the event loop, many of them in one commit.

A commit waits for the disk. All calls that are submitted meanwhile, or in one pass of the event loop, go into the next
commit together: with hundreds of prompts at once each pays a small part of one wait and of waking the thread, and a
single prompt does not wait for others.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from nairi_async._core.closing import run_shielded, undisturbed
from nairi_async.errors import NairiError, SessionClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from nairi_async._core.sqlite_file import FileKind
    from nairi_async.clock import Clock, IdleTimeout

_T = TypeVar("_T")

log = logging.getLogger("nairi_async.disk")

# A commit with so many calls takes no more: bounds how long the first of them waits.
_MAX_CALLS: Final = 1000
# Seconds after which a disk is considered dead.
_DISK_TIMEOUT: Final = 120.0


class Database(Protocol):
    """What the thread owns. All of its methods block."""

    def begin(self) -> None:
        """Begin a transaction."""
        ...

    def commit(self) -> None:
        """Make everything since `begin` durable."""
        ...

    def rollback(self) -> None:
        """Undo everything since `begin`, where it was not undone already."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


DatabaseT = TypeVar("DatabaseT", bound=Database)


class Submission(Generic[_T]):
    """A call that was submitted; awaited, it returns the result once that is durable, or raises the call's error."""

    __slots__ = ("call", "future")

    def __init__(self, call: Callable[[Any], _T], future: asyncio.Future[_T]) -> None:
        self.call: Callable[[Any], _T] = call
        """What runs in the thread."""
        self.future: asyncio.Future[_T] = future
        """Gets the result."""

    def __await__(self) -> Generator[Any, None, _T]:
        return self.future.__await__()

    def renew(self) -> None:
        """Let another future get the result: a cancelled wait has cancelled this one."""
        self.future = self.future.get_loop().create_future()

    async def decided(self) -> asyncio.CancelledError | None:
        """Wait until it is known whether the call succeeded, however often the caller is cancelled meanwhile.

        Returns:
            The cancellation that came meanwhile, for the caller to raise; the call has succeeded.

        Raises:
            NairiError: the call failed.
            CancelledError: the call failed, and the caller was cancelled.
        """
        try:
            await self.future
        except asyncio.CancelledError as error:
            if self.future.cancelled():
                self.renew()
            if not self.future.done():
                with suppress(asyncio.CancelledError):
                    await run_shielded(asyncio.wait((self.future,)))
            if not self.future.done() or self.future.exception() is not None:
                raise
            return error
        return None


class CommitThread(ABC, Generic[DatabaseT]):
    """A database, used from the event loop on which it was opened.

    Calls run in the order in which they were submitted.

    Args:
        kind: What the file is: it makes the errors.
        path: The file.
        clock: Bounds the waits for the disk, and stands still meanwhile if it is a virtual one.
        ends_on_failure: Whether no more calls run after a commit that failed: each one then raises the same error.
            Otherwise the calls of that commit raise it, and the next ones run.
    """

    def __init__(self, kind: FileKind, path: Path, clock: Clock, *, ends_on_failure: bool) -> None:
        self._kind, self._path, self._clock = kind, path, clock
        self._ends_on_failure = ends_on_failure
        self._is_closing = False
        self._loop = asyncio.get_running_loop()
        self._calls: SimpleQueue[list[Submission[Any]] | None] = SimpleQueue()
        self._submitted: list[Submission[Any]] = []
        """The calls of this pass of the event loop."""
        self._undecided: deque[list[Submission[Any]]] = deque()
        """The calls that were handed over to the thread, pass by pass."""
        self._patience: IdleTimeout | None = None
        self._opened: asyncio.Future[DatabaseT] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        # A daemon, since a loop that is closed too early cannot end it.
        self._thread = Thread(target=self._run, name="nairi-disk", daemon=True)

    async def start(self) -> None:
        """Open the database.

        Raises:
            NairiError: it cannot be used.
        """
        self._thread.start()
        try:
            await undisturbed(self._opened)
        except asyncio.CancelledError:
            await run_shielded(self.aclose())
            raise

    @property
    def database(self) -> DatabaseT:
        """The database, once it is open."""
        return self._opened.result()

    def submit(self, call: Callable[[DatabaseT], _T]) -> Submission[_T]:
        """Submit a call. To be awaited, or not: the call runs, also if the one who waits for it is cancelled."""
        future: asyncio.Future[_T] = self._loop.create_future()
        submission = Submission(call, future)
        if self._is_closing:
            future.set_exception(SessionClosedError("the file is closed"))
            future.exception()
        else:
            if not self._submitted:
                self._loop.call_soon(self._hand_over)
            self._submitted.append(submission)
        return submission

    def _hand_over(self) -> None:
        if self._submitted:
            if self._patience is None:
                # One for all calls: each of them is decided when those before it are.
                self._patience = self._clock.idle_timeout(_DISK_TIMEOUT, self._give_up)
                self._patience.begin()
            self._undecided.append(self._submitted)
            self._calls.put(self._submitted)
            self._submitted = []

    def _give_up(self) -> None:
        """Raise an error in all that wait for the disk."""
        self._stop_patience()
        error = self._kind.error(f"the disk has not responded for {_DISK_TIMEOUT:.0f} s", str(self._path))
        for submissions in self._undecided:
            _set_results(submissions, [error] * len(submissions))

    def _stop_patience(self) -> None:
        if self._patience is not None:
            self._patience.end()
            self._patience.close()
            self._patience = None

    def _decide(self, results: list[object], passes: int) -> None:
        """Hand over the results of the calls of so many passes of the event loop."""
        submissions = [one for _ in range(passes) for one in self._undecided.popleft()]
        if self._patience is not None:
            self._patience.end()
            if self._undecided:
                self._patience.begin()
            else:
                self._stop_patience()
        _set_results(submissions, results)

    async def aclose(self) -> None:
        """Finish the submitted calls, and close the database. Harmless when repeated.

        Runs to its end if it is cancelled meanwhile, so that the file is free afterwards, unless the disk hangs.
        """
        self._is_closing = True
        self._hand_over()
        self._calls.put(None)
        await run_shielded(asyncio.wait((self._closed,), timeout=_DISK_TIMEOUT))
        if not self._closed.done():
            log.error("%s stays locked: the disk has not responded for %.0f s", self._path, _DISK_TIMEOUT)

    @abstractmethod
    def open_database(self) -> DatabaseT:
        """Open the database; called in the thread."""

    def before_commit(self, database: DatabaseT, *, is_last: bool) -> None:
        """Prepare a transaction; called in the thread."""

    def after_commit(self, database: DatabaseT, *, is_last: bool) -> None:
        """Go on after a transaction; called in the thread, before its results are delivered."""

    def after_close(self) -> None:
        """Release what else was opened; called in the thread, also if the database could not be opened."""

    def _run(self) -> None:
        database = None
        try:
            database = self.open_database()
            # What opening has changed must be durable before the first call.
            self._commit(database, [], is_last=False)
            self._call_soon(_set_result, self._opened, database)
            self._serve(database)
        except Exception as error:  # noqa: BLE001 - raised by `start`
            self._call_soon(_set_result, self._opened, error)
        finally:
            if database is not None:
                database.close()
            self.after_close()
            self._call_soon(_set_result, self._closed, None)

    def _serve(self, database: DatabaseT) -> None:
        is_open = True
        failure: Exception | None = None
        while is_open:
            calls, passes, is_open = self._take()
            results: list[Any] = [failure] * len(calls)
            if failure is None:
                try:
                    results = self._commit(database, [one.call for one in calls], is_last=not is_open)
                except Exception as error:  # noqa: BLE001 - all of them, or calls would wait forever
                    database.rollback()
                    results = [error] * len(calls)
                    failure = error if self._ends_on_failure else None
            if passes:
                self._call_soon(self._decide, results, passes)

    def _commit(self, database: DatabaseT, calls: Sequence[Callable[[DatabaseT], Any]], *, is_last: bool) -> list[Any]:
        """Run some calls in one transaction; return the result or error of each, once all is durable."""
        self.before_commit(database, is_last=is_last)
        with self._kind.errors(self._path):
            database.begin()
            results = [_result(call, database) for call in calls]
            database.commit()
        self.after_commit(database, is_last=is_last)
        return results

    def _take(self) -> tuple[list[Submission[Any]], int, bool]:
        """Return the waiting calls, once there is one, of how many passes they are, and whether more may come."""
        calls: list[Submission[Any]] = []
        passes = 0
        more = self._calls.get()
        with suppress(Empty):
            while more is not None:
                calls += more
                passes += 1
                if len(calls) >= _MAX_CALLS:
                    return calls, passes, True
                more = self._calls.get_nowait()
        return calls, passes, more is not None

    def _call_soon(self, function: Callable[..., None], *arguments: object) -> None:
        # Nothing waits in a loop that is closed.
        with suppress(RuntimeError):
            # A function without arguments: asyncio's debug mode shows arguments, and prompts may stand in them.
            self._loop.call_soon_threadsafe(lambda: function(*arguments))


def _result(call: Callable[[DatabaseT], Any], database: DatabaseT) -> object:
    try:
        return call(database)
    except NairiError as error:
        return error


def _set_results(submissions: list[Submission[Any]], results: list[object]) -> None:
    for submission, result in zip(submissions, results, strict=True):
        if submission.future.cancelled():
            # The wait was cancelled just now, and `decided` has not gone on yet.
            submission.renew()
        _set_result(submission.future, result)


def _set_result(future: asyncio.Future[Any], result: object) -> None:
    if future.done():
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
        # Some calls are not awaited; a failure reaches the caller through another call.
        future.exception()
    else:
        future.set_result(result)
