"""What the sessions of all services have in common: settings, connections, opening, closing."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, NoReturn
from warnings import warn

from nairi_async._core import checks
from nairi_async._core.aiohttp_transport import AiohttpTransport
from nairi_async._core.closing import ClosingSignal
from nairi_async._core.event_hooks import Hooks
from nairi_async._core.executor import RequestExecutor
from nairi_async._core.rate_limits import RateLimiter
from nairi_async._core.retry import RetryPolicy
from nairi_async._core.tls import tls_context
from nairi_async.errors import ConfigurationError, SessionClosedError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping
    from types import TracebackType
    from typing import Self

    import aiohttp

    from nairi_async._core.proxies import ProxySetting
    from nairi_async._core.request import Credentials
    from nairi_async._core.server_clock import ServerClock
    from nairi_async._core.service import Service
    from nairi_async._core.statistics import RequestStats
    from nairi_async.clock import Clock
    from nairi_async.hooks import Hook
    from nairi_async.typing import Duration, Tls


class ServiceSession:
    """A pool of connections to one service, with the credentials that authorise requests."""

    def __init__(
        self,
        service: Service,
        base_url: str,
        credentials: Credentials,
        *,
        http: aiohttp.ClientSession | None,
        proxy: ProxySetting,
        ssl: Tls | None,
        trust_env: bool,
        request_timeout: Duration,
        retry: RetryPolicy | None,
        max_connections: int,
        clock: Clock | None,
        server_clock: ServerClock | None = None,
        requests_per_second: float | None = None,
        buckets: Mapping[str, int | None] | None = None,
        stream_buckets: Container[str] = (),
        hooks: Iterable[Hook] = (),
    ) -> None:
        timeout = checks.seconds(request_timeout)
        checks.positive("request_timeout", timeout)
        checks.whole("max_connections", max_connections)
        if requests_per_second is not None:
            checks.positive("requests_per_second", requests_per_second)
        if retry is not None:
            checks.instance("retry", retry, RetryPolicy)
        clock = checks.clock(clock)
        found = proxy.find(trust_env=trust_env, base_url=base_url)
        tls = tls_context(ssl, trust_env=trust_env)
        if http is not None and (proxy.is_given or ssl is not None or trust_env):
            raise ConfigurationError("http= brings its own proxy and TLS: give proxy=, ssl= and trust_env= without it")
        self._base_url = base_url
        self._loop: asyncio.AbstractEventLoop | None = None
        wanted = 2 * max_connections if stream_buckets else max_connections
        self._http = AiohttpTransport(
            service, base_url, credentials, clock, lent=http, connections=wanted, proxy=found, tls=tls
        )
        self._closing = ClosingSignal(None if http is None else lambda: http.closed)
        streams = _connections_of_streams(self._http.connections, max_connections) if stream_buckets else 0
        limiter = RateLimiter(
            clock,
            random.random,
            connections=self._http.connections - streams,
            per_second=requests_per_second,
            buckets=buckets,
            streams=(streams, stream_buckets),
            closing=self._closing,
        )
        self._executor = RequestExecutor(
            self._http,
            limiter,
            clock,
            random.random,
            policy=retry or RetryPolicy(),
            request_timeout=timeout,
            server_clock=server_clock,
            hooks=Hooks(hooks),
            closing=self._closing,
        )

    def __repr__(self) -> str:
        # Also for a session that `__init__` refused: a traceback that shows local variables calls this.
        http = getattr(self, "_http", None)
        state = "open" if http is not None and http.is_open else "not open"
        return f"<{type(self).__name__} {getattr(self, '_base_url', '')} {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a session holds connections and a key; make one in each process")

    async def __aenter__(self) -> Self:
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError as error:
            raise SessionClosedError(
                "no event loop of asyncio runs here: use asyncio.run, or anyio with its asyncio backend; trio has a "
                "loop of its own"
            ) from error
        self._http.open()
        self._executor.hooks.opened(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # Nothing is scheduled from here: a finaliser cannot await, and the loop may be gone.
        http = getattr(self, "_http", None)
        if http is not None and http.is_open:
            warn(f"{self!r} was never closed; use it in `async with`", ResourceWarning, source=self, stacklevel=2)

    async def aclose(self) -> None:
        """Close the connections that the session opened, and wake calls that wait. Harmless when repeated.

        Raises:
            SessionClosedError: called in another event loop, while the session's own runs: nothing was closed.
        """
        self._check_loop()
        if self._http.is_open:
            self._executor.hooks.closed(self)
        self._closing.wake()
        await self._http.aclose()

    def _check_loop(self) -> None:
        """Refuse to close in another event loop while calls may be under way in the session's own."""
        loop = self._loop
        is_foreign = loop is not None and loop.is_running() and loop is not asyncio.get_running_loop()
        if is_foreign and self._http.is_open:
            raise SessionClosedError("the session belongs to another event loop; close it there")

    @property
    def stats(self) -> RequestStats:
        """What the session has done so far: requests, retries, bytes, connections, waiting calls."""
        return self._executor.stats


def hooks_of(session: object) -> Hooks:
    """Return the hooks of a session; none for an object that is not one of ours."""
    return session._executor.hooks if isinstance(session, ServiceSession) else Hooks()  # noqa: SLF001 - its own module


def _connections_of_streams(connections: int, max_streams: int) -> int:
    """Return how many connections of a pool are for streams; 0 if it is too small to be divided.

    The others are for short calls, which would otherwise wait for minutes behind streams.
    """
    return min(max_streams, connections - max(1, connections // 4)) if connections > 1 else 0
