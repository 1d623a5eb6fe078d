"""The README's bots run unchanged with the real libraries, against platforms on loopback."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import sqlite3
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import bare_chats
import discord_bot
import pytest
import yarl
from bench_web import lines_of  # pyright: ignore[reportMissingImports]
from discord.gateway import DiscordWebSocket
from discord.http import Route
from platforms import Discord, Platform, SentMessage, Slack, Telegram
from slack_bolt.app.async_app import AsyncApp
from slack_sdk.web.async_client import AsyncWebClient
from support import Lazy, imported

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
    """Simulate the service that the recipes find by environment variables; they store their file in a new directory."""
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
                    return [Say(f"{number}: {prompt}", after=1)]
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
    bot, api = recipe.Bot, telegram.TelegramAPIServer.from_base(platform.url)
    monkeypatch.setattr(recipe, "Bot", lambda token: bot(token, session=sessions.AiohttpSession(api=api)))
    monkeypatch.setenv("TELEGRAM_TOKEN", "1:token")
    monkeypatch.setenv("TELEGRAM_USERS", "2 7")


def bind_slack(platform: Platform, recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client = AsyncWebClient("xoxb-bot", base_url=f"{platform.url}/api/")
    monkeypatch.setattr(recipe, "FILES", f"{platform.url}/private/")
    monkeypatch.setattr(recipe, "AsyncApp", lambda **_: AsyncApp(client=client))
    monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-bot")
    monkeypatch.setenv("SLACK_APP_TOKEN", "xapp-app")


sessions: Any = Lazy("aiogram.client.session.aiohttp")
telegram: Any = Lazy("aiogram.client.telegram")
HAS_AIOGRAM = importlib.util.find_spec("aiogram") is not None
"""It does not install on the newest Pythons; there its recipe is not run."""
PLATFORMS: dict[str, tuple[type[Platform], Callable[..., None]]] = {
    "discord_bot": (Discord, bind_discord),
    "aiogram_bot": (Telegram, bind_telegram),
    "slack_bot": (Slack, bind_slack),
}


class User:
    """A user of one of the three platforms."""

    def __init__(self, name: str, platform: Any) -> None:
        self.platform = platform
        self.is_slack = name == "slack_bot"
        self.chat = 51 if name == "aiogram_bot" else "61"
        self.shown = f"{self.chat} 7.0" if self.is_slack else str(self.chat)

    def write(self, text: str, files: dict[str, bytes] | None = None) -> Any:
        if self.is_slack:
            files_field = {"files": [self.platform.share(*file) for file in files.items()]} if files else {}
            return self.platform.write(self.chat, f"<@U1> {text}", thread="7.0", **files_field)
        return self.platform.write(self.chat, text, files=files)

    def texts(self) -> list[str]:
        assert {sent.chat for sent in self.platform.sent} <= {self.shown}
        return [sent.text for sent in self.platform.sent]


def named(*names: str) -> list[str]:
    """Return the recipes whose library is installed."""
    return [name for name in names if name != "aiogram_bot" or HAS_AIOGRAM]


@pytest.fixture(params=named(*PLATFORMS))
async def bot(
    request: pytest.FixtureRequest, service: Simulator, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[User, Callable[[], Any]]]:
    """Bind a recipe's program to its platform."""
    recipe = imported(request.param)
    kind, bind = PLATFORMS[request.param]
    async with kind() as platform:
        bind(platform, recipe, monkeypatch)
        yield User(request.param, platform), recipe.main


async def test_a_bot_talks(bot: tuple[User, Callable[[], Any]], service: Simulator) -> None:
    """Replies come in order, with a typing indicator, files, pieces, errors, and over a restart."""
    user, main = bot
    async with user.platform.running(main):
        first = user.write("one")
        user.write("two")
        await user.platform.until_sent(lambda sent: len(sent) == 2)
        assert user.texts() == ["1: one", "2: two"]
        assert set(user.platform.typing) == {str(user.chat)}
        user.write("draw", {"data.csv": b"1,2"})
        await user.platform.until_sent(lambda sent: len(sent) == 4)
        assert user.texts()[2] == "3: draw"
        assert user.platform.sent[3] == SentMessage(user.shown, file=("chart.png", b"\x89PNG"))
        (file,) = service.prompts[2].attachment_ids
        assert service._state.find_file(file).data == b"1,2"
        user.write("fail")
        await user.platform.until_sent(lambda sent: len(sent) == 5)
        assert "did not work" in user.texts()[4]
    user.platform.sent.clear()
    async with user.platform.running(main):
        user.platform.deliver(first)
        user.write("long")
        user.write("five")
        await user.platform.until_sent(lambda sent: sent[-1].text == "6: five")
    assert [asked.prompt for asked in service.prompts] == ["one", "two", "draw", "fail", "long", "five"]
    assert len({asked.job_id for asked in service.prompts}) == 1
    assert "".join("".join(user.texts()[:-1]).split()) == "".join(LONG.split())


