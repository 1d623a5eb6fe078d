"""How an item ended, as text in the ledger and as a line for programs: pure functions, the same bytes each time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from nairi_async import errors
from nairi_async._core.error_fields import field_names
from nairi_async._core.json_body import plain_decimal
from nairi_async._nairi.results import Reply
from nairi_async._nairi.wire import message_reader
from nairi_async.errors import NairiError, ReplyFormatError, TurnFailedError
from nairi_async.models import Turn, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from nairi_async.models import Message

# Made once: `json.dumps` makes an encoder for each call that has options.
_encode = json.JSONEncoder(separators=(",", ":")).encode
_COUNTS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")


def encode_result(turn: Turn | None, result: Reply | NairiError, earlier: Iterable[str] = ()) -> str:
    """Encode a result as the ledger stores it: the messages, from which all else follows, and the error.

    `earlier` holds the results of the turns before it, if the item has several.
    """
    said = result.reply if isinstance(result, ReplyFormatError) else result
    messages = getattr(said, "messages", ())
    document: dict[str, Any] = {"messages": [_encode_message(message) for message in messages]}
    if before := [json.loads(one) for one in earlier]:
        document["earlier"] = before
    if turn is not None:
        document["turn"] = [turn.job_id, turn.message_id]
    if isinstance(result, NairiError):
        document["error"] = _encode_error(result)
    return _encode(document)


def decode_result(text: str, agent_id: str) -> tuple[Turn | None, Reply | NairiError]:
    """Return the turn and its result, from the text that the ledger stored."""
    return _decode(json.loads(text), agent_id)


def decode_replies(text: str, agent_id: str) -> tuple[Reply, ...]:
    """Return the replies of all turns of an item, in order, from the text that the ledger stored."""
    document = json.loads(text)
    return _replies(document, _decode(document, agent_id)[1], agent_id)


def _replies(document: dict[str, Any], last: Reply | NairiError, agent_id: str) -> tuple[Reply, ...]:
    results = [*(_decode(one, agent_id)[1] for one in document.get("earlier", ())), last]
    said = [result.reply if isinstance(result, ReplyFormatError) else result for result in results]
    return tuple(reply for reply in said if isinstance(reply, Reply))


def turn_of(text: str) -> Turn | None:
    """Return the turn alone, from the text that the ledger stored."""
    ids = json.loads(text).get("turn")
    return None if ids is None else Turn(*ids)


def _decode(document: dict[str, Any], agent_id: str) -> tuple[Turn | None, Reply | NairiError]:
    turn = Turn(*document["turn"], agent_id=agent_id) if "turn" in document else None
    messages = tuple(map(message_reader(), document["messages"]))
    if "error" in document:
        return turn, _decode_error(document["error"], turn, messages)
    assert turn is not None, "only a turn has a reply"  # noqa: S101 - written by `encode_result`
    return turn, Reply.of(turn, messages)


def output_line(id_: str, text: str, fields: Mapping[str, object] | None = None) -> bytes:
    """Return the output's line for an item: ASCII JSON, made from nothing but what the ledger stores.

    The record's own fields come first. An item with several turns has the replies of all of them as `replies`, and the
    sum of their usage.
    """
    stored = json.loads(text)
    turn, result = _decode(stored, "")
    replies = _replies(stored, result, "")
    document: dict[str, Any] = {**(fields or {}), "id": id_, "status": "completed"}
    if isinstance(result, Reply):
        usage = Usage.total(reply.usage for reply in replies)
        document |= {
            "text": result.text,
            "usage": _encode_usage(usage) or None,
            "attachment_ids": list(result.attachment_ids),
        }
    else:
        document |= {"status": "failed", "error": {"type": type(result).__name__, "message": str(result)}}
        if isinstance(result, ReplyFormatError):
            document["text"] = result.reply.text
    if turn is not None:
        document |= {"job_id": turn.job_id, "message_id": turn.message_id}
    if "earlier" in stored:
        document["replies"] = [{"text": one.text, "message_id": one.turn.message_id} for one in replies]
    return json.dumps(document).encode() + b"\n"


def outcome_line(
    id_: str, turn: Turn | None, result: Reply | NairiError, replies: Sequence[Reply], fields: Mapping[str, object]
) -> bytes:
    """Return the output's line for an outcome."""
    has_last = isinstance(result, Reply | ReplyFormatError)
    earlier = [encode_result(reply.turn, reply) for reply in (replies[:-1] if has_last else replies)]
    return output_line(id_, encode_result(turn, result, earlier), fields)


OUTPUT_KEYS: Final = frozenset(
    {"id", "status", "text", "usage", "attachment_ids", "error", "job_id", "message_id", "replies"}
)
"""The keys of a line that are not the record's own."""


def _encode_message(message: Message) -> dict[str, Any]:
    """Encode a message as the service would, without the fields that it does not have."""
    raw = {
        "id": message.id,
        "job_id": message.job_id,
        "role": message.role,
        "status": message.status,
        "content": message.content,
        "created_at": None if message.created_at is None else message.created_at.isoformat(),
        "updated_at": None if message.updated_at is None else message.updated_at.isoformat(),
        "attachment_ids": list(message.attachment_ids) or None,
        **_encode_usage(message.usage),
    }
    return {name: value for name, value in raw.items() if value is not None}


def _encode_usage(usage: Usage | None) -> dict[str, Any]:
    if usage is None:
        return {}
    cost = None if usage.cost_usd is None else plain_decimal(usage.cost_usd)
    counts = {name: getattr(usage, name) for name in _COUNTS}
    return {"cost_usd": cost, **counts, "model": usage.model}


def _encode_error(error: NairiError) -> dict[str, Any]:
    """Encode the plain fields of an error; its cause means nothing outside of the process that raised it."""
    kind: Any = type(error)
    values = {name: getattr(error, name) for name in field_names(kind)}
    plain = {name: value for name, value in values.items() if isinstance(value, str | int | float)}
    return {"type": type(error).__name__, **plain}


def _decode_error(stored: dict[str, Any], turn: Turn | None, messages: Iterable[Message]) -> NairiError:
    name = stored.pop("type")
    if name == ReplyFormatError.__name__ and turn is not None:
        unfit = ReplyFormatError(stored["message"], Reply.of(turn, messages))
        unfit.turn = turn
        return unfit
    if name == TurnFailedError.__name__ or name not in errors.__all__:
        return TurnFailedError(stored["message"], turn, tuple(messages))
    kind = getattr(errors, name)
    error: NairiError = kind(**{name: value for name, value in stored.items() if name in field_names(kind)})
    if turn is not None:
        error.turn = turn
    return error
