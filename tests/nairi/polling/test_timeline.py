"""The timeline as a pure state machine: each message comes out once and in order, for any sequence of reads."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from nairi_async import Message
from nairi_async._nairi.polling.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

EPOCH = datetime(2026, 4, 12, tzinfo=UTC)


def message(
    id_: str, role: str = "assistant", *, at: float | None = None, status: str = "completed", until: float | None = None
) -> Message:
    """Return a message created `at` and last changed `until` seconds after the epoch of these tests."""
    created = None if at is None else EPOCH + timedelta(seconds=at)
    return Message(
        id=id_,
        job_id="job",
        role=role,
        status=status,
        content=f"text of {id_}",
        created_at=created,
        updated_at=created if until is None else EPOCH + timedelta(seconds=until),
    )


def ids(messages: Sequence[Message]) -> list[str]:
    return [entry.id for entry in messages]


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    """Draw a finished conversation: prompts, replies and notices in the order in which they were made."""
    roles = draw(
        st.lists(st.sampled_from(["user", "assistant", "assistant", "system", "progress", "new role"]), max_size=12)
    )
    return [message(f"m{index}", role, at=float(index)) for index, role in enumerate(["user", *roles])]


@st.composite
def views(draw: st.DrawFn, truth: list[Message]) -> list[Message]:
    """Draw one read of it: some messages, each finished or not, in any order, some of them repeated."""
    shown = draw(st.lists(st.sampled_from(truth), max_size=2 * len(truth)))
    return [evolve(entry, status="pending") if draw(st.booleans()) else entry for entry in shown]


@given(st.data())
def test_every_message_comes_out_exactly_once(data: st.DataObject) -> None:
    """However reads repeat, reorder, delay and unfinish messages, each comes out once, and in its final form."""
    truth = data.draw(conversations())
    timeline = Timeline()
    out: list[Message] = []
    for _ in range(data.draw(st.integers(0, 6))):
        out += timeline.observe(data.draw(views(truth)))
    out += timeline.observe(data.draw(st.permutations(truth)))
    out += timeline.finish()
    expected = [entry for entry in truth if entry.role != "progress"]
    assert sorted(ids(out)) == sorted(ids(expected))
    assert all(entry.is_terminal or entry.role == "user" for entry in out)


@given(st.data())
def test_order_holds_whenever_reads_hide_nothing_older_than_what_they_show(data: st.DataObject) -> None:
    """Shuffled, repeated, stale and unfinished reads never disturb the order of creation."""
    truth = data.draw(conversations())
    timeline = Timeline()
    out: list[Message] = []
    for _ in range(data.draw(st.integers(0, 6))):
        visible = truth[: data.draw(st.integers(0, len(truth)))]
        out += timeline.observe(data.draw(st.permutations(visible)))
    out += timeline.observe(truth)
    out += timeline.finish()
    assert ids(out) == [entry.id for entry in truth if entry.role != "progress"]


@given(st.data())
def test_a_turn_gets_what_follows_its_own_prompt(data: st.DataObject) -> None:
    """A watched turn gives nothing that stood before its user message, however the list is shuffled."""
    before = [message("u1", "user", at=0, until=5), message("a1", at=4), message("s1", "system", at=6)]
    turn = [message("u2", "user", at=10, until=20), message("a2", at=15), message("a3", at=19)]
    timeline = Timeline(turn="u2")
    out: list[Message] = []
    for _ in range(data.draw(st.integers(1, 4))):
        shown = [*before, *turn[: data.draw(st.integers(1, 3))]]
        out += timeline.observe(data.draw(st.permutations(shown)))
    out += timeline.observe(data.draw(st.permutations([*before, *turn])))
    out += timeline.finish()
    assert ids(out) == ["a2", "a3"]


@given(st.data())
def test_status_and_reply_may_come_in_either_order(data: st.DataObject) -> None:
    """A status seen before the reply, after it, or going back to pending loses and doubles nothing."""
    prompt, reply = message("u", "user", at=0, until=5), message("a", at=4)
    timeline = Timeline(turn="u")
    out: list[Message] = []
    for step in data.draw(st.lists(st.sampled_from(["status", "old status", "list", "stale list"]), max_size=8)):
        if step == "status":
            timeline.observe_message(prompt)
        elif step == "old status":
            timeline.observe_message(evolve(prompt, status="pending"))
        elif step == "list":
            out += timeline.observe([evolve(prompt, status="pending"), reply])
        else:
            out += timeline.observe([prompt])
    out += timeline.observe([prompt, reply])
    assert timeline.has_ended
    out += timeline.finish()
    assert ids(out) == ["a"]


def test_a_terminal_status_stays_terminal() -> None:
    """A late read that shows the prompt as pending again does not reopen the turn."""
    timeline = Timeline(turn="u")
    timeline.observe_message(message("u", "user", at=0, status="failed"))
    timeline.observe([message("u", "user", at=0, status="pending")])
    assert timeline.has_ended
    assert timeline.has_failed


def test_an_unfinished_message_waits_and_holds_back_what_follows() -> None:
    """A growing reply comes out once, when it is final, and nothing overtakes it."""
    timeline = Timeline(turn="u")
    prompt = message("u", "user", at=0, status="pending")
    growing, notice = message("a", at=1, status="pending"), message("s", "system", at=2)
    assert timeline.observe([prompt, growing, notice]) == []
    assert ids(timeline.observe([prompt, message("a", at=1), notice])) == ["a", "s"]
    assert timeline.finish() == []


def test_an_unfinished_message_comes_out_when_the_turn_is_over() -> None:
    """A message whose status never becomes terminal is delivered with its latest text by the last read."""
    timeline = Timeline(turn="u")
    prompt = message("u", "user", at=0, status="completed")
    timeline.observe([prompt, message("a", at=1, status="streaming")])
    timeline.observe([prompt, evolve(message("a", at=1, status="streaming"), content="longer")])
    assert [entry.content for entry in timeline.finish()] == ["longer"]


def test_a_stale_read_does_not_unfinish_a_message() -> None:
    """Once seen final, a message that waits behind another keeps its final form."""
    timeline = Timeline(turn="u")
    prompt = message("u", "user", at=0)
    timeline.observe([prompt, message("a", at=1, status="pending"), message("b", at=2)])
    timeline.observe([prompt, message("b", at=2, status="pending")])
    out = timeline.finish()
    assert [(entry.id, entry.status) for entry in out] == [("a", "pending"), ("b", "completed")]


@given(st.lists(st.sampled_from([None, 0.0, 1.0]), min_size=3, max_size=8))
def test_list_order_decides_where_times_are_missing_or_all_the_same(times: list[float | None]) -> None:
    """Without usable times the service's own order is kept."""
    for at in (None, times[0]):
        listed = [message("u", "user", at=at), *(message(f"m{index}", at=at) for index in range(len(times)))]
        timeline = Timeline(turn="u")
        assert ids(timeline.observe(listed)) == ids(listed[1:])


