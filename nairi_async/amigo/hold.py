"""A place in the line of a conversation."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol
from weakref import ref

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nairi_async.amigo.readers import Readers

# Seconds in which a further step can be taken, where it is not certain that all readers have left.
_GRACE: Final = 5.0


class Line(Protocol):
    """The line of calls of one conversation."""

    def remove(self, hold: Hold) -> None:
        """Take a call out of the line."""
        ...

    def reader_ended(self) -> None:
        """Close a stream that its readers have left, if another call is in line."""
        ...


class OpenStream(Protocol):
    """A stream that holds its conversation."""

    @property
    def is_being_read(self) -> bool:
        """Whether a step is under way."""
        ...

    async def read_rest(self) -> bool:
        """Read to the end if the interaction is complete; return whether it is."""
        ...

    def abandoned(self) -> None:
        """Close: its readers have left."""
        ...


class Hold:
    """A place in the line of a conversation: once granted, the right to make a call, until it is released."""

    __slots__ = ("_caller", "_grace", "_granted", "_is_released", "_readers", "_sleep", "lock", "stream")

    def __init__(self, lock: Line, readers: Readers | None) -> None:
        self.lock: Line = lock
        self.stream: ref[OpenStream] | None = None
        """The stream for which it is held, once that is open; it is not kept alive."""
        self._readers = readers
        if readers is not None:
            readers.on_ended = self._reader_ended
        task = asyncio.current_task()
        # Not kept either: the frames of its error may hold the stream.
        self._caller = None if task is None else ref(task)
        self._sleep: Callable[[float], Awaitable[None]] | None = None
        self._grace: asyncio.Future[None] | None = None
        self._granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_released = False

    @property
    def is_granted(self) -> bool:
        """Whether its turn has come."""
        return self._granted.done()

    def opened(self, stream: ref[OpenStream], sleep: Callable[[float], Awaitable[None]]) -> None:
        """Note the stream for which it is held."""
        self.stream, self._sleep = stream, sleep

    def is_used_by(self, task: asyncio.Task[object] | None) -> bool:
        """Return whether a task makes the call, or reads its stream, and so would wait for itself."""
        readers = self._readers
        if readers is not None and readers.has_begun:
            return task in readers
        caller = self._caller() if self._caller is not None else None
        if readers is not None and (caller is None or caller.done()):
            # The stream was opened under a timeout, in a task of its own.
            caller = readers.owner
        return task is caller

    def check_readers(self) -> None:
        """Close the stream if its readers have left: another call is in line."""
        stream, readers, sleep = self._idle_stream(), self._readers, self._sleep
        if stream is None or readers is None or sleep is None or not readers.has_begun:
            return
        if readers.is_left:
            stream.abandoned()
        elif readers.is_left is None and self._grace is None:
            ended = readers.ended
            self._grace = asyncio.ensure_future(sleep(_GRACE))
            self._grace.add_done_callback(lambda grace: self._grace_over(grace, ended))

    def _idle_stream(self) -> OpenStream | None:
        """Return the stream if no step of it is under way."""
        stream = self.stream() if self.stream is not None else None
        return None if stream is None or stream.is_being_read else stream

    def _grace_over(self, grace: asyncio.Future[None], ended: int) -> None:
        # It fails where the session was closed, which ends the stream as well.
        if grace.cancelled() or grace.exception() is not None:
            return
        self._grace = None
        stream, readers = self._idle_stream(), self._readers
        if stream is not None and readers is not None and readers.is_left is None and readers.ended == ended:
            stream.abandoned()
        else:
            self.lock.reader_ended()

    def _reader_ended(self) -> None:
        self.lock.reader_ended()

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
            if self._grace is not None:
                self._grace.cancel()
            self.lock.remove(self)

    async def __aenter__(self) -> None:
        await self.wait()

    async def __aexit__(self, *_error: object) -> None:
        self.release()
