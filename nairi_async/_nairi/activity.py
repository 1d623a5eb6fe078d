"""`Activity`: what the agent is doing now, computed from its messages, without a clock.

The service delivers progress messages with best effort (https://nairi.ai/docs/api/conversations/message-reference):
they may be lost, repeated, late or out of order, and one message may grow under its id. So each message only adds to
what is known, and the result does not depend on the order of the messages.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from nairi_async._nairi.tool_calls import TOOL_EVENTS, tool_calls, tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nairi_async._nairi.tool_calls import ActivityNode, ToolCall
    from nairi_async.models import Message, Progress

_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
_ELLIPSIS: Final = "…"


class Activity:
    """A live view of a turn: feed it the messages of `watch(turn, progress=True)`, and read its properties.

    Feeding a message twice changes nothing; a newer form of a message replaces the older one. Progress that arrives
    after the reply is added as well. After `end` no tool call is current. A user message starts a new turn: the view of
    the turn before is dropped.
    """

    def __init__(self) -> None:
        self._prompts: dict[str, Message] = {}
        self._prompt: str | None = None
        self._messages: dict[str, Message] = {}
        self._order: dict[str, int] = {}
        # Messages of earlier turns, which may still be repeated, or arrive late.
        self._past: set[str] = set()
        self._calls: tuple[ToolCall, ...] | None = None
        self._is_over = False

    @classmethod
    def of(cls, messages: Iterable[Message]) -> Activity:
        """Return the view after these messages."""
        activity = cls()
        for message in messages:
            activity.feed(message)
        return activity

    def feed(self, message: Message) -> bool:
        """Add a message; return whether the view may have changed."""
        if message.role == "user":
            return self._feed_prompt(message)
        if message.id in self._past or self._is_of_another_turn(message):
            return False
        known = self._messages.get(message.id)
        if known is not None and (known == message or _changed_at(known) > _changed_at(message)):
            return False
        self._messages[message.id] = message
        # Messages with equal or missing times are ordered as they were first seen.
        self._order.setdefault(message.id, len(self._order))
        self._calls = None
        return True

    def end(self) -> None:
        """Note that the turn has ended: no tool call is running any more."""
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
        """Every tool call of the turn, in the order in which they started."""
        if self._calls is None:
            self._calls = tool_calls(self._progress())
        return self._calls

    @property
    def finished(self) -> tuple[ToolCall, ...]:
        """The calls whose result is known."""
        return tuple(call for call in self.tools if call.is_finished)

    @property
    def running(self) -> tuple[ToolCall, ...]:
        """The calls whose result is not known; none after the end."""
        return () if self._is_over else tuple(call for call in self.tools if not call.is_finished)

    @property
    def current(self) -> ToolCall | None:
        """The running call that started last, which may be a subagent's."""
        return self.running[-1] if self.running else None

    @property
    def since(self) -> datetime | None:
        """When the current call started, by the service's clock; without one, the time of the last message."""
        if self.current is not None:
            return self.current.started_at
        times = (message.updated_at or message.created_at for message in self._messages.values())
        return max((time for time in times if time is not None), default=None)

    @property
    def reply(self) -> str:
        """The agent's replies so far, separated by a blank line."""
        return "\n\n".join(text for _, text in self._replies())

    @property
    def text(self) -> str:
        """The agent's text so far, without that of subagents; progress text that a reply repeats is left out."""
        replies = list(self._replies())
        # In one text, since there may be thousands: no normalized text contains the line end between two.
        replied = "\n".join(_normalized(text) for _, text in replies)
        blocks = [
            (self._place(message), progress.text_delta)
            for message, progress in self._progress()
            if progress.progress_type == "text" and progress.text_delta and progress.parent_tool_use_id is None
        ]
        only_progress = [(place, text) for place, text in blocks if _normalized(text) not in replied]
        return "\n\n".join(text.strip() for _, text in sorted([*only_progress, *replies]) if text.strip())

    @property
    def thinking(self) -> str | None:
        """The last block of the agent's reasoning, if there is one."""
        return self._last("thinking")

    @property
    def step(self) -> str | None:
        """The last line of text about the agent's current step, if there is one."""
        return self._last("step")

    @property
    def tree(self) -> tuple[ActivityNode, ...]:
        """The calls as a tree: below a call that started a subagent, the subagent's calls."""
        texts: dict[str | None, list[str]] = {}
        for _, progress in self._progress():
            text = progress.text_delta or progress.summary
            if progress.progress_type in {"text", "subagent"} and text:
                texts.setdefault(progress.parent_tool_use_id, []).append(text)
        return tree(self.tools, texts)

    def describe(self, now: datetime | None = None, *, width: int = 100) -> str:
        """Return one line of text for people.

        Args:
            now: The current time, to show how long the current tool call has been running.
            width: Maximum length of the line in characters.
        """
        line = " ".join(self._describe(now).split())
        return line if len(line) <= width else line[: max(0, width - len(_ELLIPSIS))].rstrip() + _ELLIPSIS

    def __repr__(self) -> str:
        return f"<Activity: {self.describe()}>"

    def _describe(self, now: datetime | None) -> str:
        done = len(self.finished)
        count = f" ({done} {'tool' if done == 1 else 'tools'} done)" if done else ""
        if self._is_over:
            return f"{self.status or 'ended'}{count}"
        current = self.current
        if current is not None:
            seconds = current.seconds(now)
            duration = "" if seconds is None or seconds < 1 else f", {seconds:.0f} s"
            subject = current.description or current.input
            return f"{current.name or 'tool'}{f': {subject}' if subject else ''}{duration}{count}"
        latest = max(self._progress(), key=lambda pair: self._place(pair[0]), default=None)
        if latest is not None and latest[1].progress_type not in TOOL_EVENTS:
            progress = latest[1]
            text = progress.summary or progress.text_delta
            kind = {"text": "writing", "": "working"}.get(progress.progress_type, progress.progress_type)
            return f"{kind}{f': {text}' if text else ''}{count}"
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
        elif known is None and _created_at(message) >= _created_at(newest):
            self._clear()
            self._prompt = message.id
        self._is_over = self._is_over or (message.id == self._prompt and message.is_terminal)
        return True

    def _is_of_another_turn(self, message: Message) -> bool:
        """Return whether a progress message names the user message of an earlier turn."""
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
        return _created_at(message), self._order[message.id]

    def _last(self, kind: str) -> str | None:
        texts = [
            progress.text_delta or progress.summary
            for _, progress in self._progress()
            if progress.progress_type == kind and progress.parent_tool_use_id is None
        ]
        return texts[-1] if texts else None


def _created_at(message: Message) -> datetime:
    return message.created_at or _EARLIEST


def _changed_at(message: Message) -> datetime:
    return message.updated_at or message.created_at or _EARLIEST


def _normalized(text: str) -> str:
    """Return the text with each run of white space as one space; a reply may differ from its progress in that."""
    return " ".join(text.split())
