"""Processes that run one after another on one simulated service, and what is left when one is killed.

A killed process is one whose loop is never run again. At the instant of the crash the directory of its files is copied,
as the operating system would show it to the next process, and from then on nothing that the old one does has an effect:
its requests reach nothing, its files are no longer read. Only then are its tasks closed, so their clean-up is harmless.
Not simulated are the loss of power (the disk keeps what was written to it) and a crash inside of SQLite or of a script.

A thread that the library starts (the writer of a ledger) takes turns with the loop: either the loop runs, or one thread
until it waits for its queue.
"""

from __future__ import annotations

import asyncio
import gc
import math
import random
import shutil
import sqlite3
import tempfile
import threading
from collections import deque
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any, Final

from anyio import to_thread
from attrs import evolve

import nairi_async.batch.writer
import nairi_async.bots.sqlite_store
from nairi_async import NairiSession
from nairi_async._core import commit_thread
from nairi_async.testing import FaultPlan, Simulator, in_memory_session
from nairi_async.testing.deterministic import DeterministicLoop, InlineExecutor, LoopClock, StuckError, VirtualTime

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from simulation.plan import Plan

# In memory where there is such a file system: each commit of a ledger waits for its disk.
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a private directory is made in it
_DISK: Final = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None

_MOST_STEPS: Final = 1_000_000
# What is cancelled at the end of a program needs some passes of the loop to end.
_LAST_PASSES: Final = 5


class ThreadKilled(BaseException):
    """Ends a thread of a process that was killed."""


