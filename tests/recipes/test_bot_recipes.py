"""The README's bots, run as they are with the real libraries, against platforms on loopback."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import bare_chats
import discord_bot
import pytest
import yarl
from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from bench_web import lines_of  # pyright: ignore[reportMissingImports]
from discord.gateway import DiscordWebSocket
from discord.http import Route
from platforms import Discord, Platform, SearchWindow, Slack, Telegram
from slack_bolt.app.async_app import AsyncApp
from slack_sdk.web.async_client import AsyncWebClient

from nairi_async.amigo import AmigoSession
from nairi_async.bots import Chats
from nairi_async.testing import AmigoSimulator, Fail, Say, Simulator
from nairi_async.testing.amigo import Error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.anyio

LONG = "\n\n".join(f"Paragraph {number}: " + "word " * 300 for number in range(12))


@pytest.fixture
async def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Simulator]:
    """The service as the recipes find it: by environment variables, with their file in a directory of its own."""
    async with Simulator() as simulator:
        monkeypatch.setenv("NAIRI_API_KEY", simulator.api_key)
        monkeypatch.setenv("NAIRI_BASE_URL", simulator.url)
        monkeypatch.chdir(tmp_path)
        chart = simulator.attachment("chart.png", b"\x89PNG")

        def script(prompt: str, number: int) -> list[Any]:
            match prompt.split(maxsplit=1)[0]:
                case "fail":
                    return [Fail("no")]
                case "long":
                    return [LONG]
                case "slow":
                    return [Say(f"{number}: {prompt}", after=0.4)]
                case "draw":
                    return [Say(f"{number}: {prompt}", attachment_ids=[chart])]
                case _:
                    return [f"{number}: {prompt}"]

        yield simulator.agent("my-agent", script)


def bind_discord(platform: Platform, recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Route, "BASE", f"{platform.url}/api/v10")
    monkeypatch.setattr(DiscordWebSocket, "DEFAULT_GATEWAY", yarl.URL(f"{platform.url}/gateway"))
    monkeypatch.setenv("DISCORD_TOKEN", "token")


def bind_telegram(platform: Platform, recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    api = TelegramAPIServer.from_base(platform.url)
    monkeypatch.setattr(recipe, "Bot", lambda token: Bot(token, session=AiohttpSession(api=api)))
    monkeypatch.setenv("TELEGRAM_TOKEN", "1:token")


def bind_slack(platform: Platform, recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client = AsyncWebClient("xoxb-bot", base_url=f"{platform.url}/api/")
    monkeypatch.setattr(recipe, "AsyncApp", lambda **_: AsyncApp(client=client))
    monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-bot")
    monkeypatch.setenv("SLACK_APP_TOKEN", "xapp-app")


PLATFORMS: dict[str, tuple[type[Platform], Callable[..., None]]] = {
    "discord_bot": (Discord, bind_discord),
    "aiogram_bot": (Telegram, bind_telegram),
    "slack_bot": (Slack, bind_slack),
}


class Talk:
    """What a user does, in any of the three."""

    def __init__(self, name: str, platform: Any) -> None:
        self.platform = platform
        self.is_slack = name == "slack_bot"
        self.chat = 51 if name == "aiogram_bot" else "61"
        self.shown = f"{self.chat} 7.0" if self.is_slack else str(self.chat)

    def say(self, text: str, files: dict[str, bytes] | None = None) -> Any:
        if self.is_slack:
            shared = {"files": [self.platform.shared(*file) for file in files.items()]} if files else {}
            return self.platform.say(self.chat, f"<@U1> {text}", thread="7.0", **shared)
        return self.platform.say(self.chat, text, files=files)

    def texts(self) -> list[str]:
        assert {sent.chat for sent in self.platform.sent} <= {self.shown}
        return [sent.text for sent in self.platform.sent]


@pytest.fixture(params=PLATFORMS)
async def bot(
    request: pytest.FixtureRequest, service: Simulator, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Talk, Callable[[], Any]]]:
    """A platform, and the recipe's program bound to it."""
    recipe = importlib.import_module(request.param)
    kind, bind = PLATFORMS[request.param]
    async with kind() as platform:
        bind(platform, recipe, monkeypatch)
        yield Talk(request.param, platform), recipe.main


