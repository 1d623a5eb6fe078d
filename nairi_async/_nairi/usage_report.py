"""What `NairiSession.usage` returns: sums by agent and model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nairi_async._core.exports import publish
from nairi_async._core.records import frozen
from nairi_async.models import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable


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


publish(__name__)