class Universe:
    """What outlives a process: the service, the time, the files, and the record of what happened."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.time = VirtualTime()
        self.clock = LoopClock(self.time)
        self.simulator = Simulator(clock=self.clock, seed=plan.seed, quirks=plan.quirks(), faults=plan.fault_plan())
        self.before: list[Callable[..., Any]] = []
        self.after: list[Callable[..., Any]] = []
        self.simulator.intercept, self.simulator.intercept_response = self._intercept, self._intercept_response
        self.violations: list[str] = []
        self.trace: list[tuple[float, str]] = []
        self.is_calm = False
        """Whether nothing goes wrong any more: the last process must be able to finish."""
        self.deadline = 0.0
        self._root = Path(tempfile.mkdtemp(prefix="nairi-simulation-", dir=_DISK))
        self._generation = 0
        self.directory = self._root / "0"
        self.directory.mkdir()

    async def _intercept(self, request: Any) -> Any:
        for hook in self.before:
            if (response := await hook(request)) is not None:
                return response
        return None

    async def _intercept_response(self, request: Any, response: Any) -> Any:
        for hook in self.after:
            response = await hook(request, response) or response
        return response

    def calm(self) -> None:
        """Let nothing go wrong from now on, except what is permanent: order, clocks."""
        self.is_calm = True
        self.simulator.faults = FaultPlan()
        self.simulator.quirks = evolve(
            self.simulator.quirks, list_lag=0.0, status_lag=0.0, stale_by=0.0, late_by=0.0, listing=True
        )

    def note(self, event: str) -> None:
        """Add to the trace."""
        self.trace.append((self.time.now, event))

    def violate(self, rule: str, detail: str) -> None:
        """Record that a promise is broken."""
        self.violations.append(f"{rule}: {detail}")
        self.note(f"VIOLATION {rule}: {detail}")

    def snapshot(self) -> None:
        """Copy the files as they are at this instant; the next process finds the copy."""
        self._generation += 1
        copy = self._root / str(self._generation)
        # The index of a log in shared memory does not outlive the processes that use it.
        shutil.copytree(self.directory, copy, ignore=shutil.ignore_patterns("*-shm"))
        self.directory = copy

    def close(self) -> None:
        """Delete the files."""
        shutil.rmtree(self._root, ignore_errors=True)


class Process:
    """A program on a loop of its own; `crash_at` is the step at which it is killed."""

    def __init__(self, universe: Universe, number: int, crash_at: int | None) -> None:
        plan = universe.plan
        self.universe, self.crash_at = universe, crash_at
        self.steps = 0
        self.is_dead = False
        self.directory = universe.directory
        self._chance = plan.random(f"process {number}")
        self._latency = plan.latency()
        self._disk_delay = 0.0 if universe.is_calm else self._chance.choice((0.0, 0.005, 0.3))
        self.loop = DeterministicLoop(
            universe.time,
            plan.random(f"order {number}"),
            hold_back=0.0 if universe.is_calm else plan.hold_back(),
            disk_delay=self._disk_delay,
            steps=self,
        )
        self.loop.set_exception_handler(self._complain)
        self._complaints, self._sessions = list[str](), list[NairiSession]()
        before, after, at = plan.jump(number)
        self.clock = LoopClock(universe.time, skew=plan.client_skew() + before)
        if at:
            self.loop.call_later(at, setattr, self.clock, "skew", plan.client_skew() + after)
        disk = plan.random(f"disk {number}")
        fails = plan.has("disks") and not universe.is_calm and disk.random() < 0.6
        within = 30 if plan.pace >= 1 else 3
        self._disk_fails_from = universe.time.now + disk.random() ** 2 * within if fails else math.inf
        self._is_full = disk.random() < 0.5
        self.threads: list[_Thread] = []

    def session(self, **settings: Any) -> NairiSession:
        """Return a session on the service, whose requests travel for a while."""
        made = in_memory_session(self.universe.simulator, clock=self.clock, travel=self._travel, **settings)
        self._sessions.append(made)
        return made

    def run(self, main: Callable[[Process], Coroutine[Any, Any, None]]) -> bool:
        """Run a program; return whether it ended by itself."""
        self.universe.note("process begins")
        with self._patched():
            asyncio.set_event_loop(None)
            task = self.loop.create_task(self._audited(main))
            task.add_done_callback(lambda _: self.loop.stop())
            try:
                self.loop.run_forever()
            finally:
                if not self.is_dead and not task.done():
                    self._die()
                self._bury()
        if self.is_dead:
            return False
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.universe.note(f"program raised {error!r}"[:300])
            raise error
        self.universe.note("process ends")
        return True

    async def _audited(self, main: Callable[[Process], Coroutine[Any, Any, None]]) -> None:
        """Run a program, and check that it leaves nothing behind if it ends by itself."""
        await main(self)
        for _ in range(_LAST_PASSES):
            await asyncio.sleep(0)
        if self.is_dead:
            return
        gc.collect()  # A future complains of an exception that was never retrieved when it is collected.
        left = [repr(task.get_coro()) for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        held = [stats for one in self._sessions if (stats := one.stats).open_connections or stats.waiting_calls]
        for what in (*left, *held, *self._complaints):
            self.universe.violate("left behind", str(what)[:300])

    def _complain(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._complaints.append(f"{context.get('message')}: {context.get('exception')!r}")

    def pass_begins(self) -> bool:
        """Take one step, and let threads work whose time has come; return whether one has, or the process is dead."""
        self.step()
        if self.is_dead:
            return True
        ran = False
        for thread in [one for one in self.threads if one.is_ready]:
            now = self.universe.time.now
            if thread.due is None:
                thread.due = now + self._chance.random() * self._disk_delay
                # The pass that begins has been planned without this timer.
                self.loop.call_at(thread.due, lambda: None)
                ran = True
            if now >= thread.due - 1e-9:
                thread.due, ran = None, True
                thread.let_run()
        return ran or self.is_dead

    @property
    def disk_fails(self) -> bool:
        """Whether nothing can be written now: the disk is full, or a backup holds the file."""
        return self._disk_fails_from <= self.universe.time.now < self._disk_fails_from + 12 and not self.is_dead

    def disk_error(self) -> sqlite3.OperationalError:
        """Return what SQLite raises meanwhile."""
        error = sqlite3.OperationalError("database or disk is full" if self._is_full else "database is locked")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL if self._is_full else sqlite3.SQLITE_BUSY
        return error

    def step(self) -> None:
        """Count a step; at the one that was drawn, the process is killed."""
        self.steps += 1
        if self.steps == self.crash_at and not self.is_dead:
            self._die()
        if self.steps > _MOST_STEPS:
            raise StuckError("the program goes on without an end")

    def _die(self) -> None:
        self.is_dead = True
        self.universe.note(f"process is killed at step {self.steps}")
        self.universe.snapshot()
        self.loop.stop()

    async def _travel(self) -> None:
        self.step()
        if not self.universe.is_calm and (seconds := self._latency(self._chance)) > 0:
            await asyncio.sleep(seconds)
        if self.is_dead:
            raise ConnectionResetError
        self.step()
        if self.is_dead:
            raise ConnectionResetError

    def _bury(self) -> None:
        """Close what is left of the program, which has no effect any more."""
        was_dead, self.is_dead = self.is_dead, True
        for task in sorted(asyncio.all_tasks(self.loop), key=hash):
            with suppress(BaseException):
                task.get_coro().close()
        for thread in self.threads:
            thread.kill()
        self.loop.close()
        self.is_dead = was_dead

    @contextmanager
    def _patched(self) -> Generator[None]:
        """Put what a process takes from its machine under control."""
        process = self

        class Connection(sqlite3.Connection):
            is_lock = False

            def execute(self, *arguments: Any) -> sqlite3.Cursor:
                process.step()
                if (
                    process.disk_fails
                    and not self.is_lock
                    and str(arguments[0]).startswith(("BEGIN", "INSERT", "UPDATE"))
                ):
                    raise process.disk_error()
                return super().execute(*arguments)

        class Thread(_Thread):
            def __init__(self, *, target: Callable[[], None], **_settings: object) -> None:
                super().__init__(process, target)

        class Queue(_Queue):
            def __init__(self) -> None:
                super().__init__(process)

        connect = sqlite3.connect

        def connecting(*arguments: Any, **settings: Any) -> sqlite3.Connection:
            made: Connection = connect(*arguments, **{"factory": Connection, **settings})
            made.is_lock = str(arguments[0]).endswith("-lock")
            return made

        async def in_thread(function: Callable[..., Any], *arguments: Any, **_settings: object) -> Any:
            return await process.loop.run_in_executor(None, function, *arguments)

        writer, store = nairi_async.batch.writer, nairi_async.bots.sqlite_store
        changes: list[tuple[Any, str, Any]] = [
            (commit_thread, "Thread", Thread),
            (commit_thread, "SimpleQueue", Queue),
            (writer, "time", self.clock),
            (store, "ThreadPoolExecutor", InlineExecutor),
            (sqlite3, "connect", connecting),
            (to_thread, "run_sync", in_thread),
        ]
        originals = [(place, name, getattr(place, name)) for place, name, _ in changes]
        for place, name, replacement in changes:
            setattr(place, name, replacement)
        random.seed(f"{self.universe.plan.seed} library {self.universe.time.now}")
        collecting = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            for place, name, original in originals:
                setattr(place, name, original)
            if collecting:
                gc.enable()


class _Queue:
    """The queue of a thread; while it is empty, the loop runs."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._items: deque[Any] = deque()
        self.owner: _Thread | None = None

    def __bool__(self) -> bool:
        return bool(self._items)

    def put(self, item: Any) -> None:
        self._items.append(item)

    def get(self) -> Any:
        thread = threading.current_thread()
        assert isinstance(thread, _Thread)  # noqa: S101 - for mypy: only such threads use it
        thread.queue = self
        if not self._items:
            thread.wait()
        return self._items.popleft()

    def get_nowait(self) -> Any:
        if not self._items:
            raise Empty
        return self._items.popleft()


