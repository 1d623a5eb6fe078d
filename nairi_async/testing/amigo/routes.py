"""The endpoints of the simulated Amigo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web
from attrs import frozen

from nairi_async.clock import Clock
from nairi_async.testing.amigo import request_checks, stream
from nairi_async.testing.amigo.request_checks import QueryParameters, path_id
from nairi_async.testing.amigo.state import AmigoState
from nairi_async.testing.amigo.views import Page, View
from nairi_async.testing.json_bodies import RefusedError, json_response

if TYPE_CHECKING:
    from nairi_async.testing.amigo.state import Conversation

BASE_PATH = "/v1/{organization}"

_CREATED_SORTS = ("+created_at", "-created_at")
_MESSAGE_SORTS = (*_CREATED_SORTS, "+interaction_id", "-interaction_id")
_LARGEST_PAGES = {"conversations": 150, "messages": 500}
_LONG_LIVED, _SHORT_LIVED = 12 * 3600, 3600
_MOST_STARTERS = 10


@frozen
class AmigoRoutes:
    """All endpoints; the access policy has set the `RequestContext` of each request."""

    state: AmigoState
    clock: Clock

    def table(self) -> list[web.RouteDef]:
        """Return the endpoints with their names, under the path of the API's version."""
        one = "/conversation/{conversation_id}"
        interaction = one + "/interaction/{interaction_id}"
        routes = [
            ("POST", "/user/signin_with_api_key", self.sign_in),
            ("POST", "/conversation/", self.create),
            ("GET", "/conversation/", self.conversations),
            ("POST", "/conversation/conversation_starter", self.starters),
            ("POST", f"{one}/interact", self.interact),
            ("POST", f"{one}/finish/", self.finish),
            ("GET", f"{one}/messages/", self.messages),
            ("GET", f"{one}/messages/{{message_id}}/source", self.source),
            ("POST", f"{one}/tags/", self.tags),
            ("POST", f"{interaction}/recommend_responses", self.recommend),
            ("GET", f"{interaction}/insights", self.insights),
        ]
        return [
            web.RouteDef(method, BASE_PATH + path, handler, {"name": handler.__name__})
            for method, path, handler in routes
        ]

    async def sign_in(self, request: web.Request) -> web.Response:
        """Exchange a key for a token."""
        key, key_id, user = (request.headers.get(name, "") for name in ("x-api-key", "x-api-key-id", "x-user-id"))
        token, expires = self.state.sign_in(key, key_id, user, self.clock.time())
        return self._json_response({"id_token": token, "expires_at": self._view().stamp(expires)})

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Begin a conversation."""
        body = await request_checks.read_object(request)
        service_id = request_checks.checked_id(body.get("service_id"), "service_id")
        version_set = request_checks.text(body, "service_version_set_name", "release", shortest=0)
        tags = request_checks.tags(body, "tags", only_words=False)
        is_test = body.get("is_test", False)
        if not isinstance(is_test, bool):
            request_checks.invalid("is_test must be a boolean")
        message = request_checks.message_of_create(body, QueryParameters(request.query))
        conversation, turn = self.state.create(
            _user(), self.state.find_service(service_id, version_set), message, self.clock.time(),
            version_set=version_set, tags=tags, is_test=is_test,
        )  # fmt: skip
        return await stream.send(
            request, conversation, turn, self.clock, self.state.quirks,
            status=self.state.quirks.create_code,
        )  # fmt: skip

    async def interact(self, request: web.Request) -> web.StreamResponse:
        """Send a message."""
        conversation_id = path_id(request, "conversation_id")
        message = await request_checks.message_of_interact(request, QueryParameters(request.query))
        now = self.clock.time()
        conversation = self.state.unfinished(conversation_id, _user(), now)
        turn = self.state.interact(conversation, message, now)
        return await stream.send(request, conversation, turn, self.clock, self.state.quirks, status=200)

    async def finish(self, request: web.Request) -> web.Response:
        """Finish a conversation."""
        now = self.clock.time()
        self.state.finish(self.state.unfinished(path_id(request, "conversation_id"), _user(), now), now)
        return web.Response(status=204)

    async def conversations(self, request: web.Request) -> web.Response:
        """Return a page of the user's conversations."""
        query = QueryParameters(request.query)
        users, ids = query.texts("user_id"), query.ids("id", unique=False)
        services, is_finished = query.ids("service_id"), query.flag("is_finished")
        required_tags = [_tag(text) for text in query.texts("tag", unique=False)]
        page = _page(query, "conversations", _CREATED_SORTS)
        as_of, view = self._read_time(), self._view()
        found = [
            one
            for one in self.state.conversations.values()
            if one.user_id == _user()
            and one.created <= as_of
            and self.state.exists(one, as_of)
            and (not users or one.user_id in users)
            and (not ids or one.id in ids)
            and (not services or one.service.id in services)
            and is_finished in {None, one.has_ended(as_of)}
            and all(name in one.tags and value in {"*", one.tags[name] or ""} for name, value in required_tags)
        ]
        return self._json_response(view.page("conversations", [view.conversation(one, as_of) for one in found], page))

    async def messages(self, request: web.Request) -> web.Response:
        """Return a page of the messages of a conversation."""
        conversation = self._find(request)
        query = QueryParameters(request.query)
        ids, interactions = query.ids("id"), query.ids("interaction_id")
        types = query.choices("message_type", request_checks.MESSAGE_TYPES, unique=True)
        page = _page(query, "messages", _MESSAGE_SORTS)
        view = self._view()
        found = [
            view.message(one)
            for one in conversation.messages(self._read_time())
            if (not ids or one.id in ids)
            and (not interactions or one.interaction_id in interactions)
            and (one.type in types if types else one.type != "agent-inner-thought")
        ]
        return self._json_response(view.page("messages", found, page))

    async def source(self, request: web.Request) -> web.Response:
        """Return where the audio of a voice message is."""
        message_id = path_id(request, "message_id")
        long_lived = QueryParameters(request.query).flag("long_lived")
        now = self.clock.time()
        messages = self._find(request).messages(now)
        found = next((one for one in messages if one.id == message_id), None)
        if found is None:
            raise RefusedError(404, "message not found")
        if found.audio_type is None:
            raise RefusedError(400, "it is a text message")
        expires = now + (_LONG_LIVED if long_lived else _SHORT_LIVED)
        shown = {
            "url": f"{request.url.origin()}/audio/{found.id}",
            "expires_at": self._view().stamp(expires),
            "content_type": found.audio_type,
        }
        return self._json_response(shown)

    async def tags(self, request: web.Request) -> web.Response:
        """Change the tags of a conversation."""
        conversation_id = path_id(request, "conversation_id")
        body = await request_checks.read_object(request)
        updates = request_checks.tags(body, "updates", only_words=True)
        deletes = request_checks.texts(body, "deletes", unique=True)
        conversation = self.state.find(conversation_id, _user(), self.clock.time())
        self.state.tag(conversation, updates, deletes)
        return web.Response(status=204)

    async def recommend(self, request: web.Request) -> web.Response:
        """Suggest the user's next message."""
        interaction_id = path_id(request, "interaction_id")
        body = await request_checks.read_object(request, required=False)
        if "context" in body:
            request_checks.text(body, "context")
        conversation, now = self._find(request), self.clock.time()
        saved = conversation.saved(now)
        is_latest = bool(saved) and saved[-1].interaction.interaction_id == interaction_id
        if conversation.has_ended(now) or conversation.is_busy(now) or not is_latest:
            raise RefusedError(400, "it is not the latest interaction of an unfinished conversation")
        return self._json_response({"recommended_responses": list(conversation.service.recommended)})

    async def insights(self, request: web.Request) -> web.Response:
        """Explain an interaction."""
        interaction_id = path_id(request, "interaction_id")
        saved = self._find(request).saved(self.clock.time())
        turn = next((one for one in saved if one.interaction.interaction_id == interaction_id), None)
        if turn is None:
            raise RefusedError(404, "interaction not found")
        shown = {
            "current_state_name": "main",
            "current_state_action": "reply",
            "current_state_objective": "Help the user",
            "state_transition_logs": [],
            "working_memory": [],
            "reflections": list(turn.reflections),
            "triggered_dynamic_behavior_set_version_info": None,
            "select_next_action_tool_call_logs": [],
            "engage_user_tool_call_logs": [],
        }
        return self._json_response(shown)

    async def starters(self, request: web.Request) -> web.Response:
        """Return prompts that start a conversation, for the facets in turn."""
        body = await request_checks.read_object(request)
        service_id = request_checks.checked_id(body.get("service_id"), "service_id")
        version_set = request_checks.text(body, "service_version_set_name", "release", shortest=0)
        facets = request_checks.texts(body, "facets", fewest=1)
        lowest = request_checks.whole_number(body, "min_count", 1, _MOST_STARTERS)
        highest = request_checks.whole_number(body, "max_count", 1, _MOST_STARTERS)
        request_checks.text(body, "generation_instructions")
        self.state.find_service(service_id, version_set)
        count = max(lowest, min(highest, len(facets)))
        chosen = [facets[place % len(facets)] for place in range(count)]
        prompts = [{"prompt": f"Tell me about {facet}.", "facets": [facet]} for facet in chosen]
        return self._json_response({"prompts": prompts})

    def _find(self, request: web.Request) -> Conversation:
        return self.state.find(path_id(request, "conversation_id"), _user(), self.clock.time())

    def _read_time(self) -> float:
        return self.clock.time() - self.state.quirks.list_lag

    def _view(self) -> View:
        return View(self.state.quirks)

    def _json_response(self, shown: dict[str, Any]) -> web.Response:
        return json_response(self._view().extended(shown))


def _user() -> str:
    """Return the user of the request under way."""
    return stream.request_context.get().user_id


def _page(query: QueryParameters, name: str, sorts: tuple[str, ...]) -> Page:
    return Page(
        limit=query.integer("limit", _LARGEST_PAGES[name], 1, _LARGEST_PAGES[name]),
        token=query.integer("continuation_token", 0, 0),
        sort=query.choices("sort_by", sorts, unique=False),
    )


def _tag(given: str) -> tuple[str, str]:
    """Return name and value of a filter; the value `*` matches any, an empty one null."""
    name, colon, value = given.partition(":")
    if not colon:
        request_checks.invalid("tag must be key:value")
    return name, value
