"""Agents are read, created, changed and deployed; the error for an unknown one lists similar names."""

from __future__ import annotations

import asyncio
import pickle
from copy import copy, deepcopy
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from nairi_async import (
    UNSET,
    Agent,
    AgentNotFoundError,
    DecodeError,
    InvalidArgumentError,
    NairiSession,
    NotFoundError,
    OutcomeUnknownError,
)
from nairi_async._nairi.agents import close_names
from nairi_async.testing import Simulator, VirtualClock
from nairi_async.testing.json_bodies import json_response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio


@pytest.fixture
async def simulator(clock: VirtualClock) -> AsyncIterator[Simulator]:
    """Run a service that creates no agent by itself."""
    async with Simulator(clock=clock, strict_agents=True) as running:
        yield running


async def test_agents_are_listed_and_read_by_slug_and_id(simulator: Simulator, nairi: NairiSession) -> None:
    """The list is typed; one agent is found by either name, also with `/` in its slug."""
    simulator.agent("owner/repo", name="Repo", description="Reviews", system_prompt="Be brief.")
    listed = await nairi.agents()
    assert [agent.agent_id for agent in listed] == ["my-agent", "owner/repo"]
    repo = listed[1]
    assert (repo.name, repo.description, repo.system_prompt, repo.instances_count) == (
        "Repo",
        "Reviews",
        "Be brief.",
        1,
    )
    assert await nairi.agent("owner/repo") == await nairi.agent(repo.id) == repo


async def test_an_agent_is_created_and_deployed(nairi: NairiSession) -> None:
    """The service makes slug and id; deploying returns the service's word for the state."""
    made = await nairi.create_agent("My New Agent", instances_count=2)
    assert (made.agent_id, made.name, made.instances_count) == ("my-new-agent", "My New Agent", 2)
    assert await nairi.deploy("my-new-agent") == "queued"
    assert await nairi.deploy(made.id, update_config_only=True) == "queued"


async def test_absent_null_and_empty_differ(simulator: Simulator, nairi: NairiSession) -> None:
    """An argument that is left out changes nothing, `None` restores the default, an empty text is stored."""
    simulator.agent("a", description="old", system_prompt="old")
    assert (await nairi.update_agent("a")).system_prompt == "old"
    changed = await nairi.update_agent("a", description="new")
    assert (changed.description, changed.system_prompt) == ("new", "old")
    assert (await nairi.update_agent("a", system_prompt="")).system_prompt == ""
    changed = await nairi.update_agent("a", description="", system_prompt=None)
    assert (changed.description, changed.system_prompt) == ("", None)


def test_unset_is_one_value_after_pickle_and_copy() -> None:
    """Pickled or copied, UNSET is the same object; its repr is its name."""
    for other in (pickle.loads(pickle.dumps(UNSET)), copy(UNSET), deepcopy(UNSET)):  # noqa: S301 - our own
        assert other is UNSET
    assert repr(UNSET) == "UNSET"


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b'{"status":"ok"}'])
async def test_a_change_with_another_response_is_followed_by_a_read(
    simulator: Simulator, nairi: NairiSession, body: bytes
) -> None:
    """The response to a change is not documented: whatever it is, the call returns the agent."""

    async def otherwise(request: web.Request, response: web.StreamResponse) -> web.StreamResponse | None:
        return web.Response(body=body) if request.method == "PATCH" else None

    simulator.intercept_response = otherwise
    assert (await nairi.update_agent("my-agent", description="new")).description == "new"


