"""Rate limits, and the limiter that stands in front of the connection pool.

Three bounds apply to each request, whichever service it is for:

* **Connections.** At most `max_connections` requests are under way. A semaphore counts them in front of the HTTP
  library, so that waiting costs no connection and none of a request's own timeout.
* **Rate.** With `per_second`, requests leave one spacing apart. A service may also limit the requests of each endpoint:
  such a limit is a *bucket*, with at most `limit` requests in any window of 61 seconds. A sliding window is correct
  whether the service counts in fixed or in sliding minutes; the extra second is for requests that travel unequally
  fast.
* **Throttling.** After a 429 or `Retry-After`, calls wait: those of the bucket, or the whole session's, because a limit
  belongs to the key and not to one request. Afterwards each call starts at a random moment of a quarter of that time,
  so that they do not run into the limit together again.

Calls of one bucket pass in order: one at a time watches the clock, and those behind it wait for their turn, so a call
that is cancelled costs nothing of the rate.
"""

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

# Throttled calls start again spread over this part of the time for which they were held back.
_RESTART_SPREAD: Final = 0.25

BeforeSending = Callable[[], Awaitable[None]]
"""What is awaited when a call's turn has come, before it is sent."""

WINDOW: Final = 61.0
"""Seconds over which a limit per minute is counted."""


class RateGate:
    """When the next request may leave, as plain arithmetic on the caller's clock: spacing and throttling."""

    def __init__(self, per_second: float | None) -> None:
        self._spacing = 1.0 / per_second if per_second else 0.0
        self._next_at = 0.0
        self._throttled_until = 0.0
        self._spread = 0.0

    def time_until_next(self, now: float) -> float:
        """Return the seconds until the rate allows the next request."""
        return max(0.0, self._next_at - now)

    def drip(self, now: float) -> None:
        """Count a request that leaves now."""
        self._next_at = now + self._spacing

    def throttle(self, now: float, seconds: float) -> None:
        """Let nothing pass for some seconds; a shorter time never cuts a longer one."""
        if now + seconds > self._throttled_until:
            self._throttled_until = now + seconds
            self._spread = seconds * _RESTART_SPREAD

    def is_throttled(self, now: float) -> bool:
        """Return whether nothing may pass."""
        return now < self._throttled_until

    def time_until_restart(self, now: float, jitter: float) -> float:
        """Return the seconds for which a throttled call waits, spread by `jitter` in [0, 1); 0 if not throttled."""
        remaining = self._throttled_until - now
        return remaining + jitter * self._spread if remaining > 0 else 0.0


class SlidingWindow:
    """At most `limit` requests in any `WINDOW` seconds, as plain arithmetic; `None` for no limit."""

    def __init__(self, limit: int | None) -> None:
        self._left_at: deque[float] | None = deque(maxlen=limit) if limit is not None else None

    def time_until_next(self, now: float) -> float:
        """Return the seconds until the next request may leave."""
        if self._left_at is None or len(self._left_at) != self._left_at.maxlen:
            return 0.0
        return max(0.0, self._left_at[0] + WINDOW - now)

    def drip(self, now: float) -> None:
        """Count a request that leaves now."""
        if self._left_at is not None:
            self._left_at.append(now)


