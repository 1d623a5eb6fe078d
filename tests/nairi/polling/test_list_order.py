"""The order of a message list is learnt from the list: newest-first lists lose and reverse nothing."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nairi_async import Message, NairiSession, Turn
from nairi_async._nairi.polling.list_order import KnownPrompts, ListOrder
from nairi_async._nairi.polling.timeline import Timeline
from nairi_async._nairi.polling.turn_messages import turn_messages
from nairi_async.testing import Done, Quirks, Say, Simulator, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Sequence

EPOCH = datetime(2026, 4, 12, tzinfo=UTC)


def message(id_: str, role: str, at: float | None, status: str = "completed") -> Message:
    created = None if at is None else EPOCH + timedelta(seconds=at)
    return Message(id=id_, job_id="job", role=role, status=status, content=id_, created_at=created, updated_at=created)


def ids(messages: Sequence[Message]) -> list[str]:
    return [entry.id for entry in messages]


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    """Draw a conversation, oldest first: turns of one prompt and one or more replies, with times as bad as they get."""
    at = draw(st.sampled_from([0.0, None]))
    messages: list[Message] = []
    for turn in range(draw(st.integers(1, 4))):
        roles = ["user", *draw(st.lists(st.sampled_from(["assistant", "system"]), min_size=1, max_size=3))]
        for number, role in enumerate(roles):
            messages.append(message(f"{turn}{number}", role, at))
            at = None if at is None else at + draw(st.sampled_from([0.0, 0.0, 1.0]))
    return messages


@given(conversations(), st.booleans(), st.data())
def test_either_order_is_read_as_the_oldest_first(
    truth: list[Message],
    newest_first: bool,  # noqa: FBT001 - drawn
    data: st.DataObject,
) -> None:
    """With equal or missing times, a list that either end begins gives the same messages in the same order."""
    timeline = Timeline()
    out: list[Message] = []
    for _ in range(data.draw(st.integers(0, 3))):
        # What a read may show: whole turns.
        ends = [index for index in range(1, len(truth)) if truth[index].role == "user"]
        shown = truth[: data.draw(st.sampled_from([0, *ends, len(truth)]))]
        out += timeline.observe(shown[::-1] if newest_first else shown)
    out += timeline.observe(truth[::-1] if newest_first else truth)
    assert ids(out + timeline.finish()) == ids(truth)


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("at", [0.0, None], ids=["equal", "missing"])
def test_a_reply_with_the_time_of_its_prompt_is_of_its_turn(at: float | None, newest_first: bool) -> None:  # noqa: FBT001
    """The reply of a first and of a later turn is found where the times say nothing, and no other turn's is taken."""
    listed = [message("u1", "user", at), message("a1", "assistant", at)]
    assert found("u1", listed, newest_first=newest_first) == ["a1"]
    listed += [message("u2", "user", at), message("a2", "assistant", at)]
    assert found("u2", listed, newest_first=newest_first) == ["a2"]


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_reply_in_the_millisecond_of_a_later_prompt(newest_first: bool) -> None:  # noqa: FBT001
    """Among messages whose times differ, two that share one are in the order of the list."""
    listed = [
        message("u1", "user", 0),
        message("a1", "assistant", 5),
        message("u2", "user", 9),
        message("a2", "assistant", 9),
    ]
    assert found("u2", listed, newest_first=newest_first) == ["a2"]


def found(turn: str, listed: Sequence[Message], *, newest_first: bool) -> list[str]:
    prompt = next(entry for entry in listed if entry.id == turn)
    return ids(turn_messages(Turn("job", turn), prompt, listed[::-1] if newest_first else listed).messages)


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_prompt_without_a_reply_does_not_get_the_one_before(newest_first: bool) -> None:  # noqa: FBT001
    """Prompt, reply, prompt reads the same from both ends: the open or the known newest prompt decides."""
    listed = [message("u1", "user", None), message("a1", "assistant", None), message("u2", "user", None)]
    prompt, shown = listed[-1], listed[::-1] if newest_first else listed
    assert turn_messages(Turn("job", "u2"), prompt, shown, prompts=KnownPrompts("u2")).messages == []
    opened = [*listed[:2], message("u2", "user", None, "pending")]
    assert ListOrder().oldest_first(opened[::-1] if newest_first else opened, ()) == opened


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_prompt_on_its_way_is_newer_than_the_newest_known_one(newest_first: bool) -> None:  # noqa: FBT001
    """The next prompt is listed before its response is here: the session still takes the one before for the newest."""
    listed = [message("u1", "user", 0), message("a1", "assistant", 0), message("u2", "user", 0, "pending")]
    found = turn_messages(
        Turn("job", "u1"), listed[0], listed[::-1] if newest_first else listed, prompts=KnownPrompts("u1")
    )
    assert (ids(found.messages), found.is_complete) == (["a1"], True)


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize(
    "known", [KnownPrompts("u2", "u1", has_begun=True), KnownPrompts("u2", "u1")], ids=["the first", "two"]
)
def test_the_order_of_prompts_that_were_sent_decides(newest_first: bool, known: KnownPrompts) -> None:  # noqa: FBT001
    """Prompts at both ends, all ended, the newest of them unknown: the session has sent the one before the other."""
    listed = [message(id_, "user" if id_[0] == "u" else "assistant", None) for id_ in ("u1", "a1", "u2", "a2", "u3")]
    if not known.has_begun:
        listed = [message("u0", "user", None), message("a0", "assistant", None), *listed]
    shown = listed[::-1] if newest_first else listed
    prompt = next(one for one in listed if one.id == "u2")
    assert ids(turn_messages(Turn("job", "u2"), prompt, shown, prompts=known).messages) == ["a2"]


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("at", [0.0, None], ids=["equal", "missing"])
def test_a_reply_ends_where_the_next_prompt_follows_it(at: float | None, newest_first: bool) -> None:  # noqa: FBT001
    """Without times, a prompt behind a reply begins the next turn; one that is queued before the reply does not."""
    first, reply, more = message("u1", "user", at), message("a1", "assistant", at), message("a2", "assistant", at)
    second = message("u2", "user", at, "pending")
    assert found("u1", [first, reply, second, message("n2", "system", at), more], newest_first=newest_first) == ["a1"]
    assert "a1" in found("u1", [first, second, reply], newest_first=newest_first)
    failed, notice = message("u1", "user", at, "failed"), message("n1", "system", at)
    assert found("u1", [failed, notice, second, more], newest_first=newest_first) == ["n1"]
    assert found("u1", [first, notice, reply, second], newest_first=newest_first) == ["n1", "a1"]


