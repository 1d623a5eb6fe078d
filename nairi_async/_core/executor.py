"""One call from first attempt to last: limiter, seam, meaning of the status, retries (design section 6)."""

from __future__ import annotations

import itertools
import logging
import math
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

from attrs import evolve

from nairi_async._core.json_body import decode_error, shortened
from nairi_async._core.retry import (
    RetryPolicy,
    delay_before_retry,
    is_refusal,
    is_transient,
    parse_date,
    parse_retry_after,
    seconds_until_reset,
)
from nairi_async._core.server_clock import ServerClock
from nairi_async._core.streaming import Stream
from nairi_async.errors import (
    AuthenticationError,
    BadRequestError,
    ConflictError,
    ConnectionFailedError,
    DecodeError,
    NairiError,
    NotAnApiJobError,
    NotFoundError,
    OutcomeUnknownError,
    PermissionDeniedError,
    RateLimitedError,
    RequestTimeoutError,
    ServerError,
    ServerOutcomeError,
    StatusError,
    UnreadableOutcomeError,
)
from nairi_async.hooks import Hooks, RequestDone, RetryPlanned

if TYPE_CHECKING:
    from collections.abc import Callable

    from nairi_async._core.aiohttp_transport import AiohttpTransport
    from nairi_async._core.rate_limits import Limiter
    from nairi_async._core.request import Credentials, Request, Response
    from nairi_async._core.statistics import Counters
    from nairi_async.clock import Clock

log = logging.getLogger("nairi_async.requests")

_T = TypeVar("_T")
_SERVER_ERRORS: Final = range(500, 600)
_REDIRECTS: Final = range(300, 400)
_BY_STATUS: Final[dict[int, type[StatusError]]] = {
    400: BadRequestError,
    401: AuthenticationError,
    409: ConflictError,
    403: PermissionDeniedError,
    404: NotFoundError,
    429: RateLimitedError,
}


class RequestExecutor:
    """Makes the calls of one session."""

    def __init__(
        self,
        http: AiohttpTransport,
        limiter: Limiter,
        clock: Clock,
        random: Callable[[], float],
        *,
        counters: Counters,
        policy: RetryPolicy,
        request_timeout: float,
        hooks: Hooks | None = None,
    ) -> None:
        self.http = http
        self.limiter = limiter
        self.clock = clock
        self.random = random
        self.counters = counters
        self.hooks = hooks or Hooks()
        self.server_clock = ServerClock()
        self._policy = policy
        self.request_timeout = request_timeout

    async def call(
        self,
        request: Request,
        decode: Callable[[bytes], _T],
        *,
        unreadable_is_transient: bool = False,
        deadline: float = math.inf,
    ) -> _T:
        """The decoded answer of a request that succeeded.

        `deadline` is a moment of the clock's `monotonic` that cuts attempts and waits short.

        Raises:
            NairiError: the last failure, when the policy allows no further attempt.
            OutcomeUnknownError: for a request that must not run twice, when nobody can say whether it ran.
        """
        return await self._answered(
            request,
            lambda response: self._decoded(request, response, decode),
            unreadable_is_transient=unreadable_is_transient,
            deadline=deadline,
        )

    async def stream(self, request: Request) -> Stream:
        """The body of a request that succeeded, to be read as it comes; raises as `call`. Close it when done.

        It holds its place among the session's connections until it is closed.
        """
        return await self._answered(request, self._streamed)

    async def _answered(
        self,
        request: Request,
        take: Callable[[Response], _T],
        *,
        unreadable_is_transient: bool = False,
        deadline: float = math.inf,
    ) -> _T:
        credentials = request.credentials or self.http.credentials
        is_second, request.started_at = False, None
        preparing = _Preparing(credentials, self)
        for attempt in itertools.count(1):
            # In front of the limiter: what has to be done for them may be a request of its own.
            await credentials.prepare(self)
            try:
                return take(await self._attempt(request, deadline, attempt, preparing))
            except NairiError as error:
                if error is preparing.failure:
                    raise
                if (
                    isinstance(error, AuthenticationError)
                    and not is_second
                    and credentials.refused(request.credential_version)
                ):
                    is_second = True
                    continue
                if request.is_spent or not is_transient(
                    error,
                    idempotent=request.idempotent,
                    unreadable=unreadable_is_transient,
                    busy_statuses=request.busy_statuses,
                ):
                    _raise_final(request, error)
                now = self.clock.monotonic()
                elapsed = 0.0 if request.started_at is None else now - request.started_at
                delay = delay_before_retry(
                    self._policy,
                    error,
                    attempt=attempt,
                    elapsed=elapsed,
                    jitter=self.random(),
                    busy_statuses=request.busy_statuses,
                )
                if delay is None or now + delay >= deadline:
                    _raise_final(request, error)
                request.write_started = False
                self.counters.retries += 1
                planned = RetryPlanned(
                    method=request.method, path=request.path, attempt=attempt, error=error, wait=delay
                )
                self.hooks.emit(log, planned, logging.INFO)
            await self.clock.sleep(delay)
        raise AssertionError("unreachable")  # pragma: no cover

    async def _attempt(self, request: Request, deadline: float, attempt: int, preparing: _Preparing) -> Response:
        request.write_started = False
        try:
            async with self.limiter.slot(deadline, request.bucket, preparing.again) as slot:
                started_at = self.clock.monotonic()
                if request.started_at is None:
                    request.started_at = started_at
                timeout = self._timeout(request, deadline)
                self.counters.requests += 1
                request.credential_version = (request.credentials or self.http.credentials).credential_version
                try:
                    response = await self.http.send(request, timeout)
                except NairiError as error:
                    if self.hooks.listens(log):
                        self._tell(request, attempt, started_at, error=error)
                    raise
                if response.stream is not None:
                    slot.keep()
        except TimeoutError as error:
            if isinstance(error, NairiError):
                raise
            raise RequestTimeoutError(str(error), request.method, request.path) from error
        self._learn(request, response)
        if self.hooks.listens(log):
            self._tell(request, attempt, started_at, response=response)
        if not response.is_success:
            self._raise_status(request, response)
        return response

    def _streamed(self, response: Response) -> Stream:
        assert response.stream is not None  # noqa: S101 - a success of a request that asked for it
        return Stream(response.stream, self.limiter, self.counters)

    def _decoded(self, request: Request, response: Response, decode: Callable[[bytes], _T]) -> _T:
        try:
            return decode(response.body)
        except DecodeError as error:
            unreadable = error
        # Made anew, outside of the handler: the original would stay in the chain with what the service had repeated.
        excerpt = shortened(self.http.redact(unreadable.excerpt))
        raise evolve(unreadable, method=request.method, path=request.path, excerpt=excerpt) from unreadable.__cause__

    def _tell(
        self,
        request: Request,
        attempt: int,
        started_at: float,
        *,
        response: Response | None = None,
        error: NairiError | None = None,
    ) -> None:
        done = RequestDone(
            method=request.method,
            path=request.path,
            attempt=attempt,
            seconds=self.clock.monotonic() - started_at,
            status=response.status if response is not None else None,
            bytes_received=len(response.body) if response is not None else 0,
            error=error,
        )
        self.hooks.emit(log, done)

    def _timeout(self, request: Request, deadline: float) -> float:
        timeout = request.timeout or self.request_timeout
        if not request.idempotent:
            # A prompt under way is not cut short: nobody would know whether it runs.
            return timeout
        remaining = deadline - self.clock.monotonic()
        if remaining <= 0:
            raise TimeoutError("no connection was free in time")
        return min(timeout, remaining)

    def _raise_status(self, request: Request, response: Response) -> NoReturn:
        text = shortened(self.http.redact(decode_error(response.body)))
        error = status_error(request, response, text, now=self.clock.time())
        if error.retry_after is not None and is_refusal(error):
            self.limiter.quiet(min(error.retry_after, self._policy.retry_after_max), request.bucket)
        raise error

    def _learn(self, request: Request, response: Response) -> None:
        """What an answer tells besides what was asked for."""
        self.counters.bytes_received += len(response.body)
        if request.observe_date:
            request.answered_at = self.clock.monotonic()
            self.server_clock.observe(parse_date(response.headers.get("Date")), request.answered_at)
        if request.bucket is not None:
            wait = seconds_until_reset(response.headers, self.clock.time())
            if wait is not None:
                self.limiter.quiet(min(wait, self._policy.retry_after_max), request.bucket)