class RateLimiter:
    """The bounds on a session's requests: at once, per second, and per bucket."""

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
        self._connections = connections
        self._semaphore = asyncio.Semaphore(connections)
        self._gate = RateGate(per_second)
        # With a rate, calls pass one by one: only the first in line watches the clock.
        self._turnstile = asyncio.Lock() if per_second else None
        self._buckets = {name: _Bucket(limit) for name, limit in (buckets or {}).items()}
        self.open = 0
        """Requests that hold a connection right now."""
        self.waiting = 0
        """Calls that wait for their turn right now."""

    @property
    def connections(self) -> int:
        """Requests that may be under way at once."""
        return self._connections

    @property
    def has_rate(self) -> bool:
        """Whether requests a second are bounded."""
        return self._turnstile is not None

    @property
    def free(self) -> int:
        """Connections that are not in use right now."""
        return self._connections - self.open

    def is_throttled(self, bucket: str | None = None) -> bool:
        """Return whether the calls of a bucket, or those without one, are held back right now."""
        return self._gate_of(bucket).is_throttled(self._clock.monotonic())

    def throttle(self, seconds: float, bucket: str | None = None) -> None:
        """Hold back the calls of a bucket, or all calls."""
        self._gate_of(bucket).throttle(self._clock.monotonic(), seconds)

    def slot(self, deadline: float, bucket: str | None = None, before_sending: BeforeSending | None = None) -> Slot:
        """Return the right to have one request under way, as an async context manager.

        Entering it raises `TimeoutError` where a limit holds the call back until the deadline. The wait for other
        requests to end is bounded by their timeouts, not by the deadline. `before_sending` is awaited when the
        bucket's turn has come, which may be long after the call; the call holds no connection then, since
        `before_sending` may need one.
        """
        return Slot(self, deadline, bucket, before_sending)

    async def acquire(
        self, deadline: float, bucket: str | None = None, before_sending: BeforeSending | None = None
    ) -> None:
        """Wait for the right to send; see `slot`."""
        self.waiting += 1
        try:
            if bucket is None:
                await self._acquire_connection(deadline)
            else:
                await self._pass(self._buckets[bucket], deadline, before_sending)
            self.open += 1
        finally:
            self.waiting -= 1

    def release(self) -> None:
        """Return the right: the request is over."""
        self.open -= 1
        self._semaphore.release()

    async def _pass(self, bucket: _Bucket, deadline: float, before_sending: BeforeSending | None) -> None:
        # The bucket first: a wait of a minute must not hold a connection that calls of other buckets could use.
        async with bucket.turnstile:
            await self._wait_while(bucket.time_until_next, deadline)
            if before_sending is not None:
                await before_sending()
            await self._acquire_connection(deadline)
            bucket.window.drip(self._clock.monotonic())

    async def _acquire_connection(self, deadline: float) -> None:
        await self._acquire_unthrottled(deadline)
        if self._turnstile is not None:
            try:
                async with self._turnstile:
                    await self._wait_while(self._time_until_next, deadline)
                    self._gate.drip(self._clock.monotonic())
            except BaseException:
                self._semaphore.release()
                raise

    async def _acquire_unthrottled(self, deadline: float) -> None:
        """Wait for a connection, and while throttled wait without holding one.

        Otherwise only `max_connections` callers would draw a jittered restart, and the rest would follow in a burst.
        """
        while True:
            await self._semaphore.acquire()
            if self._turnstile is not None or self._time_until_next(self._clock.monotonic(), self._random()) <= 0:
                return
            self._semaphore.release()
            await self._wait_while(self._time_until_next, deadline)

    async def _wait_while(self, time_until_next: Callable[[float, float], float], deadline: float) -> None:
        while (wait := time_until_next(self._clock.monotonic(), self._random())) > 0:
            remaining = deadline - self._clock.monotonic()
            await self._clock.sleep(min(wait, remaining))
            if wait > remaining:
                raise TimeoutError("a rate limit held the request back until its deadline")

    def _time_until_next(self, now: float, jitter: float) -> float:
        return max(self._gate.time_until_next(now), self._gate.time_until_restart(now, jitter))

    def _gate_of(self, bucket: str | None) -> RateGate:
        return self._gate if bucket is None else self._buckets[bucket].gate


class _Bucket:
    """One of several limits of a service: calls pass it one by one, in order."""

    def __init__(self, per_minute: int | None) -> None:
        self.turnstile = asyncio.Lock()
        self.gate = RateGate(None)
        self.window = SlidingWindow(per_minute)

    def time_until_next(self, now: float, jitter: float) -> float:
        return max(self.window.time_until_next(now), self.gate.time_until_restart(now, jitter))


class Slot:
    """The right to have one request under way. A class, because a generator would cost several times as much."""

    __slots__ = ("_before_sending", "_bucket", "_deadline", "_is_kept", "_limiter")

    def __init__(
        self, limiter: RateLimiter, deadline: float, bucket: str | None, before_sending: BeforeSending | None
    ) -> None:
        self._limiter = limiter
        self._deadline = deadline
        self._bucket = bucket
        self._before_sending = before_sending
        self._is_kept = False

    def keep(self) -> None:
        """Do not release it at the end of the block: the new owner of the request calls `RateLimiter.release`."""
        self._is_kept = True

    async def __aenter__(self) -> Self:
        await self._limiter.acquire(self._deadline, self._bucket, self._before_sending)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._is_kept:
            self._limiter.release()
