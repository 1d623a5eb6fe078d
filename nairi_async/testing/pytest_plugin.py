"""The fixtures `nairi`, `nairi_simulator` and `nairi_clock`, for pytest-asyncio and for anyio's plugin.

The wheel contains this file as the module `_nairi_async_pytest`, outside the package: pytest imports its plugins in
every project of an environment, before coverage measurement begins. So this module imports the package only when a test
uses a fixture.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from nairi_async._nairi.session import NairiSession
    from nairi_async.testing import Simulator, VirtualClock

MARKER = "nairi_simulator"
_NEITHER = (
    "the fixtures `nairi` and `nairi_simulator` need a test that runs on an event loop: an `async def` test with "
    "@pytest.mark.anyio (anyio's plugin, which comes with nairi_async) or @pytest.mark.asyncio (pytest-asyncio)"
)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker and, if pytest-asyncio is active, the fixture that only it can run."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(**options): settings of this test's simulator, such as faults=, seed=; in_memory=True",
    )
    if config.pluginmanager.hasplugin("asyncio") and not config.pluginmanager.hasplugin("nairi_async_asyncio"):
        config.pluginmanager.register(_asyncio_fixtures(), "nairi_async_asyncio")


@pytest.fixture
def nairi_clock() -> VirtualClock:
    """Return the clock that the session and the simulator share.

    Give it to every session and simulator of the test; with another clock the test never ends.
    """
    from nairi_async.testing import VirtualClock  # noqa: PLC0415

    return VirtualClock()


@pytest.fixture
def nairi_options() -> dict[str, Any]:
    """Return settings of the session, such as `polling=`; override this fixture to change them."""
    return {}


@pytest.fixture
def nairi_simulator(request: pytest.FixtureRequest) -> Simulator:
    """Run a simulated service during the test; the marker `nairi_simulator(faults=…)` sets its options."""
    simulator, _ = _running(request)
    return simulator


@pytest.fixture
def nairi(request: pytest.FixtureRequest) -> NairiSession:
    """Open a session on `nairi_simulator`, in virtual time."""
    _, session = _running(request)
    return session


@pytest.fixture
async def _nairi_on_anyio(
    request: pytest.FixtureRequest, nairi_clock: VirtualClock, nairi_options: dict[str, Any]
) -> AsyncGenerator[tuple[Simulator, NairiSession]]:
    async for running in _simulated(request, nairi_clock, nairi_options):
        yield running


def _running(request: pytest.FixtureRequest) -> tuple[Simulator, NairiSession]:
    """Return the simulator and the session of a test, opened on the test's own event loop."""
    item = request.node
    # In pytest-asyncio's automatic mode a test may have both marks; then pytest-asyncio runs it.
    is_asyncio = item.get_closest_marker("asyncio") is not None
    if not inspect.iscoroutinefunction(getattr(item, "obj", None)):
        pytest.fail(_NEITHER, pytrace=False)
    if "anyio_backend" in request.fixturenames and not is_asyncio:
        return request.getfixturevalue("_nairi_on_anyio")  # type: ignore[no-any-return]
    if is_asyncio and request.config.pluginmanager.hasplugin("nairi_async_asyncio"):
        return request.getfixturevalue("_nairi_on_asyncio")  # type: ignore[no-any-return]
    pytest.fail(_NEITHER, pytrace=False)


def _asyncio_fixtures() -> object:
    """Return the plugin for pytest-asyncio, which in strict mode runs only fixtures that it decorated."""
    import pytest_asyncio  # noqa: PLC0415 - imported only if it runs the tests

    class AsyncioFixtures:
        @pytest_asyncio.fixture
        async def _nairi_on_asyncio(
            self, request: pytest.FixtureRequest, nairi_clock: VirtualClock, nairi_options: dict[str, Any]
        ) -> AsyncGenerator[tuple[Simulator, NairiSession]]:
            async for running in _simulated(request, nairi_clock, nairi_options):
                yield running

    return AsyncioFixtures()


async def _simulated(
    request: pytest.FixtureRequest, clock: VirtualClock, options: dict[str, Any]
) -> AsyncGenerator[tuple[Simulator, NairiSession]]:
    from nairi_async._nairi.session import NairiSession  # noqa: PLC0415
    from nairi_async.testing import Simulator, in_memory_session  # noqa: PLC0415

    marker = request.node.get_closest_marker(MARKER)
    simulated: dict[str, Any] = {"clock": clock, **(marker.kwargs if marker else {})}
    if simulated.pop("in_memory", False):
        simulator = Simulator(**simulated)
        async with in_memory_session(simulator, **options) as session:
            yield simulator, session
        return
    async with Simulator(**simulated) as simulator:
        settings: dict[str, Any] = {"base_url": simulator.url, "clock": clock, **options}
        async with NairiSession(simulator.api_key, **settings) as session:
            yield simulator, session
