"""Tool calls assembled from progress messages, and the tree of subagents' calls: pure functions."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final

from attrs import evolve

from nairi_async._core.records import frozen

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from nairi_async.models import Message, Progress

HEARTBEAT: Final = "tool_heartbeat"
"""The progress type of a tool that reports that it is still running."""
TOOL_EVENTS: Final = frozenset({"tool_use", HEARTBEAT})
"""The progress types that are about one tool call."""

# Any other status is the end of a call. The set is open; some agents send `success`.
_RUNNING: Final = frozenset({"running", "started", "pending", "queued", "in_progress"})
# Maximum depth of the tree, which is walked by recursion.
_DEEPEST: Final = 100


@frozen(kw_only=True)
class ToolCall:
    """One call of a tool, assembled from its progress messages."""

    key: str
    """The `tool_use_id`; if there is none, the id of the first message of the call."""
    name: str
    """Name of the tool; empty while no message named it."""
    input: str | None = None
    """Short form of the input."""
    description: str | None = None
    """The agent's description of the call."""
    output: str | None = None
    """The result, once there is one."""
    status: str | None = None
    """The last known status: `running`, `completed`, `error`, or another word."""
    started_at: datetime | None = None
    """When it started, by the service's clock; `None` if only its result arrived."""
    ended_at: datetime | None = None
    """When its result was created."""
    heard_at: datetime | None = None
    """Time of the last heartbeat."""
    heartbeat: str | None = None
    """Text of the last heartbeat."""
    parent: str | None = None
    """Key of the call that started the subagent which made this call."""

    @property
    def is_finished(self) -> bool:
        """Whether its result is known."""
        return self.status is not None and self.status not in _RUNNING

    def seconds(self, now: datetime | None = None) -> float | None:
        """Return how long the call ran, or has been running until `now`; `None` if that is not known."""
        until = self.ended_at or now or self.heard_at
        return None if until is None or self.started_at is None else max(0.0, (until - self.started_at).total_seconds())


@frozen
class ActivityNode:
    """A tool call, and what its subagent did if it started one."""

    call: ToolCall
    """The call."""
    children: tuple[ActivityNode, ...] = ()
    """The calls that the subagent made."""
    texts: tuple[str, ...] = ()
    """The texts of the subagent."""


def tool_calls(events: Iterable[tuple[Message, Progress]]) -> tuple[ToolCall, ...]:
    """Return the tool calls of progress messages, which are ordered by time, in the order in which they started."""
    calls: dict[str, ToolCall] = {}
    for message, progress in events:
        if progress.progress_type in TOOL_EVENTS:
            key = progress.tool_use_id or _pair(calls, progress) or message.id
            calls[key] = _merged(calls.get(key) or ToolCall(key=key, name=""), message, progress)
    return tuple(calls.values())


def tree(calls: Sequence[ToolCall], texts: Mapping[str | None, Sequence[str]]) -> tuple[ActivityNode, ...]:
    """Return the calls as a tree, each below the call that started its subagent.

    Args:
        calls: The calls, in the order in which they started.
        texts: The texts of subagents, by the key of the call that started them.
    """
    keys = {call.key for call in calls}
    below: dict[str | None, list[ToolCall]] = {}
    for call in calls:
        below.setdefault(call.parent if call.parent in keys else None, []).append(call)
    built: set[str] = set()

    def node(call: ToolCall, levels: int = _DEEPEST) -> ActivityNode:
        built.add(call.key)
        inner = below.get(call.key, []) if levels else []
        children = tuple(node(child, levels - 1) for child in inner if child.key not in built)
        return ActivityNode(call, children, tuple(texts.get(call.key, ())))

    roots = [node(call) for call in below.get(None, [])]
    # Calls that name each other as parents, or are too deep, stand at the top.
    lost = (node(call) for call in calls if call.key not in built)
    return (*roots, *lost)


def _pair(calls: Mapping[str, ToolCall], progress: Progress) -> str | None:
    """Return the key of the call of a message without an id: the oldest running one with equal name and input."""
    if _is_start(progress):
        return None
    for call in calls.values():
        is_alike = call.name == progress.tool_name and progress.tool_input in {None, call.input}
        if is_alike and not call.is_finished:
            return call.key
    return None


def _is_start(progress: Progress) -> bool:
    if progress.progress_type == HEARTBEAT:
        return False
    return progress.tool_status in _RUNNING or (progress.tool_status is None and progress.tool_output is None)


def _merged(call: ToolCall, message: Message, progress: Progress) -> ToolCall:
    """Return the call with one more message; a known result is not overwritten by a later start."""
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
    if _is_start(progress):
        status = call.status if call.is_finished else progress.tool_status or "running"
        return evolve(call, status=status, started_at=call.started_at or at)
    return evolve(
        call,
        status=progress.tool_status or "completed",
        output=progress.tool_output if progress.tool_output is not None else call.output,
        ended_at=message.updated_at or at,
    )