async def test_a_bot_talks(bot: tuple[Talk, Callable[[], Any]], service: Simulator) -> None:
    """In order, with a typing indicator, files both ways, long replies in pieces, errors told, and over a restart."""
    talk, main = bot
    async with talk.platform.running(main):
        first = talk.say("one")
        talk.say("two")
        await talk.platform.said(lambda sent: len(sent) == 2)
        assert talk.texts() == ["1: one", "2: two"]
        assert set(talk.platform.typing) == {str(talk.chat)}
        talk.say("draw", {"data.csv": b"1,2"})
        await talk.platform.said(lambda sent: len(sent) == 4)
        assert talk.texts()[2] == "3: draw"
        assert talk.platform.sent[3] == SearchWindow(talk.shown, file=("chart.png", b"\x89PNG"))
        (file,) = service.prompts[2].attachment_ids
        assert service._state.find_file(file).data == b"1,2"
        talk.say("fail")
        await talk.platform.said(lambda sent: len(sent) == 5)
        assert "did not work" in talk.texts()[4]
    talk.platform.sent.clear()
    async with talk.platform.running(main):
        talk.platform.again(first)
        talk.say("long")
        talk.say("five")
        await talk.platform.said(lambda sent: sent[-1].text == "6: five")
    assert [asked.prompt for asked in service.prompts] == ["one", "two", "draw", "fail", "long", "five"]
    assert len({asked.job_id for asked in service.prompts}) == 1
    assert "".join("".join(talk.texts()[:-1]).split()) == "".join(LONG.split())


async def test_a_bot_talks_with_either_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe's handlers serve Amigo as they are; a message that the service kept nothing of may come again."""

    def script(message: str, number: int) -> list[Any]:
        return [Error(500, "overloaded")] if message == "fail" and number < 3 else [f"{number}: {message}"]

    recipe: Any = importlib.import_module("aiogram_bot")
    async with AmigoSimulator(script) as amigo, Telegram() as platform:
        bind_telegram(platform, recipe, monkeypatch)

        for name, value in amigo.environment.items():
            monkeypatch.setenv(name, value)

        async def main() -> None:
            async with AmigoSession() as session:
                routes = recipe.dispatcher(Chats(session, amigo.service_id))
                await routes.start_polling(recipe.Bot("1:token"))

        talk = Talk("aiogram_bot", platform)
        async with platform.running(main):
            talk.say("one")
            failing = talk.say("fail")
            await platform.said(lambda sent: len(sent) == 2)
            talk.platform.again(failing)
            talk.platform.again(failing)
            talk.say("four")
            await platform.said(lambda sent: len(sent) == 4)
        assert talk.texts()[0::2] == ["1: one", "3: fail"]
        assert "did not work" in talk.texts()[1]
        assert talk.texts()[3] == "4: four"
        assert len({asked.conversation_id for asked in amigo.asked}) == 1


async def test_a_bot_that_stops_amid_a_turn_answers_after_its_restart(
    bot: tuple[Talk, Callable[[], Any]], service: Simulator
) -> None:
    """The answer is found again, and sent once, although the platform finds the bot too busy at first."""
    talk, main = bot
    async with talk.platform.running(main):
        talk.say("slow")
        while not service.prompts:  # noqa: ASYNC110 - the simulator sets no event
            await asyncio.sleep(0.005)
        # The conversation's id is written down at once, though not before the service has answered.
        await asyncio.sleep(0.2)
    assert talk.platform.sent == []
    talk.platform.busy = 1
    async with talk.platform.running(main):
        await talk.platform.said(lambda sent: len(sent) == 1)
        talk.say("next")
        await talk.platform.said(lambda sent: len(sent) == 2)
    assert talk.texts() == ["1: slow", "2: next"]
    assert talk.platform.busy < 0
    service.assert_asked("slow", "next")


async def test_the_lines_are_those_that_are_told() -> None:
    """The table of the benchmarks is true."""
    table = (Path(__file__).parents[2] / "benchmarks" / "README.md").read_text()
    for name in PLATFORMS:
        assert f"| `{name}` | {lines_of(name)} | {lines_of(name) + lines_of('bare_chats')} |" in table


async def test_what_the_bots_are_compared_with_talks_as_well(
    service: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bare stand-in carries a recipe as it is: files both ways, pieces, errors, a restart."""
    monkeypatch.setattr(bare_chats, "INTERVAL", 0.01)
    source = inspect.getsource(discord_bot).replace("from nairi_async.bots", "from bare_chats")
    source = source.replace("from nairi_async ", "from bare_chats ")
    recipe = ModuleType("recipe")
    exec(compile(source, "recipe", "exec"), vars(recipe))  # noqa: S102 - our own source
    async with Discord() as platform:
        bind_discord(platform, recipe, monkeypatch)
        talk = Talk("discord_bot", platform)
        async with platform.running(recipe.main):
            talk.say("one")
            talk.say("draw", {"data.csv": b"1,2"})
            await platform.said(lambda sent: len(sent) == 3)
            talk.say("fail")
            await platform.said(lambda sent: len(sent) == 4)
        async with platform.running(recipe.main):
            talk.say("long")
            talk.say("five")
            await platform.said(lambda sent: sent[-1].text.strip() == "5: five")
    assert [sent.text.rstrip() for sent in platform.sent[:2]] == ["1: one", "2: draw"]
    assert platform.sent[2].file == ("chart.png", b"\x89PNG")
    assert "did not work" in platform.sent[3].text
    assert len({asked.job_id for asked in service.prompts}) == 1
