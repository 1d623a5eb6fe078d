"""Sessions that face a test server, and what such a server says."""

from __future__ import annotations

import json
from typing import Any

from support import answer

from nairi_async.amigo import AmigoSession, Limits
from nairi_async.testing import VirtualClock

KEY = "amigo_simulator"
TOKEN = "eyJhbGciOi.a-token-that-nobody-may-see"
ID = "67d871c23eb91293ecfae8b0"
SIGNED_IN = answer(200, json.dumps({"id_token": TOKEN, "expires_at": "2999-01-01T00:00:00Z"}))


def session(url: str, key: str = KEY, **options: Any) -> AmigoSession:
    """Return a session that faces a test server and waits in virtual time."""
    who = {"api_key_id": "simulated-key", "user_id": "simulated-user", "organization_id": "simulated"}
    return AmigoSession(key, base_url=url, **{"clock": VirtualClock(), "limits": Limits.none(), **who, **options})


def lines(*events: dict[str, Any] | bytes) -> bytes:
    """Return a body of events, one a line."""
    return b"".join((event if isinstance(event, bytes) else json.dumps(event).encode()) + b"\n" for event in events)


def chunked(body: bytes, *, is_whole: bool = True) -> bytes:
    """Return an answer that is sent in chunks; one that is not whole lacks the last, which is nothing."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    piece = f"{len(body):x}\r\n".encode() + body + b"\r\n" if body else b""
    return head + piece + (b"0\r\n\r\n" if is_whole else b"")


TAKEN = {"type": "user-message-available", "message_id": "67d871c23eb91293ecfae8b4", "user_message": "Hi"}
PIECE = {"type": "new-message", "message": "Let me check.", "message_id": "67d871c23eb91293ecfae8b5", "stop": True}
COMPLETE = {
    "type": "interaction-complete",
    "message_id": "67d871c23eb91293ecfae8b5",
    "interaction_id": "67d871c23eb91293ecfae8b6",
    "full_message": "Let me check.",
    "conversation_completed": False,
}
ERROR = {"type": "error", "http_error_code": 503, "error_description": "no model today"}
