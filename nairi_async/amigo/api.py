"""The endpoints of the service, as requests: https://api.amigo.ai/v1/openapi.json."""

from __future__ import annotations

import json
import math
from copy import copy
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import quote, urlencode
from weakref import WeakSet

from nairi_async._core.address import path
from nairi_async._core.request import Request
from nairi_async._core.upload import Upload
from nairi_async.amigo import wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nairi_async._core.executor import RequestExecutor
    from nairi_async._core.request import Credentials
    from nairi_async.amigo.directory_models import CreatedUser
    from nairi_async.amigo.outgoing_message import OutgoingMessage
    from nairi_async.amigo.wire import Page

MODEL_TIMEOUT: Final = 120.0
"""Seconds for calls that run a model before they respond; how long that takes is not documented."""
FINISH_TIMEOUT: Final = 60.0
"""Least seconds for finishing a conversation."""

_STREAM: Final = {"Accept": "application/x-ndjson"}
# Seconds by which an event may be ahead of the service's time: clocks differ.
_GRACE: Final = 5.0
_CONFLICT: Final = frozenset({409})
_UNKNOWN: Final = "the message was sent, and whether the interaction is saved is not known"


class EndsWithSession(Protocol):
    """A stream that has to know when its session is closed."""

    def session_closed(self) -> None:
        """End, and wake what waits for it."""
        ...