class _Thread(threading.Thread):
    """A thread that runs only while the loop waits for it."""

    def __init__(self, process: Process, target: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._process, self._work = process, target
        # Locks that are held, and released to hand the turn over: much cheaper than semaphores.
        self._mine, self._theirs = threading.Lock(), threading.Lock()
        self._mine.acquire()
        self._theirs.acquire()
        self._is_killed = False
        self._is_over = False
        self.queue: _Queue | None = None
        self.due: float | None = None
        """When it may work."""

    def start(self) -> None:
        self._process.threads.append(self)
        super().start()

    def run(self) -> None:
        self._mine.acquire()
        try:
            if not self._is_killed:
                self._work()
        except ThreadKilled:
            pass
        finally:
            self._is_over = True
            self._theirs.release()

    @property
    def is_ready(self) -> bool:
        """Whether it has something to do."""
        return not self._is_over and (self.queue is None or bool(self.queue))

    def let_run(self) -> None:
        """Let it work until it waits for its queue; called in the loop."""
        self._mine.release()
        self._theirs.acquire()

    def wait(self) -> None:
        """Let the loop run; called in the thread."""
        self._theirs.release()
        self._mine.acquire()
        if self._is_killed:
            raise ThreadKilled

    def kill(self) -> None:
        """End it, whatever it has still to do."""
        self._is_killed = True
        if not self._is_over:
            self.let_run()
        self.join()
