"""One call from its first attempt to its last: rate limits, transport, typed errors, retries."""

from __future__ import annotations

import itertools
import logging
import math
from copy import copy
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from nairi_async._core.address import host_and_port
from nairi_async._core.closing import ClosingSignal
from nairi_async._core.counters import RequestCounters
from nairi_async._core.event_hooks import Hooks
from nairi_async._core.failures import raise_final, status_error
from nairi_async._core.rate_limits import WINDOW
from nairi_async._core.request import CallState, is_success
from nairi_async._core.retry import (
    RetryPolicy,
    delay_before_retry,
    is_refusal,
    is_transient,
    parse_date,
    seconds_until_reset,
)
from nairi_async._core.server_clock import ServerClock
from nairi_async.errors import AuthenticationError, DecodeError, NairiError, RateLimitedError, RequestTimeoutError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from nairi_async._core.aiohttp_transport import AiohttpTransport
    from nairi_async._core.rate_limits import RateLimiter
    from nairi_async._core.request import Credentials, Request, Response, ResponseStream, Send
    from nairi_async._core.statistics import RequestStats
    from nairi_async.clock import Clock

log = logging.getLogger("nairi_async.requests")

_T = TypeVar("_T")


class RequestGate:
    """What else must agree before a request leaves, such as a limit that several processes share."""

    def __init__(self) -> None:
        self.wait: Callable[[float], Awaitable[None]] | None = None
        """Awaited with the request's deadline; raises `TimeoutError` when that comes first, or what refuses the
        request. The request holds a permit meanwhile."""


