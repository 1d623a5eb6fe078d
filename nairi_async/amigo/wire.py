"""Bytes to models and back, without any input or output (api/amigo.md sections 2 to 6).

One rule reads everything, because the service's schema and its own examples do not agree: a field that is absent or not
of the documented form takes its default, and never costs the rest.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar, Union, get_args, get_origin

from attrs import fields, frozen, has, resolve_types
from cattrs import Converter

from nairi_async._core import json_body
from nairi_async.amigo import actions, events
from nairi_async.amigo.models import AmigoMessage, ConversationInfo, Insights, MessageSource, Starter
from nairi_async.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nairi_async.amigo.events import Event

_T = TypeVar("_T")
_Raw = Mapping[str, Any]
_PAIR: Final = 2


@frozen
class Token:
    """What a sign-in gives."""

    value: str
    """The token; nobody prints it."""
    expires_at: datetime | None
    """When it ends, by the service's clock."""

    def __repr__(self) -> str:
        return "<Token: not shown>"


@frozen
class Page:
    """One page of a list."""

    rows: tuple[Any, ...]
    """What is on it."""
    next: int | None
    """What to ask the next one with; `None` on the last."""


def encode(document: Mapping[str, Any]) -> bytes:
    """A JSON body."""
    return json.dumps(document, ensure_ascii=True, separators=(",", ":")).encode("ascii")


def decode_event(line: bytes) -> Event:
    """One line of a stream; never fails."""
    try:
        raw = _decode(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        raw = None
    if not isinstance(raw, dict):
        return events.UnknownEvent(type="", text=json_body.excerpt(line))
    kind = events.BY_TYPE.get(_text(raw.get("type")) or "", events.UnknownEvent)
    return _converter.structure(raw, kind)


def decode_token(body: bytes) -> Token:
    """The answer to a sign-in. The body is a secret, so no error repeats it."""
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError):
        raw = None
    document: _Raw = raw if isinstance(raw, dict) else {}
    token = document.get("id_token")
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or " " in token or not token:
        raise DecodeError("the answer to the sign-in cannot be read: no id_token in it that could be sent")
    return Token(token, _time(document.get("expires_at")))


def decode_conversations(body: bytes) -> Page:
    """One page of conversations."""
    return _page(body, "conversations", ConversationInfo)


def decode_messages(body: bytes) -> Page:
    """One page of messages."""
    return _page(body, "messages", AmigoMessage)


def decode_source(body: bytes) -> MessageSource:
    """Where the audio of a message is."""
    return _structured(body, MessageSource)


def decode_insights(body: bytes) -> Insights:
    """What the agent had in mind."""
    return _structured(body, Insights)


def decode_recommended(body: bytes) -> tuple[str, ...]:
    """Recommended responses."""
    responses: tuple[str, ...] = _required(_object(body), "recommended_responses", _row(_text), body)
    return responses


def decode_starters(body: bytes) -> tuple[Starter, ...]:
    """Conversation starters."""
    starters: tuple[Starter, ...] = _required(_object(body), "prompts", _row(_reader(Starter)), body)
    return starters


def decode_nothing(_body: bytes) -> None:
    """An answer whose status says all."""


def _page(body: bytes, name: str, kind: type[Any]) -> Page:
    raw = _object(body)
    rows = _required(raw, name, _row(_reader(kind)), body)
    following = _whole(raw.get("continuation_token"))
    if raw.get("has_more") is True and following is None:
        raise _unreadable("more is said to follow, and not how to ask for it", body)
    return Page(rows, following if raw.get("has_more") is True else None)


def _structured(body: bytes, kind: type[_T]) -> _T:
    return _converter.structure(_object(body), kind)


def _required(raw: _Raw, name: str, read: Callable[[Any], Any], body: bytes) -> Any:
    value = read(raw.get(name))
    if value is None:
        raise _unreadable(f"no {name} in it", body)
    return value


