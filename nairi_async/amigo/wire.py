"""Amigo's wire format: bytes to models and back, without any input or output.

One rule reads everything, because the service's schema (https://api.amigo.ai/v1/openapi.json) and its own examples do
not agree: a field that is absent or not of the documented type takes its default, and never costs the rest.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, TypeGuard, TypeVar

from nairi_async._core import decoding, json_body
from nairi_async._core.json_body import FLOAT_DECODER, Raw, decode_object, parse_time, refuse
from nairi_async._core.records import frozen
from nairi_async.amigo import events
from nairi_async.amigo.action import Action, UnknownAction
from nairi_async.amigo.directory_models import CreatedUser, ServiceInfo, UserInfo
from nairi_async.amigo.models import AmigoMessage, ConversationInfo, Insights, MessageSource, Starter
from nairi_async.amigo.tokens import AmigoToken
from nairi_async.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nairi_async.amigo.events import Event

_T = TypeVar("_T")

# An event of minutes of audio, with the time of each character, has fewer values.
MOST_EVENT_VALUES: Final = 190_000
# A page has at most 500 rows.
_MOST_ROWS: Final = 10_000
# An error message quotes no more of them.
_MOST_PROBLEMS: Final = 5


@frozen
class Page:
    """One page of a list."""

    rows: tuple[Any, ...]
    """The models on it."""
    next: int | None
    """The `continuation_token` of the next page; `None` on the last."""


encode: Final = json_body.encode


def decode_event(line: bytes) -> Event:
    """Read one line of a stream; never fails."""
    if len(line) > MOST_EVENT_VALUES:
        # Its values have to be counted before they are decoded.
        return _read_unusual(line)
    try:
        text = line.decode()
        raw, end = _scan(text)
        if end != len(text) and text[end:] != "\r":
            return _read_unusual(line)
        return _read_event[raw["type"]](raw)
    except (ValueError, TypeError, KeyError, RecursionError):
        return _read_unusual(line)


def _read_unusual(line: bytes) -> Event:
    """Read a line that is no event of a known type, or not written as the service writes it."""
    text = line.decode("utf-8", "replace")
    try:
        raw = None if json_body.is_heavy(text, most=MOST_EVENT_VALUES) else _decoder.decode(text)
    except (ValueError, RecursionError):
        raw = None
    if not isinstance(raw, dict):
        return events.UnknownEvent(type="", text=json_body.excerpt(line))
    kind = raw.get("type")
    known = events.BY_TYPE.get(kind) if isinstance(kind, str) else None
    read = decoding.reader(known or events.UnknownEvent)
    return read(raw)


def decode_error(body: bytes) -> str:
    """Return the text of an error response: `detail` as a text or as a list of problems, or what stands for it.

    The service documents no form. Its own client reads `message`, `error` and `detail`.
    """
    try:
        raw = json_body.decode(body)
    except DecodeError:
        raw = None
    document: Raw = raw if isinstance(raw, dict) else {}
    for name in ("detail", "message", "error"):
        value = document.get(name)
        text = "; ".join(_problem(entry) for entry in value[:_MOST_PROBLEMS]) if isinstance(value, list) else value
        if isinstance(text, str) and text.strip():
            return json_body.excerpt(text.encode("utf-8", "replace"))
    return json_body.excerpt(body)


def _problem(entry: object) -> str:
    """Return one problem of a list: where it is, and what it is."""
    if not isinstance(entry, dict):
        return json_body.text_of(entry)
    place = entry.get("loc")
    where = ".".join(map(str, place)) if isinstance(place, list) else ""
    what = json_body.text_of(entry.get("msg") or entry.get("message"))
    return ": ".join(part for part in (where, what) if part) or json_body.text_of(entry)


def decode_token(body: bytes) -> AmigoToken:
    """Read the response to a sign-in. The body is a secret, so no error repeats it."""
    try:
        raw = json_body.decode(body)
    except DecodeError:
        raw = None
    document: Raw = raw if isinstance(raw, dict) else {}
    token = document.get("id_token")
    if not is_sendable_token(token):
        raise DecodeError("the response to the sign-in cannot be read: it holds no id_token that could be sent")
    return AmigoToken(token, parse_time(document.get("expires_at")))


def is_sendable_token(token: object) -> TypeGuard[str]:
    """Say whether a token can be sent in a header."""
    return isinstance(token, str) and token.isascii() and token.isprintable() and " " not in token and bool(token)


def decode_conversations(body: bytes) -> Page:
    """Read one page of conversations."""
    return _page(body, "conversations", decoding.rows(ConversationInfo))


def decode_messages(body: bytes) -> Page:
    """Read one page of messages."""
    return _page(body, "messages", decoding.rows(AmigoMessage))


def decode_services(body: bytes) -> Page:
    """Read one page of services."""
    return _page(body, "services", decoding.rows(ServiceInfo))


def decode_users(body: bytes) -> Page:
    """Read one page of users."""
    return _page(body, "users", decoding.rows(UserInfo))


def decode_created_user(body: bytes) -> CreatedUser:
    """Read the id of a user who was created."""
    raw = _object(body)
    if not isinstance(raw.get("user_id"), str) or not raw["user_id"]:
        refuse("no user_id in it", body)
    return decoding.reader(CreatedUser)(raw)


def decode_source(body: bytes) -> MessageSource:
    """Read where the audio of a message is."""
    return decoding.reader(MessageSource)(_object(body))


def decode_insights(body: bytes) -> Insights:
    """Read what the agent had in mind."""
    return decoding.reader(Insights)(_object(body))


def decode_recommended(body: bytes) -> tuple[str, ...]:
    """Read recommended responses."""
    return _list(_object(body), "recommended_responses", decoding.rows(str), body)


def decode_starters(body: bytes) -> tuple[Starter, ...]:
    """Read conversation starters."""
    return _list(_object(body), "prompts", decoding.rows(Starter), body)


def decode_nothing(_body: bytes) -> None:
    """Ignore the body of a response whose status says all."""


def _page(body: bytes, name: str, read: Callable[[object], tuple[Any, ...] | None]) -> Page:
    raw = _object(body)
    rows = _list(raw, name, read, body)
    token = raw.get("continuation_token")
    following = token if isinstance(token, int) and not isinstance(token, bool) else None
    if raw.get("has_more") is True and following is None:
        refuse("it says that more follows, without a continuation_token to ask for it", body)
    return Page(rows, following if raw.get("has_more") is True else None)


def _object(body: bytes) -> Raw:
    # As `float`: insights and preferences are handed over as they came, and may be written as JSON again.
    return decode_object(body, FLOAT_DECODER)


def _list(raw: Raw, name: str, read: Callable[[object], tuple[_T, ...] | None], body: bytes) -> tuple[_T, ...]:
    entries = raw.get(name)
    if isinstance(entries, list) and len(entries) > _MOST_ROWS:
        refuse(f"more than {_MOST_ROWS:,} entries", body)
    values = read(entries)
    if values is None:
        refuse(f"no {name} in it", body)
    return values


def _service_tags(raw: Raw) -> Mapping[str, str | None]:
    """Return the tags of a service, which are a list of keys and values, as those of a conversation are."""
    entries = raw.get("tags")
    tags: dict[str, str | None] = {}
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and isinstance(key := entry.get("key"), str):
            value = entry.get("value")
            tags[key] = value if isinstance(value, str) else None
    return tags


def _action_type(raw: Raw) -> type[Action]:
    from nairi_async.amigo.actions import BY_TYPE  # noqa: PLC0415 - many classes, for users who may see insights

    kind = raw.get("type")
    return BY_TYPE.get(kind, UnknownAction) if isinstance(kind, str) else UnknownAction


class _EventReaders(dict[str, "decoding.Reader[Event]"]):
    """The readers of events by their type."""

    def __missing__(self, word: str) -> decoding.Reader[Event]:
        found = self[word] = decoding.reader(events.BY_TYPE[word])
        return found


decoding.register(ServiceInfo, computed={"tags": _service_tags})
decoding.register_choice(Action, _action_type)
# Not the decoder of bodies: its calls for each whole number would cost a stream of small events a tenth of its time.
_decoder: Final = json.JSONDecoder()
# `decode` would search for white space around each line.
_scan: Final = _decoder.raw_decode
_read_event: Final = _EventReaders()
