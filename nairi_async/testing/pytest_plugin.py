"""The fixtures of pytest: sessions on simulators in virtual time, and simulators in real time, of both services.

They work with pytest-asyncio and with anyio's plugin.

The wheel contains this file as the module `_nairi_async_pytest`, outside the package: pytest imports its plugins in
every project of an environment, before coverage measurement begins. So this module imports the package only when a test
uses a fixture.
"""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from nairi_async._nairi.session import NairiSession
    from nairi_async.amigo import AmigoSession
    from nairi_async.testing import AmigoSimulator, Simulator, VirtualClock

MARKER = "nairi_simulator"
AMIGO_MARKER = "amigo_simulator"
_NEITHER = (
    "the fixtures `nairi`, `amigo` and those of their simulators need a test that runs on an event loop: an"
    " `async def` test with @pytest.mark.anyio (anyio's plugin, which comes with nairi_async) or"
    " @pytest.mark.asyncio (pytest-asyncio)"
)


_TWO_LOOPS = (
    "the fixtures and the test would run on two event loops: anyio's plugin runs a test with @pytest.mark.anyio, and"
    " pytest-asyncio in automatic mode claims it and its fixtures as well. Set `asyncio_mode = strict` in the"
    " configuration of pytest, or remove the mark of anyio"
)
_TRIO = (
    "nairi_async needs asyncio, and this run of the test is on {}: a fixture `anyio_backend` that returns 'asyncio'"
    " leaves such runs out"
)
_LOOP_SCOPES: Final = ("function", "class", "module", "package", "session")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker and, if pytest-asyncio is active, the fixture that only it can run."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(**options): settings of this test's simulator, such as faults=, seed=; in_memory=True",
    )
    config.addinivalue_line(
        "markers", f"{AMIGO_MARKER}(**options): settings of this test's simulator of Amigo, such as script=, quirks="
    )
    if config.pluginmanager.hasplugin("asyncio") and not config.pluginmanager.hasplugin("nairi_async_asyncio"):
        config.pluginmanager.register(_asyncio_fixtures(), "nairi_async_asyncio")


@pytest.fixture
def nairi_clock() -> VirtualClock:
    """Return the clock that the session and the simulator share.

    Give it to every session and simulator of the test: the simulator refuses the polls of sessions with another clock.
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
    simulator: Simulator = _running(request)[0]
    return simulator


@pytest.fixture
def nairi(request: pytest.FixtureRequest) -> NairiSession:
    """Open a session on `nairi_simulator`, in virtual time."""
    session: NairiSession = _running(request)[1]
    return session


@pytest.fixture
def nairi_environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    """Run a simulated service in a thread, in real time, and set `NAIRI_API_KEY` and `NAIRI_BASE_URL` to it.

    For code that makes its own session, and for tests that are not coroutines. Options as for `nairi_simulator`.
    """
    from nairi_async.testing import Simulator, in_thread  # noqa: PLC0415

    with in_thread(Simulator(**_options(request, MARKER, virtual=False))) as simulator:
        _set_environment(monkeypatch, simulator)
        yield simulator


@pytest.fixture
def amigo_options() -> dict[str, Any]:
    """Return settings of the session with Amigo; override this fixture to change them."""
    return {}


@pytest.fixture
def amigo_simulator(request: pytest.FixtureRequest) -> AmigoSimulator:
    """Run a simulated Amigo during the test; the marker `amigo_simulator(script=…)` sets its options."""
    simulator: AmigoSimulator = _running(request, "amigo")[0]
    return simulator


@pytest.fixture
def amigo(request: pytest.FixtureRequest) -> AmigoSession:
    """Open a session on `amigo_simulator`, in virtual time."""
    session: AmigoSession = _running(request, "amigo")[1]
    return session


@pytest.fixture
def amigo_environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[AmigoSimulator]:
    """Run a simulated Amigo in a thread, in real time, and set the variables `AMIGO_…` to it."""
    from nairi_async.testing import AmigoSimulator, in_thread  # noqa: PLC0415

    with in_thread(AmigoSimulator(**_options(request, AMIGO_MARKER, virtual=False))) as simulator:
        _set_environment(monkeypatch, simulator)
        yield simulator


@pytest.fixture
async def _nairi_on_anyio(
    request: pytest.FixtureRequest, nairi_clock: VirtualClock, nairi_options: dict[str, Any]
) -> AsyncGenerator[tuple[Simulator, NairiSession]]:
    async for running in _simulated(request, nairi_clock, nairi_options):
        yield running


@pytest.fixture
async def _amigo_on_anyio(
    request: pytest.FixtureRequest, nairi_clock: VirtualClock, amigo_options: dict[str, Any]
) -> AsyncGenerator[tuple[AmigoSimulator, AmigoSession]]:
    async for running in _simulated_amigo(request, nairi_clock, amigo_options):
        yield running


def _running(request: pytest.FixtureRequest, service: str = "nairi") -> tuple[Any, Any]:
    """Return the simulator and the session of a test, opened on the test's own event loop."""
    item = request.node
    asyncio_mark = item.get_closest_marker("asyncio")
    if not inspect.iscoroutinefunction(getattr(item, "obj", None)):
        pytest.fail(_NEITHER, pytrace=False)
    # Also where a fixture of the test's own asks for it first.
    request.getfixturevalue(f"{service}_options")
    if "anyio_backend" in request.fixturenames:
        if asyncio_mark is not None:
            pytest.fail(_TWO_LOOPS, pytrace=False)
        if (backend := request.getfixturevalue("anyio_backend_name")) != "asyncio":
            # A run that anyio adds for each backend: the library needs asyncio, so there is nothing to try.
            pytest.skip(_TRIO.format(backend))
        return request.getfixturevalue(f"_{service}_on_anyio")  # type: ignore[no-any-return]
    if asyncio_mark is not None and request.config.pluginmanager.hasplugin("nairi_async_asyncio"):
        scope = _loop_scope(asyncio_mark, request.config)
        return request.getfixturevalue(f"_{service}_on_asyncio_{scope}")  # type: ignore[no-any-return]
    pytest.fail(_NEITHER, pytrace=False)


