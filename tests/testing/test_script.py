from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nairi_async.testing.amigo import AmigoSimulator, Complete, Error, Hang, Speak
from nairi_async.testing.ids import IdMaker, stamp
from nairi_async.testing.script import (
    Done,
    Fail,
    Notice,
    Progress,
    Say,
    ScriptStep,
    Step,
    Subagent,
    Text,
    Thinking,
    Tool,
    default_script,
    steps_of,
)
from nairi_async.testing.timeline import TurnTimeline, play_script

BEGIN = 1_000.0


def play(*steps: ScriptStep | str) -> TurnTimeline:
    """Play a script that begins at second 1,000."""
    make_id = IdMaker().make
    return play_script(steps_of(steps, "", 1), begin=BEGIN, job_id="job_1", message_id="cmsg_1", make_id=make_id)


def envelopes(*steps: ScriptStep) -> list[dict[str, Any]]:
    return [json.loads(message.versions[0].content) for message in play(*steps).messages]


def test_steps_add_up_their_delays() -> None:
    """Each step comes `after` seconds after the one before, and Done is implied right after the last."""
    timeline = play(Text("a", after=1), Say("b", after=2), Notice("c", after=3))
    assert [message.created - BEGIN for message in timeline.messages] == [1, 3, 6]
    assert [message.role for message in timeline.messages] == ["progress", "assistant", "system"]
    assert (timeline.ended - BEGIN, timeline.status) == (6, "completed")


def test_steps_after_done_are_late() -> None:
    """What follows Done is visible only after the turn has ended."""
    timeline = play("reply", Done(after=1), Notice("late", after=2))
    assert timeline.ended == BEGIN + 1
    assert timeline.messages[-1].created == BEGIN + 3


def test_failure_has_its_reason() -> None:
    """Fail ends the turn as failed and adds the system message of the daemon."""
    timeline = play(Fail("out of memory", after=2))
    assert (timeline.ended - BEGIN, timeline.status) == (2, "failed")
    assert timeline.messages[0].role == "system"
    assert timeline.messages[0].versions[0].content == "nairid encountered error: out of memory"


def test_unfinished_message_grows_under_one_id() -> None:
    """A message with `unfinished_for` is pending with ever longer beginnings of its text, then complete."""
    timeline = play(Say("twelve chars", unfinished_for=4))
    (message,) = timeline.messages
    assert [version.status for version in message.versions] == ["pending"] * 4 + ["completed"]
    assert all(now.content.startswith(before.content) for before, now in pairwise(message.versions))
    assert (message.versions[0].content, message.versions[-1].content) == ("tw", "twelve chars")
    assert timeline.ended == message.versions[-1].at == BEGIN + 4


def test_message_may_never_finish() -> None:
    """With `finishes=False` a message is pending forever, though its turn ends."""
    (message,) = play(Say("twelve chars", unfinished_for=4, finishes=False)).messages
    last = message.version(BEGIN + 100)
    assert last is not None
    assert last.status == "pending"


def test_progress_is_an_envelope_with_copies() -> None:
    """Each kind of progress has its documented key, and its type also at the top level."""
    steps = (Text("t"), Thinking("h"), Step("s"), Subagent("a"))
    assert [envelope["progress_type"] for envelope in envelopes(*steps)] == ["text", "thinking", "step", "subagent"]
    shown = [envelope.get("text_delta", envelope.get("summary")) for envelope in envelopes(*steps)]
    assert shown == ["t", "h", "s", "a"]
    assert [message.fields["progress_type"] for message in play(*steps).messages] == [
        "text",
        "thinking",
        "step",
        "subagent",
    ]
    assert all(envelope["processed_message_id"] == "cmsg_1" for envelope in envelopes(*steps))


def test_tool_is_two_events_of_one_use() -> None:
    """A tool is running, then completed, and both events carry the same tool_use_id."""
    timeline = play(Tool("Bash", input="ls", output="README.md", seconds=3, parent_tool_use_id="toolu_1"))
    first, last = (message.fields for message in timeline.messages)
    assert (first["tool_status"], last["tool_status"]) == ("running", "completed")
    assert first["tool_use_id"] == last["tool_use_id"]
    assert first["parent_tool_use_id"] == "toolu_1"
    assert timeline.ended == BEGIN + 3
    assert json.loads(timeline.messages[1].versions[0].content)["tool_output"] == "README.md"


