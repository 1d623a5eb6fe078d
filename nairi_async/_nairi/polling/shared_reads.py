"""Single flight: one request serves all watchers that want the same thing at the same time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakValueDictionary

from attrs import define

from nairi_async._core.address import path
from nairi_async._core.permits import LoopLock
from nairi_async._core.request import Request
from nairi_async._nairi.incremental_decoder import IncrementalDecoder
from nairi_async._nairi.wire import decode_message

if TYPE_CHECKING:
    from collections.abc import Callable

    from nairi_async._core.executor import RequestExecutor
    from nairi_async._nairi.polling.statistics import PollCounters
    from nairi_async.models import Message

_T = TypeVar("_T")


@define(eq=False)
class Snapshot(Generic[_T]):
    """The result of one read. Not frozen, because that would take three times as long to make."""

    started_at: float
    """When it was requested: it contains everything that happened before."""
    received_at: float
    """When the response was received."""
    value: _T
    """The decoded body."""
    weight: int
    """Size of the body in bytes."""


class SharedRead(Generic[_T]):
    """One path that several tasks read ("single flight").

    There is no task behind it: the first that needs a read makes it, and the others wait for that one. If the first is
    cancelled, the next makes it.
    """

    __slots__ = ("__weakref__", "_counters", "_decode", "_executor", "_latest", "_reading", "_request")

    def __init__(
        self, executor: RequestExecutor, counters: PollCounters, location: str, decode: Callable[[bytes], _T]
    ) -> None:
        self._executor = executor
        self._counters = counters
        self._request = Request(method="GET", path=location)
        self._decode = decode
        self._reading = LoopLock()
        self._latest: Snapshot[_T] | None = None

    async def since(self, at: float, *, deadline: float, grace: float = 0.0) -> Snapshot[_T]:
        """Return a snapshot requested at `at` or later: the last one if it is new enough, else a new one.

        `deadline` and `grace` are those of `RequestExecutor.call`.
        """
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
        return Snapshot(started_at, self._executor.clock.monotonic(), self._decode(body), len(body))


class SharedReads:
    """The reads of a session, with single flight: identical reads at the same time are one request.

    Each path is remembered for as long as something watches it.
    """

    def __init__(self, executor: RequestExecutor, counters: PollCounters) -> None:
        self._executor = executor
        self._counters = counters
        self._shared: WeakValueDictionary[tuple[str, bool], SharedRead[Any]] = WeakValueDictionary()

    def message(self, message_id: str) -> SharedRead[Message]:
        """Return the read of one message, `GET messages/{message_id}`: small however long the conversation is."""
        return self._share(path("messages", message_id), lambda: _UnchangedDecoder(decode_message))

    def timeline(self, job_id: str, *, progress: bool = False) -> SharedRead[tuple[Message, ...]]:
        """Return the read of a whole conversation, `GET conversations/{job_id}/messages`: all of it, each time."""
        location = path("conversations", job_id, "messages")
        return self._share(location, lambda: IncrementalDecoder(progress=progress).decode, progress=progress)

    def _share(
        self, location: str, decoder: Callable[[], Callable[[bytes], _T]], *, progress: bool = False
    ) -> SharedRead[_T]:
        shared = self._shared.get((location, progress))
        if shared is None:
            shared = self._shared[location, progress] = SharedRead(self._executor, self._counters, location, decoder())
        return shared


class _UnchangedDecoder(Generic[_T]):
    """A decoder that does no work when the body is the same again, as the status of a waiting turn is."""

    __slots__ = ("_body", "_decode", "_value")

    def __init__(self, decode: Callable[[bytes], _T]) -> None:
        self._decode = decode
        self._body: bytes | None = None
        self._value: _T | None = None

    def __call__(self, body: bytes) -> _T:
        if self._body != body or self._value is None:
            self._value = self._decode(body)
            self._body = body
        return self._value
