"""Bytes to models and back, without any input or output (api/nairi.md sections 2 to 5).

Reading is as lenient as the promise needs: a message that cannot be read in full is delivered with what it has. What
has no place to be delivered from (no JSON, no object, no list where the documentation prints one) is a `DecodeError`.
"""

from __future__ import annotations

import binascii
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cattrs import Converter

from nairi_async._core import checks
from nairi_async._core.json_body import (
    Raw,
    decode,
    decode_object,
    encode,
    is_heavy,
    objects,
    parse_time,
    refuse,
    text_of,
)
from nairi_async._nairi.results import Attachment
from nairi_async.errors import InvalidArgumentError
from nairi_async.models import Agent, ConversationSummary, Message, Progress, Turn, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


def encode_start(agent_id: str, prompt: str, *, ask_mode: bool, attachment_ids: Sequence[str]) -> bytes:
    """The body of `POST conversations/start` (api: start)."""
    return encode({"agent_id": agent_id, "prompt": prompt, "ask_mode": ask_mode, **_attached(attachment_ids)})


def encode_continue(prompt: str, *, attachment_ids: Sequence[str]) -> bytes:
    """The body of `POST conversations/{job_id}/continue` (api: continue)."""
    return encode({"prompt": prompt, **_attached(attachment_ids)})


def decode_turn(body: bytes) -> Turn:
    """The answer to start and continue: the user message just made."""
    raw = decode_object(body)
    job_id, message_id = raw.get("job_id"), raw.get("message_id")
    try:
        return Turn(checks.identifier("job_id", job_id), checks.identifier("message_id", message_id))
    except InvalidArgumentError as error:
        refuse("no job_id and message_id in it that could be found again", body, error)


def decode_message(body: bytes) -> Message:
    """The answer to `GET messages/{message_id}`: one message without a wrapper."""
    raw = decode_object(body)
    if not isinstance(raw.get("id"), str):
        refuse("no message id in it", body)
    return _converter.structure(raw, Message)


def decode_timeline(body: bytes, *, progress: bool = False) -> tuple[Message, ...]:
    """The answer to `GET conversations/{job_id}/messages`, in the service's order.

    Progress messages are skipped before they cost anything, unless asked for.
    """
    entries = objects(decode_object(body).get("messages"), body)
    return tuple(_converter.structure(raw, Message) for raw in entries if progress or raw.get("role") != "progress")


def decode_conversations(body: bytes) -> tuple[ConversationSummary, ...]:
    """The answer to `GET agents/{agent_id}/conversations`: one page of jobs."""
    entries = objects(decode_object(body).get("conversations"), body)
    return tuple(_converter.structure(raw, ConversationSummary) for raw in entries)


def decode_attachment_id(body: bytes) -> str:
    """The answer to `POST attachments`."""
    attachment_id = decode_object(body).get("attachment_id")
    if not isinstance(attachment_id, str) or not attachment_id:
        refuse("no attachment_id in it", body)
    return attachment_id


def decode_attachment(body: bytes, content: bytes | None = None) -> Attachment:
    """The answer to `GET attachments/{attachment_id}`; `content` are the bytes, where they were taken out before."""
    raw = decode_object(body)
    if content is None:
        data = raw.get("data")
        if not isinstance(data, str):
            refuse("no data in it", body)
        try:
            content = _base64(data)
        except ValueError as error:
            refuse("its data is not base64", body, error)
    return Attachment(id=text_of(raw.get("id")), filename=text_of(raw.get("filename")), data=content)


def _base64(text: str) -> bytes:
    # Of padding, strict mode lets more pass than belongs there, and how much depends on the version of Python.
    if len(text) % 4 or "=" in text[:-2]:
        raise ValueError("the padding is wrong")
    return binascii.a2b_base64(text, strict_mode=True)


def decode_changed_agent(body: bytes) -> Agent | None:
    """The answer to `PATCH agents/{agent_id}`, whose body is not documented: the agent, if it is one."""
    raw = decode(body) if body.strip() else None
    return _converter.structure(raw, Agent) if isinstance(raw, dict) and isinstance(raw.get("id"), str) else None


def decode_deployment(body: bytes) -> str:
    """The answer to `POST agents/{agent_id}/deploy`: the service's word for how it stands."""
    return text_of(decode_object(body).get("status"))


def encode_agent(changes: Mapping[str, Any]) -> bytes:
    """The body of the calls that make, change and deploy agents: exactly these fields, null included."""
    return encode(changes)


def decode_agents(body: bytes) -> list[Agent]:
    """The answer to `GET agents`: a bare array."""
    return [_converter.structure(raw, Agent) for raw in objects(decode(body), body)]


def decode_agent(body: bytes) -> Agent:
    """The answer to `GET agents/{agent_id}`."""
    return _converter.structure(decode_object(body), Agent)


def _attached(attachment_ids: Sequence[str]) -> dict[str, list[str]]:
    return {"attachment_ids": list(attachment_ids)} if attachment_ids else {}


def _optional(raw: object, kind: type[_T]) -> _T | None:
    # A bool is an int to Python, but not to the service.
    return raw if isinstance(raw, kind) and (kind is bool or not isinstance(raw, bool)) else None


def _texts(raw: object) -> tuple[str, ...]:
    return tuple(entry for entry in raw if isinstance(entry, str)) if isinstance(raw, list) else ()


def _structure_usage(raw: Raw, _type: object = None) -> Usage | None:
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


def _structure_progress(raw: Raw, _type: object = None) -> Progress:
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
        texts[name] = None if value is None else text_of(value)
    return Progress(
        progress_type=text_of(envelope.get("progress_type", raw.get("progress_type"))), raw=envelope, **texts
    )


def _is_deeper(value: object, levels: int) -> bool:
    """Whether lists and objects lie in each other in more levels than that."""
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list) and (levels == 0 or any(_is_deeper(entry, levels - 1) for entry in value))


def structure_message(raw: Raw, _type: object = None) -> Message:
    """One entry of a timeline, with whatever of it can be read."""
    role = text_of(raw.get("role"))
    return Message(
        id=text_of(raw.get("id")),
        job_id=text_of(raw.get("job_id")),
        role=role,
        status=text_of(raw.get("status")),
        content=text_of(raw.get("content")),
        created_at=parse_time(raw.get("created_at")),
        updated_at=parse_time(raw.get("updated_at")),
        attachment_ids=_texts(raw["attachment_ids"]) if "attachment_ids" in raw else (),
        usage=_structure_usage(raw) if role == "assistant" else None,
        progress=_structure_progress(raw) if role == "progress" else None,
    )


def _structure_summary(raw: Raw, _type: object = None) -> ConversationSummary:
    return ConversationSummary(
        id=text_of(raw.get("id")), status=text_of(raw.get("status")), updated_at=parse_time(raw.get("updated_at"))
    )


def _structure_agent(raw: Raw, _type: object = None) -> Agent:
    return Agent(
        id=text_of(raw.get("id")),
        name=text_of(raw.get("name")),
        agent_id=text_of(raw.get("agent_id")),
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
