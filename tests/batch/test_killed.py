"""A batch whose process is killed at any instant and run again until it is done: nothing lost, nothing run twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from soak_batch import killed

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


@pytest.mark.timeout(240)
async def test_killed_at_random_instants(tmp_path: Path) -> None:
    """Each prompt is executed once, each is in the output once, in spite of SIGKILL at seeded random moments.

    And in spite of a service that breaks every fourth request; what cannot be decided is reported, never sent again.
    """
    counted = await killed(tmp_path, count=40, kills=4, seed=7, rate=0.25)
    assert counted.in_doubt
    assert counted.faulty > 0.1 * counted.requests
    assert counted.losses == {}
