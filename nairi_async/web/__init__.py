"""Conversations in a web application: what an agent says, as Server-Sent Events, for any framework.

`EventStreams` holds the open streams of one application process; each `EventStream` is an async iterator of bytes that
goes into the streaming response of FastAPI, Starlette, aiohttp.web or another. The README shows whole applications.
"""

from __future__ import annotations

from nairi_async.web.events import error_json, http_status
from nairi_async.web.stream import EventStream
from nairi_async.web.streams import EventStreams

__all__ = ["EventStream", "EventStreams", "error_json", "http_status"]