class RequestExecutor:
    """Makes the calls of one session."""

    def __init__(
        self,
        http: AiohttpTransport,
        limiter: RateLimiter,
        clock: Clock,
        random: Callable[[], float],
        *,
        policy: RetryPolicy,
        request_timeout: float,
        server_clock: ServerClock | None = None,
        hooks: Hooks | None = None,
        closing: ClosingSignal | None = None,
    ) -> None:
        self.http = http
        self.closing: ClosingSignal = closing or ClosingSignal()
        self.limiter = limiter
        self.clock = clock
        self.random = random
        self.hooks: Hooks = hooks or Hooks()
        self._address = host_and_port(http.base_url)
        self.server_clock: ServerClock = server_clock or ServerClock()
        self.request_timeout = request_timeout
        self.gate: RequestGate = RequestGate()
        self._policy = policy
        self._counters = RequestCounters()
        self._twins = [self]

    def with_limiter(self, limiter: RateLimiter) -> RequestExecutor:
        """Return an executor that shares everything with this one but the rate limits."""
        twin = copy(self)
        twin.limiter = limiter
        self._twins.append(twin)
        return twin

    def replace_transport(self, transport: AiohttpTransport) -> None:
        """Send by another transport from now on, as do the executors that share this one's parts."""
        for executor in self._twins:
            executor.http = transport

    @property
    def stats(self) -> RequestStats:
        """What was sent and received so far."""
        return self._counters.stats(self.limiter)

    def call(
        self,
        request: Request,
        decode: Callable[[bytes], _T],
        *,
        unreadable_is_transient: bool = False,
        deadline: float = math.inf,
        grace: float = 0.0,
        state: CallState | None = None,
    ) -> Coroutine[Any, Any, _T]:
        """Send a request until it succeeds, and return the decoded body of its response.

        Args:
            request: The request.
            decode: Decodes the body; raises `DecodeError` where it cannot.
            unreadable_is_transient: Repeat the request after a `DecodeError` too.
            deadline: When to stop, by the clock's `monotonic`; it shortens attempts and waits.
            grace: Seconds beyond the deadline that an attempt may still take, so that a last one can be made then.
            state: Where to write what becomes of the request, for a caller that wants to know.

        Raises:
            NairiError: the last failure, when the policy allows no further attempt.
            OutcomeUnknownError: a request that must not run twice left, and it is unknown whether it ran.
        """
        # Returned and not awaited here: a frame less for every request.
        return self._call(
            request,
            state or CallState(),
            decode,
            unreadable_is_transient=unreadable_is_transient,
            deadline=deadline,
            grace=grace,
        )

    async def stream(self, request: Request, *, state: CallState | None = None) -> Stream:
        """Send a request until it succeeds, and return its body, to be read as it arrives. Raises as `call` does.

        The stream holds a connection of the session until it is closed.
        """
        return await self._call(request, state or CallState(), lambda stream: self._open_stream(request, stream))

    async def _call(
        self,
        request: Request,
        state: CallState,
        decode: Callable[[Any], _T],
        *,
        unreadable_is_transient: bool = False,
        deadline: float = math.inf,
        grace: float = 0.0,
    ) -> _T:
        credentials = request.credentials or self.http.credentials
        is_second, state.started_at, state.write_started = False, None, False
        fresh = None if request.bucket is None else _FreshCredentials(credentials, self.call)
        for attempt in itertools.count(1):
            # In front of the limiter, because acquiring them may take a request of its own.
            if (acquired := credentials.acquire(self.call)) is not None:
                await acquired
            response: Response | None = None
            try:
                response = await self._attempt(request, state, deadline + grace, attempt, fresh)
                return self._decode(request, response, decode)
            except NairiError as error:
                if fresh is not None and error is fresh.failure:
                    raise
                if (
                    isinstance(error, AuthenticationError)
                    and not is_second
                    and credentials.invalidate(state.credential_version)
                ):
                    is_second, state.write_started = True, False
                    continue
                if request.is_spent or not is_transient(
                    error,
                    idempotent=request.idempotent,
                    unreadable=unreadable_is_transient or (response is not None and _may_be_cut(response)),
                    busy_statuses=request.busy_statuses,
                ):
                    raise_final(request, error)
                now = self.clock.monotonic()
                elapsed = 0.0 if state.started_at is None else now - state.started_at
                delay = delay_before_retry(
                    self._policy,
                    error,
                    attempt=attempt,
                    elapsed=elapsed,
                    jitter=self.random(),
                    busy_statuses=request.busy_statuses,
                )
                if delay is None or now + delay >= deadline:
                    raise_final(request, error)
                state.write_started = False
                self._counters.retries += 1
                from nairi_async.hooks import RetryPlanned  # noqa: PLC0415 - see `event_hooks`

                planned = RetryPlanned(
                    method=request.method,
                    path=request.path,
                    attempt=attempt,
                    error=error,
                    wait=delay,
                    route=self.http.service.route(request.path),
                )
                self.hooks.emit(log, planned, logging.INFO)
            await self.sleep(delay)
        raise AssertionError("unreachable")  # pragma: no cover

    async def sleep(self, seconds: float) -> None:
        """Wait; closing the session ends that with `SessionClosedError`."""
        await self.closing.wait(self.clock.sleep(seconds))

    async def _attempt(
        self, request: Request, state: CallState, deadline: float, attempt: int, fresh: _FreshCredentials | None
    ) -> Response:
        # Before the wait for a permit, which would never end in another event loop than the session's.
        http, bucket = self.http, request.bucket
        http.check_open()
        started_at = self.clock.monotonic()
        if not self.limiter.acquire_now(started_at, bucket, request.scope):
            started_at = await self._acquire(request, deadline, fresh)
        is_kept = False
        try:
            if self.gate.wait is not None:
                started_at = await self._pass_gate(self.gate.wait, request, deadline)
            if state.started_at is None:
                state.started_at = started_at
            timeout = self._timeout(request, deadline - started_at)
            self._counters.requests += 1
            state.credential_version = (request.credentials or http.credentials).credential_version
            try:
                response = await http.send(request, state, timeout)
            except NairiError as error:
                if self.hooks.listens(log):
                    self._emit_done(request, attempt, started_at, error=error)
                raise
            is_kept = response.stream is not None
        finally:
            # An open stream keeps the permit, and releases it when it is closed.
            if not is_kept:
                self.limiter.release(bucket)
        self._counters.bytes_received += len(response.body)
        if bucket is not None or request.observe_date:
            self._observe(request, state, response, started_at)
        if self.hooks.listens(log):
            self._emit_done(request, attempt, started_at, response=response)
        if not is_success(response.status):
            self._raise_status(request, response)
        return response

    async def _acquire(self, request: Request, deadline: float, fresh: _FreshCredentials | None) -> float:
        """Wait for a permit, and return when it came."""
        try:
            before_sending = fresh.acquire if fresh is not None else None
            await self.limiter.acquire(
                deadline, request.bucket, before_sending, is_read=request.idempotent, scope=request.scope
            )
        except TimeoutError as error:
            if isinstance(error, NairiError):
                raise
            raise RequestTimeoutError(str(error), request.method, request.path) from error
        return self.clock.monotonic()

    async def _pass_gate(self, wait: Callable[[float], Awaitable[None]], request: Request, deadline: float) -> float:
        """Wait until the gate lets the request leave, and return when that was."""
        try:
            await wait(deadline)
        except TimeoutError as error:
            raise RequestTimeoutError(str(error), request.method, request.path) from error
        return self.clock.monotonic()

    def _open_stream(self, request: Request, stream: ResponseStream) -> Stream:
        self.closing.stream_opened()

        def release() -> None:
            self.closing.stream_closed()
            self.limiter.release(request.bucket)

        return Stream(stream, release, self._counters)

    def _decode(self, request: Request, response: Response, decode: Callable[[Any], _T]) -> _T:
        try:
            return decode(response.body if response.stream is None else response.stream)
        except DecodeError as error:
            cause, excerpt = error.__cause__, self.http.quote(error.excerpt)
            redacted = type(error)(error.message, request.method, request.path, excerpt)
        # Outside of the handler: the original would stay in the chain, with the secrets that the service repeated.
        raise redacted from cause

    def _emit_done(
        self,
        request: Request,
        attempt: int,
        started_at: float,
        *,
        response: Response | None = None,
        error: NairiError | None = None,
    ) -> None:
        from nairi_async.hooks import RequestDone  # noqa: PLC0415 - see `event_hooks`

        done = RequestDone(
            method=request.method,
            path=request.path,
            route=self.http.service.route(request.path),
            attempt=attempt,
            seconds=self.clock.monotonic() - started_at,
            status=response.status if response is not None else None,
            bytes_received=len(response.body) if response is not None else 0,
            error=error,
            host=self._address[0],
            port=self._address[1],
        )
        self.hooks.emit(log, done)

    def _timeout(self, request: Request, remaining: float) -> float:
        timeout = request.timeout or self.request_timeout
        if not request.idempotent:
            # A deadline does not cut short what must not run twice: its outcome would be unknown.
            return timeout
        if remaining <= 0:
            raise RequestTimeoutError("no connection was free in time", request.method, request.path)
        return timeout if timeout < remaining else remaining  # noqa: FURB136 - `min` takes four times as long

    def _raise_status(self, request: Request, response: Response) -> NoReturn:
        service = self.http.service
        text = self.http.quote(service.read_error(response.body))
        error = status_error(service, self.http.base_url, request, response, text, now=self.clock.time())
        if error.retry_after is not None and is_refusal(error):
            # A 503 speaks for the service.
            scope = request.scope if isinstance(error, RateLimitedError) else None
            self.limiter.throttle(min(error.retry_after, self._policy.retry_after_max), request.bucket, scope)
        elif isinstance(error, RateLimitedError) and request.bucket is not None:
            # The limit of a bucket is per minute, and no header says when the minute ends.
            self.limiter.throttle(min(WINDOW, self._policy.retry_after_max), request.bucket)
        raise error

    def _observe(self, request: Request, state: CallState, response: Response, sent_at: float) -> None:
        """Learn from the headers of a response: the service's time, and how much of a rate limit is left."""
        if request.observe_date:
            state.answered_at = self.clock.monotonic()
            self.server_clock.observe(parse_date(response.headers.get("Date")), sent_at, state.answered_at)
        if request.bucket is not None:
            wait = seconds_until_reset(response.headers, self.clock.time())
            if wait is not None:
                self.limiter.throttle(min(wait, self._policy.retry_after_max), request.bucket)


