"""What both simulated services are: an HTTP server on the loopback interface that records its requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from aiohttp import web

from nairi_async._core import checks
from nairi_async._core.closing import run_shielded
from nairi_async.testing.middleware import AccessPolicy, Intercept, InterceptResponse, Middleware, RecordedRequest

if TYPE_CHECKING:
    from types import TracebackType

    from nairi_async.clock import Clock

# Seconds that running handlers get when the server closes, before they are cancelled.
_SHUTDOWN = 0.1

# Large enough for the largest upload with its form, so that the handler and not the server refuses what is larger.
_LARGEST_BODY = 64 * 1024 * 1024


class Server:
    """Serves while its `async with` block lasts, in the time of its clock."""

    def __init__(self, host: str, port: int, clock: Clock | None) -> None:
        self._host, self._port = host, port
        self._clock = checks.clock(clock)
        self._runner: web.AppRunner | None = None

    @staticmethod
    def _check(name: str, value: object, kind: type) -> None:
        """Raise `ConfigurationError` unless a setting is of its class."""
        checks.instance(name, value, kind)

    def _configure(self, access: AccessPolicy, routes: list[web.RouteDef]) -> None:
        """Set what is served; called once, before the block begins."""
        self._middleware, self._routes = Middleware(access, self._clock), routes

    def __repr__(self) -> str:
        state = "not running" if self._runner is None else f"at {self.url}"
        return f"<{type(self).__name__} {state}, {len(self.requests)} requests, {self._clock!r}>"

    async def __aenter__(self) -> Self:
        application = web.Application(middlewares=[self._middleware.handle], client_max_size=_LARGEST_BODY)
        application.add_routes(self._routes)
        runner = web.AppRunner(
            application, access_log=None, handle_signals=False, handler_cancellation=True, shutdown_timeout=_SHUTDOWN
        )
        try:
            await runner.setup()
            await web.TCPSite(runner, self._host, self._port).start()
        except BaseException:
            # The port is taken, or the caller was cancelled.
            await run_shielded(runner.cleanup())
            raise
        self._runner, self._port = runner, runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await run_shielded(runner.cleanup())

    @property
    def url(self) -> str:
        """Base URL, without the path of the API's version; with `port=0` the port is known once the server runs."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def requests(self) -> list[RecordedRequest]:
        """All requests so far, in the order of their responses."""
        return self._middleware.requests

    @property
    def intercept(self) -> Intercept | None:
        """A hook called with each request before the service acts on it.

        A response that the hook returns is sent instead; `None` lets the request go on. Raise `ConnectionResetError`
        to cut the connection without a response.
        """
        return self._middleware.intercept

    @intercept.setter
    def intercept(self, hook: Intercept | None) -> None:
        self._middleware.intercept = hook

    @property
    def intercept_response(self) -> InterceptResponse | None:
        """The same hook after the service has acted, called with its response too: for one that is lost on its way."""
        return self._middleware.intercept_response

    @intercept_response.setter
    def intercept_response(self, hook: InterceptResponse | None) -> None:
        self._middleware.intercept_response = hook
