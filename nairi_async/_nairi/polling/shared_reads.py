"""Reads that several watchers share: one request answers all who want the same thing at the same time."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakValueDictionary

from attrs import frozen

from nairi_async._core.address import path
from nairi_async._core.request import Request
from nairi_async._nairi.incremental_decoder import IncrementalDecoder
from nairi_async._nairi.wire import decode_message

if TYPE_CHECKING:
    from collections.abc import Callable

    from nairi_async._core.executor import RequestExecutor
    from nairi_async._nairi.polling.statistics import PollCounters
    from nairi_async.models import Message

_T = TypeVar("_T")


@frozen
class Snapshot(Generic[_T]):
    """What a read brought."""

    started_at: float
    """When it was asked for: what happened before this moment is in it."""
    received_at: float
    """When it was answered."""
    value: _T
    """The decoded answer."""
    weight: int
    """Size of the body in bytes."""


class SharedRead(Generic[_T]):
    """One path that several tasks read.

    There is no task behind it: the first who needs a read makes it, the others wait for that one, and if the first is
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
        self._reading = asyncio.Lock()
        self._latest: Snapshot[_T] | None = None

    async def since(self, moment: float, *, deadline: float) -> Snapshot[_T]:
        """A snapshot asked for at `moment` or later: the last one if it is new enough, else a new one."""
        async with self._reading:
            latest = self._latest
            if latest is None or latest.started_at < moment:
                started_at = self._executor.clock.monotonic()
                self._counters.polls += 1
                decode = partial(self._snapshot, started_at)
                latest = await self._executor.call(
                    self._request, decode, unreadable_is_transient=True, deadline=deadline
                )
                self._latest = latest
            return latest

    def _snapshot(self, started_at: float, body: bytes) -> Snapshot[_T]:
        return Snapshot(started_at, self._executor.clock.monotonic(), self._decode(body), len(body))


class SharedReads:
    """The shared reads of a session; each lives as long as somebody watches."""

    def __init__(self, executor: RequestExecutor, counters: PollCounters) -> None:
        self._executor = executor
        self._counters = counters
        self._shared: WeakValueDictionary[tuple[str, bool], SharedRead[Any]] = WeakValueDictionary()

    def message(self, message_id: str) -> SharedRead[Message]:
        """`GET messages/{message_id}`: small, whatever the length of the conversation."""
        return self._share(path("messages", message_id), lambda: _SameAgain(decode_message))

    def timeline(self, job_id: str, *, progress: bool = False) -> SharedRead[tuple[Message, ...]]:
        """`GET conversations/{job_id}/messages`: all of it, each time."""
        location = path("conversations", job_id, "messages")
        return self._share(location, lambda: IncrementalDecoder(progress=progress).decode, progress=progress)

    def _share(
        self, location: str, decoder: Callable[[], Callable[[bytes], _T]], *, progress: bool = False
    ) -> SharedRead[_T]:
        shared = self._shared.get((location, progress))
        if shared is None:
            shared = self._shared[location, progress] = SharedRead(self._executor, self._counters, location, decoder())
        return shared


class _SameAgain(Generic[_T]):
    """A decoder that does nothing when the body is the last one again, as a waiting turn's status is."""

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
