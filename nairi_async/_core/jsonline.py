"""A model as JSON, the same for the command line and for browsers."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from attrs import asdict

if TYPE_CHECKING:
    from attrs import AttrsInstance


def json_line(model: AttrsInstance) -> str:
    """A model as one line of ASCII JSON; times and decimals are strings.

    `Progress.raw` is left out: the content of the message is the same text.
    """
    document = asdict(model, filter=lambda attribute, _: attribute.name != "raw")
    return json.dumps(document, default=_as_text, ensure_ascii=True)


def _as_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
