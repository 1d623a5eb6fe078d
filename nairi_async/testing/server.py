"""What every simulated service is: an HTTP server on the loopback interface that records what it is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from aiohttp import web

from nairi_async.clock import Clock, SystemClock
from nairi_async.testing.gate import Gate, House, Intercept, InterceptAnswer, Seen

if TYPE_CHECKING:
    from types import TracebackType

# Seconds given to handlers that still run when the server closes, before they are cancelled.
_SHUTDOWN = 0.1

# An upload of the largest file, with what the form adds to it, is not cut by the server but judged by its handler.
_LARGEST_BODY = 64 * 1024 * 1024


class Server:
    """Serves while its `async with` block lasts, in time that its clock tells."""

    def __init__(self, host: str, port: int, clock: Clock | None) -> None:
        self._host, self._port = host, port
        self._clock = clock or SystemClock()
        self._runner: web.AppRunner | None = None

    def _open(self, house: House, routes: list[web.RouteDef]) -> None:
        """Say what is served; called once, before the block begins."""
        self._gate, self._routes = Gate(house, self._clock), routes

    async def __aenter__(self) -> Self:
        application = web.Application(middlewares=[self._gate.admit], client_max_size=_LARGEST_BODY)
        application.add_routes(self._routes)
        self._runner = web.AppRunner(
            application, access_log=None, handle_signals=False, handler_cancellation=True, shutdown_timeout=_SHUTDOWN
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def url(self) -> str:
        """Base URL, without the path of the API's version; with `port=0` it is known once the simulator runs."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def requests(self) -> list[Seen]:
        """All requests so far, in the order in which they were answered."""
        return self._gate.requests

    @property
    def intercept(self) -> Intercept | None:
        """A hook called with each request before anything is done about it.

        What it returns is the answer; `None` lets the request go on. Raise `ConnectionResetError` to cut the
        connection without an answer.
        """
        return self._gate.intercept

    @intercept.setter
    def intercept(self, hook: Intercept | None) -> None:
        self._gate.intercept = hook

    @property
    def intercept_answer(self) -> InterceptAnswer | None:
        """The same hook after the work is done, with the answer: for one that is lost on its way back."""
        return self._gate.intercept_answer

    @intercept_answer.setter
    def intercept_answer(self, hook: InterceptAnswer | None) -> None:
        self._gate.intercept_answer = hook
