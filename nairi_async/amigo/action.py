"""What all actions of an agent have; `nairi_async.amigo.actions` holds their types, and is imported with the first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field

from nairi_async._core.records import frozen

VersionPair = tuple[str, int]
"""An id and a version."""


@frozen(kw_only=True)
class Action:
    """The fields that all actions have."""

    type: str
    """The name of the action, as the service writes it."""
    raw: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)
    """The JSON object, unknown fields included."""


@frozen(kw_only=True)
class UnknownAction(Action):
    """An action of a type that this library does not know."""