@pytest.mark.parametrize("call", ["start", "ask", "agent", "update_agent", "deploy"])
async def test_the_error_for_an_unknown_agent_lists_similar_names(
    simulator: Simulator, nairi: NairiSession, call: str
) -> None:
    """The error lists similar slugs and keeps the service's text; nothing ran."""
    simulator.agent("refund-agent", name="Refunds").agent("zzz")
    arguments = ("Hello",) if call in {"start", "ask"} else ()
    with pytest.raises(AgentNotFoundError) as caught:
        await getattr(nairi, call)("refnd-agent", *arguments)
    error = caught.value
    assert (error.status, error.message, error.agent_id) == (404, "agent not found", "refnd-agent")
    assert error.close_names[0] == "refund-agent"
    assert "did you mean refund-agent" in str(error)
    assert isinstance(error, NotFoundError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 - our own
    assert simulator.prompts == []


async def test_a_failed_lookup_of_names_does_not_hide_the_error(simulator: Simulator, nairi: NairiSession) -> None:
    """If the agents cannot be listed, the 404 is raised without names, and soon."""
    clock = nairi._executor.clock

    async def broken(request: web.Request) -> web.StreamResponse | None:
        return json_response({"error": "down"}, 503) if request.path.endswith("/agents") else None

    simulator.intercept = broken
    started_at = clock.monotonic()
    with pytest.raises(AgentNotFoundError, match=r"404 agent not found$") as caught:
        await nairi.start("nobody", "Hello")
    assert caught.value.close_names == ()
    assert clock.monotonic() - started_at <= 5


async def test_cancelled_while_names_are_looked_up_the_prompt_is_known_not_to_run(
    simulator: Simulator, nairi: NairiSession
) -> None:
    """A prompt that is cancelled after a 404 can be sent again once the agent exists."""
    listing = asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse | None:
        if request.path.endswith("/agents"):
            listing.set()
            await asyncio.Event().wait()
        return None

    simulator.intercept = hang
    watch = nairi.conversation("late").send("Hello")
    step = asyncio.ensure_future(anext(watch))
    await listing.wait()
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    simulator.agent("late", "Hi.")
    assert (await anext(watch)).content == "Hi."
    assert len(simulator.prompts) == 1


@pytest.mark.parametrize(
    ("call", "arguments"),
    [("create_agent", ("New",)), ("deploy", ("my-agent",))],
)
async def test_what_must_not_run_twice_is_not_repeated(
    simulator: Simulator, nairi: NairiSession, call: str, arguments: tuple[str, ...]
) -> None:
    """A lost response to creating or deploying is an unknown outcome, after one request."""

    async def lose(request: web.Request, response: web.StreamResponse) -> web.StreamResponse | None:
        raise ConnectionResetError

    simulator.intercept_response = lose
    with pytest.raises(OutcomeUnknownError, match="or not"):
        await getattr(nairi, call)(*arguments)
    assert len(simulator.requests) == 1


@pytest.mark.parametrize(
    ("call", "arguments", "options"),
    [
        ("agent", ("",), {}), ("agent", (3,), {}), ("create_agent", ("",), {}), ("create_agent", (" ",), {}),
        ("create_agent", (None,), {}), ("create_agent", ("a",), {"instances_count": 0}),
        ("create_agent", ("a",), {"instances_count": True}), ("create_agent", ("a",), {"instances_count": "2"}),
        ("update_agent", ("a b",), {}), ("update_agent", ("a",), {"description": None}),
        ("update_agent", ("a",), {"description": 3}), ("update_agent", ("a",), {"system_prompt": 3}),
        ("deploy", ("..",), {}), ("deploy", ("a",), {"update_config_only": 1}),
    ],
)  # fmt: skip
async def test_bad_arguments_are_refused_before_any_request(
    simulator: Simulator, nairi: NairiSession, call: str, arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    """An invalid argument never reaches the service."""
    with pytest.raises(InvalidArgumentError):
        await getattr(nairi, call)(*arguments, **options)
    assert simulator.requests == []


async def test_responses_of_another_shape_are_typed_errors(simulator: Simulator, nairi: NairiSession) -> None:
    """A wrapper instead of the documented list, or no object, is a DecodeError."""

    async def otherwise(request: web.Request) -> web.StreamResponse:
        return json_response({"agents": []} if request.method == "GET" else [])

    simulator.intercept = otherwise
    with pytest.raises(DecodeError):
        await nairi.agents()
    with pytest.raises(OutcomeUnknownError):
        await nairi.deploy("my-agent")


def test_similar_names_are_slugs_found_by_slug_or_display_name() -> None:
    """Case is ignored, display names count, each slug is listed once, and dissimilar ones are left out."""
    agents = [
        Agent(id="cci_1", name="Billing helper", agent_id="billing"),
        Agent(id="cci_2", name="Refunds", agent_id="refund-agent"),
        Agent(id="cci_3", name="x", agent_id="unlike"),
    ]
    assert close_names("Billing-Helper", agents) == ("billing",)
    assert close_names("REFUND-AGENTS", agents)[0] == "refund-agent"
    assert close_names("qqqq", agents) == close_names("x", []) == ()
