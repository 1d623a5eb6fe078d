"""Tool calls put together from their events, and the tree that subagents make of them: pure functions."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final

from attrs import evolve, frozen

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from nairi_async.models import Message, Progress

HEARTBEAT: Final = "tool_heartbeat"
"""The progress type of a tool that says that it goes on."""
TOOL_EVENTS: Final = frozenset({"tool_use", HEARTBEAT})
"""The progress types that are about one tool call."""

# Any other word is the end of a call: the set is open, and what was seen of other agents was `success`.
_RUNNING: Final = frozenset({"running", "started", "pending", "queued", "in_progress"})
# Levels of the tree: subagents of subagents are few, and trees are walked by recursion.
_DEEPEST: Final = 100


@frozen(kw_only=True)
class ToolCall:
    """One use of a tool, put together from its events."""

    key: str
    """The `tool_use_id`; of a tool without one, the id of its first message."""
    name: str
    """Name of the tool; empty while only others have spoken of it."""
    input: str | None = None
    """Short form of what it was given."""
    description: str | None = None
    """What the agent says that the call is for."""
    output: str | None = None
    """Its result, once there is one."""
    status: str | None = None
    """`running`, `completed`, `error`, or a word of another kind of agent; the last that was told."""
    started_at: datetime | None = None
    """When it began, by the service's clock; `None` if only its result came through."""
    ended_at: datetime | None = None
    """When its result was made."""
    heard_at: datetime | None = None
    """When it was last heard to be running still."""
    heartbeat: str | None = None
    """What it said then."""
    parent: str | None = None
    """The key of the call that began the subagent which made this one."""

    @property
    def is_finished(self) -> bool:
        """Whether its result is known."""
        return self.status is not None and self.status not in _RUNNING

    def seconds(self, now: datetime | None = None) -> float | None:
        """How long it ran, or has been running until `now`; `None` if nobody knows."""
        until = self.ended_at or now or self.heard_at
        return None if until is None or self.started_at is None else max(0.0, (until - self.started_at).total_seconds())


@frozen
class ActivityNode:
    """A tool call, and what the subagent that it began has done."""

    call: ToolCall
    """The call."""
    children: tuple[ActivityNode, ...] = ()
    """The calls that the subagent made."""
    texts: tuple[str, ...] = ()
    """What the subagent said."""


def folded(events: Iterable[tuple[Message, Progress]]) -> tuple[ToolCall, ...]:
    """The tool calls that events tell of, in the order in which they began; events are in the order of time."""
    calls: dict[str, ToolCall] = {}
    for message, progress in events:
        if progress.progress_type in TOOL_EVENTS:
            key = progress.tool_use_id or _pair(calls, progress) or message.id
            calls[key] = _merged(calls.get(key) or ToolCall(key=key, name=""), message, progress)
    return tuple(calls.values())


def tree(calls: Sequence[ToolCall], told: Mapping[str | None, Sequence[str]]) -> tuple[ActivityNode, ...]:
    """Calls below the call that began their subagent; `told` is what subagents said, by that call's key."""
    keys = {call.key for call in calls}
    below: dict[str | None, list[ToolCall]] = {}
    for call in calls:
        below.setdefault(call.parent if call.parent in keys else None, []).append(call)
    built: set[str] = set()

    def node(call: ToolCall, levels: int = _DEEPEST) -> ActivityNode:
        built.add(call.key)
        inner = below.get(call.key, []) if levels else []
        children = tuple(node(child, levels - 1) for child in inner if child.key not in built)
        return ActivityNode(call, children, tuple(told.get(call.key, ())))

    roots = [node(call) for call in below.get(None, [])]
    # Calls that name each other as parents, or lie too deep, stand at the top, where they can be seen.
    lost = (node(call) for call in calls if call.key not in built)
    return (*roots, *lost)


def _pair(calls: Mapping[str, ToolCall], progress: Progress) -> str | None:
    """The open call that an event without an id goes on with: the oldest of that name, and of that input if told."""
    if _is_begin(progress):
        return None
    for call in calls.values():
        is_alike = call.name == progress.tool_name and progress.tool_input in {None, call.input}
        if is_alike and not call.is_finished:
            return call.key
    return None


def _is_begin(progress: Progress) -> bool:
    if progress.progress_type == HEARTBEAT:
        return False
    return progress.tool_status in _RUNNING or (progress.tool_status is None and progress.tool_output is None)


def _merged(call: ToolCall, message: Message, progress: Progress) -> ToolCall:
    """The call with what one more event tells; a result that is known stays known."""
    at = message.created_at
    call = evolve(
        call,
        name=progress.tool_name or call.name,
        input=progress.tool_input if progress.tool_input is not None else call.input,
        description=progress.tool_description or call.description,
        parent=progress.parent_tool_use_id or call.parent,
    )
    if progress.progress_type == HEARTBEAT:
        return evolve(
            call,
            status=call.status or "running",
            started_at=call.started_at or at,
            heard_at=message.updated_at or at,
            heartbeat=progress.summary or call.heartbeat,
        )
    if _is_begin(progress):
        status = call.status if call.is_finished else progress.tool_status or "running"
        return evolve(call, status=status, started_at=call.started_at or at)
    return evolve(
        call,
        status=progress.tool_status or "completed",
        output=progress.tool_output if progress.tool_output is not None else call.output,
        ended_at=message.updated_at or at,
    )
