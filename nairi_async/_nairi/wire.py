"""Nairi's wire format: bytes to models and back, without any input or output.

Reading is as lenient as the promise needs: a message that cannot be read in full is delivered with what it has. What
has no place to be delivered from (no JSON, no object, no list where the documentation prints one) is a `DecodeError`.

The format is documented at https://nairi.ai/docs/api/conversations/message-reference and its sibling pages.
"""

from __future__ import annotations

import binascii
import json
from typing import TYPE_CHECKING, Any, Final

from nairi_async._core import checks
from nairi_async._core.decoding import Reader, reader, register
from nairi_async._core.json_body import Raw, decode, decode_object, encode, is_heavy, objects, refuse, text_of
from nairi_async.errors import InvalidArgumentError
from nairi_async.models import Agent, ConversationSummary, Message, Progress, Turn, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nairi_async._nairi.attachment import Attachment

# Deeper than any envelope. Beyond, copying and pickling fail where reading did not.
_MOST_LEVELS: Final = 50
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


def encode_start(agent_id: str, prompt: str, *, ask_mode: bool, attachment_ids: Sequence[str]) -> bytes:
    """Return the body of `POST conversations/start`."""
    return encode({"agent_id": agent_id, "prompt": prompt, "ask_mode": ask_mode, **_attached(attachment_ids)})


def encode_continue(prompt: str, *, attachment_ids: Sequence[str]) -> bytes:
    """Return the body of `POST conversations/{job_id}/continue`."""
    return encode({"prompt": prompt, **_attached(attachment_ids)})


def decode_turn(body: bytes) -> Turn:
    """Read the response to start and continue: the user message just made."""
    raw = decode_object(body)
    job_id, message_id = raw.get("job_id"), raw.get("message_id")
    try:
        return Turn(checks.identifier("job_id", job_id), checks.identifier("message_id", message_id))
    except InvalidArgumentError as error:
        refuse("no job_id and message_id in it that could be found again", body, error)


def decode_message(body: bytes) -> Message:
    """Read the response to `GET messages/{message_id}`: one message without a wrapper."""
    raw = decode_object(body)
    if not isinstance(raw.get("id"), str):
        refuse("no message id in it", body)
    return message_reader()(raw)


def decode_timeline(body: bytes, *, progress: bool = False) -> tuple[Message, ...]:
    """Read the response to `GET conversations/{job_id}/messages`, in the service's order.

    Progress messages are skipped before any work is done on them, unless `progress` is true.
    """
    entries = objects(decode_object(body).get("messages"), body)
    read = message_reader()
    return tuple(read(raw) for raw in entries if progress or raw.get("role") != "progress")


def decode_conversations(body: bytes) -> tuple[ConversationSummary, ...]:
    """Read the response to `GET agents/{agent_id}/conversations`: one page of jobs."""
    entries = objects(decode_object(body).get("conversations"), body)
    return tuple(map(reader(ConversationSummary), entries))


def decode_attachment_id(body: bytes) -> str:
    """Read the response to `POST attachments`."""
    attachment_id = decode_object(body).get("attachment_id")
    if not isinstance(attachment_id, str) or not attachment_id:
        refuse("no attachment_id in it", body)
    return attachment_id


def decode_attachment(body: bytes, content: bytes | None = None) -> Attachment:
    """Read the response to `GET attachments/{attachment_id}`; `content` holds the bytes if the caller decoded them."""
    raw = decode_object(body)
    if content is None:
        data = raw.get("data")
        if not isinstance(data, str):
            refuse("no data in it", body)
        try:
            content = _base64(data)
        except ValueError as error:
            refuse("its data is not base64", body, error)
    from nairi_async._nairi.attachment import Attachment  # noqa: PLC0415 - most programs download nothing

    return Attachment(id=text_of(raw.get("id")), filename=text_of(raw.get("filename")), data=content)


def _base64(text: str) -> bytes:
    # Strict mode accepts surplus padding, and how much depends on the version of Python.
    if len(text) % 4 or "=" in text[:-2]:
        raise ValueError("the padding is wrong")
    return binascii.a2b_base64(text, strict_mode=True)


def decode_changed_agent(body: bytes) -> Agent | None:
    """Read the response to `PATCH agents/{agent_id}`, whose body is not documented: the agent, if it is one."""
    raw = decode(body) if body.strip() else None
    return reader(Agent)(raw) if isinstance(raw, dict) and isinstance(raw.get("id"), str) else None


def decode_deployment(body: bytes) -> str:
    """Read the response to `POST agents/{agent_id}/deploy`: the service's word for the state of the deployment."""
    return text_of(decode_object(body).get("status"))


def encode_agent(changes: Mapping[str, Any]) -> bytes:
    """Return the body of calls that make, change and deploy agents: exactly these fields, null included."""
    return encode(changes)


def decode_agents(body: bytes) -> list[Agent]:
    """Read the response to `GET agents`: a bare array."""
    return [*map(reader(Agent), objects(decode(body), body))]


def decode_agent(body: bytes) -> Agent:
    """Read the response to `GET agents/{agent_id}`."""
    return reader(Agent)(decode_object(body))


def _attached(attachment_ids: Sequence[str]) -> dict[str, list[str]]:
    return {"attachment_ids": list(attachment_ids)} if attachment_ids else {}


def _usage(raw: Raw) -> Usage | None:
    """Read the figures of a reply; an agent that reports none has no usage."""
    if raw.get("role") != "assistant":
        return None
    usage = reader(Usage)(raw)
    return None if usage == _NO_USAGE else usage


def _progress(raw: Raw) -> Progress | None:
    """Read the envelope in `content`; the copies of its fields at top level stand in where it lacks them."""
    if raw.get("role") != "progress":
        return None
    content = raw.get("content") or ""
    try:
        envelope = None if is_heavy(content) else json.loads(content)
    except (TypeError, ValueError, RecursionError):
        envelope = None
    if not isinstance(envelope, dict) or _is_deeper(envelope, _MOST_LEVELS):
        envelope = {}
    texts: dict[str, str | None] = {}
    for name in _PROGRESS_TEXTS:
        value = envelope.get(name, raw.get(name))
        texts[name] = None if value is None else text_of(value)
    return Progress(
        progress_type=text_of(envelope.get("progress_type", raw.get("progress_type"))), raw=envelope, **texts
    )


def _is_deeper(value: object, levels: int) -> bool:
    """Say whether lists and objects are nested in more levels than that."""
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list) and (levels == 0 or any(_is_deeper(entry, levels - 1) for entry in value))


def message_reader() -> Reader[Message]:
    """Return what makes a message of one entry of a timeline."""
    return reader(Message)


register(Message, computed={"usage": _usage, "progress": _progress})
_NO_USAGE: Final = Usage()
