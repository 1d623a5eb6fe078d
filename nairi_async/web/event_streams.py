"""`EventStreams`: the open event streams of one application process, which end together when it shuts down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from nairi_async._core import checks
from nairi_async._core.checks import DEFAULT_TIMEOUT
from nairi_async._core.closing import run_shielded
from nairi_async.errors import TooManyStreamsError
from nairi_async.web.event_sources import reply_events, watch_events
from nairi_async.web.event_stream import EventStream
from nairi_async.web.shutdown_signals import SHUTDOWN_SIGNALS, checked_signals, listen_for_signals

if TYPE_CHECKING:
    import signal
    from collections.abc import AsyncGenerator, Callable, Iterable
    from types import TracebackType
    from typing import Self

    from nairi_async._nairi.polling.watch import Watch
    from nairi_async.clock import Clock
    from nairi_async.dialogue import Dialogue
    from nairi_async.typing import Duration
    from nairi_async.web.event_sources import Item

MAX_STREAMS: Final = 1000
"""Event streams that one process may have open."""


class EventStreams:
    """Makes event streams, and ends them when the application shuts down. Use it with `async with`, in its lifespan.

    A server that shuts down first waits for its open responses (uvicorn without a limit), and only then informs the
    application. So this listens to the signals itself, and then passes them to the handlers installed before. Streams
    end without an `end` event; browsers reconnect, to the next process, and resume.

    Args:
        heartbeat: Seconds without an event after which a comment is sent; below the idle timeout of any proxy (nginx:
            60 s). Some servers notice a closed connection only when they send the next bytes.
        retry: Seconds that a browser waits before it reconnects.
        max_streams: Open streams of the process, over all visitors; a further one is refused. Each costs requests.
        signals: The signals of a shutdown; ignored outside the main thread, where Python receives none.
        clock: The clock to use; tests give `nairi_async.testing.VirtualClock`.

    Raises:
        ConfigurationError: a setting is not valid.
    """

    def __init__(
        self,
        *,
        heartbeat: Duration = 15.0,
        retry: Duration = 2.0,
        max_streams: int = MAX_STREAMS,
        signals: Iterable[signal.Signals] = SHUTDOWN_SIGNALS,
        clock: Clock | None = None,
    ) -> None:
        self._heartbeat = checks.seconds(heartbeat)
        checks.positive("heartbeat", self._heartbeat)
        self._retry = checks.seconds(retry)
        checks.positive("retry", self._retry, or_zero=True)
        self._max_streams = checks.whole("max_streams", max_streams)
        self._signals = checked_signals(signals)
        self._clock = checks.clock(clock)
        self._open: WeakSet[EventStream] = WeakSet()
        self._has_ended = False
        self._restore: list[Callable[[], object]] = []

    def __repr__(self) -> str:
        return f"<EventStreams: {self._count()} open{', ended' if self._has_ended else ''}>"

    async def __aenter__(self) -> Self:
        self._restore = listen_for_signals(self._signals, self.end)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._restore:
            self._restore.pop()()
        self.end()
        await run_shielded(self._close())

    async def _close(self) -> None:
        for stream in list(self._open):
            await stream.aclose()

    def end(self) -> None:
        """End all streams, including those made later. Harmless if repeated.

        Call it if your server informs the application of a shutdown before it waits for the responses.
        """
        self._has_ended = True
        for stream in list(self._open):
            stream.end()

    def watch(self, watch: Watch) -> EventStream:
        """Return the events of a watch.

        * `message`: a `Message` as JSON. The event's id is the message's, so the `Last-Event-ID` of a browser that
          reconnects is the `after=` of its next watch.
        * `activity`, from a watch with `progress=True`: what the agent is doing, as JSON: `text`, one line for people;
          `tools`, how many calls are done; `since`, when the current one began, or null.
        * `end`: the watch has ended. JSON with `status`, the last one seen of the turn's user message.
        * `failure`: the watch cannot go on; JSON as from `error_json`. A browser resumes by reconnecting, which it does
          by itself unless the page closes its `EventSource`.

        Await `EventStream.open` first, for the status of the response. A standard `EventSource` gives up at 204, 429,
        503 and every other status but 200: a page that wants to go on makes a new one.

        Raises:
            TooManyStreamsError: `max_streams` are open; `http_status` gives 503.
        """
        return self._stream(watch_events(watch))

    def ask(self, dialogue: Dialogue, prompt: str, *, timeout: Duration | None = DEFAULT_TIMEOUT) -> EventStream:
        """Return the events of a prompt to a dialogue with any service, and of its reply.

        The prompt is sent when the stream is read. `answer` holds JSON with the dialogue's `id` and the `text`; `end`
        and `failure` are as for `watch`. Use it in the response to a POST, never for an `EventSource`, which would ask
        again when its connection breaks.

        Raises:
            TooManyStreamsError: `max_streams` are open; `http_status` gives 503.
        """
        return self._stream(reply_events(dialogue, checks.prompt(prompt), timeout))

    def _count(self) -> int:
        """Return how many streams have not ended; others may wait to be collected."""
        return sum(not stream.has_ended for stream in self._open)

    def _stream(self, source: AsyncGenerator[Item]) -> EventStream:
        if self._count() >= self._max_streams:
            raise TooManyStreamsError("Too many conversations are open here. Please try again in a moment.")
        stream = EventStream(source, self._clock, heartbeat=self._heartbeat, retry=self._retry)
        self._open.add(stream)
        if self._has_ended:
            stream.end()
        return stream
