"""Bytes to models and back, without any input or output (api/nairi.md sections 2 to 5).

Reading is as lenient as the promise needs: a message that cannot be read in full is delivered with what it has. What
has no place to be delivered from (no JSON, no object, no list where the documentation prints one) is a `DecodeError`.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Mapping
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from cattrs import Converter

from nairi_async import checks
from nairi_async.errors import DecodeError, InvalidArgumentError
from nairi_async.models import Agent, Attachment, ConversationSummary, Message, Progress, Turn, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

EXCERPT: Final = 200
"""Characters of a foreign body that an error repeats."""
# Taken from a body before secrets are taken out of it: cut first, half a key would go unnoticed.
_QUOTED: Final = 16 * EXCERPT

# Python refuses to read numbers of thousands of digits; one of them must not cost the rest of the answer.
_MOST_DIGITS: Final = 400
# A timeline as large as an answer may be has fewer values and entries. Tiny ones in such numbers would take a hundred
# times the memory of the body, and minutes.
_MOST_VALUES: Final = 2_000_000
MOST_ENTRIES: Final = 200_000
"""Messages, or rows, that one answer may have."""
_STRING: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
# Deeper than any envelope. Beyond, copying and pickling fail where reading did not.
_DEEPEST: Final = 50
# A cost beyond that is no cost, and sums of such figures overflow.
_MOST_ZEROS: Final = 30
_USAGE_COUNTS: Final = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
_PROGRESS_TEXTS: Final = (
    "text_delta",
    "summary",
    "tool_name",
    "tool_input",
    "tool_output",
    "tool_description",
    "tool_status",
    "tool_use_id",
    "parent_tool_use_id",
)

_T = TypeVar("_T")
_Raw = Mapping[str, Any]


def encode_start(agent_id: str, prompt: str, *, ask_mode: bool, attachment_ids: Sequence[str]) -> bytes:
    """The body of `POST conversations/start` (api: start)."""
    return _encode({"agent_id": agent_id, "prompt": prompt, "ask_mode": ask_mode, **_attached(attachment_ids)})


def encode_continue(prompt: str, *, attachment_ids: Sequence[str]) -> bytes:
    """The body of `POST conversations/{job_id}/continue` (api: continue)."""
    return _encode({"prompt": prompt, **_attached(attachment_ids)})


def decode_turn(body: bytes) -> Turn:
    """The answer to start and continue: the user message just made."""
    raw = _object(body)
    job_id, message_id = raw.get("job_id"), raw.get("message_id")
    try:
        return Turn(checks.identifier("job_id", job_id), checks.identifier("message_id", message_id))
    except InvalidArgumentError as error:
        _refuse("no job_id and message_id in it that could be found again", body, error)


def decode_message(body: bytes) -> Message:
    """The answer to `GET messages/{message_id}`: one message without a wrapper."""
    raw = _object(body)
    if not isinstance(raw.get("id"), str):
        _refuse("no message id in it", body)
    return _converter.structure(raw, Message)


def decode_timeline(body: bytes, *, progress: bool = False) -> tuple[Message, ...]:
    """The answer to `GET conversations/{job_id}/messages`, in the service's order.

    Progress messages are skipped before they cost anything, unless asked for.
    """
    entries = _objects(_object(body).get("messages"), body)
    return tuple(_converter.structure(raw, Message) for raw in entries if progress or raw.get("role") != "progress")


def decode_conversations(body: bytes) -> tuple[ConversationSummary, ...]:
    """The answer to `GET agents/{agent_id}/conversations`: one page of jobs."""
    entries = _objects(_object(body).get("conversations"), body)
    return tuple(_converter.structure(raw, ConversationSummary) for raw in entries)


def decode_attachment_id(body: bytes) -> str:
    """The answer to `POST attachments`."""
    attachment_id = _object(body).get("attachment_id")
    if not isinstance(attachment_id, str) or not attachment_id:
        _refuse("no attachment_id in it", body)
    return attachment_id


def decode_attachment(body: bytes, content: bytes | None = None) -> Attachment:
    """The answer to `GET attachments/{attachment_id}`; `content` are the bytes, where they were taken out before."""
    raw = _object(body)
    if content is None:
        data = raw.get("data")
        if not isinstance(data, str):
            _refuse("no data in it", body)
        try:
            content = _base64(data)
        except ValueError as error:
            _refuse("its data is not base64", body, error)
    return Attachment(id=_text(raw.get("id")), filename=_text(raw.get("filename")), data=content)


def _base64(text: str) -> bytes:
    # Of padding, strict mode lets more pass than belongs there, and how much depends on the version of Python.
    if len(text) % 4 or "=" in text[:-2]:
        raise ValueError("the padding is wrong")
    return binascii.a2b_base64(text, strict_mode=True)


def decode_changed_agent(body: bytes) -> Agent | None:
    """The answer to `PATCH agents/{agent_id}`, whose body is not documented: the agent, if it is one."""
    raw = _json(body) if body.strip() else None
    return _converter.structure(raw, Agent) if isinstance(raw, dict) and isinstance(raw.get("id"), str) else None


def decode_deployment(body: bytes) -> str:
    """The answer to `POST agents/{agent_id}/deploy`: the service's word for how it stands."""
    return _text(_object(body).get("status"))