def test_nothing_can_precede_the_first_prompt() -> None:
    """A reply that stands behind the first prompt but claims an earlier time is the prompt's, not lost."""
    timeline = Timeline(turn="u")
    assert ids(timeline.observe([message("u", "user", at=10), message("a", at=3)])) == ["a"]


def test_thousands_of_prompts_and_of_earlier_messages_take_no_time_of_their_product() -> None:
    """A list in which each message has to be compared with each prompt is read with one comparison for each."""
    compared = 0

    class Counted(dict[str, Message]):
        def __iter__(self) -> Iterator[str]:
            nonlocal compared
            for key in super().__iter__():
                compared += 1
                yield key

    prompts = [message(f"u{number}", "user", at=1000.0 + number) for number in range(300)]
    earlier = [message(f"a{number}", "assistant", at=float(number)) for number in range(300)]
    timeline = Timeline(turn="u0")
    timeline._users = Counted()
    timeline.observe([prompts[0], *earlier, *prompts[1:]])
    assert 0 < compared < 10 * len(prompts)


def test_what_was_said_after_the_turn_had_ended_is_not_of_the_turn() -> None:
    """An old turn gives its own messages when later prompts have been answered since."""
    timeline = Timeline(turn="u1")
    out = timeline.observe(
        [
            message("u1", "user", at=0, until=5),
            message("a1", at=4),
            message("s1", "system", at=5.2),
            message("u2", "user", at=60, until=70),
            message("a2", at=69),
        ]
    )
    assert ids(out) == ["a1", "s1"]
    assert timeline.finish() == []


def test_a_reply_that_stands_behind_a_prompt_queued_meanwhile_is_not_lost() -> None:
    """With two prompts sent at once, the first one's reply stands behind the second prompt and still comes out."""
    timeline = Timeline(turn="u1")
    out = timeline.observe(
        [message("u1", "user", at=0, until=9), message("u2", "user", at=1, status="queued"), message("a1", at=8)]
    )
    assert ids(out) == ["u2", "a1"]


def test_after_begins_behind_the_cursor() -> None:
    """`after` gives what follows that message, in a turn and in a whole conversation."""
    listed = [message("u", "user", at=0), message("a", at=1), message("b", at=2), message("c", at=3)]
    assert ids(Timeline(after="a").observe(listed)) == ["b", "c"]
    assert ids(Timeline(turn="u", after="b").observe(listed)) == ["c"]


def test_a_cursor_that_no_list_shows_is_placed_by_its_time() -> None:
    """A cursor on a progress message, which lists without progress lack, still marks the place to go on from."""
    timeline = Timeline(after="p")
    listed = [message("u", "user", at=0), message("a", at=1), message("b", at=3)]
    assert timeline.observe(listed) == []
    assert timeline.missing == "p"
    timeline.observe_message(message("p", "progress", at=2))
    assert timeline.missing is None
    assert ids(timeline.observe(listed)) == ["b"]


def test_progress_comes_out_at_once_if_wanted() -> None:
    """Progress neither waits to be final nor for the reply before it, and is left out unless asked for."""
    listed = [
        message("u", "user", at=0, status="pending"),
        message("a", at=1, status="pending"),
        message("p", "progress", at=2, status="pending"),
    ]
    assert ids(Timeline(turn="u", progress=True).observe(listed)) == ["p"]
    assert Timeline(turn="u").observe(listed) == []


def test_a_conversation_has_ended_when_no_prompt_is_open() -> None:
    """A whole conversation is over when every user message is terminal; unknown statuses are not."""
    timeline = Timeline()
    timeline.observe([message("u1", "user", at=0), message("u2", "user", at=1, status="pondering")])
    assert not timeline.has_ended
    assert timeline.open_user == "u2"
    assert timeline.status == "pondering"
    timeline.observe([message("u2", "user", at=1, status="failed")])
    assert timeline.has_ended
    assert not timeline.has_failed


def test_messages_without_an_id_are_told_apart_by_what_they_hold() -> None:
    """Even a message that lacks its id comes out once, and two different ones both do."""
    one, two = (evolve(message("", at=at), content=str(at)) for at in (1.0, 2.0))
    timeline = Timeline()
    assert timeline.observe([one, two]) == [one, two]
    assert timeline.observe([one, two, one]) == []