@pytest.mark.parametrize(("seconds", "heartbeat", "beats"), [(10, True, 0), (35, True, 3), (35, False, 0)])
def test_long_tool_beats(seconds: float, heartbeat: bool, beats: int) -> None:  # noqa: FBT001
    """A tool of more than ten seconds beats every ten while it runs, if it does at all."""
    kinds = [one["progress_type"] for one in envelopes(Tool("Bash", seconds=seconds, heartbeat=heartbeat))]
    assert kinds == ["tool_use", *["tool_heartbeat"] * beats, "tool_use"]


def test_raw_progress_is_left_alone() -> None:
    """A Progress step shows exactly its envelope, or its text where that is no JSON."""
    first, last = play(Progress({"progress_type": "new", "x": 1}), Progress("plain")).messages
    assert json.loads(first.versions[0].content) == {"progress_type": "new", "x": 1}
    assert (last.versions[0].content, dict(last.fields)) == ("plain", {})


def test_reply_carries_usage_and_files() -> None:
    """Usage and attachment ids of a Say are fields of its message."""
    (message,) = play(Say("x", usage={"cost_usd": 0.5, "model": "m"}, attachment_ids=["att_1"])).messages
    assert dict(message.fields) == {"cost_usd": 0.5, "model": "m", "attachment_ids": ["att_1"]}


def test_turn_may_never_end() -> None:
    """Done after an infinite time never comes, nor does what follows it."""
    timeline = play("reply", Done(after=math.inf), Notice("never"), Tool("Bash", seconds=20))
    assert timeline.ended == math.inf
    assert len(timeline.messages) == 1


def test_script_may_be_a_callable() -> None:
    """A callable gets the prompt and the number of the turn, and may return a plain text."""
    assert steps_of(lambda prompt, number: f"{prompt} {number}", "hi", 2) == (Say("hi 2"), Done())
    assert steps_of(["a", "b"], "", 1) == (Say("a"), Say("b"), Done())


def test_default_script_quotes_the_prompt() -> None:
    """The default agent reports progress and then replies with the prompt."""
    steps = steps_of(default_script, "Refund it", 1)
    assert any(isinstance(step, Tool) for step in steps)
    assert any(isinstance(step, Say) and "Refund it" in step.text for step in steps)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Say("x", after=-1),
        lambda: Say("x", after=math.nan),
        lambda: Say("x", usage={"tokens": 1}),
        lambda: Say("x", unfinished_for=math.inf),
        lambda: Say("x", finishes=False),
        lambda: steps_of((Done(), Fail("x")), "", 1),
    ],
)
def test_impossible_steps_are_refused(make: Any) -> None:
    """A step or script that can mean nothing is a ValueError where it is made."""
    with pytest.raises(ValueError, match=r"."):
        make()


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ([Complete(), Complete()], "at most once"),
        ([Error(), Speak("x")], "nothing comes after"),
        ([Hang(), Complete()], "nothing comes after"),
        ([Complete(), Speak("x")], "after Complete"),
    ],
)
def test_impossible_turns_of_amigo_are_refused(script: Any, error: str) -> None:
    """A script that no turn of Amigo can play is a ValueError where it is given."""
    with pytest.raises(ValueError, match=error):
        AmigoSimulator(script)
    with pytest.raises(ValueError, match=error):
        AmigoSimulator().service(script)


@pytest.mark.parametrize("give", [lambda script: steps_of(script, "", 1), AmigoSimulator])
def test_other_objects_in_a_script_are_refused(give: Any) -> None:
    """What is not a step is a TypeError that shows it."""
    with pytest.raises(TypeError, match="17"):
        give([17])


@given(st.lists(st.floats(0, 2**40), min_size=2, max_size=20, unique_by=lambda at: int(at * 1000)))
def test_ids_sort_by_time(times: list[float]) -> None:
    """Ids are ULIDs: in order of creation when they differ by a millisecond."""
    ids = [IdMaker(1).make("job", at) for at in sorted(times)]
    assert ids == sorted(ids)
    assert all(len(one) == len("job_") + 26 for one in ids)


def test_timestamps_have_milliseconds() -> None:
    """Times are RFC 3339 in UTC with milliseconds and Z."""
    assert stamp(1_776_019_512.0004) == "2026-04-12T18:45:12.000Z"


def test_a_step_of_ones_own_is_refused() -> None:
    """A subclass of ScriptStep outside the library cannot be played; the error names it."""

    class Dance(ScriptStep):
        after = 0.0

    with pytest.raises(TypeError, match="Dance"):
        play(Dance())