class Api:
    """One organisation's endpoints. Callers check the arguments."""

    def __init__(
        self,
        executor: RequestExecutor,
        organization_id: str,
        user_id: str,
        credentials: Credentials,
        *,
        idle_timeout: float,
    ) -> None:
        self.executor = executor
        self.user_id = user_id
        self._credentials = credentials
        self._organization = path(organization_id)
        self._root = path(organization_id, "conversation")
        self.idle_timeout = idle_timeout
        self.streams: WeakSet[EndsWithSession] = WeakSet()

    def as_user(self, user_id: str, credentials: Credentials) -> Api:
        """Return the endpoints for another user, with everything else shared."""
        other = copy(self)
        other.user_id = user_id
        other._credentials = credentials  # noqa: SLF001 - of the same class
        return other

    async def sleep(self, seconds: float) -> None:
        """Wait; the end of the session wakes the caller.

        Raises:
            SessionClosedError: the session was closed.
        """
        await self.executor.sleep(seconds)

    def close(self) -> None:
        """End all streams."""
        for stream in tuple(self.streams):
            stream.session_closed()

    def latest_time(self) -> float:
        """Return the latest Unix time that the service's clock may show, with some grace."""
        executor = self.executor
        _, latest = executor.server_clock.at(executor.clock.monotonic())
        return (latest if math.isfinite(latest) else executor.clock.time()) + _GRACE

    def create(self, service_id: str, message: OutgoingMessage, options: dict[str, Any]) -> Request:
        """Return the request that creates a conversation."""
        document: dict[str, Any] = {"service_id": service_id, **options}
        if message.text is not None:
            document |= {"initial_message": message.text, "initial_message_type": message.message_type}
        query = [("response_format", message.response_format), *_action_filter(message)]
        # A 409 can only mean that a related operation is running: a new conversation cannot be finished.
        return self._stream("create", "/", query, wire.encode(document), busy_statuses=_CONFLICT)

    async def interact(self, conversation_id: str, message: OutgoingMessage) -> Request:
        """Return the request that says something in a conversation."""
        recording = await message.recording()
        query = [
            ("request_format", "text" if recording is None else "voice"),
            ("response_format", message.response_format),
            *_action_filter(message),
        ]
        if recording is None:
            data, filename, kind = (message.text or "").encode(), "message.txt", "text/plain; charset=utf-8"
        else:
            data, filename, kind = recording.data, recording.filename, recording.content_type
            query.append(("request_audio_config", json.dumps(recording.config)))
        fields: list[tuple[str, str]] = [("initial_message_type", message.message_type)]
        fields += [("external_event_message_content", content) for _, content in message.events]
        fields += [("external_event_message_timestamp", time) for time, _ in message.events]
        form = await Upload.prepare(data, filename=filename, content_type=kind, name="recorded_message", fields=fields)
        location = path(conversation_id, "interact")
        return self._stream("interact", location, query, form)

    async def finish(self, conversation_id: str) -> None:
        """Finish a conversation."""
        request = Request(
            method="POST",
            path=f"{self._root}{path(conversation_id, 'finish')}/",
            credentials=self._credentials,
            bucket="finish",
            idempotent=False,
            timeout=max(FINISH_TIMEOUT, self.executor.request_timeout),
            unknown_outcome_message="the request was sent, and whether the conversation is finished is not known",
            observe_date=True,
        )
        await self.executor.call(request, wire.decode_nothing)

    async def conversations(self, query: Sequence[tuple[str, str]]) -> Page:
        """Read one page of conversations."""
        return await self.executor.call(self._get("conversations", "/", query), wire.decode_conversations)

    async def messages(self, conversation_id: str, query: Sequence[tuple[str, str]]) -> Page:
        """Read one page of messages."""
        location = path(conversation_id, "messages") + "/"
        return await self.executor.call(self._get("messages", location, query), wire.decode_messages)

    async def source(self, conversation_id: str, message_id: str, *, long_lived: bool) -> Any:
        """Read where the audio of a message is."""
        location = path(conversation_id, "messages", message_id, "source")
        query = [("long_lived", "true")] if long_lived else []
        return await self.executor.call(self._get("source", location, query), wire.decode_source)

    async def insights(self, conversation_id: str, interaction_id: str) -> Any:
        """Read the insights of an interaction."""
        location = path(conversation_id, "interaction", interaction_id, "insights")
        return await self.executor.call(self._get("insights", location, ()), wire.decode_insights)

    async def tag(self, conversation_id: str, document: dict[str, Any]) -> None:
        """Change tags. Repeating the same change does no harm."""
        request = self._post("tags", path(conversation_id, "tags") + "/", document)
        await self.executor.call(request, wire.decode_nothing)

    async def recommend(self, conversation_id: str, interaction_id: str, document: dict[str, Any]) -> tuple[str, ...]:
        """Generate recommended responses. Nothing is saved, so repeating it does no harm."""
        location = path(conversation_id, "interaction", interaction_id, "recommend_responses")
        request = self._post("recommend", location, document, timeout=MODEL_TIMEOUT)
        return await self.executor.call(request, wire.decode_recommended)

    async def starters(self, document: dict[str, Any]) -> Any:
        """Generate conversation starters. Nothing is saved, so repeating it does no harm."""
        request = self._post("starters", "/conversation_starter", document, timeout=MODEL_TIMEOUT)
        return await self.executor.call(request, wire.decode_starters)

    async def services(self, query: Sequence[tuple[str, str]]) -> Page:
        """Read one page of services."""
        request = self._get("services", "/service/", query, below=self._organization)
        return await self.executor.call(request, wire.decode_services)

    async def users(self, query: Sequence[tuple[str, str]]) -> Page:
        """Read one page of users."""
        request = self._get("users", "/user/", query, below=self._organization)
        return await self.executor.call(request, wire.decode_users)

    async def create_user(self, document: dict[str, Any]) -> CreatedUser:
        """Create a user."""
        return await self.executor.call(self._of_user("POST", "create_user", "", document), wire.decode_created_user)

    async def update_user(self, user_id: str, document: dict[str, Any]) -> None:
        """Change a user. Repeating the same change does no harm."""
        await self.executor.call(self._of_user("POST", "update_user", user_id, document), wire.decode_nothing)

    async def delete_user(self, user_id: str) -> None:
        """Delete a user."""
        await self.executor.call(self._of_user("DELETE", "delete_user", user_id), wire.decode_nothing)

    def _stream(
        self, bucket: str, location: str, query: Iterable[tuple[str, str]], body: bytes | Upload, **options: Any
    ) -> Request:
        return Request(
            method="POST",
            path=f"{self._root}{location}",
            query=_encoded(query),
            body=body,
            credentials=self._credentials,
            idempotent=False,
            headers=_STREAM,
            bucket=bucket,
            idle_timeout=self.idle_timeout,
            observe_date=True,
            unknown_outcome_message=_UNKNOWN,
            **options,
        )

    def _get(
        self, bucket: str, location: str, query: Iterable[tuple[str, str]], *, below: str | None = None
    ) -> Request:
        return Request(
            method="GET",
            path=f"{self._root if below is None else below}{location}",
            query=_encoded(query),
            credentials=self._credentials,
            bucket=bucket,
            observe_date=True,
        )

    def _post(self, bucket: str, location: str, document: dict[str, Any], *, timeout: float | None = None) -> Request:
        return Request(
            method="POST",
            path=f"{self._root}{location}",
            body=wire.encode(document),
            credentials=self._credentials,
            bucket=bucket,
            timeout=None if timeout is None else max(timeout, self.executor.request_timeout),
        )

    def _of_user(self, method: str, bucket: str, user_id: str, document: dict[str, Any] | None = None) -> Request:
        return Request(
            method=method,
            path=f"{self._organization}{path('user', user_id) if user_id else '/user/'}",
            body=None if document is None else wire.encode(document),
            credentials=self._credentials,
            bucket=bucket,
            # The service says 409 for an email that is taken too, so a conflict is never repeated.
            idempotent=method == "POST" and bool(user_id),
            unknown_outcome_message="the request was sent, and whether it was carried out is not known; list the users",
        )


def _action_filter(message: OutgoingMessage) -> list[tuple[str, str]]:
    pattern = message.current_agent_action_type
    return [] if pattern is None else [("current_agent_action_type", pattern)]


def _encoded(query: Iterable[tuple[str, str]]) -> str:
    # A plus is encoded, because a bare one means a space.
    return urlencode(list(query), quote_via=quote, safe="")
