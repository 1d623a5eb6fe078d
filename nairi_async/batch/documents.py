"""How an item ended, as text in the ledger and as a line for programs: pure functions, the same bytes each time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from attrs import fields_dict

from nairi_async import errors
from nairi_async._nairi.results import Reply
from nairi_async._nairi.wire import structure_message
from nairi_async.errors import NairiError, TurnFailedError
from nairi_async.models import Turn, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nairi_async.models import Message

_COUNTS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")


def ended(turn: Turn | None, result: Reply | NairiError) -> str:
    """What is stored of an end: the messages, from which all else follows, and the error."""
    messages = getattr(result, "messages", ())
    document: dict[str, Any] = {"messages": [_raw(message) for message in messages]}
    if turn is not None:
        document["turn"] = [turn.job_id, turn.message_id]
    if isinstance(result, NairiError):
        document["error"] = _error(result)
    return json.dumps(document, separators=(",", ":"))


def restored(text: str, agent_id: str) -> tuple[Turn | None, Reply | NairiError]:
    """The turn and what came of it, from what was stored."""
    document = json.loads(text)
    turn = Turn(*document["turn"], agent_id=agent_id) if "turn" in document else None
    messages = tuple(structure_message(raw) for raw in document["messages"])
    if "error" in document:
        return turn, _restored_error(document["error"], turn, messages)
    assert turn is not None, "only what was asked has a reply"  # noqa: S101 - written by `ended`
    return turn, Reply.of(turn, messages)


def line(id_: str, text: str) -> bytes:
    """The line of the output for an item: ASCII JSON, from nothing but what is stored."""
    turn, result = restored(text, "")
    document: dict[str, Any] = {"id": id_, "status": "completed"}
    if isinstance(result, Reply):
        document |= {
            "text": result.text,
            "usage": _usage(result.usage) or None,
            "attachment_ids": list(result.attachment_ids),
        }
    else:
        document |= {"status": "failed", "error": {"type": type(result).__name__, "message": str(result)}}
    if turn is not None:
        document |= {"job_id": turn.job_id, "message_id": turn.message_id}
    return json.dumps(document).encode() + b"\n"


def _raw(message: Message) -> dict[str, Any]:
    """A message as the service would print it, as far as it says anything."""
    raw = {
        "id": message.id,
        "job_id": message.job_id,
        "role": message.role,
        "status": message.status,
        "content": message.content,
        "created_at": None if message.created_at is None else message.created_at.isoformat(),
        "updated_at": None if message.updated_at is None else message.updated_at.isoformat(),
        "attachment_ids": list(message.attachment_ids) or None,
        **_usage(message.usage),
    }
    return {name: value for name, value in raw.items() if value is not None}


def _usage(usage: Usage | None) -> dict[str, Any]:
    if usage is None:
        return {}
    cost = None if usage.cost_usd is None else f"{usage.cost_usd:f}"
    counts = {name: getattr(usage, name) for name in _COUNTS}
    return {"cost_usd": cost, **counts, "model": usage.model}


def _error(error: NairiError) -> dict[str, Any]:
    """The plain fields; a cause is a matter of the process that saw it."""
    kind: Any = type(error)
    plain = {name: getattr(error, name) for name in fields_dict(kind)}
    kept = {name: value for name, value in plain.items() if isinstance(value, str | int | float)}
    return {"type": type(error).__name__, **kept}


def _restored_error(stored: dict[str, Any], turn: Turn | None, messages: Iterable[Message]) -> NairiError:
    name = stored.pop("type")
    if name == TurnFailedError.__name__ or name not in errors.__all__:
        return TurnFailedError(stored["message"], turn, tuple(messages))
    kind = getattr(errors, name)
    error: NairiError = kind(**{name: value for name, value in stored.items() if name in fields_dict(kind)})
    if turn is not None:
        error.turn = turn
    return error
