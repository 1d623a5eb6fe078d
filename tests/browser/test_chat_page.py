"""The chat page in a real browser, served by the recipes, with the simulated service behind them."""

from __future__ import annotations

import asyncio
import math
import shutil
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import async_playwright, expect
from serving import served

from nairi_async.testing import Done, Fail, Notice, Say, Simulator, Tool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser, Page

pytestmark = pytest.mark.anyio

# Chromium runs as root in containers, and must not use the network.
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Choose the backend for the whole session, so that one browser serves all tests."""
    return "asyncio"


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """Simulate the service in real time: the recipe and the browser are other processes."""
    async with Simulator() as running:
        yield running


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return the path of the system's Chromium; playwright's own is not downloaded."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    assert path, "these tests need Chromium: apt-get install chromium"
    return path


@pytest.fixture(scope="session")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=_ARGUMENTS)
        yield browser
        await browser.close()


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """Open a page, and check that it raises no error."""
    page = await browser.new_page(viewport={"width": 1000, "height": 700})
    page.set_default_timeout(10_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    await page.close()
    assert errors == []


EVIL = """<img src=x onerror="document.title='owned'"><script>document.title='owned'</script>
**<b onclick=alert(1)>bold</b>** `<i>code</i>` [link](javascript:alert(1)) https://example.com/"onmouseover="alert(1)
```
</code></pre><script>document.title='owned'</script>
```
- <svg onload=alert(1)>"""


async def send(page: Page, text: str) -> None:
    await page.get_by_label("Message to the agent").fill(text)
    await page.keyboard.press("Enter")


async def test_prompt_progress_reply_and_reload(simulator: Simulator, page: Page) -> None:
    """A prompt is typed, progress and reply appear, and a reload in the middle of a turn goes on where it stands."""
    simulator.agent(
        "my-agent",
        [Tool("Grep", input="cus_123", seconds=0.7), "First.", Tool("Bash", input="ls", seconds=2), "Second."],
    )
    async with served("fastapi_app", simulator) as app:
        await page.goto(app.url)
        await expect(page.get_by_role("heading", name="What should the agent do?")).to_be_visible()
        await expect(page.get_by_role("button", name="Send")).to_be_disabled()
        await send(page, "Refund cus_123.\nPlease.")
        await expect(page.locator("#activity")).to_contain_text("Grep: cus_123")
        await expect(page.locator(".message.assistant .bubble")).to_have_text(["First."])

        await page.reload()
        await expect(page.locator("#activity")).to_contain_text("Bash: ls")
        await expect(page.locator("#activity")).to_be_hidden()
        await expect(page.locator(".message.user .bubble")).to_have_text(["Refund cus_123.\nPlease."])
        await expect(page.locator(".message.assistant .bubble")).to_have_text(["First.", "Second."])
        assert len(simulator.prompts) == 1

        simulator.agent("my-agent", ["Third.", Notice("PR #7")])
        await send(page, "Go on.")
        await expect(page.locator(".message .bubble")).to_have_text(
            ["Refund cus_123.\nPlease.", "First.", "Second.", "Go on.", "Third.", "PR #7"]
        )
        await expect(page.locator("#activity")).to_be_hidden()
        count = len(simulator.requests)
        await page.wait_for_timeout(1200)
        assert len(simulator.requests) == count, "an idle page costs nothing"


async def test_text_is_never_markup(simulator: Simulator, page: Page) -> None:
    """Any text of an agent, a notice, a tool or a user is shown as text, at once and after a reload."""
    simulator.agent("my-agent", [Tool("Bash", input=EVIL, seconds=1), Say(EVIL), Notice(EVIL), Done(after=0.3)])
    async with served("fastapi_app", simulator) as app:
        await page.goto(app.url)
        await send(page, EVIL)
        await expect(page.locator("#doing")).to_contain_text("<img src=x")
        await expect(page.locator("#activity")).to_be_hidden()
        for _ in range(2):
            await expect(page.locator(".message")).to_have_count(3)
            assert await page.locator("#log :is(img, script, svg, b, i)").count() == 0
            assert await page.locator("#log [onclick], #log [onmouseover], #log a:not([href^=http])").count() == 0
            for text in await page.locator(".message .bubble").all_text_contents():
                assert "<img src=x onerror=" in text
            assert "owned" not in await page.title()
            await page.reload()


async def test_large_replies_are_drawn(simulator: Simulator, page: Page) -> None:
    """Texts with more parts than a call has arguments, and texts that defeat careless patterns, are shown whole."""
    texts = ["`x` " * 70_000, "line\n" * 130_000, "- item\n" * 20_000, "[" * 280_000, "[x](http:" * 30_000 + " end"]
    simulator.agent("my-agent", [*(Say(text) for text in texts), Say("last")])
    async with served("fastapi_app", simulator) as app:
        await page.goto(app.url)
        page.set_default_timeout(60_000)
        await send(page, "hello")
        await expect(page.locator(".message.assistant")).to_have_count(len(texts) + 1, timeout=60_000)
        lengths = await page.locator(".message.assistant .bubble").evaluate_all(
            "all => all.map(one => one.textContent.length)"
        )
        assert all(length > 70_000 for length in lengths[:-1])


async def test_a_link_shows_where_it_goes(simulator: Simulator, page: Page) -> None:
    """A label may say anything, so the host is shown after it."""
    simulator.agent("my-agent", [Say("[your bank](https://evil.example/login) https://plain.example/x")])
    async with served("fastapi_app", simulator) as app:
        await page.goto(app.url)
        await send(page, "hello")
        bubble = page.locator(".message.assistant .bubble")
        await expect(bubble).to_have_text("your bank (evil.example) https://plain.example/x")
        assert await bubble.locator("a").first.get_attribute("title") == "https://evil.example/login"


async def test_a_page_that_missed_the_end_rests(simulator: Simulator, page: Page) -> None:
    """A stream that resumes after everything was sent is refused with 204: the page stops, and asks no more."""
    simulator.agent("my-agent", [Say("one"), Done(after=1)])
    async with served("fastapi_app", simulator) as app:
        await page.goto(app.url)
        await send(page, "hello")
        await expect(page.locator(".message.assistant .bubble")).to_have_text(["one"])
        await expect(page.locator("#activity")).to_be_hidden()
        await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        await page.wait_for_timeout(5000)
        count = len(simulator.requests)
        await page.wait_for_timeout(5000)
        assert len(simulator.requests) == count
        await expect(page.locator("#notice")).to_be_hidden()


async def test_a_deploy_during_a_turn(simulator: Simulator, page: Page) -> None:
    """The server stops and starts again; the page says so, reconnects by itself, and misses nothing."""
    simulator.agent("my-agent", [Say("before"), Say("after", after=3)])
    async with served("fastapi_app", simulator) as app:
        await page.goto(app.url)
        await send(page, "hello")
        await expect(page.locator(".message.assistant .bubble")).to_have_text(["before"])
        await app.shut_down()
        await expect(page.get_by_text("Connection lost")).to_be_visible()
        async with served("fastapi_app", simulator, port=app.port):
            await expect(page.locator(".message.assistant .bubble")).to_have_text(["before", "after"])
            await expect(page.get_by_text("Connection lost")).to_be_hidden()
            await expect(page.locator(".message.user")).to_have_count(1)


async def test_failures_are_shown(simulator: Simulator, page: Page) -> None:
    """A failed turn, a missing conversation and an unsent prompt are shown; the prompt can be sent again."""
    simulator.agent("my-agent", [Say("I tried."), Fail("out of memory")])
    async with served("fastapi_app", simulator) as app:
        await page.goto(app.url)
        await send(page, "hello")
        await expect(page.get_by_role("alert")).to_contain_text("could not finish")
        await expect(page.locator(".message.system")).to_contain_text("out of memory")

        await page.goto(f"{app.url}/#job_01M7Z095SH19EPQAMMAQHYE1M2")
        await page.reload()
        await expect(page.get_by_text("This conversation cannot be shown")).to_be_visible()

        simulator.agent("my-agent", "Hello.")
        simulator.api_key, key = "another", simulator.api_key
        await send(page, "hello")
        await expect(page.locator(".unsent .meta")).to_contain_text("Not sent")
        simulator.api_key = key
        await page.get_by_role("button", name="Send again").click()
        await expect(page.locator(".message.assistant .bubble")).to_have_text(["Hello."])
        await expect(page.locator(".message.user")).to_have_count(1)
        assert page.url != f"{app.url}/#job_01M7Z095SH19EPQAMMAQHYE1M2"

        await page.get_by_role("button", name="New conversation").click()
        await expect(page.get_by_role("heading", name="What should the agent do?")).to_be_visible()
        await page.go_back()
        await expect(page.locator(".message.assistant .bubble")).to_have_text(["Hello."])


async def test_the_page_follows_the_end_unless_scrolled_up(simulator: Simulator, page: Page) -> None:
    """New messages scroll into view; a reader who has scrolled up stays there and gets a button."""
    simulator.agent("my-agent", [*(Say("word " * 80) for _ in range(8)), Say("late", after=2.5)])
    async with served("aiohttp_app", simulator) as app:
        await page.goto(app.url)
        await send(page, "hello")
        await expect(page.locator(".message.assistant")).to_have_count(8)
        await expect(page.locator(".message.assistant").last).to_be_in_viewport()
        await page.locator("#scroll").evaluate("main => { main.scrollTop = 0; }")
        await expect(page.locator(".message.assistant")).to_have_count(9)
        await expect(page.locator(".message.assistant").last).not_to_be_in_viewport()
        await page.get_by_role("button", name="New messages").click()
        await expect(page.locator(".message.assistant").last).to_be_in_viewport()


async def test_a_closed_tab_stops_the_polling(simulator: Simulator, page: Page) -> None:
    """The browser closes the connection with the tab, and no further request reaches the service."""
    simulator.agent("my-agent", [Done(after=math.inf)])
    async with served("aiohttp_app", simulator) as app:
        await page.goto(app.url)
        await send(page, "hello")
        await expect(page.locator("#activity")).to_contain_text("Working")
        await page.close()
        await asyncio.sleep(0.2)
        count = len(simulator.requests)
        await asyncio.sleep(2.5)
        assert len(simulator.requests) == count
