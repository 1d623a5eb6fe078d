"""The endpoints of the service, as requests (api: endpoints)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

from nairi_async._core.address import path
from nairi_async._core.request import Request
from nairi_async._core.upload import Upload
from nairi_async.amigo import wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nairi_async._core.executor import RequestExecutor
    from nairi_async.amigo.outgoing_message import OutgoingMessage
    from nairi_async.amigo.wire import Page

MODEL_TIMEOUT: Final = 120.0
"""Seconds for the calls that run a model and answer at once; how long that takes is not documented."""
FINISH_TIMEOUT: Final = 60.0
"""Seconds for finishing a conversation, at least."""

_STREAM: Final = {"Accept": "application/x-ndjson"}
_BUSY: Final = frozenset({409})
_UNKNOWN: Final = "the message was sent, and whether the interaction is saved is not known"


class Api:
    """One organisation's endpoints. Arguments are checked by whoever calls."""

    def __init__(self, executor: RequestExecutor, organization_id: str, user_id: str, *, idle_timeout: float) -> None:
        self.executor = executor
        self.user_id = user_id
        self._root = path(organization_id, "conversation")
        self._idle_timeout = idle_timeout

    def create(self, service_id: str, saying: OutgoingMessage, options: dict[str, Any]) -> Request:
        """Begin a conversation."""
        document: dict[str, Any] = {"service_id": service_id, **options}
        if saying.text is not None:
            document |= {"initial_message": saying.text, "initial_message_type": saying.message_type}
        query = [("response_format", saying.response_format), *_filter(saying)]
        # A conflict is here only a related operation that still runs; there is no conversation that could be finished.
        return self._stream("create", "/", query, wire.encode(document), busy_statuses=_BUSY)

    async def interact(self, conversation_id: str, saying: OutgoingMessage, *, is_patient: bool) -> Request:
        """Say something in a conversation; `is_patient` waits for what may still run in it."""
        recording = await saying.recording()
        query = [
            ("request_format", "text" if recording is None else "voice"),
            ("response_format", saying.response_format),
            *_filter(saying),
        ]
        if recording is None:
            data, filename, kind = (saying.text or "").encode(), "message.txt", "text/plain; charset=utf-8"
        else:
            data, filename, kind = recording.data, recording.filename, recording.content_type
            query.append(("request_audio_config", json.dumps(recording.config)))
        fields = [("initial_message_type", saying.message_type)]
        fields += [("external_event_message_content", said) for _, said in saying.events]
        fields += [("external_event_message_timestamp", time) for time, _ in saying.events]
        form = await Upload.prepare(data, filename=filename, content_type=kind, name="recorded_message", fields=fields)
        location = path(conversation_id, "interact")
        return self._stream("interact", location, query, form, busy_statuses=_BUSY if is_patient else frozenset())

    async def finish(self, conversation_id: str, *, is_patient: bool = False) -> None:
        """End a conversation; `is_patient` waits for what may still run in it."""
        request = Request(
            method="POST",
            path=f"{self._root}{path(conversation_id, 'finish')}/",
            bucket="finish",
            idempotent=False,
            timeout=max(FINISH_TIMEOUT, self.executor.request_timeout),
            unknown_outcome_message="the request was sent, and whether the conversation is finished is not known",
            observe_date=True,
            busy_statuses=_BUSY if is_patient else frozenset(),
        )
        await self.executor.call(request, wire.decode_nothing)

    async def conversations(self, query: Sequence[tuple[str, str]]) -> Page:
        """One page of conversations."""
        return await self.executor.call(self._get("conversations", "/", query), wire.decode_conversations)

    async def messages(self, conversation_id: str, query: Sequence[tuple[str, str]]) -> Page:
        """One page of messages."""
        location = path(conversation_id, "messages") + "/"
        return await self.executor.call(self._get("messages", location, query), wire.decode_messages)

    async def source(self, conversation_id: str, message_id: str, *, long_lived: bool) -> Any:
        """Where the audio of a message is."""
        location = path(conversation_id, "messages", message_id, "source")
        query = [("long_lived", "true")] if long_lived else []
        return await self.executor.call(self._get("source", location, query), wire.decode_source)

    async def insights(self, conversation_id: str, interaction_id: str) -> Any:
        """What the agent had in mind."""
        location = path(conversation_id, "interaction", interaction_id, "insights")
        return await self.executor.call(self._get("insights", location, ()), wire.decode_insights)

    async def tag(self, conversation_id: str, document: dict[str, Any]) -> None:
        """Change tags: the same change twice is the same as once."""
        request = self._post("tags", path(conversation_id, "tags") + "/", document)
        await self.executor.call(request, wire.decode_nothing)

    async def recommend(self, conversation_id: str, interaction_id: str, document: dict[str, Any]) -> tuple[str, ...]:
        """Recommended responses: a suggestion, so another one does no harm."""
        location = path(conversation_id, "interaction", interaction_id, "recommend_responses")
        request = self._post("recommend", location, document, timeout=MODEL_TIMEOUT)
        return await self.executor.call(request, wire.decode_recommended)

    async def starters(self, document: dict[str, Any]) -> Any:
        """Conversation starters, which change nothing either."""
        request = self._post("starters", "/conversation_starter", document, timeout=MODEL_TIMEOUT)
        return await self.executor.call(request, wire.decode_starters)

    def _stream(
        self, bucket: str, location: str, query: Iterable[tuple[str, str]], body: bytes | Upload, **options: Any
    ) -> Request:
        return Request(
            method="POST",
            path=f"{self._root}{location}",
            query=_encoded(query),
            body=body,
            idempotent=False,
            headers=_STREAM,
            bucket=bucket,
            idle_timeout=self._idle_timeout,
            observe_date=True,
            unknown_outcome_message=_UNKNOWN,
            **options,
        )

    def _get(self, bucket: str, location: str, query: Iterable[tuple[str, str]]) -> Request:
        address = f"{self._root}{location}"
        return Request(method="GET", path=address, query=_encoded(query), bucket=bucket, observe_date=True)

    def _post(self, bucket: str, location: str, document: dict[str, Any], *, timeout: float | None = None) -> Request:
        body = wire.encode(document)
        bound = None if timeout is None else max(timeout, self.executor.request_timeout)
        return Request(method="POST", path=f"{self._root}{location}", body=body, bucket=bucket, timeout=bound)


def _filter(saying: OutgoingMessage) -> list[tuple[str, str]]:
    wanted = saying.current_agent_action_type
    return [] if wanted is None else [("current_agent_action_type", wanted)]


def _encoded(query: Iterable[tuple[str, str]]) -> str:
    # A plus is encoded, since a bare one stands for a space (api: ids, common parameters).
    return urlencode(list(query), quote_via=quote, safe="")
