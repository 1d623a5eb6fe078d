"""Checks requests against https://api.amigo.ai/v1/openapi.json; a request that does not fit is a 422."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from aiohttp import BodyPartReader, hdrs
from aiohttp.http_exceptions import HttpProcessingError

from nairi_async.testing import json_bodies
from nairi_async.testing.amigo.state import UserMessage
from nairi_async.testing.json_bodies import RefusedError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from aiohttp import web
    from multidict import MultiMapping

FORMATS = ("text", "voice")
MESSAGE_TYPES = ("user-message", "agent-message", "agent-inner-thought", "external-event")

_MOST_TAGS = 20
_LONGEST_TAG = 100
_FRAME_RATES = range(4000, 44101)
_FORM = re.compile(r"multipart/form-data; boundary=.+")
_ID = re.compile(r"[a-f0-9]{24}")
_WORDS = re.compile(r"[\w\s]+")
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:?\d\d)?", re.ASCII)
_AUDIO = {"audio/mpeg": "mp3", "audio/wav": "pcm"}
_SINGLE = ("initial_message_type", "recorded_message")
_CONTENT, _TIMESTAMPS = "external_event_message_content", "external_event_message_timestamp"


def invalid(text: str) -> NoReturn:
    """Refuse a request that the document does not allow."""
    raise RefusedError(422, text)


def path_id(request: web.Request, name: str) -> str:
    """Return an id of the path."""
    return checked_id(request.match_info[name], name)


def checked_id(value: object, name: str) -> str:
    """Return an id of 24 hexadecimal digits."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        invalid(f"{name} must be 24 hexadecimal digits")
    return value


class QueryParameters:
    """The query of a request; a parameter occurs once unless it may be repeated."""

    def __init__(self, given: MultiMapping[str]) -> None:
        self._given = given

    def one(self, name: str, default: str | None = None) -> str:
        """Return a value; it is required if there is no default."""
        values = self._given.getall(name, [] if default is None else [default])
        if len(values) != 1:
            invalid(f"{name} is {'given more than once' if values else 'required'}")
        return values[0]

    def choice(self, name: str, allowed: Collection[str], default: str | None = None) -> str:
        """Return a value that is one of `allowed`."""
        value = self.one(name, default)
        if value not in allowed:
            invalid(f"{name} must be one of {', '.join(allowed)}")
        return value

    def flag(self, name: str) -> bool | None:
        """Return a boolean, `None` if absent."""
        if name not in self._given:
            return None
        return self.choice(name, ("true", "false")) == "true"

    def integer(self, name: str, default: int, lowest: int, highest: int | None = None) -> int:
        """Return a whole number within bounds."""
        value = self.one(name, str(default))
        number = int(value) if re.fullmatch(r"[0-9]{1,18}", value) else -1
        if number < lowest or (highest is not None and number > highest):
            invalid(f"{name} must be an integer from {lowest}" + (f" to {highest}" if highest else ""))
        return number

    def ids(self, name: str, *, unique: bool = True) -> frozenset[str]:
        """Return repeated ids; empty means all."""
        values = [checked_id(value, name) for value in self._given.getall(name, [])]
        return self._set(name, values, unique=unique)

    def texts(self, name: str, *, unique: bool = True) -> frozenset[str]:
        """Return repeated texts; empty means all."""
        return self._set(name, self._given.getall(name, []), unique=unique)

    def choices(self, name: str, allowed: Collection[str], *, unique: bool) -> list[str]:
        """Return repeated values that are all in `allowed`, in their order."""
        values = self._given.getall(name, [])
        if not set(values) <= set(allowed):
            invalid(f"{name} must be of {', '.join(allowed)}")
        self._set(name, values, unique=unique)
        return values

    def pattern(self, name: str) -> str:
        """Return a regular expression."""
        value = self.one(name, "^.*$")
        try:
            re.compile(value)
        except re.error:
            invalid(f"{name} is not a regular expression")
        return value

    def _set(self, name: str, values: list[str], *, unique: bool) -> frozenset[str]:
        if unique and len(set(values)) != len(values):
            invalid(f"{name} repeats a value")
        return frozenset(values)


async def read_object(request: web.Request, *, required: bool = True) -> dict[str, Any]:
    """Return the body as a JSON object; `{}` for no body where none is required."""
    raw = await request.read()
    if not raw and not required:
        return {}
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        invalid("the body is not JSON")
    if not isinstance(body, dict):
        invalid("the body must be an object")
    return body


def text(body: Mapping[str, Any], name: str, default: str | None = None, *, shortest: int = 1) -> str:
    """Return a string; it is required if there is no default."""
    value = body.get(name, default)
    if not isinstance(value, str) or len(value) < shortest:
        invalid(f"{name} must be a string of at least {shortest} characters")
    return value


def whole_number(body: Mapping[str, Any], name: str, lowest: int, highest: int) -> int:
    """Return a required whole number within bounds."""
    value = json_bodies.whole_number(body.get(name))
    if value is None or not lowest <= value <= highest:
        invalid(f"{name} must be an integer from {lowest} to {highest}")
    return value


def texts(body: Mapping[str, Any], name: str, *, fewest: int = 0, unique: bool = False) -> list[str]:
    """Return a list of strings, none of them empty."""
    values = body.get(name, [])
    if not isinstance(values, list) or len(values) < fewest or not all(isinstance(one, str) and one for one in values):
        invalid(f"{name} must be an array of at least {fewest} strings")
    if unique and len(set(values)) != len(values):
        invalid(f"{name} repeats a value")
    return values


