"""JSON in and out: reading and checking requests, writing answers."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from nairi_async.testing.refused import RefusedError


def answer(payload: object, status: int = 200) -> web.Response:
    """Return a JSON answer; text stays UTF-8, as the service's own encoder leaves it."""
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    return web.Response(body=text.encode("utf-8", "replace"), status=status, content_type="application/json")


def refusal(error: RefusedError) -> web.Response:
    """Return an error in the one shape that the service has."""
    response = answer({"error": error.text}, error.status)
    response.headers.update(error.headers)
    return response


async def read_object(request: web.Request, *, required: bool = True) -> dict[str, Any]:
    """Return the body as a JSON object; `{}` for no body where none is required."""
    raw = await request.read()
    if not raw and not required:
        return {}
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise RefusedError(400, "invalid request body") from None
    if not isinstance(body, dict):
        raise RefusedError(400, "request body must be an object")
    return body


def required_text(body: dict[str, Any], name: str) -> str:
    """Return a string that may be neither missing nor empty."""
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise RefusedError(400, f"{name} must be a string")
    if not value:
        raise RefusedError(400, f"{name} is required")
    return value


def flag(body: dict[str, Any], name: str) -> bool:
    """Return a boolean that is false when absent."""
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise RefusedError(400, f"{name} must be a boolean")
    return value


def texts(body: dict[str, Any], name: str) -> list[str]:
    """Return a list of strings that is empty when absent."""
    value = body.get(name, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise RefusedError(400, f"{name} must be an array of strings")
    return value
