"""What a session's conversations cost so far: an exact sum per agent and model, each message counted once."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from attrs import frozen

from nairi_async.models import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nairi_async.models import Message, Turn

_T = TypeVar("_T")

REMEMBERED: Final = 65_536
"""Messages, and conversations, that are remembered; which were seen longest ago are forgotten."""


@frozen(kw_only=True)
class UsageShare:
    """What one agent used of one model."""

    agent_id: str | None
    """The agent as the turn was begun with, slug or id; `None` where the session does not know whose message it was."""
    model: str | None
    """The model; `None` where the agent did not say."""
    messages: int
    """Assistant messages that are in the sum."""
    usage: Usage
    """The exact sum."""


@frozen
class UsageReport:
    """What a session saw being used, as it was when asked for."""

    shares: tuple[UsageShare, ...] = ()
    """One for each agent and model, in the order in which they were first seen."""

    @property
    def total(self) -> Usage | None:
        """The sum over everything; `None` if nothing was reported."""
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
    """A bounded memory that forgets what was touched longest ago."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, _T] = OrderedDict()

    def put(self, key: str, value: _T) -> bool:
        """Remember, or touch; returns whether it was known."""
        is_known = key in self._known
        self._known[key] = value
        self._known.move_to_end(key)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return is_known

    def get(self, key: str) -> _T | None:
        """What was remembered, if it still is."""
        return self._known.get(key)


class UsageMeter:
    """Counts the usage on messages as they pass.

    Memory is bounded: of the last `REMEMBERED` messages with usage it is known that they were counted, and reading one
    again keeps it among them. A message that was out of sight while so many others passed is counted again.
    """

    def __init__(self) -> None:
        self._shares: dict[tuple[str | None, str | None], UsageShare] = {}
        self._counted = _Recent[None]()
        self._agents = _Recent[str]()

    @property
    def report(self) -> UsageReport:
        """The sums so far."""
        return UsageReport(tuple(self._shares.values()))

    def learn(self, turn: Turn) -> None:
        """Whose conversation it is, if the turn knows."""
        if turn.agent_id is not None:
            self._agents.put(turn.job_id, turn.agent_id)

    def count(self, messages: Iterable[Message]) -> None:
        """Count what was not counted before; the messages are in their final form."""
        for message in messages:
            if message.usage is not None and message.id and not self._counted.put(message.id, None):
                self._add(self._agents.get(message.job_id), message.usage)

    def count_final(self, messages: Iterable[Message]) -> None:
        """Count those of the messages that will not change any more."""
        self.count(message for message in messages if message.is_terminal)

    def _add(self, agent_id: str | None, usage: Usage) -> None:
        key = (agent_id, usage.model)
        known = self._shares.get(key)
        total = usage if known is None else Usage.total((known.usage, usage)) or usage
        count = 1 if known is None else known.messages + 1
        self._shares[key] = UsageShare(agent_id=agent_id, model=usage.model, messages=count, usage=total)