def tags(body: Mapping[str, Any], name: str, *, only_words: bool) -> dict[str, str | None]:
    """Return tags; with `only_words` their values consist of word characters and white space."""
    given = body.get(name, {})
    if not isinstance(given, dict) or len(given) > _MOST_TAGS:
        invalid(f"{name} must be an object of at most {_MOST_TAGS} entries")
    for key, value in given.items():
        is_text = isinstance(value, str) and bool(value)
        fits = is_text and (_WORDS.fullmatch(value) is not None if only_words else len(value) <= _LONGEST_TAG)
        if not _WORDS.fullmatch(key) or not (value is None or fits):
            invalid(f"{name} holds an invalid tag")
    return given


def message_of_create(body: Mapping[str, Any], query: QueryParameters) -> UserMessage:
    """Return the message that creates a conversation."""
    form: Any = query.choice("response_format", FORMATS)
    actions = query.pattern("current_agent_action_type")
    message, kind = body.get("initial_message"), body.get("initial_message_type")
    if kind not in (None, "user-message", "external-event") or (message is None) != (kind is None):
        invalid("initial_message and initial_message_type go together")
    if message is None:
        return UserMessage(response_format=form, actions=actions)
    if not isinstance(message, str) or not message.strip():
        invalid("initial_message must be a string of at least 1 character")
    return UserMessage(kind, message.strip(), response_format=form, actions=actions)


async def message_of_interact(request: web.Request, query: QueryParameters) -> UserMessage:
    """Return the message that continues a conversation, from the multipart form of the interact call."""
    request_format = query.choice("request_format", FORMATS)
    response_format: Any = query.choice("response_format", FORMATS)
    config = _audio_config(query)
    actions = query.pattern("current_agent_action_type")
    parts = await _parts(request)
    kind: Any = _text(parts["initial_message_type"][0][0])
    events = _events(parts)
    raw, content_type = parts["recorded_message"][0]
    if kind == "skip":
        if raw or events:
            invalid("a skip has no message and no events")
        return UserMessage("skip", response_format=response_format, actions=actions)
    if kind not in {"user-message", "external-event"}:
        invalid("initial_message_type must be one of user-message, external-event, skip")
    if not raw:
        raise RefusedError(400, "the message is empty")
    if request_format == "text":
        return UserMessage(kind, _text(raw), events=events, response_format=response_format, actions=actions)
    if config is None:
        invalid("request_audio_config is required for a voice message")
    if _AUDIO.get(content_type) != config:
        raise RefusedError(415, f"the audio format {content_type} is not supported")
    return UserMessage(kind, "", raw, content_type, events, response_format, actions)


def _audio_config(query: QueryParameters) -> str | None:
    raw = query.one("request_audio_config", "")
    if not raw:
        return None
    try:
        config = json.loads(raw)
    except (ValueError, RecursionError):
        invalid("request_audio_config is not JSON")
    kind = config.get("type") if isinstance(config, dict) else None
    if kind == "mp3":
        return "mp3"
    rate, channels, width = (config.get(name) if kind == "pcm" else None for name in _PCM)
    if type(rate) is not int or rate not in _FRAME_RATES or channels != 1 or width not in (2, 4):
        invalid("request_audio_config must describe mp3, or pcm with frame_rate, n_channels and sample_width")
    return "pcm"


_PCM = ("frame_rate", "n_channels", "sample_width")


async def _parts(request: web.Request) -> dict[str, list[tuple[bytes, str]]]:
    """Return bytes and content type of the parts by name; check that parts which are not repeated occur once."""
    if not _FORM.fullmatch(request.headers.get(hdrs.CONTENT_TYPE, "")):
        invalid("the Content-Type must be multipart/form-data with a boundary")
    parts: dict[str, list[tuple[bytes, str]]] = {}
    try:
        async for part in await request.multipart():
            if isinstance(part, BodyPartReader) and part.name is not None:
                content_type = part.headers.get(hdrs.CONTENT_TYPE, "text/plain")
                parts.setdefault(part.name, []).append((bytes(await part.read(decode=True)), content_type))
    except (ValueError, AssertionError, RuntimeError, HttpProcessingError):
        invalid("the multipart form is broken")
    for name in _SINGLE:
        if len(parts.get(name, ())) != 1:
            invalid(f"{name} must occur once")
    return parts


def _events(parts: Mapping[str, list[tuple[bytes, str]]]) -> tuple[tuple[str, datetime], ...]:
    contents = [_text(raw) for raw, _ in parts.get(_CONTENT, ())]
    times = [_time(_text(raw)) for raw, _ in parts.get(_TIMESTAMPS, ())]
    if len(contents) != len(times) or not all(contents):
        invalid("every external event has a content and a timestamp")
    return tuple(zip(contents, times, strict=True))


def _time(given: str) -> datetime:
    """Return the time, in UTC if it has no offset."""
    try:
        at = datetime.fromisoformat(given.upper() if _TIMESTAMP.fullmatch(given) else "")
    except ValueError:
        invalid(f"{_TIMESTAMPS} must be ISO 8601 date-times")
    return at if at.tzinfo else datetime.fromisoformat(f"{at.isoformat()}+00:00")


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        invalid("the form is not UTF-8")
