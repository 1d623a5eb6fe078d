"""The endpoints of agents."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from aiohttp import web
from attrs import frozen

from nairi_async.clock import Clock
from nairi_async.testing.json_bodies import RefusedError, flag, json_response, read_object, required_text, whole_number
from nairi_async.testing.state import NairiState
from nairi_async.testing.views import View

if TYPE_CHECKING:
    from nairi_async.testing.jobs import Agent


@frozen
class AgentRoutes:
    """List, read, create, change, delete and deploy agents."""

    state: NairiState
    clock: Clock

    def table(self) -> list[web.RouteDef]:
        """Return the endpoints, without the base path."""
        return [
            web.get("/agents", self.agents, allow_head=False),
            web.post("/agents", self.create),
            web.post("/agents/{agent_id:.+}/deploy", self.deploy),
            web.get("/agents/{agent_id:.+}", self.agent, allow_head=False),
            web.patch("/agents/{agent_id:.+}", self.update),
            web.delete("/agents/{agent_id:.+}", self.delete),
        ]

    async def agents(self, _request: web.Request) -> web.Response:
        """Return all agents."""
        return json_response([self._json(agent) for agent in self.state.agents.values()])

    async def agent(self, request: web.Request) -> web.Response:
        """Return one agent."""
        return json_response(self._json(self._find(request)))

    async def create(self, request: web.Request) -> web.Response:
        """Create an agent."""
        body = await read_object(request)
        name = required_text(body, "name")
        instances = whole_number(body.get("instances_count", 1))
        if instances is None or instances < 1:
            raise RefusedError(400, "instances_count must be a positive integer")
        changes = _changes(body)
        agent = self.state.make_agent(self._free_slug(name), self.clock.time(), name=name)
        agent.set_capacity(instances)
        _apply(agent, changes)
        return json_response(self._json(agent), 201)

    async def update(self, request: web.Request) -> web.Response:
        """Change the fields that the body sets."""
        agent = self._find(request)
        changes = _changes(await read_object(request))
        _apply(agent, changes)
        if changes:
            agent.updated = self.clock.time()
        return json_response(self._json(agent))

    async def delete(self, request: web.Request) -> web.Response:
        """Delete an agent; its jobs stay."""
        del self.state.agents[self._find(request).agent_id]
        return web.Response(status=204)

    async def deploy(self, request: web.Request) -> web.Response:
        """Accept a deployment, which changes nothing here."""
        self._find(request)
        flag(await read_object(request, required=False), "update_config_only")
        return json_response(View(self.state.quirks).extended({"status": "queued"}), 202)

    def _find(self, request: web.Request) -> Agent:
        return self.state.find_agent(request.match_info["agent_id"])

    def _json(self, agent: Agent) -> dict[str, Any]:
        return View(self.state.quirks).agent(agent)

    def _free_slug(self, name: str) -> str:
        """Return the slug of a name, with a number if it is taken."""
        slug = wanted = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "agent"
        number = 1
        while slug in self.state.agents:
            number += 1
            slug = f"{wanted}-{number}"
        return slug


def _changes(body: dict[str, Any]) -> dict[str, str | None]:
    """Check and return the fields that a body sets; ignore unknown ones."""
    changes: dict[str, str | None] = {name: body[name] for name in ("description", "system_prompt") if name in body}
    if not isinstance(changes.get("description", ""), str):
        raise RefusedError(400, "description must be a string")
    if not isinstance(changes.get("system_prompt", ""), str | None):
        raise RefusedError(400, "system_prompt must be a string or null")
    return changes


def _apply(agent: Agent, changes: dict[str, str | None]) -> None:
    for name, value in changes.items():
        setattr(agent, name, value)