def encode_agent(changes: Mapping[str, Any]) -> bytes:
    """The body of the calls that make, change and deploy agents: exactly these fields, null included."""
    return _encode(changes)


def decode_agents(body: bytes) -> list[Agent]:
    """The answer to `GET agents`: a bare array."""
    return [_converter.structure(raw, Agent) for raw in _objects(_json(body), body)]


def decode_agent(body: bytes) -> Agent:
    """The answer to `GET agents/{agent_id}`."""
    return _converter.structure(_object(body), Agent)


def decode_error(body: bytes) -> str:
    """The text of an error answer: the documented `{"error": text}`, else the beginning of the body as it is."""
    try:
        raw = _json(body)
    except DecodeError:
        return excerpt(body)
    told = raw.get("error") if isinstance(raw, dict) else None
    return _one_line(told[:_QUOTED]) if isinstance(told, str) else excerpt(body)


def excerpt(body: bytes) -> str:
    """The beginning of a body, on one line, longer than an error message should have it: see `shortened`."""
    return _one_line(body[:_QUOTED].decode("utf-8", "replace"))


def shortened(text: str) -> str:
    """A text of the service, without secrets by now, as an error message repeats it."""
    return text[:EXCERPT]


def _one_line(text: str) -> str:
    """Without line ends and whatever else is not seen: errors are logged, and logs are looked at in terminals."""
    return "".join(character if character.isprintable() else "\ufffd" for character in " ".join(text.split()))


def is_heavy(text: str, position: int = 0) -> bool:
    """Whether JSON, from a position on, would take many times more memory than it has characters."""
    if len(text) - position <= _MOST_VALUES or _values(text, position) <= _MOST_VALUES:
        return False
    return _values(_STRING.sub("", text[position:]), 0) > _MOST_VALUES


def _values(text: str, position: int) -> int:
    """Values in JSON, or more: what is written in strings counts as well."""
    return sum(text.count(mark, position) for mark in ",[{")


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=True, separators=(",", ":")).encode("ascii")


def _attached(attachment_ids: Sequence[str]) -> dict[str, list[str]]:
    return {"attachment_ids": list(attachment_ids)} if attachment_ids else {}


def _integer(digits: str) -> int | None:
    """A whole number, unless it has more digits than anything that is counted."""
    return int(digits) if len(digits) < _MOST_DIGITS else None


def _no_number(_word: str) -> None:
    """NaN and Infinity are not JSON; as a figure they mean nothing."""


DECODER: Final = json.JSONDecoder(parse_float=Decimal, parse_int=_integer, parse_constant=_no_number)
"""Reads JSON as the service means it: exact figures, and none where there is none."""


def _json(body: bytes) -> Any:
    # ArithmeticError: a number that Decimal refuses. RecursionError: nesting deeper than any real answer.
    try:
        text = body.decode(json.detect_encoding(body), "surrogatepass")
        if is_heavy(text):
            raise ValueError(f"more than {_MOST_VALUES:,} values")  # noqa: TRY301 - told as what json raises is
        return DECODER.decode(text)
    except (ValueError, ArithmeticError, RecursionError) as error:
        # Retold, because the original would hold on to the whole body.
        cause = ValueError(f"{type(error).__name__}: {error}"[:EXCERPT])
    raise _unreadable("not JSON", body) from cause


def _object(body: bytes) -> _Raw:
    raw = _json(body)
    if not isinstance(raw, dict):
        _refuse("not a JSON object", body)
    return raw


def _objects(raw: object, body: bytes) -> list[_Raw]:
    if not isinstance(raw, list) or not all(isinstance(entry, dict) for entry in raw):
        _refuse("not the documented list", body)
    if len(raw) > MOST_ENTRIES:
        _refuse(f"more than {MOST_ENTRIES:,} entries", body)
    return raw


def _refuse(reason: str, body: bytes, cause: BaseException | None = None) -> NoReturn:
    raise _unreadable(reason, body) from cause


def _unreadable(reason: str, body: bytes) -> DecodeError:
    return DecodeError(f"the answer cannot be read: {reason}", excerpt=excerpt(body))


