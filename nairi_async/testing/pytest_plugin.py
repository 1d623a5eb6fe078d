"""The fixtures of the test kit, `nairi`, `nairi_simulator`, `nairi_clock`: for pytest-asyncio and anyio's plugin.

The wheel carries this file as the module `_nairi_async_pytest`, beside the package: pytest imports its plugins in every
project of an environment, before a measurement of coverage begins. So nothing of the package is imported here before a
test asks for it.
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
    "@pytest.mark.anyio (anyio's plugin, which is there with nairi_async) or @pytest.mark.asyncio (pytest-asyncio)"
)


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker, and make the fixture that only pytest-asyncio can run where it is there."""
    config.addinivalue_line(
        "markers", f"{MARKER}(**options): how the simulator of this test is made, such as quirks=, faults=, seed="
    )
    if config.pluginmanager.hasplugin("asyncio") and not config.pluginmanager.hasplugin("nairi_async_asyncio"):
        config.pluginmanager.register(_asyncio_fixtures(), "nairi_async_asyncio")


@pytest.fixture
def nairi_clock() -> VirtualClock:
    """The virtual time in which the session and the simulator live; hand it to your own code as well."""
    from nairi_async.testing import VirtualClock  # noqa: PLC0415

    return VirtualClock()


@pytest.fixture
def nairi_options() -> dict[str, Any]:
    """Settings of the session, such as `polling=`; override it with a fixture of your own."""
    return {}


@pytest.fixture
def nairi_simulator(request: pytest.FixtureRequest) -> Simulator:
    """A simulated service that runs while the test does; the marker `nairi_simulator(faults=…)` says how it is made."""
    simulator, _ = _running(request)
    return simulator


@pytest.fixture
def nairi(request: pytest.FixtureRequest) -> NairiSession:
    """An open session on `nairi_simulator`, in virtual time."""
    _, session = _running(request)
    return session


@pytest.fixture
async def _nairi_on_anyio(
    request: pytest.FixtureRequest, nairi_clock: VirtualClock, nairi_options: dict[str, Any]
) -> AsyncGenerator[tuple[Simulator, NairiSession]]:
    async for running in _simulated(request, nairi_clock, nairi_options):
        yield running


def _running(request: pytest.FixtureRequest) -> tuple[Simulator, NairiSession]:
    """The pair that belongs to a test, opened on the test's own event loop by whatever runs that."""
    item = request.node
    # In pytest-asyncio's automatic mode a test may have both; then it is that one which runs it.
    is_asyncio = item.get_closest_marker("asyncio") is not None
    if not inspect.iscoroutinefunction(getattr(item, "obj", None)):
        pytest.fail(_NEITHER, pytrace=False)
    if "anyio_backend" in request.fixturenames and not is_asyncio:
        return request.getfixturevalue("_nairi_on_anyio")  # type: ignore[no-any-return]
    if is_asyncio and request.config.pluginmanager.hasplugin("nairi_async_asyncio"):
        return request.getfixturevalue("_nairi_on_asyncio")  # type: ignore[no-any-return]
    pytest.fail(_NEITHER, pytrace=False)


def _asyncio_fixtures() -> object:
    """What is registered beside pytest-asyncio: in its strict mode it runs only what it has decorated."""
    import pytest_asyncio  # noqa: PLC0415 - only where it runs the tests

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
    from nairi_async.testing import Simulator  # noqa: PLC0415

    marker = request.node.get_closest_marker(MARKER)
    made: dict[str, Any] = {"clock": clock, **(marker.kwargs if marker else {})}
    async with Simulator(**made) as simulator:
        settings: dict[str, Any] = {"base_url": simulator.url, "clock": clock, **options}
        async with NairiSession(simulator.api_key, **settings) as session:
            yield simulator, session
