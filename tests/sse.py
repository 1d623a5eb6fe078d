"""A `text/event-stream` as a browser reads it, by the rules of the HTML standard."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator


@frozen
class ServerEvent:
    name: str
    data: Any
    last_id: str
    """The `Last-Event-ID` that the browser would send from here on."""


async def parsed(chunks: AsyncIterable[bytes]) -> AsyncIterator[ServerEvent]:
    """Yield each event as its last line comes; comments and blocks without data are no events."""
    rest, last_id, name, data = b"", "", "message", list[str]()
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            field, _, value = line.decode().partition(":")
            value = value.removeprefix(" ")
            if not line and data:
                yield ServerEvent(name, json.loads("\n".join(data)), last_id)
            if not line:
                name, data = "message", []
            elif field == "id":
                last_id = value
            elif field == "event":
                name = value
            elif field == "data":
                data.append(value)
