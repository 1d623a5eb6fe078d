from __future__ import annotations

import gc
import os
import signal
from random import Random
from typing import TYPE_CHECKING, Any

import amigo_sessions
import pytest
from batches import Runs
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from nairi_async import NairiSession
from nairi_async.bots import Chats
from nairi_async.testing import Quirks, Say, Simulator, VirtualClock
from nairi_async.testing.amigo import AmigoSimulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator
    from pathlib import Path

    from clusters import Field
    from postgres import Postgres

    from nairi_async.amigo import AmigoSession

# Shared machines are noisy, so no test of a property has a deadline.
settings.register_profile("suite", deadline=None)
settings.register_profile("brief", deadline=None, max_examples=20)
settings.load_profile("suite")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """Return one worker more than there are cores, since some tests wait for other processes and for real time."""
    return None if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ else (os.cpu_count() or 1) + 1


# The tests of each share what takes long: an import of two to five seconds, the trees of all sources, a database.
TOGETHER = (
    "tests/cluster/",
    "tests/project/test_documentation.py::test_every_public_name_is_documented",
    "tests/project/test_house.py",
    "tests/recipes/test_bot_recipes.py",
    "tests/testing/test_amigo_vendor.py",
)


def shared(nodeid: str) -> str | None:
    """Return the beginning of the ids of the tests that run in one worker with this one."""
    return next((beginning for beginning in TOGETHER if nodeid.startswith(beginning)), None)


class Distribution(LoadScopeScheduling):  # type: ignore[misc] # it has no types
    """Gives each worker one test with all its parameters at a time, or what is `TOGETHER`.

    xdist's own groups, which are marks, have no effect with pytest 9.2: both know the id of a test, and not the same.
    """

    def _split_scope(self, nodeid: str) -> str:
        return shared(nodeid) or nodeid.partition("[")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Distribution:
    config.option.loadscopereorder = False
    return Distribution(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, so that no worker ends with it alone."""
    items.sort(key=lambda item: not (shared(item.nodeid) or item.get_closest_marker("timeout")))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep what the imports leave out of each later garbage collection, which takes a second with it."""
    gc.disable()
    result = yield
    gc.collect()
    gc.freeze()
    gc.enable()
    return result


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Handle SIGINT: a command inherits an ignored one, as in a background job."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sessions draw their jitter from a seed: what is counted is the same in every run."""
    monkeypatch.setattr("nairi_async._core.service_session.random", Random(1))


@pytest.fixture
def few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let virtual time go on sooner: without sockets a task needs few passes of the loop before its next request."""
    monkeypatch.setattr("nairi_async.testing.clock.IDLE_PASSES", 10)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def simulator(clock: VirtualClock) -> AsyncIterator[Simulator]:
    async with Simulator(clock=clock) as running:
        yield running


@pytest.fixture
async def nairi(simulator: Simulator, clock: VirtualClock) -> AsyncIterator[NairiSession]:
    """Open a session on the simulator, both in virtual time."""
    async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock) as session:
        yield session


@pytest.fixture
def runs(nairi: NairiSession, tmp_path: Path) -> Runs:
    """Return a runner of one batch on the simulator."""
    return Runs(nairi, tmp_path)


@pytest.fixture
async def service(clock: VirtualClock) -> AsyncIterator[AmigoSimulator]:
    async with AmigoSimulator(clock=clock) as running:
        yield running


@pytest.fixture
async def amigo(service: AmigoSimulator, clock: VirtualClock) -> AsyncIterator[AmigoSession]:
    """Open a session without rate limits on the simulated Amigo, both in virtual time."""
    async with amigo_sessions.session(service.url, clock=clock) as opened:
        yield opened


@pytest.fixture
def echo(simulator: Simulator) -> Simulator:
    """Return a service that refuses overlapping turns, with an agent that takes five seconds for each."""
    simulator.quirks = Quirks(overlapping="refuse")
    return simulator.agent("my-agent", lambda prompt, number: [Say(f"{number}: {prompt}", after=5)])


@pytest.fixture
def chats(nairi: NairiSession, clock: VirtualClock) -> Chats:
    return Chats(nairi, "my-agent", clock=clock)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Run one server for each process of the suite that needs it."""
    from postgres import running_postgres  # noqa: PLC0415 - most processes do without a database

    with running_postgres() as server:
        yield server


@pytest.fixture
def database(postgres: Postgres) -> str:
    """Return the URL of an empty database."""
    return postgres.database()


@pytest.fixture
async def field(database: str) -> AsyncIterator[Field]:
    """Return a service in real time, since no virtual clock reaches the database, and a database for it."""
    from clusters import Field  # noqa: PLC0415 - as above

    async with Simulator(strict_agents=True) as running:
        running.agent("my-agent", lambda prompt, _: [Say(f"Answer to {prompt}", after=0.3)])
        yield Field(running, database)
