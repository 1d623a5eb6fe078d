from __future__ import annotations

from typing import TYPE_CHECKING

import amigo_sessions
import pytest
from batches import Runs
from hypothesis import settings

from nairi_async import NairiSession
from nairi_async.bots import Chats
from nairi_async.testing import Quirks, Say, Simulator, VirtualClock
from nairi_async.testing.amigo import AmigoSimulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from nairi_async.amigo import AmigoSession

# The machines that run this are shared and noisy: time is no measure of a property.
settings.register_profile("suite", deadline=None)
settings.register_profile("brief", deadline=None, max_examples=20)
settings.load_profile("suite")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def simulator(clock: VirtualClock) -> AsyncIterator[Simulator]:
    async with Simulator(clock=clock) as running:
        yield running


@pytest.fixture
async def nairi(simulator: Simulator, clock: VirtualClock) -> AsyncIterator[NairiSession]:
    """A session on the simulator, both in virtual time."""
    async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock) as session:
        yield session


@pytest.fixture
def runs(nairi: NairiSession, tmp_path: Path) -> Runs:
    """Runs of one batch on the simulator."""
    return Runs(nairi, tmp_path)


@pytest.fixture
async def service(clock: VirtualClock) -> AsyncIterator[AmigoSimulator]:
    async with AmigoSimulator(clock=clock) as running:
        yield running


@pytest.fixture
async def amigo(service: AmigoSimulator, clock: VirtualClock) -> AsyncIterator[AmigoSession]:
    """A session on the simulated Amigo, both in virtual time, that is not paced."""
    async with amigo_sessions.session(service.url, clock=clock) as opened:
        yield opened


@pytest.fixture
def echo(simulator: Simulator) -> Simulator:
    """An agent of five seconds for each turn, in a service that refuses a prompt while another turn runs."""
    simulator.quirks = Quirks(overlapping="refuse")
    return simulator.agent("my-agent", lambda prompt, number: [Say(f"{number}: {prompt}", after=5)])


@pytest.fixture
def chats(nairi: NairiSession, clock: VirtualClock) -> Chats:
    return Chats(nairi, "my-agent", clock=clock)
