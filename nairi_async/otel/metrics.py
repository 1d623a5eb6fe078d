"""What a session does, as counters, histograms and gauges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from opentelemetry import metrics
from opentelemetry.metrics import Observation

from nairi_async.errors import ConfigurationError
from nairi_async.hooks import BatchProgress, ChatQueued, RequestDone, RetryPlanned, TurnEnded, TurnStarted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import CallbackOptions, MeterProvider

    from nairi_async.hooks import Event
    from nairi_async.models import Usage

    _Attributes = dict[str, str | int]

# Those of the conventions (https://github.com/open-telemetry/semantic-conventions-genai), and further ones: a model
# answers within 80 seconds, an agent may take an hour and wait in a queue before.
_TURN_SECONDS: Final = [0.01 * 2**power for power in range(20)]
_TOKENS: Final = [4**power for power in range(14)]
# https://opentelemetry.io/docs/specs/semconv/http/http-metrics/
_REQUEST_SECONDS: Final = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]
_DELAY_SECONDS: Final = [0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 20, 30, 60, 150]
_POLLS: Final = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512]
_FIRST_ERROR: Final = 400
_OTHER: Final = "_OTHER"
# Characters of a name; services and agents make them up.
_LONGEST: Final = 200
_STATES: Final = ("done", "failed", "running", "sending", "unsent", "unusable")


class Metrics:
    """A hook that records what sessions do with OpenTelemetry's instruments; the table of them is in the module.

    The number of time series is bounded: requests are labelled by the template of their path, never by an id; agents
    and models by their names, at most `most_labels` of each, and all others together as `_OTHER`.

    Args:
        meter_provider: Receives the measurements; the global provider unless given.
        most_labels: Maximum number of agents, and of models, that have time series of their own.

    Raises:
        ConfigurationError: `most_labels` is not a positive integer.
    """

    def __init__(self, meter_provider: MeterProvider | None = None, *, most_labels: int = 100) -> None:
        if not isinstance(most_labels, int) or isinstance(most_labels, bool) or most_labels < 1:
            raise ConfigurationError(f"most_labels must be a positive integer, not {most_labels!r}")
        self._agents, self._models = _Labels(most_labels), _Labels(most_labels)
        self._sessions: WeakSet[object] = WeakSet()
        meter = metrics.get_meter("nairi_async", meter_provider=meter_provider)
        self._turns = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "From the sending of a prompt to the discovery of the end of its turn.",
            explicit_bucket_boundaries_advisory=_TURN_SECONDS,
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Tokens that a turn used.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )
        self._requests = meter.create_histogram(
            "http.client.request.duration",
            "s",
            "Duration of HTTP requests, without the wait for a free connection.",
            explicit_bucket_boundaries_advisory=_REQUEST_SECONDS,
        )
        self._delays = meter.create_histogram(
            "nairi.client.discovery_delay",
            "s",
            "How long after the end of a turn it was found, as an estimate.",
            explicit_bucket_boundaries_advisory=_DELAY_SECONDS,
        )
        self._polls = meter.create_histogram(
            "nairi.client.polls",
            "{poll}",
            "Polls until the end of a turn was found.",
            explicit_bucket_boundaries_advisory=_POLLS,
        )
        self._cost = meter.create_counter("nairi.client.cost", "{USD}", "US dollars that agents reported for turns.")
        self._started = meter.create_counter("nairi.client.turns_started", "{turn}", "Started turns.")
        self._retries = meter.create_counter("nairi.client.retries", "{retry}", "Requests that are sent again.")
        self._queued = meter.create_counter(
            "nairi.client.chats_queued", "{prompt}", "Prompts that waited behind others of their chat."
        )
        self._batch = meter.create_gauge("nairi.client.batch_prompts", "{prompt}", "Prompts of a batch in each state.")
        for name, unit, what in (
            ("open_watches", "{watch}", "Watchers that wait for news."),
            ("open_connections", "{connection}", "Requests and open streams that hold a connection."),
            ("waiting_calls", "{call}", "Calls that wait for a connection or a rate limit."),
        ):
            meter.create_observable_up_down_counter(f"nairi.client.{name}", [self._observer(name)], unit, what)

    def __call__(self, event: Event) -> None:
        """Record an event."""
        match event:
            case RequestDone():
                self._record_request(event)
            case TurnEnded():
                self._record_turn(event)
            case TurnStarted():
                self._started.add(1, self._of_agent(event.turn.agent_id))
            case RetryPlanned():
                attributes: _Attributes = {"http.request.method": event.method, "url.template": event.route}
                self._retries.add(1, {**attributes, "error.type": type(event.error).__name__})
            case ChatQueued():
                self._queued.add(1, self._of_agent(event.target))
            case BatchProgress():
                for state in _STATES:
                    self._batch.set(getattr(event, state), {**self._of_agent(event.agent_id), "state": state})
            case _:
                pass

    def session_opened(self, session: object) -> None:
        """Include the session in what is observed now; called by the session."""
        self._sessions.add(session)

    def session_closed(self, session: object) -> None:
        """Leave the session out from now on; called by the session."""
        self._sessions.discard(session)

    def _record_request(self, event: RequestDone) -> None:
        attributes: _Attributes = {"http.request.method": event.method, "url.template": event.route}
        if event.host:
            attributes["server.address"] = event.host
        if event.port is not None:
            attributes["server.port"] = event.port
        if event.status is not None:
            attributes["http.response.status_code"] = event.status
            if event.status >= _FIRST_ERROR:
                attributes["error.type"] = str(event.status)
        if event.error is not None:
            attributes["error.type"] = type(event.error).__name__
        self._requests.record(event.seconds, attributes)

    def _record_turn(self, event: TurnEnded) -> None:
        agent = self._of_agent(event.turn.agent_id)
        self._delays.record(max(0.0, event.discovery_delay), agent)
        self._polls.record(event.polls, agent)
        operation: _Attributes = {"gen_ai.operation.name": "invoke_agent", "gen_ai.provider.name": "nairi", **agent}
        if event.usage is not None and event.usage.model is not None:
            operation["gen_ai.response.model"] = self._models.label(event.usage.model)
        failure: _Attributes = {} if event.status == "completed" else {"error.type": event.status}
        self._turns.record(max(0.0, event.seconds), {**operation, **failure})
        if event.usage is not None:
            self._record_usage(event.usage, operation)

    def _record_usage(self, usage: Usage, operation: _Attributes) -> None:
        for kind, count in (("input", usage.input_tokens), ("output", usage.output_tokens)):
            if count is not None and count >= 0:
                self._tokens.record(count, {**operation, "gen_ai.token.type": kind})
        if usage.cost_usd is not None and usage.cost_usd >= 0:
            self._cost.add(float(usage.cost_usd), operation)

    def _of_agent(self, agent_id: str | None) -> _Attributes:
        return {} if agent_id is None else {"gen_ai.agent.id": self._agents.label(agent_id)}

    def _observer(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            # Called from the thread of a reader. A session of Amigo has no watches.
            stats: list[Any] = [getattr(session, "stats", None) for session in tuple(self._sessions)]
            return [Observation(sum(getattr(one, name, 0) for one in stats))]

        return observe


class _Labels:
    """The first values of a label, up to a number; all others become one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def label(self, value: str) -> str:
        """Return the value, no longer than a name is, or `_OTHER` if there are too many."""
        value = value[:_LONGEST]
        if value not in self._known:
            if len(self._known) >= self._most:
                return _OTHER
            self._known.add(value)
        return value
