"""`EventStream`: one open stream to one browser, which stops its work when the browser has gone."""

from __future__ import annotations

import asyncio
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Final

from nairi_async._core.closing import run_shielded
from nairi_async._nairi.activity import Activity
from nairi_async.errors import NairiError
from nairi_async.web import event_format
from nairi_async.web.error_responses import may_pass
from nairi_async.web.event_sources import End, Item

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from types import TracebackType
    from typing import Self

    from nairi_async.clock import Clock

_OK: Final = 200
_NO_CONTENT: Final = 204
# Seconds for which the response waits for the first event.
_OPEN_TIMEOUT: Final = 2.0


class EventStream:
    """The bytes of a `text/event-stream`. Made by `EventStreams.watch` and `EventStreams.ask`.

    Give it to the framework's streaming response, with its `headers`. It works at most one event ahead of its reader.
    A cancellation of the reader ends it, and no further request is made; frameworks cancel when the browser has gone.
    A heartbeat is sent if no event comes for a while, so that proxies keep the connection.

    It ends and never raises: with the event `end`, with `failure`, or, when the application shuts down, with neither,
    so that the browser reconnects and resumes.

    Await `open` before the response begins, and give the response the status that it returns: a standard `EventSource`
    reconnects after every end of a stream, and gives up only at a status other than 200.
    """

    headers: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",  # otherwise nginx holds back small pieces
        }
    )
    """The headers that the response needs."""

    def __init__(self, source: AsyncGenerator[Item], clock: Clock, *, heartbeat: float, retry: float) -> None:
        self._source = source
        self._clock = clock
        self._heartbeat = heartbeat
        self._greeting: bytes | None = event_format.reconnection_time(retry)
        self._last_sent: bytes | None = None
        self._step: asyncio.Task[Item | None] | None = None
        self._has_ended = False

    @property
    def has_ended(self) -> bool:
        """Whether nothing more comes."""
        return self._has_ended

    async def open(self) -> int:
        """Wait up to two seconds for the first event, and return the status of the response.

        Returns:
            200; or 204 if the stream is empty: a watch from a cursor on has ended, and nothing came after the cursor.
            To a browser 204 says not to reconnect, as do 429 and 503.

        Raises:
            NairiError: the stream fails before its first event, and another attempt does not help. Respond with
                `http_status` and `error_json`. A failure that may pass is sent as an event, so that browsers reconnect.
        """
        if self._has_ended:
            return _OK
        step = self._step = self._step or asyncio.create_task(_pull(self._source))
        try:
            await self._wait(step, _OPEN_TIMEOUT)
            if self._has_ended or not step.done():
                return _OK
            item = step.result()
        except BaseException:
            await self.aclose()
            raise
        if isinstance(item, NairiError) and not may_pass(item):
            await self.aclose()
            raise item
        if isinstance(item, End) and item.is_empty:
            await self.aclose()
            return _NO_CONTENT
        return _OK

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Return the next event, or a heartbeat."""
        if self._greeting is not None and not self._has_ended:
            # At once: some servers send their headers only with the first bytes.
            greeting, self._greeting = self._greeting, None
            return greeting
        try:
            return await self._next()
        except BaseException:
            # The end, or a cancellation: nothing reads the stream any more.
            await self.aclose()
            raise

    def end(self) -> None:
        """End the stream for its reader, as at a shutdown. Harmless if repeated."""
        self._has_ended = True
        if self._step is not None and not self._step.get_loop().is_closed():
            self._step.cancel()

    async def aclose(self) -> None:
        """End the stream, and wait until its work has stopped. Harmless if repeated."""
        self.end()
        await run_shielded(self._close())

    async def _close(self) -> None:
        step = self._step
        if step is not None:
            await asyncio.wait({step})
            # The frames of its cancellation refer to what it has read.
            self._step = None
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
                return event_format.HEARTBEAT
            event = _formatted(latest)
            if event != self._last_sent:
                self._last_sent = event
                return event

    async def _latest(self) -> Item | None:
        """Return what to send next, or `None` if nothing has come for the time of a heartbeat.

        Of several activities that are there at once, only the last is sent: the earlier ones are over.
        """
        activity: Activity | None = None
        while not self._has_ended:
            # A task of its own, so that a heartbeat does not interrupt a read.
            step = self._step = self._step or asyncio.create_task(_pull(self._source))
            await (self._wait(step, self._heartbeat) if activity is None else asyncio.sleep(0))
            if self._has_ended:
                break
            if not step.done():
                return activity
            item = step.result()
            if item is None and activity is not None:
                return activity
            self._step = None
            if not isinstance(item, Activity):
                if item is None:
                    break
                return item
            activity = item
        raise StopAsyncIteration

    async def _wait(self, step: asyncio.Task[Item | None], seconds: float) -> None:
        heartbeat = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait({step, heartbeat}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            heartbeat.cancel()


async def _pull(source: AsyncGenerator[Item]) -> Item | None:
    """Return the next item of a source, `None` at its end.

    It has no reference to the stream, which would otherwise not be collected when a framework drops it.
    """
    return await anext(source, None)


def _formatted(item: Item) -> bytes:
    match item:
        case Activity():
            return event_format.activity_event(item)
        case End():
            return event_format.end_event(item.status)
        case NairiError():
            return event_format.failure_event(item)
        case _:
            return item
