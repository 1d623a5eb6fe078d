"""The activity is right although progress messages are lost, late, repeated or growing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from nairi_async import Activity, Message, NairiSession, ToolCall
from nairi_async._nairi import wire
from nairi_async._nairi.polling.timeline import Timeline
from nairi_async.testing import Done, Say, Simulator, Step, Subagent, Text, Thinking, Tool

if TYPE_CHECKING:
    from collections.abc import Sequence

EPOCH = datetime(2026, 4, 12, tzinfo=UTC)


def event(id_: str, at: float, **envelope: Any) -> Message:
    """Return a progress message of `at` seconds after the epoch of these tests, as the service sends it."""
    document = {
        "id": id_,
        "job_id": "job",
        "role": "progress",
        "status": "completed",
        "content": json.dumps(envelope),
        "created_at": (EPOCH + timedelta(seconds=at)).isoformat(),
        "updated_at": (EPOCH + timedelta(seconds=at)).isoformat(),
    }
    return wire.decode_message(json.dumps(document).encode())


def tool(id_: str, at: float, use: str | None, status: str | None = "running", **more: Any) -> Message:
    return event(id_, at, progress_type="tool_use", tool_name="Bash", tool_use_id=use, tool_status=status, **more)


def text(id_: str, at: float, said: str, **more: Any) -> Message:
    return event(id_, at, progress_type="text", text_delta=said, **more)


def said(id_: str, at: float, content: str, role: str = "assistant", status: str = "completed") -> Message:
    time = EPOCH + timedelta(seconds=at)
    return Message(id=id_, job_id="job", role=role, status=status, content=content, created_at=time, updated_at=time)


def view(activity: Activity) -> tuple[object, ...]:
    return activity.tools, activity.text, activity.tree, activity.current, activity.thinking, activity.step


TURN = [
    event("s", 0, progress_type="step", summary="Reading"),
    event("t", 1, progress_type="thinking", text_delta="Hm."),
    tool("a1", 2, "A", tool_input="ls"),
    tool("b1", 3, "B", tool_input="grep", parent_tool_use_id="A"),
    text("x1", 4, "Inside.", parent_tool_use_id="A"),
    event("h", 13, progress_type="tool_heartbeat", tool_name="Bash", tool_use_id="B", summary="still running"),
    tool("b2", 14, "B", "completed", tool_output="found", parent_tool_use_id="A"),
    text("x2", 15, "Here is  what\nI found."),
    tool("c1", 16, "C", tool_input="sleep"),
    tool("a2", 17, "A", "error", tool_output="no"),
    said("r", 20, "Here is what I found. And more."),
]


@given(st.permutations(TURN), st.lists(st.sampled_from(TURN)))
def test_order_and_repetition_make_no_difference(order: list[Message], again: list[Message]) -> None:
    """Progress messages may arrive late and twice; the final state does not depend on it."""
    assert view(Activity.of([*order, *again])) == view(Activity.of(TURN))


@given(st.lists(st.sampled_from(TURN), unique_by=lambda message: message.id))
def test_lost_events_never_break_the_view(kept: list[Message]) -> None:
    """With any subset of the messages each call is in the tree once, and every property has a value."""
    activity = Activity.of(kept)

    def count(nodes: Sequence[Any]) -> int:
        return sum(1 + count(node.children) for node in nodes)

    assert count(activity.tree) == len(activity.tools)
    assert len(activity.finished) + len(activity.running) == len(activity.tools)
    line = activity.describe(EPOCH + timedelta(seconds=30))
    assert line
    assert "\n" not in line


def test_a_call_is_paired_with_its_result() -> None:
    """Start and end with one `tool_use_id` are one call, with its times, input, output and status."""
    activity = Activity.of(TURN)
    bash = activity.tools[1]
    assert bash == ToolCall(
        key="B",
        name="Bash",
        input="grep",
        output="found",
        status="completed",
        started_at=EPOCH + timedelta(seconds=3),
        ended_at=EPOCH + timedelta(seconds=14),
        heard_at=EPOCH + timedelta(seconds=13),
        heartbeat="still running",
        parent="A",
    )
    assert bash.seconds() == 11


def test_calls_without_an_id_are_paired_by_name_and_input() -> None:
    """Without `tool_use_id`, a result belongs to the oldest running call of that name."""
    activity = Activity.of(
        [
            tool("1", 1, None, tool_input="ls"),
            tool("2", 2, None, tool_input="pwd"),
            tool("3", 3, None, "success", tool_input="pwd", tool_output="/"),
            tool("4", 4, None, "success", tool_output="README"),
            tool("5", 5, None, "success", tool_output="alone"),
        ]
    )
    assert [(call.key, call.input, call.output) for call in activity.tools] == [
        ("1", "ls", "README"),
        ("2", "pwd", "/"),
        ("5", None, "alone"),
    ]
    assert activity.current is None


def test_the_current_tool_is_the_one_that_began_last() -> None:
    """While a subagent works, its tool call is current; afterwards the call that started the subagent."""
    activity = Activity()
    seen = []
    for message in TURN[2:10]:
        activity.feed(message)
        seen.append(activity.current.key if activity.current else None)
    assert seen == ["A", "B", "B", "B", "A", "A", "C", "C"]
    assert activity.since == EPOCH + timedelta(seconds=16)


def test_the_tree_puts_a_subagent_below_its_call() -> None:
    """Calls and texts with a `parent_tool_use_id` are below that call, not in the agent's own text."""
    roots = Activity.of(TURN).tree
    assert [root.call.key for root in roots] == ["A", "C"]
    assert [child.call.key for child in roots[0].children] == ["B"]
    assert roots[0].texts == ("Inside.",)
    assert "Inside" not in Activity.of(TURN).text


