"""A place in the line of a conversation, and the task that reads the stream for which it is held."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from weakref import ref

# Steps that make a task the reader of a stream.
_READER_STEPS: Final = 2
# Seconds in which a step that was cut off in a task of its own can be resumed, while another call is in line.
_GRACE: Final = 5.0
# What runs in a task that was made of one step alone, as `asyncio.wait_for` does before Python 3.12.
_STEPS: Final = frozenset({"AmigoStream.__anext__", "_wrap_awaitable"})


class Line(Protocol):
    """The line of calls of one conversation."""

    def remove(self, hold: Hold) -> None:
        """Take a call out of the line."""
        ...

    def reader_ended(self) -> None:
        """Close a stream whose only reader has ended, if another call is in line."""
        ...


class OpenStream(Protocol):
    """A stream that holds its conversation."""

    async def read_rest(self) -> bool:
        """Read to the end if the interaction is complete; return whether it is."""
        ...

    def abandoned(self) -> None:
        """Close: its reader has ended."""
        ...


class Hold:
    """A place in the line of a conversation: once granted, the right to make a call, until it is released."""

    __slots__ = (
        "_grace",
        "_granted",
        "_is_cut",
        "_is_left",
        "_is_released",
        "_is_shared",
        "_sleep",
        "_steps",
        "_watched",
        "lock",
        "reader",
        "stream",
    )

    def __init__(self, lock: Line) -> None:
        self.lock: Line = lock
        self.reader: asyncio.Task[object] | None = _reader(asyncio.current_task())
        """The task that makes the call, or reads its stream; `None` if it has ended."""
        self.stream: ref[OpenStream] | None = None
        """The stream that is read, if there is one; it is not kept alive."""
        # Steps that the reader has taken, and whether other tasks take steps as well.
        self._steps = 0
        self._is_shared = False
        # Whether the last step was cancelled, or failed; whether the reader has certainly left the stream.
        self._is_cut = False
        self._is_left = False
        # The task whose end is awaited.
        self._watched: asyncio.Task[object] | None = None
        self._sleep: Callable[[float], Awaitable[None]] | None = None
        self._grace: asyncio.Future[None] | None = None
        self._granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_released = False

    @property
    def is_granted(self) -> bool:
        """Whether its turn has come."""
        return self._granted.done()

    def opened_by(
        self, task: asyncio.Task[object] | None, stream: ref[OpenStream], sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        """Note that a task opens the stream, or takes up a step that was cut off."""
        self.stream, self._sleep = stream, sleep
        if self._steps == 0 and (reader := _reader(task)) is not None:
            self.reader = reader
        self._is_cut = False
        self._end_grace()

    def read_by(self, task: asyncio.Task[object] | None) -> None:
        """Note that a task takes a step of the stream.

        A step under a timeout may run in a task of its own, so only several steps make a task the stream's reader, or
        one that was cut off in it. Its end is the end of the stream, as soon as another call is in line.
        """
        if task is self.reader and self._steps >= _READER_STEPS and not self._is_cut:
            return
        self._is_cut = False
        self._end_grace()
        if task is None or _reader(task) is None:
            return
        if self._is_left:
            self._is_left, self._steps = False, 0
        self._is_shared = self._is_shared or (self._steps > 0 and task is not self.reader)
        self.reader = task
        self._steps += 1
        if self._steps == 1:
            self._watch(task)

    def cut_off(self, task: asyncio.Task[object] | None) -> None:
        """Note that a step of the stream was cancelled in a task, or failed: if the task ends, it has left the stream.

        A task that was made for the step alone says nothing of who reads: that step can be resumed for some seconds.
        """
        if self._is_released or task is None:
            return
        self._is_cut = True
        if _reader(task) is None:
            self.lock.reader_ended()
        else:
            self.reader = task
            self._watch(task)

    def _watch(self, task: asyncio.Task[object] | None) -> None:
        """Await the end of a task, and of no other: one that reads many streams must keep nothing of them."""
        before, self._watched = self._watched, task
        if before is not None:
            before.remove_done_callback(self._reader_ended)
        if task is not None:
            task.add_done_callback(self._reader_ended)

    def _reader_ended(self, task: asyncio.Task[object]) -> None:
        self._watched = None
        if task is self.reader:
            # Not referred to any more: the frames of its error may hold the stream.
            self.reader = None
            self._is_left = self._is_cut or task.cancelled() or self._steps >= _READER_STEPS
            self.lock.reader_ended()

    def check_reader(self) -> None:
        """Close the stream if its only reader has ended: another call is in line."""
        stream = self.stream() if self.stream is not None else None
        if stream is None or self.reader is not None or self._is_shared:
            return
        if self._is_left:
            stream.abandoned()
        elif (self._is_cut or self._steps) and self._grace is None and self._sleep is not None:
            self._grace = asyncio.ensure_future(self._sleep(_GRACE))
            self._grace.add_done_callback(self._grace_over)

    def _grace_over(self, grace: asyncio.Future[None]) -> None:
        stream = self.stream() if self.stream is not None else None
        # It fails where the session was closed, which ends the stream as well.
        if not grace.cancelled() and grace.exception() is None and stream is not None:
            stream.abandoned()

    def _end_grace(self) -> None:
        grace, self._grace = self._grace, None
        if grace is not None:
            grace.cancel()

    def grant(self) -> None:
        """Say that its turn has come."""
        if not self._granted.done():
            self._granted.set_result(None)

    async def wait(self) -> None:
        """Wait for its turn; a cancellation releases it."""
        try:
            await self._granted
        except asyncio.CancelledError:
            self.release()
            raise

    def release(self) -> None:
        """Let the next call have its turn. Harmless when repeated."""
        if not self._is_released:
            self._is_released = True
            self._end_grace()
            self._watch(None)
            self.lock.remove(self)

    async def __aenter__(self) -> None:
        await self.wait()

    async def __aexit__(self, *_error: object) -> None:
        self.release()


def _reader(task: asyncio.Task[object] | None) -> asyncio.Task[object] | None:
    """Return a task, unless it was made for one step of a stream alone."""
    return None if task is None or getattr(task.get_coro(), "__qualname__", "") in _STEPS else task
