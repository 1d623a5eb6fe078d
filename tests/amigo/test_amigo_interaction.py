from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from amigo_sessions import COMPLETE, ERROR, PIECE, TAKEN, lines
from hypothesis import given
from hypothesis import strategies as st

from nairi_async.amigo import UnknownEvent, actions, events
from nairi_async.amigo.interaction import Interaction, InteractionEnd, LineSplitter
from nairi_async.amigo.wire import decode_event
from nairi_async.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Iterable

CREATED = {"type": "conversation-created", "conversation_id": "67d871c23eb91293ecfae8b0"}
TEXTS = st.text()


def split(body: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Cut a body at these places."""
    places = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    return [body[begin:end] for begin, end in pairwise(places)]


def played(pieces: Iterable[bytes]) -> tuple[list[events.Event], Interaction]:
    """Feed a body piece by piece."""
    reader, interaction, seen = LineSplitter(), Interaction(), []
    for line in [*(line for piece in pieces for line in reader.feed(piece)), *reader.end()]:
        event = decode_event(line)
        interaction.observe([event])
        seen.append(event)
    return seen, interaction


@given(
    st.lists(TEXTS, max_size=6),
    st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\n \r\n"]),
    st.booleans(),
    st.lists(st.integers(min_value=0), max_size=20),
)
def test_lines_are_the_same_however_they_come(said: list[str], end: bytes, last: Any, cuts: list[int]) -> None:
    """Any texts come out once each, however lines end and wherever the body is cut."""
    body = end.join(json.dumps({"type": "x", "said": text}, ensure_ascii=False).encode() for text in said)
    seen, _ = played(split(body + (end if last else b""), cuts))
    assert [event.raw["said"] for event in seen] == said


def test_a_body_that_comes_byte_by_byte() -> None:
    """A boundary at every byte changes nothing."""
    body = lines(CREATED, PIECE, COMPLETE)
    assert played([body[i : i + 1] for i in range(len(body))])[0] == played([body])[0]


@pytest.mark.parametrize("line_end", ["\u2028", "\u2029", "\u0085", "\x0b", "\r", "\x1c"])
def test_only_the_newline_byte_ends_a_line(line_end: str) -> None:
    """What Unicode calls a line end stays a part of the message."""
    said = json.dumps({"type": "new-message", "message": f"a{line_end}b"}, ensure_ascii=False)
    seen, _ = played([said.encode() + b"\n"])
    assert [event.message for event in seen if isinstance(event, events.NewMessage)] == [f"a{line_end}b"]


@pytest.mark.parametrize("pieces", [[b"x" * 11], [b"x" * 6] * 2, [b"x" * 11 + b"\n"], [b"\n" + b"x" * 11]])
def test_a_line_is_bounded(pieces: list[bytes]) -> None:
    """A line beyond the limit is refused as soon as it is, ended or not."""
    reader = LineSplitter(limit=10)
    with pytest.raises(DecodeError, match="longer than 10"):
        [reader.feed(piece) for piece in pieces]


def test_a_line_as_long_as_the_limit_is_read() -> None:
    """The limit itself is allowed, line after line."""
    assert LineSplitter(limit=10).feed((b"x" * 10 + b"\n") * 3) == [b"x" * 10] * 3


@pytest.mark.parametrize(
    ("said", "end"),
    [
        ([CREATED, PIECE, COMPLETE], InteractionEnd.COMPLETE),
        ([COMPLETE], InteractionEnd.COMPLETE),
        ([TAKEN, PIECE, COMPLETE, ERROR], InteractionEnd.SAVED),
        ([TAKEN, PIECE, ERROR], InteractionEnd.VOID),
        ([ERROR], InteractionEnd.VOID),
        ([TAKEN, PIECE], InteractionEnd.UNKNOWN),
        ([{"type": "interaction-finished"}], InteractionEnd.UNKNOWN),
        ([b"<html>"], InteractionEnd.UNKNOWN),
        ([], InteractionEnd.UNKNOWN),
    ],
)
def test_the_four_outcomes(said: list[Any], end: InteractionEnd) -> None:
    """The events alone say how an interaction ended."""
    assert played([lines(*said)])[1].end is end


def test_the_documented_example_is_read() -> None:
    """The example of the documentation, which does not fit the schema, gives its text."""
    pieces = ["Hi", " there! How can I help you today?"]
    said = [
        {"type": "new-message", "message": piece, "message_metadata": [], "stop": False, "sequence_number": number}
        for number, piece in enumerate(pieces, 1)
    ]
    seen, interaction = played([lines(CREATED, *said, {"type": "interaction-complete"})])
    assert len(seen) == 4
    reply = interaction.reply()
    assert (reply.text, reply.conversation_id) == ("".join(pieces), CREATED["conversation_id"])
    assert (reply.interaction_id, reply.message_id, reply.conversation_completed) == (None, None, False)


def test_the_reply_says_all_that_the_events_said() -> None:
    """Ids, the user's words, the end of the conversation and the failed post-processing are in the reply."""
    reply = played([lines(TAKEN, PIECE, {**COMPLETE, "conversation_completed": True}, ERROR)])[1].reply()
    assert (reply.text, reply.user_message, reply.user_message_id) == ("Let me check.", "Hi", TAKEN["message_id"])
    assert (reply.message_id, reply.interaction_id) == (COMPLETE["message_id"], COMPLETE["interaction_id"])
    assert reply.conversation_completed
    assert reply.warning is not None
    assert (reply.warning.http_error_code, reply.warning.error_description) == (503, "no model today")


@pytest.mark.parametrize("whole", [None, ""])
def test_a_whole_message_that_is_missing_is_joined_from_its_pieces(whole: str | None) -> None:
    """The service may leave `full_message` out, or empty; the pieces are the text then."""
    reply = played([lines(TAKEN, PIECE, {**COMPLETE, "full_message": whole})])[1].reply()
    assert reply.text == PIECE["message"]


def test_a_stream_that_is_only_iterated_over_keeps_little_of_each_piece() -> None:
    """Of a piece its text is kept for the reply, and not the event."""
    interaction, events_of = Interaction(), 2000
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(events_of):
        interaction.observe([decode_event(json.dumps({**PIECE, "sequence_number": number}).encode())])
    kept = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert kept / events_of < 150


def test_a_voice_reply_is_heard_and_read() -> None:
    """The pieces of a voice reply are decoded one by one; the text is the transcript."""
    spoken = [{**PIECE, "message": piece} for piece in ("AAE=", "A", "AgM=")]
    reply = played([lines(*spoken, COMPLETE)])[1].reply(is_voice=True)
    assert (reply.audio, reply.text) == (b"\x00\x01\x02\x03", "Let me check.")


PAIR = ["67d871c23eb91293ecfae8b0", 3]
ACTIONS: dict[str, dict[str, Any]] = {
    "select-dynamic-behavior-vector-generated": {},
    "select-dynamic-behavior-relevance-retrieval-completed": {},
    "select-dynamic-behavior-completed": {
        "selected_dynamic_behavior_set_version_info": PAIR,
        "previous_selected_dynamic_behavior_set_version_info": None,
    },
    "check-if-active-memory-needed-completed": {"queries": ["a"]},
    "extract-active-memories-completed": {"queries_and_responses": [["a", "b"]]},
    "navigate-state-machine-dynamic-behavior-override": {
        "overriding_instructions": True,
        "overriding_tool_candidates": False,
    },
    "navigate-state-machine-action-state-action-selected": {"action": "greet"},
    "navigate-state-machine-decision-state-decision-started": {},
    "navigate-state-machine-exit-condition-selected": {
        "exit_condition": "done",
        "next_state_name": "end",
        "next_state_state_machine_version_info": PAIR,
    },
    "navigate-state-machine-recall-state-dynamic-queries-generated": {
        "dynamic_queries": ["a"],
        "requested_information": "b",
    },
    "navigate-state-machine-recall-state-static-queries-retrieved": {"static_queries": ["a"]},
    "navigate-state-machine-recall-state-active-memory-retrieved": {"queries_and_responses": [["a", "b"]]},
    "navigate-state-machine-reflection-state-prompt-retrieved": {"prompt": "a"},
    "navigate-state-machine-reflection-state-reflection-generated": {"reflection": "a"},
    "navigate-state-machine-annotation-state-annotation-retrieved": {"annotation": "a"},
    "navigate-state-machine-state-transitioned": {
        "prev_state": "a",
        "prev_state_state_machine_version_info": PAIR,
        "next_state": "b",
        "next_state_state_machine_version_info": PAIR,
    },
    "navigate-state-machine-tool-call-state-tool-output-available": {
        "tool_id": "a",
        "tool_version": "1",
        "tool_output": "b",
        "duration": 1.5,
        "input_arguments": {"c": 1},
    },
    "designated-tool-retrieved": {"tool_id": "a", "tool_version": "1"},
    "designated-tool-call-params-generated": {"tool_id": "a", "tool_version": "1", "tool_call_params": {"b": 1}},
    "tool-call-started": {"tool_round_index": 0, "tool_id": "a", "tool_version": "1", "input_params": {"b": 1}},
    "tool-call-ended": {
        "tool_round_index": 0,
        "tool_id": "a",
        "tool_version": "1",
        "input_parameters": {"b": 1},
        "result": "c",
        "duration": 2,
    },
    "action-too-long": {"filler": "hm", "previously_started_event": {"type": "x"}},
    "engage-user-dynamic-behavior-override": {"overriding_instructions": True, "overriding_tool_candidates": False},
    "engage-user-message-fragment-generated": {"index": 0, "fragment": "a", "is_final": True},
}


def lists(value: object) -> object:
    """Tuples as JSON has them."""
    return [lists(entry) for entry in value] if isinstance(value, tuple) else value


@pytest.mark.parametrize(("word", "said"), ACTIONS.items(), ids=ACTIONS)
def test_every_documented_action_is_typed(word: str, said: dict[str, Any]) -> None:
    """Each of the 24 actions has a class with its documented fields, and keeps what came."""
    raw = {"type": word, **said, "new_field": 1}
    event = decode_event(lines({"type": "current-agent-action", "action": raw}))
    assert isinstance(event, events.CurrentAgentAction)
    assert type(event.action) is actions.BY_TYPE[word]
    assert {name: lists(getattr(event.action, name)) for name in said} == said
    assert event.action.raw == raw


def test_there_are_24_actions() -> None:
    """No documented action is missing, and none is invented."""
    assert set(actions.BY_TYPE) == set(ACTIONS)
    assert len(ACTIONS) == 24
    assert {kind.__name__ for kind in actions.BY_TYPE.values()} <= set(actions.__all__)


def test_the_classes_of_actions_do_not_depend_on_the_garbage_collector() -> None:
    """Attrs makes each slotted class twice; the table holds the one that is exported, with collection off as well."""
    code = "import gc; gc.disable(); from nairi_async.amigo import actions; print(len(actions.BY_TYPE), "
    code += "all(getattr(actions, kind.__name__) is kind for kind in actions.BY_TYPE.values()))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - ours
    assert run.stdout == "24 True\n"


@pytest.mark.parametrize("word", ["dynamic-behavior-triggered", "x", "", None, 7])
def test_other_actions_are_kept(word: object) -> None:
    """An action of another type is handed over as it came."""
    raw = {"type": word, "a": [1]}
    event = decode_event(lines({"type": "current-agent-action", "action": raw}))
    assert isinstance(event, events.CurrentAgentAction)
    assert type(event.action) is actions.UnknownAction
    assert event.action.raw == raw


@pytest.mark.parametrize(("word", "said"), ACTIONS.items(), ids=ACTIONS)
def test_partial_actions_are_typed(word: str, said: dict[str, Any]) -> None:
    """An action whose fields are of other forms is of its class, and its fields are nothing."""
    raw = {"type": word, **{name: [[1]] for name in said}}
    event = decode_event(lines({"type": "current-agent-action", "action": raw}))
    assert isinstance(event, events.CurrentAgentAction)
    assert type(event.action) is actions.BY_TYPE[word]
    assert event.action.raw == raw


@given(st.binary(max_size=200) | st.from_regex(rb'\{"type":"(new-message|error)",.{0,40}\}', fullmatch=True))
def test_no_line_can_stop_a_stream(line: bytes) -> None:
    """Any line is an event; one that is not JSON shows its beginning."""
    event = decode_event(line)
    assert event.raw or isinstance(event, UnknownEvent)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["message", "message_id", "stop", "sequence_number", "transcript_alignment", "action", "http_error_code",
          "error_description", "full_message", "conversation_completed", "conversation_id"]  # fmt: skip


@given(
    st.sampled_from([*events.BY_TYPE, "end-session"]),
    st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=5),
)
def test_fields_of_any_form_cost_nothing_else(word: str, said: dict[str, Any]) -> None:
    """An event with fields of any form keeps its type, and what came."""
    raw = {**said, "type": word}
    event = decode_event(lines(raw))
    assert type(event) is events.BY_TYPE.get(word, events.UnknownEvent)
    assert event.raw == raw
    Interaction().observe([event])


def test_a_number_beyond_measure_costs_nothing_else() -> None:
    """JSON has whole numbers that no floating-point number can hold."""
    raw = {"type": "tool-call-ended", "tool_id": "t", "duration": 10**400}
    event = decode_event(lines({"type": "current-agent-action", "action": raw}))
    assert isinstance(event, events.CurrentAgentAction)
    assert isinstance(event.action, actions.ToolCallEnded)
    assert (event.action.tool_id, event.action.duration) == ("t", None)


@pytest.mark.parametrize("alignment", [[[0, "H"], [50, "i"]], [["H", 0], ["i", 50]]])
def test_an_alignment_is_read_in_either_order(alignment: list[Any]) -> None:
    """The schema and its prose give the order of a pair differently; both come out as milliseconds and character."""
    event = decode_event(lines({**PIECE, "transcript_alignment": alignment}))
    assert isinstance(event, events.NewMessage)
    assert event.transcript_alignment == ((0, "H"), (50, "i"))
