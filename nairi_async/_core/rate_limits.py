"""How much the service is asked of at once: the limiter that stands before the connection pool (design section 6)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

    from nairi_async.clock import Clock

# Calls that a quiet time has held back start again spread over this part of it, so that they do not all come at once.
_REOPENING: Final = 0.25

Ready = Callable[[], Awaitable[None]]
"""What is done when a call's turn has come, before it leaves."""

WINDOW: Final = 61.0
"""Seconds over which a limit per minute is counted: one more, since requests do not travel equally fast."""


class Gate:
    """When the next request may leave, as plain arithmetic on the caller's clock."""

    def __init__(self, per_second: float | None) -> None:
        self._spacing = 1.0 / per_second if per_second else 0.0
        self._next_slot = 0.0
        self._quiet_until = 0.0
        self._reopening = 0.0

    def wait(self, now: float) -> float:
        """Seconds until the rate lets the next request leave."""
        return max(0.0, self._next_slot - now)

    def leave(self, now: float) -> None:
        """A request leaves now; the next one a spacing later."""
        self._next_slot = now + self._spacing

    def quiet(self, now: float, seconds: float) -> None:
        """Let nothing pass for a time; a shorter one never cuts a longer one."""
        if now + seconds > self._quiet_until:
            self._quiet_until = now + seconds
            self._reopening = seconds * _REOPENING

    def closed_for(self, now: float, jitter: float) -> float:
        """Seconds to stay away, staggered by `jitter` in [0, 1); zero when the gate is open."""
        remaining = self._quiet_until - now
        return remaining + jitter * self._reopening if remaining > 0 else 0.0


class Limiter:
    """A bound on requests at once and, if wanted, on requests a second, for the whole session.

    Waiting here costs no connection and none of a request's own time.
    """

    def __init__(
        self,
        clock: Clock,
        random: Callable[[], float],
        *,
        connections: int,
        per_second: float | None = None,
        buckets: Mapping[str, int | None] | None = None,
    ) -> None:
        self._clock = clock
        self._random = random
        self._slots = asyncio.Semaphore(connections)
        self._gate = Gate(per_second)
        # With a rate, calls pass one by one: only the first in line watches the clock, so one that gives up costs no
        # place, and after a quiet time the rate still holds.
        self._turnstile = asyncio.Lock() if per_second else None
        self._buckets = {name: _Bucket(limit) for name, limit in (buckets or {}).items()}
        self.waiting = 0
        """Calls that wait for their turn right now."""

    def quiet(self, seconds: float, bucket: str | None = None) -> None:
        """Hold calls back: those of a lane, else every call, since a limit is the key's and not the request's."""
        gate = self._gate if bucket is None else self._buckets[bucket].gate
        gate.quiet(self._clock.monotonic(), seconds)

    def slot(self, deadline: float, bucket: str | None = None, ready: Ready | None = None) -> _Slot:
        """The right to have one request under way; `TimeoutError` where the gate stays shut until the deadline.

        `ready` is awaited when the lane's turn has come, which may be long after the call, and before a connection is
        taken, since it may need one itself.
        Waiting for another request to end is bounded by that request's own timeout, not by the deadline.
        """
        return _Slot(self, deadline, bucket, ready)

    async def enter(self, deadline: float, bucket: str | None = None, ready: Ready | None = None) -> None:
        """Wait for a slot; see `slot`."""
        self.waiting += 1
        try:
            if bucket is None:
                await self._connect(deadline)
            else:
                await self._pass(self._buckets[bucket], deadline, ready)
        finally:
            self.waiting -= 1

    async def _pass(self, bucket: _Bucket, deadline: float, ready: Ready | None) -> None:
        # The lane first: a wait of a minute must not hold a connection that calls of other lanes could use.
        async with bucket.turnstile:
            await self._until(bucket.shut_for, deadline)
            if ready is not None:
                await ready()
            await self._connect(deadline)
            bucket.leave(self._clock.monotonic())

    async def _connect(self, deadline: float) -> None:
        await self._acquire(deadline)
        if self._turnstile is not None:
            try:
                async with self._turnstile:
                    await self._until(self._shut_for, deadline)
                    self._gate.leave(self._clock.monotonic())
            except BaseException:
                self._slots.release()
                raise

    async def _acquire(self, deadline: float) -> None:
        """Wait for a connection, and with one in hand meet the gate as it is then.

        Where it is shut, the connection is given back: those who wait for the end of a quiet time must all have their
        own moment to start again, not only as many as there are connections, with the others close behind them.
        """
        while True:
            await self._slots.acquire()
            if self._turnstile is not None or self._shut_for(self._clock.monotonic(), self._random()) <= 0:
                return
            self._slots.release()
            await self._until(self._shut_for, deadline)

    def leave(self) -> None:
        """Give a slot back."""
        self._slots.release()

    async def _until(self, shut_for: Callable[[float, float], float], deadline: float) -> None:
        while (shut := shut_for(self._clock.monotonic(), self._random())) > 0:
            remaining = deadline - self._clock.monotonic()
            await self._clock.sleep(min(shut, remaining))
            if shut > remaining:
                raise TimeoutError("the session was held back by a limit")

    def _shut_for(self, now: float, jitter: float) -> float:
        return max(self._gate.wait(now), self._gate.closed_for(now, jitter))


class Window:
    """At most so many requests in any minute, as plain arithmetic: right for fixed and for sliding windows."""

    def __init__(self, limit: int | None) -> None:
        self._left: deque[float] | None = deque(maxlen=limit) if limit is not None else None

    def wait(self, now: float) -> float:
        """Seconds until the next request may leave."""
        if self._left is None or len(self._left) != self._left.maxlen:
            return 0.0
        return max(0.0, self._left[0] + WINDOW - now)

    def leave(self, now: float) -> None:
        """A request leaves now."""
        if self._left is not None:
            self._left.append(now)


class _Bucket:
    """One of several limits of a service: calls pass it one by one, in order."""

    def __init__(self, per_minute: int | None) -> None:
        self.turnstile = asyncio.Lock()
        self.gate = Gate(None)
        self._window = Window(per_minute)

    def shut_for(self, now: float, jitter: float) -> float:
        return max(self._window.wait(now), self.gate.closed_for(now, jitter))

    def leave(self, now: float) -> None:
        self._window.leave(now)


class _Slot:
    """A slot as a context: a class, because a generator would cost several times as much at each request."""

    __slots__ = ("_bucket", "_deadline", "_is_kept", "_limiter", "_ready")

    def __init__(self, limiter: Limiter, deadline: float, bucket: str | None, ready: Ready | None) -> None:
        self._limiter = limiter
        self._deadline = deadline
        self._bucket = bucket
        self._ready = ready
        self._is_kept = False

    def keep(self) -> None:
        """Leave the slot taken after the block: whoever took the request over calls `Limiter.leave`."""
        self._is_kept = True

    async def __aenter__(self) -> Self:
        await self._limiter.enter(self._deadline, self._bucket, self._ready)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._is_kept:
            self._limiter.leave()
