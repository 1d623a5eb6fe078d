"""A simulator in a thread of its own, for tests that are not coroutines, and for code that makes its own session."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING, TypeVar

from nairi_async.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Generator

    from nairi_async.testing.server import Server

_SimulatorT = TypeVar("_SimulatorT", bound="Server")


@contextmanager
def in_thread(simulator: _SimulatorT) -> Generator[_SimulatorT]:
    """Run a simulator in a thread while the block lasts, in real time.

        with in_thread(Simulator(agents={"my-agent": "Done."})) as simulator:
            subprocess.run(["nairi-async", "ask", "my-agent", "Go."], env={**os.environ, **simulator.environment})

    `agent`, `service`, `prompts` and `requests` may be used from the test's thread. Hooks such as `intercept` are
    called in the simulator's.

    Args:
        simulator: A `Simulator` or an `AmigoSimulator` that is not running.

    Raises:
        ValueError: the simulator has a virtual clock, which would not wait for the other thread.
        OSError: its port is taken.
    """
    if not isinstance(simulator._clock, SystemClock):  # noqa: SLF001 - parts of one package
        msg = "a simulator in a thread lives in real time: make it without clock="
        raise ValueError(msg)  # noqa: TRY004 - the clock has a good type, of the wrong kind
    server = _Thread(simulator)
    server.start()
    try:
        yield simulator
    finally:
        server.stop()


class _Thread:
    """The thread, its event loop, and what it failed with."""

    def __init__(self, simulator: Server) -> None:
        self._simulator = simulator
        self._is_ready = Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped: asyncio.Event | None = None
        # A daemon, so that a test that was killed by a signal does not keep its process.
        self._thread = Thread(target=self._run, name="nairi-simulator", daemon=True)

    def start(self) -> None:
        """Start the thread, and wait until the simulator listens; raise what it failed with."""
        self._thread.start()
        self._is_ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def stop(self) -> None:
        """Close the simulator, and wait for the end of the thread."""
        if self._loop is not None and self._stopped is not None:
            self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - raised by `start`
            self._failure = error
        finally:
            self._is_ready.set()

    async def _serve(self) -> None:
        async with self._simulator:
            self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
            self._is_ready.set()
            await self._stopped.wait()
