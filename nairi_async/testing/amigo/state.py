"""The state of the simulated Amigo, as a pure function of time: users, services and conversations.

A message fixes at once, from the service's script, what is sent and saved when. A read shows what is saved by its
`now`. Every `now` is in seconds since the epoch.
"""

from __future__ import annotations

import base64
import json
import math
import re
from datetime import datetime
from typing import TYPE_CHECKING

from attrs import define, field, frozen

from nairi_async.testing.amigo.limits import Limits
from nairi_async.testing.amigo.script import Script, default_script, steps_of
from nairi_async.testing.amigo.timeline import Format, Kind, RecordedInteraction, ScriptedMessage, Turn, play_script
from nairi_async.testing.json_bodies import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nairi_async.testing.amigo.quirks import AmigoQuirks
    from nairi_async.testing.ids import IdMaker

_MOST_TAGS = 20


@define
class Credentials:
    """The key for signing in, and the user who is signed in by default."""

    organization: str
    api_key: str
    api_key_id: str
    user: str


@define
class User:
    """A user of the organisation."""

    id: str
    first_name: str = "Simulated"
    last_name: str = "User"
    email: str = ""
    role: str = "DefaultUserRole"
    preferences: dict[str, object] = field(factory=dict)
    variables: dict[str, str] = field(factory=dict)
    secret_names: tuple[str, ...] = ()


@define
class Service:
    """A service, and the script of its conversations."""

    id: str
    script: Script = default_script
    name: str = "Simulated service"
    description: str = ""
    is_active: bool = True
    tags: dict[str, str | None] = field(factory=dict)
    voice: bool = True
    version_sets: tuple[str, ...] = ("release",)
    recommended: tuple[str, ...] = ("Yes, please.", "No, thank you.")


@frozen
class UserMessage:
    """A checked message of a client."""

    kind: Kind | None = None
    message: str = ""
    audio: bytes | None = None
    audio_type: str | None = None
    events: tuple[tuple[str, datetime], ...] = ()
    response_format: Format = "text"
    actions: str = "^.*$"


@define(eq=False)
class Conversation:
    """A conversation: its turns, and when it was finished."""

    id: str
    user_id: str
    service: Service
    created: float
    version_set: str = "release"
    is_test: bool = False
    tags: dict[str, str | None] = field(factory=dict)
    turns: list[Turn] = field(factory=list)
    streams: int = 0
    """Number of its streams that are still open."""
    finished_at: float = math.inf

    def saved(self, now: float) -> list[Turn]:
        """Return the saved turns, in order."""
        return [turn for turn in self.turns if turn.completed_at <= now]

    def messages(self, now: float) -> list[ScriptedMessage]:
        """Return the messages, oldest first."""
        found = [message for turn in self.saved(now) for message in turn.messages]
        return sorted(found, key=lambda message: message.created)

    def is_busy(self, now: float) -> bool:
        """Return whether one of its turns still runs."""
        return self.streams > 0 or any(turn.ended_at > now for turn in self.turns)

    def has_ended(self, now: float) -> bool:
        """Return whether it was finished, or ended itself and is fully processed."""
        return self.finished_at <= now or any(turn.ends and turn.is_processed for turn in self.saved(now))


