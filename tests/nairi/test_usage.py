"""The usage of a session is exact, by agent and model, each message once, in bounded memory."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nairi_async import Message, NairiSession, Turn, TurnFailedError, Usage, UsageReport
from nairi_async._nairi.usage import REMEMBERED, UsageMeter
from nairi_async.testing import Fail, Say, Simulator

if TYPE_CHECKING:
    from collections.abc import Iterator

COSTS = st.decimals(min_value=0, max_value=1000, places=10)


def message(id_: str, usage: Usage | None, job: str = "job", status: str = "completed") -> Message:
    return Message(id=id_, job_id=job, role="assistant", status=status, content="x", usage=usage)


def spent(cost: str | None = None, tokens: int | None = None, model: str | None = "m") -> Usage:
    return Usage(cost_usd=None if cost is None else Decimal(cost), input_tokens=tokens, model=model)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([None, "m", "n"]), COSTS), max_size=30), st.data())
def test_sums_are_exact_and_count_each_message_once(
    parts: list[tuple[str, str | None, Decimal]], data: st.DataObject
) -> None:
    """However often and in whichever order messages are read, the sum is exact and counts each once."""
    meter = UsageMeter()
    for agent in "abc":
        meter.learn(Turn(f"job-{agent}", "cmsg", agent_id=agent))
    messages = [
        message(f"{index}", Usage(cost_usd=cost, model=model), f"job-{agent}")
        for index, (agent, model, cost) in enumerate(parts)
    ]
    for _ in range(data.draw(st.integers(0, 3))):
        meter.count(data.draw(st.permutations(messages))[: data.draw(st.integers(0, 30))])
    meter.count(messages)
    report = meter.report
    assert sum(share.messages for share in report.shares) == len(parts)
    for agent in {agent for agent, _, _ in parts}:
        assert report.by_agent[agent].cost_usd == sum(cost for name, _, cost in parts if name == agent)
    for model in {model for _, model, _ in parts}:
        assert report.by_model[model].cost_usd == sum(cost for _, name, cost in parts if name == model)
    assert (report.total is None) == (not parts)


def test_absent_stays_absent() -> None:
    """A figure that no message reports is `None` and not zero, in each share and in the total."""
    meter = UsageMeter()
    meter.count([message("1", spent(tokens=3)), message("2", spent(tokens=4)), message("3", None)])
    (share,) = meter.report.shares
    assert share.usage == Usage(input_tokens=7, model="m")
    assert (share.agent_id, share.model, share.messages) == (None, "m", 2)
    assert UsageReport().total is None
    assert UsageReport().by_agent == {}


def test_memory_is_bounded_and_recent_messages_are_remembered() -> None:
    """A limited number of messages is remembered; one that is read again and again is not forgotten."""
    meter = UsageMeter()
    usage = spent(tokens=1)

    def others() -> Iterator[Message]:
        for number in range(2 * REMEMBERED):
            yield message(f"{number}", usage)
            if number % 1000 == 0:
                yield message("again", usage)

    meter.count(others())
    assert meter.report.shares[0].messages == 2 * REMEMBERED + 1
    assert len(meter._counted._known) == REMEMBERED


@pytest.mark.anyio
async def test_a_session_counts_what_it_returns(simulator: Simulator, nairi: NairiSession) -> None:
    """Replies, watches and plain reads of the same messages count once, for the agent of the turn."""
    simulator.agent(
        "a", [Say("One", usage={"cost_usd": 0.1, "model": "m"}), Say("Two", usage={"cost_usd": 0.2, "model": "n"})]
    )
    simulator.agent("b", [Say("Three", usage={"input_tokens": 5}), Fail("broken")])
    assert nairi.usage == UsageReport()
    reply = await nairi.ask("a", "Go")
    async for _ in nairi.watch(reply.turn.job_id):
        pass
    await nairi.messages(reply.turn.job_id)
    await nairi.message(reply.messages[0].id)
    before = nairi.usage
    turn = await nairi.start("b", "Go")
    with pytest.raises(TurnFailedError):
        await nairi.reply(turn)
    rows = [(share.agent_id, share.model, share.messages, share.usage.cost_usd) for share in nairi.usage.shares]
    assert rows == [("a", "m", 1, Decimal("0.1")), ("a", "n", 1, Decimal("0.2")), ("b", None, 1, None)]
    assert nairi.usage.total == Usage(cost_usd=Decimal("0.3"), input_tokens=5)
    assert len(before.shares) == 2


@pytest.mark.anyio
async def test_an_unfinished_message_counts_when_it_is_final(simulator: Simulator, nairi: NairiSession) -> None:
    """A message that is still changing counts nothing when it is read; it counts once it is final."""
    simulator.agent("slow", [Say("Long text", unfinished_for=10, usage={"output_tokens": 7})])
    turn = await nairi.start("slow", "Go")
    await nairi._executor.clock.sleep(1)
    assert [entry.is_terminal for entry in await nairi.messages(turn.job_id) if entry.role == "assistant"] == [False]
    assert nairi.usage.shares == ()
    await nairi.reply(turn)
    assert nairi.usage.by_agent == {"slow": Usage(output_tokens=7)}


def test_agents_beyond_a_thousand_are_joined() -> None:
    """The report of a session that meets ever new agents stays small, and its total exact."""
    meter = UsageMeter()
    for number in range(3000):
        meter.learn(Turn(f"job{number}", f"turn{number}", agent_id=f"agent{number}"))
        meter.count([message(f"m{number}", spent(tokens=1), f"job{number}")])
    report = meter.report
    assert len(report.shares) <= 1001
    assert sum(share.messages for share in report.shares) == 3000
    assert report.total == Usage(input_tokens=3000, model="m")
