"""The open streams of one application process, which end together when it shuts down."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from nairi_async._core import checks
from nairi_async._core.checks import DEFAULT_TIMEOUT
from nairi_async._nairi.activity import Activity
from nairi_async.clock import SystemClock
from nairi_async.errors import NairiError
from nairi_async.web import events
from nairi_async.web.stream import EventStream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable
    from types import FrameType, TracebackType
    from typing import Any, Self

    from nairi_async._nairi.polling.watch import Watch
    from nairi_async.clock import Clock
    from nairi_async.dialogue import Dialogue
    from nairi_async.typing import Duration

SHUTDOWN_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
"""What tells a server to shut down: a deploy, and Ctrl-C."""


class EventStreams:
    """Makes event streams, and ends them when the application shuts down. Use it with `async with`, in its lifespan.

    A server that was told to shut down first waits for its open responses, uvicorn for ever, and only then tells the
    application. So this listens to the signals itself, and then lets whoever listened before have them. Streams end
    without an `end` event; browsers connect again, to the next process, and resume.

    Args:
        heartbeat: Seconds of silence after which a comment is sent; below the idle timeout of whatever proxy there is
            (nginx: 60 s). A server that does not tell of a closed connection notices it at the next bytes.
        retry: Seconds that a browser is to wait before it connects again.
        signals: What to listen to; nothing outside of the main thread, where Python hears none.
        clock: The time to live by; tests give `nairi_async.testing.VirtualClock`.

    Raises:
        ConfigurationError: a setting cannot be used.
    """

    def __init__(
        self,
        *,
        heartbeat: Duration = 15.0,
        retry: Duration = 2.0,
        signals: Iterable[signal.Signals] = SHUTDOWN_SIGNALS,
        clock: Clock | None = None,
    ) -> None:
        self._heartbeat = checks.seconds(heartbeat)
        checks.positive("heartbeat", self._heartbeat)
        self._retry = checks.seconds(retry)
        checks.positive("retry", self._retry, or_zero=True)
        self._signals = tuple(signals)
        self._clock = clock or SystemClock()
        self._open: WeakSet[EventStream] = WeakSet()
        self._is_over = False
        self._restore: list[Callable[[], object]] = []

    async def __aenter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            loop = asyncio.get_running_loop()
            self._restore = [_listen(number, loop, self.end) for number in self._signals]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._restore:
            self._restore.pop()()
        self.end()
        for stream in list(self._open):
            await stream.aclose()

    def end(self) -> None:
        """End all streams, and those yet to be made as well. Harmless when repeated.

        For servers that tell the application of a shutdown before they wait for its responses.
        """
        self._is_over = True
        for stream in list(self._open):
            stream.end()

    def watch(self, watch: Watch) -> EventStream:
        """A watch as events.

        * `message`: a `Message` as JSON. The event's id is the message's, so that the `Last-Event-ID` of a browser that
          connects again is the `after=` of its next watch.
        * `activity`, from a watch with `progress=True`: what the agent is doing, as JSON: `text`, one line for people;
          `tools`, how many calls are done; `since`, when the current one began, or null.
        * `end`: the watch has ended. JSON with `status`, the last one seen of the turn's user message.
        * `failure`: it cannot go on: `error_json`. A browser resumes by connecting again, which it does by itself
          unless the page closes its `EventSource`.
        """
        return self._stream(_watched(watch))

    def ask(self, dialogue: Dialogue, prompt: str, *, timeout: Duration | None = DEFAULT_TIMEOUT) -> EventStream:
        """A prompt to a dialogue with any service, and its answer as events.

        The prompt is sent once the stream is read. `answer` holds JSON with `id`, the dialogue's, and `text`; `end` and
        `failure` are as for `watch`. To be answered to a POST, never to an `EventSource`, which would ask again when
        its connection breaks.
        """
        return self._stream(_asked(dialogue, checks.prompt(prompt), timeout))

    def _stream(self, source: AsyncGenerator[bytes | Activity]) -> EventStream:
        stream = EventStream(source, self._clock, heartbeat=self._heartbeat, retry=self._retry)
        self._open.add(stream)
        if self._is_over:
            stream.end()
        return stream


async def _watched(watch: Watch) -> AsyncGenerator[bytes | Activity]:
    activity = Activity()
    try:
        async for message in watch:
            activity.feed(message)
            yield activity if message.progress is not None else events.message_event(message)
    except NairiError as error:
        yield events.failure_event(error)
    else:
        yield events.event("end", json.dumps({"status": watch.status}))


async def _asked(dialogue: Dialogue, prompt: str, timeout: Duration | None) -> AsyncGenerator[bytes | Activity]:
    try:
        answer = await dialogue.ask(prompt, timeout=timeout)
    except NairiError as error:
        yield events.failure_event(error)
    else:
        yield events.event("answer", json.dumps({"id": dialogue.id, "text": answer.text}))
        yield events.event("end", json.dumps({"status": "completed"}))


def _listen(number: signal.Signals, loop: asyncio.AbstractEventLoop, end: Callable[[], object]) -> Callable[[], object]:
    """Call `end` on the loop when the signal comes, before whoever listens now; returns what undoes it."""
    before: Any = signal.getsignal(number)

    def hear(heard: int, frame: FrameType | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(end)
        if callable(before):
            before(heard, frame)
        elif before is signal.SIG_DFL:
            signal.signal(heard, signal.SIG_DFL)
            signal.raise_signal(heard)

    def restore() -> None:
        # Whoever has come to listen since then is not disturbed.
        if signal.getsignal(number) is hear:
            signal.signal(number, before)

    signal.signal(number, hear)
    return restore
