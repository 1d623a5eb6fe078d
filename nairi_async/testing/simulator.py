"""A Nairi service on the loopback interface, with scripted agents, for tests of its clients."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import ndiff
from typing import TYPE_CHECKING, Self

from nairi_async.testing.fault_responses import quirks_with_fault
from nairi_async.testing.faults import Fault, FaultPlan, Faults
from nairi_async.testing.ids import IdMaker
from nairi_async.testing.json_bodies import RefusedError, error_response
from nairi_async.testing.middleware import bearer
from nairi_async.testing.quirks import Quirks, quirks_in_effect
from nairi_async.testing.routes import application_routes
from nairi_async.testing.script import Script, default_script, steps_of
from nairi_async.testing.server import Server
from nairi_async.testing.state import ClosedStatus, NairiState, RecordedPrompt

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.typedefs import Handler

    from nairi_async.clock import Clock

DEFAULT_AGENT = "my-agent"

_PLAIN = Quirks()


class Simulator(Server):
    """An HTTP server that follows Nairi's documentation (https://nairi.ai/docs/api), and `quirks` elsewhere.

    Use it in `async with`. The agent `my-agent` always exists. Any other slug that a start names becomes an agent with
    the script `default`; with `strict_agents` an unknown agent is a 404. With `concurrency=1` each agent runs one turn
    at a time, as the vendor's daemon does by default; `None` is any number. Equal seeds and equal calls make equal ids.
    `faults` make a share of the requests fail.

    With a `VirtualClock`, scripts of hours take milliseconds. Give the same clock to the simulator and to the session:
    polls of a session with another clock, for which virtual time stands still, are refused with 400 after a moment.
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
        default: Script = default_script,
        strict_agents: bool = False,
        concurrency: int | None = None,
        faults: FaultPlan | None = None,
    ) -> None:
        super().__init__(host, port, clock)
        self._check("quirks", quirks, Quirks)
        self._check("agents", {} if agents is None else agents, Mapping)
        self.api_key = api_key
        """The one valid key; assign another to revoke it."""
        self._state = NairiState(quirks, IdMaker(seed), strict_agents, concurrency, default)
        self._configure(_AccessPolicy(self), application_routes(self._state, self._clock))
        self.faults = FaultPlan() if faults is None else faults
        self._check("faults", self.faults, FaultPlan)
        for slug, script in {DEFAULT_AGENT: default, **(agents or {})}.items():
            self.agent(slug, script)

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables with which a client reaches the simulator."""
        return {"NAIRI_API_KEY": self.api_key, "NAIRI_BASE_URL": self.url}

    @property
    def quirks(self) -> Quirks:
        """What the service does where its documentation is silent; new quirks apply from the next request on."""
        return self._state.quirks

    @quirks.setter
    def quirks(self, quirks: Quirks) -> None:
        self._state.quirks = quirks

    @property
    def faults(self) -> FaultPlan:
        """Which requests fail. A new plan starts from its beginning; `FaultPlan()` is a service without faults."""
        return self._middleware.faults.plan

    @faults.setter
    def faults(self, plan: FaultPlan) -> None:
        self._middleware.faults = Faults(plan)

    @property
    def prompts(self) -> list[RecordedPrompt]:
        """All prompts that ran, in order; one that was sent twice by mistake is listed twice."""
        return self._state.prompts

    def assert_asked(self, *prompts: str, agent_id: str | None = None) -> None:
        """Raise an `AssertionError` that shows the difference, unless exactly these prompts ran, in this order.

        `agent_id` is a slug; with it only the prompts of that agent are compared.
        """
        ran = [recorded.prompt for recorded in self.prompts if agent_id in {None, recorded.agent_id}]
        if ran != list(prompts):
            lines = ndiff([repr(prompt) for prompt in prompts], [repr(prompt) for prompt in ran])
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
        """Create an agent, or change the one with that slug for its next turns; return the simulator.

        At most `instances` turns run at a time, by default the simulator's `concurrency`; others are `queued` until one
        ends. Each turn is queued for at least `queued` seconds.
        """
        if not callable(script):
            steps_of(script, "", 1)
        known = self._state.agents.get(slug)
        agent = known or self._state.make_agent(slug, self._clock.time(), name=name)
        agent.script, agent.description, agent.system_prompt = script, description, system_prompt
        agent.name = name or agent.name
        agent.set_capacity(self._state.concurrency if instances is None else instances, queued)
        return self

    def attachment(self, filename: str, data: bytes) -> str:
        """Store a file as if it had been uploaded, and return its id, for a `Say(attachment_ids=…)`."""
        return self._state.store(filename, data, self._clock.time())

    def foreign_job(self, agent_id: str) -> str:
        """Create a job as Slack, Discord or the web UI would, and return its id; the API cannot continue it."""
        return self._state.foreign_job(agent_id, self._clock.time()).id

    def job_status(self, job_id: str, status: ClosedStatus) -> None:
        """End a job as `completed`, `error` or `abandoned`, with a system message that gives the reason."""
        self._state.end_job(job_id, status, self._clock.time())


class _AccessPolicy:
    """Lets in requests that carry the key."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    async def handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if bearer(request) != self._simulator.api_key:
            raise RefusedError(401, "invalid API key")
        return await handler(request)

    def error_response(self, error: RefusedError) -> web.Response:
        return error_response(error)

    def prepare(self, fault: Fault | None, plan: FaultPlan, /) -> float:
        quirks = self._simulator.quirks
        quirks_in_effect.set(quirks if fault is None else quirks_with_fault(fault, plan, quirks))
        return quirks.clock_skew + (fault.skew(plan) if fault is not None else 0.0)
