"""Metrics: what the real Prometheus exporter shows, by the names of the conventions, with few labels."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from typing import TYPE_CHECKING, Any

import opentelemetry.semconv._incubating.attributes.gen_ai_attributes as gen_ai
import pytest
import support
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.semconv._incubating.attributes import url_attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from opentelemetry.semconv.attributes import error_attributes, http_attributes, server_attributes
from opentelemetry.semconv.metrics import http_metrics
from prometheus_client import REGISTRY, generate_latest
from support import MESSAGE, RawServer, answer, refusal

from nairi_async import ConfigurationError, Turn, TurnFailedError, otel
from nairi_async.batch import Batch
from nairi_async.bots import Chats
from nairi_async.hooks import BatchProgress, ChatQueued, Event, TurnEnded, TurnStarted
from nairi_async.otel import Metrics
from nairi_async.testing import Fail, FaultPlan, Say, Simulator, VirtualClock, in_memory_session

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SPENT = {"input_tokens": 1000, "output_tokens": 20, "cost_usd": 0.25, "model": "simulated"}

pytestmark = pytest.mark.anyio


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    reader = PrometheusMetricReader()
    provider = MeterProvider([reader])
    yield Metrics(provider)
    provider.shutdown()


def samples() -> dict[str, list[tuple[dict[str, str], float]]]:
    """Return what Prometheus reads: for each name its labels, without those of the library, and values."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for line in generate_latest(REGISTRY).decode().splitlines():
        if parts := re.fullmatch(r"((?:gen_ai|http|nairi)_\w+)(?:\{(.*)\})? (\S+)", line):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', parts[2] or ""))
            kept = {name: value for name, value in labels.items() if value and not name.startswith("otel_scope")}
            found.setdefault(parts[1], []).append((kept, float(parts[3])))
    return found


async def live(metrics: Metrics, tmp_path: Path) -> None:
    """Do everything that is measured, once."""
    clock = VirtualClock()
    simulator = Simulator(clock=clock).agent("my-agent", [Say("Done.", after=600, usage=SPENT)])
    simulator.agent("failing", [Fail("no")])
    async with in_memory_session(simulator, hooks=[metrics]) as nairi:
        await nairi.ask("my-agent", "a confidential prompt")
        with pytest.raises(TurnFailedError):
            await nairi.ask("failing", "a confidential prompt")
        async with Batch(nairi, "my-agent", ["one", "two"], ledger=tmp_path / "run.sqlite") as outcomes:
            assert [outcome.error async for outcome in outcomes] == [None, None]
    async with (
        RawServer(refusal(500, "oops"), answer(200, MESSAGE)) as server,
        support.session(server.url, hooks=[metrics]) as nairi,
    ):
        await nairi.message("cmsg_1")
        metrics(ChatQueued(chat="channel 7", target="my-agent", waiting=2))


async def test_what_prometheus_reads(metrics: Metrics, tmp_path: Path) -> None:
    """Turns, tokens, cost, requests, retries, polls and delays are there, under the labels that the guide lists."""
    await live(metrics, tmp_path)
    seen = samples()
    agent = {"gen_ai_agent_id": "my-agent"}
    operation = {"gen_ai_operation_name": "invoke_agent", "gen_ai_provider_name": "nairi"}
    reported = {**operation, **agent, "gen_ai_response_model": "simulated"}
    ended = seen["gen_ai_client_operation_duration_seconds_count"]
    assert ended == [(reported, 3), ({**operation, "gen_ai_agent_id": "failing", "error_type": "failed"}, 1)]
    (_, seconds), _ = seen["gen_ai_client_operation_duration_seconds_sum"]
    assert 1800 <= seconds <= 1900
    assert seen["gen_ai_client_token_usage_sum"] == [
        ({**reported, "gen_ai_token_type": "input"}, 3000),
        ({**reported, "gen_ai_token_type": "output"}, 60),
    ]
    assert seen["nairi_client_cost_total"] == [(reported, 0.75)]
    assert seen["nairi_client_turns_started_total"] == [(agent, 3), ({"gen_ai_agent_id": "failing"}, 1)]
    requested = {"http_request_method": "GET", "url_template": "/messages/{message_id}"}
    server = {"server_address": "127.0.0.1"}
    failed = [labels for labels, _ in seen["http_client_request_duration_seconds_count"] if "error_type" in labels]
    assert [{name: labels[name] for name in labels if name != "server_port"} for labels in failed] == [
        {**requested, **server, "http_response_status_code": "500", "error_type": "500"}
    ]
    assert seen["nairi_client_retries_total"] == [({**requested, "error_type": "ServerError"}, 1)]
    assert seen["nairi_client_chats_queued_total"] == [(agent, 1)]
    assert ({**agent, "state": "done"}, 2) in seen["nairi_client_batch_prompts"]
    assert sum(count for _, count in seen["nairi_client_polls_count"]) == 4
    assert "nairi_client_discovery_delay_seconds_sum" in seen
    text = generate_latest(REGISTRY).decode()
    assert not [secret for secret in ("confidential", "job_0", "cmsg_0", "channel 7", "nr_") if secret in text]


