"""The endpoints of the simulated Amigo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web
from attrs import frozen

from nairi_async.clock import Clock
from nairi_async.testing.amigo import forms, stream
from nairi_async.testing.amigo.caller import executor
from nairi_async.testing.amigo.forms import Query, path_id
from nairi_async.testing.amigo.views import Page, View
from nairi_async.testing.amigo.world import World
from nairi_async.testing.answers import answer
from nairi_async.testing.refused import RefusedError

if TYPE_CHECKING:
    from nairi_async.testing.amigo.world import Conversation

BASE_PATH = "/v1/{organization}"

_CREATED_SORTS = ("+created_at", "-created_at")
_MESSAGE_SORTS = (*_CREATED_SORTS, "+interaction_id", "-interaction_id")
_LARGEST_PAGES = {"conversations": 150, "messages": 500}
_LONG_LIVED, _SHORT_LIVED = 12 * 3600, 3600
_MOST_STARTERS = 10


@frozen
class AmigoRoutes:
    """All endpoints; who asks and what was counted was found out by the gate."""

    world: World
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
        token, expires = self.world.sign_in(key, key_id, user, self.clock.time())
        return self._answer({"id_token": token, "expires_at": self._view().stamp(expires)})

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Begin a conversation."""
        body = await forms.read_object(request)
        service_id = forms.checked_id(body.get("service_id"), "service_id")
        version_set = forms.text(body, "service_version_set_name", "release", shortest=0)
        tags = forms.tags(body, "tags", only_words=False)
        is_test = body.get("is_test", False)
        if not isinstance(is_test, bool):
            forms.invalid("is_test must be a boolean")
        said = forms.first_words(body, Query(request.query))
        conversation, turn = self.world.create(
            executor.get().user_id, self.world.find_service(service_id, version_set), said, self.clock.time(),
            version_set=version_set, tags=tags, is_test=is_test,
        )  # fmt: skip
        return await stream.send(
            request, conversation, turn, self.clock, self.world.quirks,
            status=self.world.quirks.create_code,
        )  # fmt: skip

    async def interact(self, request: web.Request) -> web.StreamResponse:
        """Send a message."""
        conversation_id = path_id(request, "conversation_id")
        said = await forms.next_words(request, Query(request.query))
        now = self.clock.time()
        conversation = self.world.unfinished(conversation_id, executor.get().user_id, now)
        turn = self.world.interact(conversation, said, now)
        return await stream.send(request, conversation, turn, self.clock, self.world.quirks, status=200)

    async def finish(self, request: web.Request) -> web.Response:
        """Finish a conversation."""
        now = self.clock.time()
        self.world.finish(self.world.unfinished(path_id(request, "conversation_id"), executor.get().user_id, now), now)
        return web.Response(status=204)

    async def conversations(self, request: web.Request) -> web.Response:
        """Return a page of the user's conversations."""
        query = Query(request.query)
        users, ids = query.texts("user_id"), query.ids("id", unique=False)
        services, is_finished = query.ids("service_id"), query.flag("is_finished")
        wanted = [_tag(text) for text in query.texts("tag", unique=False)]
        page = _page(query, "conversations", _CREATED_SORTS)
        seen, view = self._seen(), self._view()
        found = [
            one
            for one in self.world.conversations.values()
            if one.user_id == executor.get().user_id
            and one.created <= seen
            and self.world.exists(one, seen)
            and (not users or one.user_id in users)
            and (not ids or one.id in ids)
            and (not services or one.service.id in services)
            and is_finished in {None, one.has_ended(seen)}
            and all(name in one.tags and value in {"*", one.tags[name] or ""} for name, value in wanted)
        ]
        return self._answer(view.page("conversations", [view.conversation(one, seen) for one in found], page))

    async def messages(self, request: web.Request) -> web.Response:
        """Return a page of the messages of a conversation."""
        conversation = self._named(request)
        query = Query(request.query)
        ids, interactions = query.ids("id"), query.ids("interaction_id")
        types = query.choices("message_type", forms.MESSAGE_TYPES, unique=True)
        page = _page(query, "messages", _MESSAGE_SORTS)
        view = self._view()
        found = [
            view.message(entry)
            for entry in conversation.entries(self._seen())
            if (not ids or entry.id in ids)
            and (not interactions or entry.interaction_id in interactions)
            and (entry.type in types if types else entry.type != "agent-inner-thought")
        ]
        return self._answer(view.page("messages", found, page))

    async def source(self, request: web.Request) -> web.Response:
        """Return where the audio of a voice message is."""
        message_id = path_id(request, "message_id")
        long_lived = Query(request.query).flag("long_lived")
        now = self.clock.time()
        entries = self._named(request).entries(now)
        entry = next((one for one in entries if one.id == message_id), None)
        if entry is None:
            raise RefusedError(404, "message not found")
        if entry.audio_type is None:
            raise RefusedError(400, "it is a text message")
        expires = now + (_LONG_LIVED if long_lived else _SHORT_LIVED)
        shown = {
            "url": f"{request.url.origin()}/audio/{entry.id}",
            "expires_at": self._view().stamp(expires),
            "content_type": entry.audio_type,
        }
        return self._answer(shown)

    async def tags(self, request: web.Request) -> web.Response:
        """Change the tags of a conversation."""
        conversation_id = path_id(request, "conversation_id")
        body = await forms.read_object(request)
        updates = forms.tags(body, "updates", only_words=True)
        deletes = forms.texts(body, "deletes", unique=True)
        conversation = self.world.find(conversation_id, executor.get().user_id, self.clock.time())
        self.world.tag(conversation, updates, deletes)
        return web.Response(status=204)

    async def recommend(self, request: web.Request) -> web.Response:
        """Suggest what the user could answer."""
        interaction_id = path_id(request, "interaction_id")
        body = await forms.read_object(request, required=False)
        if "context" in body:
            forms.text(body, "context")
        conversation, now = self._named(request), self.clock.time()
        saved = conversation.saved(now)
        is_latest = bool(saved) and saved[-1].asked.interaction_id == interaction_id
        if conversation.has_ended(now) or conversation.is_busy(now) or not is_latest:
            raise RefusedError(400, "it is not the latest interaction of an unfinished conversation")
        return self._answer({"recommended_responses": list(conversation.service.recommended)})

    async def insights(self, request: web.Request) -> web.Response:
        """Explain an interaction."""
        interaction_id = path_id(request, "interaction_id")
        saved = self._named(request).saved(self.clock.time())
        turn = next((one for one in saved if one.asked.interaction_id == interaction_id), None)
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
        return self._answer(shown)

    async def starters(self, request: web.Request) -> web.Response:
        """Make up sentences that begin a conversation, one for each facet in turn."""
        body = await forms.read_object(request)
        service_id = forms.checked_id(body.get("service_id"), "service_id")
        version_set = forms.text(body, "service_version_set_name", "release", shortest=0)
        facets = forms.texts(body, "facets", fewest=1)
        least = forms.whole_number(body, "min_count", 1, _MOST_STARTERS)
        most = forms.whole_number(body, "max_count", 1, _MOST_STARTERS)
        forms.text(body, "generation_instructions")
        self.world.find_service(service_id, version_set)
        count = max(least, min(most, len(facets)))
        chosen = [facets[place % len(facets)] for place in range(count)]
        prompts = [{"prompt": f"Tell me about {facet}.", "facets": [facet]} for facet in chosen]
        return self._answer({"prompts": prompts})

    def _named(self, request: web.Request) -> Conversation:
        return self.world.find(path_id(request, "conversation_id"), executor.get().user_id, self.clock.time())

    def _seen(self) -> float:
        return self.clock.time() - self.world.quirks.list_lag

    def _view(self) -> View:
        return View(self.world.quirks)

    def _answer(self, shown: dict[str, Any]) -> web.Response:
        return answer(self._view().odd(shown))


def _page(query: Query, name: str, sorts: tuple[str, ...]) -> Page:
    return Page(
        limit=query.integer("limit", _LARGEST_PAGES[name], 1, _LARGEST_PAGES[name]),
        token=query.integer("continuation_token", 0, 0),
        sort=query.choices("sort_by", sorts, unique=False),
    )


def _tag(given: str) -> tuple[str, str]:
    """Return name and value of a filter: `*` is any value, an empty one null."""
    name, colon, value = given.partition(":")
    if not colon:
        forms.invalid("tag must be key:value")
    return name, value
