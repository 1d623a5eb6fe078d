#!/usr/bin/env bash
# httpx-sse: a keep-alive comment of an event stream arrives as an empty event.
#
# Most expect: a line that begins with a colon is a comment. Servers send ": ping" and an empty line to keep a connection
#   open, and a client never hears of it; the standard says that a block without data is not dispatched.
# What happens: the empty line behind a `retry:` or `id:` field dispatches an event of the type "message" whose data is
#   the empty string, so `json.loads(event.data)` fails on a stream that every browser reads. A comment alone is left out
#   after all, unless the event before it had an id: then the remembered id is enough to make an event of it.
# Versions: httpx-sse 0.4.3, httpx 0.28.1, Python 3.11 and newer.
# Source: seen by running; https://html.spec.whatwg.org/multipage/server-sent-events.html#dispatchMessage
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet httpx==0.28.1 httpx-sse==0.4.3
cat >"$folder/try.py" <<'PYTHON'
import httpx
import httpx_sse

STREAMS = {
    "a comment": b": ping\n\ndata: 1\n\n",
    "a retry field": b"retry: 3000\n\ndata: 1\n\n",
    "a comment after an id": b"id: 7\ndata: 1\n\n: ping\n\n",
}


def events(body):
    headers = {"Content-Type": "text/event-stream"}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, headers=headers, content=body))
    with httpx.Client(transport=transport) as http, httpx_sse.connect_sse(http, "GET", "http://test/") as source:
        return [(event.event, event.data) for event in source.iter_sse()]


seen = {name: events(body) for name, body in STREAMS.items()}
for name, found in seen.items():
    print(f"{name}: {found}")
one = ("message", "1")
expected = {"a comment": [one], "a retry field": [("message", ""), one], "a comment after an id": [one, ("message", "")]}
assert seen == expected, "it has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