def _text(raw: object) -> str:
    """A string as it is; nothing as nothing; anything else as its JSON, so that it is seen and not dropped."""
    if isinstance(raw, str):
        return raw
    try:
        return "" if raw is None else json.dumps(raw, default=str)
    except RecursionError:  # Nested deeper than can be printed: the message still counts.
        return ""


def _optional(raw: object, kind: type[_T]) -> _T | None:
    # A bool is an int to Python, but not to the service.
    return raw if isinstance(raw, kind) and (kind is bool or not isinstance(raw, bool)) else None


def parse_time(raw: object) -> datetime | None:
    """RFC 3339; a time without an offset is taken as UTC, which is what the service writes."""
    if not isinstance(raw, str):
        return None
    try:
        time = datetime.fromisoformat(raw)
        if not MINYEAR < time.year < MAXYEAR:
            # With an offset, the ends of the calendar may lie outside of it.
            return time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _texts(raw: object) -> tuple[str, ...]:
    return tuple(entry for entry in raw if isinstance(entry, str)) if isinstance(raw, list) else ()


def _structure_usage(raw: _Raw, _type: object = None) -> Usage | None:
    cost = raw.get("cost_usd")
    if isinstance(cost, str):
        cost = _decimal(cost)
    counts = {name: _optional(raw.get(name), int) for name in _USAGE_COUNTS}
    model = _optional(raw.get("model"), str)
    cost = Decimal(cost) if isinstance(cost, int | Decimal) and not isinstance(cost, bool) else None
    if cost is not None and abs(cost.adjusted()) > _MOST_ZEROS:
        cost = None
    if cost is None and model is None and all(count is None for count in counts.values()):
        return None
    return Usage(cost_usd=cost, model=model, **counts)


def _decimal(figure: str) -> Decimal | None:
    try:
        value = Decimal(figure)
    except ArithmeticError:
        return None
    return value if value.is_finite() else None


def _structure_progress(raw: _Raw, _type: object = None) -> Progress:
    """The envelope from `content`; the copies of its fields at top level stand in where it lacks them."""
    content = raw.get("content") or ""
    try:
        envelope = None if is_heavy(content) else json.loads(content)
    except (TypeError, ValueError, RecursionError):
        envelope = None
    if not isinstance(envelope, dict) or _is_deeper(envelope, _DEEPEST):
        envelope = {}
    texts: dict[str, str | None] = {}
    for name in _PROGRESS_TEXTS:
        value = envelope.get(name, raw.get(name))
        texts[name] = None if value is None else _text(value)
    return Progress(progress_type=_text(envelope.get("progress_type", raw.get("progress_type"))), raw=envelope, **texts)


def _is_deeper(value: object, levels: int) -> bool:
    """Whether lists and objects lie in each other in more levels than that."""
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list) and (levels == 0 or any(_is_deeper(entry, levels - 1) for entry in value))


def structure_message(raw: _Raw, _type: object = None) -> Message:
    """One entry of a timeline, with whatever of it can be read."""
    role = _text(raw.get("role"))
    return Message(
        id=_text(raw.get("id")),
        job_id=_text(raw.get("job_id")),
        role=role,
        status=_text(raw.get("status")),
        content=_text(raw.get("content")),
        created_at=parse_time(raw.get("created_at")),
        updated_at=parse_time(raw.get("updated_at")),
        attachment_ids=_texts(raw["attachment_ids"]) if "attachment_ids" in raw else (),
        usage=_structure_usage(raw) if role == "assistant" else None,
        progress=_structure_progress(raw) if role == "progress" else None,
    )


def _structure_summary(raw: _Raw, _type: object = None) -> ConversationSummary:
    return ConversationSummary(
        id=_text(raw.get("id")), status=_text(raw.get("status")), updated_at=parse_time(raw.get("updated_at"))
    )


def _structure_agent(raw: _Raw, _type: object = None) -> Agent:
    return Agent(
        id=_text(raw.get("id")),
        name=_text(raw.get("name")),
        agent_id=_text(raw.get("agent_id")),
        instances_count=_optional(raw.get("instances_count"), int),
        description=_optional(raw.get("description"), str),
        is_self_hosted=_optional(raw.get("is_self_hosted"), bool),
        system_prompt=_optional(raw.get("system_prompt"), str),
        created_at=parse_time(raw.get("created_at")),
        updated_at=parse_time(raw.get("updated_at")),
    )


_converter = Converter()
_converter.register_structure_hook(Message, structure_message)
_converter.register_structure_hook(ConversationSummary, _structure_summary)
_converter.register_structure_hook(Agent, _structure_agent)
