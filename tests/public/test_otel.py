"""Traces: a turn is one span, next to those of its requests by the official instrumentation of aiohttp."""

from __future__ import annotations

import subprocess
import sys
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest
import support
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor, create_trace_config
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from support import KEY, MESSAGE, Act, RawServer, answer

from nairi_async import NairiError, NairiSession, RetryPolicy, TurnFailedError
from nairi_async.otel import TurnSpans
from nairi_async.testing import Fail, Say, Simulator, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio

SECRETS = (KEY, "nr_simulator", "Bearer", "confidential")
START = 1_775_000_000.0


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> TracerProvider:
    # Not the global one, which can be set only once.
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


@contextmanager
def instrumented(provider: TracerProvider) -> Iterator[None]:
    """Instrument every aiohttp session made meanwhile, as a program does once when it starts."""
    AioHttpClientInstrumentor().instrument(tracer_provider=provider)
    try:
        yield
    finally:
        AioHttpClientInstrumentor().uninstrument()


def everything(spans: tuple[ReadableSpan, ...]) -> str:
    return "\n".join(span.to_json() for span in spans)


async def test_a_turn_is_one_span(
    provider: TracerProvider, exporter: InMemorySpanExporter, simulator: Simulator, clock: VirtualClock
) -> None:
    """A span lasts from the prompt to the discovery of the end, under the caller's span, with cost and status."""
    usage = {"input_tokens": 10, "output_tokens": 2, "cost_usd": 0.25, "model": "simulated"}
    simulator.agent("my-agent", [Say("a confidential answer", after=600, usage=usage)])
    hooks = [TurnSpans(provider)]
    async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock, hooks=hooks) as nairi:
        with provider.get_tracer("test").start_as_current_span("caller") as executor:
            reply = await nairi.ask("my-agent", "a confidential prompt")
    span, _ = exporter.get_finished_spans()
    assert span.name == "invoke_agent my-agent"
    assert span.kind is SpanKind.CLIENT
    assert span.parent == executor.get_span_context()
    assert span.status.status_code is StatusCode.UNSET
    attributes = dict(span.attributes or {})
    delay, polls = attributes.pop("nairi.discovery_delay"), attributes.pop("nairi.polls")
    assert attributes == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": "nairi",
        "gen_ai.agent.id": "my-agent",
        "gen_ai.conversation.id": reply.turn.job_id,
        "gen_ai.response.model": "simulated",
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 2,
        "nairi.message_id": reply.turn.message_id,
        "nairi.status": "completed",
        "nairi.cost_usd": 0.25,
    }
    assert isinstance(delay, float)
    assert isinstance(polls, int)
    assert polls > 1
    assert span.start_time == pytest.approx(START * 1e9, abs=1e6)
    assert span.end_time is not None
    assert 600 <= span.end_time / 1e9 - START <= 620
    assert not [secret for secret in SECRETS if secret in everything(exporter.get_finished_spans())]


async def test_a_failed_turn_is_an_error(
    provider: TracerProvider, exporter: InMemorySpanExporter, simulator: Simulator, clock: VirtualClock
) -> None:
    """A failed turn is a span with the status ERROR, without the agent's text."""
    simulator.agent("my-agent", [Fail("confidential")])
    hooks = [TurnSpans(provider)]
    async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock, hooks=hooks) as nairi:
        with pytest.raises(TurnFailedError):
            await nairi.ask("my-agent", "go")
    (span,) = exporter.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert not [secret for secret in SECRETS if secret in everything((span,))]


@pytest.mark.parametrize("is_lent", [False, True], ids=["own session", "lent session"])
async def test_the_official_instrumentation_reports_each_request_beside_the_turn(
    provider: TracerProvider, exporter: InMemorySpanExporter, *, is_lent: bool
) -> None:
    """The requests' spans are siblings of the turn's, all under the caller's; none holds the key or a prompt."""
    clock = VirtualClock()
    async with Simulator(clock=clock) as simulator:
        simulator.agent("my-agent", [Say("a confidential answer", after=5)])
        hooks = [TurnSpans(provider)]
        async with AsyncExitStack() as stack:
            http = None
            if is_lent:
                traced = create_trace_config(tracer_provider=provider)
                http = await stack.enter_async_context(aiohttp.ClientSession(trace_configs=[traced]))
            else:
                stack.enter_context(instrumented(provider))
            session = NairiSession(simulator.api_key, base_url=simulator.url, clock=clock, hooks=hooks, http=http)
            nairi = await stack.enter_async_context(session)
            with provider.get_tracer("test").start_as_current_span("caller"):
                await nairi.ask("my-agent", "a confidential prompt")
        requests = len(simulator.requests)
    spans = exporter.get_finished_spans()
    (executor,) = (span for span in spans if span.name == "caller")
    others = [span for span in spans if span is not executor]
    names = [span.name for span in others]
    assert names.count("invoke_agent my-agent") == 1
    assert names.count("POST") == 1
    assert names.count("GET") == requests - 1 == len(names) - 2
    assert all(span.parent == executor.get_span_context() for span in others)
    assert not [secret for secret in SECRETS if secret in everything(spans)]


async def test_requests_that_fail_are_reported_without_the_key(
    provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    """A span of a broken connection holds the error, and still not the key that went with the request."""
    with instrumented(provider):
        async with (
            RawServer(Act.CLOSE, answer(200, "not json"), Act.RESET, answer(200, MESSAGE)) as server,
            support.session(server.url, retry=RetryPolicy(attempts=1)) as nairi,
        ):
            for _ in range(3):
                with pytest.raises(NairiError):
                    await nairi.message("cmsg_1")
            await nairi.message("cmsg_1")
            assert all(KEY in seen.head for seen in server.seen)
    spans = exporter.get_finished_spans()
    assert [span.status.status_code for span in spans] == [
        StatusCode.ERROR, StatusCode.UNSET, StatusCode.ERROR, StatusCode.UNSET,
    ]  # fmt: skip
    assert not [secret for secret in SECRETS if secret in everything(spans)]


def test_nobody_needs_opentelemetry() -> None:
    """Only `nairi_async.otel` imports OpenTelemetry."""
    code = "import sys; sys.modules['opentelemetry'] = None; import nairi_async, nairi_async.hooks, nairi_async.testing"
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 - our own interpreter
