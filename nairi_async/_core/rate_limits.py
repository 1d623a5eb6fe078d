"""Rate limits, enforced before a request takes a connection, and the pause after a 429.

Three limits apply to each request, whichever service it is for:

* **Connections.** At most `max_connections` requests are under way. A semaphore counts them before the HTTP
  library is called, so waiting takes no connection and none of a request's own timeout. Where a service streams its
  responses, streams have a semaphore of their own, since each may hold its connection for minutes.
* **Rate.** With `per_second`, requests are spaced evenly. A call that waits for its time already holds its permit, so
  it counts as under way. A service may also limit the requests of each endpoint: such a limit is a *bucket*, with at
  most `limit` requests in any window of 61 seconds. A sliding window is correct whether the service counts in fixed or
  in sliding minutes; the extra second covers differences in network latency.
* **Throttling.** After a 429 or `Retry-After`, calls wait: those of the bucket, or all calls of the session, because a
  limit belongs to the key and not to one request. They restart at random times, spread over a quarter of the pause, so
  that they do not hit the limit together again. A request with a *scope*, as the start of a conversation has its agent,
  slows that scope alone, until something else is refused as well: nothing documents whose a limit is.

Calls of one bucket proceed in order: only the head of the queue waits for the clock, and the others wait for the head.
A cancelled call therefore uses up none of the rate.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from nairi_async._core.closing import ClosingSignal
from nairi_async._core.permits import Permits

if TYPE_CHECKING:
    from collections.abc import Container, Hashable, Mapping

    from nairi_async.clock import Clock

# Throttled calls restart at random times, spread over this fraction of the pause.
_RESTART_SPREAD: Final = 0.25

BeforeSending = Callable[[], Awaitable[None]]
"""Awaited when a call reaches the head of its bucket's queue, before it is sent. Calls without a bucket ignore it."""

WINDOW: Final = 61.0
"""The window of a limit per minute, in seconds."""


class RateGate:
    """When the next request may be sent, by spacing and throttling. Plain arithmetic on the caller's clock."""

    def __init__(self, per_second: float | None) -> None:
        self._spacing = 1.0 / per_second if per_second else 0.0
        self._next_at = 0.0
        self.throttled_until: float = 0.0
        """When the pause after a 429 ends."""
        self._spread = 0.0

    def time_until_next(self, now: float) -> float:
        """Return the seconds until the rate allows the next request."""
        return max(0.0, self._next_at - now)

    def record_request(self, now: float) -> None:
        """Count a request that is sent now."""
        self._next_at = now + self._spacing

    def throttle(self, now: float, seconds: float) -> None:
        """Allow no request for some seconds. A shorter pause never cuts a longer one short."""
        if now + seconds > self.throttled_until:
            self.throttled_until = now + seconds
            self._spread = seconds * _RESTART_SPREAD

    def is_throttled(self, now: float) -> bool:
        """Return whether no request may be sent."""
        return now < self.throttled_until

    def time_until_restart(self, now: float, jitter: float) -> float:
        """Return the seconds for which a throttled call waits, spread by `jitter` in [0, 1); 0 if not throttled."""
        remaining = self.throttled_until - now
        return remaining + jitter * self._spread if remaining > 0 else 0.0


class ScopedThrottles:
    """The pauses of scopes, of which each may have a limit of its own. Plain arithmetic on the caller's clock."""

    def __init__(self) -> None:
        self._gates: dict[str, RateGate] = {}

    def throttle(self, now: float, seconds: float, scope: str) -> bool:
        """Hold back a scope; return whether another one is held back too, so that the limit is taken for everyone's."""
        # Those that are over are forgotten here, so that nothing grows with the scopes ever refused.
        self._gates = {name: gate for name, gate in self._gates.items() if gate.is_throttled(now)}
        self._gates.setdefault(scope, RateGate(None)).throttle(now, seconds)
        return len(self._gates) > 1

    def is_throttled(self, now: float, scope: str) -> bool:
        """Return whether a scope is held back."""
        gate = self._gates.get(scope)
        return gate is not None and gate.is_throttled(now)

    def time_until_restart(self, now: float, jitter: float, scope: str) -> float:
        """Return the seconds for which a call of a scope waits, spread by `jitter` in [0, 1)."""
        gate = self._gates.get(scope)
        return gate.time_until_restart(now, jitter) if gate is not None else 0.0


class SlidingWindow:
    """At most `limit` requests in any `WINDOW` seconds, as plain arithmetic; `None` for no limit."""

    def __init__(self, limit: int | None) -> None:
        self._sent_at: deque[float] | None = deque(maxlen=limit) if limit is not None else None

    def time_until_next(self, now: float) -> float:
        """Return the seconds until the next request may be sent."""
        if self._sent_at is None or len(self._sent_at) != self._sent_at.maxlen:
            return 0.0
        return max(0.0, self._sent_at[0] + WINDOW - now)

    def record_request(self, now: float) -> None:
        """Count a request that is sent now."""
        if self._sent_at is not None:
            self._sent_at.append(now)


