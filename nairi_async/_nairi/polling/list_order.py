"""Which end of a message list is the newest, learnt from the lists themselves. Pure: no clock, no I/O.

The order of the list is not documented: https://nairi.ai/docs/api/conversations/list-messages. It decides wherever
messages have equal times or none.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from nairi_async._core.records import frozen

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from nairi_async.models import Message


@frozen
class KnownPrompts:
    """What a session knows of the order of a conversation's user messages, because it sent them."""

    newest: str | None = None
    """The newest that is known; a newer one may be on its way."""
    oldest: str | None = None
    """The oldest that is known."""
    has_begun: bool = False
    """Whether the oldest that is known began the conversation."""


NOTHING_KNOWN = KnownPrompts()


class ListOrder:
    """The order of the lists of one conversation.

    Args:
        prompts: What is known of its user messages.
    """

    __slots__ = ("_is_newest_first", "_prompts")

    def __init__(self, prompts: KnownPrompts = NOTHING_KNOWN) -> None:
        self._prompts = prompts
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
            evidence = evidence or self._by_prompts(listed) or self._by_growth(listed, known)
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

    def _by_prompts(self, listed: Sequence[Message]) -> int:
        """Return what user messages show: the one that began the conversation, the open one, or the newest known."""
        first, last, prompts = listed[0], listed[-1], self._prompts
        if prompts.has_begun and prompts.oldest in {first.id, last.id}:
            return 1 if first.id == prompts.oldest else -1
        if first.role == last.role == "user":
            if first.is_terminal != last.is_terminal:
                # Before the known one: a prompt whose response is on its way is newer, and not known yet.
                return first.is_terminal - last.is_terminal
            if first.id != last.id and prompts.newest in {first.id, last.id}:
                return 1 if last.id == prompts.newest else -1
        if prompts.oldest == prompts.newest:
            return 0
        places = {message.id: place for place, message in enumerate(listed)}
        oldest, newest = (places.get(known or "") for known in (prompts.oldest, prompts.newest))
        return 0 if oldest is None or newest is None else newest - oldest

    @staticmethod
    def _by_growth(listed: Sequence[Message], known: Container[str]) -> int:
        """Return at which end messages were added since an earlier list."""
        return (listed[0].id in known) - (listed[-1].id in known)