def _object(body: bytes) -> _Raw:
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError) as error:
        # Retold, because the original would hold on to the whole body.
        cause = ValueError(f"{type(error).__name__}: {error}"[: json_body.EXCERPT])
    else:
        if isinstance(raw, dict):
            return raw
        cause = ValueError("not an object")
    raise _unreadable("not a JSON object", body) from cause


def _unreadable(reason: str, body: bytes) -> DecodeError:
    return DecodeError(f"the answer cannot be read: {reason}", excerpt=json_body.excerpt(body))


# Readers: a value of the documented form as it is, anything else as nothing.


def _text(raw: object) -> str | None:
    return raw if isinstance(raw, str) else None


def _flag(raw: object) -> bool | None:
    return raw if isinstance(raw, bool) else None


def _whole(raw: object) -> int | None:
    return raw if isinstance(raw, int) and not isinstance(raw, bool) else None


def _number(raw: object) -> float | None:
    if not isinstance(raw, int | float) or isinstance(raw, bool):
        return None
    try:
        return float(raw)
    except OverflowError:
        return None


def _time(raw: object) -> datetime | None:
    return json_body.parse_time(raw)


def _mapping(raw: object) -> _Raw | None:
    return raw if isinstance(raw, dict) else None


def _as_it_is(raw: object) -> object:
    return raw


_PLAIN: Final[Mapping[Any, Callable[[Any], Any]]] = {
    str: _text,
    bool: _flag,
    int: _whole,
    float: _number,
    datetime: _time,
    Any: _as_it_is,
    actions.Action: lambda raw: _structure_action(raw) if isinstance(raw, dict) else None,
}

# What these readers give back as it is, so that most values need no call.
_EXACT: Final[Mapping[Callable[[Any], Any], type]] = {_text: str, _flag: bool, _whole: int}


def _reader(kind: Any) -> Callable[[Any], Any]:
    """What reads a value of a type; gives `None` for what is not of it."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in {Union, types.UnionType}:
        return _reader(next(part for part in parts if part is not type(None)))
    if origin is Mapping:
        return _mapping
    if origin is tuple:
        return _row(_reader(parts[0])) if parts[-1] is Ellipsis else _pair(*map(_reader, parts))
    if has(kind) and kind is not actions.Action:
        return lambda raw: _converter.structure(raw, kind) if isinstance(raw, dict) else None
    return _PLAIN[kind]


def _row(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def read_row(raw: object) -> object:
        if not isinstance(raw, list):
            return None
        return tuple(value for value in map(read, raw) if value is not None)

    return read_row


def _pair(first: Callable[[Any], Any], second: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def read_pair(raw: object) -> object:
        if not isinstance(raw, list) or len(raw) != _PAIR:
            return None
        pair = (first(raw[0]), second(raw[1]))
        if None in pair:
            # Of one pair the service's schema and its prose give the order differently.
            pair = (first(raw[1]), second(raw[0]))
        return None if None in pair else pair

    return read_pair


def _lenient(kind: type[Any]) -> Callable[[Any, Any], Any]:
    """A hook for an attrs class: each field as far as it can be read, `raw` as it came."""
    resolve_types(kind)
    entries = [
        (field.name, read := _reader(field.type), _EXACT.get(read)) for field in fields(kind) if field.name != "raw"
    ]
    keeps_raw = any(field.name == "raw" for field in fields(kind))

    def structure(raw: _Raw, _type: object) -> Any:
        values: dict[str, Any] = {"raw": raw} if keeps_raw else {}
        for name, read, exact in entries:
            value = raw.get(name)
            if type(value) is exact or (value is not None and (value := read(value)) is not None):
                values[name] = value
        if keeps_raw:
            values.setdefault("type", "")
        return kind(**values)

    return structure


def _structure_action(raw: _Raw) -> Any:
    return _converter.structure(raw, actions.BY_TYPE.get(_text(raw.get("type")) or "", actions.UnknownAction))


_decode = json.JSONDecoder().decode
_converter = Converter()
_converter.register_structure_hook_factory(has, _lenient)
