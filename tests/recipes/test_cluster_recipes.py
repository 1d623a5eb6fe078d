"""The recipes over PostgreSQL run in replicas, against a real database."""

from __future__ import annotations

import asyncio
import importlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from clusters import AGENT
from platforms import Slack, library_tasks
from serving import served
from slack_bolt.app.async_app import AsyncApp
from slack_sdk.web.async_client import AsyncWebClient
from sse import parsed

from nairi_async.testing import Say

if TYPE_CHECKING:
    from collections.abc import Callable

    from clusters import Field

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(field: Field, monkeypatch: pytest.MonkeyPatch) -> Field:
    """Give the recipes their service and their database, as users do."""
    for name, value in {**field.simulator.environment, "DATABASE": field.database}.items():
        monkeypatch.setenv(name, value)
    return field


async def until(condition: Callable[[], bool]) -> None:
    # A replica that is stopped before it has the response to a prompt leaves it to be looked up, for a minute.
    async with asyncio.timeout(150):
        while not condition():  # noqa: ASYNC110 - neither the platform nor the service sets an event
            await asyncio.sleep(0.02)


async def test_a_bot_in_two_replicas_is_deployed_anew(settings: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each message is answered once, although each comes twice, and both replicas stop in the middle of a turn."""
    service = settings.simulator
    service.agent(AGENT, lambda prompt, _: [Say(f"Answer to {prompt}", after=1.5 if "slow" in prompt else 0.1)])
    recipe: Any = importlib.import_module("replicated_bot")
    async with Slack() as platform:
        client = AsyncWebClient("xoxb-bot", base_url=f"{platform.url}/api/")
        monkeypatch.setattr("slack_bot.AsyncApp", lambda **_: AsyncApp(client=client))
        monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-bot")
        monkeypatch.setenv("SLACK_APP_TOKEN", "xapp-app")
        replicas: list[asyncio.Task[None]] = []

        async def deploy() -> None:
            replicas.append(asyncio.create_task(recipe.main()))
            await until(lambda: platform.requests.count("/socket/1") >= len(replicas))

        def texts() -> list[str]:
            return [sent.text for sent in platform.sent]

        try:
            await deploy()
            await deploy()
            for chat in range(4):
                platform.deliver(platform.write("61", f"<@U1> quick {chat}", thread=f"{chat}.0"))
            await until(lambda: len(texts()) >= 4)
            slow = [platform.write("61", f"<@U1> slow {chat}", thread=f"{chat}.0") for chat in range(2)]
            await until(lambda: len(service.prompts) >= 6)
            await deploy()
            for old in replicas[:2]:
                old.cancel()
            await asyncio.wait(replicas[:2])
            # Slack did not see them confirmed, and delivers them again.
            for event in slow:
                platform.deliver(event)
            platform.write("61", "<@U1> later", thread="0.0")
            await until(lambda: len(texts()) >= 7)
        finally:
            for task in (*replicas, *library_tasks()):
                task.cancel()
            await asyncio.gather(*replicas, *library_tasks(), return_exceptions=True)
    wanted = [*(f"quick {chat}" for chat in range(4)), "slow 0", "slow 1", "later"]
    assert settings.asked == Counter(wanted)
    assert Counter(texts()) == Counter(f"Answer to {text}" for text in wanted)
    assert len({one.job_id for one in service.prompts}) == 4


async def test_a_web_replica_watches_any_conversation(settings: Field) -> None:
    """It shows a conversation that a worker elsewhere began, while it runs and after it has ended."""
    settings.simulator.agent(AGENT, lambda prompt, _: [Say("One"), Say(f"Answer to {prompt}", after=1)])
    record = {"id": "a/1", "prompt": "Hello"}
    async with (
        served("cluster_app", settings.simulator) as app,
        aiohttp.ClientSession(app.url) as http,
        settings.cluster() as cluster,
    ):
        batch = await cluster.submit("run-1", AGENT, [record])

        async def watch() -> list[str]:
            async with http.get("/batches/run-1/a/1/events") as response:
                assert response.status == 200
                found = [event async for event in parsed(response.content)]
            return [event.data["content"] for event in found if event.name == "message"]

        for missing in ("run-1/a/1", "run-2/a/1"):
            async with http.get(f"/batches/{missing}/events") as response:
                assert response.status == 404
        async with settings.worker():
            while await batch.turn("a/1") is None:  # noqa: ASYNC110 - in a database
                await asyncio.sleep(0.02)
            shown = await watch()
            assert len([one async for one in batch.outcomes()]) == 1
        assert shown == ["Hello", "One", "Answer to Hello"] == await watch()
        async with http.get("/batches") as response:
            assert await response.json() == [{"name": "run-1", "open": 0, "done": 1, "failed": 0}]
