"""A Nairi service on the loopback interface, with scripted agents, for tests of whatever talks to it."""

from __future__ import annotations

from difflib import ndiff
from typing import TYPE_CHECKING, Self

from nairi_async.testing.answers import refusal
from nairi_async.testing.fault_responses import spoilt_quirks
from nairi_async.testing.faults import Fault, FaultPlan, Faults
from nairi_async.testing.gate import bearer
from nairi_async.testing.ids import IdMaker
from nairi_async.testing.quirks import Quirks, quirks_met
from nairi_async.testing.refused import RefusedError
from nairi_async.testing.routes import application_routes
from nairi_async.testing.script import Script, default_script, steps_of
from nairi_async.testing.server import Server
from nairi_async.testing.world import Asked, TurnWaiter, World

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web
    from aiohttp.typedefs import Handler

    from nairi_async.clock import Clock

DEFAULT_AGENT = "my-agent"

_PLAIN = Quirks()


class Simulator(Server):
    """A real HTTP server that behaves as Nairi's documentation says, and as `quirks` say where it says nothing.

    Use it with `async with`. The agent `my-agent` always exists. Any other slug that a start names becomes an agent
    with a default script, unless `strict_agents` is on: then an unknown agent is a 404. Give the same `VirtualClock`
    to it and to the client, and scripts of hours take milliseconds. Equal seeds and equal calls make equal ids.
    `faults` make a share of the requests go wrong.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str = "nr_simulator",
        clock: Clock | None = None,
        quirks: Quirks = _PLAIN,
        seed: int = 0,
        agents: Mapping[str, Script] | None = None,
        strict_agents: bool = False,
        faults: FaultPlan | None = None,
    ) -> None:
        super().__init__(host, port, clock)
        self.api_key = api_key
        """The one key that is let in; change it to revoke the old one."""
        self._world = World(quirks, IdMaker(seed), strict_agents)
        self._open(_House(self), application_routes(self._world, self._clock))
        self.faults = faults or FaultPlan()
        for slug, script in {DEFAULT_AGENT: default_script, **(agents or {})}.items():
            self.agent(slug, script)

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables with which a client finds the simulator and is let in."""
        return {"NAIRI_API_KEY": self.api_key, "NAIRI_BASE_URL": self.url}

    @property
    def quirks(self) -> Quirks:
        """Replaceable while the simulator runs; the next request meets the new ones."""
        return self._world.quirks

    @quirks.setter
    def quirks(self, quirks: Quirks) -> None:
        self._world.quirks = quirks

    @property
    def faults(self) -> FaultPlan:
        """What goes wrong; a new plan counts from its beginning, and `FaultPlan()` is a service without faults."""
        return self._gate.faults.plan

    @faults.setter
    def faults(self, plan: FaultPlan) -> None:
        self._gate.faults = Faults(plan)

    @property
    def prompts(self) -> list[Asked]:
        """All prompts that ran, in order: a prompt sent twice by mistake is here twice."""
        return self._world.prompts

    def assert_asked(self, *prompts: str, agent_id: str | None = None) -> None:
        """Raise an `AssertionError` that shows the difference, unless exactly these prompts ran, in this order.

        With an `agent_id`, a slug, only that agent's prompts are looked at.
        """
        asked = [asked.prompt for asked in self.prompts if agent_id in {None, asked.agent_id}]
        if asked != list(prompts):
            lines = ndiff([repr(prompt) for prompt in prompts], [repr(prompt) for prompt in asked])
            of = f" of {agent_id}" if agent_id else ""
            raise AssertionError("\n".join((f"prompts{of}: - expected, + asked", *map(str.rstrip, lines))))

    def agent(
        self,
        slug: str,
        script: Script = default_script,
        *,
        instances: int | None = None,
        queued: float = 0.0,
        name: str | None = None,
        description: str | None = None,
        system_prompt: str | None = None,
    ) -> Self:
        """Make an agent, or change the one of that slug for the turns to come; return the simulator.

        At most `instances` turns run at a time, any number if `None`; others are `queued` until one ends. `queued` is
        the number of seconds that each turn is queued at least.
        """
        if not callable(script):
            steps_of(script, "", 1)
        known = self._world.agents.get(slug)
        agent = known or self._world.make_agent(slug, self._clock.time(), name=name)
        agent.script, agent.description, agent.system_prompt = script, description, system_prompt
        agent.name = name or agent.name
        agent.set_capacity(instances, queued)
        return self

    def attachment(self, filename: str, data: bytes) -> str:
        """Store a file as if it had been uploaded, and return its id, for a `Say(attachment_ids=…)`."""
        return self._world.store(filename, data, self._clock.time())

    def foreign_job(self, agent_id: str) -> str:
        """Make a job that came from Slack, Discord or the web UI, and return its id: it cannot be continued."""
        return self._world.foreign_job(agent_id, self._clock.time()).id

    def job_status(self, job_id: str, status: TurnWaiter) -> None:
        """End a job as `completed`, `error` or `abandoned`, with the system message that says why."""
        self._world.end_job(job_id, status, self._clock.time())


class _House:
    """Lets in whoever has the key."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    async def handled(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if bearer(request) != self._simulator.api_key:
            raise RefusedError(401, "invalid API key")
        return await handler(request)

    def refusal(self, error: RefusedError) -> web.Response:
        return refusal(error)

    def meet(self, fault: Fault | None, plan: FaultPlan, /) -> float:
        quirks = self._simulator.quirks
        quirks_met.set(quirks if fault is None else spoilt_quirks(fault, plan, quirks))
        return quirks.clock_skew + (fault.skew(plan) if fault is not None else 0.0)