def test_calls_that_are_their_own_ancestors_are_shown_once() -> None:
    """With a cycle of parents, or an unknown parent, no call is lost."""
    circle = [tool("1", 1, "A", parent_tool_use_id="B"), tool("2", 2, "B", parent_tool_use_id="A")]
    lone = [tool("3", 3, "C", parent_tool_use_id="C"), tool("4", 4, "D", parent_tool_use_id="gone")]
    roots = Activity.of([*circle, *lone]).tree
    assert [(root.call.key, [child.call.key for child in root.children]) for root in roots] == [
        ("D", []),
        ("A", ["B"]),
        ("C", []),
    ]


def test_text_that_the_reply_repeats_is_not_repeated() -> None:
    """Progress text is part of the text until a reply contains it, with any white space."""
    activity = Activity.of(TURN[:-1])
    assert activity.text == "Here is  what\nI found."
    activity.feed(TURN[-1])
    activity.feed(text("late", 21, "Something else."))
    assert activity.text == "Here is what I found. And more.\n\nSomething else."
    assert activity.reply == "Here is what I found. And more."


def test_growing_text_replaces_its_older_form() -> None:
    """A newer form of a message replaces the older one; an older one that arrives late does not."""
    short = text("x", 1, "Once")
    grown = evolve(text("x", 1, "Once upon a time"), updated_at=EPOCH + timedelta(seconds=9))
    activity = Activity()
    assert [activity.feed(message) for message in (short, short, grown, grown, short)] == [
        True, False, True, False, False,
    ]  # fmt: skip
    assert activity.text == "Once upon a time"


def test_late_progress_after_the_end_is_harmless() -> None:
    """After the end no call is current, even if its start arrives only then; finished calls remain."""
    activity = Activity.of(TURN)
    activity.end()
    activity.feed(tool("z", 19, "Z"))
    assert activity.is_over
    assert (activity.current, activity.running) == (None, ())
    assert [call.key for call in activity.finished] == ["A", "B"]
    assert activity.describe() == "ended (2 tools done)"


def test_a_result_is_not_undone_by_its_start_or_heartbeat() -> None:
    """A start or heartbeat that arrives after the result does not make the call run again."""
    result = tool("2", 2, "A", "completed", tool_output="done")
    late = [tool("1", 3, "A"), event("3", 4, progress_type="tool_heartbeat", tool_use_id="A", summary="10 s")]
    (call,) = Activity.of([result, *late]).tools
    assert (call.status, call.output, call.is_finished) == ("completed", "done", True)


def test_a_user_message_begins_a_new_turn() -> None:
    """In a whole conversation the view shows the newest turn; late progress of an older one is left out."""
    first, second = said("u1", 0, "Do", "user", "completed"), said("u2", 50, "More", "user", "queued")
    activity = Activity.of([first, *TURN])
    assert activity.is_over
    activity.feed(second)
    assert (activity.tools, activity.text, activity.is_over) == ((), "", False)
    assert activity.describe() == activity.status == "queued"
    assert not activity.feed(text("late", 18, "Old news.", processed_message_id="u1"))
    assert activity.feed(text("new", 51, "News.", processed_message_id="u2"))
    assert activity.text == "News."
    assert not activity.feed(first)
    activity.feed(evolve(second, status="failed"))
    assert activity.describe() == "failed"


@pytest.mark.parametrize(
    ("messages", "line"),
    [
        ([], "working"),
        ([TURN[0]], "step: Reading"),
        ([TURN[1]], "thinking: Hm."),
        ([TURN[7]], "writing: Here is what I found."),
        ([TURN[2]], "Bash: ls, 58 s"),
        ([tool("1", 1, "A", tool_input="ls", tool_description="List files")], "Bash: List files, 59 s"),
        ([TURN[3], TURN[6]], "working (1 tool done)"),
        ([event("n", 1, progress_type="news")], "news"),
        ([event("n", 1)], "working"),
        ([event("n", 1, progress_type="tool_heartbeat", tool_use_id="A")], "tool, 59 s"),
        ([TURN[-1]], "replied"),
    ],
)
def test_one_line_says_what_is_going_on(messages: list[Message], line: str) -> None:
    """`describe` returns one line for each state, with the seconds since the tool call started."""
    assert Activity.of(messages).describe(EPOCH + timedelta(seconds=60)) == line
    assert line in repr(Activity.of(messages)) or "s" in line


