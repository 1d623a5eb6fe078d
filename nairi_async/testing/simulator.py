"""A Nairi service on the loopback interface, with scripted agents, for tests of whatever talks to it."""

from __future__ import annotations

from difflib import ndiff
from typing import TYPE_CHECKING, Self

from aiohttp import web

from nairi_async.clock import Clock, SystemClock
from nairi_async.testing.faults import FaultPlan, Faults
from nairi_async.testing.gate import Gate, Intercept, InterceptAnswer, Seen
from nairi_async.testing.ids import IdMaker
from nairi_async.testing.quirks import Quirks
from nairi_async.testing.routes import application_routes
from nairi_async.testing.script import Script, default_script, steps_of
from nairi_async.testing.world import Asked, Ending, World

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

DEFAULT_AGENT = "my-agent"

# Seconds given to handlers that still run when the simulator closes, before they are cancelled.
_SHUTDOWN = 0.1

# An upload of the largest file, with what the form adds to it, is not cut by the server but judged by its handler.
_LARGEST_BODY = 64 * 1024 * 1024


_PLAIN = Quirks()


class Simulator:
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
        self._host, self._port = host, port
        self._clock = clock or SystemClock()
        self._world = World(quirks, IdMaker(seed), strict_agents)
        self._gate = Gate(self._world, self._clock, api_key, faults=Faults(faults or FaultPlan()))
        self._runner: web.AppRunner | None = None
        for slug, script in {DEFAULT_AGENT: default_script, **(agents or {})}.items():
            self.agent(slug, script)

    async def __aenter__(self) -> Self:
        application = web.Application(middlewares=[self._gate.admit], client_max_size=_LARGEST_BODY)
        application.add_routes(application_routes(self._world, self._clock))
        self._runner = web.AppRunner(
            application, access_log=None, handle_signals=False, handler_cancellation=True, shutdown_timeout=_SHUTDOWN
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def url(self) -> str:
        """Base URL, without `/api/public/v1`; with `port=0` it is known once the simulator runs."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def api_key(self) -> str:
        """The one key that is let in; change it to revoke the old one."""
        return self._gate.api_key

    @api_key.setter
    def api_key(self, api_key: str) -> None:
        self._gate.api_key = api_key

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
    def requests(self) -> list[Seen]:
        """All requests so far, in the order in which they were answered."""
        return self._gate.requests

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

    @property
    def intercept(self) -> Intercept | None:
        """A hook called with each request before anything is done about it.

        What it returns is the answer; `None` lets the request go on. Raise `ConnectionResetError` to cut the
        connection without an answer.
        """
        return self._gate.intercept

    @intercept.setter
    def intercept(self, hook: Intercept | None) -> None:
        self._gate.intercept = hook

    @property
    def intercept_answer(self) -> InterceptAnswer | None:
        """The same hook after the work is done, with the answer: for one that is lost on its way back."""
        return self._gate.intercept_answer

    @intercept_answer.setter
    def intercept_answer(self, hook: InterceptAnswer | None) -> None:
        self._gate.intercept_answer = hook

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

    def job_status(self, job_id: str, status: Ending) -> None:
        """End a job as `completed`, `error` or `abandoned`, with the system message that says why."""
        self._world.end_job(job_id, status, self._clock.time())
