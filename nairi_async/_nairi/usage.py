"""Usage of a session: exact sums by agent and model, each message counted once."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from nairi_async._core.records import frozen
from nairi_async.models import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nairi_async.models import Message, Turn

_T = TypeVar("_T")

# Shares that are kept apart; beyond that the first are counted for an unknown agent.
_MOST_SHARES: Final = 1000

REMEMBERED: Final = 16_384
"""Number of messages, and of conversations, that are remembered; the least recently seen are forgotten."""


@frozen(kw_only=True)
class UsageShare:
    """The usage of one model by one agent."""

    agent_id: str | None
    """The agent as it was named when the turn was started, slug or id; `None` if the session does not know it."""
    model: str | None
    """The model; `None` if the agent did not report it."""
    messages: int
    """Number of assistant messages in the sum."""
    usage: Usage
    """The exact sum."""


@frozen
class UsageReport:
    """The usage that a session has seen so far, as a snapshot."""

    shares: tuple[UsageShare, ...] = ()
    """One share for each agent and model, in the order in which they were first seen. Of more than 1,000, the first are
    joined to those of the unknown agent, so the total stays exact."""

    @property
    def total(self) -> Usage | None:
        """The sum over all shares; `None` if no agent reported anything."""
        return Usage.total(share.usage for share in self.shares)

    @property
    def by_agent(self) -> dict[str | None, Usage]:
        """The sum for each agent."""
        return self._sums((share.agent_id, share.usage) for share in self.shares)

    @property
    def by_model(self) -> dict[str | None, Usage]:
        """The sum for each model."""
        return self._sums((share.model, share.usage) for share in self.shares)

    @staticmethod
    def _sums(parts: Iterable[tuple[str | None, Usage]]) -> dict[str | None, Usage]:
        sums: dict[str | None, Usage] = {}
        for name, usage in parts:
            sums[name] = Usage.total((sums.get(name), usage)) or usage
        return sums


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
        self._shares: dict[tuple[str | None, str | None], UsageShare] = {}
        self._counted = _Recent[None]()
        self._agents = _Recent[str]()

    @property
    def report(self) -> UsageReport:
        """The sums up to now."""
        return UsageReport(tuple(self._shares.values()))

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
        known = self._shares.get(key)
        total = usage if known is None else Usage.total((known.usage, usage)) or usage
        count = messages if known is None else known.messages + messages
        self._shares[key] = UsageShare(agent_id=agent_id, model=usage.model, messages=count, usage=total)
        if len(self._shares) > _MOST_SHARES:
            oldest = next((share for (agent, _), share in self._shares.items() if agent is not None), None)
            if oldest is not None:
                del self._shares[oldest.agent_id, oldest.model]
                self._add(None, oldest.usage, oldest.messages)