def _loop_scope(mark: pytest.Mark, config: pytest.Config) -> str:
    """Return the scope of the event loop on which pytest-asyncio runs a test with this mark."""
    scope = mark.kwargs.get("loop_scope") or mark.kwargs.get("scope")
    try:
        return str(scope or config.getini("asyncio_default_test_loop_scope") or _LOOP_SCOPES[0])
    except (KeyError, ValueError):
        # The setting came with pytest-asyncio 0.25.
        return _LOOP_SCOPES[0]


def _asyncio_fixtures() -> object:
    """Return the plugin for pytest-asyncio, which in strict mode runs only fixtures that it decorated.

    It has a fixture for each scope of an event loop, since the fixture must run on the loop of the test.
    """
    import pytest_asyncio  # noqa: PLC0415 - imported only if it runs the tests

    fixtures = ModuleType("nairi_async_asyncio")
    for service, simulated in (("nairi", _simulated), ("amigo", _simulated_amigo)):
        for scope in _LOOP_SCOPES:
            name = f"_{service}_on_asyncio_{scope}"
            setattr(fixtures, name, pytest_asyncio.fixture(loop_scope=scope, name=name)(_opened(service, simulated)))
    return fixtures


def _opened(service: str, simulated: Callable[..., AsyncGenerator[Any]]) -> Callable[..., AsyncGenerator[Any]]:
    async def opened(request: pytest.FixtureRequest, nairi_clock: VirtualClock) -> AsyncGenerator[Any]:
        async for running in simulated(request, nairi_clock, request.getfixturevalue(f"{service}_options")):
            yield running

    return opened


def _options(request: pytest.FixtureRequest, name: str, *, virtual: bool) -> dict[str, Any]:
    """Return what the marker of a test sets; in real time a clock, and being in memory, have no meaning."""
    marker = request.node.get_closest_marker(name)
    options = dict(marker.kwargs) if marker else {}
    return options if virtual else {key: value for key, value in options.items() if key not in {"clock", "in_memory"}}


def _set_environment(monkeypatch: pytest.MonkeyPatch, simulator: Simulator | AmigoSimulator) -> None:
    for name, value in simulator.environment.items():
        monkeypatch.setenv(name, value)
        monkeypatch.delenv(f"{name}_FILE", raising=False)


async def _simulated(
    request: pytest.FixtureRequest, clock: VirtualClock, options: dict[str, Any]
) -> AsyncGenerator[tuple[Simulator, NairiSession]]:
    from nairi_async._nairi.session import NairiSession  # noqa: PLC0415
    from nairi_async.testing import Simulator, in_memory_session  # noqa: PLC0415

    simulated: dict[str, Any] = {"clock": clock, **_options(request, MARKER, virtual=True)}
    if simulated.pop("in_memory", False):
        simulator = Simulator(**simulated)
        async with in_memory_session(simulator, **options) as session:
            yield simulator, session
        return
    async with Simulator(**simulated) as simulator:
        settings: dict[str, Any] = {"base_url": simulator.url, "clock": clock, **options}
        async with NairiSession(simulator.api_key, **settings) as session:
            yield simulator, session


async def _simulated_amigo(
    request: pytest.FixtureRequest, clock: VirtualClock, options: dict[str, Any]
) -> AsyncGenerator[tuple[AmigoSimulator, AmigoSession]]:
    from nairi_async.amigo import AmigoSession  # noqa: PLC0415
    from nairi_async.testing import AmigoSimulator  # noqa: PLC0415

    simulated: dict[str, Any] = {"clock": clock, **_options(request, AMIGO_MARKER, virtual=True)}
    async with AmigoSimulator(**simulated) as simulator:
        settings: dict[str, Any] = {**simulator.settings, "clock": clock, **options}
        async with AmigoSession(**settings) as session:
            yield simulator, session
