"""The endpoints for users and services of the simulated Amigo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web
from attrs import frozen

from nairi_async.clock import Clock
from nairi_async.testing.amigo import request_checks
from nairi_async.testing.amigo.request_checks import QueryParameters
from nairi_async.testing.amigo.state import AmigoState, User
from nairi_async.testing.amigo.views import Page, View
from nairi_async.testing.json_bodies import json_response

if TYPE_CHECKING:
    from nairi_async.testing.amigo.state import Service

BASE_PATH = "/v1/{organization}"

_SERVICE_SORTS = ("+name", "-name", "+is_active", "-is_active")
_USER_FIELDS = ("first_name", "last_name", "email")
_USER_SORTS = tuple(f"{sign}{name}" for name in _USER_FIELDS for sign in "+-")
_MOST_SERVICES, _MOST_USERS = 20, 100
_SHOWN_SERVICES = 10
_VERSION_SET = {
    "agent_version_number": 1,
    "service_hierarchical_state_machine_version_number": 1,
    "llm_model_preferences": {},
}
_PREFERENCES = (
    "preferred_language",
    "timezone",
    "enable_response_recommendation",
    "conversations_visible_to_admins",
    "user_model_visible_to_admins",
    "audio_keyterms",
)


@frozen
class DirectoryRoutes:
    """The lists of users and services, and what changes users."""

    state: AmigoState
    clock: Clock

    def table(self) -> list[web.RouteDef]:
        """Return the endpoints with their names, under the path of the API's version."""
        routes = [
            ("GET", "/service/", self.services),
            ("GET", "/user/", self.users),
            ("POST", "/user/", self.create_user),
            ("POST", "/user/{user_id}", self.update_user),
            ("DELETE", "/user/{user_id}", self.delete_user),
        ]
        return [
            web.RouteDef(method, BASE_PATH + path, handler, {"name": handler.__name__})
            for method, path, handler in routes
        ]

    async def services(self, request: web.Request) -> web.Response:
        """Return a page of services."""
        query = QueryParameters(request.query)
        ids, is_active = query.ids("id"), query.flag("is_active")
        wanted = [text.partition(":")[::2] for text in query.texts("tags", unique=False)]
        page = _page(query, _SHOWN_SERVICES, _MOST_SERVICES, _SERVICE_SORTS)
        shown = [
            self._service(one)
            for one in self.state.services.values()
            if (not ids or one.id in ids)
            and is_active in {None, one.is_active}
            and all(name in one.tags and value in {"*", one.tags[name] or ""} for name, value in wanted)
        ]
        tags = sorted({tag for one in self.state.services.values() for tag in one.tags})
        # Only on the first page.
        filter_values = None if page.token else {"tags": tags}
        return self._json_response({**self._view().page("services", shown, page), "filter_values": filter_values})

    async def users(self, request: web.Request) -> web.Response:
        """Return a page of users."""
        query = QueryParameters(request.query)
        ids, emails = query.texts("user_id"), query.texts("email")
        page = _page(query, _MOST_USERS, _MOST_USERS, _USER_SORTS)
        shown = [
            self._user(one)
            for one in self.state.users.values()
            if (not ids or one.id in ids) and (not emails or one.email in emails)
        ]
        return self._json_response(self._view().page("users", shown, page))

    async def create_user(self, request: web.Request) -> web.Response:
        """Create a user."""
        body = await request_checks.read_object(request)
        first, last, email, role = (
            request_checks.text(body, name) for name in ("first_name", "last_name", "email", "role_name")
        )
        user = User(self.state.ids.object_id(self.clock.time()), first, last, email, role)
        user.variables = dict(body.get("nonsensitive_user_variables") or {})
        user.secret_names = tuple(body.get("sensitive_user_variables") or ())
        user.preferences = dict(body.get("user_preferences") or {})
        self.state.create_user(user)
        return json_response(self._view().extended({"user_id": user.id, "verify_link": body.get("login_link")}), 201)

    async def update_user(self, request: web.Request) -> web.Response:
        """Change a user."""
        body = await request_checks.read_object(request)
        user = self.state.find_user(request.match_info["user_id"])
        if body.get("first_name") is not None:
            user.first_name = request_checks.text(body, "first_name")
        if body.get("last_name") is not None:
            user.last_name = request_checks.text(body, "last_name")
        user.preferences.update({name: body[name] for name in _PREFERENCES if body.get(name, {}) != {}})
        return web.Response(status=204)

    async def delete_user(self, request: web.Request) -> web.Response:
        """Delete a user."""
        self.state.delete_user(request.match_info["user_id"])
        return web.Response(status=204)

    def _service(self, service: Service) -> dict[str, Any]:
        return self._view().extended(
            {
                "id": service.id,
                "name": service.name,
                "description": service.description,
                "is_active": service.is_active,
                "version_sets": dict.fromkeys(service.version_sets, _VERSION_SET),
                "agent_id": f"{2:024x}",
                "service_hierarchical_state_machine_id": f"{3:024x}",
                "tags": [{"key": name, "value": value} for name, value in service.tags.items()],
                "keyterms": [],
                "creator": self._creator(),
                "updated_by": self._creator(),
            }
        )

    def _creator(self) -> dict[str, str]:
        return {"org_id": self.state.credentials.organization, "user_id": self.state.credentials.user}

    def _user(self, user: User) -> dict[str, Any]:
        own = [one for one in self.state.conversations.values() if one.user_id == user.id]
        messages = [message for one in own for message in one.messages(self.clock.time())]
        last = max((message.created for message in messages), default=None)
        return self._view().extended(
            {
                "org_id": self.state.credentials.organization,
                "user_id": user.id,
                "first_name": user.first_name,
                "last_name": user.last_name,
                "email": user.email,
                "role": user.role,
                "user_stats": {
                    "num_conversations": len(own),
                    "num_messages": len(messages),
                    "last_message_time": None if last is None else self._view().stamp(last),
                },
                "preferences": user.preferences,
                "nonsensitive_variables": user.variables,
                "sensitive_variables": list(user.secret_names),
                "enable_actions_access": False,
            }
        )

    def _view(self) -> View:
        return View(self.state.quirks)

    def _json_response(self, shown: dict[str, Any]) -> web.Response:
        return json_response(self._view().extended(shown))


def _page(query: QueryParameters, usual: int, most: int, sorts: tuple[str, ...]) -> Page:
    return Page(
        limit=query.integer("limit", usual, 1, most),
        token=query.integer("continuation_token", 0, 0),
        sort=query.choices("sort_by", sorts, unique=False),
    )