class RateLimiter:
    """The limits on a session's requests: at once, per second, and per bucket."""

    def __init__(
        self,
        clock: Clock,
        random: Callable[[], float],
        *,
        connections: int,
        per_second: float | None = None,
        buckets: Mapping[str, int | None] | None = None,
        streams: tuple[int, Container[str]] = (0, ()),
        closing: ClosingSignal | None = None,
    ) -> None:
        """Set the limits; `streams` are how many may be open, and their buckets, if they have connections of their own.

        `closing` ends the waits of calls when the session is closed.
        """
        self._clock = clock
        self._random = random
        self._closing = closing or ClosingSignal()
        most_streams, of_streams = streams
        self._connections = connections + most_streams
        self._most_streams = most_streams
        self._semaphore = Permits(connections)
        stream_semaphore = Permits(most_streams) if most_streams else self._semaphore
        self._gate = RateGate(per_second)
        self._scopes = ScopedThrottles()
        # With a rate, calls proceed one by one: only the head of the queue waits for the clock.
        self._turnstile = asyncio.Lock() if per_second else None
        self._buckets = {
            name: _Bucket(limit, stream_semaphore if name in of_streams else self._semaphore)
            for name, limit in (buckets or {}).items()
        }
        self.in_use: int = 0
        """Permits that calls hold right now."""
        self._streams_in_use = 0
        self.waiting: int = 0
        """Calls that wait for a permit right now."""
        self._line: deque[asyncio.Future[None]] = deque()
        self._is_lines_turn = False

    @property
    def connections(self) -> int:
        """Requests that may be under way at once."""
        return self._connections

    @property
    def has_rate(self) -> bool:
        """Whether the requests per second are limited."""
        return self._turnstile is not None

    @property
    def available(self) -> int:
        """Permits that no call holds right now; where streams have their own, those for streams."""
        if self._most_streams:
            return self._most_streams - self._streams_in_use
        return self._connections - self.in_use

    def is_throttled(self, bucket: str | None = None) -> bool:
        """Return whether the calls of a bucket, or those without one, are held back right now."""
        return self._gate_of(bucket).is_throttled(self._clock.monotonic())

    def throttle(self, seconds: float, bucket: str | None = None, scope: str | None = None) -> None:
        """Hold back the calls of a bucket, those of a scope unless another one is refused too, or all calls."""
        now = self._clock.monotonic()
        if scope is None or self._gate.is_throttled(now) or self._scopes.throttle(now, seconds, scope):
            self._gate_of(bucket).throttle(now, seconds)
            # Those that stand in line each draw a time of their own to restart.
            line, self._line = self._line, deque()
            for turn in line:
                if not turn.done():
                    turn.set_result(None)

    @property
    def is_crowded(self) -> bool:
        """Whether so many reads wait for a permit that a further one should `stand_in_line` before it is begun."""
        return self._semaphore.count_waiting(kind=True) >= self._connections and not self.is_throttled()

    async def stand_in_line(self) -> None:
        """Wait in the order of the calls until few other reads wait for a permit, or two more requests have ended.

        It gives no right to a permit. Where thousands of reads are due, all but a few wait here, which takes a third of
        the memory of a call that waits in `acquire`. Closing the session does not end the wait.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            await turn
        finally:
            # Not all that are let in make a request, so each of them lets in the next one while there is capacity.
            self._advance()

    def acquire_now(self, now: float, bucket: str | None = None, scope: str | None = None) -> bool:
        """Take a permit if nothing holds the call back; return whether that is so. In a bucket, calls always queue."""
        if bucket is not None or self._turnstile is not None or now < self._gate.throttled_until:
            return False
        if scope is not None and self._scopes.is_throttled(now, scope):
            return False
        if not self._semaphore.acquire_now():
            return False
        self.in_use += 1
        return True

    async def acquire(
        self,
        deadline: float,
        bucket: str | None = None,
        before_sending: BeforeSending | None = None,
        *,
        is_read: bool = True,
        scope: str | None = None,
    ) -> None:
        """Wait for a permit for one request, to be given back by `release`.

        Where calls wait, reads and prompts go in turn: thousands of prompts that are still to be sent do not hold up
        the polls of those that run. With `per_second`, a call that waits for its time holds a permit.

        Args:
            deadline: When to stop waiting for a limit. The wait for other requests to end is bounded by their timeouts.
            bucket: The bucket of the request.
            is_read: Whether it is a read.
            scope: The scope of the request, of those without a bucket.
            before_sending: Awaited only with a bucket, when this caller reaches the head of the bucket's queue. That
                may be long after the call. The caller holds no permit then, since it may need one itself.

        Raises:
            TimeoutError: a limit holds the call back until the deadline.
        """
        self.waiting += 1
        try:
            if bucket is not None:
                await self._acquire_in_bucket(self._buckets[bucket], deadline, before_sending)
            elif scope is not None:
                await self._acquire_in_scope(scope, deadline, is_read)
            else:
                await self._acquire_at_rate(deadline, self._semaphore, is_read)
            self._count(self._semaphore if bucket is None else self._buckets[bucket].semaphore, 1)
        except BaseException:
            # The last one to wait may leave when nothing is under way whose end would let in the next.
            self._advance()
            raise
        finally:
            self.waiting -= 1

    def release(self, bucket: str | None = None) -> None:
        """Give the permit back: the request of that bucket is over."""
        if bucket is None:
            self.in_use -= 1
            self._semaphore.release()
            if self._line:
                # Others, which never stand in line, can crowd it without end: every second release is for the line.
                self._is_lines_turn = not self._is_lines_turn
                self._advance(is_due=self._is_lines_turn)
        else:
            semaphore = self._buckets[bucket].semaphore
            self._count(semaphore, -1)
            semaphore.release()

    async def _acquire_in_scope(self, scope: str, deadline: float, kind: Hashable) -> None:
        while True:
            # In front of the permit, which calls of other scopes can use meanwhile.
            await self._wait_while(lambda now, jitter: self._scopes.time_until_restart(now, jitter, scope), deadline)
            await self._acquire_at_rate(deadline, self._semaphore, kind)
            if not self._scopes.is_throttled(self._clock.monotonic(), scope):
                return
            self._semaphore.release()

    async def _acquire_in_bucket(self, bucket: _Bucket, deadline: float, before_sending: BeforeSending | None) -> None:
        # The bucket first: a wait of a minute must not hold a permit that calls of other buckets could use.
        await self._lock(bucket.turnstile)
        try:
            await self._wait_while(bucket.time_until_next, deadline)
            if before_sending is not None:
                await before_sending()
            await self._acquire_at_rate(deadline, bucket.semaphore, None)
            if before_sending is not None and bucket.semaphore is not self._semaphore:
                # Once more, since streams may have held all their connections for minutes. A request that this takes
                # has a connection of its own.
                try:
                    await before_sending()
                except BaseException:
                    bucket.semaphore.release()
                    raise
            bucket.window.record_request(self._clock.monotonic())
        finally:
            bucket.turnstile.release()

    async def _acquire_at_rate(self, deadline: float, semaphore: Permits, kind: Hashable) -> None:
        await self._acquire_permit(deadline, semaphore, kind)
        if self._turnstile is not None:
            try:
                await self._lock(self._turnstile)
                try:
                    await self._wait_while(self._time_until_next, deadline)
                    self._gate.record_request(self._clock.monotonic())
                finally:
                    self._turnstile.release()
            except BaseException:
                semaphore.release()
                raise

    async def _lock(self, lock: asyncio.Lock) -> None:
        """Acquire a lock; closing the session ends the wait."""
        await (self._closing.wait(lock.acquire()) if lock.locked() else lock.acquire())

    async def _acquire_permit(self, deadline: float, semaphore: Permits, kind: Hashable) -> None:
        """Wait for a permit. Without a rate, hold none while throttled.

        Otherwise only `max_connections` callers would draw a jittered restart, and the rest would follow in a burst.
        With a rate there can be no burst, so the caller keeps its permit and waits for its time.
        """
        while True:
            if not semaphore.acquire_now():
                await self._closing.wait(semaphore.acquire(kind))
            if self._turnstile is not None or self._time_until_next(self._clock.monotonic(), self._random()) <= 0:
                return
            semaphore.release()
            await self._wait_while(self._time_until_next, deadline)

    async def _wait_while(self, time_until_next: Callable[[float, float], float], deadline: float) -> None:
        while (wait := time_until_next(self._clock.monotonic(), self._random())) > 0:
            remaining = deadline - self._clock.monotonic()
            await self._closing.wait(self._clock.sleep(min(wait, remaining)))
            if wait > remaining:
                raise TimeoutError("a rate limit held the request back until its deadline")

    def _time_until_next(self, now: float, jitter: float) -> float:
        return max(self._gate.time_until_next(now), self._gate.time_until_restart(now, jitter))

    def _advance(self, *, is_due: bool = False) -> None:
        """Let in the next read that stands in line, unless it is crowded and not due all the same."""
        while self._line and (is_due or not self.is_crowded):
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _count(self, semaphore: Permits, difference: int) -> None:
        self.in_use += difference
        if semaphore is not self._semaphore:
            self._streams_in_use += difference

    def _gate_of(self, bucket: str | None) -> RateGate:
        return self._gate if bucket is None else self._buckets[bucket].gate


class _Bucket:
    """One of several limits of a service. Its calls proceed one by one, in order."""

    def __init__(self, per_minute: int | None, semaphore: Permits) -> None:
        self.turnstile = asyncio.Lock()
        self.semaphore = semaphore
        self.gate = RateGate(None)
        self.window = SlidingWindow(per_minute)

    def time_until_next(self, now: float, jitter: float) -> float:
        return max(self.window.time_until_next(now), self.gate.time_until_restart(now, jitter))
