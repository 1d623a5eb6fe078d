"""One open stream to one browser: an async iterator of bytes that stops working as soon as nobody listens."""

from __future__ import annotations

import asyncio
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import anyio

from nairi_async._nairi.activity import Activity
from nairi_async.web import events

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from types import TracebackType
    from typing import Self

    from nairi_async.clock import Clock


class EventStream:
    """The bytes of a `text/event-stream`. Made by `EventStreams.watch` and `EventStreams.ask`.

    Give it to the framework's streaming response, with its `headers`. It works no more than one event ahead of who
    reads it, and a reader who is cancelled, as frameworks do when the browser has gone, ends it: no further request is
    made. Where nothing happens for a while, a heartbeat comes, so that proxies keep the connection.

    It ends, and never raises: with the event `end`, with `failure`, or, when the application shuts down, without
    either, so that the browser connects again and resumes.
    """

    headers: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",  # nginx would hold back small pieces
        }
    )
    """What the response's headers have to say."""

    def __init__(
        self, source: AsyncGenerator[bytes | Activity], clock: Clock, *, heartbeat: float, retry: float
    ) -> None:
        self._source = source
        self._clock = clock
        self._heartbeat = heartbeat
        self._greeting: bytes | None = events.retry(retry)
        self._told: bytes | None = None
        self._step: asyncio.Task[bytes | Activity | None] | None = None
        self._is_over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """The next event, or a heartbeat."""
        if self._greeting is not None and not self._is_over:
            # At once, since some servers send their headers with the first bytes only.
            greeting, self._greeting = self._greeting, None
            return greeting
        try:
            return await self._next()
        except BaseException:
            # The end, or a cancellation: either way, nobody waits any more.
            await self.aclose()
            raise

    def end(self) -> None:
        """End the stream for whoever reads it, as at a shutdown. Harmless when repeated."""
        self._is_over = True
        if self._step is not None and not self._step.get_loop().is_closed():
            self._step.cancel()

    async def aclose(self) -> None:
        """End it, and wait until nothing runs behind it. Harmless when repeated."""
        self.end()
        # The cancellation that led here may be repeated until the task has left its scope.
        with anyio.CancelScope(shield=True):
            if self._step is not None:
                await asyncio.wait({self._step})
            await self._source.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # A framework may drop a stream between two heartbeats without closing it.
        if self._step is not None:
            self.end()

    async def _next(self) -> bytes:
        while True:
            latest = await self._latest()
            if latest is None:
                return events.HEARTBEAT
            told = events.activity_event(latest) if isinstance(latest, Activity) else latest
            if told != self._told:
                self._told = told
                return told

    async def _latest(self) -> bytes | Activity | None:
        """What is to be told next, or `None` when nothing has come for the time of a heartbeat.

        What an agent did before it did something else is not worth a line: of several that are there at once, the
        last is told.
        """
        passing: Activity | None = None
        while not self._is_over:
            # In a task of its own, so that a heartbeat does not interrupt a read.
            step = self._step = self._step or asyncio.create_task(_pull(self._source))
            await (self._wait(step) if passing is None else asyncio.sleep(0))
            if self._is_over:
                break
            if not step.done():
                return passing
            told = step.result()
            if told is None and passing is not None:
                return passing
            self._step = None
            if not isinstance(told, Activity):
                if told is None:
                    break
                return told
            passing = told
        raise StopAsyncIteration

    async def _wait(self, step: asyncio.Task[bytes | Activity | None]) -> None:
        beat = asyncio.ensure_future(self._clock.sleep(self._heartbeat))
        try:
            await asyncio.wait({step, beat}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            beat.cancel()


async def _pull(source: AsyncGenerator[bytes | Activity]) -> bytes | Activity | None:
    """The next of a source, `None` at its end. It knows no stream, so that one that is dropped is not kept alive."""
    return await anext(source, None)
