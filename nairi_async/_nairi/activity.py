"""What the agent is doing now, folded from its messages: pure, without a clock (api: progress messages).

Progress is best effort: events may be lost, come twice, late, out of order, and grow under one id. So each event only
adds to what is known, and whatever the order in which the same messages come, the same picture is the result.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from nairi_async._nairi.tool_calls import TOOL_EVENTS, folded, tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nairi_async._nairi.tool_calls import ActivityNode, ToolCall
    from nairi_async.models import Message, Progress

_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
_ELLIPSIS: Final = "…"


class Activity:
    """A live view of a turn: feed it the messages of `watch(turn, progress=True)`, and look at it whenever you like.

    It needs no clock and does nothing by itself. Feeding a message twice changes nothing; feeding a newer form of one
    replaces the older. Late progress after the reply is taken in and disturbs nothing; after `end` no tool is current.
    A user message begins a new turn, and what was known of the one before is dropped.
    """

    def __init__(self) -> None:
        self._prompts: dict[str, Message] = {}
        self._prompt: str | None = None
        self._messages: dict[str, Message] = {}
        self._order: dict[str, int] = {}
        # What belongs to turns that are over: it may still come again, and late.
        self._past: set[str] = set()
        self._calls: tuple[ToolCall, ...] | None = None
        self._is_over = False

    @classmethod
    def of(cls, messages: Iterable[Message]) -> Activity:
        """The view after these messages."""
        activity = cls()
        for message in messages:
            activity.feed(message)
        return activity

    def feed(self, message: Message) -> bool:
        """Take a message in; returns whether the view may have changed."""
        if message.role == "user":
            return self._feed_prompt(message)
        if message.id in self._past or self._is_of_another_turn(message):
            return False
        known = self._messages.get(message.id)
        if known is not None and (known == message or _changed_at(known) > _changed_at(message)):
            return False
        self._messages[message.id] = message
        # Equal and missing times are told apart by the order in which messages were first seen.
        self._order.setdefault(message.id, len(self._order))
        self._calls = None
        return True

    def end(self) -> None:
        """The turn is over: nothing runs any more, whatever was not heard to end."""
        self._is_over = True

    @property
    def is_over(self) -> bool:
        """Whether the turn is known to have ended."""
        return self._is_over

    @property
    def status(self) -> str | None:
        """The status of the turn's user message, if it was fed: `queued`, `pending`, and so on."""
        prompt = self._prompts.get(self._prompt) if self._prompt is not None else None
        return None if prompt is None else prompt.status

    @property
    def tools(self) -> tuple[ToolCall, ...]:
        """Every tool call of the turn, in the order in which they began."""
        if self._calls is None:
            self._calls = folded(self._progress())
        return self._calls

    @property
    def finished(self) -> tuple[ToolCall, ...]:
        """The calls whose result is known."""
        return tuple(call for call in self.tools if call.is_finished)

    @property
    def running(self) -> tuple[ToolCall, ...]:
        """The calls that go on, as far as one knows; none after the end."""
        return () if self._is_over else tuple(call for call in self.tools if not call.is_finished)

    @property
    def current(self) -> ToolCall | None:
        """The call that began last of those that go on: of a subagent, what it is doing."""
        return self.running[-1] if self.running else None

    @property
    def since(self) -> datetime | None:
        """When the current call began, by the service's clock; without one, when the agent was last heard of."""
        if self.current is not None:
            return self.current.started_at
        times = (message.updated_at or message.created_at for message in self._messages.values())
        return max((time for time in times if time is not None), default=None)

    @property
    def reply(self) -> str:
        """What the agent has replied so far, blocks parted by a blank line."""
        return "\n\n".join(text for _, text in self._replies())

    @property
    def text(self) -> str:
        """All that the agent has said so far, subagents aside: progress text that a reply repeats is not repeated."""
        replies = list(self._replies())
        said = [_squeezed(text) for _, text in replies]
        blocks = [
            (self._place(message), progress.text_delta)
            for message, progress in self._progress()
            if progress.progress_type == "text" and progress.text_delta and progress.parent_tool_use_id is None
        ]
        unrepeated = [(place, text) for place, text in blocks if not any(_squeezed(text) in reply for reply in said)]
        return "\n\n".join(text.strip() for _, text in sorted([*unrepeated, *replies]) if text.strip())

    @property
    def thinking(self) -> str | None:
        """The last block of the agent's reasoning."""
        return self._last("thinking")

    @property
    def step(self) -> str | None:
        """The last line that told where the agent is."""
        return self._last("step")

    @property
    def tree(self) -> tuple[ActivityNode, ...]:
        """The calls as a tree: below each, what the subagent did that it began."""
        told: dict[str | None, list[str]] = {}
        for _, progress in self._progress():
            text = progress.text_delta or progress.summary
            if progress.progress_type in {"text", "subagent"} and text:
                told.setdefault(progress.parent_tool_use_id, []).append(text)
        return tree(self.tools, told)

    def describe(self, now: datetime | None = None, *, width: int = 100) -> str:
        """One line for people, of at most `width` characters; with `now`, how long the current tool has run."""
        line = " ".join(self._told(now).split())
        return line if len(line) <= width else line[: max(0, width - len(_ELLIPSIS))].rstrip() + _ELLIPSIS

    def __repr__(self) -> str:
        return f"<Activity: {self.describe()}>"

    def _told(self, now: datetime | None) -> str:
        done = len(self.finished)
        count = f" ({done} {'tool' if done == 1 else 'tools'} done)" if done else ""
        if self._is_over:
            return f"{self.status or 'ended'}{count}"
        current = self.current
        if current is not None:
            seconds = current.seconds(now)
            lasting = "" if seconds is None or seconds < 1 else f", {seconds:.0f} s"
            subject = current.description or current.input
            return f"{current.name or 'tool'}{f': {subject}' if subject else ''}{lasting}{count}"
        heard = max(self._progress(), key=lambda pair: self._place(pair[0]), default=None)
        if heard is not None and heard[1].progress_type not in TOOL_EVENTS:
            progress = heard[1]
            told = progress.summary or progress.text_delta
            kind = {"text": "writing", "": "working"}.get(progress.progress_type, progress.progress_type)
            return f"{kind}{f': {told}' if told else ''}{count}"
        if self.reply:
            return f"replied{count}"
        return f"{self.status if self.status == 'queued' else 'working'}{count}"

    def _clear(self) -> None:
        self._past.update(self._messages)
        self._messages.clear()
        self._order.clear()
        self._calls = None
        self._is_over = False

    def _feed_prompt(self, message: Message) -> bool:
        known = self._prompts.get(message.id)
        if known is not None and (known == message or known.is_terminal):
            return False
        self._prompts[message.id] = message
        newest = self._prompts.get(self._prompt) if self._prompt is not None else None
        if newest is None:
            self._prompt = message.id
        elif known is None and _made_at(message) >= _made_at(newest):
            self._clear()
            self._prompt = message.id
        self._is_over = self._is_over or (message.id == self._prompt and message.is_terminal)
        return True

    def _is_of_another_turn(self, message: Message) -> bool:
        """Late progress names the user message that it belongs to; of a turn that is past, it is not looked at."""
        named = message.progress.raw.get("processed_message_id") if message.progress is not None else None
        return named != self._prompt and named in self._prompts

    def _progress(self) -> Iterator[tuple[Message, Progress]]:
        for message in sorted(self._messages.values(), key=self._place):
            if message.progress is not None:
                yield message, message.progress

    def _replies(self) -> Iterator[tuple[tuple[datetime, int], str]]:
        for message in sorted(self._messages.values(), key=self._place):
            if message.role == "assistant" and message.content.strip():
                yield self._place(message), message.content

    def _place(self, message: Message) -> tuple[datetime, int]:
        return _made_at(message), self._order[message.id]

    def _last(self, kind: str) -> str | None:
        told = [
            progress.text_delta or progress.summary
            for _, progress in self._progress()
            if progress.progress_type == kind and progress.parent_tool_use_id is None
        ]
        return told[-1] if told else None


def _made_at(message: Message) -> datetime:
    return message.created_at or _EARLIEST


def _changed_at(message: Message) -> datetime:
    return message.updated_at or message.created_at or _EARLIEST


def _squeezed(text: str) -> str:
    """The text without regard to white space, which a reply may set otherwise than its progress did."""
    return " ".join(text.split())
