"""Which end of a message list is the newest, learnt from the lists themselves. Pure: no clock, no I/O.

The order of the list is not documented: https://nairi.ai/docs/api/conversations/list-messages. It decides wherever
messages have equal times or none.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from nairi_async.models import Message


class ListOrder:
    """The order of the lists of one conversation.

    Args:
        newest: The newest user message that is known; a newer one may be on its way.
    """

    __slots__ = ("_is_newest_first", "_newest")

    def __init__(self, newest: str | None = None) -> None:
        self._newest = newest
        self._is_newest_first = False

    def oldest_first(self, listed: Sequence[Message], known: Container[str]) -> Sequence[Message]:
        """Return a list with the oldest message first.

        Args:
            listed: The list as it was read, each message once.
            known: Ids of messages that an earlier list has shown.
        """
        if len(listed) > 1:
            roles, times = self._by_ends(listed), self._by_times(listed)
            # Where they contradict each other, the times are wrong, and the order is that of the documented examples.
            evidence = 1 if roles * times < 0 else roles or times
            evidence = evidence or self._by_newest(listed) or self._by_growth(listed, known)
            if evidence:
                self._is_newest_first = evidence < 0
        return listed[::-1] if self._is_newest_first else listed

    @staticmethod
    def _by_times(listed: Sequence[Message]) -> int:
        """Return a positive number if most times rise, a negative one if they fall."""
        times = [message.created_at for message in listed if message.created_at is not None]
        return sum((later > earlier) - (later < earlier) for earlier, later in pairwise(times))

    @staticmethod
    def _by_ends(listed: Sequence[Message]) -> int:
        """Return what the ends of the list show: each conversation begins with a user message."""
        return (listed[0].role == "user") - (listed[-1].role == "user")

    def _by_newest(self, listed: Sequence[Message]) -> int:
        """Return what two user messages at the ends show: the open one is newer, or the newest is known."""
        first, last = listed[0], listed[-1]
        if first.role != "user" or last.role != "user":
            return 0
        if first.is_terminal != last.is_terminal:
            # Before the known one: a prompt whose response is on its way is newer, and not known yet.
            return first.is_terminal - last.is_terminal
        if self._newest is not None and first.id != last.id and self._newest in {first.id, last.id}:
            return 1 if last.id == self._newest else -1
        return 0

    @staticmethod
    def _by_growth(listed: Sequence[Message], known: Container[str]) -> int:
        """Return at which end messages were added since an earlier list."""
        return (listed[0].id in known) - (listed[-1].id in known)