@define
class AmigoState:
    """The services, users and conversations of an organisation."""

    quirks: AmigoQuirks
    ids: IdMaker
    credentials: Credentials
    transcribe: Callable[[bytes], str]
    users: dict[str, User] = field(factory=dict)
    services: dict[str, Service] = field(factory=dict)
    conversations: dict[str, Conversation] = field(factory=dict)
    limits: Limits = field(factory=Limits)
    tokens: dict[str, tuple[str, float]] = field(factory=dict)
    """User and expiry of each token."""
    sign_ins: int = 0
    asked: list[RecordedInteraction] = field(factory=list)

    def sign_in(self, key: str, key_id: str, user: str, now: float) -> tuple[str, float]:
        """Return a token and its expiry; refuse a wrong key with 401."""
        expected = self.credentials
        if (key, key_id) != (expected.api_key, expected.api_key_id) or user not in self.users:
            raise RefusedError(401, "invalid API key or user")
        self.sign_ins += 1
        expires = now + self.quirks.token_lifetime
        claims: dict[str, object] = {"sub": user, "iat": int(now), "exp": int(expires), "jti": self.ids.object_id(now)}
        parts: tuple[dict[str, object], ...] = ({"alg": "none", "typ": "JWT"}, claims, {"n": self.sign_ins})
        token = ".".join(map(_part, parts))
        self.tokens[token] = (user, expires)
        return token, expires

    def user_of(self, token: str, now: float) -> str:
        """Return the user of a token; refuse an unknown or expired one with 401."""
        user, expires = self.tokens.get(token, ("", -math.inf))
        if now >= expires:
            raise RefusedError(401, "the token is missing, wrong or expired")
        return user

    def create_user(self, user: User) -> None:
        """Add a user; refuse an email that is taken with 409."""
        if any(other.email == user.email for other in self.users.values()):
            raise RefusedError(409, "a user with this email exists")
        self.users[user.id] = user

    def find_user(self, user_id: str) -> User:
        """Return the user, or refuse with 404."""
        if user_id not in self.users:
            raise RefusedError(404, "user not found")
        return self.users[user_id]

    def delete_user(self, user_id: str) -> None:
        """Remove the user, and refuse the tokens issued so far."""
        del self.users[self.find_user(user_id).id]
        self.tokens = {token: known for token, known in self.tokens.items() if known[0] != user_id}

    def find_service(self, service_id: str, version_set: str = "release") -> Service:
        """Return the service, or refuse with 404."""
        service = self.services.get(service_id)
        if service is None or version_set not in service.version_sets:
            raise RefusedError(404, "service or version set not found")
        return service

    def exists(self, conversation: Conversation, now: float) -> bool:
        """Return whether the conversation exists; it may not if its first turn is void."""
        return conversation.is_busy(now) or bool(conversation.saved(now)) or self.quirks.failed_create == "kept"

    def find(self, conversation_id: str, user: str, now: float) -> Conversation:
        """Return a conversation of that user, or refuse with 404 or 403."""
        conversation = self.conversations.get(conversation_id)
        if conversation is None or not self.exists(conversation, now):
            raise RefusedError(404, "conversation not found")
        if conversation.user_id != user:
            raise RefusedError(403, "the conversation is another user's")
        return conversation

    def unfinished(self, conversation_id: str, user: str, now: float) -> Conversation:
        """Return a conversation that is free for the next call, or refuse with 404, 403 or 409."""
        conversation = self.find(conversation_id, user, now)
        if conversation.is_busy(now):
            raise RefusedError(409, "a related operation is in progress")
        if conversation.has_ended(now):
            raise RefusedError(409, "the conversation is already finished")
        return conversation

    def create(
        self,
        user: str,
        service: Service,
        message: UserMessage,
        now: float,
        *,
        version_set: str = "release",
        tags: dict[str, str | None] | None = None,
        is_test: bool = False,
    ) -> tuple[Conversation, Turn]:
        """Create a conversation."""
        self._only_one(user, service, now)
        conversation = Conversation(
            self.ids.object_id(now), user, service, now, version_set, is_test=is_test, tags=dict(tags or {})
        )
        turn = self._turn(conversation, message, now, created=True)
        self.conversations[conversation.id] = conversation
        return conversation, turn

    def interact(self, conversation: Conversation, message: UserMessage, now: float) -> Turn:
        """Continue a conversation."""
        if any(at.timestamp() > now for _, at in message.events):
            raise RefusedError(400, "external events must lie in the past")
        times = [at for _, at in message.events]
        if times != sorted(times):
            raise RefusedError(400, "external events must be in the order of their times")
        return self._turn(conversation, message, now, created=False)

    def finish(self, conversation: Conversation, now: float) -> None:
        """Finish a conversation; one without messages is deleted, or refused with 400."""
        if conversation.saved(now):
            conversation.finished_at = now
        elif self.quirks.empty_finish == "delete":
            del self.conversations[conversation.id]
        else:
            raise RefusedError(400, "the conversation has no interactions")

    def tag(self, conversation: Conversation, updates: dict[str, str | None], deletes: list[str]) -> None:
        """Change tags; refuse with 400 if there would be too many."""
        tags = {**conversation.tags, **updates}
        for name in deletes:
            tags.pop(name, None)
        if len(tags) > _MOST_TAGS:
            raise RefusedError(400, f"at most {_MOST_TAGS} tags are allowed")
        conversation.tags = tags

    def _only_one(self, user: str, service: Service, now: float) -> None:
        if not self.quirks.one_unfinished:
            return
        for other in self.conversations.values():
            if other.user_id == user and other.service is service and self.exists(other, now):
                if other.is_busy(now) and not other.saved(now):
                    raise RefusedError(409, "a related operation is in progress")
                if not other.has_ended(now):
                    raise RefusedError(400, "the user has another unfinished conversation of this service")

    def _turn(self, conversation: Conversation, message: UserMessage, now: float, *, created: bool) -> Turn:
        """Run one more turn by the service's script."""
        service = conversation.service
        if "voice" in {message.response_format, "text" if message.audio is None else "voice"} and not service.voice:
            raise RefusedError(400, "the agent has no voice")
        text = message.message if message.audio is None else self.transcribe(message.audio)
        try:
            steps = steps_of(service.script, text, len(conversation.turns) + 1)
        except Exception as error:  # Any error of the user's own function goes to the client.
            raise RefusedError(500, f"the script of {service.id} failed: {error!r}") from error
        recorded = RecordedInteraction(
            conversation.id,
            self.ids.object_id(now),
            service.id,
            conversation.user_id,
            message.kind,
            text,
            now,
            message.events,
            message.audio,
            message.response_format,
            message.actions,
        )
        pattern = re.compile(message.actions)
        turn = play_script(
            steps,
            recorded,
            self.quirks,
            make_id=self.ids.object_id,
            includes=lambda action: pattern.search(action) is not None,
            created=created,
            audio_type=message.audio_type,
        )
        conversation.turns.append(turn)
        self.asked.append(recorded)
        return turn


def _part(content: dict[str, object]) -> str:
    """Return a part of a token in the encoding of a JWT."""
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")
