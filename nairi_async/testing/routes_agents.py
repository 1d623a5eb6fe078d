"""The endpoints of agents."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from aiohttp import web
from attrs import frozen

from nairi_async.clock import Clock
from nairi_async.testing.answers import answer, flag, read_object, required_text
from nairi_async.testing.refused import RefusedError
from nairi_async.testing.views import View
from nairi_async.testing.world import World

if TYPE_CHECKING:
    from nairi_async.testing.jobs import Agent


@frozen
class AgentRoutes:
    """List, read, make, change, delete and deploy agents."""

    world: World
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
        return answer([self._shown(agent) for agent in self.world.agents.values()])

    async def agent(self, request: web.Request) -> web.Response:
        """Return one agent."""
        return answer(self._shown(self._named(request)))

    async def create(self, request: web.Request) -> web.Response:
        """Make an agent."""
        body = await read_object(request)
        name = required_text(body, "name")
        instances = body.get("instances_count", 1)
        if type(instances) is not int or instances < 1:
            raise RefusedError(400, "instances_count must be a positive integer")
        changes = _changes(body)
        agent = self.world.make_agent(self._free_slug(name), self.clock.time(), name=name)
        agent.set_capacity(instances)
        _apply(agent, changes)
        return answer(self._shown(agent), 201)

    async def update(self, request: web.Request) -> web.Response:
        """Change what the body names."""
        agent = self._named(request)
        changes = _changes(await read_object(request))
        _apply(agent, changes)
        if changes:
            agent.updated = self.clock.time()
        return answer(self._shown(agent))

    async def delete(self, request: web.Request) -> web.Response:
        """Forget an agent; its jobs stay."""
        del self.world.agents[self._named(request).agent_id]
        return web.Response(status=204)

    async def deploy(self, request: web.Request) -> web.Response:
        """Accept a deployment, which changes nothing here."""
        self._named(request)
        flag(await read_object(request, required=False), "update_config_only")
        return answer(View(self.world.quirks).odd({"status": "queued"}), 202)

    def _named(self, request: web.Request) -> Agent:
        return self.world.find_agent(request.match_info["agent_id"])

    def _shown(self, agent: Agent) -> dict[str, Any]:
        return View(self.world.quirks).agent(agent)

    def _free_slug(self, name: str) -> str:
        """Return the slug of a name, with a number if it is taken."""
        slug = wanted = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "agent"
        number = 1
        while slug in self.world.agents:
            number += 1
            slug = f"{wanted}-{number}"
        return slug


def _changes(body: dict[str, Any]) -> dict[str, str | None]:
    """Return the fields that a body sets, checked; others in it are ignored."""
    changes: dict[str, str | None] = {name: body[name] for name in ("description", "system_prompt") if name in body}
    if not isinstance(changes.get("description", ""), str):
        raise RefusedError(400, "description must be a string")
    if not isinstance(changes.get("system_prompt", ""), str | None):
        raise RefusedError(400, "system_prompt must be a string or null")
    return changes


def _apply(agent: Agent, changes: dict[str, str | None]) -> None:
    for name, value in changes.items():
        setattr(agent, name, value)
