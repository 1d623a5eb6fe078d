"""The agents of the organisation: reading, making, changing and deploying them (api: agents)."""

from __future__ import annotations

from difflib import get_close_matches
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

# An error waits no longer than this, in seconds, for the names that would make it more helpful.
_PATIENCE: Final = 5.0
# How alike names are that may have been meant, from 0 to 1, and how many are told.
_ALIKE: Final = 0.5
_MOST_NAMES: Final = 5
# Likeness costs the product of two lengths for each name: more than that is not worth stopping the event loop for.
_MOST_COMPARED: Final = 500
_LONGEST_NAME: Final = 100


class Agents:
    """The agents that one session can reach."""

    def __init__(self, executor: RequestExecutor) -> None:
        self._executor = executor

    async def all(self) -> list[Agent]:
        """Every agent of the organisation, in the service's order."""
        return await self._executor.call(Request(method="GET", path=path("agents")), decode_agents)

    async def one(self, agent_id: str) -> Agent:
        """The agent of that slug or id."""
        location = path("agents", checks.identifier("agent_id", agent_id))
        return await self.call(agent_id, Request(method="GET", path=location), decode_agent)

    async def create(self, name: str, instances_count: int) -> Agent:
        """A new agent, not deployed yet."""
        if not isinstance(name, str) or not name.strip():
            raise InvalidArgumentError("the name of an agent is a text that is not blank")
        if isinstance(instances_count, bool) or not isinstance(instances_count, int) or instances_count < 1:
            raise InvalidArgumentError(f"instances_count is {instances_count!r}: a number of at least 1 is needed")
        body = encode_agent({"name": name, "instances_count": instances_count})
        unknown = "the agent may have been created, or not"
        request = Request(
            method="POST", path=path("agents"), body=body, idempotent=False, unknown_outcome_message=unknown
        )
        return await self._executor.call(request, decode_agent)

    async def update(self, agent_id: str, *, description: str | Unset, system_prompt: str | Unset | None) -> Agent:
        """The agent after the change of what was given."""
        location = path("agents", checks.identifier("agent_id", agent_id))
        if not isinstance(description, str | Unset):
            raise InvalidArgumentError("description is a text; leave it out to keep the one there is")
        if not isinstance(system_prompt, str | Unset | None):
            raise InvalidArgumentError("system_prompt is a text, or None for the platform's default")
        given = {"description": description, "system_prompt": system_prompt}
        body = encode_agent({name: value for name, value in given.items() if value is not UNSET})
        request = Request(method="PATCH", path=location, body=body)
        changed = await self.call(agent_id, request, decode_changed_agent)
        # What the service answers is not documented; where it is not the agent, the agent is read.
        return changed if changed is not None else await self.one(agent_id)

    async def deploy(self, agent_id: str, *, update_config_only: bool) -> str:
        """Queue a deployment; returns the service's word for how it stands."""
        location = path("agents", checks.identifier("agent_id", agent_id), "deploy")
        body = encode_agent({"update_config_only": checks.flag("update_config_only", update_config_only)})
        unknown = "the deployment may have been queued, or not"
        request = Request(method="POST", path=location, body=body, idempotent=False, unknown_outcome_message=unknown)
        return await self.call(agent_id, request, decode_deployment)

    async def call(self, agent_id: str, request: Request, decode: Callable[[bytes], _T]) -> _T:
        """Make a call about an agent; a 404 is explained."""
        try:
            return await self._executor.call(request, decode)
        except NotFoundError as error:
            await self.explain(agent_id, error)

    async def explain(self, agent_id: str, error: NotFoundError) -> NoReturn:
        """Raise a 404 about an agent with the names that may have been meant; as it is if the agent exists.

        Listing the agents is a courtesy: where it fails or takes long, the error comes without names.
        """
        try:
            deadline = self._executor.clock.monotonic() + _PATIENCE
            request = Request(method="GET", path=path("agents"), timeout=_PATIENCE)
            known = await self._executor.call(request, decode_agents, deadline=deadline)
        except NairiError:
            known = []
        if any(agent_id in {agent.agent_id, agent.id} for agent in known):
            raise error
        where = (error.retry_after, error.method, error.path)
        close = close_names(agent_id, known)
        raise AgentNotFoundError(error.status, error.message, *where, agent_id, close) from error


def close_names(wanted: str, agents: list[Agent]) -> tuple[str, ...]:
    """Slugs of the agents whose slug or display name is like what was asked for, closest first."""
    slugs: dict[str, str] = {}
    for agent in agents[:_MOST_COMPARED]:
        slugs.setdefault(agent.name[:_LONGEST_NAME].casefold(), agent.agent_id)
    # The slug is what can be typed next time, so it wins over another agent's display name.
    known = (agent.agent_id for agent in agents[:_MOST_COMPARED] if len(agent.agent_id) <= _LONGEST_NAME)
    slugs.update((slug.casefold(), slug) for slug in known)
    close = get_close_matches(wanted.casefold(), slugs, n=_MOST_NAMES, cutoff=_ALIKE)
    # What cannot be printed cannot be typed either, and errors are read in terminals.
    return tuple(dict.fromkeys(slugs[name] for name in close if slugs[name].isprintable()))
