"""A batch whose process is killed at any instant, and begun again until it is done: nothing lost, nothing run twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from killing import killed

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


@pytest.mark.timeout(120)
async def test_killed_at_random_instants(tmp_path: Path) -> None:
    """Each prompt is executed once, each is in the output once, in spite of SIGKILL at seeded random moments."""
    counted = await killed(tmp_path, count=100, kills=6, seed=7)
    assert counted.doubtful
    assert (counted.twice, counted.lost) == (0, 0)
    assert (counted.lines_missing, counted.lines_doubled) == (0, 0)
    assert counted.status == 0
