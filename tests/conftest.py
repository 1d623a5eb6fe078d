from __future__ import annotations

import pytest
from hypothesis import settings

# The machines that run this are shared and noisy: time is no measure of a property.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
