"""An event loop for simulations: virtual time, a seeded order of callbacks, and no work in other threads.

A program whose input and output stay in memory (`in_memory_session`) runs on it in exactly the same way each time: time
jumps to the next timer, and the only source of chance is one `random.Random`.
"""

from __future__ import annotations

import asyncio
import selectors
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, TypeVarTuple

from attrs import define, field

from nairi_async.clock import LoopIdleTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from concurrent.futures import Future as ThreadFuture
    from contextlib import AbstractAsyncContextManager
    from contextvars import Context
    from random import Random
    from selectors import SelectorKey

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

# No program of a test waits longer; one that polls for something that never comes ends here.
_LONGEST = 1e7
# Seconds that a pass of the loop takes by itself.
_PASS = 1e-6


class StuckError(RuntimeError):
    """No task can go on: each one waits for something that no other task and no timer will bring about."""


class Steps(Protocol):
    """Is asked at each step of a simulation."""

    def pass_begins(self) -> bool:
        """Take note of one pass of the event loop; return whether something other than a timer may come."""
        ...


@define
class VirtualTime:
    """The time of a simulation, which event loops that run one after another share."""

    now: float = 0.0
    """Seconds since its beginning."""


class DeterministicLoop(asyncio.SelectorEventLoop):
    """Runs callbacks in an order that a seed decides, in virtual time.

    Args:
        time: The time to live in.
        random: Decides the order.
        hold_back: Probability with which a callback waits for a further pass of the loop. With 0 callbacks run in the
            order in which they were scheduled, as asyncio guarantees.
        disk_delay: Longest time, in seconds, that work takes which was handed to a thread. It runs in the loop.
        steps: Is asked before each pass, and may stop the loop.
    """

    def __init__(
        self,
        time: VirtualTime,
        random: Random,
        *,
        hold_back: float = 0.0,
        disk_delay: float = 0.0,
        steps: Steps | None = None,
    ) -> None:
        self._virtual_time, self._order = time, random
        self._hold_back, self._disk_delay = hold_back, disk_delay
        self._count = 0
        super().__init__(_VirtualSelector(time, steps))
        self.set_task_factory(_make_task)

    def time(self) -> float:
        """Return the virtual time."""
        return self._virtual_time.now

    def next_number(self) -> int:
        """Return the next number of a task or future: sets of them are then in the same order each time."""
        self._count += 1
        return self._count

    def call_soon(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Schedule a callback; it may be held back for some passes."""
        passes = 0
        while passes < _MOST_PASSES and self._order.random() < self._hold_back:
            passes += 1
        if not passes:
            return super().call_soon(callback, *args, context=context)
        schedule = super().call_soon

        def wait(left: int) -> None:
            if handle.cancelled():
                return
            if left:
                schedule(wait, left - 1, context=context)
            else:
                callback(*args)

        handle = schedule(wait, passes - 1, context=context)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Schedule a callback: one thread at a time runs, so this needs no lock."""
        return super().call_soon(callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        """Return a future with a number of its own."""
        return _Future(self)

    def run_in_executor(
        self,
        executor: Executor | None,  # noqa: ARG002 - asyncio's signature
        func: Callable[[*_Ts], _T],
        *args: *_Ts,
    ) -> asyncio.Future[_T]:
        """Run blocking work in the loop, after a delay; a cancelled caller does not stop it."""
        result: asyncio.Future[_T] = self.create_future()
        outcome: asyncio.Future[_T] = self.create_future()

        def deliver() -> None:
            # Read also where the caller has gone: asyncio would complain of an exception that was never retrieved.
            error = outcome.exception()
            if result.done():
                return
            if error is None:
                result.set_result(outcome.result())
            else:
                result.set_exception(error)

        def work() -> None:
            try:
                outcome.set_result(func(*args))
            except Exception as error:  # noqa: BLE001 - raised by the future
                outcome.set_exception(error)
            self.call_later(self._delay(), deliver)

        self.call_later(self._delay(), work)
        return result

    def _delay(self) -> float:
        return self._order.random() * self._disk_delay


_MOST_PASSES = 5


class _Future(asyncio.Future[Any]):
    def __init__(self, loop: DeterministicLoop) -> None:
        super().__init__(loop=loop)
        self._number = loop.next_number()

    def __hash__(self) -> int:
        return self._number


class _Task(asyncio.Task[Any]):
    def __init__(self, coro: Coroutine[Any, Any, Any], loop: DeterministicLoop, **settings: Any) -> None:
        self._number = loop.next_number()
        super().__init__(coro, loop=loop, **settings)

    def __hash__(self) -> int:
        return self._number


def _make_task(loop: Any, coro: Any, **settings: Any) -> asyncio.Task[Any]:
    return _Task(coro, loop, **settings)


class _VirtualSelector(selectors.BaseSelector):
    """Lets time pass instead of waiting; no file is ever ready."""

    def __init__(self, time: VirtualTime, steps: Steps | None) -> None:
        self._time, self._steps = time, steps
        self._keys: dict[Any, SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        key = self._keys[fileobj] = selectors.SelectorKey(fileobj, fd, events, data)
        return key

    def unregister(self, fileobj: Any) -> SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        if self._steps is not None and self._steps.pass_begins():
            return []
        if timeout is None or self._time.now > _LONGEST:
            raise StuckError("every task waits, and no timer is set" if timeout is None else "the program does not end")
        # A pass takes some time too: a program that waits until a time would otherwise wait for the last picosecond.
        self._time.now += timeout + _PASS
        return []

    def get_map(self) -> Mapping[Any, SelectorKey]:
        return self._keys


class InlineExecutor(Executor):
    """Takes the place of a `ThreadPoolExecutor`: work that is submitted runs at once."""

    def __init__(self, *_args: object, **_settings: object) -> None:
        super().__init__()

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> ThreadFuture[_T]:
        """Run the work, and return its result."""
        from concurrent.futures import Future as ThreadFuture  # noqa: PLC0415 - only simulations need it

        future: ThreadFuture[_T] = ThreadFuture()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - raised by the future
            future.set_exception(error)
        return future


@define
class LoopClock:
    """The clock of a program on a `DeterministicLoop`, which may differ from the service's clock."""

    virtual_time: VirtualTime
    epoch: float = 1_775_000_000.0
    """Unix time at the beginning."""
    skew: float = field(default=0.0)
    """Seconds by which `time` is ahead."""

    def monotonic(self) -> float:
        """Return the virtual seconds since the beginning."""
        return self.virtual_time.now

    def time(self) -> float:
        """Return the virtual Unix time."""
        return self.epoch + self.skew + self.virtual_time.now

    def sleep(self, seconds: float) -> Coroutine[Any, Any, None]:
        """Wait in virtual time."""
        return asyncio.sleep(max(0.0, seconds))

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """Bound a block in virtual time."""
        return asyncio.timeout(seconds)

    def idle_timeout(self, seconds: float, expired: Callable[[], object]) -> LoopIdleTimeout:
        """Bound each of many waits in virtual time."""
        return LoopIdleTimeout(seconds, expired)
