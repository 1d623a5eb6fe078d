"""The simulators against the services' OpenAPI documents."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from forking import PIPE, STDOUT, fork

HERE = Path(__file__).parent
_IMPORTED = ("pytest", "aiohttp.web")


@pytest.mark.anyio
@pytest.mark.timeout(300)  # ten seconds of computing
@pytest.mark.parametrize("service", ["nairi", "amigo"])
async def test_the_simulator_is_the_documented_service(service: str) -> None:
    """Responses to valid requests conform to the document, and requests that it does not allow are refused.

    In a process of its own: only there the requests are generated, which takes long wherever tests are collected.
    """
    words = ["-m", "pytest", "-q", "-p", "schemathesis.pytest.plugin", "-p", "no:cacheprovider", "-n", "0"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    path = str(HERE / f"openapi_{service}.py")
    # Rewriting the assertions of what is imported would take as long as the tests.
    words += ["--assert=plain", path]
    process = await fork(*words, env=environment, stdout=PIPE, stderr=STDOUT, imported=_IMPORTED)
    out, _ = await asyncio.wait_for(process.communicate(), 280)
    assert process.returncode == 0, out.decode()
    assert " passed" in out.decode()
