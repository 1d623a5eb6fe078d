"""What the gate has found out about the request at hand, for whoever answers it."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar

from attrs import field, frozen


@frozen
class RequestExecutor:
    """Who asks, which headers the answer gets, and whether it is to be lost on its way back."""

    user_id: str = ""
    headers: Mapping[str, str] = field(factory=dict)
    is_lost: bool = False


executor: ContextVar[RequestExecutor] = ContextVar("caller")
"""Each request runs in a context of its own, or in that of its connection, one after another."""