async def test_the_dashboard_of_the_guide(metrics: Metrics, tmp_path: Path) -> None:
    """It is JSON, and each metric and label in its queries is one that the exporter shows."""
    (text,) = re.findall(r"^```json\n(.*?)^```$", otel.__doc__ or "", re.MULTILINE | re.DOTALL)
    panels: list[dict[str, Any]] = json.loads(text)["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    await live(metrics, tmp_path)
    seen = samples()
    asked = set(re.findall(r"\b(?:gen_ai|http|nairi)_\w+(?=[\[)])", re.sub(r"by \(.*?\)", "", " ".join(queries))))
    labels = {name for query in queries for listed in re.findall(r"by \((.*?)\)", query) for name in listed.split(", ")}
    assert asked <= seen.keys()
    assert labels <= {label for found in seen.values() for shown, _ in found for label in shown}
    tables = set(re.findall(r"^\| `\S+` \| `(\w+)`", otel.__doc__ or "", re.MULTILINE))
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in seen} == tables


async def test_what_is_open_now(metrics: Metrics) -> None:
    """Gauges follow the open sessions, and forget the closed ones."""
    simulator = Simulator(clock=VirtualClock())
    async with in_memory_session(simulator, hooks=[metrics]) as nairi:
        simulator.intercept = lambda _: observe()

        async def observe() -> None:
            seen.append({name: value for name in names for _, value in samples()[name]})

        names = [f"nairi_client_{name}" for name in ("open_watches", "open_connections", "waiting_calls")]
        seen: list[dict[str, float]] = []
        turn = await nairi.start("my-agent", "go")
        await nairi.reply(turn)
    assert seen[0] == dict.fromkeys(names, 0) | {names[1]: 1}
    assert seen[1] == dict.fromkeys(names, 0) | {names[0]: 1, names[1]: 1}
    assert {value for name in names for _, value in samples()[name]} == {0}


async def test_labels_are_bounded() -> None:
    """Agents and models beyond a number share one time series, long names are cut; a bad number is refused."""
    provider = MeterProvider([PrometheusMetricReader()])
    metrics = Metrics(provider, most_labels=2)
    for number in range(5):
        turn = Turn(f"job_{number}", f"cmsg_{number}", agent_id=f"agent-{number}" + number * 300 * "-")
        metrics(TurnStarted(turn=turn, is_first=True, is_found=False))
    shown = {labels["gen_ai_agent_id"]: value for labels, value in samples()["nairi_client_turns_started_total"]}
    provider.shutdown()
    assert shown == {"agent-0": 1, f"agent-1{193 * '-'}": 1, "_OTHER": 3}
    for most in (0, True, "2"):
        with pytest.raises(ConfigurationError, match="most_labels must be a positive integer"):
            Metrics(most_labels=most)  # type: ignore[arg-type]


def test_names_are_those_of_the_conventions() -> None:
    """Each literal is a name of the newest conventions that was not replaced by another."""
    attributes = (gen_ai, url_attributes, error_attributes, http_attributes, server_attributes)
    constants = "".join(inspect.getsource(module) for module in (*attributes, gen_ai_metrics, http_metrics))
    known = dict(re.findall(r'^[A-Z_]+: Final = "([^"]+)"\n"""(.*?)"""', constants, re.MULTILINE | re.DOTALL))
    source = inspect.getsource(otel.metrics) + inspect.getsource(otel.spans)
    used = set(re.findall(r'"((?:gen_ai|http|url|error|server)\.[a-z_.]+)"', source))
    assert len(used) > 15
    assert not {name for name in used if name not in known or "Replaced by" in known[name]}


async def test_starts_and_batches_and_queues_are_events(tmp_path: Path) -> None:
    """A turn that started, a prompt that waits behind others of its chat, and each outcome of a batch reach hooks."""
    events: list[Event] = []
    clock = VirtualClock()
    simulator = Simulator(clock=clock)
    async with in_memory_session(simulator, hooks=[events.append]) as nairi:
        chats = Chats(nairi, "my-agent", clock=clock)
        async with asyncio.TaskGroup() as group:
            for prompt in ("one", "two", "three"):
                group.create_task(chats.ask("channel 7", prompt))
        async with Batch(nairi, "my-agent", ["four", "five"], ledger=tmp_path / "run.sqlite") as outcomes:
            async for _ in outcomes:
                pass
    started = [event for event in events if isinstance(event, TurnStarted)]
    assert [event.is_first for event in started] == [True, False, False, True, True]
    assert not any(event.is_found for event in started)
    assert [(event.chat, event.target, event.waiting) for event in events if isinstance(event, ChatQueued)] == [
        ("channel 7", "my-agent", 1),
        ("channel 7", "my-agent", 2),
    ]
    progress = [event for event in events if isinstance(event, BatchProgress)]
    assert [(event.done, event.failed) for event in progress][-1] == (2, 0)
    ends = [event for event in events if isinstance(event, TurnEnded)]
    assert {event.turn.message_id for event in ends} == {event.turn.message_id for event in started}
    assert all(str(event) for event in events)


async def test_a_turn_that_was_looked_up_says_so() -> None:
    """A prompt whose response was lost starts one turn, found by looking it up."""
    events: list[Event] = []
    simulator = Simulator(clock=VirtualClock(), faults=FaultPlan(where="POST", script=["reset after"]))
    async with in_memory_session(simulator, hooks=[events.append]) as nairi:
        turn = await nairi.start("my-agent", "go", on_unknown="reconcile")
        started = [event for event in events if isinstance(event, TurnStarted)]
    assert started == [TurnStarted(turn=turn, is_first=True, is_found=True)]
