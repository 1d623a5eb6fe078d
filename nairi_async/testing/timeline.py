"""The messages that a script makes, each with all its past and future versions."""

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

# Unfinished versions of a message before its last one.
_PARTS = 4

_COPIED_FIELDS = ("progress_type", "tool_name", "tool_status", "tool_use_id", "parent_tool_use_id")


@frozen
class MessageVersion:
    """One version of a message, current from `at` (seconds since the epoch) until the next one."""

    at: float
    status: str
    content: str


@frozen
class ScriptedMessage:
    """A message with all its versions, oldest first, and the fields that they share."""

    id: str
    job_id: str
    role: str
    versions: tuple[MessageVersion, ...]
    fields: Mapping[str, object] = field(factory=dict)

    @property
    def created(self) -> float:
        """When the message appears."""
        return self.versions[0].at

    def version(self, now: float) -> MessageVersion | None:
        """Return the version that is current at `now`; `None` before the message appears."""
        return next((version for version in reversed(self.versions) if version.at <= now), None)

    def ending_later(self, seconds: float) -> ScriptedMessage:
        """Return the same message with the end of its turn delayed."""
        versions = (evolve(one, at=one.at + seconds) if one.status in TERMINAL else one for one in self.versions)
        return evolve(self, versions=tuple(versions))


@frozen
class TurnTimeline:
    """The messages of one turn, and when and how it ends; `math.inf` is never."""

    messages: tuple[ScriptedMessage, ...]
    ended: float
    status: str


@define
class _ScriptPlayer:
    """Plays the steps of one turn; `at` is the time of the step that it plays."""

    job_id: str
    message_id: str
    at: float
    make_id: MakeId
    messages: list[ScriptedMessage] = field(factory=list)
    ended: float = math.inf
    status: str = "completed"

    def play(self, step: ScriptStep) -> None:
        self.at += step.after
        match step:
            case Say():
                self._say(step)
            case Notice():
                self._add("system", [MessageVersion(self.at, "completed", step.text)])
            case Tool():
                self._tool(step)
            case Progress():
                self._progress(step.envelope)
            case Text() | Thinking() | Step() | Subagent():
                self._progress(self._of_turn(step.envelope))
            case Done():
                self.ended = self.at
            case Fail():
                self.ended, self.status = self.at, "failed"
                self._add("system", [MessageVersion(self.at, "completed", error_notice(step.text))])
            case _:
                raise TypeError(f"{type(step).__name__} cannot be played: use the steps of nairi_async.testing")

    def _add(self, role: str, versions: list[MessageVersion], fields: Mapping[str, object] | None = None) -> None:
        """Add a message, unless all its versions lie at infinity."""
        versions = [version for version in versions if version.at < math.inf]
        if versions:
            made_id = self.make_id("cmsg", versions[0].at)
            self.messages.append(ScriptedMessage(made_id, self.job_id, role, tuple(versions), fields or {}))

    def _say(self, step: Say) -> None:
        fields = dict(step.usage or {})
        if step.attachment_ids:
            fields["attachment_ids"] = list(step.attachment_ids)
        versions = list(_unfinished(step, self.at)) if step.unfinished_for else []
        self.at += step.unfinished_for
        if step.finishes:
            versions.append(MessageVersion(self.at, "completed", step.text))
        self._add("assistant", versions, fields)

    def _of_turn(self, envelope: Mapping[str, object]) -> dict[str, object]:
        return {"job_id": self.job_id, "processed_message_id": self.message_id, **envelope}

    def _progress(self, envelope: Mapping[str, object] | str) -> None:
        if isinstance(envelope, str):
            self._add("progress", [MessageVersion(self.at, "completed", envelope)])
            return
        copies = {name: envelope[name] for name in _COPIED_FIELDS if isinstance(envelope.get(name), str)}
        self._add("progress", [MessageVersion(self.at, "completed", json.dumps(envelope, ensure_ascii=False))], copies)

    def _tool(self, step: Tool) -> None:
        use_id = step.tool_use_id or self.make_id("toolu", self.at)
        common: dict[str, object] = {"tool_name": step.name, "tool_input": step.input, "tool_use_id": use_id}
        if step.parent_tool_use_id is not None:
            common["parent_tool_use_id"] = step.parent_tool_use_id
        described = {} if step.description is None else {"tool_description": step.description}
        begin, end = self.at, self.at + step.seconds
        self._progress(self._of_turn({"progress_type": "tool_use", **common, **described, "tool_status": "running"}))
        if step.heartbeat:
            for elapsed in takewhile(lambda elapsed: elapsed < step.seconds, HEARTBEATS):
                self.at = begin + elapsed
                summary = f"{step.name} is still running ({elapsed} s)"
                self._progress(self._of_turn({"progress_type": "tool_heartbeat", "summary": summary, **common}))
        self.at = end
        result = {**described, "tool_output": step.output, "tool_status": step.status}
        self._progress(self._of_turn({"progress_type": "tool_use", **common, **result}))


def _unfinished(step: Say, begin: float) -> Iterator[MessageVersion]:
    """Yield the pending versions of a message, each with a longer beginning of its text."""
    for part in range(_PARTS):
        shown = len(step.text) * (part + 1) // (_PARTS + 1)
        yield MessageVersion(begin + step.unfinished_for * part / _PARTS, "pending", step.text[:shown])


def error_notice(text: str) -> str:
    """Return the text of the system message for a failure."""
    return f"nairid encountered error: {text}"


def play_script(
    steps: tuple[ScriptStep, ...], *, begin: float, job_id: str, message_id: str, make_id: MakeId
) -> TurnTimeline:
    """Play the steps of a turn that begins at `begin`, and return its messages."""
    player = _ScriptPlayer(job_id, message_id, begin, make_id)
    for step in steps:
        player.play(step)
    return TurnTimeline(tuple(player.messages), player.ended, player.status)
