"""Each route of the simulator as the service's OpenAPI document has it; `test_openapi.py` runs this file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
import requests
import schemathesis
from hypothesis import settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from simulated import SimulatorThread

from nairi_async.testing import Fail, Say, Simulator, Tool

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLE = Path(__file__).parents[1] / "samples" / "nairi.openapi.yaml"
CONFORMANCE = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
Case: TypeAlias = schemathesis.Case[Any]
HTTP = requests.Session()  # one connection for all
HTTP.trust_env = False

schema = schemathesis.openapi.from_path(SAMPLE)
valid = schemathesis.openapi.from_path(SAMPLE)
valid.config.generation.update(modes=[GenerationMode.POSITIVE])


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    script = (Tool("Bash"), Say("reply", usage={"cost_usd": 0.25, "model": "m"}, attachment_ids=["att_1"]), Fail("no"))
    with SimulatorThread(Simulator(agents={"my-agent": script})) as running:
        yield running


@pytest.fixture(scope="module")
def known(simulator: Simulator) -> dict[str, str]:
    """Path parameters that name things that exist."""
    attachment_id = simulator.attachment("a.txt", b"data")
    body: Any = {"agent_id": "my-agent", "prompt": "p", "attachment_ids": [attachment_id]}
    started = schema["/conversations/start"]["POST"].Case(body=body, media_type="application/json")
    made = started.call(**target(simulator)).json()
    return {"agent_id": "my-agent", "attachment_id": attachment_id, **made}


def target(simulator: Simulator) -> dict[str, Any]:
    """Return what a case needs to reach the simulator."""
    return {
        "session": HTTP,
        "base_url": f"{simulator.url}/api/public/v1",
        "headers": {"Authorization": f"Bearer {simulator.api_key}"},
    }


# A form that holds two files is invalid by the document, and taken by the service: it ignores other parts.
@schema.exclude(path="/attachments").parametrize()
@settings(max_examples=5, derandomize=True, deadline=None)
def test_answers_conform(case: Case, simulator: Simulator) -> None:
    """Every response is one that the OpenAPI document describes; what the document does not allow gets an error."""
    case.call_and_validate(**target(simulator), checks=[*CONFORMANCE, ignored_auth, negative_data_rejection])


@schema.include(path="/attachments").parametrize()
@settings(max_examples=5, derandomize=True, deadline=None)
def test_answers_to_uploads_conform(case: Case, simulator: Simulator) -> None:
    """The same about the responses to uploads."""
    case.call_and_validate(**target(simulator), checks=[*CONFORMANCE, ignored_auth])


@valid.parametrize()
@settings(max_examples=4, derandomize=True, deadline=None)
def test_answers_about_known_things_conform(case: Case, simulator: Simulator, known: dict[str, str]) -> None:
    """The same about jobs, messages, attachments and agents that exist."""
    case.path_parameters = {name: known[name] for name in case.path_parameters}
    case.call_and_validate(**target(simulator), checks=CONFORMANCE)
