"""Single flight: one request serves all watchers that want the same thing at the same time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakValueDictionary

from nairi_async._core.address import path
from nairi_async._core.permits import LoopLock
from nairi_async._core.request import Request
from nairi_async._nairi.incremental_decoder import IncrementalDecoder
from nairi_async._nairi.wire import decode_message
from nairi_async.models import Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from nairi_async._core.executor import RequestExecutor
    from nairi_async._nairi.polling.counters import PollCounters

_T = TypeVar("_T")
_ReadT = TypeVar("_ReadT", bound="SharedRead[Any]")


class Snapshot(Generic[_T]):
    """The result of one read."""

    __slots__ = ("received_at", "started_at", "value", "weight")

    def __init__(self, started_at: float, received_at: float, value: _T, weight: int) -> None:
        self.started_at = started_at
        """When it was requested: it contains everything that happened before."""
        self.received_at = received_at
        """When the response was received."""
        self.value = value
        """The decoded body."""
        self.weight = weight
        """Size of the body in bytes."""


class SharedRead(Generic[_T]):
    """One path that several tasks read ("single flight").

    There is no task behind it: the first that needs a read makes it, and the others wait for that one. If the first is
    cancelled, the next makes it.
    """

    __slots__ = ("__weakref__", "_counters", "_decode", "_executor", "_latest", "_reading", "_request", "is_shared")

    def __init__(
        self, executor: RequestExecutor, counters: PollCounters, location: str, decode: Callable[[bytes], _T]
    ) -> None:
        self._executor = executor
        self._counters = counters
        self._request = Request(method="GET", path=location)
        self._decode = decode
        self._reading = LoopLock()
        self._latest: Snapshot[_T] | None = None
        self.is_shared: bool = False
        """Whether it was ever handed out twice."""

    async def since(self, at: float, *, deadline: float, grace: float = 0.0) -> Snapshot[_T]:
        """Return a snapshot requested at `at` or later: the last one if it is new enough, else a new one.

        `deadline` and `grace` are those of `RequestExecutor.call`.
        """
        if not self._reading.acquire_now():
            await self._reading.acquire()
        try:
            latest = self._latest
            if latest is None or latest.started_at < at:
                started_at = self._executor.clock.monotonic()
                self._counters.polls += 1
                decode = partial(self._snapshot, started_at)
                latest = await self._executor.call(
                    self._request, decode, unreadable_is_transient=True, deadline=deadline, grace=grace
                )
                self._latest = latest
            return latest
        finally:
            self._reading.release()

    def _snapshot(self, started_at: float, body: bytes) -> Snapshot[_T]:
        return Snapshot(started_at, self._executor.clock.monotonic(), self._value(body), len(body))

    def _value(self, body: bytes) -> _T:
        return self._decode(body)


class MessageRead(SharedRead[Message]):
    """The read of one message. No work where the body is the same again, as the status of a waiting turn is."""

    __slots__ = ("_digest", "_message")

    def __init__(self, executor: RequestExecutor, counters: PollCounters, location: str) -> None:
        super().__init__(executor, counters, location, decode_message)
        self._digest = 0
        self._message: Message | None = None

    def forget(self) -> None:
        """Forget what makes the next read cheap, before a long time without one: thousands wait.

        Where several tasks read, one may still want the last read, so nothing is forgotten.
        """
        if not self.is_shared:
            self._latest = self._message = self._request.address = None

    def _value(self, body: bytes) -> Message:
        # Not the body itself, which may be a long prompt. Python's hash of bytes has a secret key and 64 bits.
        digest = hash(body)
        if self._message is None or digest != self._digest:
            self._message, self._digest = self._decode(body), digest
        return self._message


class SharedReads:
    """The reads of a session, with single flight: identical reads at the same time are one request.

    Each path is remembered for as long as something watches it.
    """

    def __init__(self, executor: RequestExecutor, counters: PollCounters) -> None:
        self._executor = executor
        self._counters = counters
        self._shared: WeakValueDictionary[tuple[str, bool], Any] = WeakValueDictionary()

    def message(self, message_id: str) -> MessageRead:
        """Return the read of one message, `GET messages/{message_id}`: small however long the conversation is."""
        location = path("messages", message_id)
        return self._share((location, False), lambda: MessageRead(self._executor, self._counters, location))

    def timeline(self, job_id: str, *, progress: bool = False) -> SharedRead[tuple[Message, ...]]:
        """Return the read of a whole conversation, `GET conversations/{job_id}/messages`: all of it, each time."""
        location = path("conversations", job_id, "messages")

        def make() -> SharedRead[tuple[Message, ...]]:
            decode = IncrementalDecoder(progress=progress).decode
            return SharedRead(self._executor, self._counters, location, decode)

        return self._share((location, progress), make)

    def _share(self, key: tuple[str, bool], make: Callable[[], _ReadT]) -> _ReadT:
        shared: _ReadT | None = self._shared.get(key)
        if shared is None:
            shared = self._shared[key] = make()
        else:
            shared.is_shared = True
        return shared