@pytest.mark.parametrize("name", named("aiogram_bot"))
async def test_a_bot_talks_with_either_service(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The recipe's handlers serve Amigo unchanged; a message that the service undid may be delivered again."""

    def script(message: str, number: int) -> list[Any]:
        return [Error(500, "overloaded")] if message == "fail" and number < 3 else [f"{number}: {message}"]

    recipe: Any = imported(name)
    async with AmigoSimulator(script) as amigo, Telegram() as platform:
        bind_telegram(platform, recipe, monkeypatch)

        for variable, value in amigo.environment.items():
            monkeypatch.setenv(variable, value)

        async def main() -> None:
            async with AmigoSession() as session:
                routes = recipe.dispatcher(Chats(session, amigo.service_id), {2})
                await routes.start_polling(recipe.Bot("1:token"))

        user = User("aiogram_bot", platform)
        async with platform.running(main):
            user.write("one")
            failing = user.write("fail")
            await platform.until_sent(lambda sent: len(sent) == 2)
            user.platform.deliver(failing)
            user.platform.deliver(failing)
            await platform.until_sent(lambda sent: len(sent) == 3)  # aiogram handles updates in any order
            user.write("four")
            await platform.until_sent(lambda sent: len(sent) == 4)
        assert user.texts()[0::2] == ["1: one", "3: fail"]
        assert "did not work" in user.texts()[1]
        assert user.texts()[3] == "4: four"
        assert len({asked.conversation_id for asked in amigo.asked}) == 1


def is_saved(service: Simulator) -> bool:
    """Return whether the bot's file has the conversation's id, as soon as the service has responded."""
    if not service.prompts:
        return False
    (path,) = Path().glob("*.sqlite")
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as store:
        return any(service.prompts[0].job_id in record for (record,) in store.execute("SELECT record FROM chats"))


async def test_a_bot_that_stops_during_a_turn_replies_after_its_restart(
    bot: tuple[User, Callable[[], Any]], service: Simulator
) -> None:
    """The reply is found and sent once, although the platform refuses the first attempt with a rate limit."""
    user, main = bot
    async with user.platform.running(main):
        user.write("slow")
        while not is_saved(service):  # noqa: ASYNC110 - neither the simulator nor a file sets an event
            await asyncio.sleep(0.005)
    assert user.platform.sent == []
    user.platform.busy = 1
    async with user.platform.running(main):
        await user.platform.until_sent(lambda sent: len(sent) == 1)
        user.write("next")
        await user.platform.until_sent(lambda sent: len(sent) == 2)
    assert user.texts() == ["1: slow", "2: next"]
    assert user.platform.busy < 0
    service.assert_asked("slow", "next")


async def test_slack_gets_no_markup_and_others_no_token(service: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an agent writes is escaped; only Slack's own host gets the bot's token, and other files are left out."""
    recipe: Any = imported("slack_bot")
    service.agent("my-agent", ["<!channel> <https://evil.example|bank> R&D"])
    async with Slack() as platform, Slack() as elsewhere:
        bind_slack(platform, recipe, monkeypatch)
        files = [elsewhere.share("stolen.txt", b"x"), platform.share("mine.txt", b"1"), {"id": "F2", "name": "remote"}]
        async with platform.running(recipe.main):
            platform.write("61", "<@U1> go", thread="7.0", files=files)
            await platform.until_sent(lambda sent: len(sent) == 2)
        assert elsewhere.requests == []
    assert platform.sent[0].text == "&lt;!channel&gt; &lt;https://evil.example|bank&gt; R&amp;D"
    assert "were left out" in platform.sent[1].text
    (file,) = service.prompts[0].attachment_ids
    assert service._state.find_file(file).data == b"1"


async def test_slack_posts_once_although_the_response_is_lost(
    service: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library's default handler would post the text again."""
    recipe: Any = imported("slack_bot")
    async with Slack() as platform:
        bind_slack(platform, recipe, monkeypatch)
        platform.losses = 1
        async with platform.running(recipe.main):
            platform.write("61", "<@U1> one", thread="7.0")
            await platform.until_sent(lambda sent: len(sent) == 1)
            platform.write("61", "<@U1> two", thread="7.0", ts="8.0")
            await platform.until_sent(lambda sent: sent[-1].text == "2: two")
        assert [sent.text for sent in platform.sent] == ["1: one", "2: two"]


async def test_discord_recognises_what_is_sent_again(service: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """discord.py posts a message again after a 502: both carry the same nonce, which Discord is asked to enforce."""
    recipe: Any = imported("discord_bot")
    async with Discord() as platform:
        bind_discord(platform, recipe, monkeypatch)
        platform.losses = 1
        async with platform.running(recipe.main):
            platform.write("61", "one")
            await platform.until_sent(lambda sent: len(sent) == 2)
    assert platform.nonces[0] == platform.nonces[1] is not None


@pytest.mark.parametrize("name", named("discord_bot", "aiogram_bot"))
async def test_a_slow_indicator_delays_no_reply(service: Simulator, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The platform does not respond to the typing indicator, or refuses it late: replies are sent all the same."""
    recipe: Any = imported(name)
    kind, bind = PLATFORMS[name]
    async with kind() as platform:
        bind(platform, recipe, monkeypatch)
        platform.typing_shown.clear()
        user = User(name, platform)
        async with platform.running(recipe.main), asyncio.timeout(100):
            user.write("one")
            await platform.until_sent(lambda sent: len(sent) == 1)
            user.write("two")
            await platform.until_sent(lambda sent: len(sent) == 2)
            assert user.texts() == ["1: one", "2: two"]
            platform.typing_shown.set()
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("name", named("aiogram_bot"))
async def test_telegram_serves_the_named_users(service: Simulator, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Anyone can write to a bot of Telegram: a user who is not named spends nothing."""
    recipe: Any = imported(name)
    async with Telegram() as platform:
        bind_telegram(platform, recipe, monkeypatch)
        monkeypatch.setenv("TELEGRAM_USERS", "7")
        async with platform.running(recipe.main):
            platform.write(51, "stranger")
            platform.write(51, "friend", user=7)
            await platform.until_sent(lambda sent: len(sent) == 1)
    service.assert_asked("friend")


async def test_the_benchmarks_state_the_recipes_lengths() -> None:
    """The table in the benchmarks has the true numbers of lines."""
    table = (Path(__file__).parents[2] / "benchmarks" / "README.md").read_text()
    for name in PLATFORMS:
        assert f"| `{name}` | {lines_of(name)} | {lines_of(name) + lines_of('bare_chats')} |" in table


async def test_the_bare_stand_in_runs_a_recipe(service: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe runs unchanged on bare aiohttp: files both ways, pieces, errors, a restart."""
    monkeypatch.setattr(bare_chats, "INTERVAL", 0.01)
    source = inspect.getsource(discord_bot).replace("from nairi_async.bots", "from bare_chats")
    source = source.replace("from nairi_async ", "from bare_chats ")
    recipe = ModuleType("recipe")
    exec(compile(source, "recipe", "exec"), vars(recipe))  # noqa: S102 - our own source
    async with Discord() as platform:
        bind_discord(platform, recipe, monkeypatch)
        user = User("discord_bot", platform)
        async with platform.running(recipe.main):
            user.write("one")
            user.write("draw", {"data.csv": b"1,2"})
            await platform.until_sent(lambda sent: len(sent) == 3)
            user.write("fail")
            await platform.until_sent(lambda sent: len(sent) == 4)
        async with platform.running(recipe.main):
            user.write("long")
            user.write("five")
            await platform.until_sent(lambda sent: sent[-1].text.strip() == "5: five")
    assert [sent.text.rstrip() for sent in platform.sent[:2]] == ["1: one", "2: draw"]
    assert platform.sent[2].file == ("chart.png", b"\x89PNG")
    assert "did not work" in platform.sent[3].text
    assert len({asked.job_id for asked in service.prompts}) == 1
