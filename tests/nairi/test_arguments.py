"""A turn is taken where its id is, and every wait shows its limit."""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from nairi_async import (
    DEFAULT_TIMEOUT,
    Conversation,
    InvalidArgumentError,
    NairiSession,
    NotFoundError,
    Polling,
    Turn,
    WatchTimeoutError,
)
from nairi_async.batch import Batch
from nairi_async.bots import Chats
from nairi_async.testing import Done, Say, Simulator
from nairi_async.web import EventStreams

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from nairi_async.testing import VirtualClock

pytestmark = pytest.mark.anyio


async def test_a_turn_is_taken_where_its_id_is(nairi: NairiSession, simulator: Simulator) -> None:
    """`message`, `messages`, `continue_`, `resume` and `last_reply` take a turn as well as an id."""
    simulator.agent("my-agent", lambda prompt, _: [Say(f"re {prompt}")])
    turn = await nairi.start("my-agent", "a")
    await nairi.reply(turn)
    assert (await nairi.message(turn)).id == turn.message_id
    assert [message.content for message in await nairi.messages(turn)] == ["a", "re a"]
    second = await nairi.continue_(turn, "b")
    assert (second.job_id, second.agent_id) == (turn.job_id, "my-agent")
    resumed = nairi.resume(second)
    assert (resumed.job_id, resumed.agent_id) == (turn.job_id, "my-agent")
    last = await resumed.last_reply(after=turn)
    assert last is not None
    assert str(last) == "re b"
    assert await resumed.last_reply(after=second) is None


async def test_a_turn_with_a_bad_id_is_refused_everywhere(nairi: NairiSession, simulator: Simulator) -> None:
    """A constructed turn is checked as an id is, before any request."""
    for turn in (Turn("a b", "m"), Turn("j", "")):
        for call in (nairi.message, nairi.messages):
            with pytest.raises(InvalidArgumentError):
                await call(turn)
        with pytest.raises(InvalidArgumentError):
            await nairi.continue_(turn, "hi")
        with pytest.raises(InvalidArgumentError):
            nairi.resume(turn)
        with pytest.raises(InvalidArgumentError):
            nairi.watch_many([turn])
    assert simulator.requests == []


WAITS: list[Callable[..., object]] = [
    NairiSession.watch,
    NairiSession.watch_many,
    NairiSession.wait,
    NairiSession.reply,
    NairiSession.ask,
    NairiSession.ask_many,
    Conversation.ask,
    Conversation.send,
    Conversation.last_reply,
    Batch,
    Chats,
    EventStreams.ask,
]


@pytest.mark.parametrize("call", WAITS)
def test_every_wait_shows_its_default(call: Callable[..., object]) -> None:
    """The default of `timeout` is the exported constant, and its value is shown."""
    assert inspect.signature(call).parameters["timeout"].default is DEFAULT_TIMEOUT
    assert timedelta(hours=6).total_seconds() == DEFAULT_TIMEOUT


@pytest.fixture
async def nairi(simulator: Simulator, clock: VirtualClock) -> AsyncIterator[NairiSession]:
    """Open a session that polls a few times a day."""
    polling = Polling(delay=900, maximum=1800)
    async with NairiSession(simulator.api_key, base_url=simulator.url, clock=clock, polling=polling) as session:
        yield session


async def test_no_timeout_is_no_limit(nairi: NairiSession, simulator: Simulator, clock: VirtualClock) -> None:
    """`None` waits for as long as the turn runs; the default ends after six hours."""
    simulator.agent("my-agent", [Done(after=6.5 * 3600)])
    turn = await nairi.start("my-agent", "go")
    started_at = clock.monotonic()
    with pytest.raises(WatchTimeoutError):
        await nairi.wait(turn)
    assert clock.monotonic() - started_at == pytest.approx(DEFAULT_TIMEOUT)
    assert (await nairi.wait(turn, timeout=None)).status == "completed"


async def test_following_has_no_limit_unless_one_is_given(
    nairi: NairiSession, simulator: Simulator, clock: VirtualClock
) -> None:
    """With `follow` the default is no limit, and six hours given as a number are one."""
    simulator.agent("my-agent", [Say("late", after=6.5 * 3600)])
    turn = await nairi.start("my-agent", "go")
    with pytest.raises(WatchTimeoutError):
        await anext(nairi.watch(turn, follow=True, timeout=timedelta(hours=6)))
    assert (await anext(nairi.watch(turn, follow=True))).content == "late"


async def test_one_attempt_of_an_upload_is_bounded_by_its_own_name(nairi: NairiSession) -> None:
    """`attempt_timeout` bounds one attempt of an upload or download; it must be positive and finite."""
    for value in (0, -1, float("inf"), "1"):
        with pytest.raises(InvalidArgumentError, match=r"attempt_timeout|duration"):
            await nairi.upload(b"x", attempt_timeout=value)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError, match=r"attempt_timeout|duration"):
            await nairi.download("att_1", attempt_timeout=value)  # type: ignore[arg-type]
    with pytest.raises(NotFoundError):
        await nairi.download("att_1", attempt_timeout=timedelta(seconds=5))