def test_the_end_at_which_a_list_grows_is_the_newest() -> None:
    """Messages of other roles, and no times: what an earlier list has shown is older."""
    order = ListOrder()
    assert ids(order.oldest_first([message("b", "system", None), message("a", "system", None)], {"a"})) == ["a", "b"]
    assert ids(order.oldest_first([message("c", "system", None), message("b", "system", None)], {"b"})) == ["b", "c"]


def test_a_message_listed_late_stands_between_its_neighbours() -> None:
    """Without times, what appears in the middle of a list ranks there: a cursor behind it does not step back."""
    timeline = Timeline()
    timeline.observe([message("u", "user", None), message("b", "assistant", None)])
    late = message("a", "assistant", None)
    assert ids(timeline.observe([message("u", "user", None), late, message("b", "assistant", None)])) == ["a"]
    assert not timeline.is_further(late, "b")
    assert timeline.is_further(late, "u")


@pytest.mark.anyio
@pytest.mark.parametrize("order", ["oldest first", "newest first"])
@pytest.mark.parametrize("timestamps", ["kept", "equal", "omitted"])
async def test_replies_are_whole_in_either_order(
    nairi: NairiSession,
    simulator: Simulator,
    order: Literal["oldest first", "newest first"],
    timestamps: Literal["kept", "equal", "omitted"],
) -> None:
    """A dialogue, watched and asked, gets each turn's replies in order."""
    simulator.quirks = Quirks(order=order, timestamps=timestamps)
    simulator.agent("my-agent", lambda prompt, _: [Say(f"{prompt} one", after=1), Say(f"{prompt} two", after=1)])
    conversation = nairi.conversation("my-agent")
    for prompt in "abcd":
        if prompt in "bd":
            contents = [entry.content async for entry in conversation.send(prompt)]
        else:
            contents = (await conversation.ask(prompt)).text.split("\n\n")
        assert contents == [f"{prompt} one", f"{prompt} two"]


@pytest.mark.anyio
@pytest.mark.parametrize("timestamps", ["kept", "omitted"])
async def test_the_cursor_does_not_step_back(
    simulator: Simulator, clock: VirtualClock, timestamps: Literal["kept", "omitted"]
) -> None:
    """A message that is listed after later ones is delivered, and who resumes from the cursor gets nothing twice."""
    stepped = 0
    for seed in range(12):
        random.seed(seed)  # the jitter of polling decides which message is listed first
        quirks = Quirks(late_by=5.0, late_every=2, timestamps=timestamps)
        async with Simulator(clock=clock, quirks=quirks, seed=seed) as late:
            late.agent("my-agent", [Say("one", after=1), Say("two", after=1), Done(after=20)])
            async with NairiSession(late.api_key, base_url=late.url, clock=clock) as nairi:
                watch = nairi.watch(await nairi.start("my-agent", "go"))
                first, second = await anext(watch), await anext(watch)
                assert {first.content, second.content} == {"one", "two"}
                assert watch.cursor == (second if second.content == "two" else first).id
                stepped += second.content == "one"
                assert watch.turn is not None
                assert [entry async for entry in nairi.watch(watch.turn, after=watch.cursor)] == []
    assert stepped


@pytest.mark.anyio
async def test_a_reply_that_is_recorded_for_good_is_read_for_longer(nairi: NairiSession, simulator: Simulator) -> None:
    """Where the reply is listed seconds after the settling time, a recovery finds it; an empty turn still ends."""
    simulator.agent("my-agent", [Done(after=2), Say("late", after=8)])
    turn = await nairi.start("my-agent", "go")
    assert (await nairi.resume(turn.job_id).last_reply() or await nairi.reply(turn)).text == "late"
    simulator.agent("my-agent", [Done(after=2)])
    turn = await nairi.start("my-agent", "go")
    before = len(simulator.requests)
    reply = await nairi.resume(turn.job_id).last_reply()
    assert reply is not None
    assert reply.text == ""
    assert len(simulator.requests) - before < 20
