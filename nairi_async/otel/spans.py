"""Each turn as a span, when it has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry import trace

from nairi_async.hooks import TurnEnded

if TYPE_CHECKING:
    from nairi_async.hooks import Event

# Characters of the name of a model, which the service makes up.
_LONGEST: Final = 200


class TurnSpans:
    """A hook that reports each turn as one span when it has ended.

    The span extends from the sending of the prompt to the discovery of the end. Its parent is the span that was current
    where the turn was awaited, as with the spans of requests. Its name and its `gen_ai.` attributes follow
    OpenTelemetry's conventions for agents. Further attributes are `nairi.message_id`, `nairi.status`, `nairi.polls`,
    `nairi.discovery_delay` in seconds and, if the agent reports it, `nairi.cost_usd`. A turn that failed has the status
    `ERROR`. No attribute holds a prompt or a reply. A turn has no span if no call awaited its end.

    Args:
        tracer_provider: Receives the spans; the global provider unless given.
    """

    def __init__(self, tracer_provider: trace.TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("nairi_async", tracer_provider=tracer_provider)

    def __call__(self, event: Event) -> None:
        """Report the end of a turn; ignore other events."""
        if not isinstance(event, TurnEnded):
            return
        agent_id = event.turn.agent_id
        span = self._tracer.start_span(
            f"invoke_agent {agent_id}" if agent_id else "invoke_agent",
            kind=trace.SpanKind.CLIENT,
            attributes=_attributes(event),
            start_time=_nanoseconds(event.ended_at - event.seconds),
        )
        if event.status == "failed":
            span.set_status(trace.StatusCode.ERROR, "the turn failed")
        span.end(_nanoseconds(event.ended_at))


def _attributes(event: TurnEnded) -> dict[str, str | int | float]:
    usage = event.usage
    attributes = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": "nairi",
        "gen_ai.agent.id": event.turn.agent_id,
        "gen_ai.conversation.id": event.turn.job_id,
        "nairi.message_id": event.turn.message_id,
        "nairi.status": event.status,
        "nairi.polls": event.polls,
        "nairi.discovery_delay": event.discovery_delay,
    }
    if usage is not None:
        attributes |= {
            "gen_ai.response.model": None if usage.model is None else usage.model[:_LONGEST],
            "gen_ai.usage.input_tokens": usage.input_tokens,
            "gen_ai.usage.output_tokens": usage.output_tokens,
            "nairi.cost_usd": float(usage.cost_usd) if usage.cost_usd is not None else None,
        }
    return {name: value for name, value in attributes.items() if value is not None}


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
