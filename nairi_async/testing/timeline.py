"""From a script to what is visible when: each message knows all its versions, past and to come."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import takewhile
from typing import TypeAlias

from attrs import define, evolve, field, frozen

from nairi_async.testing.script import (
    HEARTBEATS,
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
)

MakeId: TypeAlias = Callable[[str, float], str]

TERMINAL = frozenset({"completed", "failed"})

# Versions of an unfinished message that a reader can meet before the last one.
_PARTS = 4

_COPIED_FIELDS = ("progress_type", "tool_name", "tool_status", "tool_use_id", "parent_tool_use_id")


@frozen
class Phase:
    """One version of a message: from when (seconds since the epoch) on it is the current one."""

    at: float
    status: str
    content: str


@frozen
class Entry:
    """A message with all its versions in order of time, and the fields that are the same in all."""

    id: str
    job_id: str
    role: str
    phases: tuple[Phase, ...]
    fields: Mapping[str, object] = field(factory=dict)

    @property
    def created(self) -> float:
        """When the message appears."""
        return self.phases[0].at

    def phase(self, now: float) -> Phase | None:
        """Return the version that is current at `now`, or `None` if the message is not there yet."""
        return next((phase for phase in reversed(self.phases) if phase.at <= now), None)

    def ending_later(self, seconds: float) -> Entry:
        """Return the same message with the end of its turn delayed."""
        phases = (evolve(one, at=one.at + seconds) if one.status in TERMINAL else one for one in self.phases)
        return evolve(self, phases=tuple(phases))


@frozen
class Performance:
    """What a turn leaves in the timeline, and when and how it ends (never: `math.inf`)."""

    entries: tuple[Entry, ...]
    ended: float
    status: str


@define
class _Stage:
    """Plays the steps of one turn; `at` is the moment the play has come to."""

    job_id: str
    message_id: str
    at: float
    make_id: MakeId
    entries: list[Entry] = field(factory=list)
    ended: float = math.inf
    status: str = "completed"

    def play(self, step: ScriptStep) -> None:
        self.at += step.after
        match step:
            case Say():
                self._say(step)
            case Notice():
                self._show("system", [Phase(self.at, "completed", step.text)])
            case Tool():
                self._tool(step)
            case Progress():
                self._progress(step.envelope)
            case Text() | Thinking() | Step() | Subagent():
                self._progress(self._addressed(step.envelope))
            case Done():
                self.ended = self.at
            case Fail():
                self.ended, self.status = self.at, "failed"
                self._show("system", [Phase(self.at, "completed", error_notice(step.text))])
            case _:
                raise TypeError(f"{type(step).__name__} is no step that can be played")

    def _show(self, role: str, phases: list[Phase], fields: Mapping[str, object] | None = None) -> None:
        """Put a message into the timeline, unless its time never comes."""
        phases = [phase for phase in phases if phase.at < math.inf]
        if phases:
            entry_id = self.make_id("cmsg", phases[0].at)
            self.entries.append(Entry(entry_id, self.job_id, role, tuple(phases), fields or {}))

    def _say(self, step: Say) -> None:
        fields = dict(step.usage or {})
        if step.attachment_ids:
            fields["attachment_ids"] = list(step.attachment_ids)
        phases = list(_unfinished(step, self.at)) if step.unfinished_for else []
        self.at += step.unfinished_for
        if step.finishes:
            phases.append(Phase(self.at, "completed", step.text))
        self._show("assistant", phases, fields)

    def _addressed(self, envelope: Mapping[str, object]) -> dict[str, object]:
        return {"job_id": self.job_id, "processed_message_id": self.message_id, **envelope}

    def _progress(self, envelope: Mapping[str, object] | str) -> None:
        if isinstance(envelope, str):
            self._show("progress", [Phase(self.at, "completed", envelope)])
            return
        copies = {name: envelope[name] for name in _COPIED_FIELDS if isinstance(envelope.get(name), str)}
        self._show("progress", [Phase(self.at, "completed", json.dumps(envelope, ensure_ascii=False))], copies)

    def _tool(self, step: Tool) -> None:
        use_id = step.tool_use_id or self.make_id("toolu", self.at)
        common: dict[str, object] = {"tool_name": step.name, "tool_input": step.input, "tool_use_id": use_id}
        if step.parent_tool_use_id is not None:
            common["parent_tool_use_id"] = step.parent_tool_use_id
        begin, end = self.at, self.at + step.seconds
        self._progress(self._addressed({"progress_type": "tool_use", **common, "tool_status": "running"}))
        if step.heartbeat:
            for passed in takewhile(lambda passed: passed < step.seconds, HEARTBEATS):
                self.at = begin + passed
                summary = f"{step.name} is still running ({passed} s)"
                self._progress(self._addressed({"progress_type": "tool_heartbeat", "summary": summary, **common}))
        self.at = end
        result = {"tool_output": step.output, "tool_status": step.status}
        self._progress(self._addressed({"progress_type": "tool_use", **common, **result}))


def _unfinished(step: Say, begin: float) -> Iterator[Phase]:
    """Yield the pending versions of a message, each with a longer beginning of its text."""
    for part in range(_PARTS):
        shown = len(step.text) * (part + 1) // (_PARTS + 1)
        yield Phase(begin + step.unfinished_for * part / _PARTS, "pending", step.text[:shown])


def error_notice(text: str) -> str:
    """Return the text of the system message that goes with a failure."""
    return f"nairid encountered error: {text}"


def perform(
    steps: tuple[ScriptStep, ...], *, begin: float, job_id: str, message_id: str, make_id: MakeId
) -> Performance:
    """Play the steps of a turn that begins at `begin`, and return what becomes visible when."""
    stage = _Stage(job_id, message_id, begin, make_id)
    for step in steps:
        stage.play(step)
    return Performance(tuple(stage.entries), stage.ended, stage.status)
