"""JSON bodies of the simulated services: requests are read and checked, responses and errors are written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Mapping


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class RefusedError(Exception):
    """A simulated service refuses a request: HTTP status, text of the error, and headers that go with it."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text
        self.headers: dict[str, str] = dict(headers or {})


def json_response(payload: object, status: int = 200) -> web.Response:
    """Return a JSON response; text stays UTF-8 and is not escaped."""
    return web.Response(
        body=_encode(payload).encode("utf-8", "replace"), status=status, content_type="application/json"
    )


def error_response(error: RefusedError) -> web.Response:
    """Return a response of the shape that all errors of the service have."""
    response = json_response({"error": error.text}, error.status)
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


def whole_number(value: object) -> int | None:
    """Return a JSON number without a fraction, such as `8` or `8.0`, as JSON Schema defines an integer; else `None`."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
