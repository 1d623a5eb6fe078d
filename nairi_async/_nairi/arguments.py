"""Checks of arguments: a `Turn` is taken where the id of a turn, a conversation or a message is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from nairi_async._core import checks
from nairi_async.errors import InvalidArgumentError
from nairi_async.models import Turn

DEFAULT_LIMIT: Final = 100
"""Conversations that `ask_many` and a batch run at once by default."""


def turn(value: object) -> Turn:
    """Return a turn whose ids can stand in a path."""
    if not isinstance(value, Turn):
        kind = type(value).__name__
        raise InvalidArgumentError(f"turn must be a Turn, as start() and continue_() return it, not {kind}")
    # A turn may come from a file.
    checks.identifier("job_id", value.job_id)
    checks.identifier("message_id", value.message_id)
    return value


def targets(value: object) -> list[Turn | str]:
    """Return the turns and job ids of an iterable."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidArgumentError(f"turns must be an iterable of turns or job ids, not {type(value).__name__}")
    return [_target(entry) for entry in value]


def cursors(value: object) -> dict[Turn | str, str]:
    """Return ids of messages by turn or job id."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidArgumentError(f"after must map turns to ids of messages, not {type(value).__name__}")
    return {_target(key): checks.identifier("after", cursor) for key, cursor in value.items()}


def _target(value: object) -> Turn | str:
    return checks.identifier("job_id", value) if isinstance(value, str) else turn(value)


def job_id(value: object) -> str:
    """Return the id of a conversation, also from one of its turns."""
    return turn(value).job_id if isinstance(value, Turn) else checks.identifier("job_id", value)


def message_id(value: object, name: str = "message_id") -> str:
    """Return the id of a message, of a turn that of its user message."""
    return turn(value).message_id if isinstance(value, Turn) else checks.identifier(name, value)


def agent_id(value: object) -> str | None:
    """Return the agent that a turn knows."""
    return value.agent_id if isinstance(value, Turn) else None


def repairs(value: object, into: object) -> int:
    """Return how many follow-up prompts may be sent to get a reply that fits a type."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidArgumentError(f"repair must be a whole number of at least 0, not {value!r}")
    if value and into is None:
        raise InvalidArgumentError("repair needs into=: only a reply that must fit a type can be repaired")
    return value
