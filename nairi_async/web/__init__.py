"""Conversations in a web application: what an agent says, as Server-Sent Events, for any framework.

`EventStreams` holds the open streams of one application process. Each `EventStream` is an async iterator of bytes for
the streaming response of FastAPI, Starlette, aiohttp.web or another framework. The README shows whole applications.
"""

from __future__ import annotations

from nairi_async.web.error_responses import error_json, http_status
from nairi_async.web.event_stream import EventStream
from nairi_async.web.event_streams import EventStreams

__all__ = ["EventStream", "EventStreams", "error_json", "http_status"]
