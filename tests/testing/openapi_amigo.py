"""Each route of Amigo's simulator as its OpenAPI document has it; `test_openapi.py` runs this file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import jsonschema_rs
import pytest
import requests
import schemathesis
import yaml
from hypothesis import HealthCheck, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from simulated import SimulatorThread

from nairi_async.testing.amigo import Action, AmigoQuirks, AmigoSimulator, Complete, Error, Speak, Think

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLE = Path(__file__).parents[1] / "samples" / "amigo.openapi.yaml"
DOCUMENT = yaml.safe_load(SAMPLE.read_text())
CONFORMANCE = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
]
STREAMS = {
    "POST /v1/{organization}/conversation/": "CreateStreamEvent",
    "POST /v1/{organization}/conversation/{conversation_id}/interact": "InteractStreamEvent",
}
# Its nullable pair is a schema that schemathesis makes an invalid one of; it is checked with the streams.
INSIGHTS = "GET /v1/{organization}/conversation/{conversation_id}/interaction/{interaction_id}/insights"
OWN_CHECKS = {**STREAMS, INSIGHTS: "InteractionInsights"}
Case: TypeAlias = schemathesis.Case[Any]
HTTP = requests.Session()  # one connection for all
HTTP.trust_env = False
ORGANIZATION = "simulated"

schema = schemathesis.openapi.from_path(SAMPLE)
schema.config.generation.update(modes=[GenerationMode.POSITIVE])
invalid = schemathesis.openapi.from_path(SAMPLE)
invalid.config.generation.update(modes=[GenerationMode.NEGATIVE])
validators = {
    name: jsonschema_rs.validator_for({"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]})
    for name in OWN_CHECKS.values()
}


def call(simulator: AmigoSimulator, operation: str, token: str = "", **options: Any) -> Any:
    """Return the response to a request."""
    method, path = operation.split()
    case = schema[path][method].Case(**options)
    return case.call(**target(simulator, token))


def target(simulator: AmigoSimulator, token: str = "") -> dict[str, Any]:
    """Return what a case needs to reach the simulator: a token, or else the key that gets one."""
    known = simulator.environment
    key = {
        "x-api-key": known["AMIGO_API_KEY"],
        "x-api-key-id": known["AMIGO_API_KEY_ID"],
        "x-user-id": known["AMIGO_USER_ID"],
    }
    return {
        "session": HTTP,
        "base_url": simulator.url,
        "headers": {"Authorization": f"Bearer {token}"} if token else key,
    }


def script(_message: str, turn: int) -> list[Any]:
    message = [Think("Hm."), Action("tool-call-started", ACTION), Speak("A reply")]
    return [[*message], [*message, Error()], [*message, Complete(), Error(503)]][(turn - 1) % 3]


ACTION = {"tool_round_index": 0, "tool_id": "t", "tool_version": "1", "input_params": {}}


@pytest.fixture(scope="module")
def simulator() -> Iterator[AmigoSimulator]:
    simulator = AmigoSimulator(script, quirks=AmigoQuirks(one_unfinished=False))
    with SimulatorThread(simulator) as running:
        yield running


@pytest.fixture(scope="module")
def token(simulator: AmigoSimulator) -> str:
    signed_in = call(simulator, SIGN_IN, path_parameters={"organization": ORGANIZATION})
    return str(signed_in.json()["id_token"])


SIGN_IN = "POST /v1/{organization}/user/signin_with_api_key"
CREATE, INTERACT = STREAMS
MESSAGES = "GET /v1/{organization}/conversation/{conversation_id}/messages/"


@pytest.fixture
def known(simulator: AmigoSimulator, token: str) -> dict[str, str]:
    """Path parameters that name things that exist: a conversation with a saved voice message."""
    begun = call(
        simulator, CREATE, token,
        path_parameters={"organization": ORGANIZATION}, query={"response_format": "voice"},
        body={"service_id": simulator.service_id}, media_type="application/json",
    )  # fmt: skip
    named = {"organization": ORGANIZATION, "conversation_id": lines(begun)[0]["conversation_id"]}
    message = call(simulator, MESSAGES, token, path_parameters=named).json()["messages"][0]
    return {**named, "message_id": message["id"], "interaction_id": message["interaction_id"]}


def lines(response: Any) -> list[Any]:
    """Return the events of a stream."""
    return [json.loads(line) for line in response.content.decode().split("\n") if line]


def check(case: Case, simulator: AmigoSimulator, token: str, checks: list[Any]) -> None:
    """Call, and validate the response; in a stream validate each event."""
    label = case.operation.label
    shape = [] if label in OWN_CHECKS else [response_schema_conformance]
    response = case.call_and_validate(**target(simulator, "" if label == SIGN_IN else token), checks=[*checks, *shape])
    for event in lines(response) if response.status_code < 300 and label in OWN_CHECKS else ():
        validators[OWN_CHECKS[label]].validate(event)


@schema.parametrize()
@settings(
    max_examples=3,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # one conversation does for all examples
)
def test_answers_conform(case: Case, simulator: AmigoSimulator, token: str, known: dict[str, str]) -> None:
    """Every response is one that the OpenAPI document describes, and so is each event of a stream."""
    case.path_parameters = {name: known[name] for name in case.path_parameters}
    if isinstance(case.body, dict) and "service_id" in case.body:
        case.body = {**case.body, "service_id": simulator.service_id, "service_version_set_name": "release"}
    check(case, simulator, token, CONFORMANCE)


@invalid.parametrize()
@settings(max_examples=3, derandomize=True, deadline=None)
def test_invalid_requests_are_refused(case: Case, simulator: AmigoSimulator, token: str) -> None:
    """What the document does not allow gets an error that it describes, in the organisation that exists."""
    case.path_parameters = {**case.path_parameters, "organization": ORGANIZATION}
    check(case, simulator, token, [*CONFORMANCE, negative_data_rejection])