def test_the_line_is_cut_to_its_width() -> None:
    """A long command does not make a long line."""
    line = Activity.of([tool("1", 1, "A", tool_input="x" * 500)]).describe(width=20)
    assert len(line) == 20
    assert line.endswith("…")


def test_since_without_a_tool_is_when_the_agent_was_last_heard() -> None:
    """Without messages there is no time; else it is the time of the newest message."""
    assert Activity().since is None
    assert Activity.of(TURN[:2]).since == EPOCH + timedelta(seconds=1)


@given(st.data())
def test_progress_that_changes_comes_out_again_and_only_then(data: st.DataObject) -> None:
    """Each content of a progress message is yielded once, in order, although reads are repeated and stale."""
    forms = [evolve(text("p", 1, "x" * n), updated_at=EPOCH + timedelta(seconds=n)) for n in range(1, 5)]
    other = text("q", 2, "other")
    timeline = Timeline(turn="u", progress=True)
    prompt = said("u", 0, "Do", "user", "pending")
    out: list[Message] = []
    newest = 0
    for _ in range(data.draw(st.integers(0, 8))):
        newest = max(newest, data.draw(st.integers(0, 3)))
        shown = data.draw(st.integers(0, newest))
        out += timeline.observe(data.draw(st.permutations([prompt, forms[shown], other])))
    out += timeline.observe([prompt, forms[3], other])
    out += timeline.observe([prompt, forms[3], other])
    out += timeline.finish()
    grown = [len(message.progress.text_delta or "") for message in out if message.id == "p" and message.progress]
    assert grown == sorted(set(grown))
    assert grown[-1] == 4
    assert [message.id for message in out].count("q") == 1


@given(st.lists(st.integers(0, 3), min_size=1))
def test_growth_without_times_is_told_by_the_content(shown: list[int]) -> None:
    """If the service sends no times, each new content is yielded once, and an old one is not repeated."""
    forms = [evolve(text("p", 1, "x" * n), created_at=None, updated_at=None) for n in range(4)]
    timeline = Timeline(progress=True)
    out = [message for index in shown for message in timeline.observe([forms[index]])]
    assert [message.content for message in out] == list(dict.fromkeys(forms[index].content for index in shown))


def test_progress_in_front_of_a_cursor_stays_out_when_it_grows() -> None:
    """What stands before `after` is not yielded, even if it changes."""
    timeline = Timeline(after="q", progress=True)
    timeline.observe([text("p", 1, "a"), text("q", 2, "b")])
    assert timeline.observe([text("p", 1, "aa"), text("q", 2, "bb")]) == []


def test_progress_that_grows_before_its_place_is_known_comes_out_grown() -> None:
    """A form of a message that was replaced while the watch searched for its start is not yielded."""
    timeline = Timeline(turn="u", progress=True)
    assert timeline.observe([text("p", 1, "a")]) == []
    grown = evolve(text("p", 1, "aa"), updated_at=EPOCH + timedelta(seconds=5))
    assert timeline.observe([said("u", 0, "Do", "user", "completed"), grown]) == [grown]


@pytest.mark.anyio
async def test_a_watch_with_progress_feeds_an_activity(simulator: Simulator, nairi: NairiSession) -> None:
    """Over HTTP: start and result are paired, a subagent is below its call, text is not repeated, heartbeats count."""
    simulator.agent(
        "busy",
        [
            Step("Reading", after=1),
            Thinking("Hm.", after=1),
            Tool("Task", tool_use_id="T", seconds=25, after=1),
            Tool("Grep", parent_tool_use_id="T", seconds=1),
            Subagent("Subagent done"),
            Text("All is well."),
            Say("All is well.", after=2),
            Done(),
            Tool("Late", after=0.2),
        ],
    )
    turn = await nairi.start("busy", "Go")
    activity = Activity()
    lines = set()
    async for message in nairi.watch(turn, progress=True):
        activity.feed(message)
        lines.add(activity.describe())
    activity.end()
    assert [(call.name, call.is_finished) for call in activity.tools] == [
        ("Task", True), ("Grep", True), ("Late", True),
    ]  # fmt: skip
    assert activity.tools[0].heartbeat == "Task is still running (20 s)"
    assert [child.call.name for child in activity.tree[0].children] == ["Grep"]
    assert activity.text == "All is well."
    assert any(line.startswith("Task") for line in lines)
