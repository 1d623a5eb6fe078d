r"""OpenTelemetry: spans of turns, and metrics. Needs `opentelemetry-api`: install `nairi-async[otel]`.

`TurnSpans` reports each turn as a span, `Metrics` counts and measures. Both are hooks of a session:

```python
import asyncio
import logging
import os

from nairi_async import NairiSession
from nairi_async.otel import Metrics, TurnSpans
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import start_http_server


async def main() -> None:
    logging.basicConfig(filename="nairi.log", level=logging.INFO)  # DEBUG has each request and each poll
    start_http_server(int(os.environ.get("METRICS_PORT", "9464")))  # Prometheus reads /metrics there
    metrics = Metrics(MeterProvider([PrometheusMetricReader()]))
    async with NairiSession(hooks=[metrics, TurnSpans()], trust_env=True) as nairi:  # HTTPS_PROXY, SSL_CERT_FILE
        print((await nairi.ask("my-agent", "Refund cus_123.")).text)


asyncio.run(main())
```

Instead of the environment: `NairiSession(proxy="http://proxy.example.com:3128", ssl="authority.pem")`.

The packages of this example: `nairi-async[otel]`, `opentelemetry-sdk`, `opentelemetry-exporter-prometheus`. Without
arguments, both hooks use the global providers. One `Metrics` serves any number of sessions, of both services.

Spans of single requests come from the official `opentelemetry-instrumentation-aiohttp-client`, which needs nothing from
this library.

The instruments of `Metrics`, with the names that Prometheus shows. Labels are few, and none is an id of a conversation,
message or chat:

| instrument | in Prometheus | labels |
| --- | --- | --- |
| `gen_ai.client.operation.duration` | `gen_ai_client_operation_duration_seconds` | agent, model, error |
| `gen_ai.client.token.usage` | `gen_ai_client_token_usage` | agent, model, `gen_ai_token_type` |
| `http.client.request.duration` | `http_client_request_duration_seconds` | method, template, status, error, server |
| `nairi.client.cost` | `nairi_client_cost_total`, US dollars | agent, model |
| `nairi.client.discovery_delay` | `nairi_client_discovery_delay_seconds` | agent |
| `nairi.client.polls` | `nairi_client_polls`, for each turn that ended | agent |
| `nairi.client.turns_started` | `nairi_client_turns_started_total` | agent |
| `nairi.client.retries` | `nairi_client_retries_total` | method, `url_template`, error |
| `nairi.client.chats_queued` | `nairi_client_chats_queued_total` | agent |
| `nairi.client.batch_prompts` | `nairi_client_batch_prompts` | agent, `state` |
| `nairi.client.open_watches` | `nairi_client_open_watches` | |
| `nairi.client.open_connections` | `nairi_client_open_connections` | |
| `nairi.client.waiting_calls` | `nairi_client_waiting_calls` | |

The names that begin with `gen_ai` and `http` follow OpenTelemetry's conventions:
https://github.com/open-telemetry/semantic-conventions-genai and
https://opentelemetry.io/docs/specs/semconv/http/http-metrics/. The buckets of turns go on to 1.4 hours.

A dashboard for Grafana (*Dashboards*, *New*, *Import*); it uses the default data source:

```json
{
  "title": "nairi_async",
  "schemaVersion": 39,
  "time": {"from": "now-6h", "to": "now"},
  "panels": [
    {"id": 1, "type": "timeseries", "title": "Ended turns a second", "gridPos": {"x": 0, "y": 0, "w": 8, "h": 8},
     "targets": [{"refId": "A", "legendFormat": "{{gen_ai_agent_id}} {{error_type}}",
       "expr": "sum by (gen_ai_agent_id, error_type) (rate(gen_ai_client_operation_duration_seconds_count[5m]))"}]},
    {"id": 2, "type": "timeseries", "title": "Duration of turns", "gridPos": {"x": 8, "y": 0, "w": 8, "h": 8},
     "fieldConfig": {"defaults": {"unit": "s"}, "overrides": []},
     "targets": [{"refId": "A", "legendFormat": "95 % of {{gen_ai_agent_id}}",
       "expr": "histogram_quantile(0.95, sum by (le, gen_ai_agent_id) (rate(gen_ai_client_operation_duration_seconds_bucket[5m])))"}]},
    {"id": 3, "type": "timeseries", "title": "Cost, US dollars an hour", "gridPos": {"x": 16, "y": 0, "w": 8, "h": 8},
     "targets": [{"refId": "A", "legendFormat": "{{gen_ai_agent_id}}",
       "expr": "sum by (gen_ai_agent_id) (rate(nairi_client_cost_total[1h])) * 3600"}]},
    {"id": 4, "type": "timeseries", "title": "Requests, each second", "gridPos": {"x": 0, "y": 8, "w": 8, "h": 8},
     "targets": [{"refId": "A", "legendFormat": "{{url_template}} {{http_response_status_code}} {{error_type}}",
       "expr": "sum by (url_template, http_response_status_code, error_type) (rate(http_client_request_duration_seconds_count[5m]))"},
      {"refId": "B", "legendFormat": "retries", "expr": "sum(rate(nairi_client_retries_total[5m]))"}]},
    {"id": 5, "type": "timeseries", "title": "News: how late, and polls for each turn", "gridPos": {"x": 8, "y": 8, "w": 8, "h": 8},
     "targets": [{"refId": "A", "legendFormat": "seconds late",
       "expr": "sum(rate(nairi_client_discovery_delay_seconds_sum[5m])) / sum(rate(nairi_client_discovery_delay_seconds_count[5m]))"},
      {"refId": "B", "legendFormat": "polls",
       "expr": "sum(rate(nairi_client_polls_sum[5m])) / sum(rate(nairi_client_polls_count[5m]))"}]},
    {"id": 6, "type": "timeseries", "title": "Tokens, each second", "gridPos": {"x": 16, "y": 8, "w": 8, "h": 8},
     "targets": [{"refId": "A", "legendFormat": "{{gen_ai_token_type}}",
       "expr": "sum by (gen_ai_token_type) (rate(gen_ai_client_token_usage_sum[5m]))"}]},
    {"id": 7, "type": "timeseries", "title": "Now", "gridPos": {"x": 0, "y": 16, "w": 12, "h": 8},
     "targets": [{"refId": "A", "legendFormat": "watches", "expr": "sum(nairi_client_open_watches)"},
      {"refId": "B", "legendFormat": "connections", "expr": "sum(nairi_client_open_connections)"},
      {"refId": "C", "legendFormat": "calls that wait", "expr": "sum(nairi_client_waiting_calls)"}]},
    {"id": 8, "type": "timeseries", "title": "Batches and bots", "gridPos": {"x": 12, "y": 16, "w": 12, "h": 8},
     "targets": [{"refId": "A", "legendFormat": "{{state}}", "expr": "sum by (state) (nairi_client_batch_prompts)"},
      {"refId": "B", "legendFormat": "chats queued, each second", "expr": "sum(rate(nairi_client_chats_queued_total[5m]))"},
      {"refId": "C", "legendFormat": "turns started, each second", "expr": "sum(rate(nairi_client_turns_started_total[5m]))"}]}
  ]
}
```
"""  # noqa: E501 - the queries of a dashboard are long

from __future__ import annotations

from nairi_async.otel.metrics import Metrics
from nairi_async.otel.spans import TurnSpans

__all__ = ["Metrics", "TurnSpans"]
