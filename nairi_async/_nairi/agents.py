"""The agents of the organisation: read, create, change and deploy them.

The calls are documented at https://nairi.ai/docs/api/agents/overview.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

from nairi_async._core import checks
from nairi_async._core.address import path
from nairi_async._core.request import Request
from nairi_async._nairi.wire import (
    decode_agent,
    decode_agents,
    decode_changed_agent,
    decode_deployment,
    encode_agent,
)
from nairi_async.errors import AgentNotFoundError, InvalidArgumentError, NairiError, NotFoundError
from nairi_async.typing import UNSET, Unset

if TYPE_CHECKING:
    from collections.abc import Callable

    from nairi_async._core.executor import RequestExecutor
    from nairi_async.models import Agent

_T = TypeVar("_T")

# Seconds that an error is delayed at most to look up similar names.
_LOOKUP_TIMEOUT: Final = 5.0
# Minimum similarity of suggested names, from 0 to 1, and their maximum number.
_MIN_SIMILARITY: Final = 0.5
_MOST_NAMES: Final = 5
# Comparing names blocks the event loop for a time that grows with the product of their lengths.
_MOST_COMPARED: Final = 500
_LONGEST_NAME: Final = 100


class Agents:
    """The calls about agents."""

    def __init__(self, executor: RequestExecutor) -> None:
        self._executor = executor

    async def all(self) -> list[Agent]:
        """Return every agent of the organisation, in the service's order."""
        return await self._executor.call(Request(method="GET", path=path("agents")), decode_agents)

    async def one(self, agent_id: str) -> Agent:
        """Return the agent with that slug or id."""
        location = path("agents", checks.identifier("agent_id", agent_id))
        return await self.call(agent_id, Request(method="GET", path=location), decode_agent)

    async def create(self, name: str, instances_count: int) -> Agent:
        """Create an agent, which is not deployed yet."""
        if not isinstance(name, str) or not name.strip():
            raise InvalidArgumentError("name must be a string that is not blank")
        if isinstance(instances_count, bool) or not isinstance(instances_count, int) or instances_count < 1:
            raise InvalidArgumentError(f"instances_count must be a whole number of at least 1, not {instances_count!r}")
        body = encode_agent({"name": name, "instances_count": instances_count})
        unknown = "the agent may have been created, or not"
        request = Request(
            method="POST", path=path("agents"), body=body, idempotent=False, unknown_outcome_message=unknown
        )
        return await self._executor.call(request, decode_agent)

    async def update(self, agent_id: str, *, description: str | Unset, system_prompt: str | Unset | None) -> Agent:
        """Change the given fields, and return the agent after the change."""
        location = path("agents", checks.identifier("agent_id", agent_id))
        if not isinstance(description, str | Unset):
            raise InvalidArgumentError("description must be a string; leave it out to keep the present one")
        if not isinstance(system_prompt, str | Unset | None):
            raise InvalidArgumentError("system_prompt must be a string, or None for the platform's default")
        given = {"description": description, "system_prompt": system_prompt}
        body = encode_agent({name: value for name, value in given.items() if value is not UNSET})
        request = Request(method="PATCH", path=location, body=body)
        changed = await self.call(agent_id, request, decode_changed_agent)
        # The response is not documented; if it is not the agent, the agent is read.
        return changed if changed is not None else await self.one(agent_id)

    async def deploy(self, agent_id: str, *, update_config_only: bool) -> str:
        """Queue a deployment; return the service's word for its state."""
        location = path("agents", checks.identifier("agent_id", agent_id), "deploy")
        body = encode_agent({"update_config_only": checks.flag("update_config_only", update_config_only)})
        unknown = "the deployment may have been queued, or not"
        request = Request(method="POST", path=location, body=body, idempotent=False, unknown_outcome_message=unknown)
        return await self.call(agent_id, request, decode_deployment)

    async def call(self, agent_id: str, request: Request, decode: Callable[[bytes], _T]) -> _T:
        """Make a call about an agent; a 404 is raised with similar names."""
        try:
            return await self._executor.call(request, decode)
        except NotFoundError as error:
            await self.explain(agent_id, error)

    async def explain(self, agent_id: str, error: NotFoundError) -> NoReturn:
        """Raise a 404 about an agent with the names of similar agents; unchanged if the agent exists.

        If the agents cannot be listed in time, the error has no names.
        """
        try:
            deadline = self._executor.clock.monotonic() + _LOOKUP_TIMEOUT
            request = Request(method="GET", path=path("agents"), timeout=_LOOKUP_TIMEOUT)
            known = await self._executor.call(request, decode_agents, deadline=deadline)
        except NairiError:
            known = []
        if any(agent_id in {agent.agent_id, agent.id} for agent in known):
            raise error
        where = (error.retry_after, error.method, error.path)
        close = close_names(agent_id, known)
        raise AgentNotFoundError(error.status, error.message, *where, agent_id, close) from error


def close_names(wanted: str, agents: list[Agent]) -> tuple[str, ...]:
    """Return the slugs of agents whose slug or display name is similar, most similar first."""
    slugs: dict[str, str] = {}
    for agent in agents[:_MOST_COMPARED]:
        slugs.setdefault(agent.name[:_LONGEST_NAME].casefold(), agent.agent_id)
    # A slug takes precedence over the same display name of another agent, since calls take slugs.
    known = (agent.agent_id for agent in agents[:_MOST_COMPARED] if len(agent.agent_id) <= _LONGEST_NAME)
    slugs.update((slug.casefold(), slug) for slug in known)
    from difflib import get_close_matches  # noqa: PLC0415 - for an error only

    close = get_close_matches(wanted.casefold(), slugs, n=_MOST_NAMES, cutoff=_MIN_SIMILARITY)
    # Errors are shown in terminals, so names that cannot be printed are left out.
    return tuple(dict.fromkeys(slugs[name] for name in close if slugs[name].isprintable()))
