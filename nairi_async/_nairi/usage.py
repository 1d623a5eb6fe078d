"""Usage of a session: exact sums by agent and model, each message counted once."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from nairi_async.models import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nairi_async._nairi.usage_report import UsageReport
    from nairi_async.models import Message, Turn

_T = TypeVar("_T")

# Shares that are kept apart; beyond that the first are counted for an unknown agent.
_MOST_SHARES: Final = 1000

REMEMBERED: Final = 16_384
"""Number of messages, and of conversations, that are remembered; the least recently seen are forgotten."""


class _Recent(Generic[_T]):
    """A bounded mapping that forgets the least recently used entry."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, _T] = OrderedDict()

    def put(self, key: str, value: _T) -> bool:
        """Store a value as the most recent one; return whether the key was known."""
        is_known = key in self._known
        self._known[key] = value
        self._known.move_to_end(key)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return is_known

    def get(self, key: str) -> _T | None:
        """Return the value, if it is still known."""
        return self._known.get(key)


class UsageMeter:
    """Counts the usage on messages as they are read.

    Memory is bounded: the meter remembers the last `REMEMBERED` messages with usage. One that was forgotten meanwhile
    is counted again if it is read again.
    """

    def __init__(self) -> None:
        # By agent and model: the number of messages, and their sum.
        self._shares: dict[tuple[str | None, str | None], tuple[int, Usage]] = {}
        self._counted = _Recent[None]()
        self._agents = _Recent[str]()

    @property
    def report(self) -> UsageReport:
        """The sums up to now."""
        from nairi_async._nairi.usage_report import UsageReport, UsageShare  # noqa: PLC0415 - few programs ask for it

        return UsageReport(
            tuple(
                UsageShare(agent_id=agent_id, model=model, messages=messages, usage=usage)
                for (agent_id, model), (messages, usage) in self._shares.items()
            )
        )

    def learn(self, turn: Turn) -> None:
        """Remember the agent of a conversation, if the turn knows it."""
        if turn.agent_id is not None:
            self._agents.put(turn.job_id, turn.agent_id)

    def count(self, messages: Iterable[Message]) -> None:
        """Count messages in their final form, each once."""
        for message in messages:
            if message.usage is not None and message.id and not self._counted.put(message.id, None):
                self._add(self._agents.get(message.job_id), message.usage)

    def count_final(self, messages: Iterable[Message]) -> None:
        """Count the messages that are in their final form."""
        for message in messages:
            if message.usage is not None and message.is_terminal:
                self.count((message,))

    def _add(self, agent_id: str | None, usage: Usage, messages: int = 1) -> None:
        key = (agent_id, usage.model)
        count, total = self._shares.get(key, (0, None))
        self._shares[key] = count + messages, Usage.total((total, usage)) or usage
        if len(self._shares) > _MOST_SHARES:
            oldest = next((known for known in self._shares if known[0] is not None), None)
            if oldest is not None:
                count, total = self._shares.pop(oldest)
                self._add(None, total, count)
