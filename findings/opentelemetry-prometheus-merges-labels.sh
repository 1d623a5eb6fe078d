#!/usr/bin/env bash
# OpenTelemetry's Prometheus exporter: attributes whose names differ in a dot make duplicate series, and one value is lost.
#
# Most expect: `pay.method` and `pay_method` both become the label `pay_method`, and values that meet there are joined by a
#   semicolon, as OpenTelemetry's rules for Prometheus say; points that become equal are added up.
# What happens: a point with both attributes keeps only one of the values, and two points that differ only in the name are
#   written as two lines with the same name and labels. A program that adopts newer attribute names while a library still
#   uses the old ones meets this.
# Versions: opentelemetry-sdk 1.45.2, opentelemetry-exporter-prometheus 0.66b2, prometheus_client 0.26.0.
# Source: seen by running; https://github.com/open-telemetry/opentelemetry-python/issues/3928
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet opentelemetry-sdk==1.45.2 \
  opentelemetry-exporter-prometheus==0.66b2 prometheus_client==0.26.0
cat >"$folder/try.py" <<'PYTHON'
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import REGISTRY

orders = MeterProvider([PrometheusMetricReader()]).get_meter("shop").create_counter("orders")
orders.add(1, {"pay.method": "card"})
orders.add(2, {"pay_method": "card"})
orders.add(4, {"pay.method": "voucher", "pay_method": "cash"})
family = next(metric for metric in REGISTRY.collect() if metric.name == "orders")
seen = [(sample.labels["pay_method"], sample.value) for sample in family.samples]
print("lines of orders_total, by the label pay_method:", seen)
assert sorted(seen)[:2] == [("card", 1.0), ("card", 2.0)], "it has changed"
assert len(seen) == 3 and sorted(seen)[2] in {("cash", 4.0), ("voucher", 4.0)}, "it has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
