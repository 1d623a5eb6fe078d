"""Gateways that speak for the service: what they say of a slow response never makes a prompt run twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from amigo_sessions import ID, SIGNED_IN, session
from batches import AGENT, Runs
from support import RawServer, refusal

from nairi_async import OutcomeUnknownError
from nairi_async.bots import AlreadyAskedError, Chats, MemoryStore
from nairi_async.testing import Say, Simulator

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from nairi_async import NairiSession
    from nairi_async.testing import VirtualClock

    Intercept = Callable[[web.Request, web.StreamResponse], Awaitable[web.StreamResponse]]

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("status", [408, 425])]


def gateway(status: int, path: str, count: int = 1) -> Intercept:
    """Return a hook of the simulators: the next requests for a path run, and a gateway responds for the service."""
    left = count

    async def respond(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        nonlocal left
        if left and request.path.rstrip("/").endswith(path):
            left -= 1
            return web.Response(status=status, text="<html>upstream too slow</html>", content_type="text/html")
        return response

    return respond


@pytest.fixture(autouse=True)
def agent(simulator: Simulator) -> Simulator:
    return simulator.agent(AGENT, lambda prompt, _: [Say(f"re {prompt}", after=2)])


async def test_reconcile_finds_the_prompt(nairi: NairiSession, simulator: Simulator, status: int) -> None:
    """A start, and a continue, that a gateway gave up on are found again where it is asked for."""
    simulator.intercept_response = gateway(status, "/start")
    turn = await nairi.start(AGENT, "one", on_unknown="reconcile")
    assert (await nairi.reply(turn)).text == "re one"
    simulator.intercept_response = gateway(status, "/continue")
    turn = await nairi.continue_(turn.job_id, "two", on_unknown="reconcile")
    assert (await nairi.reply(turn)).text == "re two"
    assert [asked.prompt for asked in simulator.prompts] == ["one", "two"]


async def test_a_chat_does_not_ask_twice(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock, status: int
) -> None:
    """A bot that delivers a message again after such an error does not make its prompt run twice."""
    simulator.intercept_response = gateway(status, "/start")
    chats = Chats(nairi, AGENT, store=MemoryStore(), clock=clock)
    with pytest.raises(OutcomeUnknownError):
        await chats.ask("chat", "hello", key="1")
    with pytest.raises(AlreadyAskedError):
        await chats.ask("chat", "hello", key="1")
    assert len(simulator.prompts) == 1


async def test_a_batch_does_not_ask_twice(
    nairi: NairiSession, simulator: Simulator, tmp_path: Path, status: int
) -> None:
    """Neither in the same run, nor in the next one."""
    simulator.intercept_response = gateway(status, "/start", count=3)
    runs = Runs(nairi, tmp_path)
    prompts = ["a", "b", "c", "d"]
    await runs.all(prompts)
    outcomes = await runs.all(prompts)
    assert sorted(asked.prompt for asked in simulator.prompts) == prompts
    assert [outcome.reply is not None for outcome in outcomes.values()] == [True] * len(outcomes)


@pytest.mark.parametrize("call", ["create", "interact", "finish"])
async def test_an_interaction_is_not_sent_twice(call: str, status: int) -> None:
    """Amigo's messages, and the end of a conversation, are sent once."""
    async with RawServer(SIGNED_IN, refusal(status, "too slow")) as server, session(server.url) as amigo:
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "create": lambda: amigo.create_conversation(ID, "Hello").reply(),
            "interact": lambda: amigo.interact(ID, "Hello").reply(),
            "finish": lambda: amigo.finish(ID),
        }
        with pytest.raises(OutcomeUnknownError):
            await calls[call]()
        assert len(server.seen) == 2