class _Preparing:
    """The credentials of one call, prepared once more when its turn has come: it may have waited for too long."""

    __slots__ = ("_credentials", "_executor", "failure")

    def __init__(self, credentials: Credentials, executor: RequestExecutor) -> None:
        self._credentials, self._executor = credentials, executor
        self.failure: NairiError | None = None

    async def again(self) -> None:
        """Prepare them, and keep the failure: it has been tried again already, by its own rules."""
        try:
            await self._credentials.prepare(self._executor)
        except NairiError as error:
            self.failure = error
            raise


def status_error(request: Request, response: Response, text: str, *, now: float) -> StatusError:
    """The typed error of an answer that is not success.

    A `Retry-After` date is read by the clock that wrote it, the answer's own `Date`; `now`, the session's Unix time,
    stands in where there is none.
    """
    status = response.status
    kind = _BY_STATUS.get(status, ServerError if status in _SERVER_ERRORS else StatusError)
    if kind is BadRequestError and text == "job is not an API job":
        kind = NotAnApiJobError
    if status in _REDIRECTS:
        text = "a redirect, which is not followed, because the key would go with it"
    dated = parse_date(response.headers.get("Date"))
    retry_after = parse_retry_after(response.headers.get("Retry-After"), now if dated is None else dated)
    return kind(status, text or "no text", retry_after, request.method, request.path)


def _raise_final(request: Request, error: NairiError) -> NoReturn:
    """Raise the failure as it is, or, for what must not run twice and may have run, as an unknown outcome."""
    if request.idempotent or is_refusal(error, request.busy_statuses):
        raise error
    where = (request.method, request.path)
    doubt = request.doubt
    if isinstance(error, ServerError):
        raise ServerOutcomeError(
            message=f"{error.message} ({doubt})",
            status=error.status,
            retry_after=error.retry_after,
            method=error.method,
            path=error.path,
        ) from error
    if isinstance(error, DecodeError):
        raise UnreadableOutcomeError(f"{error.message} ({doubt})", *where, excerpt=error.excerpt) from error
    if isinstance(error, ConnectionFailedError | RequestTimeoutError) and error.sent:
        raise OutcomeUnknownError(f"{error.message} ({doubt})", *where) from error
    raise error