class Stream:
    """The body of a success, read as it arrives. At its end, or closed, it releases its connection."""

    def __init__(self, response: ResponseStream, release: Callable[[], None], counters: RequestCounters) -> None:
        self._response = response
        self._release = release
        self._counters = counters
        self._is_open = True

    async def read(self) -> bytes:
        """Read the next piece; empty at the end. A cancelled call loses nothing.

        Raises:
            ConnectionFailedError, RequestTimeoutError: the stream broke, or no data came for too long.
            DecodeError: it is larger than its request allows.
        """
        piece = await self._response.read()
        self._counters.bytes_received += len(piece)
        if not piece:
            self.close()
        return piece

    def close(self) -> None:
        """Release the connection. Harmless when repeated."""
        if self._is_open:
            self._is_open = False
            self._response.close()
            self._release()


def _may_be_cut(response: Response) -> bool:
    """Return whether a body that cannot be read may have been cut: aiohttp does not notice that of compressed ones."""
    return "Content-Encoding" in response.headers and response.body.lstrip()[:1] in {b"", b"{", b"["}


class _FreshCredentials:
    """The credentials of one call, acquired once more when its turn has come: they may have expired by then."""

    __slots__ = ("_credentials", "_send", "failure")

    def __init__(self, credentials: Credentials, send: Send) -> None:
        self._credentials, self._send = credentials, send
        self.failure: NairiError | None = None

    async def acquire(self) -> None:
        """Acquire them, and keep a failure: it has already been retried by the rules of its own request."""
        try:
            if (acquired := self._credentials.acquire(self._send)) is not None:
                await acquired
        except NairiError as error:
            self.failure = error
            raise
